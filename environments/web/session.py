"""A browsing session: one visitor with cookies and tabs, kept to what a guard allows.

Nothing a page does ends the session: it is bounded, stopped or closed, and told. What is wrong for
the agent collects in `Session.problems`, what it may like to know in `Session.notes`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import numpy as np

from agentgym.actions import ActionCall, ActionSpec
from agentgym.environments.web.actions import perform
from agentgym.environments.web.browser import START_TIMEOUT_S, Browser, new_context
from agentgym.environments.web.guard import BLANK, Gate, Guard
from agentgym.environments.web.inputs import INPUT_ACTIONS, Inputs
from agentgym.environments.web.page import CLOSE_TIMEOUT_S, image_of, one_line, quietly, script
from agentgym.environments.web.relay import Relay
from agentgym.environments.web.sockets import Sockets
from agentgym.environments.web.tab import LOAD_S, NETWORK_S, Tab
from agentgym.environments.web.uploads import Uploads
from agentgym.environments.web.view import PageView
from agentgym.environments.web.wire import Log, Wire, offline, same_world
from agentgym.errors import BrowserError, ConfigError
from agentgym.tape import Tape
from agentgym.types import ImageArray

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, Dialog

T = TypeVar("T")

ACTION_S = 5.0
"""How long a page may hold up an action or a look at it."""
CALL_S = 60.0
"""Deadline of a whole call; what it bounds inside is far below."""
MAX_TABS = 10
MAX_WINDOWS = 20
"""Windows that one action may open before the tabs that open them are closed."""
MAX_DIALOGS = 20
"""Dialogs of one action before the tab that opens them is closed."""
MAX_NOTES = 10
Dialogs = Literal["accept", "dismiss"]


# ---- what the agent reads: names, parameters and one line each ------------------------------


def goto(url: str) -> None:
    """Open an address in the current tab."""


def go_back() -> None:
    """Go back in the tab's history."""


def go_forward() -> None:
    """Go forward in the tab's history."""


def new_tab() -> None:
    """Open an empty tab and make it the current one."""


def tab_focus(index: int) -> None:
    """Make another tab the current one."""


def tab_close() -> None:
    """Close the current tab."""


TAB_ACTIONS: Mapping[str, ActionSpec] = {
    f.__name__: ActionSpec.from_function(f)
    for f in (goto, go_back, go_forward, new_tab, tab_focus, tab_close)
}


def answer(text: str) -> None:
    """End the task with an answer; empty if it asked for none."""


def infeasible(reason: str) -> None:
    """End the task because it cannot be done."""


ENDINGS: Mapping[str, ActionSpec] = {
    f.__name__: ActionSpec.from_function(f) for f in (answer, infeasible)
}
"""What ends an episode; carried out by environments."""


# ---- how it is done -------------------------------------------------------------------------


