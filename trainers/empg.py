"""EMPG: sure turns weigh more than unsure ones, and turns that lead to sure ones are favoured.

Source: Wang et al. 2025, https://arxiv.org/abs/2509.09265, section 3 (a preprint without code).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from agentgym.advantages import Array, entropy_modulated
from agentgym.config import variants
from agentgym.errors import ConfigError
from agentgym.trainers.grpo import GRPOConfig
from agentgym.trainers.policy_gradient import PolicyGradientTrainer
from agentgym.types import Trajectory


@variants()
@dataclass(frozen=True)
class EMPGConfig(GRPOConfig):
    """How to weigh turns by the entropy they were sampled with."""

    kl_coefficient: float = 0.0
    """Left out."""
    sharpness: float = 1.0
    """k: how much less an unsure turn weighs; 0 weighs all the same."""
    future_sharpness: float = 1.0
    """k': how much less a turn that leads to an unsure one is favoured."""
    future_weight: float = 0.1
    """Zeta: weight of that bonus. It has no sign of its own, so that it favours sure turns in
    failed episodes too; 0 leaves it out."""

    variant: Literal["paper"] = "paper"
    """There is no code of the authors'."""

    def __post_init__(self) -> None:
        GRPOConfig.__post_init__(self)
        if min(self.sharpness, self.future_sharpness, self.future_weight) < 0:
            raise ConfigError(
                "sharpness, future_sharpness and future_weight must not be negative, got "
                f"{self.sharpness!r}, {self.future_sharpness!r} and {self.future_weight!r}"
            )


class EMPGTrainer(PolicyGradientTrainer):
    """GRPO's advantages, modulated by `Turn.entropy`, which in-process backends tell.

    A turn whose backend told no entropy weighs as it is and earns its predecessor no bonus; if none
    is told, what is left is GRPO.
    """

    name = "empg"
    config_class: ClassVar[type[EMPGConfig]] = EMPGConfig
    config: EMPGConfig

    def advantages(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """The group's advantages, modulated and centred over all turns."""
        entropies = [
            [
                float(turn.entropy.mean())
                if turn.entropy is not None and len(turn.entropy)
                else np.nan
                for turn in trajectory.turns
            ]
            for trajectory in trajectories
        ]
        return entropy_modulated(
            super().advantages(trajectories),
            entropies,
            sharpness=self.config.sharpness,
            future_sharpness=self.config.future_sharpness,
            future_weight=self.config.future_weight,
        )
