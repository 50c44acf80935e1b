"""The benchmark `train`: its processes, and that all sides do the same work. Nothing is timed."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agentgym.bench import BenchmarkOptions, command_of, run_benchmark
from agentgym.errors import ConfigError, TrainingError
from agentgym.registry import BENCHMARKS, load_plugins
from agentgym.trainers import benchmark
from agentgym.trainers.benchmark import ON_CPU, ON_GPU, QUICK, Work, Worker, prompts_of


def script(folder: Path, text: str) -> Path:
    """A worker that does as it is written."""
    file = folder / "worker.py"
    file.write_text(f"import json, sys, time\nsettings = json.loads(input())\n{text}\n")
    return file


def test_prompts_differ_by_step_and_are_the_same_for_every_side() -> None:
    found = prompts_of(Work(2, 4, 30, 5), 3)
    assert len(set(found)) == 6
    assert found == prompts_of(Work(2, 4, 30, 5), 3)
    assert all(len(prompt.split()) == 30 for prompt in found)


def test_works_have_names_of_their_own() -> None:
    assert len({*QUICK, *ON_CPU, *ON_GPU}) == len(QUICK) + len(ON_CPU) + len(ON_GPU)


def test_our_own_workers_find_packages_where_we_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "lies_elsewhere.py").write_text("WORD = 'found'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    look = (
        "try:\n    from lies_elsewhere import WORD\nexcept ImportError:\n    WORD = 'missing'\n"
        "print(json.dumps({'ready': True}), flush=True)\n"
        "for line in sys.stdin:\n    print(json.dumps({'word': WORD}), flush=True)"
    )
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    for python, word in ((sys.executable, "found"), (str(other), "missing")):
        with Worker(python, {"side": "x"}, script=script(tmp_path, look)) as worker:
            assert worker.ask(1)["word"] == word


def test_a_worker_answers_step_by_step(tmp_path: Path) -> None:
    echo = (
        "print(json.dumps({'ready': True}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'step': int(line), 'side': settings['side']}), flush=True)"
    )
    with Worker(sys.executable, {"side": "x"}, script=script(tmp_path, echo)) as worker:
        assert worker.ask(0) == {"step": 0, "side": "x"}
        assert worker.ask(7) == {"step": 7, "side": "x"}


def test_a_worker_that_breaks_is_told_with_its_last_words(tmp_path: Path) -> None:
    broken = script(tmp_path, "raise SystemExit('no module named nonsense')")
    with (
        Worker(sys.executable, {"side": "x"}, script=broken) as worker,
        pytest.raises(TrainingError, match="'x' ended early: no module named nonsense"),
    ):
        worker.ask(0)


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    hangs = script(tmp_path, "time.sleep(600)")
    with (
        Worker(sys.executable, {"side": "x"}, script=hangs, deadline_s=0.2) as worker,
        pytest.raises(TrainingError, match=r"'x' took longer than 0.2 s"),
    ):
        worker.ask(0)
    assert worker._process.returncode


def test_without_trl_it_says_so_and_a_wrong_interpreter_is_told() -> None:
    plan = benchmark.train(BenchmarkOptions(quick=True))
    assert "TRL was left out: --trl" in plan.note
    assert plan.cases[0].baseline == "transformers"
    given = BenchmarkOptions(quick=True, trl=sys.executable)
    assert benchmark.train(given).cases[0].baseline == "TRL"
    assert "left out" not in benchmark.train(given).note
    assert (
        command_of("train", given) == f"agentgym bench train --quick --trl {sys.executable} --json"
    )
    with pytest.raises(ConfigError, match="--trl '/nowhere/python' cannot be run"):
        benchmark.train(BenchmarkOptions(trl="/nowhere/python"))


def test_a_quick_run_does_the_same_work_on_both_sides() -> None:
    load_plugins()
    assert BENCHMARKS.get("train") is benchmark.train
    result = run_benchmark("train", BenchmarkOptions(quick=True))
    rows: dict[str, Any] = {row["side"]: row for row in result.rows}
    assert set(rows) == {"agentgym", "transformers"}
    work = next(iter(QUICK.values()))
    for row in rows.values():
        assert row["same_work"]
        assert row["steps"] == 1
        assert row["action_tokens"] == work.prompts * work.answers * work.new_tokens
        assert row["peak_mib"] > 50
        assert row["cpu_ms"] > 0
        assert 0 < row["generation_share"] < 1
