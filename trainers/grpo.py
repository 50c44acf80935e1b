"""GRPO: a clipped loss on scores standardised inside their group; Dr. GRPO without its biases.

Source: Shao et al. 2024 (DeepSeekMath), https://arxiv.org/abs/2402.03300, section 4.1; Liu et al.
2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783, section 3.
"""

from dataclasses import dataclass
from typing import ClassVar

from agentgym.advantages import Baseline, Scale
from agentgym.config import variants
from agentgym.losses import Reduction
from agentgym.trainers.policy_gradient import (
    PolicyGradientConfig,
    PolicyGradientTrainer,
    Variant,
)


@variants(released={"reduction": "token_mean", "kl_coefficient": 0.001, "singleton": float("nan")})
@dataclass(frozen=True)
class GRPOConfig(PolicyGradientConfig):
    """How to compare inside groups, as published."""

    baseline: Baseline = "mean"
    """The group's mean, the own score included."""
    scale: Scale = "std"
    """Divided by the group's standard deviation (of the sample)."""
    clip_low: float = 0.2
    """As of `PolicyGradientConfig`."""
    clip_high: float = 0.2
    """As of `PolicyGradientConfig`; DAPO takes 0.28."""
    kl_coefficient: float = 0.04
    """As published; many later recipes leave it out."""
    reduction: Reduction = "sequence_mean"
    """Every row counts the same, as published; "token_mean" is DAPO's."""
    variant: Variant = "paper"
    """The authors released no trainer; "released" is what most agents are trained with, verl:
    `reduction` token_mean, `kl_coefficient` 0.001, and `singleton` NaN: a group of one keeps its
    score as it is."""


@variants(released={})
@dataclass(frozen=True)
class DrGRPOConfig(GRPOConfig):
    """GRPO without the division by deviation and by length, which favour some tasks and answers."""

    scale: Scale = "none"
    """Not divided."""
    kl_coefficient: float = 0.0
    """Left out, as published."""
    reduction: Reduction = "constant"
    """Every token counts the same, whatever the length of its row."""
    variant: Variant = "paper"
    """The authors' code does what the paper says: no other default."""


class GRPOTrainer(PolicyGradientTrainer):
    """Clipped steps on standardised group scores."""

    name = "grpo"
    config_class: ClassVar[type[GRPOConfig]] = GRPOConfig


class DrGRPOTrainer(PolicyGradientTrainer):
    """Clipped steps on centred group scores."""

    name = "dr_grpo"
    config_class: ClassVar[type[DrGRPOConfig]] = DrGRPOConfig
