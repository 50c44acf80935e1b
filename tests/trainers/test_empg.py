"""EMPG on the golden vector of two episodes, and without entropies."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.trainers.empg import EMPGConfig, EMPGTrainer
from agentgym.trainers.grpo import GRPOConfig, GRPOTrainer
from agentgym.types import Trajectory

ENTROPIES = ((0.2, 0.6, 1.0), (0.4, 0.4, 0.8))


def pair(episodes: Any, told: bool) -> list[Trajectory]:
    """A success and a failure of one task."""
    made = []
    for trajectory, entropies, score in zip(
        episodes(2, turns=3), ENTROPIES, (1.0, 0.0), strict=True
    ):
        turns = tuple(
            dataclasses.replace(turn, entropy=np.full(2, h, np.float32) if told else None)
            for turn, h in zip(trajectory.turns, entropies, strict=True)
        )
        made.append(dataclasses.replace(trajectory, turns=turns, outcome=score, group_id="g"))
    return made


def test_the_golden_vector(episodes: Any) -> None:
    """Advantages 1 and -1 (a factor of 2 on a centred pair) at k = k' = 1, zeta = 0.1.

    Entropies from 0.2 to 1 are scaled to h = 0, .5, 1 and .25, .25, .75; exp(-h) = 1, .60653,
    .36788, .77880, .77880, .47237, of mean .66740, divides to the weights 1.49836, .90880, .55122
    and 1.16692, 1.16692, .70778. Bonuses of 0.1 exp(-h) of the turn after: .06065, .03679, 0 and
    .07788, .04724, 0. The mean of all six, .02322, is taken off.
    """
    trainer = EMPGTrainer(*tiny_model(0), EMPGConfig(scale="none"))
    trainer.__dict__["score_of"] = lambda t: 2.0 * float(t.outcome or 0.0)
    first, second = trainer.advantages(pair(episodes, told=True))
    assert first.tolist() == pytest.approx([1.53579, 0.92237, 0.52800], abs=2e-5)
    assert second.tolist() == pytest.approx([-1.11226, -1.14291, -0.73099], abs=2e-5)


def test_without_entropies_it_is_grpo(episodes: Any) -> None:
    data = pair(episodes, told=False)
    ours = EMPGTrainer(*tiny_model(0), EMPGConfig()).advantages(data)
    theirs = GRPOTrainer(*tiny_model(0), GRPOConfig()).advantages(data)
    for own, other in zip(ours, theirs, strict=True):
        assert own.tolist() == pytest.approx(other.tolist())


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="sharpness"):
        EMPGConfig(sharpness=-1.0)
