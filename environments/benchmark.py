"""The benchmark `environment`: steps and resets, against doing the same episodes by hand.

Every environment is made by `gymnasium.make` and played by its oracle, or at random if it has none.
The baseline of a MiniWoB page is plain Playwright as its users write it; that of a TextWorld game
is the engine without our layer.
"""

import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym

from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side
from agentgym.errors import BrowserError, MissingDependencyError, UnknownNameError

DEFAULT_IDS = (
    "agentgym/miniwob.click-test-v0",
    "agentgym/miniwob.click-checkboxes-v0",
    "agentgym/miniwob.enter-text-v0",
    "agentgym/miniwob.login-user-v0",
    "agentgym/miniwob.use-autocomplete-v0",
    "agentgym/textworld.coin_collector-v0",
    "agentgym/textworld.cooking-v0",
)
QUICK_IDS = ("agentgym/miniwob.click-test-v0", "agentgym/textworld.coin_collector-v0")
THREADED_ID = "agentgym/miniwob.login-user-v0"
THREADS = 4
EPISODES = 8
"""Of each side in one repetition; `THREADS` in the warm-up."""
GAMES = 3
"""Different TextWorld games, played in turn. Making one takes seconds, in the warm-up."""
MAX_STEPS = 50
_MINIWOB, _TEXTWORLD = "agentgym/miniwob.", "agentgym/textworld."
_NOTE = (
    "Baselines play the same episodes by hand. Plain Playwright: a new page and goto for each "
    "reset, locators that click and fill, aria_snapshot to read the page, page.screenshot() where "
    "there are images; it waits in real time for what a page shows late, agentgym's clock is "
    "virtual. Raw engine: textworld.start, reset and step, with the same infos. 1 thread: the "
    "same episodes one after the other. Choosing the actions is not measured, except with threads, "
    "where steps/s are those of the whole process."
)


def environment(options: BenchmarkOptions) -> Benchmark:
    """Steps and resets of environments, with and without images, and in threads.

    Raises:
        UnknownNameError: an environment is not registered.
    """
    ids = options.env_ids or (QUICK_IDS if options.quick else DEFAULT_IDS)
    for env_id in ids:
        _check(env_id)
    episodes = THREADS if options.quick else EPISODES
    settings = {"episodes_per_repetition": episodes, "threads": THREADS, "max_steps": MAX_STEPS}
    cases = []
    for env_id in ids:
        name = env_id.removeprefix("agentgym/").removesuffix("-v0")
        sides = partial(_sides, env_id, episodes, settings)
        cases.append(Case(name, sides))
        if env_id.startswith(_MINIWOB):
            cases.append(Case(f"{name} + image", partial(sides, images=True)))
    threaded = THREADED_ID if THREADED_ID in ids else ids[0]
    cases.append(
        Case(
            f"{threaded.removeprefix('agentgym/').removesuffix('-v0')}, in threads",
            partial(_threads, threaded, episodes),
            baseline="1 thread",
        )
    )
    return Benchmark(
        title="Environments",
        cases=cases,
        rates={
            "steps_per_s": partial(_rate, "step"),
            "resets_per_s": partial(_rate, "reset"),
            "all_steps_per_s": lambda m: m.counts["steps"] / m.seconds,
        },
        columns={
            "case": "environment",
            "side": "by",
            "steps_per_s": "steps/s",
            "steps_per_s_ratio": "x",
            "step_p50_ms": "p50 ms",
            "step_p95_ms": "p95 ms",
            "step_samples": "n",
            "resets_per_s": "resets/s",
            "resets_per_s_ratio": "x",
            "reset_p50_ms": "p50 ms",
            "reset_p95_ms": "p95 ms",
            "reset_samples": "n",
            "all_steps_per_s": "steps/s in all",
            "all_steps_per_s_ratio": "x",
        },
        note=_NOTE,
        settings=settings,
        repetitions=3 if options.quick else 5,
    )


def _check(env_id: str) -> None:
    try:
        gym.spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise UnknownNameError("environment", env_id, gym.registry) from error


def _rate(kind: str, measurement: Measurement) -> float | None:
    """Pieces of work per second of that work; `None` where it went on in threads."""
    seconds = measurement.latencies.get(kind)
    return len(seconds) / sum(seconds) if seconds else None


