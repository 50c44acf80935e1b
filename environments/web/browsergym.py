"""agentgym/browsergym.miniwob.<task>-v0: MiniWoB++ with BrowserGym's observations and actions.

An agent written for BrowserGym finds here what it imports: `HighLevelActionSet`,
`flatten_axtree_to_str`, `flatten_dom_to_str`, `prune_html`, `overlay_som`, and, after
`register_aliases`, the ids ``browsergym/miniwob.<task>``.
"""

import base64
import importlib.util
import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

import gymnasium as gym
import numpy as np

from agentgym.actions import MAX_TEXT, ActionCall
from agentgym.environments.web.actions import ALL_ACTIONS, perform, rest_mouse
from agentgym.environments.web.axtree import fetch, flatten_axtree_to_str
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.browsergym_actions import (
    ACTIONS,
    DEFAULT_SUBSETS,
    HighLevelActionSet,
)
from agentgym.environments.web.browsergym_errors import told
from agentgym.environments.web.dialects import Plan
from agentgym.environments.web.inputs import INPUT_ACTIONS, Inputs
from agentgym.environments.web.marks import overlay_som
from agentgym.environments.web.markup import flatten_dom_to_str, prune_html
from agentgym.environments.web.miniwob import (
    HEIGHT,
    PAGE_SCRIPTS,
    WIDTH,
    advance,
    has_hover_styles,
    html_folder,
    proceed,
)
from agentgym.environments.web.miniwob_tasks import TASKS
from agentgym.environments.web.page import Page, image_of, script
from agentgym.environments.web.snapshot import Marked, focused, mark, stable
from agentgym.environments.web.view import PageView
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, UnknownNameError
from agentgym.spaces import Unicode
from agentgym.types import ImageArray

__all__ = [
    "BROWSERGYM_TASKS",
    "HEAVY",
    "BrowserGymMiniWob",
    "HighLevelActionSet",
    "flatten_axtree_to_str",
    "flatten_dom_to_str",
    "overlay_som",
    "prune_html",
    "register_aliases",
]

SCALE: Final = 1.5
"""Screenshots, boxes and coordinates are that much larger than the page, as in BrowserGym."""
EPISODE_MAX_TIME_MS: Final = 1_000_000
MAX_WAIT_S: Final = 60.0
"""The longest that one ``noop`` waits."""
HEAVY: Final = ("screenshot", "dom_object", "axtree_object", "extra_element_properties")
"""The parts of an observation that may be left out."""
BROWSERGYM_TASKS: Final = tuple(
    task
    for task in TASKS
    if task not in ("button-delay", "chase-circle", "hover-shape", "moving-items", "simon-says")
)
"""The tasks that BrowserGym has ids for."""
WEBARENA_TASKS: Final = 812
"""WebArena's tasks are numbered from 0."""
GREETING: Final = "Hello! I carry out tasks on web pages. What shall I do?"
"""The first message of a chat."""
_GLOBALS = ("REWARD_GLOBAL", "RAW_REWARD_GLOBAL", "REWARD_REASON", "DONE_GLOBAL")
_INFO = (*_GLOBALS, "EPISODE_ID", "TASK_READY")
_NO_STATE = dict(zip(_INFO, (0, 0, None, False, 0, True), strict=True))
_STATE = f"[{', '.join(f'WOB_{name}' for name in _INFO)}]"
_NO_PAGE: dict[str, Any] = {"documents": [], "strings": []}


@dataclass(slots=True)
class Chat:
    """What agent and user have said."""

    now: Callable[[], float]
    """Seconds since the episode began."""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def add_message(self, role: str, msg: str) -> None:
        """Say something.

        Args:
            role: user, user_image, assistant, info or infeasible.
            msg: what is said.
        """
        self.messages.append({"role": role, "timestamp": self.now(), "message": msg})


