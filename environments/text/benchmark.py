"""The benchmark `text`: games in pure Python against themselves without wrappers, and TextWorld.

Five questions. What does a step of each game cost, and how much of it is Gymnasium's wrappers? What
would the cheapest possible environment cost? How far is TextWorld from its raw engine? What does a
game weigh among a thousand live ones in one process, and does stepping them in turn cost more than
one after the other? What does `gymnasium.make_vec` add?
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side
from agentgym.environments.benchmark import GymPlayer, RawTextWorld, measure
from agentgym.errors import UnknownNameError

TEXTWORLD = "agentgym/textworld."
TEXTWORLD_GAMES = ("coin_collector", "cooking", "custom", "skill")
LIVE_IDS = ("agentgym/maze-v0", "agentgym/wordle-v0", "agentgym/twenty_questions-v0")
LIVE = 1000
LIVE_TURNS = 5
VECTOR_ID = "agentgym/maze-v0"
VECTOR = 8
STEPS = 3000
"""Of each side in one repetition, at most."""
SECONDS = 0.25
"""That these may take; slower games make fewer steps."""
TEXTWORLD_EPISODES = 6
_PAGE = 4096
_NOTE = (
    "Random play; choosing the actions is not measured. unwrapped: the same environment without "
    "Gymnasium's wrappers (order and turn limit). The cheapest environment has text spaces and "
    "returns constants. Raw engine: textworld.start, reset and step with the same infos, and the "
    "same commands. One by one: the same games, played one after the other in one environment. "
    "In a loop: as many environments of gymnasium.make. KiB: memory that the process gained by "
    "making and resetting its live games, for each of them."
)


def text(options: BenchmarkOptions) -> Benchmark:
    """Steps and resets of the text games.

    Raises:
        UnknownNameError: an environment is not registered.
    """
    for env_id in options.env_ids:
        if env_id not in gym.registry:
            raise UnknownNameError("environment", env_id, gym.registry)
    ids = options.env_ids or tuple(game_ids())
    shorter = 20 if options.quick else 1
    seconds, live = SECONDS / shorter, LIVE // shorter
    cases = [
        Case(_short(env_id), partial(_alone, env_id, seconds), baseline="unwrapped")
        for env_id in ids
        if not env_id.startswith(TEXTWORLD)
    ]
    cases.append(Case("cheapest environment", partial(_cheapest, seconds), baseline="unwrapped"))
    engines = [f"{TEXTWORLD}{game}-v0" for game in TEXTWORLD_GAMES]
    if options.quick:
        engines = engines[:1]
    for env_id in [i for i in ids if i.startswith(TEXTWORLD)] or engines:
        cases.append(Case(_short(env_id), partial(_textworld, env_id), baseline="raw engine"))
    for env_id in LIVE_IDS:
        if env_id in ids:
            name = f"{_short(env_id)}, {live} live"
            cases.append(Case(name, partial(_live, env_id, live), baseline="one by one"))
    name = f"{_short(VECTOR_ID)}, {VECTOR} at once"
    cases.append(Case(name, partial(_vector, VECTOR_ID, shorter), baseline="in a loop"))
    return Benchmark(
        title="Text games",
        cases=cases,
        rates={
            "steps_per_s": partial(_rate, "step"),
            "resets_per_s": partial(_rate, "reset"),
            "kib_per_game": _weight,
        },
        columns={
            "case": "game",
            "side": "by",
            "steps_per_s": "steps/s",
            "steps_per_s_ratio": "x",
            "step_p50_ms": "p50 ms",
            "step_p95_ms": "p95 ms",
            "resets_per_s": "resets/s",
            "resets_per_s_ratio": "x",
            "kib_per_game": "KiB",
        },
        note=_NOTE,
        settings={"live": live, "live_turns": LIVE_TURNS, "seconds": seconds, "steps": STEPS},
        repetitions=3 if options.quick else 5,
    )


def game_ids() -> list[str]:
    """The registered games in pure Python, without variants of the same one."""
    found = [
        spec.id
        for spec in gym.registry.values()
        if str(spec.entry_point).startswith("agentgym.environments.text.")
        and not spec.id.startswith(TEXTWORLD)
        and "." not in spec.id
    ]
    return sorted(found)


def _short(env_id: str) -> str:
    return env_id.removeprefix("agentgym/").removesuffix("-v0")


def _rate(kind: str, measurement: Measurement) -> float | None:
    seconds = measurement.latencies.get(kind)
    return len(seconds) / sum(seconds) if seconds else None


def _weight(measurement: Measurement) -> float | None:
    games = measurement.counts.get("live")
    return measurement.counts["bytes"] / 1024 / games if games else None


class Cheapest(gym.Env[str, str]):
    """An environment that does nothing: what remains is Gymnasium."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Text(10)
        self.action_space = gym.spaces.Text(10)
        self._info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Nothing, not even the seed."""
        return "", self._info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Nothing."""
        return "", 0.0, False, False, self._info


