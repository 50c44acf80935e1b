"""Success rates with intervals, per task and over tasks; what the environment broke is left out."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentgym.stats import mean_interval, wilson_interval
from agentgym.types import Trajectory

_REASON = 300
"""Most characters of a reason."""


@dataclass(frozen=True)
class TaskResult:
    """What happened on one environment id."""

    successes: int
    episodes: int
    """Scored ones; the rates count these alone."""
    unscored: int
    """Episodes that the environment or inference broke to the last retry."""
    low: float
    high: float
    """Wilson 95 % interval of the success rate."""
    mean_turns: float
    unparsed_share: float
    """Share of turns whose text was no action."""
    failed_share: float
    """Share of turns whose action could not be carried out."""
    ends: Mapping[str, int]
    """Episodes by end reason."""

    @property
    def success(self) -> float:
        """Success rate; NaN without scored episodes."""
        return self.successes / self.episodes if self.episodes else math.nan


@dataclass(frozen=True)
class Evaluation:
    """Success over a set of tasks, each weighing the same."""

    tasks: Mapping[str, TaskResult]
    mean: float
    """Mean over tasks of their success rates; NaN if nothing was scored."""
    low: float
    high: float
    """95 % interval of `mean`, made of the tasks' Wilson intervals: unlike a bootstrap's it does
    not shrink to a point when every episode ends alike."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Why episodes are unscored: reasons and how many, the most frequent first."""

    def to_json(self) -> dict[str, Any]:
        """As plain values for `summary.json`."""
        return {
            "tasks": {
                name: {
                    "successes": r.successes,
                    "episodes": r.episodes,
                    "unscored": r.unscored,
                    "low": r.low,
                    "high": r.high,
                    "mean_turns": r.mean_turns,
                    "unparsed_share": r.unparsed_share,
                    "failed_share": r.failed_share,
                    "ends": dict(r.ends),
                }
                for name, r in self.tasks.items()
            },
            **{
                name: None if math.isnan(value) else value
                for name, value in (("mean", self.mean), ("low", self.low), ("high", self.high))
            },
            "errors": dict(self.errors),
        }


def summarise(trajectories: Iterable[Trajectory]) -> Evaluation:
    """Success rates of the trajectories, by environment id; unscored ones are counted apart."""
    by_env: dict[str, list[Trajectory]] = {}
    reasons: Counter[str] = Counter()
    for trajectory in trajectories:
        by_env.setdefault(trajectory.task.env_id, []).append(trajectory)
        if trajectory.outcome is None:
            reasons[trajectory.error[:_REASON] or trajectory.end.value] += 1
    tasks = {name: _task(group) for name, group in sorted(by_env.items())}
    errors = dict(reasons.most_common())
    counts = [(r.successes, r.episodes) for r in tasks.values() if r.episodes]
    if not counts:
        return Evaluation(tasks, math.nan, math.nan, math.nan, errors)
    mean, (low, high) = mean_interval(counts)
    return Evaluation(tasks, mean, low, high, errors)


def _task(group: Sequence[Trajectory]) -> TaskResult:
    scored = [t for t in group if t.outcome is not None]
    successes = sum(t.success for t in scored)
    low, high = wilson_interval(successes, len(scored)) if scored else (0.0, 1.0)
    turns = [turn for t in group for turn in t.turns]
    ends: dict[str, int] = {}
    for t in group:
        ends[t.end.value] = ends.get(t.end.value, 0) + 1
    return TaskResult(
        successes=successes,
        episodes=len(scored),
        unscored=len(group) - len(scored),
        low=low,
        high=high,
        mean_turns=float(np.mean([len(t.turns) for t in group])),
        unparsed_share=_share([not turn.parsed for turn in turns]),
        failed_share=_share([turn.parsed and bool(turn.action_error) for turn in turns]),
        ends=dict(sorted(ends.items())),
    )


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if flags else 0.0
