"""Offline datasets: episodes of a scripted expert, of chance and of both, in a trajectory store.

Episode i of a dataset depends on the plan and on i alone: not on how many there will be, where the
work was interrupted or how fast the machine is. So equal plans give equal rows, a small dataset is
the beginning of a larger one, and a stopped one is continued. Nothing is measured into the rows.

Environments are played in this process, in a plain loop: their own experts and chance need no
batching, and the threads of `rollout.collect` would cost several times as much as the games.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import agentgym
from agentgym import durable
from agentgym.chat import ContextConfig, Tokenizer
from agentgym.core import TurnOutput, TurnRequest
from agentgym.errors import (
    AgentGymError,
    ConfigError,
    MissingDependencyError,
    StoreError,
    UnknownNameError,
)
from agentgym.images import encode_image
from agentgym.policy import EnvPolicy
from agentgym.progress import Bar, Progress
from agentgym.rollout import make_env
from agentgym.seeding import derive
from agentgym.store import TrajectoryStore
from agentgym.types import (
    NO_TOKENS,
    EndReason,
    Image,
    IntArray,
    Observation,
    Source,
    Task,
    Trajectory,
    Turn,
)

PLAN = "dataset.json"
FORMAT = 1
"""Part of every plan: to be raised when equal plans give other rows than before."""
BATCH, BATCH_S = 512, 10.0
"""Episodes, or seconds, after which what is done goes to the disk; each time costs 10 ms or so."""
ATTEMPTS = 3
"""How often an episode that its environment breaks is begun in all."""
MIXED = 0.5
"""Probability of a random action in the quality "mixed"."""
_SOURCES = {0.0: Source.EXPERT, 1.0: Source.RANDOM}
# These say that the caller asked for something impossible; beginning again would not help.
_CALLERS_ERRORS = (ConfigError, MissingDependencyError, UnknownNameError, NotImplementedError)

Env = gym.Env[Any, Any]


@dataclass(frozen=True, slots=True)
class Quality:
    """One kind of player."""

    name: str
    noise: float
    """Probability, at each turn, of a random action instead of the expert's; in [0, 1]."""
    share: float
    """Of the episodes; all of a mix sum to 1."""


def parse_mix(text: str) -> tuple[Quality, ...]:
    """The qualities that a text such as ``expert=0.3,mixed:0.2=0.4,random=0.3`` names.

    ``mixed:P`` is an expert that takes a random action with probability P at each turn; plain
    ``mixed`` has the probability `MIXED`. Weights are divided by their sum; without one it is 1.

    Raises:
        ConfigError: an unknown or doubled quality, a probability or a weight out of range.

    Example:
        >>> [(q.name, q.noise, q.share) for q in parse_mix("expert=3,mixed:0.2=1")]
        [('expert', 0.0, 0.75), ('mixed:0.2', 0.2, 0.25)]
    """
    noises: dict[str, float] = {}
    weights: list[float] = []
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        kind, colon, level = name.partition(":")
        try:
            weights.append(float(weight or 1))
            noise = float(level) if colon else MIXED
        except ValueError:
            raise ConfigError(f"a mix is QUALITY=WEIGHT,..., got {part!r} in {text!r}") from None
        if kind not in ("expert", "mixed", "random") or (colon and kind != "mixed"):
            raise ConfigError(f"a quality is expert, mixed, mixed:P or random, got {name!r}")
        if not 0 < noise < 1:
            raise ConfigError(f"the P of mixed:P must be between 0 and 1, got {level!r}")
        if not 0 < weights[-1] < math.inf:
            raise ConfigError(f"the weight of {name} must be above 0, got {weight!r}")
        noise = {"expert": 0.0, "random": 1.0}.get(kind, noise)
        name = f"mixed:{noise:g}" if kind == "mixed" else kind
        if name in noises:
            raise ConfigError(f"{name} stands twice in the mix {text!r}")
        noises[name] = noise
    total = sum(weights)
    return tuple(
        Quality(name, noise, weight / total)
        for (name, noise), weight in zip(noises.items(), weights, strict=True)
    )


def qualities(mix: tuple[Quality, ...]) -> Iterator[Quality]:
    """Whose turn it is, episode by episode: at any point each has its share, up to one episode.

    Example:
        >>> chosen = itertools.islice(qualities(parse_mix("expert,random=2")), 6)
        >>> "".join(quality.name[0] for quality in chosen)
        'rerrer'
    """
    done = [0] * len(mix)
    for count in itertools.count(1):
        behind = [quality.share * count - had for quality, had in zip(mix, done, strict=True)]
        chosen = max(range(len(mix)), key=lambda i: (round(behind[i], 9), -i))
        done[chosen] += 1
        yield mix[chosen]


