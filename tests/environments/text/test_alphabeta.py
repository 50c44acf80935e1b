"""Alpha-beta: equal to plain minimax, soonest win first, chance only among equals."""

import numpy as np
import pytest

from agentgym.environments.text import alphabeta
from agentgym.environments.text.breakthrough import START, Board, BreakthroughEnv
from agentgym.environments.text.tic_tac_toe import Board as TicTacToe
from agentgym.environments.text.tic_tac_toe import solve


def minimax(position: alphabeta.Position, depth: int) -> float:
    """The definition, without pruning."""
    sign = 1 - 2 * position.turn
    result = position.result()
    if result is not None:
        return sign * result * (alphabeta.WON + depth)
    if depth == 0:
        return sign * position.estimate()
    return max(-minimax(position.after(move), depth - 1) for move in position.moves())


def played(seed: int, count: int) -> Board:
    rng = np.random.default_rng(seed)
    board = BreakthroughEnv().read_position(START)
    for _ in range(count):
        if not board.moves():
            break
        board = board.after(board.moves()[int(rng.integers(len(board.moves())))])
    return board


@pytest.mark.parametrize("seed", range(8))
def test_pruning_changes_no_value(seed: int) -> None:
    board = played(seed, 2 * seed)
    assert alphabeta.value(board, 2) == minimax(board, 2)


@pytest.mark.parametrize("cells", [".........", "O...X....", "OX..O....", "OXOX.....", "XO.OX.O.."])
def test_a_whole_game_searched_is_solved(cells: str) -> None:
    value = alphabeta.value(TicTacToe(cells), 9)
    assert np.sign(value) == solve(cells)[0]


def test_the_soonest_win_is_taken() -> None:
    # Black can win at once on a1 (from a2) or prepare elsewhere; white threatens nothing.
    board = BreakthroughEnv().read_position("..b../...../...../b..../....w b")
    for depth in (1, 2, 3, 4):
        assert alphabeta.best_move(board, depth) in ("a2a1", "a2b1")
    assert alphabeta.value(board, 4) == alphabeta.WON + 3


def test_a_loss_is_avoided() -> None:
    # White's pawn on d4 wins with its next step unless black takes it, and only e5 can.
    board = BreakthroughEnv().read_position("....b/...w./..b../...../w...w b")
    assert alphabeta.best_move(board, 2) == "e5d4*"
    assert abs(alphabeta.value(board, 2)) < alphabeta.WON / 2
    assert alphabeta.value(board.after("c3c2"), 1) == alphabeta.WON  # white's


def test_chance_chooses_among_equal_moves_only() -> None:
    board = BreakthroughEnv().read_position("..b../...../...../b..../....w b")
    drawn = {alphabeta.best_move(board, 2, np.random.default_rng(seed)) for seed in range(40)}
    assert drawn == {"a2a1", "a2b1"}
    first = [alphabeta.best_move(board, 2, np.random.default_rng(7)) for _ in range(3)]
    assert len(set(first)) == 1


def test_positions_that_count_as_draws_are_avoided_by_who_is_winning() -> None:
    board = BreakthroughEnv().read_position("..b../...../...../b..../....w b")
    repeated = board.after("a2a1").key()
    assert alphabeta.best_move(board, 2, drawn={repeated}) == "a2b1"


def test_noisy_moves_are_looked_at_further() -> None:
    # Black's only pawn takes on c3 and is lost to d2, which depth 1 alone does not see.
    board = BreakthroughEnv().read_position("...../.b.../..w../...w./..... b")
    alone = alphabeta.value(board, 1)
    settled = alphabeta.value(board, 1, quiet=2)
    assert alone > settled
