"""Chess positions: names, results and estimates against python-chess and by hand."""

import random

import chess
import pytest

from agentgym.environments.text.chess_position import ChessPosition, read_board
from agentgym.errors import ConfigError

MATED = "7k/6Q1/6K1/8/8/8/8/8 b - - 0 1"
STALE = "7k/8/6Q1/8/8/8/8/K7 b - - 0 1"


def at(fen: str) -> ChessPosition:
    return ChessPosition(chess.Board(fen))


def played(seed: int) -> list[ChessPosition]:
    """A random game, remembered."""
    rng = random.Random(seed)
    line = [ChessPosition(chess.Board())]
    while line[-1].result() is None:
        line.append(line[-1].then(rng.choice(line[-1].moves())))
    return line


@pytest.mark.parametrize("seed", range(3))
def test_games_end_and_moves_are_named_as_python_chess_does(seed: int) -> None:
    board = chess.Board()
    for position in played(seed):
        if position.played is not None:
            board.push(position.played)
        assert position.fen == board.fen()
        outcome = board.outcome()
        if outcome is not None:
            assert position.result() == {True: 1.0, False: -1.0, None: 0.0}[outcome.winner]
            assert position.moves() == ()
            return
        assert position.result() is None
        assert set(position.moves()) == set(board.legal_moves)
        names = {board.san(move).rstrip("+#"): move for move in board.legal_moves}
        assert position.names() == names
        noisy = {m for m in board.legal_moves if board.is_capture(m) or m.promotion == chess.QUEEN}
        assert set(position.noisy()) == noisy


@pytest.mark.parametrize(
    ("fen", "result"),
    [
        (MATED, 1.0),
        ("7K/6q1/6k1/8/8/8/8/8 w - - 0 1", -1.0),
        (STALE, 0.0),
        ("7k/8/8/8/8/8/8/K7 w - - 0 1", 0.0),  # two kings
        ("7k/8/8/8/8/8/8/KB6 w - - 0 1", 0.0),  # a bishop mates nobody
        ("7k/8/8/8/8/8/8/KR6 w - - 150 90", 0.0),  # 75 moves of each side
        ("7k/8/8/8/8/8/8/KR6 w - - 149 90", None),
        (chess.STARTING_FEN, None),
    ],
)
def test_results(fen: str, result: float | None) -> None:
    assert at(fen).result() == result
    assert bool(at(fen).moves()) == (result is None)


def test_five_repetitions_are_a_draw_where_they_are_remembered() -> None:
    there_and_back = [chess.Move.from_uci(m) for m in ("g1f3", "g8f6", "f3g1", "f6g8")]
    position = start = ChessPosition(chess.Board())
    for round_ in range(4):
        assert position.result() is None
        for move in there_and_back:
            position = position.then(move)
        assert position.key() == start.key()
        assert len(position.line()) == 1 + 4 * (round_ + 1)
    assert position.result() == 0.0
    assert ChessPosition(position.board).result() is None


def test_positions_do_not_change() -> None:
    position = ChessPosition(chess.Board())
    before = position.fen
    after = position.after(chess.Move.from_uci("e2e4"))
    assert (position.fen, position.turn, after.turn) == (before, 0, 1)
    assert after.before is None
    assert after.key() != position.key()


def test_the_start_is_even_and_material_counts() -> None:
    assert at(chess.STARTING_FEN).estimate() == 0
    without_queen = "rnb1kbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
    assert 900 < at(without_queen).estimate() < 1000
    mirrored = chess.Board(without_queen).mirror()
    assert ChessPosition(mirrored).estimate() == -at(without_queen).estimate()


def test_a_bare_king_is_better_cornered() -> None:
    corner, centre = "7k/8/8/8/8/4K3/8/R7 w - - 0 1", "8/8/8/4k3/8/4K3/8/R7 w - - 0 1"
    assert at(corner).estimate() > at(centre).estimate()
    near, far = "7k/8/5K2/8/8/8/8/R7 w - - 0 1", "7k/8/8/8/8/8/8/RK6 w - - 0 1"
    assert at(near).estimate() > at(far).estimate()


def test_valuable_captures_come_first() -> None:
    # The pawn on d4 can take the queen on e5 or the knight on c5, the rook on e1 the queen.
    position = at("k7/8/8/2n1q3/3P4/8/8/4R2K w - - 0 1")
    assert [move.uci() for move in position.moves()[:3]] == ["d4e5", "e1e5", "d4c5"]


@pytest.mark.parametrize("fen", ["", "nonsense", None, 3, "8/8/8/8/8/8/8/8 w - - 0 1"])
def test_what_is_no_position(fen: object) -> None:
    with pytest.raises(ConfigError):
        read_board(fen)
