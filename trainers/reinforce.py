"""REINFORCE: the score times the gradient of the log-probability.

Source: Williams 1992, https://doi.org/10.1007/BF00992696.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from agentgym.advantages import Array, Baseline, returns_to_go, whiten
from agentgym.trainers.policy_gradient import PolicyGradientConfig, PolicyGradientTrainer
from agentgym.types import Trajectory


@dataclass(frozen=True)
class ReinforceConfig(PolicyGradientConfig):
    """How to follow the plain gradient."""

    baseline: Baseline = "none"
    """Nothing is taken off; "mean" and "leave_one_out" compare inside groups."""
    whiten: bool = True
    """Shift and scale the advantages of all turns of an update to mean 0 and deviation 1, the
    baseline of a batch (REINFORCE++, Hu 2025, https://arxiv.org/abs/2501.03262)."""
    credit: Literal["episode", "turn"] = "episode"
    """"episode": every turn gets the episode's score. "turn": every turn gets what followed it,
    its rewards from then on (`score` must be "return")."""


class ReinforceTrainer(PolicyGradientTrainer):
    """Follows the gradient of the score, whitened over the batch."""

    name = "reinforce"
    config_class: ClassVar[type[ReinforceConfig]] = ReinforceConfig
    config: ReinforceConfig

    def advantages(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """Scores or returns, whitened over all turns."""
        if self.config.credit == "turn":
            found = [
                returns_to_go([turn.reward for turn in t.turns], self.config.discount)
                for t in trajectories
            ]
        else:
            found = super().advantages(trajectories)
        if not self.config.whiten:
            return found
        flat = whiten(np.concatenate(found))
        return list(np.split(flat, np.cumsum([len(part) for part in found])[:-1]))
