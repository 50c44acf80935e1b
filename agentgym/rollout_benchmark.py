"""The benchmark `rollout`: many episodes at once against one at a time with transformers' generate.

The baseline is the loop that people write first: for each episode, for each turn, put the whole
chat through the template and call `model.generate`.
"""

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym.actions import ActionSet
from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side, covered
from agentgym.chat import ContextConfig, Conversation
from agentgym.core import AgentEnv, SamplingParams, TurnOutput, TurnRequest
from agentgym.errors import MissingDependencyError
from agentgym.policy import LanguagePolicy, system_message
from agentgym.rollout import RolloutConfig, check_ids, collect, make_env
from agentgym.spaces import ActionText, observation_space
from agentgym.types import Observation, Task, Trajectory
from agentgym.workers import Env

NUM_ENVS = (1, 4, 16)
"""Episodes at the same time, one side each."""
BASELINE_EPISODES = 4
"""Of a repetition; the other sides run these and, if need be, more to fill their slots."""
MAX_TURNS = 3
MAX_TOKENS = 24
_WEB = ("agentgym/miniwob.click-checkboxes-v0", "agentgym/miniwob.login-user-v0")
_NOTE = (
    "Baseline: one episode at a time, the whole chat through the template and transformers' own "
    "generate at every turn. All sides are greedy, see the same tasks, and count sampled tokens. "
    "Shares are of wall-clock time in which a batch was sampled (prompts included), in which an "
    "environment worked, and in which neither did; the first two can overlap."
)


