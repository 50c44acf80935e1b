"""What an agent may reach: which addresses, decided below the page for every document request.

A `Guard` is a list of what is allowed. A `Gate` sits on one Chromium and pauses each request for a
document: typed, clicked, redirected to, framed, or opened by a script in a new tab. A request that
the guard of its context refuses never leaves the browser, and the page stays where it was. What
pages ask for besides (pictures, scripts, data, web sockets) is not paused: a `relay.Relay` lets no
connection through that the guard does not allow.

Addresses without a request (``file:``, ``data:``, ``javascript:``, ``chrome:``, ``view-source:``)
can only be typed, which `Guard.refusal` sees; Chromium itself keeps pages from going there.
"""

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from agentgym.environments.web.cdp import CDPSession, Connection, one_each
from agentgym.environments.web.page import quietly
from agentgym.errors import ConfigError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium

logger = logging.getLogger(__name__)

BLANK = "about:blank"
ANY = "*"
"""In a guard: every public host. What is local must be named."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Site:
    """Some hosts that are allowed."""

    host: str
    """Lower case, or `ANY`."""
    scheme: str = ""
    """``http`` or ``https``; empty for both."""
    port: int | None = None
    """None for the scheme's own."""
    subdomains: bool = False
    """Hosts under `host` count, and `host` itself."""

    @classmethod
    def read(cls, text: str) -> "Site":
        """A site from ``host``, ``host:port``, ``*.host``, ``http://host:port`` or ``*``.

        Raises:
            ConfigError: it is none of these.

        Example:
            >>> Site.read("http://localhost:7770").port, Site.read("*.Example.com").subdomains
            (7770, True)
        """
        if text == ANY:
            return cls(ANY)
        scheme, mark, rest = text.lower().rpartition("://")
        try:
            parts = urlsplit(f"//{rest}")
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as error:
            raise ConfigError(f"{text!r} is no host that can be allowed: {error}") from error
        subdomains = host.startswith("*.")
        host = host.removeprefix("*.")
        plain = host and "*" not in host and not parts.query and parts.username is None
        if not plain or parts.path.strip("/") or (mark and scheme not in _PORTS):
            raise ConfigError(
                f"{text!r} is no host that can be allowed; write host, host:port, *.host, "
                "http://host:port or *"
            )
        return cls(host, scheme, port, subdomains)

    def holds(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether an address is of this site."""
        if self.host == ANY:
            return _is_public(host)
        same = host == self.host or (self.subdomains and host.endswith(f".{self.host}"))
        own = _PORTS[scheme]
        return same and self.scheme in ("", scheme) and (port or own) == (self.port or own)


class Guard:
    """The addresses that are allowed: http and https, by scheme, host and port.

    Args:
        allowed: sites as `Site.read` reads them.
        resources: more sites, from which pages may load what they show; they cannot be opened.

    Raises:
        ConfigError: nothing is allowed, or something is no site.

    Example:
        >>> guard = Guard(["localhost:7770", "*.example.com"])
        >>> guard.refusal("http://localhost:7770/a"), guard.refusal("https://www.example.com")
        ('', '')
        >>> guard.refusal("file:///etc/passwd")
        "'file:///etc/passwd' was not opened: only http and https addresses are."
    """

    def __init__(self, allowed: Sequence[str], resources: Sequence[str] = ()) -> None:
        if isinstance(allowed, str) or not allowed:
            raise ConfigError(f"allowed hosts must be a list of at least one, got {allowed!r}")
        if isinstance(resources, str):
            raise ConfigError(f"resource hosts must be a list, got {resources!r}")
        self.allowed = tuple(allowed)
        self._sites = tuple(Site.read(text) for text in allowed)
        self._all = (*self._sites, *(Site.read(text) for text in resources))

    def reaches(self, host: str, port: int) -> bool:
        """Whether pages may connect to a port of a host, whatever for.

        Example:
            >>> guard = Guard(["http://shop.test"], resources=["cdn.test:8443"])
            >>> guard.reaches("shop.test", 80), guard.reaches("shop.test", 443)
            (True, False)
        """
        return any(site.holds(scheme, host, port) for site in self._all for scheme in _PORTS)

    def named(self, host: str) -> bool:
        """Whether a host is allowed by name, and not as one of all public ones."""
        return any(
            host == site.host or (site.subdomains and host.endswith(f".{site.host}"))
            for site in self._all
        )

    def refusal(self, url: str) -> str:
        """Why an address is not opened, said for the agent; empty if it is allowed."""
        if url == BLANK:
            return ""
        shown = repr(url if len(url) <= 100 else url[:97] + "...")
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return f"{shown} was not opened: it is no address."
        if scheme not in _PORTS:
            return f"{shown} was not opened: only http and https addresses are."
        # Chromium reads these as it likes, so that the host could be another one than it seems.
        if not host or "\\" in url or any(c.isspace() or not c.isprintable() for c in url):
            return f"{shown} was not opened: it is no address."
        if not any(site.holds(scheme, host, port) for site in self._sites):
            return f"{shown} was not opened: allowed are only {', '.join(self.allowed)}."
        return ""


def _is_public(host: str) -> bool:
    """False for names and numbers of this machine and of local networks."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        last = host.rpartition(".")[2]
        return "." in host and last not in ("localhost", "local", "internal") and not last.isdigit()


class Visitor(Protocol):
    """Whoever a context belongs to; told by the gate, on the browser's loop."""

    guard: Guard

    def refused(self, url: str, why: str, frame: str) -> None:
        """A document request was refused. `frame` is a target's id if it is a tab's main frame."""
        ...

    def opened(self, target: str, opener: str) -> None:
        """A tab has been opened, by the visitor or by a page, whose target is `opener`."""
        ...

    def closed(self, target: str) -> None:
        """A tab is gone."""
        ...


class Gate:
    """Pauses the document requests of one Chromium. Only on the browser's loop.

    Pages outside any watched context are let through.
    """

    def __init__(self, session: CDPSession) -> None:
        self._session = session
        self._visitors: dict[str, Visitor] = {}  # by context id
        self._frames: dict[str, str] = {}  # frame id -> context id
        self._tabs: set[str] = set()  # ids of targets, which are those of their main frames
        session.on("Fetch.requestPaused", self._paused)
        session.on("Target.targetCreated", self._created)
        session.on("Target.targetDestroyed", self._destroyed)

    @classmethod
    async def of(cls, chromium: "Chromium") -> "Gate":
        """The gate of this Chromium; made when first asked for."""
        return await _gate_of(chromium)

    @classmethod
    async def _on(cls, chromium: "Chromium") -> "Gate":
        gate = cls(await (await Connection.to(chromium)).attach_to_browser())
        kinds = [{"type": "page"}, {"type": "iframe"}]
        await gate._session.send("Target.setDiscoverTargets", {"discover": True, "filter": kinds})
        documents = {"urlPattern": "http*", "resourceType": "Document"}
        await gate._session.send("Fetch.enable", {"patterns": [documents]})
        return gate

    def watch(self, context: str, visitor: Visitor) -> None:
        """From now on a context is this visitor's. Its first tab must still be blank."""
        self._visitors[context] = visitor

    def forget(self, context: str) -> None:
        """A context is closed."""
        self._visitors.pop(context, None)
        self._frames = {frame: of for frame, of in self._frames.items() if of != context}

    def know(self, frame: str, context: str) -> None:
        """A frame inside a page belongs to a context."""
        self._frames[frame] = context

    def owner(self, frame: str) -> str | None:
        """The context that a frame belongs to, if it is known."""
        return self._frames.get(frame)

    def is_tab(self, frame: str) -> bool:
        """Whether a frame is the main one of a tab."""
        return frame in self._tabs

    def close_tab(self, target: str) -> None:
        """Close a tab without asking it."""
        quietly(self._session.send("Target.closeTarget", {"targetId": target}))

    def _created(self, event: dict[str, Any]) -> None:
        info = event["targetInfo"]
        target, context = info["targetId"], info.get("browserContextId", "")
        self._frames[target] = context
        if info["type"] == "page":
            self._tabs.add(target)
            if context in self._visitors:
                self._visitors[context].opened(target, info.get("openerId", ""))

    def _destroyed(self, event: dict[str, Any]) -> None:
        target = event["targetId"]
        context = self._frames.pop(target, "")
        if target in self._tabs:
            self._tabs.discard(target)
            if context in self._visitors:
                self._visitors[context].closed(target)

    def _paused(self, event: dict[str, Any]) -> None:
        url, frame = event["request"]["url"], event["frameId"]
        request = {"requestId": event["requestId"]}
        context = self._frames.get(frame)
        visitor = self._visitors.get(context or "")
        why = ""
        if visitor is not None:
            why = visitor.guard.refusal(url)
            if why:
                visitor.refused(url, why, frame if frame in self._tabs else "")
        elif context is None and self._visitors:
            # A frame in a tab so new that nobody knows whose it is: what no guard allows is refused
            # and told to nobody.
            if all(each.guard.refusal(url) for each in self._visitors.values()):
                why = "nobody may open it"
        if why:
            logger.debug("refused %s: %s", url, why)
            # "Aborted" leaves the page as it is; other reasons would show an error in its place.
            quietly(self._session.send("Fetch.failRequest", request | {"errorReason": "Aborted"}))
        else:
            quietly(self._session.send("Fetch.continueRequest", request))


_gate_of = one_each(Gate._on)
