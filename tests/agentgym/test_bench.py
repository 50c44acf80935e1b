"""The frame of the benchmarks: turns, arithmetic, what is written down. Nothing is timed."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgym import bench, cli, registry
from agentgym.bench import (
    Benchmark,
    BenchmarkOptions,
    Case,
    Measurement,
    Side,
    command_of,
    covered,
    interleave,
    percentile_ms,
    ratio_of,
    rows_of,
    run_benchmark,
)
from agentgym.errors import AgentGymError, ConfigError, MissingDependencyError, UnknownNameError
from agentgym.registry import Registry


def measurement(items: int = 10, seconds: float = 1.0, **parts: Any) -> Measurement:
    return Measurement(seconds, {"items": items}, **parts)


def per_second(m: Measurement) -> float | None:
    return m.counts["items"] / m.seconds


class Sides:
    """A case's sides, which note what happens to them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.happened: list[Any] = []

    @contextmanager
    def __call__(self) -> Iterator[Mapping[str, Side]]:
        self.happened.append("open")
        try:
            yield {"ours": lambda r: self.measure("ours", r), "baseline": self.baseline}
        finally:
            self.happened.append("close")

    def baseline(self, repetition: int) -> Measurement:
        return self.measure("baseline", repetition)

    def measure(self, side: str, repetition: int) -> Measurement:
        if self.error is not None:
            raise self.error
        self.happened.append((side, repetition))
        return measurement(20 if side == "ours" else 10, outcome=[repetition])


def plan(*cases: Case, repetitions: int = 3) -> Benchmark:
    return Benchmark(
        "Things",
        cases,
        {"per_s": per_second},
        {"case": "what", "per_s": "/s"},
        repetitions=repetitions,
    )


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """An empty registry in the place of the real one."""
    fresh: Registry[Any] = Registry("benchmark")
    monkeypatch.setattr(bench, "BENCHMARKS", fresh)
    monkeypatch.setattr(registry, "BENCHMARKS", fresh)
    return fresh


def test_sides_take_turns_and_the_warm_up_is_discarded() -> None:
    sides = Sides()
    with sides() as opened:
        measured = interleave(opened, 2)
    turns = [(side, r) for r in range(3) for side in ("ours", "baseline")]
    assert sides.happened == ["open", *turns, "close"]
    assert [m.outcome for m in measured["baseline"]] == [[1], [2]]


@pytest.mark.parametrize(("sides", "repetitions"), [({}, 3), ({"a": lambda r: measurement()}, 0)])
def test_nothing_to_repeat_is_refused(sides: Mapping[str, Side], repetitions: int) -> None:
    with pytest.raises(ConfigError, match="need repetitions >= 1 and a side"):
        interleave(sides, repetitions)


def test_ratios_are_taken_within_a_repetition() -> None:
    # 10/1, 20/10, 90/30: the median ratio is 3, the ratio of the medians would be 20/10 = 2.
    assert ratio_of([10.0, 20.0, 90.0], [1.0, 10.0, 30.0]) == (3.0, 2.0, 10.0)
    with pytest.raises(ConfigError, match="got 2 and 1"):
        ratio_of([1.0, 2.0], [1.0])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        ratio_of([], [])


def test_percentiles_by_hand() -> None:
    # 21 samples, 0 to 200 ms in tens: the 95th percentile is at position 0.95 * 20 = 19.
    seconds = [0.01 * i for i in reversed(range(21))]
    assert percentile_ms(seconds, 50) == pytest.approx(100)
    assert percentile_ms(seconds, 95) == pytest.approx(190)
    # Between the 3rd and 4th of 4: position 0.95 * 3 = 2.85.
    assert percentile_ms([0.001, 0.002, 0.003, 0.004], 95) == pytest.approx(3.85)
    assert percentile_ms([0.007], 95) == pytest.approx(7)


def test_covered_is_the_length_of_the_union() -> None:
    assert covered([]) == 0
    assert covered([(0, 10), (2, 3), (4, 5)]) == 10, "what lies inside another adds nothing"
    assert covered([(8, 9), (0, 1), (0.5, 2)]) == 3, "the order does not matter"
    assert covered([(0, 1), (1, 2)]) == 2


