"""Tic-tac-toe: lines, draws, perfect play, both modes."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.tic_tac_toe import (
    LINES,
    Board,
    TicTacToeEnv,
    minimax,
    solve,
)
from agentgym.errors import ConfigError
from agentgym.forks import fork


def at(position: str, **arguments: object) -> TicTacToeEnv:
    env = TicTacToeEnv(**arguments)  # type: ignore[arg-type]
    env.reset(seed=0, options={"position": position})
    return env


def test_eight_lines_win() -> None:
    assert len(set(LINES)) == 8
    for line, sign in product(LINES, "OX"):
        cells = "".join(sign if cell in line else "." for cell in range(9))
        assert Board(cells).result() == (1 if sign == "O" else -1)
        assert Board(cells).moves() == ()
    assert Board("OXOOXXXOO").result() == 0
    assert Board("OX.......").result() is None


def test_golden_transcript_of_the_original() -> None:
    env = TicTacToeEnv(mode="original", opponent="self")
    observation, _ = env.reset(seed=0)
    assert observation["text"] == "1 | 2 | 3\n---------\n4 | 5 | 6\n---------\n7 | 8 | 9"
    for move in "152":
        observation, reward, terminated, _, info = env.step(move)
        assert (reward, terminated) == (0.0, False)
    assert observation["text"] == "O | O | 3\n---------\n4 | X | 6\n---------\n7 | 8 | 9"
    env.step("9")
    observation, reward, terminated, _, info = env.step("3")
    assert observation["text"] == "O | O | O\n---------\n4 | X | 6\n---------\n7 | 8 | X"
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_the_originals_reward_is_that_of_o() -> None:
    # X to move wins on 3.
    for mode, expected in (("original", -1.0), ("fixed", 1.0)):
        env = at("XX.OO...O", mode=mode, opponent="self")
        _, reward, terminated, _, info = env.step("3")
        assert (reward, terminated, info["success"]) == (expected, True, True)
        assert info["rewards"] == {"O": -1.0, "X": 1.0}


def test_the_fixed_text_says_what_happened() -> None:
    env = at("O........", opponent="self")
    assert env.render().endswith("\nIt is X's turn.")
    assert env.step("5")[0]["text"].endswith("7 | 8 | 9\nX took cell 5. It is O's turn.")
    env = at("OXOOXX.O.", opponent="self")
    assert env.step("9")[0]["text"].endswith("X took cell 9. It is O's turn.")
    observation, reward, terminated, _, info = env.step("7")
    assert observation["text"].endswith("O took cell 7. O won.")  # column 1, 4, 7
    env = at("OXOOXXX.O", opponent="self")
    observation, reward, terminated, _, info = env.step("8")
    assert observation["text"].endswith("The game is a draw.")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["outcomes"] == {"O": 0.5, "X": 0.5}


@pytest.mark.parametrize("text", ["", "1", "10", "0", "five", "2 3", "x" * 10_000, "\ud800"])
def test_what_is_no_move_is_told_and_costs(text: str) -> None:
    env = at("O...X....")
    observation, reward, terminated, _, info = env.step(text)
    assert observation["error"]
    assert len(observation["error"]) < 200
    assert (reward, terminated, info["role"]) == (-1.0, False, "O")
    assert info["rewards"] == {"O": -1.0, "X": 0.0}
    assert env.position == Board("O...X....")


def test_the_value_of_the_game_is_a_draw() -> None:
    assert solve(".........")[0] == 0
    assert solve("O...X....")[0] == 0
    assert solve("OX.......")[0] == 1  # an answer at the edge beside the corner loses


def test_minimax_is_never_beaten() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        board = Board()
        while board.result() is None:
            if board.turn == seed % 2:
                board = board.after(minimax(board, rng))
            else:
                board = board.after(board.moves()[int(rng.integers(len(board.moves())))])
        assert board.result() in (0.0, 1.0 - 2 * (seed % 2))


@pytest.mark.parametrize(("role", "least"), [("O", 95), ("X", 85)])
def test_the_expert_beats_chance_and_never_loses(role: str, least: int) -> None:
    env = TicTacToeEnv(role=role)
    outcomes = []
    for seed in range(100):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(env.oracle_action())
        outcomes.append(info["outcomes"][role])
    assert outcomes.count(1.0) >= least
    assert outcomes.count(0.0) == 0


def test_expert_against_expert_is_a_draw() -> None:
    env = TicTacToeEnv(opponent="minimax")
    for seed in range(5):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(env.oracle_action())
        assert info["outcomes"] == {"O": 0.5, "X": 0.5}


@pytest.mark.parametrize("opponent", ["random", "minimax", "mcts"])
def test_a_forked_game_goes_on_like_the_first(opponent: str) -> None:
    env = gym.make("agentgym/tic_tac_toe-v0", opponent=opponent, role="X")
    env.reset(seed=4)
    env.step(env.unwrapped.oracle_action())  # type: ignore[attr-defined]
    copy = fork(env)
    over = False
    while not over:
        action = env.unwrapped.oracle_action()  # type: ignore[attr-defined]
        first, second = env.step(action), copy.step(action)
        assert first == second
        over = bool(first[2])


@pytest.mark.parametrize("position", ["OO.......", "XX.O.....", "........", "abc", 3, "OOO.XX..."])
def test_wrong_positions(position: object) -> None:
    with pytest.raises(ConfigError):
        TicTacToeEnv().reset(seed=0, options={"position": position})