@dataclass(frozen=True)
class DatasetPlan:
    """What decides every row of a dataset."""

    env_id: str
    episodes: int
    """How many in all; the only part that may grow later."""
    mix: str = "expert=0.3,mixed=0.4,random=0.3"
    """See `parse_mix`."""
    seed: int = 0
    """Of the actions; episode i is the task of seed ``seed + i``."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the environment."""
    split: str = "train"
    model: str = ""
    """Whose tokens the rows hold, for a model that shall learn from them; empty for text alone."""

    def __post_init__(self) -> None:
        parse_mix(self.mix)
        if self.episodes < 1 or self.seed < 0:
            raise ConfigError(
                f"need episodes >= 1 and seed >= 0, got {self.episodes!r} and {self.seed!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": FORMAT, "agentgym": agentgym.__version__, **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class QualityReport:
    """How the episodes of one quality went."""

    episodes: int
    successes: int
    unscored: int
    """Those that the environment broke to the last attempt."""
    mean_return: float
    mean_turns: float


def make_dataset(
    plan: DatasetPlan,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    context: ContextConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, QualityReport]:
    """Play what is missing of a dataset and append it.

    Args:
        plan: what to play.
        folder: of the trajectory store; begun if it is not there, continued if it is.
        tokenizer: of the plan's model, if it names one.
        context: how a model sees the episodes; matters only with a tokenizer.
        progress: shows how far it is.

    Returns:
        How the episodes of each quality went, those that were there before included.

    Raises:
        ConfigError: the folder holds something else, or the environment has no expert or no limit
            of turns.
        StoreError: the rows cannot be written.
        UnknownNameError: the environment is not registered.
    """
    policy = EnvPolicy(_nobody, Source.EXPERT, tokenizer=tokenizer, context=context)
    env = make_env(plan.env_id, **plan.env)
    try:
        _check(env, plan)
        _compare(plan, folder)
        with TrajectoryStore(folder) as store:
            if len(store) > plan.episodes:
                raise ConfigError(f"{folder} holds {len(store)} episodes already, more than asked")
            durable.write_json(folder / PLAN, plan.to_json())
            shown = progress or Progress(quiet=True)
            with shown.phase("data", plan.episodes, "episodes", done=len(store)) as bar:
                _fill(store, _Player(plan, policy, env), bar)
    finally:
        env.close()
    return summarise(folder)


def summarise(folder: Path) -> dict[str, QualityReport]:
    """How the episodes of a dataset went, by quality.

    Raises:
        StoreError: there is no dataset.
    """
    store = TrajectoryStore(folder, read_only=True)
    rows = store.table(["policy", "outcome", "reward", "num_turns"]).to_pylist()
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["policy"], []).append(row)
    return {
        name: QualityReport(
            episodes=len(group),
            successes=sum(row["outcome"] == 1.0 for row in group),
            unscored=sum(row["outcome"] is None for row in group),
            mean_return=float(np.mean([row["reward"] for row in group])),
            mean_turns=float(np.mean([row["num_turns"] for row in group])),
        )
        for name, group in sorted(groups.items())
    }


def _nobody(env: Env) -> str:
    raise NotImplementedError("the player of a dataset chooses the actions itself")


def _check(env: Env, plan: DatasetPlan) -> None:
    if env.spec is None or env.spec.max_episode_steps is None:
        raise ConfigError(f"{plan.env_id} has no limit of turns; register it with one")
    guided = any(quality.noise < 1.0 for quality in parse_mix(plan.mix))
    if guided and not getattr(env.unwrapped, "has_oracle", False):
        raise ConfigError(f"{plan.env_id} has no expert; only the mix 'random' is possible")


def _compare(plan: DatasetPlan, folder: Path) -> None:
    """Refuse a folder that holds another dataset, or something else."""
    path = folder / PLAN
    given = json.loads(json.dumps(plan.to_json()))
    if path.exists():
        try:
            there = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        for name in given:
            if name != "episodes" and there.get(name) != given[name]:
                raise ConfigError(
                    f"{folder} is a dataset with {name}={there.get(name)!r}, not "
                    f"{given[name]!r}; go on with its own arguments, or choose another folder"
                )
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no dataset; choose another folder")


def _fill(store: TrajectoryStore, player: "_Player", bar: Bar) -> None:
    """Play the missing episodes; also when it is stopped, those that are finished are kept."""
    start, end = len(store), player.plan.episodes
    batch: list[Trajectory] = []

    def keep() -> None:
        # What an interrupted call has written already is not written again.
        missing = batch[len(store) - start :]
        store.append(missing)
        bar(len(store))

    kept = time.monotonic()
    try:
        turns = itertools.islice(qualities(player.mix), start, end)
        for index, quality in enumerate(turns, start):
            batch.append(player.play(index, quality))
            if len(batch) >= BATCH or time.monotonic() - kept > BATCH_S:
                keep()
                start, batch, kept = len(store), [], time.monotonic()
    finally:
        keep()