class Player(Protocol):
    """One way of playing an environment's episodes."""

    def reset(self, seed: int) -> str:
        """Start an episode and look; returns the goal."""
        ...

    def choose(self) -> Any:
        """The next action; not measured."""
        ...

    def step(self, action: Any) -> tuple[float, bool]:
        """Act and look; returns the reward, and whether the episode is over."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


Episode = tuple[int, str, int, float]
"""Seed, goal, number of steps, return."""


def play(player: Player, seeds: Sequence[int]) -> tuple[list[Episode], dict[str, list[float]]]:
    """Play one episode for each seed.

    Returns:
        What came of the episodes, and the seconds of each ``reset`` and ``step``.
    """
    episodes: list[Episode] = []
    latencies: dict[str, list[float]] = {"reset": [], "step": []}
    for seed in seeds:
        started = time.perf_counter()
        goal = player.reset(seed)
        latencies["reset"].append(time.perf_counter() - started)
        steps, total, over = 0, 0.0, False
        while not over and steps < MAX_STEPS:
            action = player.choose()
            started = time.perf_counter()
            reward, over = player.step(action)
            latencies["step"].append(time.perf_counter() - started)
            steps, total = steps + 1, total + reward
        episodes.append((seed, " ".join(goal.split()), steps, round(total, 6)))
    return episodes, latencies


def measure(player: Player, seeds: Sequence[int]) -> Measurement:
    """One measurement of a player, alone."""
    episodes, latencies = play(player, seeds)
    return _measurement(episodes, sum(map(sum, latencies.values())), latencies)


def measure_threads(players: Sequence[Player], seeds: Sequence[int]) -> Measurement:
    """One measurement of players in a thread each, which share the episodes between them."""
    shares = [seeds[i :: len(players)] for i in range(len(players))]
    with ThreadPoolExecutor(len(players)) as executor:
        started = time.perf_counter()
        played = list(executor.map(play, players, shares))
        seconds = time.perf_counter() - started
    return _measurement([e for episodes, _ in played for e in episodes], seconds, {})


def _measurement(
    episodes: Sequence[Episode], seconds: float, latencies: Mapping[str, Sequence[float]]
) -> Measurement:
    return Measurement(
        seconds=seconds,
        counts={"steps": sum(steps for _, _, steps, _ in episodes), "resets": len(episodes)},
        latencies=latencies,
        outcome=[list(episode) for episode in sorted(episodes)],
    )


@contextmanager
def _sides(
    env_id: str, episodes: int, settings: dict[str, Any], **kwargs: Any
) -> Iterator[Mapping[str, Side]]:
    """An environment, and its baseline if there is one; notes the browser in the settings."""
    with ExitStack() as stack:
        ours = stack.enter_context(closing(GymPlayer(env_id, **kwargs)))
        baseline = _baseline(env_id, ours, **kwargs)
        sides: dict[str, Side] = {
            "agentgym": lambda repetition: measure(ours, seeds(env_id, episodes, repetition))
        }
        if baseline is not None:
            other = stack.enter_context(closing(baseline))
            if isinstance(baseline, PlainPlaywright):
                settings["chromium"] = baseline.version
            sides["baseline"] = lambda repetition: measure(
                other, seeds(env_id, episodes, repetition)
            )
        yield sides


@contextmanager
def _threads(env_id: str, episodes: int) -> Iterator[Mapping[str, Side]]:
    """The same episodes by several environments in threads and by one of them."""
    with ExitStack() as stack:
        players = [stack.enter_context(closing(GymPlayer(env_id))) for _ in range(THREADS)]

        def side(count: int, repetition: int) -> Measurement:
            return measure_threads(players[:count], seeds(env_id, episodes, repetition))

        yield {f"{THREADS} threads": partial(side, THREADS), "1 thread": partial(side, 1)}


def seeds(env_id: str, episodes: int, repetition: int) -> list[int]:
    """Of the episodes of a repetition; the same ones on every side."""
    count = episodes if repetition else THREADS
    if env_id.startswith(_TEXTWORLD):
        games = GAMES if episodes >= EPISODES else 1
        return [i % games for i in range(count)]
    return [1000 * repetition + i for i in range(count)]


def _baseline(env_id: str, ours: "GymPlayer", images: bool = False) -> Player | None:
    if env_id.startswith(_MINIWOB):
        task = gym.spec(env_id).kwargs["task"]
        return PlainPlaywright(task, ours.begun, images) if task in SCRIPTS else None
    if env_id.startswith(_TEXTWORLD):
        return RawTextWorld(gym.spec(env_id).kwargs["game"], ours.played)
    return None


class GymPlayer:
    """Plays an environment of `gymnasium.make` by its oracle, or at random if it has none."""

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        self.env: gym.Env[Any, Any] = gym.make(env_id, disable_env_checker=True, **kwargs)
        self.begun: dict[int, Mapping[str, Any]] = {}
        """What `reset` told in its info, by seed."""
        self.played: dict[int, list[str]] = {}
        """The actions of the last episode, by seed."""
        self._actions: list[str] = []
        self._seed = 0

    def reset(self, seed: int) -> str:
        """Start an episode."""
        observation, self.begun[seed] = self.env.reset(seed=seed)
        self._actions = self.played[seed] = []
        self._seed = seed
        return str(observation["goal"]) if isinstance(observation, Mapping) else ""

    def choose(self) -> Any:
        """The oracle's action, or a random one."""
        if self._has_oracle():
            return self.env.get_wrapper_attr("oracle_action")()
        if not self._actions:
            self.env.action_space.seed(self._seed)
        return self.env.action_space.sample()

    def _has_oracle(self) -> bool:
        try:
            return bool(self.env.get_wrapper_attr("has_oracle"))
        except AttributeError:  # a third party's environment, which knows no oracles
            return False

    def step(self, action: Any) -> tuple[float, bool]:
        """Act through Gymnasium."""
        _, reward, terminated, truncated, _ = self.env.step(action)
        self._actions.append(action)
        return float(reward), terminated or truncated

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class RawTextWorld:
    """Plays the engine's games without our layer, with the commands that another player chose.

    Args:
        game: kind of game.
        played: the commands of each seed.
    """

    def __init__(self, game: str, played: Mapping[int, Sequence[str]]) -> None:
        self.game = game
        self._played = played
        self._commands: Iterator[str] = iter(())
        self._engine: Any = None
        self._score = 0

    def reset(self, seed: int) -> str:
        """Start the game of that seed."""
        import jericho
        import textworld

        from agentgym.environments.text.games import GameSpec, complete, game_file

        self.close()
        infos = textworld.EnvInfos(
            admissible_commands=True, description=True, inventory=True, won=True, lost=True
        )
        file = game_file(GameSpec(self.game, complete(self.game, {}), seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jericho.UnsupportedGameWarning)
            self._engine = textworld.start(str(file), infos)
            state = self._engine.reset()
        self._commands, self._score = iter(self._played[seed]), 0
        return str(state.objective)

    def choose(self) -> str:
        """The next of the given commands."""
        return next(self._commands)

    def step(self, action: str) -> tuple[float, bool]:
        """Give the engine a command."""
        state, score, done = self._engine.step(action)
        reward = (score - self._score) / state.max_score
        self._score = score
        return reward, bool(done)

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class PlainPlaywright:
    """Plays a MiniWoB page with Playwright's synchronous API, as its users do.

    Args:
        task: one of `SCRIPTS`.
        begun: for each seed, under ``page_seed``, that of the page.
        images: take a screenshot at each look.
    """

    def __init__(
        self, task: str, begun: Mapping[int, Mapping[str, Any]], images: bool = False
    ) -> None:
        from agentgym.environments.web.miniwob import HEIGHT, WIDTH, html_folder

        self.images = images
        self._begun = begun
        self._url = (html_folder() / "miniwob" / f"{task}.html").as_uri()
        self._script = SCRIPTS[task]
        self._size: Any = {"width": WIDTH, "height": HEIGHT}
        self._playwright, self._browser = _start_playwright()
        self.version: str = self._browser.version
        self._page: Any = None
        self._actions: Iterator[Callable[[], None]] = iter(())

    def reset(self, seed: int) -> str:
        """Open the page anew and begin the episode that agentgym has for this seed."""
        with _told():
            if self._page is not None:
                self._page.close()
            self._page = self._browser.new_page(viewport=self._size)
            self._page.goto(self._url)
            goal = self._page.evaluate(
                "seed => { Math.seedrandom(seed); core.EPISODE_MAX_TIME = 1e9;"
                " core.startEpisodeReal(); return core.getUtterance(); }",
                self._begun[seed]["page_seed"],
            )
            self._look()
        self._actions = self._script(self._page, goal)
        return str(goal)

    def choose(self) -> Callable[[], None]:
        """The next action of the script."""
        return next(self._actions)

    def step(self, action: Callable[[], None]) -> tuple[float, bool]:
        """Act, ask the page for the reward, and look."""
        with _told():
            action()
            done, reward = self._page.evaluate("[WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]")
            self._look()
        return (float(reward), True) if done else (0.0, False)

    def _look(self) -> None:
        self._page.locator("body").aria_snapshot()
        if self.images:
            self._page.screenshot()

    def close(self) -> None:
        """Stop Chromium and the driver."""
        self._browser.close()
        self._playwright.stop()


@contextmanager
def _told() -> Iterator[None]:
    """Playwright's errors as ours, in one line."""
    from playwright.sync_api import Error

    try:
        yield
    except Error as error:
        raise BrowserError(f"plain Playwright failed: {str(error).splitlines()[0]}") from error


def _start_playwright() -> tuple[Any, Any]:
    """Playwright, and the Chromium that agentgym would start, with Playwright's own settings.

    Raises:
        BrowserError: Chromium does not start.
        MissingDependencyError: Playwright or Chromium is not installed.
    """
    if importlib.util.find_spec("playwright") is None:
        raise MissingDependencyError("playwright is not installed; run pip install -e '.[web]'")
    from playwright.sync_api import sync_playwright

    playwright = sync_playwright().start()
    try:
        with _told():
            return playwright, _launch(playwright.chromium)
    except BaseException:
        playwright.stop()
        raise


def _launch(chromium: Any) -> Any:
    from agentgym.environments.web.browser import programs

    for program in programs():
        if program is not None or Path(chromium.executable_path).exists():
            return chromium.launch(executable_path=program)
    raise MissingDependencyError("no Chromium found; run `playwright install chromium`")


Script = Callable[[Any, str], Iterator[Callable[[], None]]]
"""From Playwright's page and the goal to actions, in as many steps as the oracle takes."""


def _click_test(page: Any, goal: str) -> Iterator[Callable[[], None]]:
    yield page.get_by_role("button").click


def _click_checkboxes(page: Any, goal: str) -> Iterator[Callable[[], None]]:
    wanted = goal.removeprefix("Select ").removesuffix(" and click Submit.")
    names = [] if wanted == "nothing" else wanted.split(", ")
    for i, name in enumerate(names):
        boxes = page.get_by_role("checkbox", name=name, exact=True)
        yield boxes.nth(names[:i].count(name)).click
    yield page.locator("#subbtn").click


def _enter_text(page: Any, goal: str) -> Iterator[Callable[[], None]]:
    yield partial(page.get_by_role("textbox").fill, _quoted(goal)[0])
    yield page.locator("#subbtn").click


def _login_user(page: Any, goal: str) -> Iterator[Callable[[], None]]:
    user, password = _quoted(goal)
    yield partial(page.locator("#username").fill, user)
    yield partial(page.locator("#password").fill, password)
    yield page.locator("#subbtn").click


def _use_autocomplete(page: Any, goal: str) -> Iterator[Callable[[], None]]:
    start, end = [*_quoted(goal), ""][:2]
    items = page.locator(".ui-menu-item")

    def begin() -> None:
        page.locator("#tags").fill(start)
        items.first.wait_for()

    yield begin
    fitting = re.compile(f"^(?={re.escape(start)}).*{re.escape(end)}$")  # both may overlap
    yield items.filter(has_text=fitting).first.click
    yield page.locator("#subbtn").click


def _quoted(goal: str) -> list[str]:
    return re.findall('"(.+?)"', goal)


SCRIPTS: Mapping[str, Script] = {
    "click-test": _click_test,
    "click-checkboxes": _click_checkboxes,
    "enter-text": _enter_text,
    "login-user": _login_user,
    "use-autocomplete": _use_autocomplete,
}
"""How plain Playwright solves a page, by task."""