class BrowserGymMiniWob(gym.Env[dict[str, Any], str]):
    """One MiniWoB++ page as BrowserGym 0.14 shows it.

    ## Description
    The page of `agentgym.environments.web.miniwob`, without its display for people. Offline, in
    virtual time: each action takes `pre_observation_delay` and the waiting that it asks for, so
    equal episodes have equal observations, ``elapsed_time`` and the times in infos included.

    ## Action Space
    Text with one or several calls, see `browsergym_actions`; `action_mapping` checks and may change
    it. Nothing is ever executed as Python.

    ## Observation Space
    BrowserGym's dict: ``chat_messages goal goal_object open_pages_urls open_pages_titles
    active_page_index url screenshot dom_object axtree_object extra_element_properties
    focused_element_bid last_action last_action_error elapsed_time``. Those of `HEAVY` that are not
    wanted are missing, and cost nothing.

    ## Rewards
    1 when the page's own reward is positive, else 0.

    ## Starting State
    The page for ``RandomState(seed).randint(0, 1000000)``, the same as in BrowserGym.

    ## Episode End
    Terminated when the page gives its reward, when the agent leaves it (addresses and tabs are of
    no use here), and when it reports the task as infeasible. Never truncated by itself.

    ## Arguments
    See `__init__`.

    ## Version History
    - v0: first version.

    Differs from BrowserGym: pages are only read, so that ids, values and visibility are not
    written into them (see `snapshot.mark`); nodes of the accessibility tree have small numbers; the
    chat is a list, and its greeting another one; messages of Playwright end after their first line;
    scroll bars take no room; info holds ``success`` at the end of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        observations: Collection[str] = HEAVY,
        subsets: str | Sequence[str] | None = None,
        multiaction: bool = True,
        action_mapping: Callable[[str], str] | Literal["subsets"] | None = "subsets",
        render_mode: str | None = None,
        task_kwargs: Mapping[str, Any] | None = None,
        viewport: Mapping[str, int] | None = None,
        tags_to_mark: str = "standard_html",
        terminate_on_infeasible: bool = True,
        pre_observation_delay: float = 0.5,
        **browsergym: Any,
    ) -> None:
        """Set up; Chromium starts with the first `reset`.

        Args:
            task: one of `miniwob_tasks.TASKS`.
            observations: which of `HEAVY` observations have.
            subsets: of `browsergym_actions.SUBSETS`, unless there is an `action_mapping`.
            multiaction: several calls may be given at once, unless there is an `action_mapping`.
            action_mapping: text to text; what it raises is the action's error. Usually
                `HighLevelActionSet.to_python_code`. `None` leaves the text as it is.
            render_mode: ``rgb_array`` or nothing.
            task_kwargs: ``episode_max_time`` in milliseconds.
            viewport: ``width`` and ``height`` of the page.
            tags_to_mark: ``standard_html``, or ``all`` for ids on elements that are no HTML too.
            terminate_on_infeasible: reporting the task as infeasible ends the episode.
            pre_observation_delay: seconds of virtual time that each action takes.
            **browsergym: BrowserGym's other arguments. ``slow_mo``, ``timeout``, ``locale``,
                ``timezone_id``, ``headless``, ``pw_chromium_kwargs`` and ``pw_context_kwargs`` have
                no effect; ``wait_for_user_message``, ``resizeable_window``, ``record_video_dir``
                and ``use_raw_page_output`` must be off.

        Raises:
            UnknownNameError: there is no such task.
            ConfigError: another argument is wrong.
            MissingDependencyError: the `miniwob` package is not installed.
        """
        if task not in TASKS:
            raise UnknownNameError("MiniWoB task", task, TASKS)
        for name in observations:
            if name not in HEAVY:
                raise UnknownNameError("observation", name, HEAVY)
        if tags_to_mark not in ("standard_html", "all"):
            raise ConfigError(
                f"tags_to_mark must be 'standard_html' or 'all', got {tags_to_mark!r}"
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        check_others(browsergym)
        settings = dict(task_kwargs or {})
        self.max_time_ms = settings.pop("episode_max_time", EPISODE_MAX_TIME_MS)
        if settings:
            raise ConfigError(f"unknown task_kwargs {sorted(settings)!r}; known: episode_max_time")
        self.task = task
        self.observations = frozenset(observations)
        self.render_mode = render_mode
        self.every_tag = tags_to_mark == "all"
        self.terminate_on_infeasible = terminate_on_infeasible
        self.delay_s = pre_observation_delay
        self.action_mapping = mapping_of(action_mapping, subsets, multiaction)
        self.size = (viewport["width"], viewport["height"]) if viewport else (WIDTH, HEIGHT)
        self.observation_space = space_of(self.observations, _scaled_size(self.size))
        self.action_space = Unicode(sampler=self._sample)
        file = html_folder() / "miniwob" / f"{task}.html"
        self._url = file.as_uri()
        self._hover_styles = has_hover_styles(file)
        self.page: Page | None = None
        self._inputs: Inputs | None = None
        self.goal_object: tuple[dict[str, Any], ...] = ()
        self.chat = Chat(lambda: self._elapsed_s)
        self._running = False
        self._elapsed_s = 0.0
        self._last = ("", "")  # action and its error
        self._marked: Sequence[str] = ()  # bids that look as if something could be done there

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Raises:
            BrowserError: Chromium failed.
        """
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        page_seed = int(np.random.RandomState(seed % 2**32).randint(0, 1_000_000))
        self._running = False
        held = self._inputs is not None and self._inputs.buttons  # the page would know of it
        if self.page is not None and (held or self.page.failure or not self.page.browser.alive):
            self.close()
        if self.page is None:
            init = "".join(script(name) for name in PAGE_SCRIPTS)
            self.page = Browser.shared().page(size=self.size, init_script=init, offline=True)
            self.page.hover_styles = self._hover_styles
        self._inputs = Inputs(self.page)
        self._elapsed_s = 0.0
        self._last = ("", "")
        goal, info = self.page.run(self._start(self.page, page_seed))
        self.goal_object = ({"type": "text", "text": goal},)
        self.chat = Chat(lambda: self._elapsed_s)
        self.chat.add_message("assistant", GREETING)
        self.chat.add_message("user", goal)
        self._running = True
        return self._observation(self._seen(self.page)), {"task_info": info}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carry out the calls that the text holds, and let time pass.

        Raises:
            BrowserError: Chromium failed: the episode is over, and not by the agent's fault.
            EpisodeOverError: the episode has ended, or none has begun.
        """
        page = self.page
        if not self._running or page is None:
            raise EpisodeOverError("the episode is over, or none has begun; call reset()")
        plan = self._plan(action)
        times = {"action_exec_start": self._elapsed_s, "action_exec_timeout": 0.0}
        self._running = False  # unless all goes well
        try:
            error, away, state = page.run(self._act(page, plan))
        except BrowserError:
            if not _is_left(page):
                raise
            error, away, state = plan.error, "", dict(_NO_STATE)
        times["action_exec_stop"] = self._elapsed_s
        if match := re.match(r"TimeoutError: (?:\S+ )?Timeout ([0-9]+)ms exceeded\.", error):
            times["action_exec_timeout"] = float(match[1]) / 1000
        self._last = (printable(action), printable(error))
        observed = self._seen(page)
        if page.left_for and not away:
            away = "invalid url, terminating task"
        gave_up = any(message["role"] == "infeasible" for message in self.chat.messages)
        done = bool(away) or bool(state["DONE_GLOBAL"])
        reward = 0.0 if away else float((state["RAW_REWARD_GLOBAL"] or 0) > 0)
        terminated = done or (gave_up and self.terminate_on_infeasible)
        self._running = not terminated
        names = ("wait_for_page_loading", "validation", "get_observation")
        ends = {f"{name}_{end}": self._elapsed_s for name in names for end in ("start", "stop")}
        info = {**times, **ends, "task_info": {"error": away} if away else state}
        if terminated:
            info["success"] = reward > 0
        return self._observation(observed), reward, terminated, False, info

    def render(self) -> Any:
        """The page as an (H, W, 3) picture.

        Raises:
            EpisodeOverError: there has been no `reset`.
        """
        if self.render_mode is None:
            return None
        if self.page is None:
            raise EpisodeOverError("there is nothing to render; call reset() first")
        return self.page.run(self._photograph(self.page))

    def close(self) -> None:
        """Close the page; may be called twice."""
        self._running = False
        if self.page is not None:
            self.page.close()
            self.page = None

    # ---- on the browser's loop ---------------------------------------------------------------

    async def _start(self, page: Page, page_seed: int) -> tuple[str, dict[str, Any]]:
        """Begin an episode on the page; returns the goal and the page's state."""
        width, height = self.size
        await rest_mouse(page, width - 1, height - 1)
        await page.navigate(self._url)
        await page.evaluate(script("browsergym_page.js"))
        utterance = await page.evaluate_in_time(
            f"Math.seedrandom({page_seed}); core.EPISODE_MAX_TIME = {json.dumps(self.max_time_ms)};"
            f"core.startEpisodeReal(); [{advance(page, 0)}, core.getUtterance()]",
            f"[{proceed(page)}, core.getUtterance()]",
        )
        state = await page.evaluate(_STATE)
        goal = utterance if isinstance(utterance, str) else str(utterance["utterance"])
        return goal, dict(zip(_INFO, state, strict=True))

    async def _act(self, page: Page, plan: Plan) -> tuple[str, str, dict[str, Any]]:
        """Carry out a plan; returns its error, how the page was left, and the page's state."""
        error, away, ms = "", "", self.delay_s * 1000
        for call, source in zip(plan.calls, plan.sources, strict=True):
            if call.name == "wait":
                ms += 1000 * min(max(call.arguments["seconds"], 0.0), MAX_WAIT_S)
                continue
            error, away = await self._do(page, call, source)
            if error or away or page.left_for:
                break
        state: list[Any] = list(_NO_STATE.values())
        if not page.left_for and not away:
            state = await page.evaluate_in_time(
                f"[{advance(page, ms)}, {_STATE}]", f"[{proceed(page)}, {_STATE}]"
            )
        self._elapsed_s += ms / 1000
        return error or plan.error, away, dict(zip(_INFO, state, strict=True))

    async def _do(self, page: Page, call: ActionCall, source: str) -> tuple[str, str]:
        """Carry out a call; returns its error, and how the page was left."""
        match call.name:
            case "answer":
                self.chat.add_message("assistant", call.arguments["text"])
            case "infeasible":
                self.chat.add_message("infeasible", call.arguments["reason"])
            case "goto":
                why = f"Error: Page.goto: net::ERR_INTERNET_DISCONNECTED at {call.arguments['url']}"
                return why, "invalid url, terminating task"
            case "go_back":
                return "", "invalid url, terminating task"
            case "new_tab" | "tab_close":
                return "", "invalid page, terminating task"
            case "tab_focus":
                there = call.arguments["index"] in (0, -1)
                return "" if there else "IndexError: list index out of range", ""
            case "upload":
                return f"Error: {source}: there is no file to choose here", ""
            case name if name in ALL_ACTIONS:
                return told(await perform(page, _scaled(call), PageView(())), source), ""
            case name if name in INPUT_ACTIONS and self._inputs is not None:
                said = await self._inputs.perform(_scaled(call), PageView(()))
                return told(said, source), ""
        return "", ""

    async def _observe(self, page: Page) -> dict[str, Any]:
        """The parts of an observation that come from the page."""
        if page.left_for:
            return {"url": page.left_for, "title": "", "focused": "", "page": None}
        title = await page.evaluate("document.title")
        observed: dict[str, Any] = {"url": self._url, "title": title}
        if self.observations & {"dom_object", "axtree_object", "extra_element_properties"}:
            marked = await mark(page, every_tag=self.every_tag, scale=SCALE)
            tree = await fetch(page, marked) if "axtree_object" in self.observations else {}
            stable(marked.dom, tree)
            told = marked.properties
            self._marked = [bid for bid in told if told[bid]["set_of_marks"]]
            observed |= {"focused": marked.focused, "page": marked, "tree": tree}
        else:
            observed |= {"focused": await focused(page, every_tag=self.every_tag), "page": None}
        if "screenshot" in self.observations:
            observed["screenshot"] = await self._photograph(page)
        return observed

    async def _photograph(self, page: Page) -> ImageArray:
        """The page, `SCALE` times larger."""
        width, height = self.size
        x, y = await page.evaluate("[scrollX, scrollY]")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": SCALE}
        options = {"format": "png", "optimizeForSpeed": True, "clip": clip}
        answer = await page.session.send("Page.captureScreenshot", options)
        return image_of(base64.b64decode(answer["data"]), _scaled_size(self.size))

    # ---- parts -------------------------------------------------------------------------------

    def _seen(self, page: Page) -> dict[str, Any]:
        """The parts of an observation that come from the page, even if it is being left."""
        try:
            return page.run(self._observe(page))
        except BrowserError:
            if not _is_left(page):
                raise
            return page.run(self._observe(page))

    def _plan(self, action: str) -> Plan:
        """What the text asks for, once it has been mapped."""
        return mapped_plan(action, self.action_mapping)

    def _sample(self, rng: np.random.Generator) -> str:
        """A click, if it is known on what."""
        if not self._marked:
            return "noop()"
        return f"click('{self._marked[int(rng.integers(len(self._marked)))]}')"

    def _observation(self, observed: dict[str, Any]) -> dict[str, Any]:
        marked: Marked | None = observed["page"]
        width, height = _scaled_size(self.size)
        heavy = {
            "screenshot": observed.get("screenshot", np.zeros((height, width, 3), np.uint8)),
            "dom_object": marked.dom if marked else dict(_NO_PAGE),
            "axtree_object": observed.get("tree") or {"nodes": []},
            "extra_element_properties": marked.properties if marked else {},
        }
        return observation_of(
            self.chat.messages,
            self.goal_object,
            [(observed["url"], observed["title"])],
            0,
            observed["focused"],
            self._last,
            self._elapsed_s,
            {name: heavy[name] for name in HEAVY if name in self.observations},
        )


