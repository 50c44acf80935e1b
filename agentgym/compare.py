"""`agentgym compare`: methods against each other, over seeds, at equal environment turns.

Every arm is the same recipe with some keys set; every seed of an arm is a run of its own, which can
be stopped and gone on with. Curves are read at equal numbers of environment turns, those that the
shortest run has had, so that nobody gains by longer episodes.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from agentgym import config, durable, metrics, paths
from agentgym.charts import Tick
from agentgym.errors import ConfigError, TrainingError
from agentgym.processes import Command, Ended, side_by_side
from agentgym.progress import Progress, duration
from agentgym.recipe import Recipe, before_online, load_recipe
from agentgym.run import RECIPE, TRAJECTORIES, Run, phases_of
from agentgym.run import SUMMARY as SUMMARY_OF_RUN
from agentgym.stats import bootstrap_interval, nested_bootstrap_interval
from agentgym.store import TrajectoryStore
from agentgym.toml import to_toml

Measure = Literal["success", "return"]
"""Of the evaluation after training. A return may be raised by episodes that end early, somehow."""
POINTS = 24
"""Of a curve, evenly spaced in environment turns."""
WINDOWS = 8
"""A point of a curve is the mean over this part of the budget around it."""
SUMMARY, PAGE, CURVES = "comparison.json", "comparison.html", "curves.svg"
COLOURS = ("#1d64c0", "#c4511d", "#1c8a5a", "#8a3ab0", "#8d7a12", "#0f8a94")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
VALIDATION = 500_000
"""Between the first evaluation seed of the comparison and that of tuning."""
TUNING_SEED = 1000
"""Seed of a choice's first run."""
_WARM, _TUNING, _LOG = "warm-start", "tuning", "log.txt"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    overrides: tuple[str, ...]
    """``key=value`` over the recipe."""
    choices: tuple[str, ...] = ()
    """``key=value`` each, of which the one that does best on validation tasks is taken."""
    tuned_as: str = ""
    """Another arm's name, whose choice this one takes: a control differs in one thing only."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Of one value for each seed; of a single seed there is no interval but the value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, high = bootstrap_interval(list(values))
        return cls(float(np.mean(values)), float(low), float(high))

    @classmethod
    def nested(cls, groups: Sequence[Sequence[float]]) -> "Estimate":
        """Of several values for each seed, which all weigh the same."""
        low, high = nested_bootstrap_interval(groups)
        return cls(float(np.mean([np.mean(group) for group in groups])), low, high)


@dataclass(frozen=True)
class ArmResult:
    """What an arm came to."""

    name: str
    seeds: tuple[int, ...]
    before: Estimate
    """Success of the evaluation before training (`EvaluationConfig.before`)."""
    final: Estimate
    """Success of the evaluation after training, on seeds never trained on."""
    gain: Estimate | None
    """How much more of the evaluation's tasks succeed after training than before, task by task; its
    interval is over seeds and, within them, tasks. None in runs without recorded episodes."""
    reward: Estimate | None
    """Return of the same episodes; None in runs that did not record it."""
    turns: Estimate
    """Environment turns of the whole training; curves end with the shortest run's."""
    at_budget: Estimate
    """Success of training episodes in the last window of the budget."""
    area: Estimate
    """Mean success of training episodes over the budget."""
    difference: Estimate | None
    """Of `final` to the first arm's, seed by seed; None for the first arm."""
    curve: tuple[Estimate, ...]
    """`POINTS` estimates of success in training, evenly spaced from 0 to the budget."""


