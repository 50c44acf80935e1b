"""The network of an environment on a tape: what was asked, and what was answered."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it."""

    method: str
    url: str
    sent: str = ""
    """SHA-256 of what was sent with it; empty for nothing."""
    status: int = 0
    """Of HTTP; 0 if no answer came."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    problem: str = ""
    """Why no answer came, in the browser's word."""
    episode: int = 0
    asked: tuple[tuple[str, str], ...] = ()
    """Headers of the request, names in lower case."""
    posted: str = ""
    """What was sent with it, if it is text."""
    document: bool = False
    """It was for the page of a tab."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a request is found by."""
        return self.method, self.url, self.sent


class Tape:
    """The network of an environment, written down or played back. For any thread.

    Args:
        write: takes each exchange; None plays back.
        started: seconds since 1970 that the environment is to take for its beginning.
        exchanges: to be played back.
    """

    def __init__(
        self,
        write: Callable[[Exchange], None] | None = None,
        *,
        started: float = 0.0,
        exchanges: Iterable[Exchange] = (),
    ) -> None:
        self._write = write
        self.started = started
        self.episode = 0
        """Number of the current one, from 1."""
        self.unanswered: list[str] = []
        """Requests that nothing on the tape answers."""
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, str, str, str], deque[Exchange]] = defaultdict(deque)
        for exchange in exchanges:
            self._waiting[exchange.episode, *exchange.key].append(exchange)

    @property
    def recording(self) -> bool:
        """True if it is written, False if it is played back."""
        return self._write is not None

    def record(self, exchange: Exchange) -> None:
        """Write down an exchange."""
        assert self._write is not None
        self._write(exchange)

    def answer(self, method: str, url: str, sent: str = "") -> Exchange | None:
        """What answers a request now: equal ones are answered in order, the last one for good."""
        with self._lock:
            waiting = self._waiting.get((self.episode, method, url, sent))
            if not waiting:
                if len(self.unanswered) < 1000:
                    self.unanswered.append(f"{method} {url}")
                return None
            return waiting.popleft() if len(waiting) > 1 else waiting[0]


@runtime_checkable
class Taped(Protocol):
    """An environment whose network can be written down and played back."""

    tape: Tape | None
