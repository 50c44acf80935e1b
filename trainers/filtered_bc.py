"""Filtered behaviour cloning, online: clone the policy's own best episodes, again and again.

Sources: rejection-sampling fine-tuning, Yuan et al. 2023, https://arxiv.org/abs/2308.01825; expert
iteration, Anthony et al. 2017, https://arxiv.org/abs/1705.08439; the quantile rule, Zhou et al.
2024 (ArCHer), https://arxiv.org/abs/2402.19446.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from agentgym import seeding
from agentgym.errors import ConfigError
from agentgym.rows import Row, pack, unpack, untrainable_turns
from agentgym.trainers.behaviour_cloning import BehaviourCloningConfig, BehaviourCloningTrainer
from agentgym.types import Source, Trajectory


@dataclass(frozen=True)
class FilteredBCConfig(BehaviourCloningConfig):
    """How to filter, on top of how to clone."""

    rule: Literal["success", "quantile"] = "success"
    """Keep full successes, or the best of all episodes so far."""
    quantile: float = 0.9
    """Of all scores so far; the "quantile" rule keeps scores that reach it."""
    score: Literal["outcome", "reward"] = "outcome"
    """What the "quantile" rule ranks."""
    deduplicate: bool = True
    """Keep one of several episodes with the same task and the same actions."""
    max_per_task: int = 0
    """Episodes kept of one task (environment id and seed), the shortest first; 0 is no limit."""
    max_per_env: int = 0
    """Episodes kept of one environment id, the shortest first; 0 is no limit."""
    replay_share: float = 0.0
    """Share of trained episodes that are drawn from those kept earlier."""
    demonstration_share: float = 0.0
    """Share of trained episodes that are drawn from demonstrations."""
    pool_size: int = 4096
    """Episodes remembered for replay; the oldest are forgotten."""
    restart: Literal["latest", "base"] = "latest"
    """Train the current weights further, or begin each update from the weights that the trainer
    was made with and train on all that was ever kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"quantile must be in [0, 1], got {self.quantile!r}")
        shares = (self.replay_share, self.demonstration_share)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ConfigError(
                "replay_share and demonstration_share must not be negative and leave room for new "
                f"episodes (sum below 1), got {shares}"
            )
        if self.max_per_task < 0 or self.max_per_env < 0 or self.pool_size < 0:
            raise ConfigError(
                "max_per_task, max_per_env and pool_size must not be negative, got "
                f"{self.max_per_task}, {self.max_per_env} and {self.pool_size}"
            )


# -- the filter: pure functions ---------------------------------------------------------------


def score_of(trajectory: Trajectory, score: str) -> float | None:
    """What is ranked; `None` if the episode is unscored."""
    if trajectory.outcome is None:
        return None
    return trajectory.outcome if score == "outcome" else trajectory.reward


def best(
    trajectories: Sequence[Trajectory], history: Sequence[float], config: FilteredBCConfig
) -> list[Trajectory]:
    """Those that pass the rule; unscored ones and those below `min_outcome` never do.

    Differs: ArCHer's rule, ``score >= quantile(all scores)``, keeps everything when successes are
    rarer than ``1 - quantile``, since the quantile of mostly equal scores is the lowest score. Here
    a score must also be above the lowest so far, unless it is a full success.

    Args:
        trajectories: of this iteration.
        history: scores of all iterations, this one included.
        config: `rule`, `quantile`, `score` and `min_outcome` matter.
    """
    if config.rule == "success":
        return [t for t in trajectories if t.success]
    if not history:
        return []
    cutoff, lowest = float(np.quantile(history, config.quantile)), min(history)
    kept = []
    for trajectory in trajectories:
        score = score_of(trajectory, config.score)
        if score is None or trajectory.outcome is None or trajectory.outcome < config.min_outcome:
            continue
        if score >= cutoff and (score > lowest or trajectory.success):
            kept.append(trajectory)
    return kept


def episode_key(trajectory: Trajectory) -> str:
    """The same for episodes of the same task with the same action tokens (or texts)."""
    digest = hashlib.blake2b(trajectory.task.id.encode(), digest_size=16)
    for turn in trajectory.turns:
        action = turn.text.encode() if turn.action_ids is None else turn.action_ids.tobytes()
        digest.update(len(action).to_bytes(8, "big") + action)
    return digest.hexdigest()


