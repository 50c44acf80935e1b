"""The web sockets of a session: written down on a tape, or played back from one."""

import asyncio
import logging
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from agentgym.environments.web.cdp import CDPSession
from agentgym.environments.web.page import quietly
from agentgym.tape import Frame, Tape

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, WebSocketRoute
    from playwright.async_api import Page as PlaywrightPage

CATCH_UP_S = 2.0
"""How long a page is waited for that does not say what it said."""
_ALL = re.compile("")
_POLL_S = 0.003
_CLIP = 100
logger = logging.getLogger(__name__)


class Sockets:
    """What pages of a context say over web sockets, on a tape. Not what workers say."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._opening: dict[str, deque[Recorded]] = defaultdict(deque)
        self._played: list[Played] = []
        self._held: deque[Callable[[], None]] | None = None  # while the page is looked at

    async def begin(self, context: "BrowserContext") -> None:
        """From now on."""
        await context.route_web_socket(_ALL, self._record if self._tape.recording else self._play)
        context.on("close", lambda _: self._end())

    def listen(self, session: CDPSession) -> None:
        """Hear from a page when its connections are open, which Playwright does not tell."""
        urls: dict[str, str] = {}

        def created(event: dict[str, Any]) -> None:
            urls[event["requestId"]] = event["url"]

        def opened(event: dict[str, Any]) -> None:
            waiting = self._opening[urls.pop(event["requestId"], "")]
            if waiting:
                waiting.popleft().opened()

        session.on("Network.webSocketCreated", created)
        session.on("Network.webSocketHandshakeResponseReceived", opened)

    async def catch_up(self, page: "PlaywrightPage") -> None:
        """Wait until a page knows all that it is told, or had been told by this moment."""
        from playwright.async_api import Error

        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self._tape.owed() or any(each.behind for each in self._played):
                    await asyncio.sleep(_POLL_S)
                await page.evaluate("0")  # goes the way that the messages went, after them
        except (TimeoutError, Error) as error:
            logger.debug("a page does not say what it said: %r", error)

    @asynccontextmanager
    async def still(self, page: "PlaywrightPage") -> AsyncIterator[None]:
        """While a page is looked at: what comes meanwhile it only learns afterwards."""
        self._held = deque()
        try:
            await self.catch_up(page)
            self._tape.look()
            yield
        finally:
            held, self._held = self._held, None
            for deliver in held:
                deliver()

    def _deliver(self, deliver: Callable[[], None]) -> None:
        if self._held is None:
            deliver()
        else:
            self._held.append(deliver)

    def _record(self, route: "WebSocketRoute") -> None:
        made = Recorded(route, self._tape, self._deliver)
        self._opening[route.url].append(made)
        made.begin()

    async def _play(self, route: "WebSocketRoute") -> None:
        self._played.append(Played(route, self._tape))
        await self._played[-1].begin()

    def _end(self) -> None:
        for each in self._played:
            each.end()


class Recorded:
    """A connection of a page to a server that is listened to."""

    def __init__(
        self, route: "WebSocketRoute", tape: Tape, deliver: Callable[[Callable[[], None]], None]
    ) -> None:
        self._page = route
        self._tape = tape
        self._deliver = deliver
        self._number = tape.connect()
        self._episode = tape.episode
        self._open = self._ended = False

    def begin(self) -> None:
        """Connect."""
        self._tell(Frame(self._page.url, self._number, "asked"))
        server = self._server = self._page.connect_to_server()
        self._page.on_message(self._sent)
        server.on_message(self._came)
        server.on_close(self._closed)

    def opened(self) -> None:
        """The server has answered."""
        if not self._open:
            self._open = True
            self._tell(Frame(self._page.url, self._number, "opened"))

    def _sent(self, message: str | bytes) -> None:
        self.opened()
        self._tell(_frame(self._page.url, self._number, "sent", message))
        self._server.send(message)

    def _came(self, message: str | bytes) -> None:
        def deliver() -> None:
            self.opened()
            self._tell(_frame(self._page.url, self._number, "came", message))
            self._page.send(message)

        self._deliver(deliver)

    def _closed(self, code: int | None, reason: str | None) -> None:
        def deliver() -> None:
            self._tell(Frame(self._page.url, self._number, "closed", code=code or 0))
            quietly(self._page.close(code=code, reason=reason))

        if not self._ended:  # it is told twice if the server also hangs up
            self._ended = True
            self._deliver(deliver)

    def _tell(self, frame: Frame) -> None:
        tape = self._tape
        if self._episode == tape.episode:  # else it is of a session that is gone
            tape.record(replace(frame, moment=tape.moment, episode=tape.episode))


class Played:
    """A connection of a page to nobody: what came then comes now, after what was sent before it.

    Nothing comes sooner than in the `step` in which it came then, or between the same two.
    """

    def __init__(self, route: "WebSocketRoute", tape: Tape) -> None:
        self._page = route
        self._tape = tape
        self._sent: deque[Frame] = deque()
        self._left: deque[Frame] = deque()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()

    async def begin(self) -> None:
        """Play as far as it goes, until it is open: once this is done the page is told so."""
        found: Sequence[Frame] | None = self._tape.socket(self._page.url)
        if found is None:
            self._tape.miss(f"web socket {self._page.url}")
            await self._page.close()
            return
        self._left.extend(found)
        self._page.on_message(self._message)
        self._page.on_close(lambda code, reason: self.end())
        self._tape.watch(self._passed)
        self._go_on()
        await self._opened

    @property
    def behind(self) -> bool:
        """Whether more had happened by this moment."""
        return bool(self._left) and self._left[0].moment <= self._tape.moment

    def end(self) -> None:
        """Wait for nothing any more; may be called twice."""
        self._tape.unwatch(self._passed)
        self._left.clear()
        if not self._opened.done():
            self._opened.set_result(None)

    def _message(self, message: str | bytes) -> None:
        self._sent.append(_frame(self._page.url, 0, "sent", message))
        self._go_on()

    def _passed(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        while self._left:
            next_one = self._left[0]
            if next_one.way == "sent":
                if not self._sent:
                    return
                self._compare(self._sent.popleft(), next_one)
            elif next_one.moment > self._tape.moment:
                return
            elif next_one.way == "opened" and not self._opened.done():
                self._opened.set_result(None)
            elif next_one.way == "came":
                data = next_one.data
                self._page.send(data if next_one.binary else data.decode("utf-8", "replace"))
            elif next_one.way == "closed":
                self._close(next_one.code)
                return
            self._left.popleft()
        while self._sent:
            self._tape.miss(f"web socket {self._page.url}: {_shown(self._sent.popleft())} was sent")

    def _compare(self, sent: Frame, then: Frame) -> None:
        if (sent.data, sent.binary) != (then.data, then.binary):
            self._tape.miss(
                f"web socket {self._page.url}: {_shown(sent)} was sent instead of {_shown(then)}"
            )

    def _close(self, code: int) -> None:
        self.end()
        # Of the protocol's own codes a page may only be told this one here.
        allowed = code == 1000 or 3000 <= code < 5000
        closing = self._page.close(code=code) if allowed else self._page.close()
        quietly(closing)


def _frame(url: str, number: int, way: Literal["sent", "came"], message: str | bytes) -> Frame:
    if isinstance(message, bytes):
        return Frame(url, number, way, message, True)
    return Frame(url, number, way, message.encode("utf-8", "replace"))


def _shown(frame: Frame) -> str:
    return repr(frame.data[:_CLIP].decode("utf-8", "replace"))
