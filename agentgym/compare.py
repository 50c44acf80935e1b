"""`agentgym compare`: methods against each other, over seeds, at equal environment turns.

Every arm is the same recipe with some keys set; every seed of an arm is a run of its own, which can
be stopped and gone on with. Curves are read at equal numbers of environment turns, those that the
shortest run has had, so that nobody gains by longer episodes.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from agentgym import config, durable, metrics
from agentgym.errors import ConfigError, TrainingError
from agentgym.processes import Command, Ended, side_by_side
from agentgym.progress import Progress, duration
from agentgym.recipe import Recipe, before_online, load_recipe
from agentgym.run import RECIPE, WARM_START, Run
from agentgym.run import SUMMARY as SUMMARY_OF_RUN
from agentgym.stats import bootstrap_interval
from agentgym.toml import to_toml

POINTS = 24
"""Of a curve, evenly spaced in environment turns."""
SUMMARY, PAGE, CURVES = "comparison.json", "comparison.html", "curves.svg"
_WARM, _LOG = "warm-start", "log.txt"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    overrides: tuple[str, ...]
    """``key=value`` over the recipe."""


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


@dataclass(frozen=True)
class ArmResult:
    """What an arm came to."""

    name: str
    seeds: tuple[int, ...]
    final: Estimate
    """Success of the evaluation after training, on seeds never trained on."""
    at_budget: Estimate
    """Success of training episodes at the end of the budget."""
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

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_arm(text: str) -> Arm:
    """An arm from what a person writes.

    Raises:
        ConfigError: it is neither a trainer's name nor ``name: key=value; key=value``.

    Example:
        >>> read_arm("rloo")
        Arm(name='rloo', overrides=('trainer="rloo"',))
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
    found = []
    for name, keys in arms.items():
        if not isinstance(keys, Mapping) or not keys:
            raise ConfigError(f"arms.{name} must be a table with at least one key, got {keys!r}")
        lines = (to_toml({key: value}, inline=True).strip() for key, value in keys.items())
        found.append(Arm(name, tuple(lines)))
    return found


def compare(
    recipe: str,
    arms: Sequence[Arm],
    folder: Path,
    *,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
    on_run: Callable[[str], None] | None = None,
) -> Comparison:
    """Run what is missing and compare; finished runs in the folder are taken as they are.

    Arms that differ in nothing before the online method's first episode begin with the very same
    warm start, made once for each seed.

    Args:
        recipe: name or file.
        arms: at least two; the first is what the others are compared with.
        folder: where the runs are and the comparison is written.
        seeds: of the runs; the same for every arm.
        overrides: ``key=value`` for every arm, before its own.
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
    plans = {
        (arm.name, seed): load_recipe(
            recipe, [*overrides, *arm.overrides, f"seed={seed}", "arms={}"]
        )
        for arm in arms
        for seed in seeds
    }  # all are checked before any begins
    runs = [
        _Planned(f"{name}, seed {seed}", plan, folder / _slug(name) / f"seed-{seed}")
        for (name, seed), plan in plans.items()
    ]
    for run in runs:
        run.check()
    runs = _with_warm_starts(runs, folder / _WARM)
    warm = list({run.source.folder: run.source for run in runs if run.source}.values())
    told = on_run or (lambda _: None)
    for stage in (warm, runs):
        if jobs == 1:
            for run in stage:
                told(run.name)
                run.prepare(progress or Progress()).execute(run.until)
        else:
            _side_by_side([run for run in stage if not run.done], jobs, progress, told)
    result = summarise(recipe, folder, names, seeds)
    write(result, folder)
    return result


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
    for number, group in enumerate(shared.values()):
        plan, source = before_online(group[0].plan), None
        if plan.demonstrations and len(group) > 1:
            name = f"{number}-seed-{plan.seed}"
            source = _Planned(f"warm start, seed {plan.seed}", plan, folder / name, None, WARM_START)
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
            f"{len(failed)} of {len(runs)} runs failed, the others are done; the same command tries "
            f"again. {run.folder / _LOG} ends with: {end.told}"
        )


@dataclass(frozen=True)
class _History:
    """One run: success in training after so many environment turns, and at the end."""

    turns: npt.NDArray[np.float64]
    success: npt.NDArray[np.float64]
    final: float


def _history(folder: Path) -> _History:
    turns, success, final, total = [], [], float("nan"), 0.0
    for row in metrics.read(folder):
        phase = str(row.get("phase", ""))
        if "success" not in row or "turns" not in row:
            continue
        if phase.startswith("iteration-"):
            # Where on the axis: in the middle of the turns that the success was measured on.
            turns.append(total + float(row["turns"]) / 2)
            total += float(row["turns"])
            success.append(float(row["success"]))
        elif phase == "eval-after":
            final = float(row["success"])
    if not turns:
        raise ConfigError(f"{folder} has no training episodes; set iterations to 1 or more")
    return _History(np.array([*turns, total]), np.array([*success, success[-1]]), final)


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
        curves = np.array([np.interp(grid, h.turns, h.success) for h in runs])  # (seeds, POINTS)
        final = [h.final for h in runs]
        apart = [own - other for own, other in zip(final, first, strict=True)]
        arms.append(
            ArmResult(
                name,
                tuple(seeds),
                final=Estimate.of(final),
                at_budget=Estimate.of(curves[:, -1].tolist()),
                area=Estimate.of(curves.mean(1).tolist()),
                difference=None if name == names[0] else Estimate.of(apart),
                curve=tuple(Estimate.of(values.tolist()) for values in curves.T),
            )
        )
    return Comparison(recipe, int(budget), tuple(arms))


def write(result: Comparison, folder: Path) -> Path:
    """Write the comparison as JSON and as a page with the curves; returns the page's path."""
    durable.write_json(folder / SUMMARY, result.to_json())
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = files("agentgym").joinpath("compare.html.jinja").read_text("utf-8")
    page = environment.from_string(source).render(
        comparison=result, lines=[_line(arm) for arm in result.arms]
    )
    durable.write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def _line(arm: ArmResult) -> Mapping[str, str]:
    """An arm's curve as SVG: x from 0 to 600, y from 300 (0 %) to 0 (100 %)."""
    xs = np.linspace(0, 600, len(arm.curve))
    along = [f"{x:.1f},{300 * (1 - e.mean):.1f}" for x, e in zip(xs, arm.curve, strict=True)]
    above = [f"{x:.1f},{300 * (1 - e.high):.1f}" for x, e in zip(xs, arm.curve, strict=True)]
    below = [f"{x:.1f},{300 * (1 - e.low):.1f}" for x, e in zip(xs, arm.curve, strict=True)]
    return {"mean": " ".join(along), "band": " ".join([*above, *reversed(below)])}


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()
