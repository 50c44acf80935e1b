"""LOOP: clipped steps, several times over the same episodes, on a leave-one-out baseline.

Source: Chen et al. 2025, https://arxiv.org/abs/2502.01600, section 4 and algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agentgym.config import variants
from agentgym.trainers.policy_gradient import (
    PolicyGradientConfig,
    PolicyGradientTrainer,
    Variant,
)


@variants(released={"reciprocal_clip": True, "max_grad_norm": 0.1})
@dataclass(frozen=True)
class LOOPConfig(PolicyGradientConfig):
    """How to take several steps on the same episodes without a critic and without a reference."""

    epochs: int = 2
    """Passes over the rows of one update."""
    clip_low: float = 0.1
    """As of `PolicyGradientConfig`."""
    clip_high: float = 0.1
    """As of `PolicyGradientConfig`."""
    drop_below: float = 0.01
    """Episodes this close to their group's others are passed over."""
    old_logprobs: Literal["auto", "sampled", "recomputed"] = "recomputed"
    """As in the released code, which trusts no sampler's numbers."""
    variant: Variant = "paper"
    """"released" sets `reciprocal_clip` true (the ratio is clipped to [1 / (1 + clip_low),
    1 + clip_high]) and `max_grad_norm` 0.1; in the paper the clip is PPO's and the norm 1."""


class LOOPTrainer(PolicyGradientTrainer):
    """PPO with leave-one-out advantages; `ratio` "token" is the one that the paper prefers."""

    name = "loop"
    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
