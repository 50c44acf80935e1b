"""RLOO: REINFORCE against the mean of the other episodes of the same task.

Source: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 3.
"""

from dataclasses import dataclass
from typing import ClassVar

from agentgym.trainers.policy_gradient import PolicyGradientConfig, PolicyGradientTrainer


@dataclass(frozen=True)
class RLOOConfig(PolicyGradientConfig):
    """How to follow the gradient against a leave-one-out baseline: the defaults of its base."""


class RLOOTrainer(PolicyGradientTrainer):
    """One step on fresh episodes, each compared with the others of its group."""

    name = "rloo"
    config_class: ClassVar[type[RLOOConfig]] = RLOOConfig
