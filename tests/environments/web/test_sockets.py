import base64
import hashlib
import json
import struct
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.recording import Recorder, read_recording, replay

pytestmark = pytest.mark.browser
Serve = Callable[[Mapping[str, Any]], str]
PAGE = """<title>Chat</title><p id=log></p>
    <button onclick="socket.send('hello')">Greet</button>
    <button onclick="socket.send(new Uint8Array([1, 2]))">Bytes</button>
    <button onclick="socket.send('bye')">Leave</button>
    <script>
      const told = text => log.textContent += text + " ";
      const socket = new WebSocket(`ws://${location.host}/chat`);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => told("open");
      socket.onmessage = e => told(typeof e.data === "string" ? e.data : e.data.byteLength);
      socket.onclose = e => told("closed:" + e.code);
      socket.onerror = () => told("error");
    </script>"""


class Chat:
    """A server that counts, so that nothing it says comes twice."""

    def __init__(self) -> None:
        self.connections = self.said = 0

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.connections += 1
        key = handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        digest = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        handler.send_header("Sec-WebSocket-Accept", digest)
        handler.end_headers()
        self.say(handler, 1, f"welcome:{time.monotonic_ns()}".encode())
        while True:
            kind, data = self.read(handler)
            self.said += 1
            if kind == 8:
                return
            if data == b"bye":
                self.say(handler, 8, struct.pack(">H", 4001))
                return
            time.sleep(0.15)  # so that it comes in the middle of the next step
            said = data * 3 if kind == 2 else f"{self.said}:{time.monotonic_ns()}".encode()
            self.say(handler, kind, said)

    def say(self, handler: BaseHTTPRequestHandler, kind: int, data: bytes) -> None:
        handler.wfile.write(bytes((0x80 | kind, len(data))) + data)
        handler.wfile.flush()

    def read(self, handler: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        head = handler.rfile.read(2)
        if len(head) < 2:
            return 8, b""
        mask = handler.rfile.read(4)
        data = handler.rfile.read(head[1] & 0x7F)
        return head[0] & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(data))


@pytest.fixture
def chat(serve: Serve, patient: None) -> tuple[Chat, str]:
    made = Chat()
    return made, serve({"/": PAGE, "/chat": made})


def play(file: Path, home: str, *actions: str) -> list[str]:
    env = gym.make("agentgym/web.open-v0", start_url=home, goal="Talk.")
    recorder = Recorder(env, file)
    texts = [recorder.reset(seed=0)[0]["text"]]
    texts += [recorder.step(action)[0]["text"] for action in actions]
    recorder.close()
    return texts


GREET, BYTES, LEAVE, WAIT = 'click("1")', 'click("2")', 'click("3")', "wait(0.5)"


def test_what_was_said_is_said_again_without_the_server(
    chat: tuple[Chat, str], tmp_path: Path
) -> None:
    server, home = chat
    file = tmp_path / "chat.jsonl"
    texts = play(file, home, WAIT, GREET, WAIT, BYTES, WAIT, LEAVE, WAIT)
    assert "open welcome:" in texts[1]
    assert " 1:" in texts[3]
    assert " 6" in texts[5]
    assert "closed:4001" in texts[7]
    frames = read_recording(file).frames
    assert [f.way for f in frames] == [
        *("asked", "opened", "came", "sent", "came", "sent", "came", "sent", "closed")
    ]
    assert [f.data for f in frames if f.binary] == [b"\1\2", b"\1\2" * 3]
    assert frames[-1].code == 4001
    asked = server.connections
    report = replay(file)
    assert report.divergence is None, report.divergence
    assert (report.steps, report.unanswered) == (7, ())
    assert server.connections == asked == 1


def test_what_was_not_said_then_is_told(chat: tuple[Chat, str], tmp_path: Path) -> None:
    server, home = chat
    file = tmp_path / "chat.jsonl"
    play(file, home, WAIT, GREET, WAIT)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    (greeting,) = [x for x in lines if x["kind"] == "frame" and x["way"] == "sent"]
    greeting["data"] = base64.b64encode(b"hallo").decode()
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    socket = home.replace("http", "ws") + "/chat"
    missed = f"web socket {socket}: 'hello' was sent instead of 'hallo'"
    report = replay(file)
    assert (report.divergence, report.unanswered) == (None, (missed,))
    file.write_text("".join(json.dumps(x) + "\n" for x in lines if x["kind"] != "frame"))
    report = replay(file)
    assert report.divergence is not None
    assert f"web socket {socket}" in report.unanswered
    assert server.connections == 1


def test_the_sockets_of_workers_are_told_as_well(serve: Serve, tmp_path: Path) -> None:
    server = Chat()
    worker = """new WebSocket("ws://" + "%s" + "/chat")"""
    home = serve({"/chat": server})
    script = worker % home.removeprefix("http://")
    page = f"<p>Page</p><script>new Worker('data:text/javascript,{script}')</script>"
    start = serve({"/": page})
    file = tmp_path / "worker.jsonl"
    env = gym.make("agentgym/web.open-v0", start_url=start, goal="Look.", resource_hosts=[home])
    recorder = Recorder(env, file)
    recorder.reset(seed=0)
    while not server.connections:
        recorder.step("wait(0.1)")
    recorder.close()
    report = replay(file)
    assert report.unanswered == (f"connection to {home.removeprefix('http://')}",)
    assert server.connections == 1
