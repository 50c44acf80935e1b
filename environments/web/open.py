"""agentgym/web.open-v0: any start address and any goal, for tasks that only a judge can score."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from agentgym.actions import ActionCall
from agentgym.core import AgentEnv
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.dialects import Plan
from agentgym.environments.web.difference import observation_text
from agentgym.environments.web.faces import face_of, style_of
from agentgym.environments.web.guard import Guard
from agentgym.environments.web.marks import draw_marks, marks_of, texts_of
from agentgym.environments.web.session import ENDINGS, Dialogs, Session
from agentgym.environments.web.uploads import Uploads
from agentgym.environments.web.view import PageView
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError
from agentgym.spaces import ActionText, observation_space
from agentgym.tape import Exchange, Tape
from agentgym.types import ImageArray, Observation

_DOWN = ("HTTP 5", "net::ERR_CONNECTION_", "net::ERR_EMPTY_", "net::ERR_TIMED_OUT")


@dataclass(frozen=True, slots=True)
class Visit:
    """What an episode is about."""

    goal: str
    start_urls: tuple[str, ...]
    """One tab each; the first is the current one."""
    allowed: tuple[str, ...]
    """For the `Guard`."""
    home: frozenset[str]
    """Origins whose failure is the environment's, such as ``http://localhost:7770``."""
    size: tuple[int, int]
    """(width, height) of the viewport."""
    storage_state: Path | str | None = None
    log: Callable[[Exchange], None] | None = None
    """Told of each request and its answer."""


