"""Numbers by hand, and every alarm at its threshold."""

from typing import Any

import numpy as np
import pytest

from agentgym.diagnostics import (
    AlarmsConfig,
    alarm_counters,
    alarms,
    all_alarms,
    calibration,
    calibration_error,
    histogram,
    nothing_learned,
    repeated_ngrams,
    repetition,
)
from agentgym.errors import ConfigError
from agentgym.types import EndReason, Task, Trajectory, Turn

RULES = AlarmsConfig()


def test_calibration_bins_have_equal_counts() -> None:
    table = calibration([0.1, 0.9, 0.2, 0.8], [0.0, 1.0, 0.0, 0.5], bins=2)
    assert table == [[2.0, pytest.approx(0.15), 0.0], [2.0, pytest.approx(0.85), 0.75]]
    assert calibration_error(table) == pytest.approx((2 * 0.15 + 2 * 0.1) / 4)
    assert calibration([], []) == []
    assert calibration_error([]) == 0.0
    assert len(calibration([1.0, 1.0], [0.0, 1.0], bins=10)) == 2
    with pytest.raises(ValueError, match="two equal"):
        calibration([1.0], [1.0, 2.0])


def test_histograms_pass_over_what_is_no_number() -> None:
    assert histogram([np.nan, np.inf]) == {"edges": [], "counts": []}
    found = histogram([1.0, 1.0, np.nan, 3.0], bins=2)
    assert found == {"edges": [1.0, 2.0, 3.0], "counts": [2.0, 1.0]}


def test_repetition() -> None:
    assert repeated_ngrams([1, 2, 3, 4, 5, 6, 7, 8]) == 0.0
    assert repeated_ngrams([1, 1, 1, 1, 1, 1, 1]) == 0.0, "too short to tell"
    assert repeated_ngrams([1] * 8) == pytest.approx(4 / 5)

    def episode(*actions: str) -> Trajectory:
        ids = np.array([7] * 8, np.int32)
        turns = tuple(Turn("s", ids, False, ids, a, action=a) for a in actions)
        return Trajectory("e", Task("x", 0), turns, EndReason.FAILURE, 0.0)

    found = repetition([episode("a", "a", "b"), episode("c")])
    assert found == {"repeated_action_share": 0.5, "repeated_ngram_share": pytest.approx(0.8)}
    assert repetition([]) == {"repeated_action_share": 0.0, "repeated_ngram_share": 0.0}


def episodes(iteration: int = 1, **values: Any) -> dict[str, Any]:
    return {"phase": f"iteration-{iteration}", "iteration": iteration, **values}


def update(iteration: int = 1, **values: Any) -> dict[str, Any]:
    values = {"steps": 1.0, "groups": 4.0, "dead_group_share": 0.5, **values}
    return {
        "phase": f"update-{iteration}",
        "iteration": iteration,
        **{f"update_{name}": value for name, value in values.items()},
    }


def rules(*rows: dict[str, Any], **config: Any) -> list[str]:
    return [alarm.rule for alarm in alarms(rows, AlarmsConfig(**config))]


@pytest.mark.parametrize(
    ("quiet", "loud", "rule"),
    [
        ({"entropy": 0.11}, {"entropy": 0.09}, "entropy"),
        ({"repeated_action_share": 0.5}, {"repeated_action_share": 0.6}, "repetition"),
        ({"repeated_ngram_share": 0.5}, {"repeated_ngram_share": 0.6}, "repetition"),
        ({"unparsed_share": 0.5}, {"unparsed_share": 0.6}, "invalid"),
        ({"failed_share": 0.5}, {"unparsed_share": 0.3, "failed_share": 0.3}, "invalid"),
    ],
)
def test_alarms_of_episodes(quiet: Any, loud: Any, rule: str) -> None:
    start = episodes(entropy=1.0)
    assert rules(start, episodes(2, **quiet)) == []
    (alarm,) = alarms([start, episodes(2, **loud)], RULES)
    assert (alarm.rule, alarm.phase) == (rule, "iteration-2")
    assert any(c.isdigit() for c in alarm.message), "it says how much"
    off = {"invalid": 0.0, "repetition": 0.0, "entropy": 0.0}
    assert rules(start, episodes(2, **loud), **off) == []
    evaluation = {"phase": "eval-1", "iteration": 1, **loud}
    assert rules(start, evaluation) == [], "evaluations are greedy: no alarm"


