"""Our own connection to Chromium: its DevTools protocol over a WebSocket, beside Playwright's.

A call through Playwright passes through its driver, a process of its own, twice; one through here
does not, and takes a third of the time. A `CDPSession` has the methods of Playwright's class of
that name that we use.

https://chromedevtools.github.io/devtools-protocol/, https://www.rfc-editor.org/rfc/rfc6455
"""

import asyncio
import base64
import json
import logging
import os
import socket
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from agentgym.errors import BrowserError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium

T = TypeVar("T")
logger = logging.getLogger(__name__)

FLAGS = (
    "--remote-debugging-port=0",  # any; Chromium takes no connection that a web page asks for
    "--enable-automation",  # without it Chromium does not tell where it wrote the port
)
"""What Chromium must be started with."""
CONNECT_TIMEOUT_S = 20.0
DETACHED = "detached"
Message = dict[str, Any]
Handler = Callable[[Message], Any]


class ProtocolError(BrowserError):
    """Chromium refused a message, or what it was for is gone."""


class CDPSession:
    """A conversation with one target: a page, or the browser itself. Only on its loop."""

    def __init__(self, connection: "Connection", id: str) -> None:
        self.id = id
        """Chromium's; empty for the connection's own session."""
        self._connection = connection
        self._handlers: dict[str, list[Handler]] = {}

    async def send(self, method: str, params: Message | None = None) -> Message:
        """Send a message and wait for its answer.

        Raises:
            ProtocolError: Chromium refused it, or the target is gone.
        """
        return await self._connection.post(method, params, self.id)

    def post(self, method: str, params: Message | None = None) -> "asyncio.Future[Message]":
        """Send a message at once; the future is for its answer, see `send`.

        Messages arrive in the order in which they are posted.
        """
        return self._connection.post(method, params, self.id)

    def on(self, event: str, handler: Handler) -> None:
        """Call a function with the parameters of each such event, before any later answer.

        The event `DETACHED` is the session's end.
        """
        self._handlers.setdefault(event, []).append(handler)

    def remove_listener(self, event: str, handler: Handler) -> None:
        """Undo `on`."""
        self._handlers[event].remove(handler)

    def handle(self, event: str, params: Message) -> None:
        """An event has come."""
        for handler in [*self._handlers.get(event, ())]:
            try:
                handler(params)
            except Exception:  # whose fault it is, the others go on
                logger.exception("a handler of %s failed", event)


