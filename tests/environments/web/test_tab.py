import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from agentgym.environments.web import session as session_module
from agentgym.environments.web import tab as tab_module
from agentgym.environments.web.tab import Tab
from agentgym.errors import BrowserError

pytestmark = pytest.mark.browser
Serve = Callable[[Mapping[str, Any]], str]
Surf = Callable[..., Any]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the site's slow answers wait for."""
    event = threading.Event()
    yield event
    event.set()


def after(gate: threading.Event, body: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answers at once, and sends the body when the gate opens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.flush()
        gate.wait(60)
        handler.wfile.write(body.encode())

    return answer


FETCH = "fetch('/data').then(r => r.text()).then(t => document.body.append(t))"


def test_what_a_click_brings_over_the_network_is_waited_for(
    serve: Serve, surf: Surf, gate: threading.Event
) -> None:
    home = serve({"/": f'<button onclick="{FETCH}">Go</button>', "/data": after(gate, "Done")})
    surfer = surf(home)
    threading.Timer(0.2, gate.set).start()
    surfer.click("Go")
    assert (surfer.settled, "Done" in surfer.text) == ("quiet", True)


def test_what_never_comes_is_waited_for_once(
    serve: Serve, surf: Surf, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = serve({"/": f'<button onclick="{FETCH}">Go</button>', "/data": after(gate, "Done")})
    surfer = surf(home)
    monkeypatch.setattr(tab_module, "NETWORK_S", 0.3)
    surfer.click("Go")
    assert surfer.settled == "network"
    surfer.act("press", key="Tab")
    assert surfer.settled == "quiet"
    assert surfer.problems == ""


def test_a_document_that_never_ends_is_looked_at_as_it_is(
    serve: Serve, surf: Surf, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(b"<title>Endless</title><p>Beginning" + b" " * 5000)
        handler.wfile.flush()
        gate.wait(60)

    surfer = surf(serve({"/": "<a href=/endless>Go</a>", "/endless": endless}))
    monkeypatch.setattr(tab_module, "LOAD_S", 1.0)
    surfer.click("Go")
    assert (surfer.settled, surfer.text) == ("loading", 'text "Beginning"')
    surfer.act("press", key="Tab")
    assert surfer.settled == "quiet"


def test_an_address_that_never_answers_is_stopped(
    serve: Serve, surf: Surf, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = serve({"/": "Home", "/silent": lambda handler: gate.wait(60)})
    surfer = surf(home)
    with monkeypatch.context() as limits:
        limits.setattr(session_module, "LOAD_S", 0.3)
        surfer.act("goto", url=f"{home}/silent")
    assert surfer.problems == "Opening the page took longer than 0.3 s and was stopped."
    assert (surfer.view.url, surfer.text) == (f"{home}/", 'text "Home"')


def test_a_page_that_never_stops_changing_is_looked_at_as_it_is(serve: Serve, surf: Surf) -> None:
    change = "document.body.dataset.n = Math.random()"
    tick = f"(function tick() {{ {change}; requestAnimationFrame(tick) }})()"
    surfer = surf(serve({"/": f"<button onclick='{tick}'>Go</button>"}))
    surfer.click("Go")
    assert surfer.settled == "changing"
    assert surfer.view.find("button", "Go")


def test_clock_tricks_change_nothing(serve: Serve, surf: Surf) -> None:
    tricks = """
        Date.now = performance.now = () => 0;
        setTimeout = requestAnimationFrame = () => 0;
        MutationObserver = function () { throw 1 };
        Promise = undefined"""
    surfer = surf(serve({"/": f"<script>{tricks}</script><button onclick='this.append(1)'>Go"}))
    surfer.click("Go")
    assert (surfer.settled, surfer.text) == ("quiet", '[1] button "Go1" focused')


def test_scripts_that_run_too_long_are_stopped(
    serve: Serve, surf: Surf, monkeypatch: pytest.MonkeyPatch
) -> None:
    surfer = surf(serve({"/": "<button onclick='for (;;);'>Go</button>"}))
    with monkeypatch.context() as limits:
        limits.setattr(session_module, "ACTION_S", 1.0)
        surfer.click("Go")
    assert "took longer than 1 s and was stopped." in surfer.problems
    assert surfer.act("press", key="Tab") == ""
    assert (surfer.problems, surfer.settled) == ("", "quiet")


def test_what_a_document_receives_is_bounded(
    serve: Serve, surf: Surf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def huge(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 100_000)

    monkeypatch.setattr(tab_module, "MAX_BYTES", 2_000_000)
    surfer = surf(serve({"/": "<a href=/huge>Go</a>", "/huge": huge}))
    surfer.click("Go")
    assert surfer.problems == "The page sent more than 2,000,000 bytes and was stopped."
    assert surfer.text.startswith('text "xxx')


def test_downloads_are_refused(serve: Serve, surf: Surf) -> None:
    def file(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Disposition", "attachment; filename=a.bin")
        handler.end_headers()
        handler.wfile.write(b"x")

    home = serve({"/": "<a href=/file>Go</a>", "/file": file})
    surfer = surf(home)
    surfer.click("Go")
    assert surfer.problems == "The download of 'a.bin' was refused."
    assert surfer.view.url == f"{home}/"


def test_history(serve: Serve, surf: Surf) -> None:
    home = serve({"/": "<a href=/b>Go</a>", "/b": "<a href='#c'>Down</a>"})
    surfer = surf(home)
    assert surfer.act("go_back") == "There is no previous page."
    surfer.click("Go")
    surfer.click("Down")
    seen = [surfer.view.url]
    for action in ("go_back", "go_back", "go_forward", "go_forward"):
        assert surfer.act(action) == ""
        seen.append(surfer.view.url)
    assert seen == [f"{home}{end}" for end in ("/b#c", "/b", "/", "/b", "/b#c")]
    assert surfer.act("go_forward") == "There is no next page."


def test_a_frozen_tab_can_be_read_and_does_nothing(serve: Serve, surf: Surf) -> None:
    surfer = surf(serve({"/": "<p>0</p><script>n = 0; setInterval(() => n++, 1)</script>"}))
    tab: Tab = surfer.session.current

    def count() -> int:
        return int(tab.run(tab.evaluate("n")))

    tab.run(tab.freeze())
    first = count()
    tab.run(asyncio.sleep(0.05))  # its own clock stands still
    assert count() == first
    assert tab.run(tab.evaluate("document.body.innerText.trim()")) == "0"


def test_a_tab_that_does_not_stop_is_given_up(serve: Serve, surf: Surf) -> None:
    surfer = surf(serve({"/": "Home"}))
    tab: Tab = surfer.session.current
    with pytest.raises(BrowserError, match="it hung"):
        tab.run(tab.attempt("This", tab.evaluate("new Promise(() => 0)"), 0.01))
    assert tab.told == ["This took longer than 0.01 s and was stopped."]
    assert tab.failure == "it hung"


def test_short_timers_are_waited_for_and_long_ones_are_not(
    serve: Serve, surf: Surf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab_module, "CHANGES_MS", 20_000)  # the machine may be slow
    later = "setTimeout(() => document.body.append('{0}'), {1})"
    surfer = surf(
        serve(
            {
                "/": f'<button onclick="{later.format("Suggestions", 250)}">Soon</button>'
                f'<button onclick="{later.format("Advertisement", 60_000)}">Late</button>'
            }
        )
    )
    surfer.click("Soon")
    assert (surfer.settled, "Suggestions" in surfer.text) == ("quiet", True)
    surfer.click("Late")
    assert (surfer.settled, "Advertisement" in surfer.text) == ("quiet", False)


@pytest.mark.parametrize(
    "poll",
    [
        "(function again() { window.polls = (window.polls || 0) + 1; setTimeout(again, 5); })()",
        "(async () => { for (;;) { window.polls = (window.polls || 0) + 1;"
        " await new Promise((done) => setTimeout(done, 5)); } })()",
        "setInterval(() => { window.polls = (window.polls || 0) + 1; }, 5)",
    ],
)
def test_timers_that_set_timers_are_not_waited_for(
    serve: Serve, surf: Surf, monkeypatch: pytest.MonkeyPatch, poll: str
) -> None:
    monkeypatch.setattr(tab_module, "CHANGES_MS", 20_000)
    surfer = surf(serve({"/": f"<button>Go</button><script>{poll}</script>"}))
    surfer.click("Go")
    assert surfer.settled == "quiet"
    assert surfer.session.run(surfer.session.current.evaluate("window.polls")) > 2


def test_timers_that_were_taken_back_are_not_waited_for(
    serve: Serve, surf: Surf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab_module, "CHANGES_MS", 600)
    script = "clearTimeout(setTimeout(() => 0, 299)); clearTimeout(); setTimeout('0', 1)"
    surfer = surf(serve({"/": f'<button onclick="{script}">Go</button>'}))
    surfer.click("Go")
    assert surfer.settled == "quiet"
    endless = "for (let i = 0; i < 3000; i++) setTimeout(() => 0, 299)"
    monkeypatch.setattr(tab_module, "CHANGES_MS", 20)
    surfer.session.run(surfer.session.current.evaluate(endless))
    surfer.act("press", key="a")
    assert surfer.settled == "timers"


def test_what_is_drawn_with_a_frame_is_waited_for(serve: Serve, surf: Surf) -> None:
    seen = """<div style="height: 3000px">Long</div><p id=last>Last</p><script>
        new IntersectionObserver((entries) => {
            if (entries.some((e) => e.isIntersecting)) last.textContent = "More of it";
        }).observe(last)</script>"""
    drawn = "requestAnimationFrame(() => requestAnimationFrame(() => document.title = 'Drawn'))"
    surfer = surf(serve({"/": seen, "/drawn": f'<button onclick="{drawn}">Draw</button>'}))
    surfer.session.run(surfer.session.current.evaluate("scrollTo(0, 1e6)"))
    surfer.act("press", key="a")
    assert "More of it" in surfer.text
    surfer.act("goto", url=f"{surfer.view.url}drawn")
    surfer.click("Draw")
    assert surfer.tabs() == [(surfer.view.url, "Drawn")]


def test_what_messages_to_itself_bring_is_waited_for(serve: Serve, surf: Surf) -> None:
    script = """const channel = new MessageChannel(); let left = 5;
        channel.port1.onmessage = () => {
            if (left--) channel.port2.postMessage(0); else go.textContent = 'Rendered';
            go.title += '.';
        };
        go.onclick = () => channel.port2.postMessage(0)"""
    surfer = surf(serve({"/": f"<button id=go>Go</button><script>{script}</script>"}))
    surfer.click("Go")
    assert "Rendered" in surfer.text
