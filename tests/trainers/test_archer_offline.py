"""ArCHer offline: whose episodes count, the expectile of V, the weights of cloning."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.trainers.archer_offline import OfflineArcherConfig, OfflineArcherTrainer
from agentgym.types import Source, Trajectory

QUICK: dict[str, Any] = {
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "score": "outcome",
    "batch_size": 8,
    "critic_steps": 3,
    "critic_batch": 8,
    "actor_steps": 2,
    "max_action_tokens": 2,
}


def make(**settings: Any) -> OfflineArcherTrainer:
    return OfflineArcherTrainer(*tiny_model(0), OfflineArcherConfig(**{**QUICK, **settings}))


def lessons(episodes: Any, count: int = 6) -> list[Trajectory]:
    made: list[Trajectory] = episodes(count, source=Source.EXPERT)
    return made


def test_anybodys_episodes_count_and_each_update_has_its_own(episodes: Any) -> None:
    trainer = make()
    for count in (6, 4):
        metrics = trainer.update(lessons(episodes, count))
        assert metrics["trained_trajectories"] == count
        assert metrics["buffer"] == 2 * count


def test_nothing_is_generated_to_clone(episodes: Any) -> None:
    trainer = make()

    def refuse() -> Any:
        raise AssertionError("the policy was asked to act")

    trainer.act_with(refuse, trainer._sampling)
    trainer.update(lessons(episodes))
    asking = make(extraction="reinforce", actor_steps=1)
    asking.act_with(refuse, asking._sampling)
    with pytest.raises(AssertionError, match="asked to act"):
        asking.update(lessons(episodes))


def test_v_is_an_expectile_of_q_over_the_data() -> None:
    """Golden vector: errors 1, -1, 2 at level 0.7 have the mean loss 1.26667 (weights .7 .3 .7)."""
    trainer = make(expectile=0.7)
    loss = trainer._value_loss(torch.tensor([1.0, -1.0, 2.0]))
    assert float(loss.mean()) == pytest.approx(1.26667, abs=1e-5)


def two_actions(episodes: Any) -> list[Trajectory]:
    """One state at which action 41 fails and action 42 succeeds."""
    (one,) = episodes(1, turns=1)
    return [
        dataclasses.replace(
            one,
            turns=(dataclasses.replace(one.turns[0], action_ids=np.array([41 + i, 2], np.int32)),),
            outcome=float(i),
        )
        for i in range(2)
    ]


def test_a_high_expectile_values_the_better_action(episodes: Any) -> None:
    """V is the mean of the two outcomes at level 0.5, and near the better at 0.95."""
    data = two_actions(episodes)
    values = {}
    for level in (0.5, 0.95):
        trainer = make(
            expectile=level,
            critic_learning_rate=1e-3,
            critic_steps=60,
            critic_batch=16,
            actor_steps=0,
            target_rate=1.0,
        )
        for _ in range(3):
            trainer.update(data)
        values[level] = trainer.metrics()["v"]
    assert values[0.5] == pytest.approx(0.5, abs=0.15)
    assert values[0.95] == pytest.approx(0.95, abs=0.1)


def test_weights_of_cloning() -> None:
    advantages = np.array([0.0, 1.0, 100.0])
    paper = make(inverse_temperature=2.0)._weights(advantages)
    assert paper.tolist() == pytest.approx([1.0, float(np.exp(2)), 20.0], rel=1e-5)
    released = make(inverse_temperature=2.0, variant="released")._weights(advantages)
    assert released[:2].tolist() == pytest.approx(paper[:2].tolist()), "differs at the limit only"
    assert released[2] > 1e37
    assert np.isfinite(released).all()


def test_cloning_raises_the_better_action_more(episodes: Any) -> None:
    """The sign of the extraction's gradient, with a critic that is known."""
    trainer = make(actor_steps=6, critic_steps=1, learning_rate=1e-3)
    data = two_actions(episodes)
    prompt = torch.from_numpy(data[0].turns[0].prompt_ids).long()[None]
    trainer.__dict__["_advantages"] = lambda states, actions: [
        3.0 if action[0] == 42 else -3.0 for action in actions
    ]

    def odds() -> float:
        with torch.no_grad():
            logits = trainer.model(input_ids=prompt).logits[0, -1]
        return float(logits[42] - logits[41])

    before = odds()
    trainer.update(data)
    assert odds() > before + 0.1


def test_settings_are_checked() -> None:
    for settings in (
        {"expectile": 1.0},
        {"inverse_temperature": -1.0},
        {"weight_limit": -1.0},
        {"token_baseline": True},
        {"kl_coefficient": 0.1},
    ):
        with pytest.raises(ConfigError):
            OfflineArcherConfig(**settings)
