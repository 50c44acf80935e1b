"""LOOP: clipped steps, several times over the same episodes, on a leave-one-out baseline.

Source: Chen et al. 2025, https://arxiv.org/abs/2502.01600, section 4 and algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentgym import seeding
from agentgym.advantages import Array, permuted
from agentgym.config import variants
from agentgym.trainers.policy_gradient import (
    PolicyGradientConfig,
    PolicyGradientTrainer,
    Variant,
)
from agentgym.types import Trajectory


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
    permute_scores: bool = False
    """A control: the scores of a group's episodes are dealt out again among them by chance. Groups,
    baselines and sizes of steps stay what they are, but nothing can be learned."""
    variant: Variant = "paper"
    """"released" sets `reciprocal_clip` true (the ratio is clipped to [1 / (1 + clip_low),
    1 + clip_high]) and `max_grad_norm` 0.1; in the paper the clip is PPO's and the norm 1."""


class LOOPTrainer(PolicyGradientTrainer):
    """PPO with leave-one-out advantages; `ratio` "token" is the one that the paper prefers."""

    name = "loop"
    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
    config: LOOPConfig

    def compared(self, scores: Sequence[float], trajectories: Sequence[Trajectory]) -> Array:
        """Scores against their groups; in the control, other episodes' scores."""
        if self.config.permute_scores:
            rng = seeding.generator(self.config.seed, "permute", self.updates)
            scores = permuted(scores, self.groups_of(trajectories), rng).tolist()
        return super().compared(scores, trajectories)
