"""What games for two share: sides, replaced opponents, self-play, snapshots."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.tic_tac_toe import TicTacToeEnv
from agentgym.environments.text.two_player import ILLEGAL
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.forks import fork
from agentgym.players import PlayerTurn


class Scripted:
    """A player that answers by a function."""

    name = "scripted"

    def __init__(self, answer: Callable[[PlayerTurn], str]) -> None:
        self.respond = answer
        self.turns: list[PlayerTurn] = []

    def answer(self, turn: PlayerTurn) -> str:
        self.turns.append(turn)
        return self.respond(turn)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Scripted":
        return self


def first_free(turn: PlayerTurn) -> str:
    return f"I think.\n{turn.facts['moves'][0]}"


def test_a_player_sees_the_game_and_answers_on_its_last_line() -> None:
    player = Scripted(first_free)
    env = TicTacToeEnv(opponent=player)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step("5")
    assert env.position.cells == "X...O...."
    assert observation["text"].endswith("X took cell 1. It is O's turn.")
    (turn,) = player.turns
    assert (turn.role, turn.facts["position"]) == ("X", "....O....")
    assert "You play X" in turn.instructions
    assert turn.messages[-1].content.endswith("O took cell 5. It is X's turn.")
    assert json.loads(json.dumps(dict(turn.facts))) == turn.facts
    assert (reward, info["role"], info["rewards"]) == (0.0, "O", {"O": 0.0, "X": 0.0})


def test_a_player_may_begin_and_win() -> None:
    env = TicTacToeEnv(opponent=Scripted(first_free), role="X")
    _, info = env.reset(seed=0)
    assert (env.position.cells, info["role"]) == ("O........", "X")
    env.step("4")  # it takes 2
    _, reward, terminated, _, info = env.step("5")  # and 3
    assert (reward, terminated, info["success"], info["role"]) == (-1.0, True, False, "X")
    assert info["rewards"] == {"O": 1.0, "X": -1.0}
    assert info["outcomes"] == {"O": 1.0, "X": 0.0}
    assert info["admissible_actions"] == []


def test_a_babbling_player_is_the_environments_failure() -> None:
    player = Scripted(lambda turn: "let me see")
    env = TicTacToeEnv(opponent=player)
    env.reset(seed=0)
    with pytest.raises(EnvFailureError, match="no usable answer in 3 attempts"):
        env.step("5")
    assert len({turn.seed for turn in player.turns}) == 3
    player.respond = first_free  # the agent's move was not made either
    assert env.step("5")[2] is False
    assert env.position.cells == "X...O...."


def test_a_player_that_takes_too_long_is_the_environments_failure() -> None:
    def late(turn: PlayerTurn) -> str:
        raise TimeoutError("no answer within 60 s")

    env = TicTacToeEnv(opponent=Scripted(late))
    env.reset(seed=0)
    with pytest.raises(EnvFailureError, match="scripted as X failed"):
        env.step("5")


def test_self_play_shows_each_role_in_turn() -> None:
    env = TicTacToeEnv(opponent="self")
    _, info = env.reset(seed=0)
    roles = [info["role"]]
    for move in "14253":
        _, reward, terminated, _, info = env.step(move)
        roles.append(info["role"])
    assert roles[:5] == ["O", "X", "O", "X", "O"]
    assert (reward, terminated) == (1.0, True)
    assert info["rewards"] == {"O": 1.0, "X": -1.0}
    assert info["outcomes"] == {"O": 1.0, "X": 0.0}


def test_in_self_play_who_errs_pays_and_is_still_to_move() -> None:
    env = TicTacToeEnv(opponent="self")
    env.reset(seed=0)
    env.step("1")
    for text in ("1", ""):
        _, reward, terminated, _, info = env.step(text)
        assert (reward, terminated, info["role"]) == (ILLEGAL, False, "X")
        assert info["rewards"] == {"O": 0.0, "X": ILLEGAL}
    assert env.step("2")[4]["rewards"] == {"O": 0.0, "X": 0.0}


def test_sides_can_be_drawn() -> None:
    env = TicTacToeEnv(role="random")
    roles = [env.reset(seed=seed)[1]["role"] for seed in range(40)]
    assert roles == [env.reset(seed=seed)[1]["role"] for seed in range(40)]
    assert 8 < roles.count("X") < 32


def test_options_hold_for_one_episode() -> None:
    env = TicTacToeEnv()
    _, info = env.reset(seed=0, options={"role": "X", "opponent": "minimax"})
    assert (info["role"], env.position.cells.count("O")) == ("X", 1)
    assert env.reset(seed=0, options={"opponent": "self"})[1]["role"] == "O"
    assert env.self_play
    env.reset(seed=0)
    assert (env.self_play, env.role) == (False, "O")


def test_a_snapshot_keeps_sides_and_opponent() -> None:
    env = gym.make("agentgym/tic_tac_toe-v0")
    env.reset(seed=0, options={"role": "X", "opponent": "self"})
    env.step("1")
    copy = fork(env)
    for move in ("1", "5", "2"):
        assert copy.step(move) == env.step(move)
    env = gym.make("agentgym/tic_tac_toe-v0", opponent=Scripted(first_free))
    env.reset(seed=0)
    copy = fork(env)
    for move in ("5", "9"):
        assert copy.step(move) == env.step(move)


@pytest.mark.parametrize(
    "arguments", [{"opponent": "god"}, {"opponent": 3}, {"role": "Z"}, {"mode": "new"}]
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TicTacToeEnv(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponent": "god"}, "opponent must be one of"),
        ({"role": "Z"}, "role must be one of"),
        ({"side": "X"}, "options are"),
        ({"position": "OOOXX...."}, "must not be over"),
        # X begins with its winning move, 6.
        ({"position": "OO.XX..O.", "opponent": "minimax"}, "wins with its first move"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TicTacToeEnv().reset(seed=0, options=options)
