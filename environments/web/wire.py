"""The network of a session, written down on a tape or played back from one, below the page."""

import asyncio
import base64
import hashlib
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentgym.environments.web.guard import Gate
from agentgym.environments.web.page import one_line, quietly
from agentgym.tape import Exchange, Tape

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import CDPSession

logger = logging.getLogger(__name__)

MAX_BODY = 20_000_000
"""Larger answers are not kept: their requests fail when they are played back."""
_ENDLESS = ("text/event-stream", "multipart/x-mixed-replace", "video/", "audio/")
_NOT_AGAIN = frozenset(("content-encoding", "content-length", "transfer-encoding"))
_NEVER = "not kept"
SAME_WORLD = """(() => {
  const Real = Date, ahead = %d - Real.now();
  const now = () => Real.now() + ahead;
  globalThis.Date = new Proxy(Real, {
    construct: (target, given, maker) =>
      Reflect.construct(target, given.length ? given : [now()], maker),
    apply: () => new Real(now()).toString(),
    get: (target, name) => (name === "now" ? now : Reflect.get(target, name)),
  });
  let state = %d >>> 0;
  Math.random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
})();"""
"""Time that begins at a given millisecond, and chance from a given number."""


def same_world(tape: Tape) -> str:
    """A script that gives pages the same dates and random numbers whenever a tape is used."""
    began = round(tape.started * 1000)
    return SAME_WORLD % (began, (began + tape.episode) % 2**32)


class Wire:
    """Pauses the requests of contexts that have a tape. Only on the browser's loop.

    Web sockets are not on tapes, nor are answers that never end, such as event streams.
    """

    def __init__(self, session: "CDPSession", owner: Callable[[str], str | None]) -> None:
        self._session = session
        self._owner = owner
        self._tapes: dict[str, Tape] = {}  # by context id
        session.on("Fetch.requestPaused", self._paused)

    @classmethod
    async def of(cls, chromium: "Chromium") -> "Wire":
        """The wire of this Chromium; made when first asked for."""
        if chromium not in _wires:
            _wires[chromium] = asyncio.ensure_future(cls._on(chromium))
        return await asyncio.shield(_wires[chromium])

    @classmethod
    async def _on(cls, chromium: "Chromium") -> "Wire":
        gate = await Gate.of(chromium)
        return cls(await chromium.new_browser_cdp_session(), gate.owner)

    async def tape(self, context: str, tape: Tape) -> None:
        """From now on what a context asks for is on this tape."""
        self._tapes[context] = tape
        await self._listen()

    async def forget(self, context: str) -> None:
        """A context is closed."""
        if self._tapes.pop(context, None) is not None:
            await self._listen()

    async def _listen(self) -> None:
        stages = {"Response" if tape.recording else "Request" for tape in self._tapes.values()}
        if not stages:
            await self._session.send("Fetch.disable")
            return
        patterns = [{"urlPattern": "http*", "requestStage": stage} for stage in sorted(stages)]
        await self._session.send("Fetch.enable", {"patterns": patterns})

    def _paused(self, event: dict[str, Any]) -> None:
        tape = self._tape_of(event.get("frameId", ""))
        answered = "responseStatusCode" in event or "responseErrorReason" in event
        if tape is None or tape.recording is not answered:
            self._go_on(event)
        elif answered:
            quietly(self._record(tape, event))
        else:
            self._play(tape, event)

    def _tape_of(self, frame: str) -> Tape | None:
        context = self._owner(frame)
        if context is not None:
            return self._tapes.get(context)
        # Workers are frames of nobody.
        return next(iter(self._tapes.values())) if len(self._tapes) == 1 else None

    def _go_on(self, event: Mapping[str, Any]) -> None:
        request = {"requestId": event["requestId"]}
        quietly(self._session.send("Fetch.continueRequest", request))

    async def _record(self, tape: Tape, event: Mapping[str, Any]) -> None:
        from playwright.async_api import Error

        body, problem = b"", event.get("responseErrorReason", "")
        headers = tuple((h["name"], h["value"]) for h in event.get("responseHeaders", ()))
        status = event.get("responseStatusCode", 0)
        if not problem and not 300 <= status < 400:
            if _kept(headers):
                try:
                    request = {"requestId": event["requestId"]}
                    answer = await self._session.send("Fetch.getResponseBody", request)
                    encoded = answer["base64Encoded"]
                    text = answer["body"]
                    body = base64.b64decode(text) if encoded else text.encode()
                except Error as error:  # a body that cannot be had, as of a download
                    logger.debug("no body of %s: %s", event["request"]["url"], one_line(error))
            else:
                problem = _NEVER
        self._go_on(event)
        method, url, sent = _asked(event)
        tape.record(Exchange(method, url, sent, status, headers, body, problem))

    def _play(self, tape: Tape, event: Mapping[str, Any]) -> None:
        request: dict[str, Any] = {"requestId": event["requestId"]}
        found = tape.answer(*_asked(event))
        if found is None or found.problem:
            reason = "InternetDisconnected"
            if found is not None and found.problem != _NEVER:
                reason = found.problem
            failed = request | {"errorReason": reason}
            quietly(self._session.send("Fetch.failRequest", failed))
            return
        headers = [
            {"name": name, "value": value}
            for name, value in found.headers
            if name.lower() not in _NOT_AGAIN
        ]
        answer = request | {"responseCode": found.status, "responseHeaders": headers}
        answer["body"] = base64.b64encode(found.body).decode()
        quietly(self._session.send("Fetch.fulfillRequest", answer))


def _asked(event: Mapping[str, Any]) -> tuple[str, str, str]:
    """Method, address and hash of what was sent."""
    request = event["request"]
    sent = request.get("postData", "")
    digest = hashlib.sha256(sent.encode("utf-8", "surrogatepass")).hexdigest() if sent else ""
    return request["method"], request["url"], digest


def _kept(headers: tuple[tuple[str, str], ...]) -> bool:
    """Whether an answer ends, and is not too large."""
    for name, value in headers:
        match name.lower():
            case "content-type" if value.lower().startswith(_ENDLESS):
                return False
            case "content-length" if value.isdigit() and int(value) > MAX_BODY:
                return False
    return True


_wires: "weakref.WeakKeyDictionary[Chromium, asyncio.Task[Wire]]" = weakref.WeakKeyDictionary()