class OpenWebEnv(AgentEnv):
    """Any place on the web, and any goal.

    ## Description
    The agent browses real pages with tabs, history and cookies. What it may open is bounded by
    scheme, host and port (see `guard`); what is refused is told. Pages load over the network and
    run in real time, so episodes are as repeatable as the sites are.

    ## Action Space
    Text in one of four languages, by the argument `dialect` (see `faces`). ``agentgym``: one call
    of `faces.ACTIONS`, those of a page (see `actions`), of tabs and history (see `session`), and
    ``answer(text)`` or ``infeasible(reason)``, which end the episode. ``browsergym``, ``webarena``
    and ``webrl``: the actions of these projects, see `dialects`; what they have for the last words
    ends the episode.

    ## Observation Space
    `goal` in words; `text`: a line with the tabs, one with the address, notes about dialogs, then
    one line per element, ``[id] role "name" value="..." states``, or what the dialect shows;
    `error` about the last action, in the dialect's words; `image`, (H, W, 3), if made with
    ``images=True``.

    ## Rewards
    Always 0: whether the goal was reached only a judge can tell.

    ## Starting State
    The start address, loaded in a context of its own.

    ## Episode End
    Terminated by ``answer`` or ``infeasible``: ``info["success"]`` is None, so that the episode has
    no outcome before a judge gave it one; ``info["answer"]`` holds the text and
    ``info["infeasible"]`` which of the two it was. Truncated after 30 steps (`max_episode_steps`).
    If the start address's own host cannot be reached, `BrowserError` is raised.

    ## Arguments
    See `__init__`. `reset` takes the options ``start_url``, ``goal`` and ``allowed_hosts``, for
    one episode instead of the constructor's.

    ## Version History
    - v0: first version.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 1}  # noqa: RUF012
    options: tuple[str, ...] = ("start_url", "goal", "allowed_hosts")
    """What `reset` takes."""

    def __init__(
        self,
        *,
        start_url: str = "",
        goal: str = "",
        allowed_hosts: Sequence[str] | None = None,
        resource_hosts: Sequence[str] = (),
        dialect: str = "agentgym",
        actions: Sequence[str] | None = None,
        action_syntax: str = "",
        difference: bool = False,
        images: bool = False,
        marks: bool = False,
        size: tuple[int, int] = (1280, 720),
        render_mode: str | None = None,
        locale: str = "en-US",
        geolocation: tuple[float, float] | None = None,
        storage_state: Path | str | None = None,
        dialogs: Dialogs = "accept",
        uploads: Mapping[str, bytes] | Path | str | None = None,
        **style: Any,
    ) -> None:
        """Set up; Chromium starts with the first `reset`.

        Args:
            start_url: where an episode begins; here or in the options of `reset`.
            goal: what the agent is told; here or in the options of `reset`.
            allowed_hosts: what it may open, see `guard.Site.read`; by default the start's own host.
            resource_hosts: from which pages may besides load what they show, such as pictures.
            dialect: the language of actions and text, one of `faces.FACES`.
            actions: names of the actions to offer, out of `faces.OFFERED`; with "browsergym" names
                of its subsets.
            action_syntax: one of `agentgym.actions.SYNTAXES`; other dialects than our own have
                one of their own, or "json" for tool calls.
            difference: the text is what changed since the last one, where that is shorter.
            images: observations carry a picture.
            marks: with the elements' boxes and ids drawn on it (``dialect="agentgym"`` only).
            size: (width, height) of the viewport in CSS pixels.
            render_mode: ``rgb_array``, ``ansi`` or nothing.
            locale: language that the browser asks for.
            geolocation: (latitude, longitude) told to pages that ask.
            storage_state: Playwright's file of cookies and local storage, to be logged in.
            dialogs: ``accept`` or ``dismiss`` what pages ask with `confirm` and `prompt`.
            uploads: files that the agent may choose for file fields: names with bytes, or a folder.
                No other file of the machine is in its reach.
            style: fields of `faces.Style`: what of a page is shown (``max_chars``, ``max_tokens``,
                ``head``, ``coordinates``, ``boxes``, ``viewport_only``).

        Raises:
            UnknownNameError: there is no such dialect, action or argument.
            ConfigError: another argument is wrong.
        """
        modes = (None, *self.metadata["render_modes"])
        if render_mode not in modes:
            raise ConfigError(f"render_mode must be one of {modes}, got {render_mode!r}")
        if marks and (dialect != "agentgym" or not images):
            raise ConfigError("marks needs images=True and dialect='agentgym'")
        self.uploads = None if uploads is None else Uploads(uploads)
        self.face = face_of(
            dialect,
            style_of(style),
            actions=actions,
            syntax=action_syntax,
            uploads=uploads is not None,
        )
        """How pages look to the agent, and what its words mean."""
        self.start_url = start_url
        self.goal = goal
        self.allowed_hosts = allowed_hosts
        self.images = images
        self.marks = marks
        self.difference = difference
        self.size = (int(size[0]), int(size[1]))
        self.render_mode = render_mode
        self.storage_state = storage_state
        self.action_set = self.face.action_set
        self.action_syntax = self.face.syntax
        picture = (self.size[1], self.size[0]) if images else None
        self.observation_space = observation_space(image_size=picture)
        self.action_space = ActionText(self.action_set, self.action_syntax, sampler=self._sample)
        self.diagnostics: dict[str, Any] = {}
        self.session: Session | None = None
        """The browsing session of the episode, for tools that look behind it."""
        self.tape: Tape | None = None
        """The network is written on it, or played back from it; see `recording`."""
        self._browsing: dict[str, Any] = {
            "locale": locale,
            "geolocation": geolocation,
            "dialogs": dialogs,
        }
        self.resource_hosts = tuple(resource_hosts)
        self._visit = Visit("", (), (), frozenset(), self.size)
        self._text = self._shown = ""  # the page as text, and what the agent was given of it
        self._image: ImageArray | None = None
        self._running = False

    # ---- what a family of tasks says for itself ------------------------------------------------

    def plan(self, options: Mapping[str, Any]) -> Visit:
        """What the next episode is about.

        Raises:
            ConfigError: an option or argument is missing or wrong.
        """
        start, goal = options.get("start_url", self.start_url), options.get("goal", self.goal)
        for name, value in (("start_url", start), ("goal", goal)):
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(
                    f"an episode needs a {name}, got {value!r}; give it to gym.make or as an "
                    "option of reset"
                )
        allowed = options.get("allowed_hosts", self.allowed_hosts)
        home = origin(start)
        hosts = (home.partition("://")[2],) if allowed is None else tuple(allowed)
        return Visit(goal, (start,), hosts, frozenset({home}), self.size, self.storage_state)

    def finish(self, session: Session, call: ActionCall) -> tuple[float, dict[str, Any]]:
        """What the end of the episode is worth: reward, and more for `info`.

        Args:
            session: as the agent left it.
            call: one of `ENDINGS`.
        """
        return 0.0, {"success": None}

    # ---- an environment's methods --------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Raises:
            ConfigError: an option is unknown or wrong, or there is no start address.
            BrowserError: the start address cannot be reached, or Chromium failed.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name not in self.options:
                raise UnknownNameError("reset option", name, self.options)
        visit = self.plan(options)
        guard = Guard(visit.allowed, self.resource_hosts)
        self.close()
        started = time.perf_counter()
        session = self.session = Session.open(
            Browser.shared(),
            guard,
            size=visit.size,
            storage_state=visit.storage_state,
            tape=self.tape,
            log=visit.log,
            **self._browsing,
        )
        session.uploads = self.uploads
        self._visit = visit
        self._text = ""
        session.run(session.start(visit.start_urls))
        session.begin()
        session.run(self._look(session))
        self._running = True
        self.diagnostics = {"reset_s": time.perf_counter() - started}
        return self._observation(""), {"url": self.view.url}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out the call that the text holds.

        Raises:
            BrowserError: Chromium or the start's own host failed: the episode is over, and not by
                the agent's fault.
            EpisodeOverError: the episode has ended, or none has begun.
        """
        session = self.session
        if not self._running or session is None:
            raise EpisodeOverError("the episode is over, or none has begun; call reset()")
        plan = self.face.plan(action)
        self._running = False  # unless all goes well
        started = time.perf_counter()
        error, settled, ending = session.run(self._act(session, plan))
        self.diagnostics["step_s"] = time.perf_counter() - started
        self.diagnostics["blocked"] = dict(session.relay.blocked)
        self._check_home(session)
        told = " ".join(dict.fromkeys(filter(None, [error, *session.problems])))
        info: dict[str, Any] = {
            "action": "; ".join(map(str, plan.calls)),
            "action_error": told,
            "parsed": bool(plan.calls),
            "thought": plan.thought,
            "url": self.view.url,
            "settled": settled,
            "events": [*session.problems, *session.notes],
        }
        if ending is None:
            self._running = True
            return self._observation(told), 0.0, False, False, info
        reward, more = self.finish(session, ending)
        (text,) = ending.arguments.values()
        info |= {"answer": text, "infeasible": ending.name == "infeasible", **more}
        return self._observation(told), reward, True, False, info

    @property
    def view(self) -> PageView:
        """What the current tab showed last, as far as the dialect looks."""
        return self.face.view

    def render(self) -> Any:
        """The page as text (``ansi``) or as an (H, W, 3) picture (``rgb_array``).

        Raises:
            EpisodeOverError: there has been no `reset`.
        """
        if self.render_mode is None:
            return None
        if self.session is None:
            raise EpisodeOverError("there is nothing to render; call reset() first")
        if self.render_mode == "ansi":
            return f"{self._visit.goal}\n{self._text}"
        return self.fitting(self.session.run(self.session.photograph()))

    def close(self) -> None:
        """End the session; may be called twice."""
        self._running = False
        if self.session is not None:
            self.session.close()
            self.session = None

    # ---- parts -------------------------------------------------------------------------------

    async def _act(self, session: Session, plan: Plan) -> tuple[str, str, ActionCall | None]:
        """Carry out a plan, up to its first call that fails or ends the episode.

        Returns:
            What was wrong, how the page came to rest, and the call that ends the episode.
        """
        session.begin()
        settled = ""
        for call, source in zip(plan.calls, plan.sources, strict=True):
            if call.name in ENDINGS:
                if settled:
                    await self._look(session)
                return "", settled, call
            said = await session.act(call, self.view)
            settled = await session.settle()
            if said:
                await self._look(session)
                return self.face.told(said, source), settled, None
        settled = settled or await session.settle()
        await self._look(session)
        return plan.error, settled, None

    async def _look(self, session: Session) -> None:
        before = self._text
        async with session.still():
            self._text = await self.face.look(session)
            image = await session.photograph() if self.images else None
        self._shown = observation_text(before, self._text) if self.difference else self._text
        if image is not None:
            if self.marks:
                image = draw_marks(image, marks_of(self.view), texts=texts_of(self.view))
            self._image = self.fitting(image)

    def _check_home(self, session: Session) -> None:
        """Raise if the last action met a host that is there no more, and should be."""
        if session.current.unreachable is None:
            return
        url, why = session.current.unreachable
        if origin(url) in self._visit.home and why.startswith(_DOWN):
            raise BrowserError(f"{origin(url)} cannot be reached any more: {why}")

    def fitting(self, image: ImageArray) -> ImageArray:
        """The picture in the space's size; a task may have a viewport of its own."""
        fitting = np.zeros((self.size[1], self.size[0], 3), dtype=np.uint8)
        height, width = min(self.size[1], image.shape[0]), min(self.size[0], image.shape[1])
        fitting[:height, :width] = image[:height, :width]
        return fitting

    def _observation(self, error: str) -> Observation:
        observation = Observation(goal=self._visit.goal, text=self._shown, error=error)
        if self._image is not None:
            observation["image"] = self._image
        return observation

    def _sample(self, rng: np.random.Generator) -> str:
        start = next(iter(self._visit.start_urls), "about:blank")
        return self.face.sample(rng, self._visit.goal.split() or ["text"], start)


def origin(url: str) -> str:
    """Scheme, host and port of an address.

    Raises:
        ConfigError: it is no http address.

    Example:
        >>> origin("http://localhost:7770/a?b#c")
        'http://localhost:7770'
    """
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no http or https address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"
