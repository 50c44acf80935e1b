"""Alpha-beta search over any game of two players without chance or hidden things."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol

import numpy as np

WON = 1e6
"""Value of a won position, in units of `Position.estimate`; sooner wins are worth more."""


class Position(Protocol):
    """A position of a game. Never changes: a move makes a new one."""

    @property
    def turn(self) -> int:
        """Who moves: 0 is the side that moves first in the game, 1 the other."""
        ...

    def moves(self) -> Sequence[Any]:
        """The moves that are possible, promising ones first; none if the game is over."""
        ...

    def noisy(self) -> Sequence[Any]:
        """Those after which `estimate` means nothing yet, such as captures; may be empty."""
        ...

    def after(self, move: Any) -> "Position":
        """The position that a possible move leads to."""
        ...

    def result(self) -> float | None:
        """1 if side 0 has won, -1 if side 1 has, 0 for a draw, None while the game goes on."""
        ...

    def estimate(self) -> float:
        """How good the position looks for side 0, far below `WON`."""
        ...

    def key(self) -> Hashable:
        """Equal for equal positions."""
        ...


def best_move(
    position: Position,
    depth: int,
    rng: np.random.Generator | None = None,
    *,
    quiet: int = 0,
    drawn: Collection[Hashable] = (),
) -> Any:
    """The move with the best value, searched to a fixed depth.

    Source: Knuth and Moore 1975, An analysis of alpha-beta pruning, fail-soft negamax form.

    Args:
        position: where somebody is to move.
        depth: moves looked ahead, at least 1.
        rng: chooses among moves of equal value; without it the first of them is taken.
        quiet: moves looked further ahead where they are `noisy`.
        drawn: keys of positions that are worth no more than a draw, such as repetitions.
    """
    moves = list(position.moves())
    if rng is not None:
        moves = [moves[i] for i in rng.permutation(len(moves))]
    best, value = moves[0], -2 * WON
    for move in moves:
        after = position.after(move)
        if drawn and after.key() in drawn:
            found = 0.0
        else:
            found = -_value(after, depth - 1, -2 * WON, -value, quiet)
        if found > value:
            best, value = move, found
    return best


def value(position: Position, depth: int, *, quiet: int = 0) -> float:
    """The value of a position for the side that moves."""
    return _value(position, depth, -2 * WON, 2 * WON, quiet)


def _value(position: Position, depth: int, alpha: float, beta: float, quiet: int) -> float:
    sign = 1 - 2 * position.turn
    result = position.result()
    if result is not None:
        return sign * result * (WON + depth)
    if depth <= 0:
        return _settled(position, alpha, beta, quiet)
    best = -2 * WON
    for move in position.moves():
        found = -_value(position.after(move), depth - 1, -beta, -max(alpha, best), quiet)
        if found > best:
            best = found
            if best >= beta:
                break
    return best


def _settled(position: Position, alpha: float, beta: float, quiet: int) -> float:
    """The estimate once no noisy move improves it; nobody is forced to make one."""
    best = (1 - 2 * position.turn) * position.estimate()
    if best >= beta or quiet <= 0:
        return best
    for move in position.noisy():
        after = position.after(move)
        found = -_settled(after, -beta, -max(alpha, best), quiet - 1)
        if found > best:
            best = found
            if best >= beta:
                break
    return best
