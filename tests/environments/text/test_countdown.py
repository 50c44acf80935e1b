"""Countdown as a game: both styles, both modes, golden texts, experts, hostile input."""

from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.countdown import CountdownEnv
from agentgym.environments.text.countdown_search import solve, split_targets
from agentgym.errors import ConfigError
from agentgym.forks import fork

PROBLEM = {"target": 24, "numbers": [3, 8, 1]}


def begun(**arguments: Any) -> CountdownEnv:
    env = CountdownEnv(**arguments)
    env.reset(seed=0, options=PROBLEM)
    return env


def test_golden_transcript_of_the_original() -> None:
    env = CountdownEnv(mode="original")
    observation, _ = env.reset(seed=0, options=PROBLEM)
    assert observation["text"] == "Current State: 24:[3, 8, 1], Operations: []\n"
    assert env.step("3*8")[0]["text"] == (
        "Exploring Operation: 3*8=24, Resulting Numbers: [1, 24]\n"
        "Generated Node #2: [1, 24] from Operation: 3*8=24\n"
        "Current State: 24:[1, 24], Operations: ['3*8=24']\n"
    )
    observation, reward, terminated, truncated, info = env.step("24-1=23")
    assert observation["text"] == (
        "Exploring Operation: 24-1=23, Resulting Numbers: [23]\n23,24 unequal: No Solution\n"
    )
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)


def test_a_game_by_steps() -> None:
    env = CountdownEnv()
    observation, info = env.reset(seed=0, options=PROBLEM)
    assert observation["text"] == "Target: 24. Numbers: 3, 8, 1."
    assert "all of the numbers" in observation["goal"]
    assert info["admissible_actions"] == [
        *("3+8", "3*8", "8-3"),
        *("3+1", "3*1", "3-1", "3/1"),
        *("8+1", "8*1", "8-1", "8/1"),
    ]
    assert info["solvable"]
    env.step("8 x 3")
    observation, reward, terminated, _, info = env.step("24 / 1 = 24")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_a_way_without_return_is_told_to_the_teacher_only() -> None:
    env = begun()
    observation, reward, terminated, _, info = env.step("8-1")  # 7 and 3 make 4, 10, 21
    assert (reward, terminated, info["solvable"], info["solution"]) == (0.0, False, False, None)
    assert observation["error"] == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("3*7", "7 is not among"),
        ("3*3", "3 is not among"),
        ("3-8", "no natural number"),
        ("8/3", "no natural number"),
        ("3*8=25", "3 * 8 is 24, not 25"),
        ("3*8*1", "No operation"),
        ("hello", "No operation"),
        ("3**8", "No operation"),
        ("", "empty"),
        ("9" * 100_000, "No operation"),
    ],
)
def test_what_cannot_be_done_changes_nothing(text: str, error: str) -> None:
    env = begun()
    observation, reward, terminated, truncated, info = env.step(text)
    assert error in observation["error"]
    assert len(observation["error"]) < 300
    assert observation["text"] == "Target: 24. Numbers: 3, 8, 1."
    assert (reward, terminated, truncated, info["numbers"]) == (0.0, False, False, [3, 8, 1])


def test_operations_left_out() -> None:
    env = begun(ops="+-")
    assert env.step("3*8")[0]["error"] == "* may not be used, only +, -"
    assert not any("*" in text for text in env.step("?")[4]["admissible_actions"])


def test_some_of_the_numbers() -> None:
    env = begun(use_all=False)
    assert env.step("3*8")[1:3] == (1.0, True)


@pytest.mark.parametrize(
    ("mode", "answer", "reward"),
    [
        ("fixed", "3*8*1", 1.0),
        ("fixed", "<answer>3*8*1 = 24</answer>", 1.0),
        ("fixed", "3+8+1", 0.0),
        ("fixed", "24", 0.0),
        ("fixed", "", 0.0),
        ("original", "<answer>3*8*1</answer>", 1.0),
        ("original", "3*8*1", 0.0),
        ("original", "<answer>3*8*1=24</answer>", 0.1),
        ("original", "<answer>3+8+1</answer>", 0.1),
        ("original", "<answer>3*8</answer>", 0.1),
        ("original", "<answer>3/(1-1)*8</answer>", 0.1),
        ("original", "", 0.0),
    ],
)
def test_one_answer(mode: str, answer: str, reward: float) -> None:
    env = begun(style="answer", mode=mode)
    _, got, terminated, _, info = env.step(answer)
    assert (got, terminated, info["success"]) == (reward, True, reward == 1.0)


