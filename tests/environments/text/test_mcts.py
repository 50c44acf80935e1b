"""Monte Carlo tree search: finds what is there to find, the same for the same seed."""

import numpy as np
import pytest

from agentgym.environments.text.breakthrough import BreakthroughEnv
from agentgym.environments.text.mcts import best_move
from agentgym.environments.text.tic_tac_toe import Board, minimax, solve


@pytest.mark.parametrize(
    ("cells", "move"),
    [
        ("OO.XX....", "3"),  # O wins
        ("OO.X...X.", "3"),  # also with other marks about
        ("OX..X.O.O", "8"),  # X wins
        ("O.X.X.O..", "4"),  # O wins down the left side
    ],
)
def test_wins_and_threats_are_seen(cells: str, move: str) -> None:
    for seed in range(3):
        assert best_move(Board(cells), 300, np.random.default_rng(seed)) == move


def test_the_seed_decides() -> None:
    position = BreakthroughEnv().read_position("bbbbb/bbbbb/...../wwwww/wwwww b")
    found = [best_move(position, 30, np.random.default_rng(seed)) for seed in (0, 1, 2, 0, 1, 2)]
    assert found[:3] == found[3:]


def test_never_loses_to_perfect_play() -> None:
    rng = np.random.default_rng(0)
    board = Board()
    while board.result() is None:
        if board.turn == 0:
            board = board.after(best_move(board, 400, rng))
        else:
            board = board.after(minimax(board, rng))
    assert board.result() == solve(".........")[0] == 0


def test_one_playout_is_enough_for_a_move() -> None:
    board = Board("OX.......")
    assert best_move(board, 1, np.random.default_rng(0)) in board.moves()