def _cheap(**arguments: Any) -> Cheapest:
    return Cheapest()


Env = gym.Env[Any, Any]


def random_play(env: Env, limit: int, steps: int, seed: int) -> Measurement:
    """Episodes of random play, one after the other, until there are so many steps.

    Args:
        env: wrapped or not.
        limit: turns after which an episode is left.
        steps: of all episodes.
        seed: of the first episode; the others count on.
    """
    clock = time.perf_counter
    latencies: dict[str, list[float]] = {"reset": [], "step": []}
    left, turns, over = steps, 0, True
    while left:
        if over:
            env.action_space.seed(seed)
            started = clock()
            env.reset(seed=seed)
            latencies["reset"].append(clock() - started)
            seed, turns = seed + 1, 0
        action = env.action_space.sample()
        started = clock()
        _, _, terminated, truncated, _ = env.step(action)
        latencies["step"].append(clock() - started)
        turns, left = turns + 1, left - 1
        over = terminated or truncated or turns >= limit
    seconds = sum(map(sum, latencies.values()))
    counts = {"steps": steps, "resets": len(latencies["reset"])}
    return Measurement(seconds, counts, latencies, outcome=steps)


def _enough(env: Env, limit: int, seconds: float) -> int:
    """Steps that take about so long."""
    tried = random_play(env, limit, 20, 0)
    return max(20, min(STEPS, int(20 * seconds / tried.seconds)))


def _against_itself(env: Env, bare: Env, limit: int, seconds: float) -> Mapping[str, Side]:
    """Two environments of a kind, each with its own seeds: nobody finds another's caches warm."""
    steps = _enough(env, limit, seconds)

    def side(player: Env, first: int, repetition: int) -> Measurement:
        return random_play(player, limit, steps, first + 10_000 * repetition)

    return {"gymnasium.make": partial(side, env, 0), "unwrapped": partial(side, bare, 5_000)}


@contextmanager
def _alone(env_id: str, seconds: float) -> Iterator[Mapping[str, Side]]:
    """A game with Gymnasium's wrappers and without."""
    limit = gym.spec(env_id).max_episode_steps
    assert limit is not None
    with (
        closing(gym.make(env_id, disable_env_checker=True)) as env,
        closing(gym.make(env_id, disable_env_checker=True).unwrapped) as bare,
    ):
        yield _against_itself(env, bare, limit, seconds)


@contextmanager
def _cheapest(seconds: float) -> Iterator[Mapping[str, Side]]:
    """The cheapest environment with the same wrappers and without."""
    spec = gym.envs.registration.EnvSpec("agentgym/cheapest-v0", _cheap, max_episode_steps=100)
    with closing(gym.make(spec, disable_env_checker=True)) as env:
        yield _against_itself(env, Cheapest(), 100, seconds)


@contextmanager
def _textworld(env_id: str) -> Iterator[Mapping[str, Side]]:
    """A TextWorld game, and its engine without our layer."""
    with ExitStack() as stack:
        ours = stack.enter_context(closing(GymPlayer(env_id)))
        engine = stack.enter_context(
            closing(RawTextWorld(gym.spec(env_id).kwargs["game"], ours.played))
        )
        seeds = [0] * TEXTWORLD_EPISODES
        yield {
            "gymnasium.make": lambda repetition: measure(ours, seeds),
            "raw engine": lambda repetition: measure(engine, seeds),
        }