@dataclass(frozen=True)
class Comparison:
    """All arms, at equal environment turns."""

    recipe: str
    budget: int
    """Environment turns that every run had at least: curves end here."""
    arms: tuple[ArmResult, ...]
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By arm: the choice that it was tuned to."""
    tuning: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """By arm and choice: what it came to on the validation tasks, over the tuning seeds."""
    tuned_by: Measure = "success"
    """Which measure that is."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_arm(text: str) -> Arm:
    """An arm from what a person writes.

    Raises:
        ConfigError: it is neither a trainer's name nor ``name: key=value; key=value``.

    Example:
        >>> read_arm("rloo").overrides
        ('trainer="rloo"',)
        >>> read_arm("blind: trainer=gigpo; train.omega=0").overrides
        ('trainer="gigpo"', 'train.omega=0')
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    parts = [part.strip() for part in rest.split(";") if part.strip()]
    if not re.fullmatch(r"\w[\w .+-]*", name) or (colon and not parts):
        raise ConfigError(f"an arm is a trainer or 'name: key=value; ...', got {text!r}")
    if not colon:
        return Arm(name, (f'trainer="{name}"',))
    overrides = []
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"arm {name!r}: {part!r} is not key=value")
        overrides.append(f'{key}="{value}"' if key == "trainer" else f"{key}={value}")
    return Arm(name, tuple(overrides))


def arms_of(recipe: str) -> list[Arm]:
    """The arms that a recipe names.

    Raises:
        ConfigError: it names none, or one is no table.
    """
    arms = load_recipe(recipe).arms
    if not arms:
        raise ConfigError(f"recipe {recipe!r} names no arms; give --arm, or write [arms.NAME]")
    return [_arm(name, keys) for name, keys in arms.items()]


def _arm(name: str, keys: Any) -> Arm:
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigError(f"arms.{name} must be a table with at least one key, got {keys!r}")
    own = {key: value for key, value in keys.items() if key not in ("choose", "tuned_as")}
    choose = keys.get("choose", {})
    if not isinstance(choose, Mapping) or len(choose) > 1:
        raise ConfigError(f"arms.{name}.choose must be a table of one key, got {choose!r}")
    choices = [_override(key, value) for key, values in choose.items() for value in values]
    lines = [_override(key, value) for key, value in own.items()]
    return Arm(name, tuple(lines), tuple(choices), str(keys.get("tuned_as", "")))


def _override(key: str, value: Any) -> str:
    return f"{key}={to_toml({'value': value}, inline=True).partition('=')[2].strip()}"


def check_one_process() -> None:
    """A comparison starts its runs itself.

    Raises:
        ConfigError: a launcher started several processes of it.
    """
    count = paths.launched_processes()
    if count > 1:
        raise ConfigError(
            f"a comparison is one process, and {count} were launched (WORLD_SIZE={count}); start "
            "it without accelerate launch or torchrun, and run arms and seeds side by side by "
            "--jobs N"
        )


def compare(
    recipe: str,
    arms: Sequence[Arm],
    folder: Path,
    *,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    tuning_seeds: int = 2,
    tuning_iterations: int = 0,
    tuned_by: Measure = "success",
    jobs: int = 1,
    progress: Progress | None = None,
    on_run: Callable[[str], None] | None = None,
) -> Comparison:
    """Run what is missing and compare; finished runs in the folder are taken as they are.

    Arms that differ in nothing before the online method's first episode begin with the very same
    warm start, made once for each seed. An arm with choices is tuned first, on seeds of its own and
    on validation tasks, `VALIDATION` seeds away from those of the comparison: the choice with the
    highest mean after training is taken (of equal ones, the first).

    Args:
        recipe: name or file.
        arms: at least two; the first is what the others are compared with.
        folder: where the runs are and the comparison is written.
        seeds: of the runs; the same for every arm.
        overrides: ``key=value`` for every arm, before its own.
        tuning_seeds: runs of each choice of an arm; their seeds are no run's of the comparison.
        tuning_iterations: of these runs; 0 for as many as in the comparison.
        tuned_by: what of the evaluation after training decides.
        jobs: runs at the same time, above 1 in processes of their own that share the cores.
        progress: where to say how far it is.
        on_run: told each run's name as it begins (with `jobs`: as it ends, with how).

    Raises:
        ConfigError: fewer than two arms, names or seeds twice, or a run in the folder that was
            begun with other settings.
        TrainingError: runs failed; the others are finished, and the same call goes on with these.
    """
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len({_slug(name) for name in names}) < len(names):
        raise ConfigError(f"name two arms or more, each differently; got {names!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must differ and there must be one, got {list(seeds)!r}")
    unknown = {arm.tuned_as for arm in arms if arm.tuned_as} - {a.name for a in arms if a.choices}
    if unknown:
        raise ConfigError(f"tuned_as names {sorted(unknown)!r}, which are no arms with choices")
    workshop = _Workshop(recipe, tuple(overrides), jobs, progress, on_run or (lambda _: None))
    planned = workshop.planned(arms, folder, seeds)  # reads them all before any run begins
    settled = [arm for arm in arms if not (arm.choices or arm.tuned_as)]
    for run in workshop.planned(settled, folder, seeds):
        run.check()
    tuner = _Tuner(tuning_seeds, tuning_iterations, tuned_by)
    tuning, chosen = _tune(workshop, arms, folder / _TUNING, tuner)
    if chosen:
        arms = [replace(arm, overrides=(*arm.overrides, *chosen.get(arm.name, ()))) for arm in arms]
        planned = workshop.planned(arms, folder, seeds)
    workshop.execute(planned, folder / _WARM)
    result = summarise(recipe, folder, names, seeds)
    result = replace(result, chosen=chosen, tuning=tuning, tuned_by=tuned_by)
    write(result, folder)
    return result


def _tune(
    workshop: "_Workshop", arms: Sequence[Arm], folder: Path, tuner: "_Tuner"
) -> tuple[dict[str, dict[str, Estimate]], dict[str, tuple[str, ...]]]:
    """What choices came to by arm and choice, and by arm what was chosen."""
    tried = {
        arm.name: [Arm(f"{arm.name} {c}", (*arm.overrides, c)) for c in arm.choices]
        for arm in arms
        if arm.choices
    }
    if not tried:
        return {}, {}
    plan = load_recipe(workshop.recipe, workshop.overrides)
    away = f"tasks.eval_seed={plan.tasks.eval_seed + VALIDATION}"
    length = f"iterations={tuner.iterations or plan.iterations}"
    aside = replace(workshop, overrides=(*workshop.overrides, away, length))
    seeds = range(TUNING_SEED, TUNING_SEED + tuner.seeds)
    every = [arm for candidates in tried.values() for arm in candidates]
    aside.execute(aside.planned(every, folder, seeds), folder / _WARM)
    tuning: dict[str, dict[str, Estimate]] = {}
    chosen: dict[str, tuple[str, ...]] = {}
    for name, candidates in tried.items():
        worth = {
            arm.overrides[-1]: Estimate.of(
                [
                    _history(folder / _slug(arm.name) / f"seed-{seed}").after(tuner.by)
                    for seed in seeds
                ]
            )
            for arm in candidates
        }
        tuning[name] = worth
        chosen[name] = (max(worth, key=lambda choice: worth[choice].mean),)
    for arm in arms:
        if arm.tuned_as:
            chosen[arm.name] = chosen[arm.tuned_as]
    return tuning, chosen


@dataclass(frozen=True)
class _Tuner:
    """How arms are tuned."""

    seeds: int
    iterations: int
    by: Measure


@dataclass(frozen=True)
class _Workshop:
    """What all runs of a comparison have in common."""

    recipe: str
    overrides: tuple[str, ...]
    jobs: int
    progress: Progress | None
    told: Callable[[str], None]

    def planned(self, arms: Sequence[Arm], folder: Path, seeds: Sequence[int]) -> list["_Planned"]:
        """All runs of some arms."""
        return [
            _Planned(
                f"{arm.name}, seed {seed}",
                load_recipe(
                    self.recipe, [*self.overrides, *arm.overrides, f"seed={seed}", "arms={}"]
                ),
                folder / _slug(arm.name) / f"seed-{seed}",
            )
            for arm in arms
            for seed in seeds
        ]

    def execute(self, planned: Sequence["_Planned"], warm_starts: Path) -> None:
        """Finish the runs, after the warm starts that they share."""
        for run in planned:
            run.check()
        runs = _with_warm_starts(planned, warm_starts)
        new = [run.source for run in runs if run.source and not (run.folder / RECIPE).exists()]
        sources = list({source.folder: source for source in new}.values())
        for stage in (sources, runs):
            if self.jobs == 1:
                for run in stage:
                    self.told(run.name)
                    run.prepare(self.progress or Progress()).execute(run.until)
            else:
                left = [run for run in stage if not run.done]
                _side_by_side(left, self.jobs, self.progress, self.told)


@dataclass(frozen=True)
class _Planned:
    """A run to be, or to go on with."""

    name: str
    plan: Recipe
    folder: Path
    source: "_Planned | None" = None
    """The warm start that it begins with."""
    until: str = ""

    def check(self) -> None:
        if (self.folder / RECIPE).exists() and load_recipe(str(self.folder / RECIPE)) != self.plan:
            raise ConfigError(
                f"{self.folder} was begun with other settings; choose another folder or delete it"
            )

    @property
    def done(self) -> bool:
        if not (self.folder / SUMMARY_OF_RUN).exists():
            return False
        summary = json.loads((self.folder / SUMMARY_OF_RUN).read_bytes())
        return bool(summary["finished"] or (self.until and self.until in summary["seconds"]))

    def prepare(self, progress: Progress) -> Run:
        self.check()
        if (self.folder / RECIPE).exists():
            return Run.resume(self.folder, progress)
        if self.source is not None:
            return Run.branch(self.source.folder, self.plan, self.folder, progress)
        return Run.start(self.plan, self.folder, progress)

    def command(self) -> Command:
        argv = [sys.executable, "-m", "agentgym", "train", str(self.folder / RECIPE)]
        argv += ["--out", str(self.folder), "--resume"]
        argv += ["--until", self.until] if self.until else []
        return Command(self.name, tuple(argv), self.folder / _LOG)


def _with_warm_starts(runs: Sequence[_Planned], folder: Path) -> list[_Planned]:
    """The runs, those with the same way to their first online episode told to share it."""
    shared: dict[str, list[_Planned]] = {}
    for run in runs:
        shared.setdefault(config.dump(before_online(run.plan)), []).append(run)
    found = []
    for way, group in shared.items():
        plan, source = before_online(group[0].plan), None
        if plan.demonstrations and len(group) > 1:
            name = f"seed-{plan.seed}-{hashlib.blake2b(way.encode(), digest_size=4).hexdigest()}"
            # the last phase before the evaluation after training
            source = _Planned(
                name=f"warm start, seed {plan.seed}",
                plan=plan,
                folder=folder / name,
                until=phases_of(plan)[-2].name,
            )
            source.check()
        found += [replace(run, source=source) for run in group]
    order = {run.name: place for place, run in enumerate(runs)}
    return sorted(found, key=lambda run: order[run.name])


def _side_by_side(
    runs: Sequence[_Planned], jobs: int, progress: Progress | None, told: Callable[[str], None]
) -> None:
    """Execute runs in processes of their own.

    Raises:
        TrainingError: some failed; all others are done.
    """
    with (progress or Progress()).phase("runs", total=len(runs), unit="runs") as bar:

        def on_end(end: Ended) -> None:
            how = "done" if end.code == 0 else f"FAILED (exit status {end.code})"
            told(f"{end.name}: {how} in {duration(end.seconds)}")
            bar.advance(1)

        for run in runs:
            run.prepare(Progress(quiet=True))
        ends = side_by_side([run.command() for run in runs], jobs, on_end=on_end)
    failed = [(run, end) for run, end in zip(runs, ends, strict=True) if end.code]
    if failed:
        run, end = failed[0]
        raise TrainingError(
            f"{len(failed)} of {len(runs)} runs failed, the others are done; the same command "
            f"tries again. {run.folder / _LOG} ends with: {end.told}"
        )


@dataclass(frozen=True)
class _History:
    """One run: success in training after so many environment turns, and at the end."""

    turns: npt.NDArray[np.float64]
    success: npt.NDArray[np.float64]
    before: float
    final: float
    reward: float | None
    gains: Sequence[float]
    """By task of the evaluation: 1 if it succeeds only after training, -1 if only before, or 0."""

    def curve(self, at: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
        """Success at so many turns, each the mean over a window: iterations differ by their luck.

        Args:
            at: (P,) middles of the windows, ascending.
            width: of a window, which is cut at the ends of `at`.
        """
        first = np.maximum(at - width / 2, at[0])[:, None]
        last = np.minimum(at + width / 2, at[-1])[:, None]
        near = first + (last - first) * np.linspace(0, 1, 33)
        found: npt.NDArray[np.float64] = np.interp(near, self.turns, self.success).mean(1)
        return found

    def after(self, measure: Measure) -> float:
        """What the evaluation after training came to."""
        if measure == "success":
            return self.final
        if self.reward is None:
            raise ConfigError("a run has recorded no return; tune by success")
        return self.reward


def _history(folder: Path) -> _History:
    turns, success, before, final, total = [], [], float("nan"), float("nan"), 0.0
    reward: float | None = None
    for row in metrics.read(folder):
        phase = str(row.get("phase", ""))
        if "success" not in row or "turns" not in row:
            continue
        if phase.startswith("iteration-"):
            # Where on the axis: in the middle of the turns that the success was measured on.
            turns.append(total + float(row["turns"]) / 2)
            total += float(row["turns"])
            success.append(float(row["success"]))
        elif phase == "eval-before":
            before = float(row["success"])
        elif phase == "eval-after":
            final = float(row["success"])
            reward = float(row["reward"]) if "reward" in row else None
    if not turns:
        raise ConfigError(f"{folder} has no training episodes; set iterations to 1 or more")
    return _History(
        np.array([*turns, total]),
        np.array([*success, success[-1]]),
        before,
        final,
        reward,
        _gains(folder),
    )


def _gains(folder: Path) -> list[float]:
    """Of each task that both evaluations could score; none if no episodes are on record."""
    if not (folder / TRAJECTORIES).is_dir():
        return []
    with TrajectoryStore(folder / TRAJECTORIES, read_only=True) as store:
        before, after = (
            {t.task.id: float(t.success) for t in store.where(phase=phase) if t.outcome is not None}
            for phase in ("eval-before", "eval-after")
        )
    return [after[task] - before[task] for task in before if task in after]


def summarise(recipe: str, folder: Path, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """Compare the runs of a folder, all of them finished."""
    histories = {
        name: [_history(folder / _slug(name) / f"seed-{seed}") for seed in seeds] for name in names
    }
    budget = min(h.turns[-1] for each in histories.values() for h in each)
    grid = np.linspace(0, budget, POINTS)
    first = [h.final for h in histories[names[0]]]
    arms = []
    for name in names:
        runs = histories[name]
        curves = np.array([h.curve(grid, budget / WINDOWS) for h in runs])  # (seeds, POINTS)
        final = [h.final for h in runs]
        rewards = [h.reward for h in runs if h.reward is not None]
        gains = [h.gains for h in runs]
        apart = [own - other for own, other in zip(final, first, strict=True)]
        arms.append(
            ArmResult(
                name,
                tuple(seeds),
                before=Estimate.of([h.before for h in runs]),
                final=Estimate.of(final),
                gain=Estimate.nested(gains) if all(gains) else None,
                reward=Estimate.of(rewards) if len(rewards) == len(runs) else None,
                turns=Estimate.of([float(h.turns[-1]) for h in runs]),
                at_budget=Estimate.of(curves[:, -1].tolist()),
                area=Estimate.of(curves.mean(1).tolist()),
                difference=None if name == names[0] else Estimate.of(apart),
                curve=tuple(Estimate.of(values.tolist()) for values in curves.T),
            )
        )
    return Comparison(recipe, int(budget), tuple(arms))


def write(result: Comparison, folder: Path) -> Path:
    """Write the comparison as JSON, its curves as SVG, and both as a page; returns its path."""
    durable.write_json(folder / SUMMARY, result.to_json())
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)

    def rendered(template: str, **values: Any) -> str:
        source = files("agentgym").joinpath(template).read_text("utf-8")
        return environment.from_string(source).render(**values)

    highest = max(estimate.high for arm in result.arms for estimate in arm.curve)
    top = max(1, min(4, math.ceil(4 * highest))) / 4
    curves = rendered(
        "curves.svg.jinja",
        lines=[_line(arm, number, top) for number, arm in enumerate(result.arms)],
        shares=[Tick(300 - 75 * at / top, f"{25 * at} %") for at in range(round(4 * top) + 1)],
        ticks=[Tick(150 * at, f"{result.budget * at // 4:,}") for at in range(5)],
        seeds=len(result.arms[0].seeds),
        rows=(len(result.arms) + 1) // 2,
    )
    durable.write_bytes(folder / CURVES, curves.encode())
    page = rendered("compare.html.jinja", comparison=result, curves=Markup(curves), colours=COLOURS)
    durable.write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def _line(arm: ArmResult, number: int, top: float) -> Mapping[str, str]:
    """An arm's curve as SVG: x from 0 to 600, y from 300 (0 %) to 0 (`top`)."""
    xs = np.linspace(0, 600, len(arm.curve))

    def points(heights: Sequence[float]) -> list[str]:
        return [f"{x:.1f},{300 * (1 - y / top):.1f}" for x, y in zip(xs, heights, strict=True)]

    along = points([e.mean for e in arm.curve])
    above, below = points([e.high for e in arm.curve]), points([e.low for e in arm.curve])
    return {
        "name": arm.name,
        "mean": " ".join(along),
        "band": " ".join([*above, *reversed(below)]),
        "colour": COLOURS[number % len(COLOURS)],
        "dash": _DASHES[number % len(_DASHES)],  # not by colour alone
    }


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()
