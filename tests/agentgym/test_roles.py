"""Several roles in one episode: rewards and ends by hand, and self-play through `collect`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.chat import Conversation
from agentgym.core import TurnOutput, TurnRequest
from agentgym.policy import oracle_policy, random_policy
from agentgym.roles import by_role
from agentgym.rollout import RolloutConfig, collect, make_env
from agentgym.types import NO_TOKENS, Completion, EndReason, Source, Task, Trajectory, Turn

GAME = "agentgym/tic_tac_toe-v0"


def turn(number: int, reward: float = 0.0, **info: Any) -> Turn:
    return Turn(
        f"seen {number}",
        np.zeros(0, np.int32),
        False,
        None,
        f"said {number}",
        reward=reward,
        info=info,
    )


def episode(turns: Sequence[Turn], end: EndReason, outcome: float | None) -> Trajectory:
    *before, last = turns
    over = end in (EndReason.SUCCESS, EndReason.FAILURE)
    limited = end is EndReason.TURN_LIMIT
    last = Turn(
        last.observation,
        last.prompt_ids,
        last.extends,
        None,
        last.text,
        reward=last.reward,
        terminated=over,
        truncated=limited,
        info=last.info,
    )
    return Trajectory(
        "test/00000", Task("game", 3), (*before, last), end, outcome, group_id="game#3"
    )


def test_without_roles_nothing_changes() -> None:
    whole = episode([turn(0), turn(1, 1.0)], EndReason.SUCCESS, 1.0)
    assert by_role(whole, ["", ""])[0] is whole
    empty = Trajectory("test/00000", Task("game", 3), (), EndReason.ENV_ERROR, None)
    assert by_role(empty, [])[0] is empty


def test_a_loss_reaches_the_loser() -> None:
    whole = episode(
        [
            turn(0, 0.0, rewards={"a": 0.0, "b": 0.0}),
            turn(1, -0.5, rewards={"a": 0.25, "b": -0.5}),  # b errs, to a's profit,
            turn(2, 0.0, rewards={"a": 0.0, "b": 0.0}),  # and moves then
            turn(3, 1.0, rewards={"a": 1.0, "b": -1.0}, outcomes={"a": 1.0, "b": 0.0}),
        ],
        EndReason.SUCCESS,
        1.0,
    )
    a, b = by_role(whole, ["a", "b", "b", "a"])
    assert ([t.text for t in a.turns], [t.reward for t in a.turns]) == (
        ["said 0", "said 3"],
        [0.25, 1.0],
    )
    assert ([t.text for t in b.turns], [t.reward for t in b.turns]) == (
        ["said 1", "said 2"],
        [-0.5, -1.0],
    )
    assert (a.id, a.group_id, a.metadata["role"]) == ("test/00000.a", "game#3.a", "a")
    assert (a.end, a.outcome, a.turns[-1].terminated) == (EndReason.SUCCESS, 1.0, True)
    assert (b.end, b.outcome, b.turns[-1].terminated) == (EndReason.FAILURE, 0.0, True)
    assert [t.terminated for t in a.turns] == [False, True]


def test_a_draw_is_half_a_success() -> None:
    drawn = [turn(0), turn(1, outcomes={"a": 0.5, "b": 0.5})]
    for part in by_role(episode(drawn, EndReason.FAILURE, 0.0), ["a", "b"]):
        assert (part.end, part.outcome, part.success) == (EndReason.FAILURE, 0.5, False)


def test_a_limit_cuts_every_role_and_a_break_scores_none() -> None:
    turns = [turn(0, 0.5), turn(1, 0.25)]
    for part in by_role(episode(turns, EndReason.TURN_LIMIT, 0.0), ["a", "b"]):
        assert (part.end, part.outcome, part.truncated) == (EndReason.TURN_LIMIT, 0.0, True)
    a, b = by_role(episode(turns, EndReason.ENV_ERROR, None), ["a", "b"])
    assert (a.outcome, b.outcome, a.end) == (None, None, EndReason.ENV_ERROR)
    assert (a.reward, b.reward) == (0.5, 0.25)  # without `rewards` the actor's own


class Script:
    """Answers the first free cell; keeps what each conversation has been shown."""

    name, source, concurrency = "script", Source.POLICY, 1
    consult: Callable[[gym.Env[Any, Any]], str] | None = None

    def __init__(self) -> None:
        self.made = 0
        self.shown: list[tuple[int, list[str]]] = []

    def conversation(self, env: gym.Env[Any, Any]) -> Conversation:
        self.made += 1
        return Conversation(None, f"number {self.made}")

    def act(self, requests: Sequence[TurnRequest]) -> list[TurnOutput]:
        outputs = []
        for request in requests:
            messages = request.conversation.prompt().messages
            board = messages[-1].content
            self.shown.append((int(messages[0].content.split()[-1]), [m.role for m in messages]))
            answer = next(d for d in "123456789" if f" {d} " in f" {board} ".replace("\n", " "))
            request.conversation.reply(answer, None)
            outputs.append(TurnOutput(Completion(answer, None), NO_TOKENS, False))
        return outputs


def selfplay(policy: Any, seeds: Sequence[int], **config: Any) -> list[Trajectory]:
    return collect(
        [Task(GAME, seed) for seed in seeds],
        policy,
        RolloutConfig(**config),
        make=partial(make_env, opponent="self"),
        metadata={"phase": "play"},
    )


def test_self_play_makes_a_trajectory_for_each_role() -> None:
    policy = Script()
    first, second = selfplay(policy, [0])
    # O takes 1 3 5 7 and X 2 4 6: the line 3 5 7 wins.
    assert (first.id, second.id) == ("rollout/00000.O", "rollout/00000.X")
    assert [t.text for t in first.turns] == ["1", "3", "5", "7"]
    assert [t.text for t in second.turns] == ["2", "4", "6"]
    assert (first.outcome, second.outcome) == (1.0, 0.0)
    assert [t.reward for t in first.turns] == [0.0, 0.0, 0.0, 1.0]
    assert [t.reward for t in second.turns] == [0.0, 0.0, -1.0]
    assert second.metadata == {"phase": "play", "role": "X"}
    assert first.final_observation == second.final_observation
    # Two conversations, each with its own messages alone: system, then user and assistant.
    assert policy.made == 2
    assert [number for number, _ in policy.shown] == [1, 2, 1, 2, 1, 2, 1]
    assert [len(roles) for _, roles in policy.shown] == [2, 2, 4, 4, 6, 6, 8]
    assert "It is X's turn" in second.turns[0].observation


def test_trajectories_come_in_the_order_of_the_tasks_and_bit_identical() -> None:
    seen: list[str] = []
    again = [
        collect(
            [Task(GAME, seed) for seed in range(5)],
            random_policy(),
            RolloutConfig(num_envs=slots),
            make=partial(make_env, opponent="self"),
            on_trajectory=lambda t: seen.append(t.id),
        )
        for slots in (2, 5)
    ]
    assert again[0] == again[1]
    ids = [t.id for t in again[0]]
    assert ids == [f"rollout/{n:05d}.{role}" for n in range(5) for role in "OX"]
    assert sorted(seen) == sorted(ids * 2)
    for o, x in zip(again[0][::2], again[0][1::2], strict=True):
        assert o.outcome is not None
        assert x.outcome == 1 - o.outcome
        assert o.reward == -x.reward


def test_a_scripted_opponent_leaves_one_trajectory() -> None:
    (only,) = collect([Task(GAME, 0, options={"role": "X"})], oracle_policy())
    assert (only.id, only.metadata["role"]) == ("rollout/00000.X", "X")
    assert only.outcome in (0.5, 1.0)


def test_limits_of_turns_count_both_roles() -> None:
    o, x = selfplay(Script(), [0], max_turns=3)
    assert (len(o.turns), len(x.turns)) == (2, 1)
    assert {o.end, x.end} == {EndReason.TURN_LIMIT}
    assert (o.truncated, x.truncated) == (True, True)


@pytest.mark.parametrize("game", ["agentgym/breakthrough-v0", "agentgym/chess_endgames-v0"])
def test_other_games_can_be_played_against_oneself(game: str) -> None:
    parts = collect(
        [Task(game, 1, options={"opponent": "self"})], oracle_policy(), RolloutConfig(max_turns=60)
    )
    assert len(parts) == 2
    assert sum(part.outcome or 0.0 for part in parts) == 1.0
