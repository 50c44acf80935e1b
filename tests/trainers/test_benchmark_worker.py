"""What the sides of the benchmark `train` are scored by; `test_benchmark` runs them."""

from agentgym.trainers.benchmark_worker import SIDES, reward


def test_the_score_tells_answers_apart_and_takes_any() -> None:
    assert reward("") == 0
    assert reward("e") == 0, "its number is 101"
    assert reward("ab") == (97 + 98 - 101) / 100
    assert len({reward(text) for text in ("ab", "ac", "bc", "the open door")}) == 4


def test_there_is_a_side_for_each_name() -> None:
    assert set(SIDES) == {"agentgym", "plain", "trl"}
