"""Monte Carlo tree search (UCT) over any game of two players without chance or hidden things."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from agentgym.environments.text.alphabeta import Position


@dataclass(slots=True)
class _Node:
    """A position in the tree with what the playouts through it brought."""

    position: Position
    untried: list[Any]
    tried: dict[Any, "_Node"] = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0
    """Sum of results, for the side that moved into this position."""


def best_move(
    position: Position, playouts: int, rng: np.random.Generator, *, exploration: float = 1.4
) -> Any:
    """The move that most playouts went through.

    Source: Kocsis and Szepesvári 2006, Bandit based Monte-Carlo planning (UCT), with random
    playouts to the end of the game.

    Args:
        position: where somebody is to move.
        playouts: how many games are played out, at least 1.
        rng: the source of chance.
        exploration: weight of the confidence bound, in units of a win.
    """
    root = _Node(position, list(position.moves()))
    for _ in range(playouts):
        way = _descend(root, exploration, rng)
        result = _play_out(way[-1].position, rng)
        for before, node in pairwise(way):
            node.visits += 1
            node.total += result * (1 - 2 * before.position.turn)
        root.visits += 1
    return max(root.tried, key=lambda move: root.tried[move].visits)


def _descend(root: _Node, exploration: float, rng: np.random.Generator) -> list[_Node]:
    """From the root along the best bounds to a new leaf, which is added."""
    way = [root]
    while not way[-1].untried and way[-1].tried:
        node = way[-1]
        spread = exploration * math.sqrt(math.log(node.visits))
        way.append(
            max(
                node.tried.values(),
                key=lambda n: n.total / n.visits + spread / math.sqrt(n.visits),
            )
        )
    node = way[-1]
    if node.untried:
        move = node.untried.pop(int(rng.integers(len(node.untried))))
        after = node.position.after(move)
        node.tried[move] = _Node(after, list(after.moves()))
        way.append(node.tried[move])
    return way


def _play_out(position: Position, rng: np.random.Generator) -> float:
    """The result, for side 0, of random moves to the end."""
    while (result := position.result()) is None:
        moves = position.moves()
        position = position.after(moves[int(rng.random() * len(moves))])
    return result
