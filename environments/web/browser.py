"""One Chromium per process, many pages: asynchronous inside, synchronous and bounded outside.

A daemon thread runs a private asyncio loop with Playwright on it. Everything that touches a page is
a coroutine on that loop; `Page.run` hands one over and waits with a deadline, from any thread, in
notebooks and inside other event loops. Playwright owns the browser's life; pages are driven below
it, through one CDP session each.
"""

import asyncio
import atexit
import concurrent.futures
import importlib.util
import logging
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from agentgym import paths
from agentgym.environments.web.cdp import FLAGS, Connection, ProtocolError
from agentgym.environments.web.page import CLOSE_TIMEOUT_S, Page, one_line, quietly
from agentgym.environments.web.spares import Spares
from agentgym.errors import BrowserError, MissingDependencyError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, Playwright

T = TypeVar("T")
logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *FLAGS,
    "--disable-smooth-scrolling",
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",  # nothing goes past a proxy
)
FREE = (
    "--disable-frame-rate-limit",  # with the next: pictures when asked for, not every 33 ms
    "--disable-gpu-vsync",
)
"""Pages draw a frame whenever something has changed."""
STEPPED = (
    "--enable-begin-frame-control",
    "--run-all-compositor-stages-before-draw",  # a frame shows all that came before it
    "--disable-checker-imaging",  # pictures in it too
    # The next page is loaded into the frame that is there, and its scripts, which were compiled for
    # the last one, are not compiled anew in the background.
    "--disable-features=RenderDocument,ScriptStreaming,PaintHolding",
)
"""Pages draw a frame when they are told to, which saves two thirds of the work of a step.

https://chromium.googlesource.com/chromium/src/+/main/headless/README.md
"""


