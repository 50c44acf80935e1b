"""Breakthrough: moves, captures, ends, texts; opponents and the expert."""

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.breakthrough import START, Board, BreakthroughEnv
from agentgym.errors import ConfigError
from agentgym.forks import fork


def board(position: str) -> Board:
    return BreakthroughEnv().read_position(position)


def at(position: str, **arguments: object) -> BreakthroughEnv:
    env = BreakthroughEnv(**arguments)  # type: ignore[arg-type]
    env.reset(seed=0, options={"position": position})
    return env


def test_the_first_moves() -> None:
    start = board(START)
    # Row 5 is blocked by row 4, whose five pawns have 2 + 3 + 3 + 3 + 2 steps.
    assert sorted(start.moves()) == [
        "a4a3", "a4b3", "b4a3", "b4b3", "b4c3", "c4b3", "c4c3", "c4d3", "d4c3", "d4d3", "d4e3",
        "e4d3", "e4e3",
    ]  # fmt: skip
    assert start.turn == 0
    assert start.after("c4c3").turn == 1
    assert len(start.after("c4c3").moves()) == 13 - 1  # c2c3 is blocked; b2 and d2 may take


def test_pawns_capture_diagonally_only() -> None:
    position = board("...../..b../.www./...../..... b")
    assert set(position.moves()) == {"c4b3*", "c4d3*"}  # straight ahead is blocked
    after = position.after("c4b3*")
    assert after.key() == "...../...../.bww./...../..... w"
    assert set(after.moves()) == {"c3c4", "c3b4", "c3d4", "d3d4", "d3c4", "d3e4"}


@pytest.mark.parametrize(
    ("position", "result"),
    [
        ("...../...../...../w..../..b.. w", 1.0),  # black on row 1
        ("...w./..b../...../w..../..... b", -1.0),  # white on row 5
        ("...../..b../...../...../..... w", 1.0),  # no white pawn left
        ("...../...../...../..w../..... b", -1.0),  # no black pawn left
        (START, None),
    ],
)
def test_ends(position: str, result: float | None) -> None:
    assert board(position).result() == result
    assert bool(board(position).moves()) == (result is None)


def test_golden_transcript_of_the_original() -> None:
    env = BreakthroughEnv(mode="original", opponent="self")
    observation, info = env.reset(seed=0)
    assert observation["text"] == "5bbbbb\n4bbbbb\n3.....\n2wwwww\n1wwwww\n abcde\n"
    assert info["role"] == "black"
    for move in ("c4c3", "b2c3*"):
        observation, reward, terminated, _, info = env.step(move)
        assert (reward, terminated) == (0.0, False)
    assert observation["text"] == "5bbbbb\n4bb.bb\n3..w..\n2w.www\n1wwwww\n abcde\n"


def test_the_fixed_text_says_what_happened() -> None:
    env = at("...../..b../...../..w../..... b", opponent="self")
    assert env.render() == "5.....\n4..b..\n3.....\n2..w..\n1.....\n abcde\nIt is black's turn."
    for move in ("c4d3", "c2d3*"):
        observation, reward, terminated, _, info = env.step(move)
    assert observation["text"].endswith("White moved c2d3*. White won.")
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert info["outcomes"] == {"black": 0.0, "white": 1.0}
    assert info["rewards"] == {"black": -1.0, "white": 1.0}


def test_moves_are_read_leniently() -> None:
    for text in ("c4b3*", "c4b3", "C4 B3", "c4-b3"):
        env = at("b..../..b../.w.w./...../..... b", opponent="self")
        observation, *_, info = env.step(text)
        assert observation["error"] == ""
        assert info["state_key"] == "b..../...../.b.w./...../..... w"


@pytest.mark.parametrize("text", ["", "c4", "a2a3", "c4c2", "c3c4", "c4b3**", "x" * 9000, "\0"])
def test_what_is_no_move_is_told_and_costs(text: str) -> None:
    env = at("b..../..b../.w.w./w..../..... b")
    observation, reward, terminated, _, info = env.step(text)
    assert observation["error"]
    assert len(observation["error"]) < 200
    assert (reward, terminated, info["role"]) == (-1.0, False, "black")
    assert info["state_key"] == "b..../..b../.w.w./w..../..... b"


def test_every_random_game_ends_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        position, moves = board(START), 0
        while position.result() is None:
            legal = position.moves()
            assert legal, "there is always a move"
            assert set(position.noisy()) == {move for move in legal if move.endswith("*")}
            position = position.after(legal[int(rng.integers(len(legal)))])
            moves += 1
        assert moves <= 2 * 60


@pytest.mark.parametrize(
    ("opponent", "role"),
    [("random", "black"), ("random", "white"), ("alphabeta", "white"), ("mcts", "black")],
)
def test_the_expert_wins(opponent: str, role: str) -> None:
    env = BreakthroughEnv(opponent=opponent, role=role)
    env.reset(seed=1)
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(env.oracle_action())
    assert info["success"]


@pytest.mark.parametrize("opponent", ["random", "alphabeta", "self"])
def test_a_forked_game_goes_on_like_the_first(opponent: str) -> None:
    env = gym.make("agentgym/breakthrough-v0", opponent=opponent, role="white")
    env.reset(seed=4)
    env.action_space.seed(4)
    env.step(env.action_space.sample())
    copy = fork(env)
    over = False
    while not over:
        action = env.action_space.sample()
        first = env.step(action)
        assert first == copy.step(action)
        over = bool(first[2])


@pytest.mark.parametrize(
    "position",
    ["", "bbbbb/bbbbb/...../wwwww/wwwww", "bbbbb b", START.replace("w", "x"), START[:-1], 5],
)
def test_wrong_positions(position: object) -> None:
    with pytest.raises(ConfigError):
        BreakthroughEnv().reset(seed=0, options={"position": position})
