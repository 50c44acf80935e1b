import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentgym.environments.web.browser import Browser
from agentgym.environments.web.cdp import (
    DETACHED,
    CDPSession,
    Connection,
    ProtocolError,
    _address,
    _frame,
)
from agentgym.environments.web.page import Page
from agentgym.errors import BrowserError

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def text(payload: str, *, kind: int = 1, last: bool = True) -> bytes:
    """A frame as a server writes it: without a mask."""
    data = payload.encode()
    size = len(data)
    head = bytes(((0x80 if last else 0) | kind,))
    if size < 126:
        return head + bytes((size,)) + data
    if size < 1 << 16:
        return head + b"\x7e" + size.to_bytes(2, "big") + data
    return head + b"\x7f" + size.to_bytes(8, "big") + data


async def read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Kind and payload of a client's frame, which must be masked."""
    first, second = await reader.readexactly(2)
    assert first & 0x80
    assert second & 0x80
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def talk(peer: Peer, client: Callable[[Connection], Awaitable[Any]], answer: bytes = b"") -> Any:
    """What a client comes to that talks to a server's peer."""
    answer = answer or b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /path HTTP/1.1\r\n")
        writer.write(answer)
        await peer(reader, writer)
        await writer.drain()
        writer.close()

    async def both() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            connection = await Connection.at(server.sockets[0].getsockname()[1], "/path")
            return await asyncio.wait_for(client(connection), 10)

    return asyncio.run(both())


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536, 200_000])
def test_messages_of_every_size_go_there_and_back(size: int) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind, payload = await read(reader)
        message = json.loads(payload)
        assert (kind, message["method"]) == (1, "Test.echo")
        said = text(json.dumps({"id": message["id"], "result": message["params"]}))
        for i in range(0, len(said), 50_000):  # in pieces, as networks do
            writer.write(said[i : i + 50_000])
            await writer.drain()

    async def client(connection: Connection) -> Any:
        return await connection.browser.send("Test.echo", {"text": "ä" * size})

    assert talk(peer, client) == {"text": "ä" * size}


def test_fragments_pings_events_and_errors() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        id = json.loads((await read(reader))[1])["id"]
        writer.write(text("are you there", kind=9))
        assert await read(reader) == (10, b"are you there")
        for session in ("", "unknown"):
            event = {"method": "Test.event", "params": {"n": 1}} | (
                {"sessionId": session} if session else {}
            )
            writer.write(text(json.dumps(event)))
        said = json.dumps({"id": id, "error": {"code": -1, "message": "No such thing"}})
        writer.write(text(said[:5], last=False) + text(said[5:9], kind=0, last=False))
        writer.write(text(said[9:], kind=0))

    async def client(connection: Connection) -> list[Any]:
        seen: list[Any] = []

        def bad(_: Any) -> None:
            raise ValueError("a handler's own mistake")

        connection.browser.on("Test.event", bad)
        connection.browser.on("Test.event", seen.append)
        with pytest.raises(ProtocolError, match="No such thing"):
            await connection.browser.send("Test.ask")
        return seen

    assert talk(peer, client) == [{"n": 1}]


def test_whoever_waits_learns_that_the_connection_ended() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(text("", kind=8))

    async def client(connection: Connection) -> None:
        ended: list[Any] = []
        connection.browser.on(DETACHED, ended.append)
        with pytest.raises(ProtocolError, match="was closed"):
            await connection.browser.send("Test.never")
        assert ended == [{}]
        with pytest.raises(ProtocolError, match="closed"):
            await connection.browser.send("Test.later")

    talk(peer, client)


def test_nothing_is_written_once_a_write_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Nothing: the client's own end breaks."""

    async def client(connection: Connection) -> None:
        transport = connection._transport
        assert transport is not None
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        # asyncio logs a warning of its own from the fifth write on; all are in one turn of the loop
        answers = [connection.browser.post("Test.many") for _ in range(10)]
        for answer in answers:
            with pytest.raises(ProtocolError, match="closed"):
                await answer

    talk(peer, client)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_what_is_no_websocket_is_refused() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Nothing more."""

    async def client(_: Connection) -> None:
        """Never called."""

    with pytest.raises(ConnectionError, match="403 Forbidden"):
        talk(peer, client, b"HTTP/1.1 403 Forbidden\r\n\r\n")


def test_the_address_is_waited_for(tmp_path: Any) -> None:
    async def later() -> tuple[int, str]:
        waiting = asyncio.ensure_future(_address(tmp_path))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        (tmp_path / "DevToolsActivePort").write_text("1234\n/devtools/browser/x")
        return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(later()) == (1234, "/devtools/browser/x")


def test_frames_are_masked_with_zeros() -> None:
    assert _frame(1, b"ab") == b"\x81\x82\0\0\0\0ab"
    assert _frame(1, b"a" * 126)[:4] == b"\x81\xfe\x00\x7e"


@pytest.mark.browser
def test_sessions_are_apart_and_end_with_their_target() -> None:
    pages = [Browser.shared().page(size=(100, 100)) for _ in range(2)]

    async def title(page: Page, text: str) -> Any:
        await page.session.send("Runtime.evaluate", {"expression": f"document.title = {text!r}"})
        return (await page.session.send("Runtime.evaluate", {"expression": "document.title"}))[
            "result"
        ]["value"]

    assert [page.run(title(page, name)) for page, name in zip(pages, "ab", strict=True)] == [*"ab"]
    ended: list[Any] = []
    gone: CDPSession = pages[0].session
    gone.on(DETACHED, ended.append)
    pages[0].close()
    assert pages[1].run(title(pages[1], "c")) == "c"

    async def ask() -> Any:
        return await gone.send("Page.enable")

    with pytest.raises(BrowserError, match="closed"):
        pages[1].run(ask())
    assert ended == [{}]
    pages[1].close()


@pytest.mark.browser
def test_a_web_page_cannot_connect_to_chromium() -> None:
    page = Browser.shared().page(size=(100, 100))

    async def attempt() -> Any:
        transport = page.session._connection._transport
        assert transport is not None
        port = transport.get_extra_info("peername")[1]
        return await page.evaluate(
            f"new Promise((done) => {{ const s = new WebSocket('ws://127.0.0.1:{port}/devtools/"
            "browser'); s.onopen = () => done('open'); s.onerror = () => done('refused') })"
        )

    assert page.run(attempt()) == "refused"
    page.close()
