"""The network of a session: written down on a tape, played back from one, or told to a log."""

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentgym.environments.web.cdp import CDPSession, Connection, ProtocolError, one_each
from agentgym.environments.web.guard import Gate
from agentgym.environments.web.page import one_line, quietly
from agentgym.environments.web.tab import MAX_BYTES
from agentgym.tape import Exchange, Tape

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium

logger = logging.getLogger(__name__)

MAX_BODY = MAX_BYTES
"""Larger answers are not kept: their requests fail when they are played back, which is told. No
page may receive as much."""
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


def offline(tape: Tape) -> Callable[[str, int], bool]:
    """For a relay: nobody may be connected to, and who tries has asked for what is not on the tape.

    All that a tape answers is answered without a connection.
    """

    def refuses(host: str, port: int) -> bool:
        tape.miss(f"connection to {host}:{port}")
        return False

    return refuses


Log = Callable[[Exchange], None]


@dataclass(frozen=True, slots=True)
class _Line:
    """What is done with the requests of one context."""

    tape: Tape | None
    log: Log | None

    @property
    def plays(self) -> bool:
        return self.tape is not None and not self.tape.recording

    def tell(self, exchange: Exchange) -> None:
        if self.tape is not None and self.tape.recording:
            self.tape.record(exchange)
        if self.log is not None:
            self.log(exchange)


class Wire:
    """Pauses the requests of contexts that have a tape or a log. Only on the browser's loop.

    Answers that never end, such as event streams, are not kept. For web sockets see `sockets`.
    """

    def __init__(self, session: CDPSession, gate: Gate) -> None:
        self._session = session
        self._gate = gate
        self._lines: dict[str, _Line] = {}  # by context id
        session.on("Fetch.requestPaused", self._paused)

    @classmethod
    async def of(cls, chromium: "Chromium") -> "Wire":
        """The wire of this Chromium; made when first asked for."""
        return await _wire_of(chromium)

    @classmethod
    async def _on(cls, chromium: "Chromium") -> "Wire":
        gate = await Gate.of(chromium)
        return cls(await (await Connection.to(chromium)).attach_to_browser(), gate)

    async def listen(self, context: str, tape: Tape | None, log: Log | None) -> None:
        """From now on what a context asks for is on this tape, and told to this log."""
        self._lines[context] = _Line(tape, log)
        await self._enable()

    async def forget(self, context: str) -> None:
        """A context is closed."""
        if self._lines.pop(context, None) is not None:
            await self._enable()

    async def _enable(self) -> None:
        stages = {"Request" if line.plays else "Response" for line in self._lines.values()}
        if not stages:
            await self._session.send("Fetch.disable")
            return
        patterns = [{"urlPattern": "http*", "requestStage": stage} for stage in sorted(stages)]
        await self._session.send("Fetch.enable", {"patterns": patterns})

    def _paused(self, event: dict[str, Any]) -> None:
        context, line = self._line_of(event.get("frameId", ""))
        answered = "responseStatusCode" in event or "responseErrorReason" in event
        if line is None or line.plays is answered:
            self._go_on(event)
        elif answered:
            quietly(self._record(line, context, event))
        elif line.tape is not None:
            quietly(self._play(line, line.tape, context, event))

    def _line_of(self, frame: str) -> tuple[str, _Line | None]:
        context = self._gate.owner(frame)
        if context is not None:
            return context, self._lines.get(context)
        # Workers are frames of nobody.
        return next(iter(self._lines.items())) if len(self._lines) == 1 else ("", None)

    def _go_on(self, event: Mapping[str, Any]) -> None:
        request = {"requestId": event["requestId"]}
        quietly(self._session.send("Fetch.continueRequest", request))

    async def _record(self, line: _Line, context: str, event: Mapping[str, Any]) -> None:
        body, problem = b"", event.get("responseErrorReason", "")
        headers = tuple((h["name"], h["value"]) for h in event.get("responseHeaders", ()))
        status = event.get("responseStatusCode", 0)
        if not problem and not 300 <= status < 400:
            if _kept(headers):
                body = await self._body(event)
                if len(body) > MAX_BODY:
                    body, problem = b"", _NEVER
            else:
                problem = _NEVER
        asked = await self._asked(context, event, line.log is not None)
        self._go_on(event)
        line.tell(replace(asked, status=status, headers=headers, body=body, problem=problem))

    async def _body(self, event: Mapping[str, Any]) -> bytes:
        try:
            request = {"requestId": event["requestId"]}
            answer = await self._session.send("Fetch.getResponseBody", request)
        except ProtocolError as error:  # a body that cannot be had, as of a download
            logger.debug("no body of %s: %s", event["request"]["url"], one_line(error))
            return b""
        text: str = answer["body"]
        return base64.b64decode(text) if answer["base64Encoded"] else text.encode()

    async def _asked(self, context: str, event: Mapping[str, Any], cookies: bool) -> Exchange:
        """The request alone. Its cookies are Chromium's to add, so they are looked up."""
        request, frame = event["request"], event.get("frameId", "")
        headers = {name.lower(): str(value) for name, value in request["headers"].items()}
        if cookies and context and "cookie" not in headers:
            stored = {"browserContextId": context}
            found = (await self._session.send("Storage.getCookies", stored))["cookies"]
            host = urlsplit(request["url"]).hostname or ""
            headers["cookie"] = "; ".join(
                f"{cookie['name']}={cookie['value']}"
                for cookie in found
                if f".{host}".endswith(f".{cookie['domain'].lstrip('.')}")
            )
        posted = request.get("postData", "")
        return Exchange(
            request["method"],
            request["url"],
            _digest(posted),
            asked=tuple(headers.items()),
            posted=posted,
            document=event.get("resourceType") == "Document" and self._gate.is_tab(frame),
        )

    async def _play(self, line: _Line, tape: Tape, context: str, event: Mapping[str, Any]) -> None:
        request: dict[str, Any] = {"requestId": event["requestId"]}
        asked = await self._asked(context, event, line.log is not None)
        found = tape.answer(*asked.key)
        if found is not None and found.problem == _NEVER:
            tape.miss(f"{asked.method} {asked.url} (its answer was endless or too large to keep)")
        if found is None or found.problem:
            reason = "InternetDisconnected"
            if found is not None and found.problem != _NEVER:
                reason = found.problem
            failed = request | {"errorReason": reason}
            quietly(self._session.send("Fetch.failRequest", failed))
            line.tell(replace(asked, problem=reason))
            return
        headers = [
            {"name": name, "value": value}
            for name, value in found.headers
            if name.lower() not in _NOT_AGAIN
        ]
        answer = request | {"responseCode": found.status, "responseHeaders": headers}
        answer["body"] = base64.b64encode(found.body).decode()
        quietly(self._session.send("Fetch.fulfillRequest", answer))
        line.tell(replace(asked, status=found.status, headers=found.headers, body=found.body))


def _digest(sent: str) -> str:
    return hashlib.sha256(sent.encode("utf-8", "surrogatepass")).hexdigest() if sent else ""


def _kept(headers: tuple[tuple[str, str], ...]) -> bool:
    """Whether an answer ends, and is not too large."""
    for name, value in headers:
        match name.lower():
            case "content-type" if value.lower().startswith(_ENDLESS):
                return False
            case "content-length" if value.isdigit() and int(value) > MAX_BODY:
                return False
    return True


_wire_of = one_each(Wire._on)
