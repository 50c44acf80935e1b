"""Transitions and the buffer."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agentgym import checkpoint
from agentgym.replay import ReplayBuffer, Transition, transitions
from agentgym.types import EndReason, Task, Trajectory, Turn


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.fixture
def episode() -> Trajectory:
    turns = (
        Turn("a", ids(1, 2), False, ids(3), "x", reward=-1.0),
        Turn("b", ids(4), True, ids(5, 6), "y", reward=-1.0, parsed=False),
        Turn("c", ids(7, 8), False, ids(9), "z", reward=4.0),
    )
    return Trajectory("e", Task("agentgym/x-v0", 1), turns, EndReason.SUCCESS, 1.0)


def shown(found: list[Transition]) -> list[tuple[list[int], list[int], float, list[int] | None]]:
    return [
        (
            t.state.tolist(),
            t.action.tolist(),
            t.reward,
            None if t.next_state is None else t.next_state.tolist(),
        )
        for t in found
    ]


def earned(episode: Trajectory) -> list[Transition]:
    return list(transitions(episode, [turn.reward for turn in episode.turns]).values())


def test_turns_become_transitions_between_whole_contexts(episode: Trajectory) -> None:
    found = earned(episode)
    assert shown(found) == [
        ([1, 2], [3], -1.0, [1, 2, 3, 4]),
        ([1, 2, 3, 4], [5, 6], -1.0, [7, 8]),  # the third turn's context was rewritten
        ([7, 8], [9], 4.0, None),
    ]


@pytest.mark.parametrize("end", [EndReason.TURN_LIMIT, EndReason.TOKEN_LIMIT])
def test_a_cut_episode_goes_on_to_where_it_led(episode: Trajectory, end: EndReason) -> None:
    """Or loses its last turn, where that is not on record."""
    found = earned(dataclasses.replace(episode, end=end))
    assert [t.next_state is None for t in found] == [False, False]
    known = dataclasses.replace(episode, end=end, final_prompt_ids=ids(7, 8, 9, 10))
    found = earned(known)
    assert len(found) == 3
    assert shown(found)[-1] == ([7, 8], [9], 4.0, [7, 8, 9, 10])


def test_what_a_judge_scored_has_ended(episode: Trajectory) -> None:
    judged = dataclasses.replace(episode, end=EndReason.UNJUDGED, outcome=0.5)
    assert shown(earned(judged))[-1] == ([7, 8], [9], 4.0, None)


def test_turns_without_tokens_are_left_out(episode: Trajectory) -> None:
    turns = (episode.turns[0], dataclasses.replace(episode.turns[1], action_ids=None))
    silent = dataclasses.replace(episode, turns=(*turns, episode.turns[2]))
    found = transitions(silent, [0.0, 0.0, 4.0])
    assert list(found) == [2]  # not the second, nor the first, whose next state is not known
    assert shown(list(found.values())) == [([7, 8], [9], 4.0, None)]


def test_the_buffer_forgets_the_oldest_and_survives_a_checkpoint(
    episode: Trajectory, tmp_path: Path
) -> None:
    buffer = ReplayBuffer(4)
    found = earned(episode)
    buffer.add(found)
    buffer.add(found)
    assert len(buffer) == 4
    assert shown(list(buffer)) == shown([found[2], *found])
    checkpoint.save(tmp_path, 1, buffer.state_dict())
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    other = ReplayBuffer(4)
    other.load_state_dict(saved.state)
    assert shown(list(other)) == shown(list(buffer))
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    assert buffer.draw(9, rng) == other.draw(9, again)
    assert shown([buffer[0]]) == shown([found[2]])
    assert set(buffer.draw(99, rng)) == {0, 1, 2, 3}
    empty = ReplayBuffer(4)
    empty.load_state_dict(ReplayBuffer(4).state_dict())
    assert len(empty) == 0
