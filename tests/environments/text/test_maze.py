"""Mazes: published texts and rewards, shortest ways, random mazes that can be solved."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.maze import LAYOUTS, REWARDS, Cell, MazeEnv, carve
from agentgym.errors import ConfigError
from agentgym.forks import fork

# LMRL-Gym's table of best moves in the double-T maze, row by row.
OPTIMAL = {
    **dict.fromkeys([(1, 1), (1, 2), (1, 7), (1, 8), (5, 3), (5, 4), (5, 5)], "move right"),
    **dict.fromkeys([(1, 4), (1, 5), (1, 10), (1, 11), (5, 7), (5, 8), (5, 9)], "move left"),
    **dict.fromkeys([(row, column) for row in (1, 2, 3, 4) for column in (3, 9)], "move down"),
    **dict.fromkeys([(5, 6), (6, 6), (7, 6)], "move down"),
}


def made(**arguments: Any) -> MazeEnv:
    return MazeEnv(**arguments)


def started(env: MazeEnv, row: int, column: int) -> str:
    observation, _ = env.reset(seed=0, options={"init_position": [row, column]})
    return observation["text"]


def distances(walls: tuple[str, ...], goal: Cell) -> dict[Cell, int]:
    """Shortest ways, worked out apart from the code under test."""
    known, queue = {goal: 0}, deque([goal])
    while queue:
        row, column = queue.popleft()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if walls[near[0]][near[1]] == "0" and near not in known:
                known[near] = known[row, column] + 1
                queue.append(near)
    return known


def test_golden_transcript_of_the_original() -> None:
    env = made(mode="original")
    # Row 1 of the maze is 1000001000001: (1, 2) has free cells at both sides.
    assert started(env, 1, 2) == (
        "The goal is at position 8, 6. Your current position is at position 1, 2. "
        "There are walls above you, below you.\n"
    )
    script = [
        ("move up", "1, 2", "walls above you, below you", -1.0),  # a wall: nothing moves
        ("move right", "1, 3", "a wall above you", -1.0),
        ("go right", "1, 3", "a wall above you", -4.0),  # no move of the list
        ("move down", "2, 3", "walls to your right, to your left", -1.0),
    ]
    for action, place, walls, expected in script:
        observation, reward, terminated, truncated, info = env.step(action)
        verb = "is" if walls.startswith("a ") else "are"
        assert observation["text"] == (
            "The goal is at position 8, 6. "
            f"Your current position is at position {place}. There {verb} {walls}.\n"
        )
        assert (reward, terminated, truncated) == (expected, False, False)
        assert bool(info["action_error"]) == (expected == -4.0)
    started(env, 7, 6)
    observation, reward, terminated, _, info = env.step("move down\n")
    assert (observation["text"], reward, terminated) == ("Success\n", 0.0, True)
    assert info["success"] is True


def test_no_walls_and_digits_apart() -> None:
    env = made(layout="random", width=15, height=15, loops=1.0, mode="original")
    env.reset(seed=0, options={"goal": [13, 1], "init_position": [11, 11]})
    assert env.render() == (
        "The goal is at position 1 3, 1. Your current position is at position 1 1, 1 1. "
        "There are no walls near you.\n"
    )


def test_partial_observation_is_the_walls_alone() -> None:
    env = made(observe="partial", mode="original")
    assert started(env, 1, 1) == "There are walls to your left, above you, below you.\n"


def test_history_is_kept_or_as_published_dropped() -> None:
    texts = {}
    for mode in ("original", "fixed"):
        env = made(observe="partial", last_k=3, mode=mode)
        started(env, 2, 3)
        env.step("move down")
        env.step("dance")
        texts[mode] = env.step("move down")[0]["text"]
    wall = "There are walls to your right, to your left."
    assert texts["original"] == f"{wall}\nmove down\n{wall}\n"  # began anew after "dance"
    assert texts["fixed"] == f"{wall}\nmove down\n{wall}"
    env = made(observe="partial", last_k=3, mode="original")
    started(env, 2, 3)
    assert env.step("dance")[0]["text"] == f"{wall}\n"
    env = made(observe="partial", last_k=3)
    started(env, 2, 3)
    assert env.step("dance")[0]["text"] == f"{wall}\n(no move)\n{wall}"


@pytest.mark.parametrize("reward", REWARDS)
def test_three_kinds_of_reward(reward: str) -> None:
    published = {
        "standard": (0, -4, -1),
        "illegal_penalty": (1, -1, 0),
        "diff_scale": (1, -100, -1),
    }
    for mode in ("fixed", "original"):
        env = made(reward=reward, mode=mode)
        started(env, 7, 6)
        illegal = env.step("fly")[1]
        wall = env.step("move left")[1]
        assert (env.step("move down")[1], illegal, wall) == published[reward]


def test_the_limit_in_both_modes() -> None:
    fixed = gym.make("agentgym/maze-v0")
    fixed.reset(seed=0, options={"init_position": [1, 1]})
    ends = [fixed.step("move up")[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]
    original = gym.make("agentgym/maze.original-v0")
    original.reset(seed=0, options={"init_position": [1, 1]})
    assert [original.step("move up")[2:4] for _ in range(100)] == [(False, False)] * 100
    observation, reward, terminated, truncated, info = original.step("move right")
    assert (observation["text"], reward, terminated, truncated) == ("Failure\n", -1.0, True, False)
    assert info["success"] is False


def test_the_experts_moves_are_the_published_best_ones() -> None:
    env = made()
    assert len(OPTIMAL) == 25
    for (row, column), best in OPTIMAL.items():
        started(env, row, column)
        assert env.oracle_action() == best


@pytest.mark.parametrize("layout", [*LAYOUTS, "random"])
def test_the_experts_return_is_optimal_from_every_start(layout: str) -> None:
    env = made(layout=layout)
    _, info = env.reset(seed=5)
    walls, goal = env.maze.walls, env.maze.goal
    known = distances(walls, goal)
    assert set(known) == {
        (r, c) for r, line in enumerate(walls) for c, wall in enumerate(line) if wall == "0"
    }, "every free cell can reach the goal"
    for start in set(known) - {goal}:
        _, info = env.reset(seed=5, options={"init_position": list(start)})
        assert info["distance"] == known[start]
        total, terminated = 0.0, False
        while not terminated:
            _, reward, terminated, _, info = env.step(env.oracle_action())
            total += reward
        assert info["success"]
        assert total == 1 - known[start]  # -1 for each step but the last


def test_random_mazes_are_drawn_from_the_seed_and_connected() -> None:
    for seed in range(20):
        walls = carve(np.random.default_rng(seed), 11, 7, 0.1)
        assert walls == carve(np.random.default_rng(seed), 11, 7, 0.1)
        assert (len(walls), {len(line) for line in walls}) == (7, {11})
        assert set(walls[0] + walls[-1]) == {"1"}
        assert {line[0] + line[-1] for line in walls} == {"11"}
        assert len(distances(walls, (1, 1))) == "".join(walls).count("0")
    # Without loops a maze of 5 x 3 rooms is a tree: 15 rooms and 14 openings.
    assert "".join(carve(np.random.default_rng(0), 11, 7, 0.0)).count("0") == 29


def test_starts_are_uniform_and_follow_the_seed() -> None:
    env = made(layout="umaze")
    seen = [tuple(env.reset(seed=seed)[1]["position"]) for seed in range(200)]
    assert seen == [tuple(env.reset(seed=seed)[1]["position"]) for seed in range(200)]
    assert set(seen) == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1)}
    assert min(seen.count(cell) for cell in set(seen)) > 15  # 33 are expected


def test_what_is_written_is_read_leniently_only_when_fixed() -> None:
    env = made()
    started(env, 1, 1)
    for text in ("Move  Right", "right", "> RIGHT"):
        started(env, 1, 1)
        observation, *_, info = env.step(text)
        assert (observation["error"], info["position"]) == ("", [1, 2])
    env = made(mode="original")
    started(env, 1, 1)
    assert env.step("Move right")[4]["position"] == [1, 1]


def test_bad_text_is_told() -> None:
    env = made()
    for text in ("", "  \n", "move", "move left move left", "x" * 100_000, "\ud800"):
        started(env, 1, 1)
        observation, reward, terminated, truncated, info = env.step(text)
        assert observation["error"]
        assert len(observation["error"]) < 300
        assert (reward, terminated, truncated, info["position"]) == (-4.0, False, False, [1, 1])


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_a_forked_game_goes_on_like_the_first(mode: str) -> None:
    env = gym.make("agentgym/maze-v0", layout="random", last_k=4, mode=mode)
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(7):
        env.step(env.action_space.sample())
    env.step("dance")
    copy = fork(env)
    for _ in range(20):
        action = env.action_space.sample()
        assert copy.step(action) == env.step(action)
    assert copy.reset() == env.reset(), "the chance to come is the same too"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "spiral"}, "layout must be one of"),
        ({"observe": "all"}, "observe must be one of"),
        ({"reward": "none"}, "reward must be one of"),
        ({"last_k": 0}, "last_k must be at least 1"),
        ({"layout": "random", "width": 8}, "odd width"),
        ({"loops": 2.0}, "loops in"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"start": 1}, {"init_position": [0, 0]}, {"init_position": "x"}, {"goal": [0, 0]}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        made().reset(seed=0, options=options)
