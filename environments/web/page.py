"""One page of the shared Chromium: load, look, evaluate, photograph, each with a deadline."""

import asyncio
import base64
import gc
import inspect
import io
import json
import logging
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from agentgym.environments.web.cdp import DETACHED, CDPSession, Connection, ProtocolError
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import BrowserError, ScriptError
from agentgym.types import ImageArray

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Dialog
    from playwright.async_api import Page as PlaywrightPage

    from agentgym.environments.web.browser import Browser

T = TypeVar("T")
logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 2.0
_OTHERS_S = 0.03
"""Between two frames that are drawn for Playwright."""
_FRAMES = 10  # the first one of a document has nothing to take a picture of yet
_AWAITED = frozenset({"Image", "Font", "Stylesheet", "Script", "XHR", "Fetch"})


class Page:
    """One page in a context of its own.

    Its coroutines run on the browser's loop: pass them to `run`, several calls in one coroutine if
    they belong together. `run` and `close` are for every thread. Dialogs are dismissed, pop-ups
    closed, downloads refused.
    """

    how = "agentgym.look()"
    """How it is looked at."""
    timeless = True
    """No time passes between the keys of a text, which may come at once if nothing hears them."""

    def __init__(
        self,
        browser: "Browser",
        context: "BrowserContext",
        page: "PlaywrightPage",
        session: CDPSession,
        size: tuple[int, int],
    ) -> None:
        self.browser = browser
        self._playwright = page
        self.session = session
        """The CDP session of the page."""
        self.left_for = ""
        """The address that the page went to without `navigate`; empty if it stayed."""
        self.size = size
        """(width, height) of the viewport in CSS pixels."""
        self.mouse: tuple[float, float] | None = None
        """Where the mouse is; `None` until it is moved."""
        self.hover_styles = True
        """Whether the page looks different under the mouse. If not, clicks need not wait for it."""
        self.clipboard = ""
        """What was copied here. Chromium's own clipboard would be shared by all pages."""
        self._context = context
        self._world: int | None = None
        self._navigating = False
        self._loading: set[str] = set()  # requests on their way that will change the page
        self._asked = 0  # such requests so far
        self._dragged: dict[str, Any] | None = None
        self._drawn_for_others = False
        loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = loop.create_future()
        self._failure: asyncio.Future[str] = loop.create_future()

    @classmethod
    async def open(
        cls,
        browser: "Browser",
        context: "BrowserContext",
        size: tuple[int, int],
        init_script: str,
    ) -> Self:
        """A page in this context, with its guards set up."""
        page = await cls.adopt(browser, context, await context.new_page(), size)
        if init_script:
            script = {"source": init_script}
            await page.session.send("Page.addScriptToEvaluateOnNewDocument", script)
        return page

    @classmethod
    async def adopt(
        cls,
        browser: "Browser",
        context: "BrowserContext",
        playwright: "PlaywrightPage",
        size: tuple[int, int],
    ) -> Self:
        """A page that is open already, with its guards set up."""
        session = await _session_of(context, playwright)
        page = cls(browser, context, playwright, session, size)
        session.on("Inspector.targetCrashed", lambda _: page.give_up("the page's process crashed"))
        session.on(DETACHED, lambda _: page.give_up("the page was closed, or Chromium ended"))
        playwright.on("dialog", page._dialog_opened)
        playwright.on("popup", page._popup_opened)
        session.on("Page.frameNavigated", page._navigated)
        session.on("Page.loadEventFired", page._load_fired)
        session.on("Network.requestWillBeSent", page._requested)
        session.on("Network.loadingFinished", page._arrived)
        session.on("Network.loadingFailed", page._arrived)
        session.on("Input.dragIntercepted", page._drag_began)
        send = session.send
        await asyncio.gather(
            send("Inspector.enable"),
            send("Page.enable"),
            send("Input.setInterceptDrags", {"enabled": True}),
        )
        return page

    # ---- for every thread --------------------------------------------------------------------

    @property
    def playwright(self) -> "PlaywrightPage":
        """Playwright's own page, for oracles and users; its coroutines go to `run`.

        Much of what Playwright does waits for a frame. Where pages draw only when told to, this one
        draws several times a second once it has been asked for.
        """
        if self.browser.stepped and not self._drawn_for_others:
            self._drawn_for_others = True
            self.browser.begin(self._draw_for_others())
        return self._playwright

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run a coroutine that uses this page, and wait for it.

        Raises:
            BrowserError: the page or Chromium failed, or did not answer in time.
        """
        guarded = self._guarded(coroutine, timeout_s)
        try:
            return self.browser.run(guarded, timeout_s + CLOSE_TIMEOUT_S)
        finally:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # it never came to run

    def close(self) -> None:
        """Close the page and its context; may be called twice, and after Chromium's end."""
        try:
            self.browser.run(self._close(), CLOSE_TIMEOUT_S)
        except BrowserError as error:  # it is gone already, and that is what was asked for
            logger.debug("a page did not close cleanly: %s", error)

    @property
    def loading(self) -> bool:
        """Whether something is on its way that will change the page."""
        return bool(self._loading)

    @property
    def failure(self) -> str:
        """Why the page can no longer be used; empty if it can."""
        if self._failure.done():
            return self._failure.result()
        return ""

    def give_up(self, why: str) -> None:
        """Let whoever waits for the page, now or later, fail; only on the browser's loop."""
        if not self._failure.done():
            self._failure.set_result(why)

    # ---- on the browser's loop ---------------------------------------------------------------

    async def navigate(self, url: str) -> None:
        """Load an address and wait for its load event.

        Raises:
            BrowserError: nothing could be loaded.
        """
        await self.session.send("Network.disable")  # a page load makes many events
        self._loading.clear()
        self._loaded = asyncio.get_running_loop().create_future()
        self._navigating = True
        answer = await self.session.send("Page.navigate", {"url": url})
        if answer.get("errorText"):
            raise BrowserError(f"cannot open {url}: {answer['errorText']}")
        await self._loaded
        await self.session.send("Network.enable")

    async def evaluate(self, expression: str, *, world: int | None = None) -> Any:
        """The JSON value of an expression, by default in the page's own world; awaits promises.

        Raises:
            ScriptError: the expression threw.
        """
        return _value(await self._ask(expression, world))

    async def ask(self, expression: str) -> Any:
        """The value of an expression in our isolated world, where `observe.js` is `agentgym`."""
        return await self.evaluate(expression, world=await self._our_world())

    async def evaluate_in_time(self, expression: str, again: str) -> Any:
        """What an expression comes to once all frames that it asks for are drawn.

        Args:
            expression: gives, in the page's own world, an array of whether a frame is due and of
                what is returned if none is.
            again: the same, after each frame.
        """
        return await self._in_time(await self.evaluate(expression), again)

    async def evaluate_and_look(
        self, expression: str, again: str, *, look: str = "agentgym.look()"
    ) -> tuple[Any, PageView]:
        """Like `evaluate_in_time`, then `look`, but asked at once.

        Args:
            expression: see `evaluate_in_time`.
            again: see there.
            look: what to look by; it happens before the frames if there are any.
        """
        world = await self._our_world()
        asked = self._asked
        first, second = self._ask(expression, None), self._ask(look, world)
        await asyncio.wait((first, second))
        due, value = _value(first.result())
        if due:
            value = await self._in_time((due, value), again)
        elif second.exception() is None and not self._awaits(asked):
            return value, view_of(_value(second.result()))
        return value, await self.look()

    async def _in_time(self, found: Sequence[Any], again: str) -> Any:
        due, value = found
        while due:
            await self.frame()
            due, value = await self.evaluate(again)
        return value

    async def look(self) -> PageView:
        """The page as it is once what it has asked for is there, without its picture.

        Looking lays the page out, which is what makes it ask for pictures; those are waited for, up
        to `SETTLE_TIMEOUT_S`.
        """
        asked = self._asked
        raw = await self.ask(self.how)
        if self._awaits(asked):
            await self.settle()
            raw = await self.ask(self.how)
        return view_of(raw)

    def _awaits(self, asked: int) -> bool:
        """Whether something comes, or has just come and is not taken in, since so many requests."""
        return bool(self._loading) or self._asked > asked

    async def settle(self) -> None:
        """Wait for a frame, and for what the page has asked for."""
        asked = -1
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        await self.frame()
        while self._awaits(asked) and time.monotonic() < deadline:
            if self._loading:
                await asyncio.sleep(0.002)
                continue
            asked = self._asked
            await self.ask("agentgym.idle()")  # what came is taken in, and may ask for more
            await self.frame()

    async def frame(self) -> None:
        """One frame, with which the page learns what is under the mouse and what was scrolled."""
        if not self.browser.stepped:
            await self.ask("agentgym.frame()")
            return
        await self.evaluate("document.body?.getBoundingClientRect(), 0")  # see observe.js
        await self._draw({})

    async def point(self, *events: dict[str, Any]) -> None:
        """Mouse events, in order and as one burst."""
        posted = [self.session.post("Input.dispatchMouseEvent", event) for event in events]
        if events[-1]["type"] == "mouseMoved":
            # A move that nothing follows waits for a frame. This goes the same way and changes
            # nothing.
            posted.append(self.session.post("Page.bringToFront"))
        self.mouse = (events[-1]["x"], events[-1]["y"])
        await asyncio.gather(*posted)

    async def dragged(self) -> dict[str, Any] | None:
        """What a drag of the page's own (HTML5) carries, if the mouse has just begun one."""
        await self.evaluate("0")  # its event comes before this answer
        data, self._dragged = self._dragged, None
        return data

    async def photograph(self) -> bytes:
        """The viewport as PNG."""
        options = {"format": "png", "optimizeForSpeed": True}
        if not self.browser.stepped:
            answer = await self.session.send("Page.captureScreenshot", options)
            return base64.b64decode(answer["data"])
        for _ in range(_FRAMES):
            answer = await self._draw({"screenshot": options})
            if "screenshotData" in answer:
                return base64.b64decode(answer["screenshotData"])
        raise BrowserError(f"the page drew no picture in {_FRAMES} frames")

    async def _draw(self, options: dict[str, Any]) -> dict[str, Any]:
        async with self.browser.drawing:
            return await self.session.send("HeadlessExperimental.beginFrame", options)

    async def _draw_for_others(self) -> None:
        while not self.failure:
            await self._draw({})
            await asyncio.sleep(_OTHERS_S)

    def _ask(self, expression: str, world: int | None) -> asyncio.Future[dict[str, Any]]:
        message = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        if world is not None:
            message["contextId"] = world
        return self.session.post("Runtime.evaluate", message)

    async def _our_world(self) -> int:
        """The isolated world of the document, in which `observe.js` has run."""
        if self._world is None:
            tree = await self.session.send("Page.getFrameTree")
            frame = tree["frameTree"]["frame"]["id"]
            world = {"frameId": frame, "worldName": "agentgym"}
            made = await self.session.send("Page.createIsolatedWorld", world)
            await self.evaluate(_observe(), world=made["executionContextId"])
            self._world = int(made["executionContextId"])
        return self._world

    async def _guarded(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        from playwright.async_api import Error

        task = asyncio.ensure_future(coroutine)
        try:
            either: set[asyncio.Future[Any]] = {task, self._failure}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.give_up(f"the page did not answer within {timeout_s:g} s")
            raise BrowserError(self.failure)
        except (Error, ProtocolError) as error:
            raise BrowserError(self.failure or one_line(error)) from error
        finally:
            task.cancel()

    async def _close(self) -> None:
        from playwright.async_api import Error

        self.give_up("the page is closed")
        try:
            await self._context.close()
        except Error as error:
            logger.debug("a context did not close cleanly: %s", one_line(error))

    def _dialog_opened(self, dialog: "Dialog") -> None:
        quietly(dialog.dismiss())

    def _popup_opened(self, popup: "PlaywrightPage") -> None:
        quietly(popup.close())

    def _navigated(self, event: dict[str, Any]) -> None:
        """A new document in some frame, whoever asked for it."""
        if event["frame"].get("parentId"):
            return
        self._world = None
        self.left_for = "" if self._navigating else event["frame"]["url"]
        self._navigating = False

    def _requested(self, event: dict[str, Any]) -> None:
        if event.get("type") in _AWAITED:
            self._asked += 1
            self._loading.add(event["requestId"])

    def _arrived(self, event: dict[str, Any]) -> None:
        self._loading.discard(event["requestId"])

    def _drag_began(self, event: dict[str, Any]) -> None:
        self._dragged = event["data"]

    def _load_fired(self, _: dict[str, Any]) -> None:
        if not self._navigating and not self._loaded.done():
            self._loaded.set_result(None)


async def _session_of(context: "BrowserContext", page: "PlaywrightPage") -> CDPSession:
    """A session of our own with a page of Playwright's."""
    if context.browser is None:
        raise BrowserError("Chromium ended")
    connection = await Connection.to(context.browser)
    session = await context.new_cdp_session(page)  # only Playwright knows which target it is
    target = (await session.send("Target.getTargetInfo"))["targetInfo"]["targetId"]
    await session.detach()
    return await connection.attach(target)


def _value(answer: dict[str, Any]) -> Any:
    """What a script came to.

    Raises:
        ScriptError: it threw.
    """
    if "exceptionDetails" in answer:
        details = answer["exceptionDetails"]
        text = details.get("exception", {}).get("description") or details.get("text", "")
        raise ScriptError(f"script failed: {text[:500]}")
    return answer["result"].get("value")


def view_of(text: str) -> PageView:
    """The records for what `agentgym.look()` returned."""
    with _uncollected():
        raw = json.loads(text)
        elements = tuple(
            Element(
                id,
                role,
                name,
                value,
                tag,
                depth,
                tuple(states) if states else (),
                tuple(options) if options else (),
                tuple(box),
                tuple(map(tuple, attributes)) if attributes else (),
            )
            for id, role, name, value, tag, depth, states, options, box, attributes in raw.pop(
                "elements"
            )
        )
    return PageView(elements, raw["url"], raw["title"], raw["focused"])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles, for what makes very many objects and no cycle.

    It would run dozens of times over them and over all that the process holds besides.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def image_of(png: bytes, size: tuple[int, int]) -> ImageArray:
    """A PNG's pixels, cut or padded with black to exactly (width, height).

    Returns:
        (H, W, 3) RGB.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
    image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    height, width = min(size[1], pixels.shape[0]), min(size[0], pixels.shape[1])
    image[:height, :width] = pixels[:height, :width]
    return image


@cache
def _observe() -> str:
    return script("hover.js") + script("observe.js")


def script(name: str) -> str:
    """The text of a script in this folder."""
    return resources.files("agentgym.environments.web").joinpath(name).read_text(encoding="utf-8")


def one_line(error: BaseException) -> str:
    """The first line of an error's message, not too long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


_background: set[asyncio.Task[Any]] = set()  # the loop itself only keeps weak references


def quietly(coroutine: Awaitable[Any]) -> None:
    """Run something nobody waits for; the page may be gone before it is done."""

    async def attempt() -> None:
        from playwright.async_api import Error

        try:
            await coroutine
        except (Error, BrowserError) as error:
            logger.debug("ignored: %s", one_line(error))

    task = asyncio.ensure_future(attempt())
    _background.add(task)
    task.add_done_callback(_background.discard)
