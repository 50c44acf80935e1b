"""Methods over seeds, at equal environment turns."""

import json
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose

from agentgym import compare as comparing
from agentgym.compare import (
    Arm,
    Estimate,
    check_one_process,
    compare,
    read_arm,
    summarise,
    write,
)
from agentgym.errors import ConfigError, TrainingError
from agentgym.metrics import MetricsWriter, read
from agentgym.recipe import load_recipe


def finished(folder: Path, curve: list[tuple[float, float]], final: float) -> None:
    """A run's metrics: (turns of the iteration, success)."""
    with MetricsWriter(folder, ("jsonl",), name="run") as writer:
        writer.write({"phase": "eval-before", "success": 0.0, "turns": 7.0})
        for i, (turns, success) in enumerate(curve, start=1):
            writer.write({"phase": f"iteration-{i}", "success": success, "turns": turns})
            writer.write({"phase": f"update-{i}", "loss": 1.0})
        writer.write({"phase": "eval-after", "success": final, "turns": 7.0})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, (slow, fast) in enumerate([(0.2, 0.8), (0.4, 0.6), (0.3, 0.7)]):
        finished(tmp_path / "slow" / f"seed-{seed}", [(100, 0.0), (100, slow)], slow)
        # twice as long episodes: the same number of episodes must not count as the same effort
        finished(tmp_path / "fast-one" / f"seed-{seed}", [(200, 0.0), (200, fast)], fast)
    return tmp_path


def test_curves_are_read_at_equal_turns(runs: Path) -> None:
    result = summarise("toy", runs, ["slow", "fast one"], range(3))
    assert result.budget == 200
    slow, fast = result.arms
    assert slow.before == Estimate(0.0, 0.0, 0.0)
    assert slow.final.mean == pytest.approx(0.3)
    assert slow.reward is None
    assert slow.gain is None, "no episodes are on record"
    assert (slow.turns.mean, fast.turns.mean) == (200, 400)
    assert 0.19 < slow.final.low < 0.3 < slow.final.high < 0.41
    assert slow.difference is None
    assert fast.difference is not None
    assert fast.difference.mean == pytest.approx(0.4)
    assert slow.at_budget.mean == pytest.approx(0.3)
    # after 200 turns it is half way from 0 (at 100) to its success, 0.7 (at 300); the last window
    # is that from 187.5 to 200, whose middle lies at 93.75 of the 200 turns between
    assert fast.at_budget.mean == pytest.approx(0.7 * 93.75 / 200)
    assert [e.mean for e in slow.curve][:2] == [0.0, 0.0]
    assert len(slow.curve) == comparing.POINTS
    assert slow.area.mean == pytest.approx(sum(e.mean for e in slow.curve) / comparing.POINTS)


def test_what_is_written_can_be_read(runs: Path) -> None:
    result = summarise("<toy>", runs, ["slow", "fast one"], range(3))
    page = write(result, runs).read_text()
    assert "&lt;toy&gt;" in page
    assert page.count("<polyline") == page.count("<polygon") == 2
    assert "fast one" in (runs / comparing.CURVES).read_text()
    assert json.loads((runs / comparing.SUMMARY).read_text())["budget"] == 200


def test_one_seed_has_no_interval() -> None:
    assert Estimate.of([0.5]) == Estimate(0.5, 0.5, 0.5)
    assert_allclose(Estimate.of([0.2, 0.4]).mean, 0.3)


def test_gains_of_one_seed_have_an_interval_over_tasks() -> None:
    found = Estimate.nested([[1.0, 0.0, 0.0, 1.0]])
    assert found.mean == 0.5
    assert found.low < 0.5 < found.high


def test_runs_without_training_are_told(tmp_path: Path) -> None:
    finished(tmp_path / "a" / "seed-0", [], 0.5)
    with pytest.raises(ConfigError, match="no training episodes"):
        summarise("toy", tmp_path, ["a"], [0])


@pytest.mark.parametrize("text", ["", "a/b", "name:", "name: trainer", ": x=1"])
def test_arms_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        read_arm(text)


