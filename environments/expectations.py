"""Which environments are exceptions to the rule of `agentgym validate`, and why."""

from agentgym.core import Expectation

EXPECTATIONS = {
    "agentgym/miniwob.*": Expectation(
        random=1.0, why="pages with few elements, where any click may be the right one"
    ),
    "agentgym/browsergym.miniwob.*": Expectation(
        random=1.0, why="the same pages, where any click may be the right one"
    ),
    "agentgym/maze.medium-v0": Expectation(
        random=0.65, why="wide halls: a hundred steps of a random walk often cross them"
    ),
    "agentgym/maze*": Expectation(
        random=0.4, why="a hundred steps of a random walk reach the goal of a small maze"
    ),
    "agentgym/breakthrough-v0": Expectation(
        random=0.65, why="the opponent plays at random as well"
    ),
    "agentgym/breakthrough.alphabeta-v0": Expectation(
        oracle=0.6, why="the opponent searches as well as the expert"
    ),
    "agentgym/points24.original-v0": Expectation(
        oracle=0.6, why="more than a quarter of the hands that it deals have no solution"
    ),
    "agentgym/textworld.coin_collector-v0": Expectation(
        random=1.0, why="five rooms in a row: a random walk of 50 steps arrives"
    ),
    "agentgym/textworld.treasure_hunter-v0": Expectation(
        random=1.0, why="level 5 has few rooms and one thing to take, in 50 steps"
    ),
    "agentgym/tic_tac_toe-v0": Expectation(
        oracle=0.9, random=0.65, why="the opponent plays at random, so that some games are drawn"
    ),
}
"""Patterns of ids to what is asked there; the first that fits counts."""