class Session:
    """A context with its tabs. Every thread may `open`, `run` and `close`; coroutines go to `run`.

    A tab that hangs, crashes or keeps reloading is closed; the session goes on with another one.
    """

    def __init__(
        self, browser: Browser, context: "BrowserContext", gate: Gate, relay: Relay, kind: "Kind"
    ) -> None:
        self.browser = browser
        self.guard = _NOTHING
        self.size = kind.size
        """(width, height) of the viewport in CSS pixels."""
        self.tabs: list[Tab] = []
        self.current: Tab
        self.problems: list[str] = []
        """What went wrong since `begin`, said for the agent."""
        self.notes: list[str] = []
        """What else happened since `begin`: dialogs, pop-ups."""
        self.relay = relay
        """What the session's connections go through."""
        self._kind = kind
        self._context = context
        self._context_id = ""
        self._wire: Wire | None = None
        self._sockets: Sockets | None = None
        self._gate = gate
        self._dialogs: Dialogs = "accept"
        self._taken = False
        self._targets: list[str] = []  # of live tabs, oldest first; some may not be in `tabs` yet
        self._storm: set[str] = set()  # targets that kept opening windows, and what they opened
        self._empty: list[str] = []  # targets whose only document was refused
        self._dialog_count = self._windows = 0
        self._inputs: WeakKeyDictionary[Tab, Inputs] = WeakKeyDictionary()
        self.uploads: Uploads | None = None
        """The files that may be chosen for file fields."""
        context.on("dialog", self._dialog_opened)
        context.on("close", lambda _: relay.close())  # also if Chromium ends

    @classmethod
    def open(
        cls,
        browser: Browser,
        guard: Guard,
        *,
        size: tuple[int, int] = (1280, 720),
        locale: str = "en-US",
        geolocation: tuple[float, float] | None = None,
        storage_state: Path | str | None = None,
        dialogs: Dialogs = "accept",
        tape: Tape | None = None,
        log: Log | None = None,
    ) -> "Session":
        """A session with one blank tab; starts Chromium if it does not run.

        It may have been made in advance, but nobody has used it before.

        Args:
            browser: where.
            guard: what may be opened.
            size: (width, height) of the viewport in CSS pixels.
            locale: language that the browser asks for.
            geolocation: (latitude, longitude) told to pages that ask; other permissions are denied.
            storage_state: Playwright's file of cookies and local storage.
            dialogs: how `confirm` and `prompt` are answered.
            tape: the network is written on it, or played back from it and otherwise not used.
            log: told of each request and its answer, on the browser's loop.

        Raises:
            ConfigError: an argument is wrong.
            BrowserError: Chromium failed.
        """
        if dialogs not in get_args(Dialogs):
            raise ConfigError(f"dialogs must be one of {get_args(Dialogs)}, got {dialogs!r}")
        state = _storage(Path(storage_state)) if storage_state is not None else _NO_STATE
        kind = Kind(size, locale, geolocation, json.dumps(state["origins"]))

        async def open_in(chromium: "Chromium") -> "Session":
            session: Session = await browser.spares.take(kind, kind.maker(browser, chromium))
            session._taken = True
            session.guard, session._dialogs = guard, dialogs
            session.relay.allows = guard.reaches
            session.relay.checks = lambda host: not guard.named(host)
            if tape is not None and not tape.recording:
                session.relay.allows = offline(tape)
            try:
                if state["cookies"]:
                    await session._context.add_cookies(state["cookies"])
                if tape is not None:
                    await session._context.add_init_script(same_world(tape))
                    session._sockets = Sockets(tape)
                    await session._sockets.begin(session._context)
                    session._sockets.listen(session.current.session)
                if tape is not None or log is not None:
                    session._wire = await Wire.of(chromium)
                    await session._wire.listen(session._context_id, tape, log)
            except BaseException:  # Chromium ended meanwhile, or nobody waits any more
                session.discard()
                raise
            return session

        return browser.run(browser.use(open_in), START_TIMEOUT_S)

    async def usable(self) -> bool:
        """Whether its tab answers; before it is opened, see `spares.Spare`."""
        try:  # what befell it before is told before this is answered
            await self.current.attempt("It", self.current.summary(), ACTION_S)
        except BrowserError:
            return False
        return not self.current.failure

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = CALL_S) -> T:
        """Run a coroutine that uses this session, and wait for it.

        Raises:
            BrowserError: Chromium failed, or did not answer in time.
        """
        return self.browser.run(self._guarded(coroutine), timeout_s)

    def close(self) -> None:
        """Close everything; may be called twice, and after Chromium's end."""
        try:
            self.browser.run(self._close(), CLOSE_TIMEOUT_S)
        except BrowserError:
            return  # it is gone already, and that is what was asked for

    # ---- on the browser's loop: what an environment does -----------------------------------------

    async def start(self, urls: Sequence[str]) -> None:
        """Open each address in a tab of its own; the first becomes the current one.

        Raises:
            ConfigError: the guard does not allow an address.
            BrowserError: one could not be opened.
        """
        for index, url in enumerate(urls):
            refusal = self.guard.refusal(url)
            if refusal:
                raise ConfigError(f"{refusal} It is a start address: allow its host")
            if index:
                self.current = await self._open_tab()
            await self._open(self.current, url)
            await self.settle()
            await self._check_opened(self.current, url)
        self.current = self.tabs[0]
        await self.current.session.send("Page.bringToFront")
        if (chromium := self._context.browser) is not None:  # what is next can be made ready now
            self.browser.spares.fill(self._kind, self._kind.maker(self.browser, chromium))

    def begin(self) -> None:
        """A new action: what happens from now on is its doing."""
        self.problems, self.notes = [], []
        self._dialog_count = self._windows = 0
        for tab in self.tabs:
            tab.navigations = tab.downloads = 0
            tab.unreachable = None

    async def act(self, call: ActionCall, view: PageView) -> str:
        """Carry out a call on the current tab, or on the tabs. `begin` comes before the first.

        Args:
            call: of `actions`, `inputs`, `TAB_ACTIONS`, or `uploads.upload`.
            view: what the agent saw; errors tell which elements it could have named.

        Returns:
            What was wrong with the call, said for the agent; empty if it was carried out.
        """
        tab, error = self.current, ""
        try:
            if call.name in TAB_ACTIONS:
                error = await _DO[call.name](self, **call.arguments)
            elif call.name == "wait":
                error = await perform(tab, call, view)
                await asyncio.sleep(0.0 if error else call.arguments["seconds"])
            else:
                error = await tab.attempt("The action", self._perform(tab, call, view), ACTION_S)
        except BrowserError as problem:
            if not tab.failure:  # a new document came in between
                return f"The page changed before this was done ({one_line(problem)})."
            await self._lose(tab, problem)
        return error

    async def settle(self) -> str:
        """Wait until the current tab is quiet; tabs that pages opened become the session's.

        Returns:
            See `Tab.rest`; "closed" if the tab had to be closed.
        """
        if self._sockets is not None:
            await self._sockets.catch_up(self.current.playwright)
        reason = await self._rest()
        if len(self._targets) > len(self.tabs):
            await self._adopt_all()
            reason = await self._rest()
        for tab in [t for t in self.tabs if t.failure]:
            await self._lose(tab, BrowserError(tab.failure))
            reason = "closed"
        for tab in self.tabs:
            self.problems += tab.told
            tab.told = []
        return reason

    def still(self) -> AbstractAsyncContextManager[None]:
        """While the current tab is looked at, if there is a tape: see `Sockets.still`."""
        if self._sockets is None:
            return nullcontext()
        return self._sockets.still(self.current.playwright)

    async def look(self) -> PageView:
        """What the current tab shows; empty if it cannot be looked at."""
        view = await self.read("Looking at the page", Tab.look)
        return view or PageView((), url=(await self.where())[0])

    async def photograph(self) -> ImageArray:
        """(H, W, 3) RGB of the current tab; black if it cannot be looked at."""
        png = await self.read("The picture", Tab.photograph)
        if png is None:
            return np.zeros((self.size[1], self.size[0], 3), dtype=np.uint8)
        return image_of(png, self.size)

    async def read(self, what: str, of: Callable[[Tab], Coroutine[Any, Any, T]]) -> T | None:
        """What a coroutine finds out about the current tab; None if the tab cannot be read.

        Args:
            what: begins a sentence for the agent: "Looking at the page".
            of: makes the coroutine.
        """
        tab = self.current
        for _ in range(2):
            try:
                return await tab.attempt(what, of(tab), ACTION_S)
            except BrowserError as problem:
                if tab.failure:
                    await self._lose(tab, problem)
                    break
                await self._rest()  # a new document came meanwhile
                if not tab.told:
                    tab.told.append(f"{what} failed: {one_line(problem)}.")
        self.problems += tab.told
        tab.told = []
        return None

    @property
    def index(self) -> int:
        """Which of `tabs` is the current one."""
        return self.tabs.index(self.current)

    async def where(self) -> tuple[str, str]:
        """Address and title of the current tab."""
        return await self.current.summary()

    async def tab_list(self, view: PageView) -> list[tuple[str, str]]:
        """Address and title of each tab; the current one's are the view's."""
        others = [tab for tab in self.tabs if tab is not self.current]
        known = dict(zip(others, await asyncio.gather(*(t.summary() for t in others)), strict=True))
        known[self.current] = (view.url, view.title)
        return [known[tab] for tab in self.tabs]

    async def freeze(self) -> None:
        """Stop all tabs for good, so that they can be judged as they are."""
        await self._adopt_all()
        for tab in self.tabs:
            try:
                await asyncio.wait_for(tab.freeze(), ACTION_S)
            except TimeoutError:
                raise BrowserError("a tab did not stop") from None

    @asynccontextmanager
    async def visit(self, url: str) -> AsyncIterator[Tab]:
        """Another page with the session's cookies, in a tab that is closed after.

        Raises:
            BrowserError: it could not be opened.
        """
        refusal = self.guard.refusal(url)
        if refusal:
            raise ConfigError(f"{refusal} The evaluation reads it: allow its host")
        current, tab = self.current, await self._open_tab()
        try:
            await self._open(tab, url)
            await tab.attempt("The page", tab.rest(), LOAD_S + ACTION_S)
            await self._check_opened(tab, url)
            yield tab
        finally:
            self.tabs.remove(tab)
            self.current = current
            self._gate.close_tab(tab.id)

    async def _perform(self, tab: Tab, call: ActionCall, view: PageView) -> str:
        if call.name == "upload":
            return await self._upload(tab, **call.arguments)
        if call.name not in INPUT_ACTIONS:
            return await perform(tab, call, view)
        if tab not in self._inputs:
            self._inputs[tab] = Inputs(tab)
        return await self._inputs[tab].perform(call, view)

    async def _upload(self, tab: Tab, element: str, files: Sequence[str]) -> str:
        if self.uploads is None:
            return "There are no files to choose."
        return await self.uploads.choose(tab, element, files)

    # ---- the tab actions ---------------------------------------------------------------------

    async def _goto(self, url: str) -> str:
        url = url.strip()
        if "://" not in url and not urlsplit(url).scheme:
            url = f"http://{url}"
        refusal = self.guard.refusal(url)
        if refusal:
            return refusal
        try:
            await self._open(self.current, url)
        except BrowserError as problem:
            if self.current.failure:
                raise
            return f"{one_line(problem)}."
        return ""

    async def _move(self, by: int) -> str:
        url = await self.current.attempt("Going there", self.current.step_back(by), ACTION_S)
        return "" if url else f"There is no {'previous' if by < 0 else 'next'} page."

    async def _new(self) -> str:
        if len(self.tabs) >= MAX_TABS:
            return f"There are {MAX_TABS} tabs already; close one first."
        self.current = await self._open_tab()
        return ""

    async def _focus(self, index: int) -> str:
        if not 0 <= index < len(self.tabs):
            return f"There is no tab {index}. Tabs: 0-{len(self.tabs) - 1}."
        self.current = self.tabs[index]
        await self.current.session.send("Page.bringToFront")
        return ""

    async def _close_current(self) -> str:
        self._gate.close_tab(self.current.id)
        await self._remove(self.current)
        return ""

    # ---- tabs come and go ------------------------------------------------------------------------

    async def _open(self, tab: Tab, url: str) -> None:
        await tab.attempt("Opening the page", tab.navigate(url), LOAD_S)

    async def _check_opened(self, tab: Tab, url: str) -> None:
        """Raise if what the environment itself opened is not there."""
        why = tab.failure
        if not why and tab.unreachable is not None:
            why = tab.unreachable[1]
        if not why and (await tab.summary())[0] in ("", BLANK):  # refused, or nothing ever came
            why = next(iter([*tab.told, *self.problems]), "it showed nothing")
        if why:
            raise BrowserError(f"cannot open {url}: {why}")

    async def _open_tab(self) -> Tab:
        tab = await self._adopt(await self._context.new_page())
        tab.told = []
        return tab

    async def _adopt(self, page: Any) -> Tab:
        tab = await Tab.adopt(self.browser, self._context, page, self.size)
        tab.explained = self.relay.explained
        if not self._context_id:
            self._context_id = tab.context_id
            self._gate.watch(tab.context_id, self)
        tab.session.on(
            "Page.frameAttached", lambda event: self._gate.know(event["frameId"], tab.context_id)
        )
        if self._sockets is not None:
            self._sockets.listen(tab.session)
        if tab.id not in self._targets:
            self._targets.append(tab.id)
        self.browser.watch(tab)
        self.tabs.append(tab)
        return tab

    async def _adopt_all(self) -> None:
        """Make tabs of what pages have opened, the newest the current one; drop what is closed."""
        end = asyncio.get_running_loop().time() + NETWORK_S
        while True:
            ours = {tab.playwright for tab in self.tabs}
            new = [
                page for page in self._context.pages if page not in ours and not page.is_closed()
            ]
            for page in new:
                if self._windows > MAX_WINDOWS:
                    quietly(page.close())
                    continue
                if len(self.tabs) >= MAX_TABS:
                    self._note(f"There are {MAX_TABS} tabs; more of them were closed.")
                    await page.close()
                    continue
                try:
                    self.current = await asyncio.wait_for(self._adopt(page), ACTION_S)
                except TimeoutError:
                    self.problems.append("A new tab hung and was closed.")
                    quietly(page.close())
            if not self._waiting() or asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.005)
        for target in self._waiting():
            self._empty.append(target)
            self.problems.append("A new tab did not load and was closed.")
        # Not sooner: a tab that is closed while it comes into being blocks the page that opens it.
        for target in self._empty:
            self._gate.close_tab(target)
            if target in self._targets:
                self._targets.remove(target)
        self._empty = []

    def _waiting(self) -> list[str]:
        """Targets that are no tabs yet and may become some."""
        known = {*self._empty, *(tab.id for tab in self.tabs)}
        return [target for target in self._targets if target not in known]

    async def _remove(self, tab: Tab) -> None:
        """A tab is gone: the last of the others becomes current, or a new blank one."""
        tab.give_up("the tab was closed")
        if tab in self.tabs:
            self.tabs.remove(tab)
        if tab.id in self._targets:
            self._targets.remove(tab.id)
        if tab is self.current:
            self.current = self.tabs[-1] if self.tabs else await self._open_tab()
            await self.current.session.send("Page.bringToFront")

    async def _lose(self, tab: Tab, problem: BrowserError) -> None:
        """A tab failed: close it, unless the whole of Chromium did."""
        if not tab.failure:
            raise problem
        browser = self._context.browser
        if browser is None or not browser.is_connected():
            raise BrowserError("Chromium ended") from problem
        if tab not in self.tabs:
            return
        self.problems += tab.told
        if tab.id in self._targets:
            self._gate.close_tab(tab.id)
            self.problems.append(f"The tab was closed: {tab.failure}.")
        else:
            self.notes.append("The page closed its tab.")
        await self._remove(tab)

    async def _rest(self) -> str:
        tab = self.current
        try:
            return await tab.attempt("The page", tab.rest(), LOAD_S + ACTION_S)
        except BrowserError as problem:
            await self._lose(tab, problem)
            return "closed"

    # ---- what the gate and the pages tell ----------------------------------------------------

    def refused(self, url: str, why: str, frame: str) -> None:
        """See `guard.Visitor`."""
        if why not in self.problems and len(self.problems) < MAX_NOTES:
            self.problems.append(why)
        if frame in self._waiting():
            self._empty.append(frame)

    def opened(self, target: str, opener: str) -> None:
        """See `guard.Visitor`."""
        if opener in self._storm:  # it goes on although it is over
            self._storm.add(target)
            self._gate.close_tab(target)
            return
        self._targets.append(target)
        self._windows += 1
        if self._windows > MAX_WINDOWS:
            self._storm.add(target)
            for tab in self.tabs:
                if tab is self.current or tab.navigations:
                    self._storm.add(tab.id)
                    tab.give_up("it kept opening windows")

    def closed(self, target: str) -> None:
        """See `guard.Visitor`."""
        if target in self._targets:
            self._targets.remove(target)
            for tab in self.tabs:
                if tab.id == target:
                    tab.give_up("it was closed")

    def _dialog_opened(self, dialog: "Dialog") -> None:
        self._dialog_count += 1
        accept = self._dialogs == "accept" or dialog.type in ("alert", "beforeunload")
        self._note(
            f"A dialog ({dialog.type}) said {json.dumps(dialog.message[:200], ensure_ascii=False)} "
            f"and was answered {'OK' if accept else 'Cancel'}."
        )
        if self._dialog_count > MAX_DIALOGS:
            for tab in self.tabs:
                if tab.playwright == dialog.page:
                    tab.give_up("it kept opening dialogs")
            return
        text = dialog.default_value if dialog.type == "prompt" else None
        quietly(dialog.accept(text) if accept else dialog.dismiss())

    def _note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    async def _guarded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        from playwright.async_api import Error

        try:
            return await coroutine
        except Error as error:
            raise BrowserError(one_line(error)) from error

    async def _close(self) -> None:
        self.discard()

    def discard(self) -> None:
        """Close everything without waiting for it; may be called twice."""
        for tab in self.tabs:
            tab.give_up("the session is closed")
        if self._taken:
            self._taken = False
            self.browser.spares.left(self._kind)
        self.relay.close()
        self._gate.forget(self._context_id)
        if self._wire is not None:
            quietly(self._wire.forget(self._context_id))
        quietly(self._context.close())


