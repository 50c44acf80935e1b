"""agentgym/miniwob.<task>-v0: the MiniWoB++ pages in real headless Chromium, offline."""

import importlib.util
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agentgym.actions import ActionCall
from agentgym.core import AgentEnv
from agentgym.environments.web.actions import (
    ALL_ACTIONS,
    action_set,
    perform,
    rest_mouse,
    sample_call,
)
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.dialects import Plan
from agentgym.environments.web.difference import observation_text
from agentgym.environments.web.faces import Face, OnePage, OwnFace, face_of, style_of
from agentgym.environments.web.inputs import INPUT_ACTIONS, Inputs
from agentgym.environments.web.marks import draw_marks, marks_of, texts_of
from agentgym.environments.web.miniwob_tasks import RESTARTABLE, TASKS
from agentgym.environments.web.page import Page, image_of, script
from agentgym.environments.web.session import ENDINGS
from agentgym.environments.web.view import PageView
from agentgym.errors import (
    BrowserError,
    ConfigError,
    EpisodeOverError,
    MissingDependencyError,
    UnknownNameError,
)
from agentgym.spaces import ActionText, observation_space
from agentgym.types import Observation

RewardKind = Literal["raw", "original", "binary", "thresholded", "browsergym"]
WIDTH, HEIGHT = 332, 214
"""The viewport in CSS pixels: BrowserGym's, so that pages are laid out the same."""
STEP_MS = 1000
"""Virtual time that passes with each action."""
_NO_TIME_LIMIT_MS = 1_000_000_000
SLICE_MS = 100
"""Animations are drawn this often while time passes."""
_OURS = "#reward-display, #sync-task-cover, #click-canvas, #query"
_HIDE_OURS = """(() => {
  const sheet = new CSSStyleSheet();
  const ours = "#reward-display, #sync-task-cover, #click-canvas";
  sheet.replaceSync(ours + "{ display: none !important }");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
})();"""
_CLOCK = 'window[Symbol.for("agentgym")]'
"""What moves a page's time, see `clock.js`."""
_RESTART = (
    "document.activeElement?.blur(); if (core.EP_TIMER !== null) core.endEpisode(0);"
    f"{_CLOCK}.rewind()"
)
PAGE_SCRIPTS = ("hover.js", "clock.js", "listeners.js")
"""What runs before a page's own scripts."""
_STATE = "[WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL, WOB_REWARD_GLOBAL, WOB_REWARD_REASON]"


