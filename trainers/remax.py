"""ReMax: REINFORCE against what the greedy policy gets on the same task.

Source: Li et al. 2024, https://arxiv.org/abs/2310.10505, algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agentgym.advantages import Array
from agentgym.trainers.policy_gradient import PolicyGradientConfig, PolicyGradientTrainer
from agentgym.types import Trajectory


@dataclass(frozen=True)
class ReMaxConfig(PolicyGradientConfig):
    """How to follow the gradient against a greedy baseline: the defaults of its base."""


class ReMaxTrainer(PolicyGradientTrainer):
    """Each sampled episode is compared with a greedy one of the same task.

    The greedy episodes come with the others, marked by ``metadata["greedy"]``; a run collects one
    for each task because of `greedy_baseline`. Episodes whose greedy one is missing (the
    environment broke it) are left out.
    """

    name = "remax"
    config_class: ClassVar[type[ReMaxConfig]] = ReMaxConfig
    greedy_baseline: ClassVar[bool] = True

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Begin an update on this iteration's episodes and their greedy counterparts."""
        self._greedy = {
            t.task.id: self.score_of(t)
            for t in trajectories
            if t.metadata.get("greedy") and t.outcome is not None
        }
        sampled = [t for t in trajectories if not t.metadata.get("greedy")]
        compared = [t for t in sampled if t.outcome is None or t.task.id in self._greedy]
        super().start(compared)
        self._totals["without_baseline"] = float(len(sampled) - len(compared))

    def advantages(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """The score minus the greedy episode's, the same for all turns."""
        return [
            np.full(len(t.turns), self.score_of(t) - self._greedy[t.task.id]) for t in trajectories
        ]