def rollout(options: BenchmarkOptions) -> Benchmark:
    """`collect` with 1, 4 and 16 environments, against a plain loop.

    Raises:
        MissingDependencyError: torch or the embedded model is not installed.
        UnknownNameError: an environment is not registered.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch is not installed; run pip install -e '.[train]'")
    from agentgym.models.load import DEFAULT_MODEL, load_model

    check_ids(options.env_ids)
    if options.env_ids:
        sets = {", ".join(e.removeprefix("agentgym/") for e in options.env_ids): options.env_ids}
    else:
        sets = {"in-process rooms": (Rooms.ID,), "miniwob": _WEB}
    name = options.model or ("tiny" if options.quick else DEFAULT_MODEL)
    loaded = load_model(name, dtype=options.dtype)
    num_envs = NUM_ENVS[:2] if options.quick else NUM_ENVS
    return Benchmark(
        title=f"Rollouts with {loaded.name}",
        cases=[
            Case(label, partial(_sides, loaded, ids, num_envs, options.quick))
            for label, ids in sets.items()
        ],
        rates={
            "tokens_per_s": lambda m: m.counts["tokens"] / m.seconds,
            "turns_per_s": lambda m: m.counts["turns"] / m.seconds,
            "episodes_per_min": lambda m: 60 * m.counts["episodes"] / m.seconds,
        },
        columns={
            "case": "environments",
            "side": "by",
            "tokens_per_s": "tokens/s",
            "tokens_per_s_ratio": "x",
            "turns_per_s": "turns/s",
            "episodes_per_min": "episodes/min",
            "episodes_per_min_ratio": "x",
            "generation_share": "generation",
            "environments_share": "environments",
            "idle_share": "idle",
        },
        note=_NOTE,
        settings={
            "model": loaded.name,
            "dtype": str(loaded.model.dtype),
            "device": str(loaded.model.device),
            "max_turns": MAX_TURNS,
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
            "environments": {label: list(ids) for label, ids in sets.items()},
            "baseline_episodes": BASELINE_EPISODES,
        },
        repetitions=3,
    )


@contextmanager
def _sides(
    loaded: Any, env_ids: Sequence[str], num_envs: Sequence[int], quick: bool
) -> Iterator[Mapping[str, Side]]:
    """`collect` at each number of environments, then the plain loop."""
    from agentgym.inference.hf import HFBackend

    backend = HFBackend(loaded.model, loaded.tokenizer)
    baseline_episodes = min(2, BASELINE_EPISODES) if quick else BASELINE_EPISODES

    def ours(slots: int, repetition: int) -> Measurement:
        tasks = tasks_of(env_ids, max(slots, baseline_episodes), repetition)
        return run_collect(backend, loaded.tokenizer, tasks, slots, baseline_episodes)

    def baseline(repetition: int) -> Measurement:
        tasks = tasks_of(env_ids, baseline_episodes, repetition)
        return run_plain_loop(loaded.model, loaded.tokenizer, tasks)

    sides: dict[str, Side] = {f"collect, {n} at once": partial(ours, n) for n in num_envs}
    yield {**sides, "baseline": baseline}


def tasks_of(env_ids: Sequence[str], episodes: int, repetition: int) -> list[Task]:
    """The tasks of a repetition, the ids in turn; one for the warm-up. More begin with fewer."""
    count = episodes if repetition else 1
    return [
        Task(env_ids[i % len(env_ids)], seed=1000 * repetition + i, split="test")
        for i in range(count)
    ]


def run_collect(
    backend: Any, tokenizer: Any, tasks: Sequence[Task], num_envs: int, compared: int
) -> Measurement:
    """One measurement of `collect`.

    Args:
        backend: samples.
        tokenizer: of its model.
        tasks: one episode each.
        num_envs: episodes at the same time.
        compared: how many of the first episodes' results go into the outcome.
    """
    log = _Log()
    policy = _TimedPolicy(log, backend, tokenizer)
    started = time.perf_counter()
    trajectories = collect(
        tasks,
        policy,
        RolloutConfig(num_envs=num_envs, max_turns=MAX_TURNS),
        make=partial(_make, log),
    )
    seconds = time.perf_counter() - started
    return Measurement(
        seconds=seconds,
        counts={
            "episodes": len(trajectories),
            "turns": sum(len(t.turns) for t in trajectories),
            "tokens": sum(_sampled(t) for t in trajectories),
            "batches": len(log.generation),
            "broken": sum(t.outcome is None for t in trajectories),
        },
        shares=log.shares(seconds),
        outcome=[[t.task.id, len(t.turns), t.reward] for t in trajectories[:compared]],
    )


def run_plain_loop(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> Measurement:
    """One measurement of the baseline: episode after episode, turn after turn."""
    log = _Log()
    started = time.perf_counter()
    episodes = [_plain_episode(model, tokenizer, task, log) for task in tasks]
    seconds = time.perf_counter() - started
    return Measurement(
        seconds=seconds,
        counts={
            "episodes": len(episodes),
            "turns": sum(e.turns for e in episodes),
            "tokens": sum(e.tokens for e in episodes),
            "batches": len(log.generation),
            "broken": 0,
        },
        shares=log.shares(seconds),
        outcome=[[e.task, e.turns, e.reward] for e in episodes],
    )


@dataclass
class _Episode:
    task: str
    turns: int = 0
    tokens: int = 0
    reward: float = 0.0


def _plain_episode(model: Any, tokenizer: Any, task: Task, log: "_Log") -> _Episode:
    episode = _Episode(task.id)
    env = _make(log, task.env_id)
    try:
        observation, _ = env.reset(seed=task.seed)
        chat = Conversation(None, system_message(env, ContextConfig()))
        over = False
        while not over:
            chat.observe(observation)
            with log.time(log.generation):
                messages = [{"role": m.role, "content": m.content} for m in chat.prompt().messages]
                inputs = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
                ).to(model.device)
                output = model.generate(
                    **inputs,
                    max_new_tokens=MAX_TOKENS,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
                answer = output[0, inputs["input_ids"].shape[1] :]
                text = tokenizer.decode(answer, skip_special_tokens=True)
            chat.reply(text, None)
            observation, reward, terminated, truncated, _ = env.step(text)
            episode.turns += 1
            episode.tokens += len(answer)
            episode.reward += float(reward)
            over = terminated or truncated or episode.turns >= MAX_TURNS
    finally:
        env.close()
    return episode


def _sampled(trajectory: Trajectory) -> int:
    return sum(len(t.action_ids) for t in trajectory.turns if t.action_ids is not None)


@dataclass
class _Log:
    """When what was going on; appended to from many threads."""

    generation: list[tuple[float, float]] = field(default_factory=list)
    environments: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def time(self, intervals: list[tuple[float, float]]) -> Iterator[None]:
        """Note when the block began and ended."""
        started = time.perf_counter()
        try:
            yield
        finally:
            intervals.append((started, time.perf_counter()))

    def shares(self, seconds: float) -> dict[str, float]:
        """Parts of so many seconds."""
        busy = covered([*self.generation, *self.environments])
        return {
            "generation": covered(self.generation) / seconds,
            "environments": covered(self.environments) / seconds,
            "idle": max(0.0, 1 - busy / seconds),
        }


class _TimedPolicy(LanguagePolicy):
    """A language policy that notes when it samples."""

    def __init__(self, log: _Log, backend: Any, tokenizer: Any) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        super().__init__(backend, tokenizer, sampling=sampling)
        self._log = log

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        """One turn for each conversation."""
        with self._log.time(self._log.generation):
            return super().act(requests)


class _TimedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that notes when it works."""

    def __init__(self, env: Env, log: _Log) -> None:
        super().__init__(env)
        self._log = log

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        with self._log.time(self._log.environments):
            return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act."""
        with self._log.time(self._log.environments):
            return super().step(action)

    def close(self) -> None:
        """Close the environment."""
        with self._log.time(self._log.environments):
            super().close()


def _make(log: _Log, env_id: str) -> Env:
    with log.time(log.environments):
        return _TimedEnv(Rooms() if env_id == Rooms.ID else make_env(env_id), log)


def take(thing: str) -> None:
    """Take a thing that is here."""


def go() -> None:
    """Go on to the next room."""


class Rooms(AgentEnv):
    """An environment that costs nothing, so that a rollout's own time shows.

    Description: a walk through `MAX_TURNS` rooms. Whatever the agent does leads to the next room,
    so that every model plays equally many turns and reads equally much.

    Action Space: ``take(thing)`` and ``go()``, in Python syntax.

    Observation Space: text, without images.

    Rewards: 1 at the end of the walk.

    Starting State: the first room; the seed decides what lies in which room.

    Episode End: after the last room.

    Arguments: none.

    Version History: not registered; used by the benchmark alone.
    """

    ID = "rooms"
    _COLOURS = ("red", "green", "blue", "yellow", "white", "black")
    _THINGS = ("book", "lamp", "chair", "clock", "bottle", "key", "box", "cup")

    def __init__(self) -> None:
        self.action_set = ActionSet([take, go])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()
        self._room = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Go back to the first room."""
        super().reset(seed=seed)
        self._room = 1
        return self._look(""), {}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Go on to the next room."""
        reading = self.action_set.read(action)
        over = self._room >= MAX_TURNS
        self._room += 1
        info = {**reading.info(), **({"success": True} if over else {})}
        return self._look(reading.error), float(over), over, False, info

    def _look(self, error: str) -> Observation:
        things = [
            f"a {self._COLOURS[int(self.np_random.integers(len(self._COLOURS)))]} {thing}"
            for thing in self.np_random.permutation(np.array(self._THINGS))[:5]
        ]
        return Observation(
            goal="Walk through all the rooms and take what you like.",
            text=f"Room {self._room} of {MAX_TURNS}. Here are {', '.join(things)}.",
            error=error,
        )
