"""ArCHer without new episodes: an IQL critic of whole turns, and a policy extracted from it.

Source: Zhou et al. 2024, https://arxiv.org/abs/2402.19446, section 5.4 and appendix; Kostrikov et
al. 2021 (IQL), https://arxiv.org/abs/2110.06169; Peng et al. 2019 (AWR),
https://arxiv.org/abs/1910.00177.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agentgym.config import variants
from agentgym.errors import ConfigError
from agentgym.losses import expectile_loss
from agentgym.replay import Transition
from agentgym.trainers.archer import ArcherConfig, ArcherTrainer
from agentgym.trainers.policy_gradient import Variant
from agentgym.types import Source, Trajectory


@variants(released={"weight_limit": 0.0})
@dataclass(frozen=True)
class OfflineArcherConfig(ArcherConfig):
    """How to learn from given episodes alone."""

    learning_rate: float = 1e-4
    """As of `PolicyGradientConfig`."""
    discount: float = 0.99
    """Per turn."""
    critic_learning_rate: float = 1e-5
    """Constant."""
    target_rate: float = 0.05
    """How far the target critic follows at the end of an update's critic steps."""
    expectile: float = 0.9
    """Level of the expectile of Q that V learns, in (0, 1): 0.5 values the data's own actions, 1
    the best of them."""
    extraction: Literal["awr", "reinforce"] = "awr"
    """"awr": the data's actions are cloned, each weighed by exp(inverse_temperature A).
    "reinforce": fresh actions are weighed by A, as online; the paper finds that this collapses
    unless `kl_coefficient` keeps the policy where it began."""
    inverse_temperature: float = 1.0
    """Of "awr"; 0 is plain cloning."""
    weight_limit: float = 20.0
    """Most that an action weighs in "awr"; 0 has no limit."""
    variant: Variant = "paper"
    """"released" sets `weight_limit` 0: a few actions then outweigh all others."""

    def __post_init__(self) -> None:
        ArcherConfig.__post_init__(self)
        if not 0 < self.expectile < 1 or self.inverse_temperature < 0 or self.weight_limit < 0:
            raise ConfigError(
                "need expectile in (0, 1), inverse_temperature and weight_limit not negative, got "
                f"{self.expectile!r}, {self.inverse_temperature!r} and {self.weight_limit!r}"
            )
        if self.extraction == "awr" and (self.token_baseline or self.kl_coefficient):
            raise ConfigError(
                "token_baseline and kl_coefficient are of fresh actions; they need "
                "extraction='reinforce'"
            )


class OfflineArcherTrainer(ArcherTrainer):
    """The given episodes are the buffer, whoever played them; none of their actions is new.

    Q learns from V as online; V learns an upper expectile of Q over the data's own actions, so that
    no action outside the data is ever valued. An update takes `critic_steps` and then
    `actor_steps`; with `warmup_updates` the first ones train the critic alone.

    A run learns offline if its recipe names a `dataset`.

    Args:
        model: as for `ArcherTrainer`.
        tokenizer: likewise.
        config: see `OfflineArcherConfig`.
    """

    name = "archer_offline"
    config_class: ClassVar[type[OfflineArcherConfig]] = OfflineArcherConfig
    config: OfflineArcherConfig
    sources: ClassVar[frozenset[Source]] = frozenset(Source)

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Begin an update on these episodes; those of earlier updates are forgotten."""
        self.replay.clear()
        super().start(trajectories)

    def _followed(self, batch: Sequence[Transition], keys: Sequence[tuple[Any, ...]]) -> Tensor:
        """(2, B) target Q of the data's actions, whose expectile is what V learns."""
        states, actions = [t.state for t in batch], [t.action for t in batch]
        found: Tensor = self.target.q(*self._features(self.target, states, actions))
        return found

    def _value_loss(self, errors: Tensor) -> Tensor:
        return expectile_loss(errors, self.config.expectile)

    def _make_rows(self) -> None:
        """States with their weights: the data's actions, or fresh ones."""
        if self.config.extraction == "reinforce":
            super()._make_rows()
            return
        drawn = self._draw("actor", self._position, self.config.batch_size)

        def compute(places: Sequence[int]) -> list[float]:
            batch = [self.replay[drawn[p]] for p in places]
            return self._advantages([t.state for t in batch], [t.action for t in batch])

        advantages = np.array(self._together(len(drawn), compute))
        weights = self._weights(advantages)
        self._sum("advantage", torch.tensor(advantages.sum()), len(drawn))
        self._sum("advantage_size", torch.tensor(np.abs(advantages).sum()), len(drawn))
        self._remember(advantages)
        self._sum("weight", torch.tensor(weights.sum()), len(drawn))
        self._take([(self.replay[i].state, self.replay[i].action) for i in drawn], weights)

    def _weights(self, advantages: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(B,) what each of the data's actions weighs; never infinite."""
        limit = self.config.weight_limit or float(np.finfo(np.float32).max)
        exponents = self.config.inverse_temperature * advantages
        weights: np.ndarray[Any, Any] = np.exp(np.minimum(exponents, math.log(limit)))
        return weights.astype(np.float32)
