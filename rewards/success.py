"""The environment's own outcome as a verdict."""

from collections.abc import Sequence

from agentgym.types import Trajectory, Verdict


class Success:
    """Scores an episode with the outcome that its environment gave it.

    The smallest reward, and the one to copy. An episode without an outcome (the environment broke,
    the server was down) stays without a score.

    Example:
        >>> from agentgym.types import EndReason, Task
        >>> won = Trajectory("a", Task("maze", 0), (), EndReason.SUCCESS, outcome=1.0)
        >>> broken = Trajectory("b", Task("maze", 1), (), EndReason.ENV_ERROR, outcome=None)
        >>> [verdict.score for verdict in Success()([won, broken])]
        [1.0, None]
    """

    name = "success"

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """One verdict for each trajectory, in order."""
        return [
            Verdict(
                score=trajectory.outcome,
                judge=self.name,
                reason=trajectory.error or f"ended by {trajectory.end}",
            )
            for trajectory in trajectories
        ]
