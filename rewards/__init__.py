"""Rewards: one file a reward, each a callable from trajectories to verdicts, registered by name."""

from agentgym.registry import REWARDS

if __name__ != "agentgym.rewards":
    raise ImportError("import agentgym.rewards, not the bare folder name 'rewards'")


def register() -> None:
    """Register every reward by name; imports none of them."""
    REWARDS.register("success", "agentgym.rewards.success:Success", "the environment's own outcome")
    REWARDS.register(
        "episode_return",
        "agentgym.rewards.episode_return:EpisodeReturn",
        "the sum of the environment's rewards, scaled to [0, 1]",
    )
    REWARDS.register(
        "yes_no",
        "agentgym.rewards.yes_no:YesNo",
        "a language or vision-language model says whether the goal was reached",
    )
