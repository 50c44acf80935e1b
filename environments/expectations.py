"""Which environments are exceptions to the rule of `agentgym validate`, and why."""

from agentgym.core import Expectation

EXPECTATIONS = {
    "agentgym/miniwob.*": Expectation(
        random=1.0, why="pages with few elements, where any click may be the right one"
    ),
    "agentgym/maze*": Expectation(
        random=0.5, why="a hundred steps of a random walk reach the goal of a small maze"
    ),
    "agentgym/textworld.coin_collector-v0": Expectation(
        random=1.0, why="five rooms in a row: a random walk of 50 steps arrives"
    ),
    "agentgym/textworld.treasure_hunter-v0": Expectation(
        random=1.0, why="level 5 has few rooms and one thing to take, in 50 steps"
    ),
    "agentgym/tic_tac_toe*": Expectation(
        random=0.8, why="the opponent plays at random as well, and gives the first move"
    ),
}
"""Patterns of ids to what is asked there; the first that fits counts."""
