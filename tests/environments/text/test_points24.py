"""Points24 as a game: golden games, the published defects, pictures, hostile input."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.cards import draw_table
from agentgym.environments.text.points24 import Points24Env
from agentgym.errors import ConfigError
from agentgym.forks import fork

EIGHTS = ["H3", "S3", "D8", "C8"]


def dealt(cards: list[str], **arguments: Any) -> Points24Env:
    env = Points24Env(**arguments)
    env.reset(seed=0, options={"cards": cards})
    return env


def said(action: str) -> str:
    return json.dumps({"cards": ["3"], "thoughts": "so", "action": action})


def played(env: Points24Env, tokens: str) -> list[tuple[float, bool, bool]]:
    """Rewards and ends of the tokens, one after the other."""
    write = said if env.mode == "original" else str
    return [env.step(write(token))[1:4] for token in tokens.split()]


def test_a_golden_game() -> None:
    env = Points24Env()
    observation, info = env.reset(seed=0, options={"cards": ["HA", "SQ", "D4", "C6"]})
    assert observation["text"] == "Cards: HA, SQ, D4, C6\nNumbers: 1, 10, 4, 6\nFormula: "
    assert info["admissible_actions"] == ["1", "4", "6", "10", "("]
    assert played(env, "( 10 + 4 ) *")[-1] == (0.0, False, False)
    observation, _, _, _, info = env.step("1")
    assert observation["text"].endswith("\nFormula: ( 10 + 4 ) * 1")
    assert info["is_solvable_from_here"] is False  # 14 + 6, 14 - 6, 14 * 6, 14 / 6
    assert info["formula"] == "(10+4)*1"
    assert played(env, "+ 6 =") == [(0.0, False, False), (0.0, False, False), (-1.0, True, False)]


def test_winning() -> None:
    for mode in ("fixed", "original"):
        env = dealt(["HA", "SQ", "D4", "C6"], mode=mode)
        assert played(env, "10 * ( 4 - 1 ) - 6 =")[-1] == (10.0, True, False)


def test_fractions_are_exact_in_fixed_and_rounded_in_the_original() -> None:
    for mode, reward in (("fixed", 10.0), ("original", -1.0)):
        env = dealt(EIGHTS, mode=mode)
        assert env.facts()["solution"] == "8/(3-8/3)"
        assert played(env, "8 / ( 3 - 8 / 3 ) =")[-1] == (reward, True, False)


def test_digits_side_by_side_win_in_the_original_only() -> None:
    cards = ["HA", "S2", "DA", "C2"]
    assert played(dealt(cards, mode="original"), "1 2 + 1 2 =")[-1] == (10.0, True, False)
    env = dealt(cards)
    env.step("1")
    observation, reward, terminated, _, info = env.step("2")
    assert observation["error"] == "2 cannot stand here. Possible now: + - * / ="
    assert (reward, terminated, info["formula"]) == (-1.0, False, "1")


def test_powers_and_floors_work_in_the_original_only() -> None:
    cards = ["H3", "S3", "D3", "HA"]  # 3 ** 3 - 3 and a factor 1
    assert played(dealt(cards, mode="original"), "( 3 * * 3 - 3 ) * 1 =")[-1][0] == 10.0
    env = dealt(cards)
    assert played(env, "3 * *")[-1] == (-1.0, False, False)
    assert dealt(["HK", "SK", "DK", "CK"], mode="original").step(said("*"))[1] == 0.0


def test_a_number_that_is_not_in_the_hand() -> None:
    env = dealt(EIGHTS, mode="original")
    _, reward, terminated, _, info = env.step(said("5"))
    assert (reward, terminated, info["formula"]) == (-1.0, False, " ")
    env = dealt(EIGHTS)
    _, reward, terminated, _, info = env.step("5")
    assert (reward, terminated, info["formula"]) == (-1.0, False, "")


def test_all_four_cards_must_be_used() -> None:
    for mode in ("fixed", "original"):
        assert played(dealt(EIGHTS, mode=mode), "3 * 8 =")[-1] == (-1.0, True, False)


def test_the_original_is_cut_after_more_than_twenty_tokens() -> None:
    env = dealt(EIGHTS, mode="original")
    ends = played(env, "( " * 22)
    assert ends[:21] == [(0.0, False, False)] * 21
    assert ends[21] == (-1.0, False, True)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ('{"action": "10"}', "10"),
        ('{\n "thoughts": "8 + 3",\n "action": "+"\n}', "+"),
        ('{"ACTION": "("}', "("),
        ("I write 8", "8"),  # no key: the last character
        ("8+", "+"),
        ('"8" or (', "("),
    ],
)
def test_how_the_original_reads(text: str, token: str) -> None:
    env = dealt(["HT", "S8", "D3", "C8"], mode="original")
    assert env.step(text)[4]["formula"] == token


@pytest.mark.parametrize("text", ["hello", '{"action": "3", "sure": 1}', '{"action": ""}', ""])
def test_the_original_takes_a_random_action_for_what_it_cannot_read(text: str) -> None:
    seen = set()
    for seed in range(40):
        env = Points24Env(mode="original")
        env.reset(seed=seed, options={"cards": EIGHTS})
        observation, _, terminated, _, info = env.step(text)
        assert observation["error"]
        seen.add("=" if terminated else info["formula"])
    assert len(seen) > 8


def test_json_is_read_in_fixed_too() -> None:
    env = dealt(EIGHTS)
    info = env.step('{"thoughts": "begin with 8",\n "action": "8"\n}')[4]
    assert (info["formula"], info["action"]) == ("8", 'press("8")')
    assert "begin with 8" in info["thought"]


@pytest.mark.parametrize("text", ["", " \n", "8 8", "88", "f(", "\ud800", "x" * 100_000, "+", "="])
def test_what_is_refused_costs_one_and_changes_nothing(text: str) -> None:
    env = dealt(EIGHTS)
    observation, reward, terminated, truncated, info = env.step(text)
    assert observation["error"]
    assert len(observation["error"]) < 300
    assert (reward, terminated, truncated, info["formula"]) == (-1.0, False, False, "")


def test_the_expert_wins_every_hand_that_is_dealt() -> None:
    env = gym.make("agentgym/points24-v0")
    world: Any = env.unwrapped
    for seed in range(120):
        env.reset(seed=seed)
        terminated = truncated = False
        while not terminated:
            _, reward, terminated, truncated, info = env.step(world.oracle_action())
            assert not truncated
        assert (reward, info["success"]) == (10.0, True)


def test_the_expert_in_the_original_wins_what_can_be_won() -> None:
    env = Points24Env(mode="original")
    won = 0
    for seed in range(120):
        _, info = env.reset(seed=seed)
        solvable, terminated = info["is_solvable_from_here"], False
        while not terminated:
            _, _, terminated, _, info = env.step(env.oracle_action())
        assert info["success"] == solvable or info["solution"].count("/") > 1
        won += info["success"]
    assert 0.6 < won / 120 < 0.85  # 73.1 % of hands


def test_the_expert_ends_games_that_are_lost() -> None:
    env = dealt(EIGHTS)
    played(env, "( 3 + 3 +")
    terminated = False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.oracle_action())
    assert reward == -1.0


def test_chance_hardly_ever_wins() -> None:
    env = Points24Env()
    env.action_space.seed(0)
    won = 0
    for seed in range(150):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, reward, terminated, _, _ = env.step(env.action_space.sample())
        won += reward > 0
    assert won <= 5


def test_pictures() -> None:
    env = Points24Env(images=True, describe=False)
    observation, _ = env.reset(seed=0, options={"cards": EIGHTS})
    assert "8" not in observation["text"]
    np.testing.assert_array_equal(observation["image"], draw_table(tuple(EIGHTS), ""))
    observation = env.step("8")[0]
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation["image"], draw_table(tuple(EIGHTS), "8"))


def test_faces_by_their_rank_and_other_targets() -> None:
    env = dealt(["HK", "SQ", "DJ", "CA"], face_cards_as_ten=False, target=37)
    assert env.numbers == [13, 12, 11, 1]
    assert played(env, "13 + 12 + 11 + 1 =")[-1][0] == 10.0


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_a_forked_game_goes_on_like_the_first(mode: str) -> None:
    env = gym.make("agentgym/points24-v0", mode=mode, images=True)
    env.action_space.seed(2)
    for seed in range(4):
        env.reset(seed=seed)
        env.step(env.action_space.sample())
        copy = fork(env)
        done = False
        while not done:
            action = env.action_space.sample() if mode == "fixed" else "whatever"
            ours, theirs = env.step(action), copy.step(action)
            np.testing.assert_array_equal(ours[0].pop("image"), theirs[0].pop("image"))
            assert ours == theirs
            done = ours[2] or ours[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"target": 0}, "target must be"), ({"describe": False}, "nothing to see")],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Points24Env(**arguments)


def test_targets_that_no_hand_makes() -> None:
    with pytest.raises(ConfigError, match="choose another target"):
        Points24Env(target=9999).reset(seed=0)


@pytest.mark.parametrize("options", [{"hand": 1}, {"cards": ["H3"]}, {"cards": ["X3"] * 4}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Points24Env().reset(seed=0, options=options)
