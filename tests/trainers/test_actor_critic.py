"""What trainers with a critic share: steps in shares, bad steps, work done together."""

from typing import Any

import pytest
import torch

from agentgym.errors import ConfigError, TrainingError
from agentgym.models.tiny import tiny_model
from agentgym.trainers.actor_critic import ActorCriticConfig
from agentgym.trainers.ppo import PPOConfig, PPOTrainer


def make(**settings: Any) -> PPOTrainer:
    return PPOTrainer(*tiny_model(0), PPOConfig(**settings))


class Share:
    """What a trainer sees of `accelerate` in one of two processes; nothing is summed."""

    num_processes = 2

    def __init__(self, process_index: int) -> None:
        self.process_index = process_index

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor


def test_processes_fit_a_critic_on_shares_of_the_texts() -> None:
    seen = []
    for index in range(2):
        trainer = make()
        trainer.accelerator = Share(index)
        groups: list[int] = []

        def loss(group: Any, trainer: Any = trainer, groups: Any = groups) -> torch.Tensor:
            groups.extend(group)
            return torch.stack([p.square().sum() for p in trainer.critic.parameters()]).sum()

        trainer._fit(trainer.critic_optimiser, [5, 9, 7, 3, 8], loss)
        seen.append(sorted(groups))
    assert seen == [[0, 1, 3], [2, 4]] or seen == [[1, 2, 3], [0, 4]]
    assert sorted(seen[0] + seen[1]) == [0, 1, 2, 3, 4]


def test_bad_critic_steps_change_nothing_are_counted_and_end_training() -> None:
    trainer = make(max_bad_steps=2)
    before = [p.detach().clone() for p in trainer.critic.parameters()]
    weight = next(iter(trainer.critic.parameters()))

    def loss(group: Any) -> torch.Tensor:
        return torch.sum(weight * float("nan"))

    _, report = trainer._fit(trainer.critic_optimiser, [4], loss)
    assert report.skipped
    assert trainer._totals["skipped_critic_steps"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.critic.parameters(), strict=True))
    with pytest.raises(
        TrainingError, match=r"2 critic steps in a row .* lower critic_learning_rate"
    ):
        trainer._fit(trainer.critic_optimiser, [4], loss)


def test_settings_are_checked() -> None:
    for settings in ({"critic_learning_rate": 0.0}, {"critic_hidden": -1}):
        with pytest.raises(ConfigError, match="critic_learning_rate"):
            ActorCriticConfig(**settings)