@dataclass(frozen=True, slots=True)
class Kind:
    """What a session is made with, and cannot be given later."""

    size: tuple[int, int]
    locale: str
    geolocation: tuple[float, float] | None
    origins: str
    """Local storage by origin, as JSON."""

    def maker(self, browser: Browser, chromium: "Chromium") -> Callable[[], Awaitable[Session]]:
        """What makes a session of this kind, to which nothing is allowed yet."""
        return lambda: self._make(browser, chromium)

    async def _make(self, browser: Browser, chromium: "Chromium") -> Session:
        options: dict[str, Any] = {"locale": self.locale}
        if origins := json.loads(self.origins):
            options["storage_state"] = {"cookies": [], "origins": origins}
        permissions = []
        if self.geolocation is not None:
            latitude, longitude = self.geolocation
            options["geolocation"] = {"latitude": latitude, "longitude": longitude}
            permissions = ["geolocation"]
        gate, relay = await Gate.of(chromium), Relay()
        options["proxy"] = {"server": await relay.start()}
        try:
            context = await new_context(chromium, self.size, **options)
            await context.add_init_script(script("listeners.js") + script("pending.js"))
            await context.grant_permissions(permissions)  # denies all others
            session = Session(browser, context, gate, relay, self)
            session.current = await session._open_tab()
            await session.current.look()
        except BaseException:  # Chromium ended meanwhile, or nobody waits any more
            relay.close()
            raise
        return session


_NO_STATE: Mapping[str, Any] = {"cookies": [], "origins": []}
_NOTHING = Guard(["nothing.invalid"])  # a name that stands for no host, RFC 2606
_DO: Mapping[str, Callable[..., Coroutine[Any, Any, str]]] = {
    "goto": Session._goto,
    "go_back": lambda session: session._move(-1),
    "go_forward": lambda session: session._move(1),
    "new_tab": Session._new,
    "tab_focus": Session._focus,
    "tab_close": Session._close_current,
}


def _storage(file: Path) -> dict[str, Any]:
    """Playwright's storage state.

    Raises:
        ConfigError: the file holds none.
    """
    try:
        state = json.loads(file.read_text("utf-8"))
        good = isinstance(state["cookies"], list) and isinstance(state.get("origins", []), list)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{file} holds no storage state: {error!r}") from error
    if not good:
        raise ConfigError(f"{file} holds no storage state: cookies and origins must be lists")
    return {"cookies": state["cookies"], "origins": state.get("origins", [])}