class Browser:
    """The process's Chromium and the loop that drives it. Use `Browser.shared`.

    Any number of environments share it, each with pages of its own. Those whose time is not real
    share a second one, whose pages draw no frame unless told to (`Page.frame`). If Chromium ends,
    whoever ends it, every page it held raises `BrowserError` at once and the next `page` starts a
    new one.
    """

    _shared: ClassVar[dict[bool, "Browser"]] = {}
    _lock = threading.Lock()

    def __init__(self, *, stepped: bool = False) -> None:
        self.stepped = stepped
        """Whether pages only draw when told to; False once the Chromium found cannot do that."""
        self.pid = 0
        """Process id of Chromium's main process; 0 if none runs."""
        self.owner = os.getpid()
        """The process that may use this object: threads do not survive a fork."""
        self.spares: Spares[Any] = Spares()
        """What was made in advance, for whoever makes things here; only on the browser's loop."""
        self.drawing = asyncio.Lock()
        """Held for a frame of a stepped page: frames at once spoil each other's pictures."""
        self._pages: weakref.WeakSet[Page] = weakref.WeakSet()
        self._playwright: Playwright | None = None
        self._chromium: Chromium | None = None
        self._starting = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="agentgym-browser", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls, *, stepped: bool = False) -> "Browser":
        """The one of this process; Chromium itself starts with the first `page`.

        Args:
            stepped: its pages only draw when they are told to, if Chromium can do that.

        Raises:
            MissingDependencyError: Playwright is not installed.
        """
        if importlib.util.find_spec("playwright") is None:
            raise MissingDependencyError("playwright is not installed; run pip install -e '.[web]'")
        with cls._lock:
            if stepped not in cls._shared or not cls._shared[stepped].alive:
                cls._shared[stepped] = cls(stepped=stepped)
            return cls._shared[stepped]

    def page(self, *, size: tuple[int, int], init_script: str = "", offline: bool = False) -> Page:
        """A page in a context of its own; starts Chromium if it does not run.

        Args:
            size: (width, height) of the viewport in CSS pixels.
            init_script: runs in the page's own world before any of its scripts.
            offline: the page has no network.

        Raises:
            BrowserError: Chromium does not start or does not answer.
            MissingDependencyError: there is no Chromium.
        """

        async def open_in(chromium: "Chromium") -> Page:
            context = await new_context(chromium, size, offline=offline)
            page = await Page.open(self, context, size, init_script)
            self.watch(page)
            return page

        return self.run(self.use(open_in), START_TIMEOUT_S)

    @property
    def alive(self) -> bool:
        """False once it is closed, and in a forked child."""
        return self.owner == os.getpid() and not self._loop.is_closed()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine on the browser's loop and wait for it.

        Raises:
            BrowserError: it did not finish in time, or this browser is of another process.
        """
        if not self.alive:
            coroutine.close()
            raise BrowserError("the page's browser is gone (closed, or left behind by a fork)")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("called from the browser's own loop; await the coroutine instead")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise BrowserError(f"the browser did not answer within {timeout_s:g} s") from None
        finally:
            future.cancel()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something nobody waits for on the browser's loop; from any thread."""
        self._loop.call_soon_threadsafe(quietly, coroutine)

    def close(self) -> None:
        """Stop Chromium, Playwright and the thread; may be called twice."""
        if not self.alive:
            return
        try:
            self.run(self._stop(), CLOSE_TIMEOUT_S)
        except Exception as error:  # what is still there is killed instead
            logger.debug("Chromium did not close cleanly: %r", error)
            self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)

    def kill(self) -> None:
        """End Chromium at once, as a crash would."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                logger.debug("Chromium (process %d) had already ended", self.pid)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def watch(self, page: Page) -> None:
        """Let a page fail at once if Chromium ends."""
        self._pages.add(page)

    async def use(self, make: Callable[["Chromium"], Awaitable[T]]) -> T:
        """Make something in a Chromium that runs; only on the browser's loop.

        Raises:
            BrowserError: Chromium does not start, or could not make it.
            MissingDependencyError: there is no Chromium.
        """
        from playwright.async_api import Error

        for attempt in (1, 2):
            chromium = await self._running()
            try:
                return await make(chromium)
            except (Error, ProtocolError) as error:
                # Chromium's end is noticed a little later here than by its pages: once more.
                if attempt == 2 or "closed" not in str(error):
                    why = f"Chromium could not open a page: {one_line(error)}"
                    raise BrowserError(why) from error
            if self._chromium is chromium:
                self._chromium = None
        raise AssertionError("unreachable")

    async def _running(self) -> "Chromium":
        async with self._starting:
            if self._chromium is None or not self._chromium.is_connected():
                self._chromium = await self._start()
            return self._chromium

    async def _start(self) -> "Chromium":
        from playwright.async_api import Error, async_playwright

        for new in (self._playwright is None, True):
            if self._playwright is None or new:
                self._playwright = await async_playwright().start()
            try:
                if self.stepped:
                    chromium, self.stepped = await launch_stepped(self._playwright)
                else:
                    chromium = await launch(self._playwright)
                browser = (await Connection.to(chromium)).browser
                processes = (await browser.send("SystemInfo.getProcessInfo"))["processInfo"]
                break
            except (Error, ProtocolError) as error:
                if new or "closed" not in str(error):  # else Playwright's own process has ended
                    raise BrowserError(f"Chromium does not start: {one_line(error)}") from error
        pid = next(p["id"] for p in processes if p["type"] == "browser")
        chromium.on("disconnected", lambda _: self._ended(pid))
        self.pid = pid
        return chromium

    def _ended(self, pid: int) -> None:
        if self.pid != pid:  # another one runs already; its pages are fine
            return
        self.pid = 0
        for page in list(self._pages):
            page.give_up("Chromium ended")

    async def _stop(self) -> None:
        await self.spares.close()
        if self._chromium is not None:
            await self._chromium.close()
        if self._playwright is not None:
            await self._playwright.stop()
        # What still runs ends before its loop does: connections of relays, contexts being closed.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=1.0)
        self._chromium = self._playwright = None


async def new_context(
    chromium: "Chromium", size: tuple[int, int], **options: Any
) -> "BrowserContext":
    """A context that shares nothing with others, and in which pages look the same everywhere.

    Args:
        chromium: the browser.
        size: (width, height) of the viewport in CSS pixels.
        options: more of Playwright's, or others than these.
    """
    same: dict[str, Any] = {
        "viewport": {"width": size[0], "height": size[1]},
        "device_scale_factor": 1,
        "locale": "en-US",
        "timezone_id": "UTC",
        "reduced_motion": "reduce",
        "accept_downloads": False,
        "service_workers": "block",
    }
    return await chromium.new_context(**(same | options))


async def launch(playwright: "Playwright", flags: Sequence[str] = FREE) -> "Chromium":
    """The first Chromium that there is.

    Args:
        playwright: starts it.
        flags: `FREE` or `STEPPED`.

    Raises:
        MissingDependencyError: there is none.
        playwright.async_api.Error: it is there and does not start.
    """
    from playwright.async_api import Error

    for program in programs():
        try:
            return await playwright.chromium.launch(
                executable_path=program,
                args=[*_FLAGS, *flags],
                handle_sigint=False,  # Ctrl-C is this process's to handle; `close` stops Chromium
                handle_sigterm=False,
                handle_sighup=False,
                timeout=START_TIMEOUT_S * 1000,
            )
        except Error as error:
            if program is not None or "Executable doesn't exist" not in str(error):
                raise
    raise MissingDependencyError(
        "no Chromium found; run `playwright install chromium` or "
        "`apt-get install chromium-headless-shell`, or set AGENTGYM_CHROMIUM to a program"
    )


async def launch_stepped(playwright: "Playwright") -> tuple["Chromium", bool]:
    """A Chromium whose pages draw when they are told to, and whether they do: else it is free."""
    chromium = await launch(playwright, STEPPED)
    if await _can_be_stepped(chromium):
        return chromium, True
    logger.info("this Chromium draws when it wants; chromium-headless-shell is faster")
    await chromium.close()
    return await launch(playwright), False


async def _can_be_stepped(chromium: "Chromium") -> bool:
    """Whether it draws when told to: only the headless shell does."""
    from playwright.async_api import Error

    context = await chromium.new_context()
    session = await context.new_cdp_session(await context.new_page())
    try:
        await session.send("HeadlessExperimental.beginFrame")
    except Error as error:
        if "closed" in str(error):
            raise
        return False
    finally:
        await context.close()
    return True


def programs() -> Iterator[str | None]:
    """Chromium programs to try, in order; `None` is Playwright's own download.

    Raises:
        MissingDependencyError: the one that the user named is not there.
    """
    asked = paths.chromium()
    if asked is not None:
        found = shutil.which(asked)
        if found is None:
            raise MissingDependencyError(
                f"AGENTGYM_CHROMIUM is {asked!r}, which is not a program; "
                "set it to the path of a Chromium, or unset it"
            )
        yield found
        return
    yield None
    yield from filter(None, map(shutil.which, _PROGRAMS))


_inherited: list[Browser] = []  # kept alive: their loops still belong to the parent


def _after_fork() -> None:
    _inherited.extend(Browser._shared.values())
    Browser._shared = {}
    Browser._lock = threading.Lock()


def _at_exit() -> None:
    for browser in Browser._shared.values():
        browser.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