class MiniWobEnv(AgentEnv):
    """One MiniWoB++ page.

    ## Description
    A small web task from MiniWoB++ (https://miniwob.farama.org): the goal is one sentence, the page
    is generated from the seed, and the page itself gives the reward. The pages are files of the
    `miniwob` package; no network and no server is used. Time is virtual: it stands still while the
    agent thinks and `STEP_MS` pass with each action, so that pages with timers and animations are
    as repeatable as the others.

    ## Action Space
    Text with one call, see `agentgym.environments.web.actions`; elements are named by their id. Or,
    by the argument `dialect`, the actions of BrowserGym, WebArena or WebRL (see `faces`).

    ## Observation Space
    `goal` in words; `text`, one line per element, ``[id] role "name" value="..." states``, or what
    the dialect shows; `error` about the last action; `image`, (214, 332, 3), if made with
    ``images=True``.

    ## Rewards
    0 until the page ends the episode, then by the argument `reward`: ``raw`` the page's own in
    [-1, 1]; ``original`` scaled by the (virtual) time left, with the page's own time limit;
    ``binary`` 1 if the raw reward is 1, else -1; ``thresholded`` 1 if it is at least `threshold`,
    else -1; ``browsergym`` 1 if it is positive, else 0. ``info["success"]`` is a positive raw
    reward, whatever `reward` is.

    ## Starting State
    The page for ``RandomState(seed).randint(1_000_000)``, as in BrowserGym.

    ## Episode End
    Terminated when the page gives its reward, when the agent leaves the page (raw reward -1), or by
    what a dialect has for the last words (raw reward 0: the page has not been solved).
    Truncated after 10 steps (`max_episode_steps`).

    ## Arguments
    See `__init__`. `reset` takes the option ``page_seed``, the page's seed itself, in [0, 10**6).

    ## Version History
    - v0: first version.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        reward: RewardKind = "raw",
        threshold: float = 0.5,
        images: bool = False,
        render_mode: str | None = None,
        dialect: str = "agentgym",
        actions: Sequence[str] | None = None,
        action_syntax: str = "",
        data_mode: str = "default",
        difference: bool = False,
        marks: bool = False,
        oracle_thoughts: bool = True,
        **style: Any,
    ) -> None:
        """Set up; Chromium starts with the first `reset`.

        Args:
            task: one of `miniwob_tasks.TASKS`.
            reward: how the page's reward is given, see above.
            threshold: for ``reward="thresholded"``.
            images: observations carry a picture.
            render_mode: ``rgb_array``, ``ansi`` or nothing.
            dialect: the language of actions and text, one of `faces.FACES`.
            actions: names of the actions to offer, out of `actions.ALL_ACTIONS`; with "browsergym"
                names of its subsets.
            action_syntax: one of `agentgym.actions.SYNTAXES`; other dialects than our own have
                one of their own, or "json" for tool calls.
            data_mode: ``default``, ``train`` or ``test``; some pages have different texts for them.
            difference: the text is what changed since the last one, where that is shorter.
            marks: the elements' boxes and ids are drawn on the picture (``dialect="agentgym"``).
            oracle_thoughts: `oracle_action` gives a line of thought before the call.
            style: fields of `faces.Style`: what of the page is shown (``max_chars``, by default
                4000, ``max_tokens``, ``head``, by default nothing, ``coordinates``, ``boxes``,
                ``viewport_only``).

        Raises:
            UnknownNameError: there is no such task, dialect, action or argument.
            ConfigError: another argument is wrong.
            MissingDependencyError: the `miniwob` package is not installed.
        """
        if task not in TASKS:
            raise UnknownNameError("MiniWoB task", task, TASKS)
        _check("reward", reward, get_args(RewardKind))
        _check("data_mode", data_mode, ("default", "train", "test"))
        _check("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if marks and (dialect != "agentgym" or not images):
            raise ConfigError("marks needs images=True and dialect='agentgym'")
        shown = style_of({"max_chars": 4000, "head": ()} | style)
        self.task = task
        self.reward = reward
        self.threshold = threshold
        self.images = images
        self.render_mode = render_mode
        self.face: Face
        """How the page looks to the agent, and what its words mean."""
        if dialect == "agentgym":
            offered = action_set(ALL_ACTIONS if actions is None else actions)
            self.face = OwnFace(shown, offered, action_syntax or "python")
        else:
            self.face = face_of(dialect, shown, actions=actions, syntax=action_syntax)
        self.action_set = self.face.action_set
        self.action_syntax = self.face.syntax
        self.data_mode = data_mode
        self.difference = difference
        self.marks = marks
        self.oracle_thoughts = oracle_thoughts
        self.observation_space = observation_space(image_size=(HEIGHT, WIDTH) if images else None)
        self.action_space = ActionText(self.action_set, self.action_syntax, sampler=self._sample)
        self.diagnostics: dict[str, Any] = {}
        self.view = PageView(())
        """What the page showed last, as far as the dialect looks."""
        self.goal = ""
        file = html_folder() / "miniwob" / f"{task}.html"
        self._url = file.as_uri()
        self._hover_styles = has_hover_styles(file)
        self._page: Page | None = None
        self._inputs: Inputs | None = None
        self._text = self._told = ""  # the page as text, and what the agent was given of it
        self._clean = False  # the page is loaded and may be restarted
        self._running = False
        self._history: list[ActionCall] = []
        self._memory: dict[str, Any] = {}
        self._picture = b""  # of the last look

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Raises:
            BrowserError: Chromium failed.
            ConfigError: an option is unknown or wrong.
        """
        super().reset(seed=seed)
        page_seed = self._page_seed(seed, options or {})
        started = time.perf_counter()
        self._running = False
        held = self._inputs is not None and self._inputs.buttons  # the page would know of it
        if self._page is not None and (held or self._page.failure or not self._page.browser.alive):
            self.close()
        if self._page is None:
            init = "".join(script(name) for name in PAGE_SCRIPTS)
            self._page = Browser.shared(stepped=True).page(
                size=(WIDTH, HEIGHT), init_script=init + _HIDE_OURS, offline=True
            )
            self._page.hover_styles = self._hover_styles
            self._clean = False
        self._inputs = None
        # Other dialects' ids would go on counting on a page that is not loaded anew.
        restart = self._clean and self.task in RESTARTABLE and isinstance(self.face, OwnFace)
        self._clean = False
        self._history, self._memory, self._text = [], {}, ""
        self.goal = self._page.run(self._start(self._page, page_seed, restart))
        self._develop()
        self._clean = self._running = True
        self.diagnostics = {"reset_s": time.perf_counter() - started, "restarted": restart}
        return self._observation(""), {"page_seed": page_seed}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out the call that the text holds, and let time pass.

        Raises:
            BrowserError: Chromium failed: the episode is over, and not by the agent's fault.
            EpisodeOverError: the episode has ended, or none has begun.
        """
        page = self._live_page()
        started = time.perf_counter()
        plan = self.face.plan(action)
        self._running = False  # unless all goes well
        error, (done, raw, scaled, reason) = page.run(self._act(page, plan))
        self._develop()
        raw, scaled = float(raw or 0), float(scaled or 0)
        self._running = not done
        self.diagnostics["step_s"] = time.perf_counter() - started
        info: dict[str, Any] = {
            "action": "; ".join(map(str, plan.calls)),
            "action_error": error,
            "parsed": bool(plan.calls),
            "thought": plan.thought,
            "raw_reward": raw,
            "reason": reason or "",
        }
        if done:
            info["success"] = raw > 0
        reward = self._reward(raw, scaled) if done else 0.0
        return self._observation(info["action_error"]), reward, bool(done), False, info

    def render(self) -> Any:
        """The page as text (``ansi``) or as an (H, W, 3) picture (``rgb_array``).

        Raises:
            EpisodeOverError: there has been no `reset`.
        """
        if self.render_mode is None:
            return None
        if self._page is None:
            raise EpisodeOverError("there is nothing to render; call reset() first")
        if self.render_mode == "ansi":
            return f"{self.goal}\n{self._text}"
        return image_of(self._page.run(self._page.photograph()), (WIDTH, HEIGHT))

    def close(self) -> None:
        """Close the page; may be called twice."""
        self._running = self._clean = False
        if self._page is not None:
            self._page.close()
            self._page = None

    @property
    def page(self) -> Page | None:
        """The page, for tools that look behind it; Playwright's own is its `playwright`."""
        return self._page

    @property
    def has_oracle(self) -> bool:
        """True if there is a scripted expert for this task."""
        from agentgym.environments.web.oracles import ORACLES

        return self.task in ORACLES and isinstance(self.face, OwnFace)

    def oracle_action(self) -> str:
        """The scripted expert's next action, with a thought before it if wanted.

        Raises:
            NotImplementedError: the task has no oracle, or the dialect is another one.
            EpisodeOverError: the episode has ended, or none has begun.
        """
        from agentgym.environments.web.oracles import ORACLES, OracleContext

        if not self.has_oracle:
            raise NotImplementedError(
                f"MiniWoB task {self.task!r} has no oracle for what is spoken here"
            )
        page = self._live_page()
        context = OracleContext(
            goal=self.goal,
            view=self.view,
            history=list(self._history),
            evaluate=lambda expression: page.run(page.evaluate(expression)),
            memory=self._memory,
        )
        thought, call = ORACLES[self.task](context)
        text = self.action_set.format(call, self.action_syntax)
        return f"{thought}\n{text}" if self.oracle_thoughts and thought else text

    # ---- on the browser's loop ---------------------------------------------------------------

    async def _start(self, page: Page, page_seed: int, restart: bool) -> str:
        """Begin an episode on the page; returns the goal."""
        await rest_mouse(page, WIDTH - 1, HEIGHT - 1)
        if not restart:
            await page.navigate(self._url)
        again = f"{_RESTART};" if restart else ""
        limit = "" if self.reward == "original" else f"core.EPISODE_MAX_TIME = {_NO_TIME_LIMIT_MS};"
        utterance = await self._seen_after(
            page,
            f"{again} WOB_DATA_MODE = {json.dumps(self.data_mode)}; {limit}"
            f"Math.seedrandom({page_seed}); core.startEpisodeReal();"
            f"[{advance(page, 0)}, core.getUtterance()]",
            f"[{proceed(page)}, core.getUtterance()]",
            look=f"agentgym.reset({json.dumps(_OURS)}), agentgym.look()",
        )
        return utterance if isinstance(utterance, str) else str(utterance["utterance"])

    async def _act(self, page: Page, plan: Plan) -> tuple[str, list[Any]]:
        """Carry out a plan; returns what was wrong with it, and the page's own state."""
        error, ms, ending = plan.error, float(STEP_MS), ""
        for call, source in zip(plan.calls, plan.sources, strict=True):
            if call.name in ENDINGS:
                ending = "ended by the agent"
                break
            said = await self._do(page, call)
            if said:
                error = self.face.told(said, source)
                break
            self._history.append(call)
            if call.name == "wait":
                ms = call.arguments["seconds"] * 1000
        if not page.left_for:
            try:
                state: list[Any] = await self._seen_after(
                    page, f"[{advance(page, ms)}, {_STATE}]", f"[{proceed(page)}, {_STATE}]"
                )
            except BrowserError:
                if not page.left_for:
                    raise
        if page.left_for:
            self._clean = False
            self.view = PageView((), url=page.left_for)
            self._text = self._told = ""
            return error, [True, -1.0, -1.0, "left the page"]
        if ending and not state[0]:
            self._clean = False
            return error, [True, 0.0, 0.0, ending]
        return error, state

    async def _do(self, page: Page, call: ActionCall) -> str:
        """Carry out a call; returns what was wrong with it."""
        if call.name in ALL_ACTIONS:
            return await perform(page, call, self.view)
        if call.name not in INPUT_ACTIONS:
            return f"There is only this page; it cannot do {call.name}."
        if self._inputs is None:
            self._inputs = Inputs(page)
        return await self._inputs.perform(call, self.view)

    async def _seen_after(
        self, page: Page, expression: str, again: str, look: str = "agentgym.look()"
    ) -> Any:
        """Run a script and look; see `Page.evaluate_and_look`."""
        before = self._text
        if isinstance(self.face, OwnFace):
            value, self.view = await page.evaluate_and_look(expression, again, look=look)
            self._text = await self.face.show(OnePage(page), self.view)
        else:
            value = await page.evaluate_in_time(expression, again)
            self._text = await self.face.look(OnePage(page))
            self.view = self.face.view
        self._told = observation_text(before, self._text) if self.difference else self._text
        await self._photograph(page)
        return value

    async def _photograph(self, page: Page) -> None:
        if self.images:
            self._picture = await page.photograph()

    # ---- parts -------------------------------------------------------------------------------

    def _develop(self) -> None:
        """Add the picture to what was seen, if there is to be one.

        Not on the browser's loop, which would keep all other pages waiting.
        """
        if self.images:
            image = image_of(self._picture, (WIDTH, HEIGHT))
            if self.marks:
                image = draw_marks(image, marks_of(self.view), texts=texts_of(self.view))
            self.view = replace(self.view, image=image)

    def _live_page(self) -> Page:
        if not self._running or self._page is None:
            raise EpisodeOverError("the episode is over, or none has begun; call reset()")
        return self._page

    def _page_seed(self, seed: int | None, options: dict[str, Any]) -> int:
        unknown = sorted(set(options) - {"page_seed"})
        if unknown:
            raise ConfigError(f"unknown reset options {unknown!r}; MiniWoB knows 'page_seed'")
        if "page_seed" in options:
            page_seed = options["page_seed"]
            if not isinstance(page_seed, int) or not 0 <= page_seed < 1_000_000:
                raise ConfigError(f"page_seed must be an integer in [0, 10**6), got {page_seed!r}")
            return page_seed
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        return int(np.random.RandomState(seed % 2**32).randint(0, 1_000_000))

    def _reward(self, raw: float, scaled: float) -> float:
        match self.reward:
            case "original":
                return scaled
            case "binary":
                return 1.0 if raw == 1.0 else -1.0
            case "thresholded":
                return 1.0 if raw >= self.threshold else -1.0
            case "browsergym":
                return float(raw > 0)
        return raw

    def _observation(self, error: str) -> Observation:
        observation = Observation(goal=self.goal, text=self._told, error=error)
        if self.view.image is not None:
            observation["image"] = self.view.image
        return observation

    def _sample(self, rng: np.random.Generator) -> str:
        words = self.goal.split()
        if not isinstance(self.face, OwnFace):
            return self.face.sample(rng, words or ["text"], self._url)
        call = sample_call(self.action_set, self.view, rng, words=words)
        return self.action_set.format(call, self.action_syntax)