class Connection(asyncio.Protocol):
    """One WebSocket to one Chromium. Only on the browser's loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open = False
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last = 0
        self._waiting: dict[int, tuple[asyncio.Future[Message], str]] = {}  # by id, with session
        self._fragments = b""
        self.browser = CDPSession(self, "")
        """The connection's own session, for messages to the browser."""
        self._sessions: dict[str, CDPSession] = {"": self.browser}
        self.browser.on("Target.detachedFromTarget", self._detached)

    @classmethod
    async def to(cls, chromium: "Chromium") -> "Connection":
        """The connection to a Chromium that Playwright started with `FLAGS`; made when first asked.

        Raises:
            BrowserError: it cannot be made.
        """
        return await _connection_to(chromium)

    @classmethod
    async def _connect(cls, chromium: "Chromium") -> Self:
        session = await chromium.new_browser_cdp_session()
        line = (await session.send("Browser.getBrowserCommandLine"))["arguments"]
        await session.detach()
        name = "--user-data-dir="
        folder = next((a.removeprefix(name) for a in line if a.startswith(name)), "")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await cls.at(*await _address(Path(folder)))
        except (OSError, TimeoutError) as error:
            raise BrowserError(f"cannot connect to Chromium: {error!r}") from error

    @classmethod
    async def at(cls, port: int, path: str) -> Self:
        """A connection to a port of this machine.

        Raises:
            OSError: nobody answers, or not as a WebSocket.
        """
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        connection._write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await connection._opened
        return connection

    async def attach(self, target: str) -> CDPSession:
        """A session with a target.

        Raises:
            ProtocolError: there is no such target.
        """
        return await self._attached("Target.attachToTarget", {"targetId": target, "flatten": True})

    async def attach_to_browser(self) -> CDPSession:
        """Another session with the browser itself, whose events and settings are its own."""
        return await self._attached("Target.attachToBrowserTarget", {})

    async def _attached(self, method: str, params: Message) -> CDPSession:
        id = (await self.browser.send(method, params))["sessionId"]
        session = self._sessions[id] = CDPSession(self, id)
        return session

    def post(self, method: str, params: Message | None, session: str) -> "asyncio.Future[Message]":
        """See `CDPSession.post`."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if not self._writable or session not in self._sessions:
            future.set_exception(ProtocolError(f"{method}: the page was closed, or Chromium ended"))
            future.exception()  # whoever does not wait for it need not hear of it
            return future
        self._last += 1
        message: Message = {"id": self._last, "method": method}
        if params:
            message["params"] = params
        if session:
            message["sessionId"] = session
        self._waiting[self._last] = (future, session)
        self._write(_frame(1, json.dumps(message).encode()))
        return future

    # ---- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        tcp = transport.get_extra_info("socket")
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("the connection was closed"))
        for id in list(self._sessions):
            self._end(id, "the connection to Chromium was closed")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        if not self._open:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.splitlines()[0]:
                self._opened.set_exception(ConnectionError(f"it answered {head[:100]!r}"))
                self._close()
                return
            self._buffer = bytearray(rest)
            self._open = True
            self._opened.set_result(None)
        while (found := _payload(self._buffer)) is not None:
            begin, end_ = found
            first, payload = self._buffer[0], bytes(self._buffer[begin:end_])
            del self._buffer[:end_]
            self._frame_came(first, payload)

    # ---- parts -----------------------------------------------------------------------------------

    def _frame_came(self, first: int, payload: bytes) -> None:
        last, kind = first & 0x80, first & 0x0F
        if kind == 9:
            self._write(_frame(10, payload))
        elif kind == 8:
            self._close()
        elif kind in (0, 1):
            self._fragments += payload
            if last:
                text, self._fragments = self._fragments, b""
                self._message_came(json.loads(text))

    def _message_came(self, message: Message) -> None:
        if "id" not in message:
            session = self._sessions.get(message.get("sessionId", ""))
            if session is not None:
                session.handle(message["method"], message["params"])
            return
        future, _ = self._waiting.pop(message["id"], (None, ""))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(ProtocolError(f"Chromium: {message['error'].get('message', '')}"))
            future.exception()
        else:
            future.set_result(message["result"])

    def _detached(self, event: Message) -> None:
        self._end(event["sessionId"], "the page was closed")

    def _end(self, id: str, why: str) -> None:
        session = self._sessions.pop(id, None)
        for number, (future, of) in list(self._waiting.items()):
            if of == id:
                del self._waiting[number]
                if not future.done():
                    future.set_exception(ProtocolError(why))
                    future.exception()
        if session is not None:
            session.handle(DETACHED, {})

    @property
    def _writable(self) -> bool:
        """False from the moment that a write has failed, which is before `connection_lost`."""
        return self._transport is not None and not self._transport.is_closing()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._writable:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def one_each(
    make: Callable[["Chromium"], Coroutine[Any, Any, T]],
) -> Callable[["Chromium"], Coroutine[Any, Any, T]]:
    """What `make` makes of each Chromium: made when first asked for, and then always the same."""
    made: weakref.WeakKeyDictionary[Chromium, asyncio.Task[T]] = weakref.WeakKeyDictionary()

    async def of(chromium: "Chromium") -> T:
        if chromium not in made:
            made[chromium] = asyncio.ensure_future(make(chromium))
        return await asyncio.shield(made[chromium])

    return of


_connection_to = one_each(Connection._connect)


async def _address(folder: Path) -> tuple[int, str]:
    """Port and path, which Chromium writes into its folder once it listens."""
    while True:
        try:
            port, path = (folder / "DevToolsActivePort").read_text("utf-8").split()
            return int(port), path
        except (OSError, ValueError):
            await asyncio.sleep(0.01)


def _frame(kind: int, payload: bytes) -> bytes:
    """A frame from a client, whose mask of zeros leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | kind, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | kind, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def _payload(buffer: bytearray) -> tuple[int, int] | None:
    """Where the payload of the first frame begins and ends; None while it is not all there."""
    if len(buffer) < 2:
        return None
    size, begin = buffer[1] & 0x7F, 2
    if size >= 126:
        begin = 4 if size == 126 else 10
        if len(buffer) < begin:
            return None
        size = int.from_bytes(buffer[2:begin], "big")
    return (begin, begin + size) if len(buffer) >= begin + size else None
