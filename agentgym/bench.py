"""The frame of `agentgym bench`: two or more ways of doing the same work, timed turn by turn.

A benchmark is a list of cases. Each case opens a few sides, one of them the baseline, and every
side does the same work once in each repetition: A, B, A, B, ... so that whatever else the machine
does hits all of them. Rates are medians over repetitions, ratios are taken within a repetition
first, and every raw number is kept.
"""

import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import agentgym
from agentgym.errors import ConfigError, MissingDependencyError
from agentgym.machine import describe_machine, load_average
from agentgym.progress import Bar, Progress
from agentgym.registry import BENCHMARKS

SCHEMA = 1
"""Version of the JSON that `BenchmarkResult.to_json` makes."""
_PACKAGES = (
    "gymnasium",
    "miniwob",
    "numpy",
    "playwright",
    "textworld",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the user asked for."""

    quick: bool = False
    """Little work per repetition: a smoke run, not a measurement."""
    env_ids: tuple[str, ...] = ()
    """Environments to measure; empty leaves them to the benchmark."""
    model: str = ""
    """Model to measure with, as for `load_model`; empty leaves it to the benchmark."""
    dtype: str = "auto"
    """Of the model, as for `load_model`."""
    parts: tuple[str, ...] = ()
    """Cases to measure, by any part of their names; empty means all."""
    trl: str = ""
    """Python interpreter of an environment with TRL; empty leaves TRL out."""
    browsergym: str = ""
    """One with BrowserGym, for the pages of MiniWoB++."""
    farama: str = ""
    """One with Farama's own environments for these pages."""
    vllm: str = ""
    """An interpreter that has vLLM, for benchmarks that compare with it; empty leaves it out."""


@dataclass(frozen=True)
class Measurement:
    """What one side did in one repetition."""

    seconds: float
    """Wall-clock of the work: what rates are taken over."""
    counts: Mapping[str, int]
    """How much was done, such as steps, resets or tokens."""
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Seconds of each single piece of work, by kind."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Parts of `seconds`, in [0, 1], by what they were spent on."""
    outcome: Any = None
    """What the work came to, as JSON values: equal work has equal outcomes."""


Side: TypeAlias = Callable[[int], Measurement]
"""Does the work of a repetition. Repetition 0 is the warm-up: discarded, and it may be shorter."""


@dataclass(frozen=True)
class Case:
    """The same work, done in several ways."""

    name: str
    open: Callable[[], AbstractContextManager[Mapping[str, Side]]]
    """Makes what the sides need, yields them by name, and cleans up. Run in the order given."""
    baseline: str = "baseline"
    """Name of the side that the others are compared with; without such a side there are no
    ratios."""


@dataclass(frozen=True)
class Benchmark:
    """A plan: what is measured, and how the numbers are called."""

    title: str
    cases: Sequence[Case]
    rates: Mapping[str, Callable[[Measurement], float | None]]
    """Higher is better; `None` where a side has no such rate."""
    columns: Mapping[str, str]
    """Keys of `rows`, and their headers in the table."""
    note: str = ""
    """What the baselines are and how to read the numbers."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else the numbers depend on, as JSON values; complete once the cases have run."""
    repetitions: int = 5
    remarks: list[str] = field(default_factory=list)
    """Lines for below the table; cases may add what they find."""


@dataclass(frozen=True)
class BenchmarkResult:
    """All that was measured, and on what."""

    name: str
    command: str
    """Repeats the measurement."""
    benchmark: Benchmark
    rows: Sequence[Mapping[str, Any]]
    """One for each case and side; `Benchmark.columns` names what the table shows of it."""
    samples: Sequence[tuple[str, str, Sequence[Measurement]]]
    """(case, side, measurements by repetition)."""
    skipped: Mapping[str, str]
    """Cases that this machine cannot run, and why."""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    started: str
    """ISO 8601, UTC."""
    seconds: float
    """Wall-clock of the whole run."""

    @property
    def title(self) -> str:
        """Headline of the table."""
        return self.benchmark.title

    @property
    def columns(self) -> Mapping[str, str]:
        """Keys of `rows` that the table shows, and their headers."""
        return self.benchmark.columns

    @property
    def note(self) -> str:
        """What stands below the table."""
        before, after = self.machine["load_at_start"], self.machine["load_at_end"]
        lines = [
            self.benchmark.note,
            f"Medians of {self.benchmark.repetitions} interleaved repetitions; x is the ratio to "
            "the baseline, taken within each repetition.",
            f"{self.machine['cpu']}, {self.machine['cores']} cores, load {_load(before)} at the "
            f"start and {_load(after)} at the end.",
        ]
        different = [r["case"] for r in self.rows if r["same_work"] is False]
        if different:
            lines.append(
                f"Outcomes differ from the baseline's: {', '.join(dict.fromkeys(different))}."
            )
        lines += self.benchmark.remarks
        lines += [f"{case} was left out: {why}" for case, why in self.skipped.items()]
        return "\n".join(line for line in lines if line)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, raw samples included."""
        plan = self.benchmark
        return {
            "schema": SCHEMA,
            "name": self.name,
            "title": plan.title,
            "command": self.command,
            "started": self.started,
            "seconds": self.seconds,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "settings": dict(plan.settings),
            "repetitions": plan.repetitions,
            "note": plan.note,
            "remarks": list(plan.remarks),
            "columns": dict(plan.columns),
            "rows": [dict(row) for row in self.rows],
            "skipped": dict(self.skipped),
            "samples": [
                {
                    "case": case,
                    "side": side,
                    "repetition": repetition,
                    "seconds": m.seconds,
                    "counts": dict(m.counts),
                    "latencies_s": {kind: list(values) for kind, values in m.latencies.items()},
                    "shares": dict(m.shares),
                    "outcome": m.outcome,
                }
                for case, side, measurements in self.samples
                for repetition, m in enumerate(measurements, start=1)
            ],
        }


def run_benchmark(
    name: str, options: BenchmarkOptions | None = None, *, progress: Progress | None = None
) -> BenchmarkResult:
    """Run a registered benchmark.

    Args:
        name: in `registry.BENCHMARKS`.
        options: what is measured, and how.
        progress: shows how far it is; nothing is shown by default.

    Raises:
        UnknownNameError: no such benchmark, environment or model.
        MissingDependencyError: none of the cases, or one that was asked for by `env_ids`, can run
            on this machine.
        ConfigError: no case has a name like one of `parts`.
    """
    options = options or BenchmarkOptions()
    make: Callable[[BenchmarkOptions], Benchmark] = BENCHMARKS.get(name)
    started, clock = datetime.now(UTC), time.perf_counter()
    machine = {**describe_machine(), "load_at_start": load_average()}
    shown = progress or Progress(quiet=True)
    with shown.phase(f"bench {name}", unit="rounds") as bar:
        benchmark = _chosen(make(options), options.parts)
        samples, skipped = _run_cases(benchmark, options, bar)
    return BenchmarkResult(
        name=name,
        command=command_of(name, options),
        benchmark=benchmark,
        rows=rows_of(benchmark, samples),
        samples=samples,
        skipped=skipped,
        machine={**machine, "load_at_end": load_average()},
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - clock,
    )


def _chosen(benchmark: Benchmark, parts: Sequence[str]) -> Benchmark:
    """The benchmark with the cases that were asked for."""
    names = [case.name for case in benchmark.cases]
    for part in parts:
        if not any(part in name for name in names):
            raise ConfigError(f"no case is called like {part!r}; there are {', '.join(names)}")
    wanted = [case for case in benchmark.cases if any(part in case.name for part in parts)]
    return replace(benchmark, cases=wanted) if parts else benchmark


_Samples: TypeAlias = list[tuple[str, str, Sequence[Measurement]]]


def _run_cases(
    benchmark: Benchmark, options: BenchmarkOptions, bar: Bar
) -> tuple[_Samples, dict[str, str]]:
    """Measure every case; those that cannot run here are told, unless they were asked for."""
    samples: _Samples = []
    skipped: dict[str, str] = {}
    rounds = benchmark.repetitions + 1
    bar(0, len(benchmark.cases) * rounds)
    for number, case in enumerate(benchmark.cases, start=1):
        try:
            with case.open() as sides:
                measured = interleave(sides, benchmark.repetitions, bar)
        except MissingDependencyError as error:
            if options.env_ids or len(skipped) + 1 == len(benchmark.cases):
                raise
            skipped[case.name] = str(error)
        else:
            samples += [(case.name, side, found) for side, found in measured.items()]
        bar(number * rounds)
    return samples, skipped


def interleave(
    sides: Mapping[str, Side], repetitions: int, bar: Bar | None = None
) -> dict[str, list[Measurement]]:
    """Let all sides take turns: a warm-up of each, then A, B, A, B, ...

    Args:
        sides: by name, in the order in which they take turns.
        repetitions: measurements of each side.
        bar: advances by one after each round, the warm-up included.

    Raises:
        ConfigError: there is nothing to repeat.
    """
    if repetitions < 1 or not sides:
        raise ConfigError(f"need repetitions >= 1 and a side, got {repetitions} and {list(sides)}")
    measured: dict[str, list[Measurement]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, side in sides.items():
            measurement = side(repetition)
            if repetition > 0:
                measured[name].append(measurement)
        if bar is not None:
            bar.advance()
    return measured


class Ratio(NamedTuple):
    """How many times as fast as the baseline: the median over repetitions, and the extremes."""

    median: float
    low: float
    high: float


def ratio_of(ours: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Ratios within each repetition, then their median.

    Args:
        ours: (R,) a rate, by repetition.
        baseline: (R,) the same rate of the baseline in the same repetitions.

    Raises:
        ConfigError: the lengths differ, or there are none.

    Example:
        >>> ratio_of([10.0, 40.0, 30.0], [5.0, 10.0, 10.0])
        Ratio(median=3.0, low=2.0, high=4.0)
    """
    if not ours or len(ours) != len(baseline):
        raise ConfigError(
            f"ratios need equally many repetitions, got {len(ours)} and {len(baseline)}"
        )
    values = np.asarray(ours, dtype=float) / np.asarray(baseline, dtype=float)
    return Ratio(float(np.median(values)), float(values.min()), float(values.max()))


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """A percentile in milliseconds, linear between the two nearest samples.

    Example:
        >>> percentile_ms([0.010, 0.020, 0.030, 0.040], 50)
        25.0
    """
    return float(np.percentile(np.asarray(seconds, dtype=float), percent) * 1000)


def rows_of(
    benchmark: Benchmark, samples: Sequence[tuple[str, str, Sequence[Measurement]]]
) -> list[dict[str, Any]]:
    """One row for each case and side.

    Keys: case, side, baseline (is it?), same_work (as the baseline; `None` if there is none),
    each count (total), each rate (median) with ``_ratio``, ``_ratio_low`` and ``_ratio_high``, each
    latency as ``_p50_ms``, ``_p95_ms`` and ``_samples``, each share as ``_share`` (median).
    """
    baselines = {
        case.name: found
        for case in benchmark.cases
        for name, side, found in samples
        if (name, side) == (case.name, case.baseline)
    }
    return [
        _row(benchmark, case, side, measurements, baselines.get(case))
        for case, side, measurements in samples
    ]


def _row(
    benchmark: Benchmark,
    case: str,
    side: str,
    measured: Sequence[Measurement],
    baseline: Sequence[Measurement] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case, "side": side, "baseline": measured is baseline}
    row["same_work"] = None
    if baseline is not None:
        row["same_work"] = [m.outcome for m in measured] == [m.outcome for m in baseline]
    for kind in measured[0].counts:
        row[kind] = sum(m.counts[kind] for m in measured)
    for name, rate in benchmark.rates.items():
        values = [rate(m) for m in measured]
        known = [v for v in values if v is not None]
        row[name] = float(np.median(known)) if len(known) == len(values) else None
        if baseline is not None and measured is not baseline:
            others = [rate(m) for m in baseline]
            theirs = [v for v in others if v]  # there is no ratio to nothing
            if len(known) == len(values) and len(theirs) == len(others):
                ratio = ratio_of(known, theirs)
                row[f"{name}_ratio"] = ratio.median
                row[f"{name}_ratio_low"], row[f"{name}_ratio_high"] = ratio.low, ratio.high
    for kind in measured[0].latencies:
        pooled = [s for m in measured for s in m.latencies[kind]]
        if pooled:
            row[f"{kind}_p50_ms"] = percentile_ms(pooled, 50)
            row[f"{kind}_p95_ms"] = percentile_ms(pooled, 95)
        row[f"{kind}_samples"] = len(pooled)
    for kind in measured[0].shares:
        row[f"{kind}_share"] = float(np.median([m.shares[kind] for m in measured]))
    return row


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals: time in which at least one of them was going on.

    Example:
        >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
        4.0
    """
    total, end = 0.0, -float("inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def command_of(name: str, options: BenchmarkOptions) -> str:
    """The command line that repeats a measurement."""
    parts = ["agentgym", "bench", name]
    parts += ["--quick"] if options.quick else []
    for env_id in options.env_ids:
        parts += ["--env-id", env_id]
    parts += ["--model", options.model] if options.model else []
    parts += ["--dtype", options.dtype] if options.dtype != "auto" else []
    for part in options.parts:
        parts += ["--part", part]
    parts += ["--trl", options.trl] if options.trl else []
    parts += ["--browsergym", options.browsergym] if options.browsergym else []
    parts += ["--farama", options.farama] if options.farama else []
    parts += ["--vllm", options.vllm] if options.vllm else []
    return shlex.join([*parts, "--json"])


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; packages that are not installed are left out."""
    found = {"agentgym": agentgym.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _load(values: Sequence[float] | None) -> str:
    return "unknown" if values is None else f"{values[0]:.1f}"
