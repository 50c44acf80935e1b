import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from agentgym.environments.web import tab
from agentgym.environments.web.guard import Guard
from agentgym.environments.web.relay import Relay

Serve = Callable[[Mapping[str, Any]], str]
Surf = Callable[..., Any]


class Listener:
    """Notes who connects, and what is sent to its UDP port."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tcp, self.udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.tcp.listen()
        self.udp.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.tcp.getsockname()[1]}"
        for listen in (self._accept, self._receive):
            threading.Thread(target=listen, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.tcp.accept()
            except OSError:
                return
            # Not one after the other: Chromium also connects where it then says nothing.
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            client.settimeout(30)
            try:
                line = client.recv(2000).partition(b"\r\n")[0].decode("latin-1")
                self.heard.append(line)
                client.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                return  # it hung up

    def _receive(self) -> None:
        while True:
            try:
                if self.udp.recv(2000) == b"end":
                    return
                self.heard.append("udp")
            except OSError:
                return

    def close(self) -> None:
        self.udp.sendto(b"end", self.udp.getsockname())
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


KINDS = {
    "picture": "<img src='{there}/picture'>",
    "style": "<link rel=stylesheet href='{there}/style'>",
    "script": "<script src='{there}/script'></script>",
    "font": "<style>@font-face {{ font-family: f; src: url('{there}/font') }}</style>"
    "<p style='font-family: f'>x",
    "video": "<video src='{there}/video' preload=auto></video>",
    "object": "<object data='{there}/object' type=image/png></object>",
    "fetch": "<script>fetch('{there}/fetch', {{mode: 'no-cors'}}).catch(() => 0)</script>",
    "post": "<script>navigator.sendBeacon('{there}/post', 'x')</script>",
    "events": "<script>new EventSource('{there}/events')</script>",
    "socket": "<script>new WebSocket('{ws}/socket')</script>",
    "module": "<script type=module>import('{there}/module').catch(() => 0)</script>",
    "prefetch": "<link rel=prefetch href='{there}/prefetch'>",
    "worker": """<script>new Worker(URL.createObjectURL(new Blob([
        "fetch('{there}/worker', {{mode: 'no-cors'}}).catch(() => 0)"])))</script>""",
    "worker-socket": """<script>new Worker(URL.createObjectURL(new Blob([
        "new WebSocket('{ws}/worker-socket')"])))</script>""",
}


def body(there: str) -> str:
    parts = "".join(KINDS.values())
    return parts.format(there=there, ws=there.replace("http", "ws"))


@pytest.fixture
def brisk(surf: Surf, monkeypatch: pytest.MonkeyPatch) -> Surf:
    """As `surf`, without patience for what never ends."""
    monkeypatch.setattr(tab, "NETWORK_S", 0.5)
    return surf


@pytest.mark.browser
def test_nothing_but_what_is_allowed_is_connected_to(
    serve: Serve, brisk: Surf, listener: Listener
) -> None:
    hints = "<link rel=preconnect href='{0}'><link rel=preload as=image href='{0}/preload'>"
    stun = f"stun:127.0.0.1:{listener.udp.getsockname()[1]}"
    peer = f"""<script>const peer = new RTCPeerConnection({{ iceServers: [{{ urls: "{stun}" }}] }});
        peer.createDataChannel("x"); peer.createOffer().then(o => peer.setLocalDescription(o));
        navigator.serviceWorker?.register("/worker.js").catch(() => 0)</script>"""
    surfer = brisk(serve({"/": body(listener.url) + hints.format(listener.url) + peer}))
    surfer.act("wait", seconds=1.0)
    assert listener.heard == []
    assert surfer.session.relay.blocked[listener.url.removeprefix("http://")] >= len(KINDS) - 3
    assert surfer.session.notes == []


@pytest.mark.browser
def test_what_pages_may_load_cannot_be_opened(
    serve: Serve, brisk: Surf, listener: Listener
) -> None:
    home = serve({"/": body(listener.url)})
    surfer = brisk(home, resources=[listener.url])
    for _ in range(100):
        asked = {line.split()[1].strip("/") for line in listener.heard if line}
        if asked >= set(KINDS):
            break
        surfer.act("wait", seconds=0.1)
    assert asked == set(KINDS)  # so the test above would have seen each of them
    assert "was not opened" in surfer.act("goto", url=f"{listener.url}/page")
    assert surfer.session.relay.blocked == {}


# ---- the relay alone ---------------------------------------------------------------------------


async def ended(relay: Relay, writer: asyncio.StreamWriter) -> None:
    writer.close()
    relay.close()
    while relay._open:
        await asyncio.sleep(0.01)


def ask(relay: Relay, host: str, port: int, kind: int = 3) -> bytes:
    """What it answers to somebody who wants to be connected."""

    async def talk() -> bytes:
        address = await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[-1]))
        name = bytes([len(host)]) + host.encode() if kind == 3 else socket.inet_aton(host)
        writer.write(bytes([5, 1, 0, 5, 1, 0, kind]) + name + port.to_bytes(2, "big"))
        answer = await asyncio.wait_for(reader.readexactly(12), 10)
        if answer[3] == 0:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer += await asyncio.wait_for(reader.read(100), 10)
        await ended(relay, writer)
        return answer[2:]

    return asyncio.run(talk())


def test_it_connects_and_says_why_not(listener: Listener) -> None:
    port = listener.tcp.getsockname()[1]
    for kind in (3, 1):
        assert b"404 No" in ask(Relay(lambda host, port: True), "127.0.0.1", port, kind)
    assert b"404 No" in ask(Relay(lambda host, port: True), "localhost", port)
    refusing = Relay(lambda host, port: False)
    assert ask(refusing, "127.0.0.1", port)[1] == 2
    assert refusing.blocked == {f"127.0.0.1:{port}": 1}
    url = f"http://127.0.0.1:{port}/x"
    failed = "net::ERR_SOCKS_CONNECTION_FAILED"
    assert refusing.explained(url, failed) == "net::ERR_BLOCKED_BY_CLIENT"
    assert refusing.explained(url, "net::ERR_ABORTED") == "net::ERR_ABORTED"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = Relay(lambda host, port: True)
        assert ask(dead, "127.0.0.1", closed.getsockname()[1])[1] == 1
        assert dead.explained("http://elsewhere", failed) == "net::ERR_CONNECTION_REFUSED"


def test_a_public_name_may_not_lead_home(listener: Listener) -> None:
    port = listener.tcp.getsockname()[1]
    trick = Relay(lambda host, port: True, checks=lambda host: True)
    assert ask(trick, "localhost", port)[1] == 2  # a name that stands for this machine
    assert listener.heard == []


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", b"\x05\x00\x05\x02", b"\x04\x01"])
def test_others_than_chromium_get_nothing(greeting: bytes) -> None:
    async def talk() -> bytes:
        relay = Relay(lambda host, port: True)
        address = await relay.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[-1]))
        writer.write(greeting)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        await ended(relay, writer)
        return answer

    assert asyncio.run(talk()) in (b"", b"\x05\x00")


@pytest.mark.parametrize(
    ("host", "port", "reached", "named"),
    [
        ("a.com", 80, True, True),
        ("a.com", 443, False, True),
        ("cdn.com", 443, True, True),
        ("x.cdn.com", 80, True, True),
        ("example.org", 8443, True, False),
        ("localhost", 80, False, False),
        ("10.0.0.1", 80, False, False),
    ],
)
def test_what_a_guard_reaches(host: str, port: int, reached: bool, named: bool) -> None:
    guard = Guard(["http://a.com"], ["*.cdn.com", "*"])
    assert guard.reaches(host, port) is (reached or host == "a.com")
    assert guard.named(host) is named
