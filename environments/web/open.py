"""agentgym/web.open-v0: any start address and any goal, for tasks that only a judge can score."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from agentgym.actions import SYNTAXES, ActionCall, ActionSet, ActionSpec
from agentgym.core import AgentEnv
from agentgym.environments.web.actions import ALL_ACTIONS, action_set, sample_call
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.guard import Guard
from agentgym.environments.web.session import TAB_ACTIONS, Dialogs, Session
from agentgym.environments.web.text import render
from agentgym.environments.web.view import PageView
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError
from agentgym.spaces import ActionText, observation_space
from agentgym.types import ImageArray, Observation

MAX_TITLE = 80
MAX_URL = 300
MIN_CHARS = 500
_DOWN = ("HTTP 5", "net::ERR_CONNECTION_", "net::ERR_EMPTY_", "net::ERR_TIMED_OUT")


def answer(text: str) -> None:
    """End the task with an answer; empty if it asked for none."""


def infeasible(reason: str) -> None:
    """End the task because it cannot be done."""


ENDINGS: Mapping[str, ActionSpec] = {
    f.__name__: ActionSpec.from_function(f) for f in (answer, infeasible)
}
ACTIONS: tuple[str, ...] = (*ALL_ACTIONS, *TAB_ACTIONS, *ENDINGS)


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


class OpenWebEnv(AgentEnv):
    """Any place on the web, and any goal.

    ## Description
    The agent browses real pages with tabs, history and cookies. What it may open is bounded by
    scheme, host and port (see `guard`); what is refused is told. Pages load over the network and
    run in real time, so episodes are as repeatable as the sites are.

    ## Action Space
    Text with one call of `ACTIONS`: those of a page (see `actions`), of tabs and history (see
    `session`), and ``answer(text)`` or ``infeasible(reason)``, which end the episode.

    ## Observation Space
    `goal` in words; `text`: a line with the tabs, one with the address, notes about dialogs, then
    one line per element, ``[id] role "name" value="..." states``; `error` about the last action;
    `image`, (H, W, 3), if made with ``images=True``.

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
        actions: Sequence[str] = ACTIONS,
        action_syntax: str = "python",
        max_chars: int = 8000,
        coordinates: bool = False,
        images: bool = False,
        size: tuple[int, int] = (1280, 720),
        render_mode: str | None = None,
        locale: str = "en-US",
        geolocation: tuple[float, float] | None = None,
        storage_state: Path | str | None = None,
        dialogs: Dialogs = "accept",
    ) -> None:
        """Set up; Chromium starts with the first `reset`.

        Args:
            start_url: where an episode begins; here or in the options of `reset`.
            goal: what the agent is told; here or in the options of `reset`.
            allowed_hosts: what it may open, see `guard.Site.read`; by default the start's own host.
            actions: names of the actions to offer, out of `ACTIONS`.
            action_syntax: one of `agentgym.actions.SYNTAXES`.
            max_chars: of the observation's text.
            coordinates: lines tell where each element is, ``@x,y`` in pixels.
            images: observations carry a picture.
            size: (width, height) of the viewport in CSS pixels.
            render_mode: ``rgb_array``, ``ansi`` or nothing.
            locale: language that the browser asks for.
            geolocation: (latitude, longitude) told to pages that ask.
            storage_state: Playwright's file of cookies and local storage, to be logged in.
            dialogs: ``accept`` or ``dismiss`` what pages ask with `confirm` and `prompt`.

        Raises:
            UnknownNameError: there is no such action.
            ConfigError: another argument is wrong.
        """
        if action_syntax not in SYNTAXES:
            raise ConfigError(f"action_syntax must be one of {SYNTAXES}, got {action_syntax!r}")
        modes = (None, *self.metadata["render_modes"])
        if render_mode not in modes:
            raise ConfigError(f"render_mode must be one of {modes}, got {render_mode!r}")
        if max_chars < MIN_CHARS:
            raise ConfigError(f"max_chars must be at least {MIN_CHARS}, got {max_chars!r}")
        self.start_url = start_url
        self.goal = goal
        self.allowed_hosts = allowed_hosts
        self.images = images
        self.max_chars = max_chars
        self.coordinates = coordinates
        self.size = (int(size[0]), int(size[1]))
        self.render_mode = render_mode
        self.storage_state = storage_state
        self.action_set = _actions(actions)
        self.action_syntax = action_syntax
        picture = (self.size[1], self.size[0]) if images else None
        self.observation_space = observation_space(image_size=picture)
        self.action_space = ActionText(self.action_set, action_syntax, sampler=self._sample)
        self.diagnostics: dict[str, Any] = {}
        self.view = PageView(())
        """What the current tab showed last."""
        self.session: Session | None = None
        """The browsing session of the episode, for tools that look behind it."""
        self._browsing: dict[str, Any] = {
            "locale": locale,
            "geolocation": geolocation,
            "dialogs": dialogs,
        }
        self._page_actions = [name for name in self.action_set if name in ALL_ACTIONS]
        self._visit = Visit("", (), (), frozenset(), self.size)
        self._text = ""
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
        guard = Guard(visit.allowed)
        self.close()
        started = time.perf_counter()
        session = self.session = Session.open(
            Browser.shared(),
            guard,
            size=visit.size,
            storage_state=visit.storage_state,
            **self._browsing,
        )
        self._visit = visit
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
        reading = self.action_set.read(action, self.action_syntax)
        call, info = reading.call, reading.info()
        self._running = False  # unless all goes well
        if call is not None and call.name in ENDINGS:
            (text,) = call.arguments.values()
            reward, more = self.finish(session, call)
            info |= {"answer": text, "infeasible": call.name == "infeasible", **more}
            return self._observation(""), reward, True, False, info
        started = time.perf_counter()
        error, settled = session.run(self._act(session, call))
        self.diagnostics["step_s"] = time.perf_counter() - started
        self._check_home(session)
        told = [reading.error or error, *session.problems]
        info["action_error"] = " ".join(dict.fromkeys(filter(None, told)))
        info |= {"url": self.view.url, "settled": settled}
        info["events"] = [*session.problems, *session.notes]
        self._running = True
        return self._observation(info["action_error"]), 0.0, False, False, info

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
        return self._fitting(self.session.run(self.session.photograph()))

    def close(self) -> None:
        """End the session; may be called twice."""
        self._running = False
        if self.session is not None:
            self.session.close()
            self.session = None

    # ---- parts -------------------------------------------------------------------------------

    async def _act(self, session: Session, call: ActionCall | None) -> tuple[str, str]:
        """Carry out a call; returns what was wrong with it, and how the page came to rest."""
        error = ""
        if call is None:
            session.begin()
        else:
            error = await session.act(call, self.view)
        settled = await session.settle()
        await self._look(session)
        return error, settled

    async def _look(self, session: Session) -> None:
        self.view = await session.look()
        tabs = await session.tab_list(self.view)
        current = session.tabs.index(session.current)
        head = [
            " | ".join(
                f"Tab {i}{' (current)' if i == current else ''}: {_title(title)}"
                for i, (_, title) in enumerate(tabs)
            ),
            f"URL: {_cut(self.view.url, MAX_URL)}",
            *(f"Note: {_cut(note, MAX_URL)}" for note in session.notes),
        ]
        top = "\n".join(head)[: self.max_chars // 2]
        body = render(self.view, self.max_chars - len(top) - 2, coordinates=self.coordinates)
        self._text = f"{top}\n\n{body}"
        if self.images:
            self._image = self._fitting(await session.photograph())

    def _check_home(self, session: Session) -> None:
        """Raise if the last action met a host that is there no more, and should be."""
        if session.current.unreachable is None:
            return
        url, why = session.current.unreachable
        if origin(url) in self._visit.home and why.startswith(_DOWN):
            raise BrowserError(f"{origin(url)} cannot be reached any more: {why}")

    def _fitting(self, image: ImageArray) -> ImageArray:
        """The picture in the space's size; a task may have a viewport of its own."""
        fitting = np.zeros((self.size[1], self.size[0], 3), dtype=np.uint8)
        height, width = min(self.size[1], image.shape[0]), min(self.size[0], image.shape[1])
        fitting[:height, :width] = image[:height, :width]
        return fitting

    def _observation(self, error: str) -> Observation:
        observation = Observation(goal=self._visit.goal, text=self._text, error=error)
        if self._image is not None:
            observation["image"] = self._image
        return observation

    def _sample(self, rng: np.random.Generator) -> str:
        name = list(self.action_set)[int(rng.integers(len(self.action_set)))]
        words = self._visit.goal.split() or ["text"]
        if name in self._page_actions:
            call = sample_call(action_set([name]), self.view, rng, words=words)
        else:
            word = words[int(rng.integers(len(words)))]
            start = next(iter(self._visit.start_urls), "about:blank")
            values = {"url": start, "index": 0, "text": word, "reason": word}
            spec = self.action_set[name]
            call = ActionCall(name, {p.name: values[p.name] for p in spec.parameters})
        return self.action_set.format(call, self.action_syntax)


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


def _actions(names: Sequence[str]) -> ActionSet:
    for name in names:
        if name not in ACTIONS:
            raise UnknownNameError("action", name, ACTIONS)
    if not any(name in ENDINGS for name in names):
        raise ConfigError(f"the agent needs one of {tuple(ENDINGS)} to end an episode")
    page = [name for name in names if name in ALL_ACTIONS]
    specs: dict[str, ActionSpec] = {**(action_set(page) if page else {}), **TAB_ACTIONS, **ENDINGS}
    return ActionSet([specs[name] for name in names])


def _title(text: str) -> str:
    return json.dumps(_cut(" ".join(text.split()), MAX_TITLE), ensure_ascii=False)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