Mapped = Callable[[str], str]


def mapping_of(
    mapping: Mapped | Literal["subsets"] | None,
    subsets: str | Sequence[str] | None,
    multiaction: bool,
) -> Mapped | None:
    """What checks actions before they are read.

    Raises:
        ConfigError: both a mapping and subsets are given.
    """
    if mapping == "subsets":
        return HighLevelActionSet(
            subsets or DEFAULT_SUBSETS, multiaction=multiaction
        ).to_python_code
    if subsets is not None:
        raise ConfigError("subsets and action_mapping are two ways to say the same; give one")
    return mapping


def mapped_plan(action: object, mapping: Mapped | None) -> Plan:
    """What an action asks for, once it has been mapped. Never raises."""
    if not isinstance(action, str):
        return Plan(error=f"TypeError: an action is text, got {type(action).__name__}")
    try:
        code = mapping(action) if mapping else action
    except Exception as error:  # the mapping may be anybody's; what it raises is told
        return Plan(error=f"{type(error).__name__}: {error}")
    return _EVERYTHING.plan(code)


def observation_of(
    messages: Sequence[Mapping[str, Any]],
    goal_object: Sequence[Mapping[str, Any]],
    tabs: Sequence[tuple[str, str]],
    active: int,
    focused: str,
    last: tuple[str, str],
    elapsed_s: float,
    heavy: Mapping[str, Any],
) -> dict[str, Any]:
    """BrowserGym's observation.

    Args:
        messages: of the chat.
        goal_object: the goal's parts.
        tabs: address and title of each.
        active: which is the current one.
        focused: bid of what has the focus.
        last: the last action, and its error.
        elapsed_s: seconds since the episode began.
        heavy: those of `HEAVY` that are wanted.
    """
    texts = [part["text"] for part in goal_object if part["type"] == "text"]
    return {
        "chat_messages": tuple(dict(message) for message in messages),
        "goal": "\n".join(texts),
        "goal_object": tuple(dict(part) for part in goal_object),
        "open_pages_urls": tuple(url for url, _ in tabs),
        "open_pages_titles": tuple(title for _, title in tabs),
        "active_page_index": np.asarray([active]),
        "url": tabs[active][0],
        "focused_element_bid": focused,
        "last_action": last[0],
        "last_action_error": last[1],
        "elapsed_time": np.asarray([elapsed_s]),
        **heavy,
    }


