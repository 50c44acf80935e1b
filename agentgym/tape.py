"""The network of an environment on a tape: what was asked, and what was answered."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable


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


@dataclass(frozen=True, slots=True)
class Frame:
    """What happened on a web socket: asked for, opened, something sent or come, closed."""

    url: str
    connection: int
    """Its number among those of the episode, from 0."""
    way: Literal["asked", "opened", "sent", "came", "closed"]
    data: bytes = b""
    binary: bool = False
    code: int = 0
    """Why it was closed, in web sockets' numbers; 0 if that is not known."""
    moment: int = 0
    """See `Tape.moment`."""
    episode: int = 0


class Tape:
    """The network of an environment, written down or played back. For any thread.

    Args:
        write: takes each exchange and frame; None plays back.
        started: seconds since 1970 that the environment is to take for its beginning.
        exchanges: to be played back.
        frames: to be played back.
    """

    def __init__(
        self,
        write: Callable[[Exchange | Frame], None] | None = None,
        *,
        started: float = 0.0,
        exchanges: Iterable[Exchange] = (),
        frames: Iterable[Frame] = (),
    ) -> None:
        self._write = write
        self.started = started
        self.episode = 0
        """Number of the current one, from 1."""
        self.moment = 0
        """Beginnings, looks and ends of `reset` and `step` that have passed in this episode."""
        self.unanswered: list[str] = []
        """What was asked for and is not answered by anything on the tape."""
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._connections = 0
        self._waiting: dict[tuple[int, str, str, str], deque[Exchange]] = defaultdict(deque)
        for exchange in exchanges:
            self._waiting[exchange.episode, *exchange.key].append(exchange)
        self._sockets: dict[tuple[int, str], dict[int, list[Frame]]] = defaultdict(dict)
        for frame in frames:
            of = self._sockets[frame.episode, frame.url]
            of.setdefault(frame.connection, []).append(frame)

    def begin(self) -> None:
        """A new episode."""
        self.episode, self.moment, self._connections = self.episode + 1, 0, 0

    @contextmanager
    def happening(self) -> Iterator[None]:
        """Around whatever the environment does: two moments pass."""
        self._pass()
        try:
            yield
        finally:
            self._pass()

    def _pass(self) -> None:
        self.moment += 1
        for watcher in list(self._watchers):
            watcher()

    def look(self) -> None:
        """What happens from now on is not seen any more before the next `happening`."""
        self.moment += 1

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call this whenever something begins or ends to happen, in whatever thread."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Undo `watch`; may be called twice."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    @property
    def recording(self) -> bool:
        """True if it is written, False if it is played back."""
        return self._write is not None

    def record(self, what: Exchange | Frame) -> None:
        """Write down an exchange or a frame."""
        assert self._write is not None
        self._write(what)

    def connect(self) -> int:
        """The number of a new connection."""
        with self._lock:
            self._connections += 1
            return self._connections - 1

    def socket(self, url: str) -> Sequence[Frame] | None:
        """What happens on the next connection to an address; each is played back once."""
        with self._lock:
            waiting = self._sockets.get((self.episode, url))
            return waiting.pop(min(waiting)) if waiting else None

    def owed(self) -> bool:
        """Whether a connection is left that had been asked for by this moment."""
        with self._lock:
            return any(
                frames[0].moment <= self.moment
                for (episode, _), of in self._sockets.items()
                if episode == self.episode
                for frames in of.values()
            )

    def miss(self, what: str) -> None:
        """Something was asked for that the tape does not answer."""
        if what not in self.unanswered and len(self.unanswered) < 1000:
            self.unanswered.append(what)

    def answer(self, method: str, url: str, sent: str = "") -> Exchange | None:
        """What answers a request now: equal ones are answered in order, the last one for good."""
        with self._lock:
            waiting = self._waiting.get((self.episode, method, url, sent))
            if not waiting:
                self.miss(f"{method} {url}")
                return None
            return waiting.popleft() if len(waiting) > 1 else waiting[0]


@runtime_checkable
class Taped(Protocol):
    """An environment whose network can be written down and played back."""

    tape: Tape | None
