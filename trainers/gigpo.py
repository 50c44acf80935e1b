"""GiGPO: episodes compared inside their group, and turns compared where episodes meet.

Source: Feng et al. 2025, https://arxiv.org/abs/2505.10978, section 4 and equations 3 to 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from agentgym.advantages import Array, Baseline, anchored_advantages
from agentgym.config import variants
from agentgym.errors import ConfigError
from agentgym.trainers.policy_gradient import (
    PolicyGradientConfig,
    PolicyGradientTrainer,
    Variant,
)
from agentgym.types import Trajectory


@variants(released={"average_over": "turns", "singleton": float("nan")})
@dataclass(frozen=True)
class GiGPOConfig(PolicyGradientConfig):
    """How to add credit for single turns without a critic."""

    baseline: Baseline = "mean"
    """Of the episodes' scores, inside their group."""
    discount: float = 0.95
    """Of the returns that turns are compared by."""
    omega: float = 1.0
    """Weight of the turn's advantage beside the episode's."""
    anchors: Literal["states", "unique"] = "states"
    """Where turns meet: at the states that the environment names, or ("unique") nowhere, as if no
    two turns had the same. That is the control: it must do no better than GRPO."""
    clip_low: float = 0.2
    """As of `PolicyGradientConfig`."""
    clip_high: float = 0.2
    """As of `PolicyGradientConfig`."""
    kl_coefficient: float = 0.01
    """As of `PolicyGradientConfig`."""
    average_over: Literal["episodes", "turns"] = "episodes"
    """What a group's mean score counts. Over turns an episode counts as often as it has turns, so
    that long ones weigh more and a group's advantages need not sum to 0."""
    variant: Variant = "paper"
    """"released" sets `average_over` turns and `singleton` NaN: what is alone in its group keeps
    its score as it is."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        if self.omega < 0:
            raise ConfigError(f"omega must not be negative, got {self.omega!r}")


class GiGPOTrainer(PolicyGradientTrainer):
    """Group-in-group comparison at the states that the environment names.

    Turns are compared where `Turn.state_key`, the environment's own name of the state before the
    turn, is equal inside a group: a text that looks the same is not taken for the same state. An
    environment that names no states leaves GRPO's advantages.
    """

    name = "gigpo"
    config_class: ClassVar[type[GiGPOConfig]] = GiGPOConfig
    config: GiGPOConfig

    def advantages(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """The episode's advantage plus omega times the turn's."""
        config = self.config
        turns = anchored_advantages(
            [self.rewards_of(t) for t in trajectories],
            self.groups_of(trajectories),
            [
                [turn.state_key if config.anchors == "states" else None for turn in t.turns]
                for t in trajectories
            ],
            discount=config.discount,
            scale=config.scale,
            ddof=config.ddof,
        )
        episodes = (
            super().advantages(trajectories)
            if config.average_over == "episodes"
            else self._over_turns(trajectories)
        )
        return [e + config.omega * t for e, t in zip(episodes, turns, strict=True)]

    def _over_turns(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """Episode scores, each as often as it has turns, compared inside their group."""
        counts = [len(t.turns) for t in trajectories]
        each = [t for t in trajectories for _ in t.turns]
        flat = self.compared([self.score_of(t) for t in each], each)
        return list(np.split(flat, np.cumsum(counts)[:-1]))