def test_dead_groups_for_several_iterations() -> None:
    dead = {"dead_group_share": 1.0}
    rows = [update(i, **dead) for i in range(1, 4)]
    assert rules(*rows[:2]) == []
    assert rules(*rows) == ["dead_groups"]
    assert rules(rows[0], update(2), rows[2]) == []
    alone = [update(i, groups=0.0, **dead) for i in range(1, 4)]
    assert rules(*alone) == [], "groups of one compare nothing"
    assert rules(*rows, dead_groups=0) == []


def test_steps_that_are_not_finite() -> None:
    assert rules(update(skipped_steps=0.0)) == []
    assert rules(update(skipped_steps=1.0)) == ["bad_steps"]
    assert rules(update(skipped_critic_steps=2.0)) == ["bad_steps"]


def test_nothing_to_learn_is_counted_in_a_row() -> None:
    idle, critic = {"steps": 0.0}, {"steps": 0.0, "critic_steps": 5.0}
    rows = [update(1), update(2, **idle), episodes(3), update(3, **idle)]
    assert nothing_learned(rows) == 2
    assert rules(*rows) == ["nothing_to_learn"]
    assert "2 times in a row" in alarms(rows, RULES)[0].message
    assert nothing_learned([*rows, update(4, **critic)]) == 0
    warm_start = {"phase": "warm-start", "iteration": 0, "update_steps": 0.0}
    assert nothing_learned([warm_start]) == 0


def test_all_alarms_of_a_run_in_order() -> None:
    step = {"phase": "update-1", "iteration": 1, "loss": 0.5}
    rows = [
        episodes(1, entropy=1.0, unparsed_share=0.9),
        step,
        update(1, skipped_steps=1.0),
        {"phase": "eval-1", "iteration": 1, "unparsed_share": 0.9},
        episodes(2, entropy=0.01),
    ]
    found = [(alarm.phase, alarm.rule) for alarm in all_alarms(rows, RULES)]
    assert found == [
        ("iteration-1", "invalid"),
        ("update-1", "bad_steps"),
        ("iteration-2", "entropy"),
    ]


def test_alarms_are_counted_over_the_run() -> None:
    rows: list[dict[str, Any]] = []
    for row in (
        episodes(1, unparsed_share=0.9),
        update(1),
        {"phase": "eval-1", "iteration": 1, "unparsed_share": 0.9},
        episodes(2, unparsed_share=0.9),
        update(2, skipped_steps=3.0),
        episodes(3),
        update(3),
    ):
        rows.append(row)
        row |= alarm_counters(rows, alarms(rows, RULES))
    told = [{n: v for n, v in row.items() if n.startswith("alarm_")} for row in rows]
    nothing = {"alarm_dead_groups": 0, "alarm_bad_steps": 0, "alarm_nothing_to_learn": 0}
    invalid = {"alarm_entropy": 0, "alarm_repetition": 0, "alarm_invalid": 1}
    assert told[:3] == [invalid, nothing, {}]
    assert told[3] == told[5] == invalid | {"alarm_invalid": 2}
    assert told[4] == told[6] == nothing | {"alarm_bad_steps": 1}


@pytest.mark.parametrize("values", [{"entropy": 1.5}, {"dead_groups": -1}, {"stop_after": -1}])
def test_settings_are_checked(values: Any) -> None:
    with pytest.raises(ConfigError):
        AlarmsConfig(**values)
