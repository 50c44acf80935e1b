"""The records: what their derived properties say, and that nobody changes them."""

import dataclasses

import numpy as np
import pytest

from agentgym.types import NO_TOKENS, EndReason, Image, Source, Task, Trajectory, Turn


def turn(reward: float = 0.0, truncated: bool = False) -> Turn:
    return Turn(
        observation="o",
        prompt_ids=NO_TOKENS,
        extends=False,
        action_ids=None,
        text="t",
        reward=reward,
        truncated=truncated,
    )


def trajectory(*turns: Turn, outcome: float | None = None) -> Trajectory:
    return Trajectory("id", Task("env", 1), turns, EndReason.FAILURE, outcome)


def test_the_agent_answers_for_four_ends_and_no_others() -> None:
    agents = {reason for reason in EndReason if reason.is_agents}
    assert agents == {
        EndReason.SUCCESS,
        EndReason.FAILURE,
        EndReason.TURN_LIMIT,
        EndReason.TOKEN_LIMIT,
    }
    assert len(EndReason) == 10


def test_enums_are_their_text() -> None:
    assert EndReason("env_error") is EndReason.ENV_ERROR
    assert f"{Source.EXPERT}" == "expert"


def test_a_task_is_named_by_environment_and_seed() -> None:
    assert Task("agentgym/miniwob.click-test-v0", 17).id == "agentgym/miniwob.click-test-v0#17"


def test_equal_tasks_are_equal() -> None:
    assert Task("env", 1, options={"a": 1}) == Task("env", 1, options={"a": 1})
    assert Task("env", 1) != Task("env", 2)


def test_the_reward_is_the_sum_over_turns() -> None:
    assert trajectory().reward == 0.0
    assert trajectory(turn(0.5), turn(-1.0)).reward == -0.5


@pytest.mark.parametrize(
    ("outcome", "success"), [(None, False), (0.0, False), (0.99, False), (1.0, True)]
)
def test_success_is_a_full_outcome(outcome: float | None, success: bool) -> None:
    assert trajectory(outcome=outcome).success is success


def test_only_the_last_turn_says_whether_a_trajectory_is_truncated() -> None:
    assert not trajectory().truncated
    assert not trajectory(turn(truncated=True), turn()).truncated
    assert trajectory(turn(), turn(truncated=True)).truncated


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory().id = "other"  # type: ignore[misc]
    assert not NO_TOKENS.flags.writeable
    assert NO_TOKENS.dtype == np.int32


def test_pictures_are_equal_by_content_and_times_do_not_count() -> None:
    assert Image("ab", b"png") == Image("ab", None)
    assert b"png" not in repr(Image("ab", b"png")).encode()
    fast, slow = (dataclasses.replace(turn(), cost={"env_s": s}) for s in (0.1, 9.0))
    assert fast == slow