def test_rows_by_hand() -> None:
    ours = [
        measurement(10, 1.0, latencies={"step": [0.001, 0.003]}, shares={"idle": 0.1}, outcome=[1]),
        measurement(10, 2.0, latencies={"step": [0.002, 0.004]}, shares={"idle": 0.5}, outcome=[2]),
        measurement(10, 4.0, latencies={"step": [0.005]}, shares={"idle": 0.2}, outcome=[3]),
    ]
    theirs = [measurement(10, s, outcome=[i]) for i, s in ((1, 10.0), (2, 10.0), (3, 10.0))]
    samples = [("a", "ours", ours), ("a", "baseline", theirs)]
    first, second = rows_of(plan(Case("a", Sides())), samples)
    assert first == {
        "case": "a",
        "side": "ours",
        "baseline": False,
        "same_work": True,
        "items": 30,
        "per_s": 5.0,  # of 10, 5 and 2.5
        "per_s_ratio": 5.0,  # of 10, 5 and 2.5 against 1 each
        "per_s_ratio_low": 2.5,
        "per_s_ratio_high": 10.0,
        "step_p50_ms": pytest.approx(3),  # of 1, 2, 3, 4, 5
        "step_p95_ms": pytest.approx(4.8),
        "step_samples": 5,
        "idle_share": 0.2,
    }
    assert second == {
        "case": "a",
        "side": "baseline",
        "baseline": True,
        "same_work": True,
        "items": 30,
        "per_s": 1.0,
    }


def test_rows_tell_other_work_and_missing_rates() -> None:
    benchmark = dataclasses.replace(
        plan(Case("a", Sides()), Case("b", Sides(), baseline="none of them")),
        rates={"per_s": lambda m: None if m.outcome == "no rate" else 1.0},
    )
    rows = rows_of(
        benchmark,
        [
            ("a", "ours", [measurement(outcome=1)]),
            ("a", "slow", [measurement(outcome="no rate", latencies={"step": []})]),
            ("a", "baseline", [measurement(outcome=2)]),
            ("b", "ours", [measurement(outcome=2)]),
        ],
    )
    assert [row["same_work"] for row in rows] == [False, False, True, None]
    assert [row["per_s"] for row in rows] == [1.0, None, 1.0, 1.0]
    assert ["per_s_ratio" in row for row in rows] == [True, False, False, False]
    assert (rows[1]["step_samples"], "step_p50_ms" in rows[1]) == (0, False)


def test_everything_is_written_down(benchmarks: Registry[Any]) -> None:
    asked = []

    def things(options: BenchmarkOptions) -> Benchmark:
        asked.append(options)
        return plan(Case("a", Sides()))

    benchmarks.register("things", things)
    options = BenchmarkOptions(True, ("x/y z",), "tiny", dtype="float32")
    result = run_benchmark("things", options)
    assert asked == [options]
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["schema"] == bench.SCHEMA
    assert (written["name"], written["title"], written["repetitions"]) == ("things", "Things", 3)
    command = "agentgym bench things --quick --env-id 'x/y z' --model tiny --dtype float32 --json"
    assert written["command"] == command
    assert set(written["machine"]) == {
        "cpu",
        "cores",
        "usable_cores",
        "memory_gib",
        "system",
        "omp_num_threads",
        "load_at_start",
        "load_at_end",
    }
    assert {"agentgym", "python", "numpy"} <= set(written["versions"])
    assert written["columns"] == {"case": "what", "per_s": "/s"}
    assert written["rows"] == [dict(row) for row in result.rows]
    assert [row["per_s"] for row in written["rows"]] == [20.0, 10.0]
    assert written["rows"][0]["per_s_ratio"] == 2.0
    samples = [(s["case"], s["side"], s["repetition"]) for s in written["samples"]]
    assert samples == [("a", side, r) for side in ("ours", "baseline") for r in (1, 2, 3)]
    assert set(written["samples"][0]) == {
        "case",
        "side",
        "repetition",
        "seconds",
        "counts",
        "latencies_s",
        "shares",
        "outcome",
    }


