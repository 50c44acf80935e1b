"""agentgym/tic_tac_toe-v0: three in a row (NLRL)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from agentgym.environments.text.alphabeta import Position
from agentgym.environments.text.mcts import best_move as mcts_move
from agentgym.environments.text.two_player import Engine, TwoPlayerGame, random_engine
from agentgym.errors import ConfigError

LINES = (
    *((row, row + 1, row + 2) for row in (0, 3, 6)),
    *((column, column + 3, column + 6) for column in (0, 1, 2)),
    (0, 4, 8),
    (2, 4, 6),
)
EMPTY = "." * 9
_SIGNS = "OX"
_PLAYOUTS = 100


def place(text: str) -> None:
    """Put your mark on a free cell: its number, 1 to 9, counted row by row."""


@dataclass(frozen=True, slots=True)
class Board:
    """Nine cells, row by row: O, X or a dot. O moves first."""

    cells: str = EMPTY

    @property
    def turn(self) -> int:
        """0 for O, 1 for X."""
        return self.cells.count("O") - self.cells.count("X")

    def moves(self) -> Sequence[str]:
        """The numbers of the free cells; none if the game is over."""
        return _moves(self.cells)

    def noisy(self) -> Sequence[str]:
        """None: the whole game can be searched."""
        return ()

    def after(self, move: str) -> "Board":
        """With the mark of the side that moves on a cell."""
        cell = int(move) - 1
        return Board(f"{self.cells[:cell]}{_SIGNS[self.turn]}{self.cells[cell + 1 :]}")

    def result(self) -> float | None:
        """1 if O has won, -1 if X has, 0 for a full board without a line."""
        return _result(self.cells)

    def estimate(self) -> float:
        """Nothing is known before the end."""
        return 0.0

    def key(self) -> str:
        """The cells."""
        return self.cells


@cache
def _result(cells: str) -> float | None:
    for a, b, c in LINES:
        if cells[a] != "." and cells[a] == cells[b] == cells[c]:
            return 1.0 if cells[a] == "O" else -1.0
    return None if "." in cells else 0.0


@cache
def _moves(cells: str) -> tuple[str, ...]:
    if _result(cells) is not None:
        return ()
    return tuple(str(number) for number, cell in enumerate(cells, 1) if cell == ".")


@cache
def solve(cells: str) -> tuple[float, float]:
    """A position's worth for the side that moves.

    Returns:
        The result of best play by both (-1, 0, 1), and its expected result against an opponent
        who moves at random, if the first is never given away.
    """
    board, result = Board(cells), _result(cells)
    if result is not None:
        own = result * (1 - 2 * board.turn)
        return own, own
    return max(_worth(board, move) for move in board.moves())


def _worth(board: Board, move: str) -> tuple[float, float]:
    """What `solve` returns, for a move."""
    after = board.after(move)
    sure = -solve(after.cells)[0]
    replies = after.moves()
    if not replies:
        return sure, sure
    return sure, sum(solve(after.after(reply).cells)[1] for reply in replies) / len(replies)


@cache
def _perfect(cells: str) -> tuple[str, ...]:
    worth = {move: _worth(Board(cells), move)[0] for move in _moves(cells)}
    return tuple(move for move, sure in worth.items() if sure == max(worth.values()))


def minimax(position: Any, rng: np.random.Generator) -> str:
    """One of the moves that best play allows, each as likely."""
    best = _perfect(position.cells)
    return best[int(rng.integers(2**62)) % len(best)]


def _mcts(position: Position, rng: np.random.Generator) -> str:
    return str(mcts_move(position, _PLAYOUTS, rng))


_ENGINES: Mapping[str, Engine] = {
    "random": random_engine,
    "minimax": minimax,
    "mcts": _mcts,
}


class TicTacToeEnv(TwoPlayerGame):
    """Tic-tac-toe on three by three cells.

    ## Description
    The game of NLRL (Feng et al. 2024, arXiv:2411.14251). O moves first; three equal marks in a
    row, column or diagonal win, a full board without them is a draw.

    ## Action Space
    One action, ``place(text)``: the number of a free cell, 1 to 9. Anything else (a taken cell,
    no number, empty or over-long text) changes nothing, is told as the next observation's
    ``error``, costs -1, and it is still the same side's turn.

    ## Observation Space
    ``text`` is the board, rows such as ``O | 2 | X`` with ``---------`` between them, a free cell
    showing its number; in mode "fixed" followed by the other side's last move and whose turn it is.

    ## Rewards
    1 for a win, -1 for a loss, 0 for a draw and for all moves before; -1 for what is no move.

    ## Starting State
    An empty board; the opponent has moved already if it begins. ``reset(options=...)`` takes
    ``position`` (nine letters O, X or ., row by row), ``role`` and ``opponent``.

    ## Episode End
    Terminated with the game. Success is a win. `tic_tac_toe-v0` is truncated after 20 turns, which
    only turns that are no moves can reach.

    ## Arguments
    * `opponent`: "random", "minimax" (perfect, which no one wins against), "mcts" (100 playouts),
      "self" (see `TwoPlayerGame`) or a `players.Player`;
    * `role`: "O", "X" or "random";
    * `mode`: "fixed" or "original", NLRL's: only the board is shown, and the reward of the last
      move is O's, whichever side the agent plays (fixed: its own). The published game stops the
      program at a taken cell; here it is told in both modes.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [place]
    roles: ClassVar = ("O", "X")
    opponents: ClassVar = tuple(_ENGINES)

    def start(self, options: Mapping[str, Any]) -> Board:
        """An empty board or the position of the options."""
        return self.read_position(options.get("position", EMPTY))

    def read_position(self, saved: Any) -> Board:
        """A board from nine letters."""
        fitting = isinstance(saved, str) and len(saved) == 9 and set(saved) <= set("OX.")
        if not fitting or saved.count("O") - saved.count("X") not in (0, 1):
            raise ConfigError(
                f"a position is nine letters O, X or . with as many O as X or one more, "
                f"got {saved!r}"
            )
        return Board(saved)

    def write_position(self) -> str:
        """Nine letters."""
        return str(self.position.cells)

    def goal(self) -> str:
        """The rules."""
        return (
            "Tic-tac-toe: O and X in turn put their mark on a free cell, O begins. Three equal "
            "marks in a row, column or diagonal win."
        )

    def engine(self, name: str) -> Engine:
        """How a named opponent chooses."""
        return _ENGINES[name]

    def describe(self) -> str:
        """The board and, when fixed, what happened last and whose turn it is."""
        board = _board_text(self.position.cells)
        if self.mode == "original":
            return board
        return f"{board}\n{_turn_text(self.position.cells, self.moved)}"

    def final_reward(self, own: float, first: float) -> float:
        """The agent's own, or as published O's."""
        return first if self.mode == "original" else own

    def expert(self) -> str:
        """Never gives anything away, and among such moves the best against chance."""
        return max(_moves(self.position.cells), key=lambda move: _worth(self.position, move))


@cache
def _board_text(cells: str) -> str:
    shown = [str(number) if cell == "." else cell for number, cell in enumerate(cells, 1)]
    return "\n---------\n".join(" | ".join(shown[row : row + 3]) for row in (0, 3, 6))


def _turn_text(cells: str, moved: str) -> str:
    board, result = Board(cells), _result(cells)
    before = f"{cells[int(moved) - 1]} took cell {moved}. " if moved else ""
    if result is None:
        return f"{before}It is {_SIGNS[board.turn]}'s turn."
    return before + ("The game is a draw." if not result else f"{'O' if result > 0 else 'X'} won.")
