"""Success rates: per task, over tasks, and what is left out."""

import json
import math
from dataclasses import replace

import pytest

from agentgym.evaluation import summarise
from agentgym.types import NO_TOKENS, EndReason, Task, Trajectory, Turn


def episode(env: str, outcome: float | None, *, turns: int = 1, parsed: bool = True) -> Trajectory:
    turn = Turn("o", NO_TOKENS, False, None, "a", parsed=parsed, action_error="" if parsed else "?")
    end = EndReason.ENV_ERROR
    if outcome is not None:
        end = EndReason.SUCCESS if outcome else EndReason.FAILURE
    return Trajectory(f"{env}-{outcome}", Task(env, 0), (turn,) * turns, end, outcome)


def test_broken_episodes_count_in_no_rate() -> None:
    result = summarise([episode("a", 1.0), episode("a", 0.0), episode("a", None)]).tasks["a"]
    assert (result.successes, result.episodes, result.unscored) == (1, 2, 1)
    assert result.success == 0.5
    assert dict(result.ends) == {"env_error": 1, "failure": 1, "success": 1}


def test_every_task_weighs_the_same() -> None:
    episodes = [episode("a", 1.0)] * 9 + [episode("b", 0.0)]
    evaluation = summarise(episodes)
    assert evaluation.mean == 0.5  # not 0.9
    assert evaluation.low <= 0.5 <= evaluation.high


def test_the_interval_narrows_with_episodes() -> None:
    few = summarise([episode("a", float(i % 2)) for i in range(4)])
    many = summarise([episode("a", float(i % 2)) for i in range(400)])
    assert many.high - many.low < few.high - few.low


def test_the_interval_has_width_when_every_episode_ends_alike() -> None:
    # One task, 0 of 10: Wilson's upper limit is z^2 / (n + z^2) = 3.8415 / 13.8415.
    evaluation = summarise([episode("a", 0.0)] * 10)
    assert (evaluation.mean, evaluation.low) == (0.0, 0.0)
    assert evaluation.high == pytest.approx(0.27753, abs=1e-5)


def test_wilson_interval_of_a_task() -> None:
    # 8 of 10: Wilson 95 % is 0.4902 to 0.9433 (Brown, Cai, DasGupta 2001).
    result = summarise([episode("a", float(i < 8)) for i in range(10)]).tasks["a"]
    assert (result.low, result.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_turns_and_errors_are_counted_apart() -> None:
    good, bad = episode("a", 1.0, turns=3), episode("a", 0.0, turns=1, parsed=False)
    result = summarise([good, bad]).tasks["a"]
    assert result.mean_turns == 2.0
    assert result.unparsed_share == 0.25
    assert result.failed_share == 0.0


def test_the_reasons_of_unscored_episodes_are_counted() -> None:
    broken = replace(episode("a", None), error="the browser died")
    episodes = [episode("b", None), broken, broken, episode("a", 1.0)]
    assert list(summarise(episodes).errors.items()) == [("the browser died", 2), ("env_error", 1)]


def test_nothing_scored_is_not_a_number_and_json_keeps_the_counts() -> None:
    evaluation = summarise([episode("a", None)])
    assert math.isnan(evaluation.mean)
    told = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert told["tasks"]["a"]["unscored"] == 1
    assert told["mean"] is None
    assert math.isnan(summarise([]).mean)