@pytest.mark.parametrize(
    ("arms", "seeds", "told"),
    [
        (["rloo"], [0], "two arms"),
        (["rloo", "rloo"], [0], "two arms"),
        (["rloo", "grpo"], [], "seeds"),
        (["rloo", "grpo"], [1, 1], "seeds"),
        (["rloo", "x: no.such=1"], [0], "no"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    tmp_path: Path, arms: list[str], seeds: list[int], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        compare("demo", [read_arm(a) for a in arms], tmp_path / "out", seeds=seeds)
    assert not (tmp_path / "out").exists()


MAZE = """
name = "maze"
iterations = 2
episodes_per_task = 4
group_size = 2
model = {name = 'tiny', dtype = 'float32'}
tasks = {env_ids = ['agentgym/maze-v0']}
env = {layout = 'umaze'}
context = {max_tokens = 1200, history = 'window', instructions = 'Go.'}
sampling = {max_tokens = 4}
rollout = {max_turns = 2}
evaluation = {episodes_per_task = 2}
[arms.plain]
trainer = "reinforce"
[arms.tuned]
trainer = "rloo"
train = {batch_size = 2}
choose = {"train.learning_rate" = [1e-4, 1e-3]}
[arms.control]
trainer = "reinforce"
"train.batch_size" = 2
tuned_as = "tuned"
"""


@pytest.fixture
def maze(tmp_path: Path) -> Path:
    path = tmp_path / "maze.toml"
    path.write_text(MAZE)
    return path


def test_real_runs_are_finished_once(
    maze: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [Arm("plain", ('trainer="reinforce"',)), read_arm("rloo")]
    told: list[str] = []
    options: Any = {"seeds": [0, 1], "on_run": told.append}
    first = compare(str(maze), arms, tmp_path / "out", **options)
    assert told == ["plain, seed 0", "plain, seed 1", "rloo, seed 0", "rloo, seed 1"]
    assert first.budget == 16
    for arm in first.arms:
        assert arm.gain is not None
        assert arm.gain.mean == pytest.approx(arm.final.mean - arm.before.mean)
    monkeypatch.setattr("agentgym.run.Run._do", None)  # nothing may run a second time
    assert compare(str(maze), arms, tmp_path / "out", **options) == first
    with pytest.raises(ConfigError, match="other settings"):
        compare(str(maze), arms, tmp_path / "out", **options, overrides=["iterations=3"])


def test_arms_in_a_recipe(maze: Path) -> None:
    plain, tuned, control = comparing.arms_of(str(maze))
    assert plain == Arm("plain", ('trainer="reinforce"',))
    assert tuned.overrides == ('trainer="rloo"', "train={batch_size = 2}")
    assert tuned.choices == ("train.learning_rate=0.0001", "train.learning_rate=0.001")
    assert control.overrides == ('trainer="reinforce"', "train.batch_size=2")
    assert control.tuned_as == "tuned"
    with pytest.raises(ConfigError, match="names no arms"):
        comparing.arms_of("demo")
    with pytest.raises(ConfigError, match="no arms with choices"):
        compare(str(maze), [plain, control], maze.parent / "out", seeds=[0])


def test_side_by_side_with_one_warm_start_a_seed_and_tuning(maze: Path, tmp_path: Path) -> None:
    folder, told = tmp_path / "out", list[str]()
    warm = ["demonstrations=2", "warm_start={batch_size=2}"]
    options: Any = {"seeds": [3], "jobs": 2, "tuning_seeds": 1, "tuning_iterations": 1}
    arms = comparing.arms_of(str(maze))
    result = compare(str(maze), arms, folder, **options, overrides=warm, on_run=told.append)
    assert [arm.name for arm in result.arms] == ["plain", "tuned", "control"]
    assert result.chosen["control"] == result.chosen["tuned"]
    assert result.chosen["tuned"][0] in result.tuning["tuned"]
    tried = load_recipe(str(next((folder / "tuning").glob("tuned*/seed-1000/recipe.toml"))))
    assert (tried.iterations, tried.tasks.eval_seed) == (1, comparing.VALIDATION)
    kept = {
        name: load_recipe(str(folder / name / "seed-3" / "recipe.toml"))
        for name in ("plain", "control")
    }
    assert kept["control"].train["learning_rate"] in (1e-4, 1e-3)
    assert kept["plain"].tasks.eval_seed == 0
    runs = [folder / name / "seed-3" for name in ("plain", "tuned", "control")]
    runs += (folder / "warm-start").glob("seed-3-*")
    begun = [[row for row in read(run) if row["phase"] == "demonstrations"] for run in runs]
    assert begun[0] == begun[1] == begun[2] == begun[3]  # to the second that it took
    assert len([name for name in told if name.startswith("warm start")]) == 2
    assert compare(str(maze), arms, folder, **options, overrides=warm) == result


def test_a_run_that_fails_is_told_and_the_others_are_kept(maze: Path, tmp_path: Path) -> None:
    arms = [read_arm("reinforce"), read_arm("bad: trainer=reinforce; env.layout=nowhere")]
    with pytest.raises(TrainingError, match=r"(?s)1 of 2 runs failed.*nowhere"):
        compare(str(maze), arms, tmp_path / "out", seeds=[0], jobs=2)
    summary = json.loads((tmp_path / "out" / "reinforce" / "seed-0" / "summary.json").read_text())
    assert summary["finished"]


def test_a_comparison_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    check_one_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 were launched.*--jobs N"):
        check_one_process()
