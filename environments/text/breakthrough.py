"""agentgym/breakthrough-v0: pawns that race to the other side of a small board (NLRL)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from agentgym.environments.text import alphabeta, mcts
from agentgym.environments.text.alphabeta import Position
from agentgym.environments.text.two_player import Engine, TwoPlayerGame, random_engine
from agentgym.errors import ConfigError

SIZE = 5
COLUMNS = "abcde"
START = "bbbbb/bbbbb/...../wwwww/wwwww b"
_ROW = (1 << SIZE) - 1
_LAST = (_ROW, _ROW << SIZE * (SIZE - 1))
"""The rows that black (row 1) and white (row 5) want to reach, as bits."""
_DEPTH, _PLAYOUTS = 3, 100
_EXPERT_DEPTH, _EXPERT_DEPTH_AGAINST_CHANCE = 6, 4


def move(text: str) -> None:
    """Move a pawn, from cell to cell: b4b3; a capture ends in a star: b4c3*."""


def _bit(column: int, row: int) -> int:
    """A cell as a bit: column and row from 0, a1 is the lowest."""
    return 1 << (SIZE * row + column)


def _steps() -> tuple[dict[int, tuple[tuple[int, str], tuple[tuple[int, str, str], ...]]], ...]:
    """For each side and cell: the step ahead, and the diagonal steps with their captures."""
    sides = []
    for ahead in (-1, 1):
        table = {}
        for row in range(SIZE):
            for column in range(SIZE):
                if not 0 <= row + ahead < SIZE:
                    continue
                here = f"{COLUMNS[column]}{row + 1}"
                steps = {
                    side: (
                        _bit(column + side, row + ahead),
                        f"{here}{COLUMNS[column + side]}{row + ahead + 1}",
                    )
                    for side in (0, -1, 1)
                    if 0 <= column + side < SIZE
                }
                diagonal = tuple((b, t, f"{t}*") for side, (b, t) in steps.items() if side)
                table[_bit(column, row)] = (steps[0], diagonal)
        sides.append(table)
    return tuple(sides)


_STEPS = _steps()
_CELLS = {
    f"{letter}{row + 1}": _bit(column, row)
    for row in range(SIZE)
    for column, letter in enumerate(COLUMNS)
}
_ROW_TEXTS = {
    (black, white): "".join(
        "b" if black >> c & 1 else "w" if white >> c & 1 else "." for c in range(SIZE)
    )
    for black in range(_ROW + 1)
    for white in range(_ROW + 1)
    if not black & white
}


@dataclass(frozen=True, slots=True)
class Board:
    """Where the pawns stand, as bits. Black, which is side 0, moves first and down the board."""

    black: int
    white: int
    turn: int = 0

    def moves(self) -> Sequence[str]:
        """The possible moves, captures first; none if the game is over."""
        if self.result() is not None:
            return ()
        captures, others = self._moves()
        return captures + others

    def noisy(self) -> Sequence[str]:
        """The captures."""
        return () if self.result() is not None else self._moves()[0]

    def _moves(self) -> tuple[list[str], list[str]]:
        own, other = (self.white, self.black) if self.turn else (self.black, self.white)
        taken = own | other
        captures, others = [], []
        table, left = _STEPS[self.turn], own
        while left:
            pawn = left & -left
            left ^= pawn
            (ahead, text), diagonals = table[pawn]
            if not ahead & taken:
                others.append(text)
            for cell, text, capture in diagonals:
                if cell & other:
                    captures.append(capture)
                elif not cell & own:
                    others.append(text)
        return captures, others

    def after(self, move: str) -> "Board":
        """With a pawn moved."""
        start, end = _CELLS[move[:2]], _CELLS[move[2:4]]
        if self.turn:
            return Board(self.black & ~end, self.white ^ start ^ end, 0)
        return Board(self.black ^ start ^ end, self.white & ~end, 1)

    def result(self) -> float | None:
        """1 if black has won, -1 if white has. There are no draws."""
        if self.black & _LAST[0] or not self.white:
            return 1.0
        if self.white & _LAST[1] or not self.black:
            return -1.0
        return None

    def estimate(self) -> float:
        """Pawns count 10 each, and the square of how far each has come."""
        total = 10 * (self.black.bit_count() - self.white.bit_count())
        for row in range(SIZE):
            total += (SIZE - 1 - row) ** 2 * (self.black >> SIZE * row & _ROW).bit_count()
            total -= row**2 * (self.white >> SIZE * row & _ROW).bit_count()
        return total

    def rows(self) -> list[str]:
        """The rows from the upper one (5) to the lowest (1): b, w or a dot for each cell."""
        return [
            _ROW_TEXTS[self.black >> SIZE * row & _ROW, self.white >> SIZE * row & _ROW]
            for row in range(SIZE - 1, -1, -1)
        ]

    def key(self) -> str:
        """Rows and side."""
        return f"{'/'.join(self.rows())} {'bw'[self.turn]}"


def _alphabeta(position: Position, rng: np.random.Generator) -> str:
    return str(alphabeta.best_move(position, _DEPTH, rng, quiet=2))


def _mcts(position: Position, rng: np.random.Generator) -> str:
    return str(mcts.best_move(position, _PLAYOUTS, rng))


_ENGINES: Mapping[str, Engine] = {
    "random": random_engine,
    "alphabeta": _alphabeta,
    "mcts": _mcts,
}


class BreakthroughEnv(TwoPlayerGame):
    """Breakthrough on five by five cells.

    ## Description
    The game of NLRL (Feng et al. 2024, arXiv:2411.14251): two rows of pawns each, black above and
    white below. Black moves first. A pawn steps one cell ahead, straight or diagonally, to a free
    cell, or captures diagonally ahead. Who reaches the last row or captures all pawns wins; draws
    are not possible.

    ## Action Space
    One action, ``move(text)``: from and to, e.g. ``b4b3``, and with a star if it captures,
    ``b4c3*``; the star may be missing, spaces and a hyphen may stand between. Anything else (an
    impossible move, the other side's pawn, empty or over-long text) changes nothing, is told as
    the next observation's ``error``, costs -1, and it is still the same side's turn.

    ## Observation Space
    ``text`` is the board, the row's number before each row and the columns' letters below, ``b``,
    ``w`` and ``.`` for the cells; in mode "fixed" followed by the other side's last move and whose
    turn it is.

    ## Rewards
    1 for a win, -1 for a loss, -1 for what is no move, else 0.

    ## Starting State
    ``bbbbb/bbbbb/...../wwwww/wwwww``; white's opponent has moved already. ``reset(options=...)``
    takes ``position`` (rows from the upper one and the side to move, as in `START`), ``role`` and
    ``opponent``.

    ## Episode End
    Terminated with the game. Success is a win. `breakthrough-v0` is truncated after 60 turns, more
    than any game of possible moves has.

    ## Arguments
    * `opponent`: "random", "alphabeta" (depth 3, captures further), "mcts" (100 playouts), "self"
      (see `TwoPlayerGame`) or a `players.Player`;
    * `role`: "black", "white" or "random";
    * `mode`: "fixed" or "original", NLRL's: the text is the board alone, with a line break at its
      end, as its fork of OpenSpiel writes it. That fork raises an error at an impossible move; here
      it is told in both modes.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [move]
    roles: ClassVar = ("black", "white")
    opponents: ClassVar = tuple(_ENGINES)

    def start(self, options: Mapping[str, Any]) -> Board:
        """Two rows of pawns each, or the position of the options."""
        return self.read_position(options.get("position", START))

    def read_position(self, saved: Any) -> Board:
        """A board from the form of `START`."""
        rows, _, side = str(saved).partition(" ")
        lines = rows.split("/")
        fitting = all(len(line) == SIZE and set(line) <= set("bw.") for line in lines)
        if len(lines) != SIZE or not fitting or side not in ("b", "w"):
            raise ConfigError(f"a position is written like {START!r}, got {saved!r}")
        sides = {"b": 0, "w": 0}
        for row, line in enumerate(reversed(lines)):
            for column, pawn in enumerate(line):
                if pawn != ".":
                    sides[pawn] |= _bit(column, row)
        return Board(sides["b"], sides["w"], "bw".index(side))

    def write_position(self) -> str:
        """In the form of `START`."""
        return str(self.position.key())

    def goal(self) -> str:
        """The rules."""
        return (
            "Breakthrough: pawns step one cell ahead, straight or diagonally, and capture "
            "diagonally ahead. Black (b) begins and moves down, white (w) moves up. Reach the last "
            "row or capture all pawns to win."
        )

    def engine(self, name: str) -> Engine:
        """How a named opponent chooses."""
        return _ENGINES[name]

    def find(self, text: str) -> Any:
        """The possible move of these two cells."""
        wanted = text.lower().replace(" ", "").replace("-", "").removesuffix("*")
        return next((m for m in self.position.moves() if m.removesuffix("*") == wanted), None)

    def describe(self) -> str:
        """The board and, when fixed, what happened last and whose turn it is."""
        rows = [f"{SIZE - n}{row}" for n, row in enumerate(self.position.rows())]
        board = "\n".join([*rows, f" {COLUMNS}\n"])
        if self.mode == "original":
            return board
        mover, result = self.roles[1 - self.position.turn], self.position.result()
        before = f"{mover.capitalize()} moved {self.moved}. " if self.moved else ""
        if result is not None:
            return f"{board}{before}{self.roles[result < 0].capitalize()} won."
        return f"{board}{before}It is {self.role}'s turn."

    def expert(self) -> str:
        """The best move at a depth above the opponents'."""
        chance = self.opponent == "random"
        depth = _EXPERT_DEPTH_AGAINST_CHANCE if chance else _EXPERT_DEPTH
        return str(alphabeta.best_move(self.position, depth, quiet=2))