@pytest.mark.parametrize(
    ("target", "numbers", "trick"),
    [(9, [3, 2], "3**2"), (3, [1, 5, 2], "1.5*2"), (4, [9, 2], "9//2")],
)
def test_tricks_pass_in_the_original_only(target: int, numbers: list[int], trick: str) -> None:
    for mode, reward in (("original", 1.0), ("fixed", 0.0)):
        env = CountdownEnv("answer", mode=mode)
        env.reset(seed=0, options={"target": target, "numbers": numbers})
        assert env.step(f"<answer>{trick}</answer>")[1] == reward


@pytest.mark.parametrize("mode", ["fixed", "original"])
@pytest.mark.parametrize("style", ["steps", "answer"])
@pytest.mark.parametrize("use_all", [True, False])
def test_the_expert_solves_every_game(mode: str, style: str, use_all: bool) -> None:
    env = CountdownEnv(style, mode=mode, use_all=use_all)
    for seed in range(60):
        env.reset(seed=seed)
        assert 1 <= min(env.start) <= max(env.start) < 100
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(env.oracle_action())
        assert (reward, info["success"]) == (1.0, True)


def test_chance_hardly_ever_solves_a_game() -> None:
    env = gym.make("agentgym/countdown-v0")
    env.action_space.seed(0)
    won = 0.0
    for seed in range(100):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        won += float(reward)
    assert won <= 5


def test_splits_share_no_target() -> None:
    drawn = {}
    for split in ("train", "held_out", "all"):
        env = CountdownEnv(split=split, start_size=3)
        drawn[split] = {env.reset(seed=seed)[1]["target"] for seed in range(60)}
    assert drawn["held_out"] == set(split_targets(10, 100, held_out=True))
    assert not drawn["train"] & drawn["held_out"]
    assert drawn["all"] & drawn["held_out"]


def test_difficulty() -> None:
    hard = CountdownEnv(max_solutions=2, start_size=3)
    easy = CountdownEnv(min_solutions=6, start_size=3)
    for seed in range(10):
        hard.reset(seed=seed)
        assert 1 <= hard.difficulty() <= 2
        easy.reset(seed=seed)
        assert easy.difficulty() >= 6


def test_every_game_has_a_solution_and_follows_from_the_seed() -> None:
    env, twin = CountdownEnv(start_size=5), CountdownEnv(start_size=5)
    for seed in range(20):
        assert env.reset(seed=seed) == twin.reset(seed=seed)
        assert solve(env.target, env.start) is not None
    assert env.reset() == twin.reset()


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_a_forked_game_goes_on_like_the_first(mode: str) -> None:
    env = gym.make("agentgym/countdown-v0", mode=mode, start_size=5)
    env.action_space.seed(1)
    for seed in range(5):
        env.reset(seed=seed)
        env.step(env.action_space.sample())
        copy = fork(env)
        done = False
        while not done:
            action = env.action_space.sample()
            ours, theirs = env.step(action), copy.step(action)
            assert ours == theirs
            done = ours[2] or ours[3]
        assert copy.reset() == env.reset()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": "both"}, "style must be"),
        ({"split": "test"}, "split must be"),
        ({"start_size": 1}, "start_size must be"),
        ({"start_size": 7}, "start_size must be"),
        ({"ops": "+^"}, "ops must be"),
        ({"ops": ""}, "ops must be"),
        ({"min_target": 50, "max_target": 40}, "min_target <= max_target"),
        ({"min_solutions": 3, "max_solutions": 2}, "min_solutions <= max_solutions"),
        ({"split": "held_out", "min_target": 10, "max_target": 12}, "is held out"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CountdownEnv(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"target": 3}, {"target": "x", "numbers": [1, 2]}, {"target": 5, "numbers": [0, 1]}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CountdownEnv().reset(seed=0, options=options)


def test_problems_that_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="ask for less"):
        CountdownEnv(ops="/", start_size=2, min_target=100, split="all").reset(seed=0)