def test_command_without_options() -> None:
    assert command_of("things", BenchmarkOptions()) == "agentgym bench things --json"


def test_a_case_that_cannot_run_here_is_told(benchmarks: Registry[Any]) -> None:
    missing = Sides(MissingDependencyError("no Chromium found"))
    cases = [Case("web", missing), Case("text", Sides())]
    benchmarks.register("some", lambda options: plan(*cases))
    result = run_benchmark("some")
    assert result.skipped == {"web": "no Chromium found"}
    assert {row["case"] for row in result.rows} == {"text"}
    assert "web was left out: no Chromium found" in result.note
    assert missing.happened == ["open", "close"]


def test_what_was_asked_for_must_run(benchmarks: Registry[Any]) -> None:
    missing = Case("web", Sides(MissingDependencyError("no Chromium found")))
    benchmarks.register("some", lambda options: plan(missing, Case("text", Sides())))
    with pytest.raises(MissingDependencyError, match="no Chromium found"):
        run_benchmark("some", BenchmarkOptions(env_ids=("web",)))
    benchmarks.register("none", lambda options: plan(missing, missing))
    with pytest.raises(MissingDependencyError, match="no Chromium found"):
        run_benchmark("none")


def test_sides_are_closed_when_one_fails(benchmarks: Registry[Any]) -> None:
    sides = Sides(AgentGymError("broken"))
    benchmarks.register("broken", lambda options: plan(Case("a", sides)))
    with pytest.raises(AgentGymError, match="broken"):
        run_benchmark("broken")
    assert sides.happened == ["open", "close"]


def test_the_note_tells_load_and_other_work(benchmarks: Registry[Any]) -> None:
    different = Case("a", lambda: _fixed({"ours": 1, "baseline": 2}))
    benchmarks.register("things", lambda options: plan(different))
    result = run_benchmark("things")
    assert "Outcomes differ from the baseline's: a." in result.note
    loaded = {**result.machine, "load_at_start": [1.25, 0.5, 0.5], "load_at_end": None}
    note = dataclasses.replace(result, machine=loaded).note
    assert "load 1.2 at the start and unknown at the end" in note


@contextmanager
def _fixed(outcomes: Mapping[str, Any]) -> Iterator[Mapping[str, Side]]:
    def side(repetition: int, *, outcome: Any) -> Measurement:
        return measurement(outcome=outcome)

    yield {name: partial(side, outcome=outcome) for name, outcome in outcomes.items()}


def test_unknown_benchmarks_are_named(benchmarks: Registry[Any]) -> None:
    benchmarks.register("rollout", lambda options: plan(Case("a", Sides())))
    with pytest.raises(UnknownNameError, match=r"benchmark 'rolout' is not known. Did you mean"):
        run_benchmark("rolout")


def test_command_line(benchmarks: Registry[Any]) -> None:
    asked = []

    def things(options: BenchmarkOptions) -> Benchmark:
        asked.append(options)
        return plan(Case("a", Sides()))

    benchmarks.register("things", things)
    runner = CliRunner()
    done = runner.invoke(
        cli.app, ["bench", "--json", "--quick", "--env-id", "one-v0", "--env-id", "other/two-v0"]
    )
    assert done.exit_code == 0, done.output
    (written,) = json.loads(done.stdout)
    assert written["rows"][0]["per_s_ratio"] == 2.0
    assert asked == [BenchmarkOptions(True, ("agentgym/one-v0", "other/two-v0"), "")]
    table = runner.invoke(cli.app, ["bench", "things"])
    assert "Things" in table.stdout
    assert "Medians of 3 interleaved repetitions" in table.stdout
    wrong = runner.invoke(cli.app, ["bench", "things", "nothing"])
    assert isinstance(wrong.exception, UnknownNameError)
    assert len(asked) == 2, "nothing is measured if one of the names is wrong"
