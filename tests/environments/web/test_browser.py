import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from agentgym.environments.web import browser as browser_module
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.page import Page
from agentgym.errors import BrowserError, MissingDependencyError

pytestmark = pytest.mark.browser
SIZE = (100, 100)
SOON_S = 15  # generous: far below the deadlines that a hang would meet


@pytest.fixture
def open_page() -> Iterator[Callable[[], Page]]:
    pages: list[Page] = []

    def make() -> Page:
        pages.append(Browser.shared().page(size=SIZE, offline=True))
        return pages[-1]

    yield make
    for page in pages:
        page.close()


def test_pages_share_one_chromium_and_nothing_else(open_page: Callable[[], Page]) -> None:
    a, b = open_page(), open_page()
    a.run(a.evaluate("window.x = 'mine'"))
    assert b.run(b.evaluate("typeof window.x")) == "undefined"
    assert a.browser is b.browser
    assert psutil.Process(a.browser.pid).is_running()


def test_it_works_inside_a_running_event_loop(open_page: Callable[[], Page]) -> None:
    async def main() -> int:
        page = open_page()
        return int(page.run(page.evaluate("6 * 7")))

    assert asyncio.run(main()) == 42


def test_many_threads_may_use_many_pages(open_page: Callable[[], Page]) -> None:
    pages = [open_page() for _ in range(3)]
    results: dict[int, list[int]] = {}

    def work(n: int) -> None:
        page = pages[n]
        results[n] = [page.run(page.evaluate(f"{n} * 100 + {i}")) for i in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [n * 100 + i for i in range(20)] for n in range(3)}


def test_a_killed_chromium_fails_its_pages_at_once_and_is_replaced(
    open_page: Callable[[], Page],
) -> None:
    page, other = open_page(), open_page()
    dead = page.browser.pid
    threading.Timer(0.3, page.browser.kill).start()
    started = time.monotonic()
    with pytest.raises(BrowserError, match="Chromium ended"):
        page.run(page.evaluate("new Promise(() => 0)"))
    with pytest.raises(BrowserError, match="Chromium ended"):
        other.run(other.evaluate("1"))
    assert time.monotonic() - started < SOON_S
    assert page.failure
    new = open_page()
    assert new.run(new.evaluate("1")) == 1
    assert new.browser.pid != dead


def test_a_crashed_page_costs_only_itself(open_page: Callable[[], Page]) -> None:
    page, other = open_page(), open_page()
    with pytest.raises(BrowserError, match="crashed"):
        page.run(page.session.send("Page.crash"))
    assert other.run(other.evaluate("1")) == 1


def test_a_page_that_hangs_meets_its_deadline(open_page: Callable[[], Page]) -> None:
    page, other = open_page(), open_page()
    with pytest.raises(BrowserError, match=r"did not answer within 0\.5 s"):
        page.run(page.evaluate("for (;;);"), 0.5)
    assert page.failure
    assert other.run(other.evaluate("1")) == 1
    page.close()


def test_a_closed_page_says_so(open_page: Callable[[], Page]) -> None:
    page = open_page()
    page.close()
    page.close()
    with pytest.raises(BrowserError, match="closed"):
        page.run(page.evaluate("1"))


def test_the_loop_itself_must_not_wait(open_page: Callable[[], Page]) -> None:
    page = open_page()

    async def nested() -> None:
        page.run(page.evaluate("1"))

    with pytest.raises(RuntimeError, match="await the coroutine instead"):
        page.run(nested())


def test_a_forked_child_starts_its_own(open_page: Callable[[], Page]) -> None:
    page = open_page()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        told = "unset"
        try:
            try:
                page.run(page.evaluate("1"))
            except BrowserError as error:
                told = str(error)
            own = Browser.shared().page(size=SIZE)
            told += f"|{own.run(own.evaluate('1'))}|{own.browser.pid != page.browser.pid}"
            Browser.shared().close()
        finally:
            os.write(writer, told.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        told = answers.read()
    os.waitpid(child, 0)
    assert told == "the page's browser is gone (closed, or left behind by a fork)|1|True"
    assert page.run(page.evaluate("1")) == 1


SCRIPT = """
import sys, time
from agentgym.environments.web.browser import Browser
page = Browser.shared().page(size=(50, 50))
print(page.browser.pid, flush=True)
if sys.argv[1] == "wait": time.sleep(60)
"""


def chromium_of(how: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
    return process, psutil.Process(pid)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_no_chromium_is_left_behind(how: str) -> None:
    process, chromium = chromium_of("exit" if how == "exit" else "wait")
    if how == "kill":
        process.kill()
    assert process.wait(SOON_S) == (0 if how == "exit" else -9)
    psutil.wait_procs([chromium], timeout=SOON_S)
    assert not chromium.is_running() or chromium.status() == psutil.STATUS_ZOMBIE


def test_a_chromium_that_cannot_be_stepped_draws_when_it_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def cannot(chromium: object) -> bool:
        return False

    monkeypatch.setattr(browser_module, "_can_be_stepped", cannot)
    browser = Browser(stepped=True)
    try:
        page = browser.page(size=SIZE, offline=True)
        assert not browser.stepped
        page.run(page.frame())
        assert page.run(page.photograph()).startswith(b"\x89PNG")
    finally:
        browser.close()


def test_a_wrong_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGYM_CHROMIUM", "/no/such/chromium")
    with pytest.raises(MissingDependencyError, match="AGENTGYM_CHROMIUM is '/no/such/chromium'"):
        list(browser_module.programs())


def test_a_program_that_is_no_browser_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("AGENTGYM_CHROMIUM", str(fake))
    browser = Browser()
    try:
        with pytest.raises(BrowserError, match="Chromium does not start"):
            browser.page(size=SIZE)
    finally:
        browser.close()


def test_no_chromium_at_all_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", "/nowhere")
    monkeypatch.delenv("AGENTGYM_CHROMIUM", raising=False)
    browser = Browser()
    try:
        with pytest.raises(MissingDependencyError, match="playwright install chromium") as caught:
            browser.page(size=SIZE)
    finally:
        browser.close()
    assert "\n" not in str(caught.value)


def test_playwright_missing_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "playwright" else find(n)
    )
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[web\]'"):
        Browser.shared()