class _Player:
    """Plays the episodes of a plan, any of them at any time."""

    def __init__(self, plan: DatasetPlan, policy: EnvPolicy, env: Env) -> None:
        self.plan, self.policy, self.env = plan, policy, env
        self.mix = parse_mix(plan.mix)
        self.name = f"{plan.env_id.rpartition('/')[2]}-{plan.seed}"

    def play(self, index: int, quality: Quality) -> Trajectory:
        """Episode `index`; what the environment breaks is begun again and at last recorded."""
        errors: list[str] = []
        while True:
            episode = _Episode(self, index, quality)
            try:
                end, error = episode.run(self.env), ""
            except _CALLERS_ERRORS:
                raise
            except Exception as problem:
                end, error = EndReason.ENV_ERROR, f"{type(problem).__name__}: {problem}"
                self.env.close()
                self.env = make_env(self.plan.env_id, **self.plan.env)
                errors.append(error)
                if len(errors) < ATTEMPTS:
                    continue
            return episode.trajectory(end, error, errors[: ATTEMPTS - 1])


class _Episode:
    """One attempt at one episode, as `rollout.collect` would record it with the same actions."""

    def __init__(self, player: _Player, index: int, quality: Quality) -> None:
        self.player, self.index, self.quality = player, index, quality
        self.seed = derive(player.plan.seed, "episode", index)
        self.task = Task(player.plan.env_id, player.plan.seed + index, split=player.plan.split)
        self.turns: list[Turn] = []
        self.strayed: list[int] = []
        self.last: Observation | None = None
        self.final_prompt_ids: IntArray | None = None

    def run(self, env: Env) -> EndReason:
        """Play to the end."""
        chance = np.random.default_rng(derive(self.seed, "noise"))
        env.action_space.seed(derive(self.seed, "action_space") % 2**32)
        expert, noise = getattr(env.unwrapped, "oracle_action", None), self.quality.noise
        observation, info = env.reset(seed=self.task.seed)
        self.last = observation
        policy = self.player.policy
        conversation = policy.conversation(env) if policy.format is not None else None
        while True:
            if noise and (noise == 1.0 or chance.random() < noise):
                self.strayed.append(len(self.turns))
                text = str(env.action_space.sample())
            else:
                assert expert is not None
                text = expert()
            output = None
            if conversation is not None:
                conversation.observe(observation)
                output = policy.act([TurnRequest(conversation, 0, text)])[0]
                if output.overflow:
                    self.final_prompt_ids = conversation.open_context()
                    return EndReason.TOKEN_LIMIT
            before, key = observation, info.get("state_key")
            observation, reward, terminated, truncated, info = env.step(text)
            self.last = observation
            self.turns.append(
                _turn(before, key, text, output, float(reward), terminated, truncated, info)
            )
            if terminated:
                return EndReason.SUCCESS if info.get("success") else EndReason.FAILURE
            if truncated:
                if conversation is not None:
                    conversation.observe(observation)
                    self.final_prompt_ids = conversation.open_context()
                return EndReason.TURN_LIMIT

    def trajectory(self, end: EndReason, error: str, broken: list[str]) -> Trajectory:
        """The record of what happened."""
        player, last = self.player, self.last
        metadata: dict[str, Any] = {"phase": "data"}
        if 0.0 < self.quality.noise < 1.0:
            metadata["random_turns"] = self.strayed
        if broken:
            metadata["broken_attempts"] = broken
        final = last if last is not None and self.turns else None
        return Trajectory(
            id=f"{player.name}/{self.index:07d}",
            task=dataclasses.replace(self.task, goal=last["goal"]) if last else self.task,
            turns=tuple(self.turns),
            end=end,
            outcome=float(end is EndReason.SUCCESS) if end.is_agents else None,
            source=_SOURCES.get(self.quality.noise, Source.SYNTHETIC),
            policy=self.quality.name,
            sample_seed=self.seed,
            group_id=self.task.id,
            attempt=len(broken),
            final_observation=final["text"] if final else "",
            final_error=final["error"] if final else "",
            final_image=_picture(final) if final else None,
            final_prompt_ids=self.final_prompt_ids if final else None,
            error=error,
            metadata=metadata,
        )


def _turn(
    before: Observation,
    key: str | None,
    text: str,
    output: TurnOutput | None,
    reward: float,
    terminated: bool,
    truncated: bool,
    info: Mapping[str, Any],
) -> Turn:
    """The record of one exchange."""
    if not math.isfinite(reward):
        raise AgentGymError(f"the environment's reward is {reward!r}, which is no number")
    more = dict(info)
    completion = output.completion if output is not None else None
    return Turn(
        observation=before["text"],
        prompt_ids=output.prompt_ids if output is not None else NO_TOKENS,
        extends=output.extends if output is not None else False,
        action_ids=completion.token_ids if completion is not None else None,
        text=text,
        observation_error=before["error"],
        image=_picture(before),
        thought=more.pop("thought", ""),
        action=more.pop("action", ""),
        action_error=more.pop("action_error", ""),
        parsed=more.pop("parsed", True),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        state_key=key,
        info=more,
    )


def _picture(observation: Observation) -> Image | None:
    pixels = observation.get("image")
    return None if pixels is None else encode_image(np.asarray(pixels))
