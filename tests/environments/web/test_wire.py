import json
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.web import wire
from agentgym.recording import Recorder, read_recording, replay

pytestmark = pytest.mark.browser
Serve = Callable[[Mapping[str, Any]], str]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63"
    "f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


class Site:
    """A site that remembers, so that equal requests have different answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cart: list[str] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        path = handler.path.partition("?")[0]
        sent = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        if path == "/add":
            self.cart.append(sent)
            handler.send_response(303)
            handler.send_header("Location", "/cart")
            handler.send_header("Set-Cookie", f"things={len(self.cart)}")
            handler.send_header("Set-Cookie", "seen=yes")
            handler.end_headers()
            return
        kind, body = "text/html; charset=utf-8", PAGE.encode()
        if path == "/cart":
            told = handler.headers.get("Cookie", "nothing")
            body = f"<p>Cart: {', '.join(self.cart)}</p><p>{told}</p><a href=/>Home</a>".encode()
        elif path == "/dot.png":
            kind, body = "image/png", PNG
        elif path == "/data":
            kind, body = "application/json", json.dumps({"price": len(self.asked)}).encode()
        elif path == "/events":
            kind, body = "text/event-stream", b"data: 1\n\n"
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(body)


PAGE = """<title>Shop \u20ac</title><form action=/add method=post><input name=what value=Kettle>
    <button>Add</button></form><img src=/dot.png alt=Dot><p id=price></p><p id=chance></p>
    <script>fetch("/data").then(r => r.json()).then(d => price.textContent = "Price " + d.price);
    chance.textContent = Math.random() + " " + new Date().toISOString().slice(0, 10) + " "
      + new Date(2020, 1).getFullYear() + " " + (new Date() instanceof Date);
    window.source = new EventSource("/events")</script>"""


@pytest.fixture
def site(serve: Serve, patient: None) -> tuple[Site, str]:
    made = Site()
    return made, serve(dict.fromkeys(("/", "/add", "/cart", "/dot.png", "/data", "/events"), made))


def play(file: Path, home: str, *actions: str, **arguments: Any) -> list[str]:
    env = gym.make("agentgym/web.open-v0", start_url=home, goal="Buy.", **arguments)
    recorder = Recorder(env, file)
    texts = [recorder.reset(seed=0)[0]["text"]]
    texts += [recorder.step(action)[0]["text"] for action in actions]
    recorder.close()
    return texts


ADD = 'click("2")'


def test_an_episode_is_played_again_without_its_site(
    site: tuple[Site, str], tmp_path: Path
) -> None:
    server, home = site
    file = tmp_path / "shop.jsonl"
    actions = [ADD, 'click("1")', 'type("1", "Cup")', ADD, 'answer("2")']
    texts = play(file, home, *actions, images=True, size=(300, 200))
    assert "Cart: what=Kettle, what=Cup" in texts[4]
    assert "things=2" in texts[4]
    assert "seen=yes" in texts[4]
    asked = len(server.asked)
    report = replay(file)
    assert report.divergence is None, report.divergence
    assert (report.episodes, report.steps) == (1, 5)
    # What never ended is not on the tape, and that is told.
    assert report.unanswered == (
        f"GET {home}/events (its answer was endless or too large to keep)",
    )
    assert len(server.asked) == asked
    # It was not the clock that stood still: random numbers are those of the recording.
    assert "0." in texts[0]
    assert "2020 true" in texts[0]


def test_what_was_not_asked_then_is_not_answered(site: tuple[Site, str], tmp_path: Path) -> None:
    server, home = site
    file = tmp_path / "shop.jsonl"
    play(file, home, ADD)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "step":
            line["action"] = f'goto("{home}/cart?new")'
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = len(server.asked)
    report = replay(file)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.what) == (1, "observation")
    assert "+cannot open" in report.divergence.change
    assert f"GET {home}/cart?new" in report.unanswered
    assert len(server.asked) == asked


def test_what_is_kept_and_what_is_not(
    site: tuple[Site, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, home = site
    file = tmp_path / "shop.jsonl"
    play(file, home, ADD, 'click("1")')
    kept = {e.url.removeprefix(home): e for e in read_recording(file).exchanges}
    assert kept["/dot.png"].body == PNG
    assert kept["/add"].status == 303
    assert kept["/add"].sent
    assert (kept["/events"].body, kept["/events"].problem) == (b"", "not kept")
    contents = [json.loads(li) for li in file.read_text().splitlines() if '"content", "sha' in li]
    assert len({c["sha256"] for c in contents}) == len(contents) >= 4  # each once


def test_what_is_too_large_is_told(
    serve: Serve, patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = serve({"/": "<p>Small</p>", "/large": "<p>" + "x" * 5000})
    file = tmp_path / "large.jsonl"
    with monkeypatch.context() as limits:
        limits.setattr(wire, "MAX_BODY", 4000)  # of an answer without a length
        play(file, home, f'goto("{home}/large")')
    report = replay(file)
    assert report.divergence is not None
    assert report.divergence.step == 1
    (told,) = report.unanswered
    assert told == f"GET {home}/large (its answer was endless or too large to keep)"


def test_episodes_and_environments_have_tapes_of_their_own(
    site: tuple[Site, str], tmp_path: Path
) -> None:
    _, home = site
    file = tmp_path / "shop.jsonl"
    env = Recorder(gym.make("agentgym/web.open-v0", start_url=home, goal="Buy."), file)
    other = gym.make("agentgym/web.open-v0", start_url=home, goal="Buy.")
    first = env.reset(seed=0)[0]["text"]
    assert other.reset(seed=0)[0]["text"] != first  # another price, and another chance
    other.step(ADD)
    other.close()
    assert env.reset(seed=0)[0]["text"] != first
    env.step(ADD)
    env.close()
    episodes = [e.episode for e in read_recording(file).exchanges if e.url == f"{home}/data"]
    assert episodes == [1, 2]
    report = replay(file)
    assert (report.episodes, report.divergence) == (2, None)


def test_miniwob_plays_again(tmp_path: Path) -> None:
    file = tmp_path / "miniwob.jsonl"
    env = Recorder(gym.make("agentgym/miniwob.click-button-v0", images=True), file)
    for seed in (0, 1):
        env.reset(seed=seed)
        env.step("click nothing")
        env.step(env.unwrapped.oracle_action())  # type: ignore[attr-defined]
    env.close()
    report = replay(file)
    assert (report.episodes, report.steps, report.divergence) == (2, 4, None)


def test_time_begins_where_it_did() -> None:
    from agentgym.tape import Tape

    script = wire.same_world(Tape(started=time.time() - 86400))
    assert "%d" not in script
    assert wire.same_world(Tape(started=1.0)) == wire.same_world(Tape(started=1.0))
