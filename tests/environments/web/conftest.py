import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym.actions import ActionCall
from agentgym.environments.web import session, tab
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.browsergym import register_aliases
from agentgym.environments.web.guard import Guard
from agentgym.environments.web.miniwob import PAGE_SCRIPTS
from agentgym.environments.web.page import Page, script
from agentgym.environments.web.session import Session
from agentgym.environments.web.text import render
from agentgym.environments.web.view import PageView

SIZE = (332, 214)
PageOf = Callable[[str], Page]
Route = str | Callable[[BaseHTTPRequestHandler], None]
Serve = Callable[[Mapping[str, Route]], str]


@pytest.fixture(scope="module")
def _page() -> Iterator[Page]:
    init = "".join(map(script, PAGE_SCRIPTS))
    page = Browser.shared(stepped=True).page(size=SIZE, init_script=init, offline=True)
    yield page
    page.close()


@pytest.fixture
def page_of(_page: Page, tmp_path: Path) -> PageOf:
    """A page that shows this html body."""

    def show(body: str) -> Page:
        file = tmp_path / "page.html"
        file.write_text(f"<!DOCTYPE html><title>T</title><body style='margin:0'>{body}</body>")
        _page.run(_page.navigate(file.as_uri()))
        return _page

    return show


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a site: path (without its query) to an html body, or to what answers a request.

    Returns its address. A path that is not there is answered with 404.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(routes: Mapping[str, Route]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                route = routes.get(self.path.partition("?")[0])
                if callable(route):
                    route(self)
                    return
                self.send_response(404 if route is None else 200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                title = "" if route is not None and "<title>" in route else "<title>T</title>"
                self.wfile.write(f"<!DOCTYPE html>{title}<body>{route or 'Nothing'}".encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """A browser that hangs up is no error here."""

        server = Server(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a busy machine does not reach by itself; tests of limits set their own."""
    for module in (tab, session):
        monkeypatch.setattr(module, "LOAD_S", 60.0)
        monkeypatch.setattr(module, "NETWORK_S", 30.0)
    monkeypatch.setattr(session, "ACTION_S", 30.0)
    monkeypatch.setattr(session, "CALL_S", 300.0)


class Surfer:
    """A session and what it saw last."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.view = PageView(())
        self.settled = ""

    def start(self, *urls: str) -> None:
        self.session.run(self.session.start(urls))
        self.view = self.session.run(self.session.look())

    def act(self, name: str, **arguments: Any) -> str:
        """Do something and look; returns what was wrong with it."""

        async def work() -> str:
            self.session.begin()
            error = await self.session.act(ActionCall(name, arguments), self.view)
            self.settled = await self.session.settle()
            self.view = await self.session.look()
            return error

        return self.session.run(work())

    def click(self, name: str) -> str:
        (element,) = self.view.find(name=name)
        return self.act("click", element=element.id)

    def tabs(self) -> list[tuple[str, str]]:
        return self.session.run(self.session.tab_list(self.view))

    @property
    def text(self) -> str:
        return render(self.view)

    @property
    def problems(self) -> str:
        return " ".join(self.session.problems)


@pytest.fixture
def surf(patient: None) -> Iterator[Callable[..., Surfer]]:
    """Opens a session that may reach these hosts and starts it at the first."""
    surfers: list[Surfer] = []

    def start(*allowed: str, resources: Sequence[str] = (), **options: Any) -> Surfer:
        surfer = Surfer(Session.open(Browser.shared(), Guard(allowed, resources), **options))
        surfers.append(surfer)
        surfer.start(f"{allowed[0]}/")
        return surfer

    yield start
    for surfer in surfers:
        surfer.session.close()


@pytest.fixture
def aliases() -> Iterator[None]:
    """BrowserGym's own ids, as long as the test runs."""
    register_aliases()
    yield
    for name in [name for name in gym.registry if name.startswith("browsergym/")]:
        del gym.registry[name]
