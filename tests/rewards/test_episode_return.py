import math

import pytest

from agentgym.errors import ConfigError
from agentgym.rewards.episode_return import EpisodeReturn
from agentgym.types import NO_TOKENS, EndReason, Task, Trajectory, Turn


def episode(*rewards: float, end: EndReason = EndReason.TURN_LIMIT) -> Trajectory:
    turns = tuple(Turn("", NO_TOKENS, False, None, "", reward=reward) for reward in rewards)
    outcome = 0.0 if end.is_agents else None
    return Trajectory("e", Task("agentgym/none-v0", 0), turns, end, outcome)


@pytest.mark.parametrize(
    ("rewards", "score"),
    [
        ((), 0.25),  # (0 - -1) / (3 - -1)
        ((1.0, 1.0), 0.75),  # (2 + 1) / 4
        ((-1.0,), 0.0),
        ((-5.0,), 0.0),  # clipped
        ((2.0, 2.0), 1.0),  # clipped
    ],
)
def test_the_return_is_scaled_and_clipped(rewards: tuple[float, ...], score: float) -> None:
    assert EpisodeReturn(low=-1.0, high=3.0)([episode(*rewards)])[0].score == score


def test_broken_episodes_have_no_score_whatever_they_earned() -> None:
    (verdict,) = EpisodeReturn()([episode(1.0, end=EndReason.ENV_TIMEOUT)])
    assert verdict.score is None
    assert "env_timeout" in verdict.reason


def test_a_return_that_is_no_number_has_no_score() -> None:
    (verdict,) = EpisodeReturn()([episode(math.nan)])
    assert verdict.score is None


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1)])
def test_a_scale_without_length_is_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="low must be below high"):
        EpisodeReturn(low=low, high=high)