@contextmanager
def _live(env_id: str, live: int) -> Iterator[Mapping[str, Side]]:
    """Many games at once, a turn of each in turn; and the same ones one by one."""
    with ExitStack() as stack:
        one = stack.enter_context(closing(gym.make(env_id, disable_env_checker=True)))
        one.reset(seed=0)
        before = _memory()
        envs = [gym.make(env_id, disable_env_checker=True) for _ in range(live)]
        for env in envs:
            stack.enter_context(closing(env))
            env.reset(seed=0)
        gained = max(0, _memory() - before)

        def interleaved(repetition: int) -> Measurement:
            games = [_Turns(env, live * repetition + i) for i, env in enumerate(envs)]
            for _ in range(LIVE_TURNS):
                for game in games:
                    game.turn()
            return _measured(games, {"live": live, "bytes": gained})

        def one_by_one(repetition: int) -> Measurement:
            games = []
            for i in range(live):
                games.append(_Turns(one, live * repetition + i))
                for _ in range(LIVE_TURNS):
                    games[-1].turn()
            return _measured(games, {})

        yield {"interleaved": interleaved, "one by one": one_by_one}


class _Turns:
    """One episode, turn by turn."""

    def __init__(self, env: Env, seed: int) -> None:
        self.env = env
        self.steps: list[float] = []
        self.total, self.over = 0.0, False
        env.action_space.seed(seed)
        started = time.perf_counter()
        env.reset(seed=seed)
        self.reset = time.perf_counter() - started

    def turn(self) -> None:
        """A random action, unless the episode is over."""
        if self.over:
            return
        action = self.env.action_space.sample()
        started = time.perf_counter()
        _, reward, terminated, truncated, _ = self.env.step(action)
        self.steps.append(time.perf_counter() - started)
        self.total += float(reward)
        self.over = terminated or truncated


def _measured(games: Sequence[_Turns], counts: Mapping[str, int]) -> Measurement:
    steps = [seconds for game in games for seconds in game.steps]
    resets = [game.reset for game in games]
    return Measurement(
        sum(steps) + sum(resets),
        {"steps": len(steps), "resets": len(games), **counts},
        {"step": steps, "reset": resets},
        outcome=[[len(game.steps), round(game.total, 6)] for game in games],
    )


def _memory() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


@contextmanager
def _vector(env_id: str, shorter: int) -> Iterator[Mapping[str, Side]]:
    """Environments in a synchronous vector, and in a loop."""
    turns = max(1, STEPS // VECTOR // shorter)
    with ExitStack() as stack:
        vector = gym.make_vec(env_id, num_envs=VECTOR, vectorization_mode="sync")
        stack.callback(vector.close)
        envs = [
            stack.enter_context(closing(gym.make(env_id, disable_env_checker=True)))
            for _ in range(VECTOR)
        ]
        actions = _actions(envs[0], turns)

        def by_vector(repetition: int) -> Measurement:
            def turn(chosen: Sequence[str]) -> None:
                vector.step(chosen)

            return _turns_of(lambda: vector.reset(seed=0), turn, actions)

        def by_loop(repetition: int) -> Measurement:
            over = [False] * VECTOR

            def reset() -> None:
                for seed, env in enumerate(envs):
                    env.reset(seed=seed)
                over[:] = [False] * VECTOR

            def turn(chosen: Sequence[str]) -> None:
                for i, env in enumerate(envs):
                    if over[i]:  # as the vector does: the next step of an ended episode resets
                        env.reset()
                        over[i] = False
                    else:
                        _, _, terminated, truncated, _ = env.step(chosen[i])
                        over[i] = terminated or truncated

            return _turns_of(reset, turn, actions)

        yield {"make_vec sync": by_vector, "in a loop": by_loop}


def _actions(env: Env, turns: int) -> list[tuple[str, ...]]:
    env.reset(seed=0)
    env.action_space.seed(0)
    return [tuple(env.action_space.sample() for _ in range(VECTOR)) for _ in range(turns)]


def _turns_of(
    reset: Callable[[], Any], turn: Callable[[Sequence[str]], None], actions: Sequence[Any]
) -> Measurement:
    started = time.perf_counter()
    reset()
    latencies = {"reset": [(time.perf_counter() - started) / VECTOR] * VECTOR, "step": []}
    for chosen in actions:
        started = time.perf_counter()
        turn(chosen)
        latencies["step"] += [(time.perf_counter() - started) / VECTOR] * VECTOR
    counts = {"steps": VECTOR * len(actions), "resets": VECTOR}
    return Measurement(sum(map(sum, latencies.values())), counts, latencies, outcome=len(actions))
