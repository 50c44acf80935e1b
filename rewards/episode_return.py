"""The sum of the environment's rewards, scaled to a score."""

import math
from collections.abc import Sequence

from agentgym.errors import ConfigError
from agentgym.types import Trajectory, Verdict


class EpisodeReturn:
    """Scores an episode with the sum of its rewards, mapped linearly and clipped to [0, 1].

    For environments whose reward says more than their outcome: partial credit, points, a penalty
    for time. An episode that ended for a reason that is not the agent's has no score.

    Args:
        low: the return that scores 0, in units of reward.
        high: the return that scores 1.

    Raises:
        ConfigError: `low` and `high` are not finite, or not in order.

    Example:
        >>> from agentgym.types import NO_TOKENS, EndReason, Task, Turn
        >>> turns = tuple(Turn("", NO_TOKENS, False, None, "", reward=r) for r in (-1.0, 3.0))
        >>> episode = Trajectory("a", Task("maze", 0), turns, EndReason.TURN_LIMIT, outcome=0.0)
        >>> EpisodeReturn(high=4.0)([episode])[0].score
        0.5
    """

    name = "episode_return"

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"low must be below high, both finite, got {low!r} and {high!r}")
        self.low = low
        self.high = high

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """One verdict for each trajectory, in order."""
        return [self._judge(trajectory) for trajectory in trajectories]

    def _judge(self, trajectory: Trajectory) -> Verdict:
        if not trajectory.end.is_agents:
            return Verdict(None, self.name, trajectory.error or f"ended by {trajectory.end}")
        total = trajectory.reward
        if not math.isfinite(total):
            return Verdict(None, self.name, f"the return is {total}")
        score = (total - self.low) / (self.high - self.low)
        reason = f"return {total:g} on the scale from {self.low:g} to {self.high:g}"
        return Verdict(min(1.0, max(0.0, score)), self.name, reason)