_EVERYTHING = HighLevelActionSet("custom", custom_actions=list(ACTIONS))
_COORDINATES = frozenset(("x", "y", "dx", "dy", "x1", "y1", "x2", "y2"))
_IGNORED = (
    "slow_mo",
    "timeout",
    "locale",
    "timezone_id",
    "headless",
    "pw_chromium_kwargs",
    "pw_context_kwargs",
)
_OFF = ("wait_for_user_message", "resizeable_window", "record_video_dir", "use_raw_page_output")


def register_aliases() -> None:
    """Register ``browsergym/miniwob.<task>`` for BrowserGym's tasks; may be called again.

    Also ``browsergym/openended`` and ``browsergym/webarena.<number>``, see `browsergym_sites`.

    Raises:
        ConfigError: BrowserGym itself is installed, and the ids are its own.
    """
    if importlib.util.find_spec("browsergym") is not None:
        raise ConfigError(
            "browsergym is installed, and browsergym/miniwob.* are its ids; "
            "use agentgym/browsergym.miniwob.<task>-v0, or uninstall browsergym"
        )
    here = "agentgym.environments.web.browsergym"
    ids: dict[str, tuple[str, dict[str, Any]]] = {
        f"miniwob.{task}": (f"{here}:BrowserGymMiniWob", {"task": task})
        for task in BROWSERGYM_TASKS
    }
    ids["openended"] = (f"{here}_sites:BrowserGymOpenEnded", {})
    for number in range(WEBARENA_TASKS):
        ids[f"webarena.{number}"] = (f"{here}_sites:BrowserGymWebArena", {"task_id": number})
    for name, (entry_point, arguments) in ids.items():
        if f"browsergym/{name}" not in gym.registry:
            gym.register(id=f"browsergym/{name}", entry_point=entry_point, kwargs=arguments)


