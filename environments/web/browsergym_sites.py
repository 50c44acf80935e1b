"""BrowserGym's observations and actions on any site: its ``openended``, and WebArena's tasks."""

import importlib.util
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from agentgym.environments.web.axtree import fetch
from agentgym.environments.web.browsergym import (
    GREETING,
    HEAVY,
    Chat,
    Mapped,
    check_others,
    mapped_plan,
    mapping_of,
    observation_of,
    printable,
    space_of,
)
from agentgym.environments.web.dialects import Plan
from agentgym.environments.web.faces import BrowserGymFace, Shown, Style
from agentgym.environments.web.open import OpenWebEnv
from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import Marked, focused, mark, stable
from agentgym.environments.web.webarena.environment import WebArenaEnv
from agentgym.errors import ConfigError, EpisodeOverError, UnknownNameError
from agentgym.spaces import Unicode
from agentgym.types import ImageArray

SIZE = (1280, 720)


class SiteFace(BrowserGymFace):
    """A face that keeps BrowserGym's parts of an observation instead of writing a text."""

    def __init__(
        self,
        wanted: Collection[str],
        mapping: Mapped | None,
        every_tag: bool,
        talks: Collection[str],
    ) -> None:
        super().__init__(Style(head=()), None, "", uploads=True)
        self.wanted = wanted
        self.mapping = mapping
        self.every_tag = every_tag
        self.talks = talks
        """Which of the last words (`session.ENDINGS`) are only said, and end nothing."""
        self.said: list[tuple[str, str]] = []
        """Role and text of what the last plan only says."""
        self.tabs: list[tuple[str, str]] = [("", "")]
        self.active = 0
        self.focused = ""
        self.heavy: dict[str, Any] = {}

    def plan(self, text: str) -> Plan:
        """See `Face.plan`."""
        plan = mapped_plan(text, self.mapping)
        self.said = [
            ("assistant" if call.name == "answer" else "infeasible", str(value))
            for call in plan.calls
            for value in call.arguments.values()
            if call.name in self.talks
        ]
        done = [
            (call, source)
            for call, source in zip(plan.calls, plan.sources, strict=True)
            if call.name not in self.talks
        ]
        calls, sources = tuple(c for c, _ in done), tuple(s for _, s in done)
        return replace(plan, calls=calls, sources=sources)

    async def look(self, shown: Shown) -> str:
        """See `Face.look`; the text is empty."""
        found = await shown.read("Looking at the page", self._parts)
        marked, tree, self.focused = found or (None, {"nodes": []}, "")
        url, title = await shown.where()
        self.view = self.viewed(marked, url, title)
        self.tabs, self.active = await shown.tab_list(self.view), shown.index
        self.heavy = {
            "dom_object": marked.dom if marked else {"documents": [], "strings": []},
            "axtree_object": tree,
            "extra_element_properties": marked.properties if marked else {},
        }
        return ""

    async def _parts(self, page: Page) -> tuple[Marked | None, dict[str, Any], str]:
        if not set(self.wanted) & {"dom_object", "axtree_object", "extra_element_properties"}:
            return None, {"nodes": []}, await focused(page, every_tag=self.every_tag)
        marked = await mark(page, every_tag=self.every_tag)
        tree = await fetch(page, marked) if "axtree_object" in self.wanted else {"nodes": []}
        stable(marked.dom, tree)
        return marked, tree, marked.focused


