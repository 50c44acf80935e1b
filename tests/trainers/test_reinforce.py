"""REINFORCE."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from agentgym.models.tiny import tiny_model
from agentgym.trainers.reinforce import ReinforceConfig, ReinforceTrainer


def advantages(episodes: Any, **settings: Any) -> list[list[float]]:
    trainer = ReinforceTrainer(*tiny_model(0), ReinforceConfig(**settings))
    made = [
        dataclasses.replace(
            t,
            outcome=outcome,
            turns=tuple(
                dataclasses.replace(turn, reward=r)
                for turn, r in zip(t.turns, (1.0, 2.0), strict=True)
            ),
        )
        for t, outcome in zip(episodes(2), (1.0, 0.0), strict=True)
    ]
    return [a.tolist() for a in trainer.advantages(made)]


def test_scores_as_they_are(episodes: Any) -> None:
    assert advantages(episodes, whiten=False) == [[1, 1], [0, 0]]


def test_whitened_over_all_turns(episodes: Any) -> None:
    assert np.array(advantages(episodes)) == pytest.approx(np.array([[1, 1], [-1, -1]]))


def test_what_followed_a_turn(episodes: Any) -> None:
    found = advantages(episodes, whiten=False, credit="turn", score="return", discount=0.5)
    assert found == [[2, 2], [2, 2]]
