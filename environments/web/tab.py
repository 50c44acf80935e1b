"""One tab of a session: when it is quiet, and how it is stopped when it never is."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentgym.environments.web.cdp import CDPSession, ProtocolError
from agentgym.environments.web.page import Page, one_line, quietly
from agentgym.errors import BrowserError

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Dialog
    from playwright.async_api import Page as PlaywrightPage

    from agentgym.environments.web.browser import Browser

T = TypeVar("T")

LOAD_S = 10.0
"""How long a document is waited for, from the action that asked for it."""
NETWORK_S = 2.0
"""How long what a document asks for is waited for, once it has been read."""
CHANGES_MS = 300
"""How long a page may go on changing before it is looked at as it is."""
STOP_S = 2.0
"""What is told to stop and has not stopped by then is given up."""
MAX_NAVIGATIONS = 20
"""Documents that one action may lead through."""
MAX_DOWNLOADS = 5
"""Of one action that are told by name."""
MAX_BYTES = 64_000_000
"""What one document may receive."""
_POLL_S = 0.004
_DOWN = (502, 503, 504)  # what stands before a site answers for it


class Tab(Page):
    """A page that shares its context with other tabs. Its coroutines run on the browser's loop."""

    how = "agentgym.look(false)"  # raw attributes are for oracles
    timeless = False

    def __init__(
        self,
        browser: "Browser",
        context: "BrowserContext",
        page: "PlaywrightPage",
        session: CDPSession,
        size: tuple[int, int],
    ) -> None:
        super().__init__(browser, context, page, session, size)
        self.id = ""
        """The target's id, which is the main frame's too."""
        self.context_id = ""
        self.busy = False
        """A document is on its way or being read."""
        self.navigations = 0
        """Documents since the last action began."""
        self.downloads = 0
        """Refused since the last action began."""
        self.told: list[str] = []
        """What was wrong since somebody last took it, said for the agent."""
        self.unreachable: tuple[str, str] | None = None
        """(address, Chromium's word for the failure) if the last document did not come."""
        self.explained: Callable[[str, str], str] = lambda url, problem: problem
        """Chromium's word for a failure, given what it says of an address."""
        self._parsed_at = 0.0
        self._bytes = 0
        self._documents: dict[str, str] = {}  # requests for documents on their way

    @classmethod
    async def adopt(
        cls,
        browser: "Browser",
        context: "BrowserContext",
        playwright: "PlaywrightPage",
        size: tuple[int, int],
    ) -> Self:
        """A tab that is open already."""
        tab = await super().adopt(browser, context, playwright, size)
        info = (await tab.session.send("Target.getTargetInfo"))["targetInfo"]
        tab.id, tab.context_id = info["targetId"], info["browserContextId"]
        on = tab.session.on
        on("Page.frameStartedLoading", lambda event: tab._loads(event, True))
        on("Page.frameStoppedLoading", lambda event: tab._loads(event, False))
        on("Page.navigatedWithinDocument", lambda event: tab._loads(event, False))
        on("Page.domContentEventFired", lambda event: tab._parsed())
        on("Page.downloadWillBegin", tab._download)
        on("Network.dataReceived", tab._received)
        on("Network.responseReceived", tab._answered)
        # Bodies are not asked for, so Chromium need not keep them.
        small = {"maxTotalBufferSize": 1_000_000, "maxResourceBufferSize": 100_000}
        await tab.session.send("Network.enable", small)
        return tab

    async def attempt(self, what: str, coroutine: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Do something that a page can hold up. What it runs is stopped at the limit.

        Args:
            what: begins a sentence for the agent: "The action".
            coroutine: what to do.
            limit_s: seconds.

        Raises:
            BrowserError: the tab failed, or did not even stop: it can no longer be used.
        """
        from playwright.async_api import Error

        task = asyncio.ensure_future(coroutine)
        either: set[asyncio.Future[Any]] = {task, self._failure}
        try:
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self.failure:
                self.told.append(f"{what} took longer than {limit_s:g} s and was stopped.")
                quietly(self.session.send("Runtime.terminateExecution"))
                quietly(self.session.send("Page.stopLoading"))
                await asyncio.wait(either, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.give_up("it hung")
                raise BrowserError(self.failure)
            return task.result()
        except (Error, ProtocolError) as error:
            raise BrowserError(self.failure or one_line(error)) from error
        finally:
            task.cancel()

    async def navigate(self, url: str) -> None:
        """Begin to load an address; `rest` waits for the end.

        Raises:
            BrowserError: nothing could be loaded.
        """
        answer = await self.session.send("Page.navigate", {"url": url})
        problem = self.explained(url, answer.get("errorText", ""))
        if problem and problem != "net::ERR_ABORTED":  # refused, a download, or stopped
            raise BrowserError(f"cannot open {url}: {problem}")

    async def step_back(self, by: int) -> str:
        """Go to an entry of the tab's history, `by` steps from here.

        Returns:
            Its address; empty if there is none, and nothing has changed.
        """
        history = await self.session.send("Page.getNavigationHistory")
        index = history["currentIndex"] + by
        if not 0 <= index < len(history["entries"]):
            return ""
        entry = history["entries"][index]
        if not entry["url"].startswith("http"):
            return ""
        self.busy = True
        await self.session.send("Page.navigateToHistoryEntry", {"entryId": entry["id"]})
        return str(entry["url"])

    async def rest(self) -> str:
        """Wait until nothing loads, no timer is due soon and nothing changes.

        Returns:
            "quiet", or what still went on when the time was up: "loading" (the document),
            "network" (what it asked for), "timers" (short ones) or "changing". What was waited for
            in vain once is not waited for again.
        """
        end = time.monotonic() + LOAD_S
        network_end = 0.0
        while not self.failure:
            now = time.monotonic()
            if self.busy and now < end and not (0.0 < self._parsed_at < now - NETWORK_S):
                await asyncio.sleep(_POLL_S)
                continue
            if self.busy:
                self.busy = False
                return "loading"
            if self._loading:
                network_end = network_end or now + NETWORK_S
                if now < min(network_end, end):
                    await asyncio.sleep(_POLL_S)
                    continue
                self._loading.clear()
                return "network"
            try:
                reason = await self.ask(f"agentgym.rest({CHANGES_MS}, {json.dumps(self.mouse)})")
            except BrowserError:  # a new document came meanwhile
                self._world = None
                await asyncio.sleep(_POLL_S)
                reason = None
            if now > end or (reason is not None and not self.busy and not self._loading):
                return str(reason or "changing")
        raise BrowserError(self.failure)

    async def summary(self) -> tuple[str, str]:
        """Address and title, asked from Chromium and not from the page, which may be busy."""
        info = (await self.session.send("Target.getTargetInfo"))["targetInfo"]
        return info["url"], info["title"]

    async def freeze(self) -> None:
        """Stop the page's time for good: no timer, no frame. It can still be read."""
        await self.session.send("Page.stopLoading")
        await self.session.send("Emulation.setVirtualTimePolicy", {"policy": "pause"})

    # ---- what Chromium tells -------------------------------------------------------------------

    def _dialog_opened(self, dialog: "Dialog") -> None:
        """The session answers."""

    def _popup_opened(self, popup: "PlaywrightPage") -> None:
        """The session makes it a tab."""

    def _navigated(self, event: dict[str, Any]) -> None:
        super()._navigated(event)
        if event["frame"].get("parentId"):
            return
        self._bytes, self._parsed_at = 0, 0.0
        self._loading.clear()
        self.navigations += 1
        if self.navigations > MAX_NAVIGATIONS:
            self.give_up("it kept loading itself anew")

    def _loads(self, event: dict[str, Any], busy: bool) -> None:
        if event["frameId"] == self.id:
            self.busy = busy
            if busy:
                self._parsed_at = 0.0

    def _parsed(self) -> None:
        self._parsed_at = time.monotonic()

    def _requested(self, event: dict[str, Any]) -> None:
        super()._requested(event)
        if event.get("type") == "Document" and event.get("frameId") == self.id:
            self._documents[event["requestId"]] = event["request"]["url"]
            self.unreachable = None

    def _arrived(self, event: dict[str, Any]) -> None:
        super()._arrived(event)
        url = self._documents.pop(event["requestId"], "")
        if url and event.get("errorText") and not event.get("canceled"):
            self.unreachable = (url, self.explained(url, event["errorText"]))

    def _answered(self, event: dict[str, Any]) -> None:
        status = event["response"]["status"]
        if event["requestId"] in self._documents and status in _DOWN:
            self.unreachable = (event["response"]["url"], f"HTTP {status}")

    def _received(self, event: dict[str, Any]) -> None:
        before = self._bytes
        self._bytes += event["dataLength"]
        if before <= MAX_BYTES < self._bytes:
            quietly(self.session.send("Page.stopLoading"))
            self.told.append(f"The page sent more than {MAX_BYTES:,} bytes and was stopped.")

    def _download(self, event: dict[str, Any]) -> None:
        """Chromium refuses it, see `browser.new_context`."""
        self.busy = False
        self.downloads += 1
        name = str(event.get("suggestedFilename", ""))[:100]
        if self.downloads <= MAX_DOWNLOADS:
            self.told.append(f"The download of {name!r} was refused.")
        elif self.downloads == MAX_DOWNLOADS + 1:
            self.told.append("More downloads were refused.")
