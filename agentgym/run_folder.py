"""What a run folder holds, read once: also of a run in progress, or of one that broke off."""

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgym import metrics
from agentgym.charts import Rate
from agentgym.episode_view import Pictures, outcome_of
from agentgym.errors import ConfigError, StoreError
from agentgym.stats import mean_interval, wilson_interval
from agentgym.store import TrajectoryStore
from agentgym.types import Source, Trajectory

BEFORE, AFTER = "eval-before", "eval-after"
PARTS = ("recipe.toml", "metrics.jsonl", "summary.json", "trajectories")
NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""


@dataclass
class Tally:
    """Counts over episodes."""

    outcomes: list[bool] = field(default_factory=list)
    """Success of each scored episode."""
    unscored: int = 0
    turns: int = 0
    invalid: int = 0
    """Turns whose text was no action, or whose action could not be carried out."""
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, trajectory: Trajectory) -> None:
        """Count one episode."""
        if trajectory.outcome is None:
            self.unscored += 1
        else:
            self.outcomes.append(trajectory.success)
        self.turns += len(trajectory.turns)
        self.invalid += sum(not t.parsed or bool(t.action_error) for t in trajectory.turns)
        self.ends[trajectory.end.value] += 1

    @classmethod
    def sum(cls, tallies: Iterable["Tally"]) -> "Tally":
        """All counts together."""
        total = cls()
        for tally in tallies:
            total.outcomes += tally.outcomes
            total.unscored += tally.unscored
            total.turns += tally.turns
            total.invalid += tally.invalid
            total.ends += tally.ends
        return total

    @property
    def episodes(self) -> int:
        """All, scored or not."""
        return len(self.outcomes) + self.unscored

    @property
    def rate(self) -> Rate | None:
        """Success rate with Wilson's interval; `None` if nothing was scored."""
        if not self.outcomes:
            return None
        won, scored = sum(self.outcomes), len(self.outcomes)
        low, high = wilson_interval(won, scored)
        return Rate("", won / scored, low, high)

    @property
    def mean_turns(self) -> str:
        """Turns of an episode, for people."""
        return f"{self.turns / self.episodes:.1f}" if self.turns else NOTHING

    @property
    def invalid_share(self) -> str:
        """Share of invalid turns, for people."""
        return f"{self.invalid / self.turns:.0%}" if self.turns else NOTHING

    @property
    def said_ends(self) -> str:
        """Ends with their counts, the most frequent first."""
        return ", ".join(f"{end.replace('_', ' ')} {n}" for end, n in self.ends.most_common())


def mean_over_tasks(tallies: Iterable[Tally]) -> Rate | None:
    """Mean of the tasks' success rates with its interval; `None` without scores."""
    counts = [(sum(t.outcomes), len(t.outcomes)) for t in tallies if t.outcomes]
    if not counts:
        return None
    mean, (low, high) = mean_interval(counts)
    return Rate("", mean, low, high)


@dataclass
class RunFolder:
    """What a run folder holds, read once."""

    folder: Path
    recipe_text: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    """Of metrics.jsonl."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, in sentences."""
    pictures: Pictures = field(default_factory=Pictures)
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    """By phase and environment id, in the order of the store."""
    policy_phases: set[str] = field(default_factory=set)
    evaluated: dict[str, list[Trajectory]] = field(default_factory=dict)
    """The episodes of the evaluations before and after training."""
    samples: dict[tuple[str, str, str], Trajectory] = field(default_factory=dict)
    """Of the other phases the first episode of each environment and outcome."""
    ids: list[str] = field(default_factory=list)
    wanted: Trajectory | None = None

    @classmethod
    def read(cls, folder: Path, wanted: str = "") -> "RunFolder":
        """Read a folder; what is damaged becomes a note.

        Args:
            folder: of the run; another process may be writing to it.
            wanted: id of an episode to keep whole.

        Raises:
            ConfigError: there is no such folder, or no run in it.
        """
        if not any((folder / part).exists() for part in PARTS):
            what = "holds no run" if folder.is_dir() else "is no folder"
            raise ConfigError(
                f"{str(folder)!r} {what}: none of {', '.join(PARTS)} is in it; "
                "give the folder that `agentgym train` named"
            )
        recipe = _text(folder / "recipe.toml")
        run = cls(folder=folder, recipe_text=recipe)
        run.recipe = run._parsed(tomllib.loads, recipe, "recipe.toml")
        run.summary = run._parsed(json.loads, _text(folder / "summary.json"), "summary.json")
        try:
            run.rows = metrics.read(folder)
            if (folder / "trajectories").is_dir():
                store = TrajectoryStore(folder / "trajectories", read_only=True)
                run.pictures.load = store.image
                for trajectory in store:
                    run._take(trajectory, wanted)
        except StoreError as error:
            run.notes.append(f"Not everything can be read: {error}.")
        return run

    def _parsed(self, parse: Any, text: str, name: str) -> Mapping[str, Any]:
        """A file's content; empty, with a note, if it cannot be read."""
        try:
            return _mapping(parse(text)) if text.strip() else {}
        except ValueError as error:  # of both json and tomllib
            self.notes.append(f"{name} cannot be read: {error}.")
            return {}

    def _take(self, trajectory: Trajectory, wanted: str) -> None:
        phase, env_id = str(trajectory.metadata.get("phase", "")), trajectory.task.env_id
        self.tallies.setdefault(phase, {}).setdefault(env_id, Tally()).add(trajectory)
        if trajectory.source is Source.POLICY:
            self.policy_phases.add(phase)
        if phase in (BEFORE, AFTER):
            self.evaluated.setdefault(phase, []).append(trajectory)
        else:
            self.samples.setdefault((phase, env_id, outcome_of(trajectory)), trajectory)
        self.ids.append(trajectory.id)
        if trajectory.id == wanted:
            self.wanted = trajectory

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.summary.get("name") or self.folder.resolve().name)

    @property
    def recipe_name(self) -> str:
        """Of the recipe."""
        return str(self.recipe.get("name", "unknown"))

    @property
    def model(self) -> str:
        """Name of the model that learns."""
        model = self.recipe.get("model", "unknown")
        return str(model.get("name", "unknown") if isinstance(model, Mapping) else model)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that has ended."""
        return {str(k): float(v) for k, v in _mapping(self.summary.get("seconds")).items()}

    def evaluation(self, when: str) -> Mapping[str, Any]:
        """What the summary says of the evaluation "before" or "after"; empty if nothing."""
        return _mapping(_mapping(self.summary.get("evaluations")).get(when))

    def by_task(self, when: str) -> dict[str, Tally]:
        """Tallies of an evaluation, from the store, else from the summary."""
        stored = self.tallies.get(f"eval-{when}")
        if stored:
            return stored
        tallies: dict[str, Tally] = {}
        for task, counts in _mapping(self.evaluation(when).get("tasks")).items():
            won, scored = int(counts["successes"]), int(counts["episodes"])
            tally = tallies.setdefault(task.split("#")[0], Tally())
            tally.outcomes += [True] * won + [False] * (scored - won)
            tally.unscored += int(counts.get("unscored", 0))
        return tallies

    def mean(self, when: str) -> Rate | None:
        """Mean success of an evaluation: the summary's, else from the episodes stored so far."""
        said = self.evaluation(when)
        try:
            value, low, high = (float(said[key]) for key in ("mean", "low", "high"))
        except (KeyError, TypeError, ValueError):
            return mean_over_tasks(self.by_task(when).values())
        return Rate("", value, low, high) if math.isfinite(value) else None


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