class BrowserGymOpenEnded(gym.Env[dict[str, Any], str]):
    """Any start address and goal, as BrowserGym's ``openended`` shows them.

    ## Description
    The pages of `agentgym/web.open-v0`: what may be opened is bounded, by default to the start's
    own host, and time is real.

    ## Action Space, Observation Space
    As of `agentgym/browsergym.miniwob.<task>-v0`, with tabs, addresses and the chat.

    ## Rewards
    Always 0: whether the goal was reached only a judge can tell.

    ## Starting State
    The start address in a context of its own.

    ## Episode End
    Terminated by ``report_infeasible``, unless `terminate_on_infeasible` is off. What is sent to
    the user is only said. ``info["success"]`` is None then.

    ## Arguments
    See `__init__`.

    ## Version History
    - v0: first version.

    Differs from BrowserGym: as `browsergym.BrowserGymMiniWob` does, and a step waits until the page
    is quiet and not for a fixed time.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    talks: tuple[str, ...] = ("answer",)

    def __init__(
        self,
        *,
        task_kwargs: Mapping[str, Any] | None = None,
        observations: Collection[str] = HEAVY,
        subsets: str | Sequence[str] | None = None,
        multiaction: bool = True,
        action_mapping: Callable[[str], str] | Literal["subsets"] | None = "subsets",
        render_mode: str | None = None,
        viewport: Mapping[str, int] | None = None,
        tags_to_mark: str = "standard_html",
        terminate_on_infeasible: bool = True,
        pre_observation_delay: float = 0.0,
        browsing: Mapping[str, Any] | None = None,
        **browsergym: Any,
    ) -> None:
        """Set up; Chromium starts with the first `reset`.

        Args:
            task_kwargs: ``start_url`` and ``goal``.
            observations: which of `browsergym.HEAVY` observations have.
            subsets: of `browsergym_actions.SUBSETS`, unless there is an `action_mapping`.
            multiaction: several calls may be given at once, unless there is an `action_mapping`.
            action_mapping: text to text; what it raises is the action's error.
            render_mode: ``rgb_array`` or nothing.
            viewport: ``width`` and ``height`` of the page.
            tags_to_mark: ``standard_html``, or ``all`` for ids on elements that are no HTML too.
            terminate_on_infeasible: reporting the task as infeasible ends the episode.
            pre_observation_delay: has no effect: a step waits until the page is quiet.
            browsing: arguments of `OpenWebEnv`: ``allowed_hosts``, ``storage_state``, ...
            **browsergym: BrowserGym's other arguments, as `browsergym.BrowserGymMiniWob` has them.

        Raises:
            UnknownNameError: there is no such observation or argument.
            ConfigError: another argument is wrong.
        """
        for name in observations:
            if name not in HEAVY:
                raise UnknownNameError("observation", name, HEAVY)
        if tags_to_mark not in ("standard_html", "all"):
            raise ConfigError(
                f"tags_to_mark must be 'standard_html' or 'all', got {tags_to_mark!r}"
            )
        check_others(browsergym)
        size = (viewport["width"], viewport["height"]) if viewport else SIZE
        self.observations = frozenset(observations)
        self.inner = self._made(
            dict(task_kwargs or {}), {"size": size, "render_mode": render_mode, **(browsing or {})}
        )
        """What is shown here in another way."""
        mapping = mapping_of(action_mapping, subsets, multiaction)
        talks = self.talks if terminate_on_infeasible else (*self.talks, "infeasible")
        self._face = SiteFace(self.observations, mapping, tags_to_mark == "all", talks)
        self.inner.face = self._face
        self.render_mode = render_mode
        self.observation_space = space_of(self.observations, size)
        self.action_space = Unicode(sampler=self._sample)
        self.goal_object: tuple[dict[str, Any], ...] = ()
        self._started = 0.0
        self.chat = Chat(self._elapsed)

    def _made(self, task: dict[str, Any], browsing: dict[str, Any]) -> OpenWebEnv:
        start, goal = task.pop("start_url", ""), task.pop("goal", "")
        if task:
            raise ConfigError(f"unknown task_kwargs {sorted(task)!r}; known: start_url, goal")
        return OpenWebEnv(start_url=start, goal=goal, dialect="browsergym", **browsing)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; see `OpenWebEnv.reset`."""
        super().reset(seed=seed)
        shown, info = self.inner.reset(seed=seed, options=options)
        self._started = time.monotonic()
        text: dict[str, Any] = {"type": "text", "text": shown["goal"]}
        pictures = [{"type": "image_url", "image_url": url} for url in info.get("goal_images", ())]
        self.goal_object = (text, *pictures)
        self.chat = Chat(self._elapsed)
        self.chat.add_message("assistant", GREETING)
        self.chat.add_message("user", shown["goal"])
        for picture in pictures:
            self.chat.add_message("user_image", picture["image_url"])
        return self._observation("", ""), {"task_info": {}}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carry out the calls that the text holds; see `OpenWebEnv.step`."""
        began = self._elapsed()
        _, reward, terminated, truncated, told = self.inner.step(action)
        done = self._elapsed()
        for role, text in self._face.said:
            self.chat.add_message(role, text)
        if "answer" in told:
            role = "infeasible" if told["infeasible"] else "assistant"
            self.chat.add_message(role, told["answer"])
        names = ("wait_for_page_loading", "validation", "get_observation")
        info: dict[str, Any] = {
            f"{name}_{end}": done for name in names for end in ("start", "stop")
        }
        info |= {"action_exec_start": began, "action_exec_stop": done, "action_exec_timeout": 0.0}
        info["task_info"] = {"settled": told["settled"], "events": told["events"]}
        info |= {name: told[name] for name in ("success", "evaluation") if name in told}
        return self._observation(action, told["action_error"]), reward, terminated, truncated, info

    def render(self) -> Any:
        """See `OpenWebEnv.render`."""
        return self.inner.render()

    def close(self) -> None:
        """End the session; may be called twice."""
        self.inner.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _picture(self) -> ImageArray:
        session = self.inner.session
        if session is None:
            raise EpisodeOverError("no episode has begun; call reset()")
        return self.inner.fitting(session.run(session.photograph()))

    def _observation(self, action: str, error: str) -> dict[str, Any]:
        heavy = dict(self._face.heavy)
        if "screenshot" in self.observations:
            heavy["screenshot"] = self._picture()
        return observation_of(
            self.chat.messages,
            self.goal_object,
            self._face.tabs,
            self._face.active,
            self._face.focused,
            (printable(action), printable(error)),
            self._elapsed(),
            {name: heavy[name] for name in HEAVY if name in self.observations},
        )

    def _sample(self, rng: np.random.Generator) -> str:
        return self._face.sample(rng, (), "about:blank")


class BrowserGymWebArena(BrowserGymOpenEnded):
    """A task of WebArena, as BrowserGym's ``webarena.<number>`` shows it.

    ## Description
    The task of `agentgym/webarena-v0`, on the sites that environment variables name.

    ## Action Space, Observation Space
    As of `BrowserGymOpenEnded`.

    ## Rewards
    0, and at the end the task's score.

    ## Starting State
    The task's start addresses, one tab each.

    ## Episode End
    Terminated by the first message to the user, which is the answer, or by ``report_infeasible``.

    ## Arguments
    See `__init__`.

    ## Version History
    - v0: first version.

    Differs from BrowserGym: the score is taken once, at the end, and not after every step; the
    first of several tabs is in front; a judge is not asked, see `webarena.environment`.
    """

    talks = ()

    def __init__(
        self, *, task_id: int | None = None, task_file: Path | str = "", **more: Any
    ) -> None:
        """See `BrowserGymOpenEnded`.

        Args:
            task_id: number of the task.
            task_file: as `WebArenaEnv` reads it; by default that of the package ``libwebarena``.
            **more: as `BrowserGymOpenEnded` has them; `browsing` are arguments of `WebArenaEnv`.

        Raises:
            ConfigError: there is no task file.
        """
        self._task_id = task_id
        self._task_file = task_file or _published_file()
        super().__init__(**more)

    def _made(self, task: dict[str, Any], browsing: dict[str, Any]) -> OpenWebEnv:
        given = {"task_id": self._task_id, "task_file": self._task_file, **task, **browsing}
        return WebArenaEnv(dialect="browsergym", **given)


def _published_file() -> Path:
    spec = importlib.util.find_spec("webarena")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder) / "test.raw.json"
        if file.is_file():
            return file
    raise ConfigError(
        "there is no task file; give task_file=, or install libwebarena, which has it"
    )
