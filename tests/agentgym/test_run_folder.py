import json
from pathlib import Path
from typing import Any

import pytest

from agentgym.errors import ConfigError
from agentgym.run_folder import NOTHING, RunFolder, Tally, mean_over_tasks
from agentgym.store import TrajectoryStore
from agentgym.types import NO_TOKENS, EndReason, Source, Task, Trajectory, Turn


def episode(
    task: str, seed: int, outcome: float | None, phase: str, *turns: Turn, **values: Any
) -> Trajectory:
    end = EndReason.ENV_TIMEOUT if outcome is None else EndReason.FAILURE
    return Trajectory(
        f"{phase}/{task}/{seed}",
        Task(f"agentgym/{task}-v0", seed),
        turns,
        end,
        outcome,
        metadata={"phase": phase},
        **values,
    )


GOOD = Turn("", NO_TOKENS, False, None, "", action="click(1)")
UNPARSED = Turn("", NO_TOKENS, False, None, "", parsed=False, action_error="no action")
REFUSED = Turn("", NO_TOKENS, False, None, "", action="click(9)", action_error="no element 9")


def test_a_tally_counts_by_hand() -> None:
    tally = Tally()
    for t in (
        episode("a", 0, 1.0, "", GOOD, GOOD),
        episode("a", 1, 0.5, "", GOOD, REFUSED, UNPARSED),
        episode("a", 2, None, ""),
    ):
        tally.add(t)
    assert (tally.outcomes, tally.unscored, tally.episodes) == ([True, False], 1, 3)
    assert tally.mean_turns == "1.7"  # 5 / 3
    assert tally.invalid_share == "40%"  # 2 / 5
    assert tally.said_ends == "failure 2, env timeout 1"
    assert tally.rate is not None
    assert tally.rate.value == 0.5


def test_nothing_scored_is_nothing_said() -> None:
    tally = Tally()
    tally.add(episode("a", 0, None, ""))
    assert tally.rate is None
    assert tally.mean_turns == tally.invalid_share == NOTHING
    assert mean_over_tasks([tally, Tally()]) is None


def test_sums_leave_their_parts_alone() -> None:
    parts = [Tally(outcomes=[True], turns=2), Tally(outcomes=[False, False], unscored=1)]
    total = Tally.sum(parts)
    assert (total.outcomes, total.unscored, total.turns) == ([True, False, False], 1, 2)
    assert parts[0].outcomes == [True]


def test_every_task_weighs_the_same() -> None:
    rate = mean_over_tasks([Tally(outcomes=[True]), Tally(outcomes=[False] * 9 + [True])])
    assert rate is not None
    assert rate.value == pytest.approx((1.0 + 0.1) / 2)
    assert rate.low < rate.value < rate.high


def test_reading_a_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "r"\n[model]\nname = "m"\n')
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append(
            [
                episode("a", 0, 0.0, "eval-before", GOOD),
                episode("a", 1, 1.0, "demonstrations", GOOD, source=Source.EXPERT),
                episode("a", 2, 1.0, "demonstrations", GOOD, source=Source.EXPERT),
            ]
        )
        run = RunFolder.read(tmp_path, wanted="demonstrations/a/2")  # while it is written
    assert (run.name, run.recipe_name, run.model) == (tmp_path.name, "r", "m")
    assert list(run.tallies) == ["eval-before", "demonstrations"]
    assert run.policy_phases == {"eval-before"}
    assert [t.id for t in run.samples.values()] == ["demonstrations/a/1"]
    assert run.wanted is not None
    assert run.wanted.task.seed == 2
    assert run.notes == []


def test_the_summary_is_believed_before_the_episodes(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "trajectories") as store:
        store.append([episode("a", 0, 0.0, "eval-before"), episode("a", 0, 1.0, "eval-after")])
    evaluations = {"before": {"mean": 0.25, "low": 0.2, "high": 0.3, "tasks": {}}}
    (tmp_path / "summary.json").write_text(json.dumps({"evaluations": evaluations}))
    run = RunFolder.read(tmp_path)
    before, after = run.mean("before"), run.mean("after")
    assert before is not None
    assert after is not None
    assert (before.value, before.low, before.high) == (0.25, 0.2, 0.3)
    assert after.value == 1.0, "not in the summary yet: from the episodes"


def test_a_mean_that_is_no_number_is_none(tmp_path: Path) -> None:
    nothing = {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "tasks": {}}
    (tmp_path / "summary.json").write_text(json.dumps({"evaluations": {"before": nothing}}))
    assert RunFolder.read(tmp_path).mean("before") is None


def test_tasks_named_with_seeds_are_put_together(tmp_path: Path) -> None:
    counts = {"successes": 1, "episodes": 2}
    tasks = {"agentgym/a-v0#1": counts, "agentgym/a-v0#2": {**counts, "unscored": 3}}
    (tmp_path / "summary.json").write_text(json.dumps({"evaluations": {"after": {"tasks": tasks}}}))
    by_task = RunFolder.read(tmp_path).by_task("after")
    assert list(by_task) == ["agentgym/a-v0"]
    assert (by_task["agentgym/a-v0"].episodes, by_task["agentgym/a-v0"].unscored) == (7, 3)


def test_unexpected_shapes_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"evaluations": [1], "seconds": null}')
    run = RunFolder.read(tmp_path)
    assert run.mean("before") is None
    assert run.seconds == {}
    (tmp_path / "summary.json").write_text("[1, 2]")
    assert RunFolder.read(tmp_path).summary == {}


def test_no_run_is_told_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the folder that `agentgym train` named"):
        RunFolder.read(tmp_path)
