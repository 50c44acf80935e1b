"""Episodes in which a policy plays several roles, taken apart: one trajectory for each role."""

from collections.abc import Sequence
from dataclasses import replace

from agentgym.types import EndReason, Trajectory, Turn


def by_role(episode: Trajectory, roles: Sequence[str]) -> list[Trajectory]:
    """The trajectory of each role, in the order in which they first acted.

    The environment says in its info whose turn it is (``role``), what each role got in a step
    (``rewards``) and, when the game has ended, how each came off (``outcomes``, 1 won, 0 lost, 0.5
    a draw). A reward that a role gets while another acts counts for its own last turn before: so
    does a lost game reach who moved second to last.

    Args:
        episode: all turns, in the order in which they were played.
        roles: (N,) who acted in each; all empty if the environment names no roles.

    Returns:
        The episode itself if there are no roles. Otherwise one trajectory a role, with the role's
        name appended to `id` and `group_id` (equal tasks are compared role by role) and as ``role``
        in `metadata`. Where the episode ended by itself, `end` and `outcome` are the role's own.
    """
    if not any(roles):
        return [episode]
    return [_part(episode, roles, role) for role in dict.fromkeys(roles)]


def _part(episode: Trajectory, roles: Sequence[str], role: str) -> Trajectory:
    turns: list[Turn] = []
    for turn, actor in zip(episode.turns, roles, strict=True):
        reward = _reward(turn, role, own=actor == role)
        if actor == role:
            turns.append(replace(turn, reward=reward))
        elif turns and reward:
            turns[-1] = replace(turns[-1], reward=turns[-1].reward + reward)
    last = episode.turns[-1]
    turns[-1] = replace(turns[-1], terminated=last.terminated, truncated=last.truncated)
    end, outcome = episode.end, episode.outcome
    outcomes = last.info.get("outcomes", {})
    if end in (EndReason.SUCCESS, EndReason.FAILURE) and role in outcomes:
        outcome = float(outcomes[role])
        end = EndReason.SUCCESS if outcome >= 1.0 else EndReason.FAILURE
    return replace(
        episode,
        id=f"{episode.id}.{role}",
        turns=tuple(turns),
        end=end,
        outcome=outcome,
        group_id=f"{episode.group_id}.{role}",
        final_prompt_ids=None,  # it was another role's, maybe
        metadata={**episode.metadata, "role": role},
    )


def _reward(turn: Turn, role: str, own: bool) -> float:
    """What a role got in a step; where the environment tells no rewards, the actor's alone."""
    rewards = turn.info.get("rewards")
    if rewards is None or role not in rewards:
        return turn.reward if own else 0.0
    return turn.reward if own else float(rewards[role])
