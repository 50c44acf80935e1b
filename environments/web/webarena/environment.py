"""agentgym/webarena-v0: WebArena's tasks on the user's own sites, scored once, at the end."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentgym.actions import ActionCall
from agentgym.environments.web.cdp import ProtocolError
from agentgym.environments.web.open import OpenWebEnv, Visit, origin
from agentgym.environments.web.session import ACTION_S, Session
from agentgym.environments.web.tab import LOAD_S, Tab
from agentgym.environments.web.webarena.evaluation import MODES, NOT_ACHIEVABLE, Mode, evaluate
from agentgym.environments.web.webarena.functions import SiteFunctions
from agentgym.environments.web.webarena.pictures import LIST, data_url, fetch_picture
from agentgym.environments.web.webarena.tasks import WebArenaTask, load_tasks, site_addresses
from agentgym.errors import BrowserError, ConfigError, EpisodeOverError, ScriptError
from agentgym.tape import Exchange
from agentgym.types import Observation

_HTML = """(document.doctype ? new XMLSerializer().serializeToString(document.doctype) : "")
  + document.documentElement.outerHTML"""


class WebArenaEnv(OpenWebEnv):
    """A task of WebArena on real pages.

    ## Description
    Tasks come from the user's file in WebArena's format (Zhou et al., arXiv 2307.13854), sites from
    the environment variables ``WA_SHOPPING=http://...`` and so on, or from the argument `sites`.
    The agent may open these sites alone, so that neither files nor other servers of the machine are
    in its reach; what is right never enters the browser before the agent's tabs have been stopped.

    ## Action Space, Observation Space
    Those of `agentgym/web.open-v0`: ``dialect="webarena"`` gives the original's.

    ## Rewards
    0, and at the end the task's score: 1 or 0. If a judge is needed, 0 for now.

    ## Starting State
    The task's start addresses, one tab each, the first in front; logged in if `logins` is given.
    The sites' own state is not reset: that is the business of whoever runs them.

    ## Episode End
    Terminated by ``answer`` or ``infeasible`` (which counts as the answer "N/A"), or after
    `max_turns` steps, as the original's early stop: then too the pages are evaluated as they are.
    ``info["evaluation"]`` lists the factors of the score (`evaluation.Evaluation.to_json`). Where
    only a model can tell, it lists the questions and ``info["success"]`` is None until a judge has
    answered. A site that cannot be reached raises `BrowserError`.

    ## Arguments
    See `__init__`. `reset` takes the option ``task_id``.

    ## Version History
    - v0: first version.
    """

    options = ("task_id",)

    def __init__(
        self,
        *,
        task_file: Path | str = "",
        task_id: int | None = None,
        sites: Mapping[str, str] | None = None,
        mode: Mode = "compat",
        logins: Path | str | None = None,
        functions: SiteFunctions | None = None,
        fetch_picture: Callable[[str], bytes] = fetch_picture,
        max_turns: int = 30,
        **browsing: Any,
    ) -> None:
        """Read the tasks; Chromium starts with the first `reset`.

        Args:
            task_file: JSON, as `tasks.load_tasks` reads it.
            task_id: of the task; here or in the options of `reset`.
            sites: name of a site to its address; by default from the environment variables.
            mode: "compat" scores like the published evaluators, "github" as WebArena's repository
                where that differs, "strict" without their defects; see `evaluation.evaluate`.
            logins: folder with the storage states that tasks name; without it nobody is logged in.
            functions: the helpers that tasks name by ``func:``; by default those of the sites.
            fetch_picture: gets the pictures that tasks name, by address; not the agent's browser.
            max_turns: steps after which an episode ends and is evaluated; 0 sets no limit. A
                greater one than 30 also needs ``max_episode_steps`` in `gymnasium.make`.
            browsing: arguments of `OpenWebEnv`, but for its `options`, storage_state among them.

        Raises:
            ConfigError: an argument is wrong, or the file is no task file.
        """
        for name in ("start_url", "goal", "allowed_hosts", "storage_state"):
            if name in browsing:
                raise ConfigError(f"{name} comes from the task; leave it out")
        if not task_file:
            raise ConfigError("there is no task file; give task_file='.../test.raw.json'")
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {MODES}, got {mode!r}")
        if max_turns < 0:
            raise ConfigError(f"max_turns must be at least 0, got {max_turns!r}")
        super().__init__(**browsing)
        self.sites = dict(site_addresses() if sites is None else sites)
        self.tasks = load_tasks(task_file, self.sites)
        self.task_id = task_id
        self.mode = mode
        self.logins = None if logins is None else Path(logins)
        self.functions = SiteFunctions(self.sites) if functions is None else functions
        self._fetch = fetch_picture
        self.max_turns = max_turns
        self.goal_images: tuple[str, ...] = ()
        """Pictures that belong to the goal, as data addresses."""
        self._exchanges: list[Exchange] = []
        self._task: WebArenaTask | None = None
        self._turns = 0

    def plan(self, options: Mapping[str, Any]) -> Visit:
        """See `OpenWebEnv.plan`."""
        task_id = options.get("task_id", self.task_id)
        if not isinstance(task_id, int):
            raise ConfigError(
                f"task_id must be a whole number, got {task_id!r}; give it to gym.make or as an "
                "option of reset"
            )
        try:
            task = self._task = self.tasks.by_id(task_id)
        except ConfigError as error:
            raise ConfigError("; ".join([str(error), *self.tasks.problems[:3]])) from error
        self._turns = 0
        self._exchanges = []
        self.goal_images = tuple(data_url(self._fetch(url)) for url in task.images)
        sites = {*map(origin, self.sites.values()), *map(origin, task.start_urls)}
        return Visit(
            task.intent,
            task.start_urls,
            tuple(sorted(sites)),
            frozenset(sites),
            task.viewport or self.size,
            self._login(task),
            self._exchanges.append if task.goal.verified else None,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a task; ``info["goal_images"]`` holds the pictures of its goal, if it has any.

        Raises:
            ConfigError: an option is wrong, or there is no such task.
            EnvFailureError: a site or a picture of the goal cannot be reached, or Chromium failed.
        """
        observation, info = super().reset(seed=seed, options=options)
        if self.goal_images:
            info["goal_images"] = list(self.goal_images)
        return observation, info

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out the call that the text holds; see `OpenWebEnv.step`.

        Raises:
            EnvFailureError: Chromium or a site failed, here or while the end was evaluated.
            EpisodeOverError: the episode has ended, or none has begun.
        """
        observation, reward, terminated, truncated, info = super().step(action)
        self._turns += 1
        if not terminated and self._turns == self.max_turns and self.session is not None:
            self._running = False
            reward, more = self.finish(self.session, ActionCall("answer", {"text": ""}))
            info |= {"answer": "", "infeasible": False, **more}
            terminated = True
        return observation, reward, terminated, truncated, info

    def finish(self, session: Session, call: ActionCall) -> tuple[float, dict[str, Any]]:
        """The score; see `OpenWebEnv.finish`."""
        if self._task is None:
            raise EpisodeOverError("no task has begun; call reset()")
        said = NOT_ACHIEVABLE if call.name == "infeasible" else str(call.arguments["text"])
        left = Left(session, said, tuple(self._exchanges))
        evaluation = evaluate(
            self._task, left, mode=self.mode, functions=self.functions, fetch=self._fetch
        )
        score = evaluation.score
        success = None if score is None else score == 1.0
        more = {"task_id": self._task.id, "success": success, "evaluation": evaluation.to_json()}
        return score or 0.0, more

    def _login(self, task: WebArenaTask) -> Path | None:
        if self.logins is None or not task.storage_state:
            return None
        return self.logins / Path(task.storage_state).name


class Left:
    """What the agent left behind (`evaluation.FinalState`): its tabs are stopped and not steered.

    Args:
        session: the agent's; its tabs stop here.
        answer: the agent's last words.
        exchanges: what its browser asked of sites.

    Raises:
        BrowserError: a tab could not be stopped.
    """

    def __init__(self, session: Session, answer: str, exchanges: Sequence[Exchange] = ()) -> None:
        self._session = session
        self.answer = answer
        self.exchanges = exchanges
        session.run(session.freeze())
        self.page = Shown(session, session.current)

    @contextmanager
    def visit(self, url: str) -> Iterator["Shown"]:
        """Another page with the agent's cookies, in a tab of its own that is closed after.

        Raises:
            BrowserError: it cannot be reached.
        """
        visiting = self._session.visit(url)
        tab = self._session.run(visiting.__aenter__())
        try:
            yield Shown(self._session, tab)
        finally:
            self._session.run(visiting.__aexit__(None, None, None))


class Shown:
    """A page that is looked at (`evaluation.PageState`)."""

    def __init__(self, session: Session, tab: Tab) -> None:
        self._session = session
        self._tab = tab
        self.url: str = session.run(tab.summary())[0]
        """Its address when the agent left it."""

    def content(self) -> str:
        """The page's HTML, read from our own world, where the page cannot have changed the means.

        Raises:
            BrowserError: the page does not answer.
        """
        html = self._session.run(self._tab.attempt("Reading", self._tab.ask(_HTML), LOAD_S))
        return str(html)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, in the page's own world.

        Raises:
            ValueError: the expression fails.
            BrowserError: the page does not answer.
        """
        reading = self._tab.attempt("Reading", self._tab.evaluate(expression), ACTION_S)
        try:
            return self._session.run(reading)
        except ScriptError as error:
            if self._tab.told:  # it did not fail, it was stopped
                raise BrowserError(self._tab.told[-1]) from error
            raise ValueError(str(error)) from error

    def pictures(self, selector: str) -> list[bytes]:
        """The files of pictures, as the page has loaded them: nothing is asked of any site.

        Args:
            selector: of pictures or of what they are in; empty for all that are seen.
        """
        reading = self._tab.attempt("Reading", self._files(selector), LOAD_S)
        return self._session.run(reading)

    async def _files(self, selector: str) -> list[bytes]:
        tree = await self._tab.session.send("Page.getFrameTree")
        frame, found = tree["frameTree"]["frame"]["id"], []
        for url in await self._tab.ask(f"{LIST}({json.dumps(selector)})"):
            if url.startswith("data:") and ";base64," in url:
                found.append(base64.b64decode(url.partition(";base64,")[2]))
                continue
            try:
                wanted = {"frameId": frame, "url": url}
                answer = await self._tab.session.send("Page.getResourceContent", wanted)
            except ProtocolError:  # it never came
                continue
            text = answer["content"]
            found.append(base64.b64decode(text) if answer["base64Encoded"] else text.encode())
        return found