def html_folder() -> Path:
    """The `html` folder of the installed `miniwob` package, which is not imported.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    spec = importlib.util.find_spec("miniwob")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("miniwob is not installed; run pip install -e '.[web]'")
    return Path(next(iter(spec.submodule_search_locations))) / "html"


def advance(page: Page, ms: float) -> str:
    """An expression that lets time pass on a page: whether a frame must come, see `clock.js`."""
    return f"{_CLOCK}.advance({ms}, {_senses(page)})"


def proceed(page: Page) -> str:
    """What goes on after such a frame."""
    return f"{_CLOCK}.proceed({_senses(page)})"


def _senses(page: Page) -> str:
    """What the clock must know to see whether a frame would change the page."""
    return f"{SLICE_MS}, {json.dumps(page.hover_styles)}, {json.dumps(page.mouse)}"


@cache
def has_hover_styles(file: Path) -> bool:
    """Whether a page has styles for what is under the mouse.

    Chromium finds out what is under a resting mouse with its next frame, so that each look must
    wait for one. (Pages that listen to the mouse are known to `listeners.js`.)
    """
    html = file.read_text(encoding="utf-8")
    sheets = re.findall(r'href="([^"]+\.css)"', html)
    texts = [html, *((file.parent / s).read_text(encoding="utf-8") for s in sheets)]
    return any(":hover" in text for text in texts)


def _check(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {list(allowed)}, got {value!r}")