def unique(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The first of each `episode_key`, in order."""
    first: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault(episode_key(trajectory), trajectory)
    return list(first.values())


def capped(trajectories: Sequence[Trajectory], config: FilteredBCConfig) -> list[Trajectory]:
    """At most `max_per_task` a task and `max_per_env` an environment id; the shortest remain."""
    by_length = sorted(range(len(trajectories)), key=lambda i: (len(trajectories[i].turns), i))
    taken: Counter[Hashable] = Counter()
    kept: list[int] = []
    for index in by_length:
        task = trajectories[index].task
        limits = (
            (("task", task.id), config.max_per_task),
            (("env", task.env_id), config.max_per_env),
        )
        if all(limit == 0 or taken[name] < limit for name, limit in limits):
            taken.update(name for name, _ in limits)
            kept.append(index)
    return [trajectories[i] for i in sorted(kept)]


# -- what is remembered -----------------------------------------------------------------------


class EpisodePool:
    """Rows of kept episodes, each once, the oldest forgotten first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._episodes: dict[str, list[Row]] = {}

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, key: str, rows: list[Row]) -> None:
        """Remember an episode; one that is there already stays as it is."""
        if rows:
            self._episodes.setdefault(key, rows)
        while len(self._episodes) > self.size:
            del self._episodes[next(iter(self._episodes))]

    def all(self) -> list[list[Row]]:
        """Every episode, oldest first."""
        return list(self._episodes.values())

    def sample(self, count: int, rng: np.random.Generator) -> list[list[Row]]:
        """Up to `count` different episodes."""
        episodes = self.all()
        chosen = rng.choice(len(episodes), min(count, len(episodes)), replace=False)
        return [episodes[i] for i in chosen.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """Arrays and JSON values."""
        return {
            "keys": list(self._episodes),
            "counts": [len(rows) for rows in self._episodes.values()],
            "rows": pack([row for rows in self._episodes.values() for row in rows]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        rows = iter(unpack(state["rows"]))
        self._episodes = {
            key: [next(rows) for _ in range(count)]
            for key, count in zip(state["keys"], state["counts"], strict=True)
        }


class FilteredBCTrainer(BehaviourCloningTrainer):
    """Clones those of the policy's episodes that pass a rule.

    `start` takes one iteration's episodes. What passes the rule is cleared of duplicates, capped,
    trained on together with a share of earlier ones and of demonstrations, and remembered.
    Trajectories from elsewhere than the policy are demonstrations: they are remembered at any
    `start` and trained on as far as `demonstration_share` says. If nothing new is kept there is no
    update.

    Args:
        model: as for `BehaviourCloningTrainer`.
        tokenizer: likewise.
        config: see `FilteredBCConfig`.
    """

    name = "filtered_bc"
    config_class: ClassVar[type[FilteredBCConfig]] = FilteredBCConfig
    config: FilteredBCConfig

    def __init__(self, model: Any, tokenizer: Any, config: FilteredBCConfig | None = None) -> None:
        super().__init__(model, tokenizer, config)
        self.replay = EpisodePool(self.config.pool_size)
        self.demonstrations = EpisodePool(self.config.pool_size)
        self._scores: list[float] = []
        self._base = (
            {name: tensor.clone() for name, tensor in self.optimiser.weights().items()}
            if self.config.restart == "base"
            else None
        )

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Filter, add replayed episodes and demonstrations, and plan the update."""
        own = [t for t in trajectories if t.source == Source.POLICY]
        given, _ = self._select([t for t in trajectories if t.source != Source.POLICY])
        for demonstration in given:
            self.demonstrations.add(episode_key(demonstration), self._as_rows([demonstration]))
        kept, counts = self._filter(own)
        new = {episode_key(t): self._as_rows([t]) for t in kept}
        episodes = [rows for t in kept if (rows := new[episode_key(t)])]
        replayed, shown = self._mix_in(len(episodes)) if episodes else ([], [])
        for key, rows in new.items():
            self.replay.add(key, rows)
        counts |= {
            "untrainable_turns": untrainable_turns(kept),
            "replayed": len(replayed),
            "demonstrated": len(shown),
            "pool": len(self.replay),
        }
        together = enumerate([*episodes, *replayed, *shown])
        self._begin([replace(row, trajectory=i) for i, rows in together for row in rows], counts)

    def _filter(self, own: list[Trajectory]) -> tuple[list[Trajectory], dict[str, float]]:
        """What to keep of the policy's own episodes, and how many went where."""
        scores = [score_of(t, self.config.score) for t in own]
        self._scores += [score for score in scores if score is not None]
        passed = best(own, self._scores, self.config)
        distinct = unique(passed) if self.config.deduplicate else passed
        kept = capped(distinct, self.config)
        return kept, {
            "trajectories": len(own),
            "unscored": sum(score is None for score in scores),
            "successes": sum(t.success for t in own),
            "passed": len(passed),
            "duplicates": len(passed) - len(distinct),
            "over_cap": len(distinct) - len(kept),
            "trained_trajectories": len(kept),
        }

    def _mix_in(self, new: int) -> tuple[list[list[Row]], list[list[Row]]]:
        """Earlier episodes and demonstrations to train on beside so many new ones."""
        config = self.config
        total = new / (1 - config.replay_share - config.demonstration_share)
        rng = seeding.generator(config.seed, "replay", self.updates)
        replayed = (
            self.replay.all()
            if config.restart == "base"
            else self.replay.sample(round(total * config.replay_share), rng)
        )
        return replayed, self.demonstrations.sample(round(total * config.demonstration_share), rng)

    def step(self) -> dict[str, float]:
        """One optimiser step; the first of an update may go back to the base weights."""
        if self._base is not None and self.position == 0 and not self.done:
            self.optimiser.set_weights(self._base)
            self._fresh_steps = 0
        return super().step()

    def state_dict(self) -> dict[str, Any]:
        """As of `BehaviourCloningTrainer`, with what is remembered."""
        return {
            **super().state_dict(),
            "replay": self.replay.state_dict(),
            "demonstrations": self.demonstrations.state_dict(),
            "scores": np.array(self._scores, np.float64),
            "base": self._base,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        super().load_state_dict(state)
        self.replay.load_state_dict(state["replay"])
        self.demonstrations.load_state_dict(state["demonstrations"])
        self._scores = np.asarray(state["scores"]).tolist()
        if self._base is not None:
            base = state["base"] or self._base
            self._base = {name: base[name].to(t.device) for name, t in self._base.items()}
