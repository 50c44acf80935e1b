"""What holds for every registered reward: order, length, range, and `None` that stays `None`."""

from collections.abc import Mapping
from typing import Any

import pytest

from agentgym.core import Reward
from agentgym.registry import REWARDS
from agentgym.types import NO_TOKENS, EndReason, Task, Trajectory, Turn, Verdict

# Arguments of those that need some.
ARGUMENTS: dict[str, Mapping[str, Any]] = {
    "yes_no": {"model": "tiny", "dtype": "float32", "device": "cpu"},
}


def episode(index: int, end: EndReason, outcome: float | None, *rewards: float) -> Trajectory:
    turns = tuple(
        Turn(f"page {i}", NO_TOKENS, False, None, "", reward=r) for i, r in enumerate(rewards)
    )
    return Trajectory(f"episode-{index}", Task("agentgym/none-v0", index), turns, end, outcome)


EPISODES = [
    episode(0, EndReason.SUCCESS, 1.0, 0.0, 1.0),
    episode(1, EndReason.FAILURE, 0.0, -1.0),
    episode(2, EndReason.ENV_ERROR, None, 1.0),
    episode(3, EndReason.TURN_LIMIT, 0.25, 0.25, 0.0, 0.0),
    episode(4, EndReason.INFERENCE_ERROR, None),
    episode(5, EndReason.TOKEN_LIMIT, 0.0, 7.0),
    episode(6, EndReason.SUCCESS, 1.0, 1e6),
]


@pytest.fixture(params=list(REWARDS))
def reward(request: pytest.FixtureRequest) -> Reward:
    made: Reward = REWARDS.get(request.param)(**ARGUMENTS.get(request.param, {}))
    assert made.name == request.param
    return made


def test_the_registry_is_filled() -> None:
    assert {"success", "episode_return"} <= set(REWARDS)
    assert all(REWARDS.doc(name) for name in REWARDS)


def test_one_verdict_each_in_order(reward: Reward) -> None:
    verdicts = reward(EPISODES)
    assert [type(verdict) for verdict in verdicts] == [Verdict] * len(EPISODES)
    assert reward(EPISODES[::-1]) == verdicts[::-1], "a verdict hangs on the order of the batch"
    assert [reward([episode])[0] for episode in EPISODES] == verdicts, "or on the batch"


def test_scores_lie_between_0_and_1(reward: Reward) -> None:
    scores = [verdict.score for verdict in reward(EPISODES)]
    assert all(0.0 <= score <= 1.0 for score in scores if score is not None)
    assert any(score is not None for score in scores)


def test_what_the_agent_is_not_to_blame_for_has_no_score(reward: Reward) -> None:
    for trajectory, verdict in zip(EPISODES, reward(EPISODES), strict=True):
        if not trajectory.end.is_agents:
            assert verdict.score is None, trajectory.end


def test_turn_scores_are_none_or_one_each(reward: Reward) -> None:
    for trajectory, verdict in zip(EPISODES, reward(EPISODES), strict=True):
        assert len(verdict.turn_scores) in (0, len(trajectory.turns))


def test_verdicts_name_their_judge_and_say_why(reward: Reward) -> None:
    assert all(v.judge == reward.name and v.reason for v in reward(EPISODES))


def test_an_empty_batch_is_fine(reward: Reward) -> None:
    assert reward([]) == []