def check_others(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for arguments that BrowserGym does not have, or that cannot be had."""
    for name, value in given.items():
        if name not in (*_IGNORED, *_OFF):
            raise ConfigError(f"unknown argument {name!r}; see BrowserGymMiniWob")
        if name in _OFF and value:
            raise ConfigError(f"{name} must be off here, got {value!r}")


def _scaled_size(size: tuple[int, int]) -> tuple[int, int]:
    return round(size[0] * SCALE), round(size[1] * SCALE)


def _scaled(call: ActionCall) -> ActionCall:
    """The call with the page's own coordinates."""
    arguments = {
        name: value / SCALE if name in _COORDINATES else value
        for name, value in call.arguments.items()
    }
    return replace(call, arguments=arguments)


_LEAVING_S = 1.0


def _is_left(page: Page) -> bool:
    """Whether the page went elsewhere while it was in use; Chromium tells a little later."""
    deadline = time.monotonic() + _LEAVING_S
    while not (page.left_for or page.failure) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(page.left_for) and not page.failure


def printable(text: object) -> str:
    """The text as an observation can hold it: halves of characters become U+FFFD."""
    whole = str(text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole[-MAX_TEXT:]


class _Any(gym.Space[Any]):
    """Values of one Python type."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        super().__init__()

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, self.kind)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Any:
        return self.kind()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Any) and self.kind is other.kind

    def __hash__(self) -> int:
        return hash(self.kind)


def space_of(observations: Collection[str], size: tuple[int, int]) -> gym.Space[dict[str, Any]]:
    """Of BrowserGym's observations, with pictures of this width and height."""
    width, height = size
    texts = ("goal", "url", "focused_element_bid", "last_action", "last_action_error")
    tuples = ("chat_messages", "goal_object", "open_pages_urls", "open_pages_titles")
    spaces: dict[str, gym.Space[Any]] = {name: Unicode() for name in texts}
    spaces |= {name: _Any(tuple) for name in tuples}
    spaces["active_page_index"] = gym.spaces.Box(0, 255, (1,), np.int64)
    spaces["elapsed_time"] = gym.spaces.Box(0, 1e9, (1,), np.float64)
    for name in observations:
        spaces[name] = _Any(dict)
    if "screenshot" in observations:
        spaces["screenshot"] = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
    return cast(gym.Space[dict[str, Any]], gym.spaces.Dict(spaces))
