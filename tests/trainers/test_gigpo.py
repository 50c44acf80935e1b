"""GiGPO, on the paper's kind of example: three episodes that meet at states A, B and C."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.trainers.gigpo import GiGPOConfig, GiGPOTrainer
from agentgym.types import Trajectory

STATES, SCORES = ("ABC", "ABBD", "AC"), (1.0, 0.0, 1.0)


@pytest.fixture
def meeting(episodes: Any) -> list[Trajectory]:
    made = []
    for states, score in zip(STATES, SCORES, strict=True):
        (t,) = episodes(1, turns=len(states))
        turns = [
            dataclasses.replace(turn, state_key=key)
            for turn, key in zip(t.turns, states, strict=True)
        ]
        made.append(dataclasses.replace(t, turns=tuple(turns), outcome=score, group_id="g"))
    return made


def found(trajectories: list[Trajectory], **settings: Any) -> list[list[float]]:
    trainer = GiGPOTrainer(*tiny_model(0), GiGPOConfig(**settings))
    return [a.tolist() for a in trainer.advantages(trajectories)]


def test_turns_are_compared_where_episodes_meet(meeting: list[Trajectory]) -> None:
    """Scores 1, 0, 1: mean 2/3. Discounted returns, at A .95^2, 0, .95 (mean .6175), at B .95, 0, 0
    (mean .31667), at C 1, 1; D is met once.
    """
    first, second, third = found(meeting)
    assert first == pytest.approx([1 / 3 + 0.285, 1 / 3 + 0.63333, 1 / 3], abs=1e-5)
    expected = [-2 / 3 - 0.6175, -2 / 3 - 0.31667, -2 / 3 - 0.31667, -2 / 3]
    assert second == pytest.approx(expected, abs=1e-5)
    assert third == pytest.approx([1 / 3 + 0.3325, 1 / 3], abs=1e-5)


def test_the_released_code_averages_over_turns(meeting: list[Trajectory]) -> None:
    # over turns the mean is (3 * 1 + 4 * 0 + 2 * 1) / 9 = 0.55556
    advantages = found(meeting, variant="released", omega=0.0)
    assert [a[0] for a in advantages] == pytest.approx([0.44444, -0.55556, 0.44444], abs=1e-5)


def test_what_is_alone_keeps_its_score_in_the_released_code(meeting: list[Trajectory]) -> None:
    alone = [dataclasses.replace(meeting[0], turns=meeting[0].turns[:1])]
    assert found(alone, variant="released") == [[1.0]]
    assert found(alone) == [[0.0]]


def test_deviations_of_a_sample_or_of_all(meeting: list[Trajectory]) -> None:
    # of scores 1, 0, 1: sqrt(2/3 / 2) and sqrt(2/3 / 3)
    for ddof, deviation in ((1, 0.57735), (0, 0.47140)):
        first, *_ = found(meeting, scale="std", ddof=ddof, omega=0.0)
        assert first[0] == pytest.approx(1 / 3 / deviation, rel=1e-4)


def test_without_states_it_is_grpo_without_deviation(meeting: list[Trajectory]) -> None:
    blind = [
        dataclasses.replace(
            t, turns=tuple(dataclasses.replace(turn, state_key=None) for turn in t.turns)
        )
        for t in meeting
    ]
    assert found(blind) == found(meeting, omega=0.0)
    assert np.concatenate(found(blind)) != pytest.approx(np.concatenate(found(meeting)))


def test_rewards_of_the_environment(meeting: list[Trajectory]) -> None:
    paid = [
        dataclasses.replace(
            t, turns=tuple(dataclasses.replace(turn, reward=-1.0) for turn in t.turns)
        )
        for t in meeting
    ]
    first, second, third = found(paid, score="return", discount=1.0, omega=1.0)
    # returns -3, -4, -2 and from state A on the same again
    assert (first[0], second[0], third[0]) == (0, -2, 2)
    with pytest.raises(ConfigError, match="omega"):
        GiGPOConfig(omega=-1.0)


def test_the_control_meets_nowhere(meeting: list[Trajectory]) -> None:
    assert found(meeting, anchors="unique") == found(meeting, omega=0.0)
    assert found(meeting, anchors="unique") != found(meeting)
