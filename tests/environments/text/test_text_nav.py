"""Text-Nav: the published house and words, what is possible, an expert from anywhere."""

from collections import deque
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.text_nav import EXITS, FOOD, OBJECTIVE, TextNavEnv, listed, way
from agentgym.errors import ConfigError
from agentgym.forks import fork

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def begun(room: str = "bedroom", **arguments: Any) -> TextNavEnv:
    env = TextNavEnv(**arguments)
    env.reset(seed=0, options={"room": room})
    return env


def said(env: TextNavEnv, text: str) -> str:
    return env.step(text)[0]["text"]


def first_part(text: str) -> str:
    return text.split("\n\nAdmissible commands: ")[0]


def distance(start: str, end: str) -> int:
    known, queue = {start: 0}, deque([start])
    while queue:
        room = queue.popleft()
        for there in EXITS[room].values():
            if there not in known:
                known[there] = known[room] + 1
                queue.append(there)
    return known[end]


def test_the_published_house() -> None:
    assert EXITS["bedroom"]["west"] == "living room"
    assert EXITS["living room"]["west"] == "dining room"
    assert EXITS["dining room"]["west"] == "kitchen"
    assert EXITS["kitchen"]["north"] == "garden"
    assert EXITS["living room"]["south"] == "office"
    assert EXITS["office"]["east"] == "bathroom"
    assert EXITS["bedroom"]["south"] == "bathroom"
    assert EXITS["kitchen"]["west"] == "backyard"
    assert sum(map(len, EXITS.values())) == 2 * 8
    for room, exits in EXITS.items():
        for direction, there in exits.items():
            assert EXITS[there][OPPOSITE[direction]] == room


def test_golden_transcript_of_the_original() -> None:
    """The walkthrough that is published with the game, from the bedroom."""
    env = TextNavEnv("partial", mode="original")
    observation, _ = env.reset(seed=0, options={"room": "bedroom"})
    assert observation["goal"] == OBJECTIVE
    assert observation["text"] == (
        "Oh wow! Is that what I think it is? It is! It's a table. You see a bowl on the table.\n\n"
        "There are unguarded exits to the south and west.\n\n"
        "Admissible commands: go south, go west, take bowl from table\n"
    )
    assert said(env, "go west") == (
        "You see a table. On the table you can make out a stale food and a fresh food.\n\n"
        "There are unguarded exits to the east, south and west.\n\n"
        "Admissible commands: go east, go south, go west, take fresh food from table, "
        "take stale food from table\n"
    )
    assert said(env, "take stale food from table") == (
        "You take the stale food from the table.\n\n"
        "Admissible commands: drop stale food, eat stale food, go east, go south, go west, "
        "put stale food on table, take fresh food from table\n"
    )
    assert first_part(said(env, "go west")) == (
        "You can make out a table. The table is normal. On the table you can see a coffee cup "
        "and a plate. There's something strange about this being here, but you can't put your "
        "finger on it.\n\nThere are unguarded exits to the east and west."
    )
    assert first_part(said(env, "go west")) == (
        "You see a closed fridge.\n\nThere are unblocked exits to the east, north and west."
    )
    assert first_part(said(env, "open fridge")) == "You open the fridge, revealing a fruit."
    assert said(env, "insert stale food into fridge") == (
        "You put the stale food into the fridge.\n\n"
        "Admissible commands: close fridge, go east, go north, go west, take fruit from fridge, "
        "take stale food from fridge\n"
    )
    observation, reward, terminated, truncated, info = env.step("close fridge")
    assert observation["text"] == (
        "You close the fridge.\n\nYour score has just gone up by one point.\n\n"
        "*** The End ***\n\nYou scored 1 out of a possible 1, in 8 turns."
    )
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_eating_the_food_loses() -> None:
    env = begun("living room", mode="original")
    env.step("take stale food from table")
    observation, reward, terminated, _, info = env.step("eat stale food")
    assert observation["text"] == (
        "You eat the stale food. Not bad.\n\n*** You lost! ***\n\n"
        "You scored 0 out of a possible 1, in 2 turns."
    )
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_the_interpreters_answers() -> None:
    """As TextWorld 1.7 answers in this house."""
    env = begun("living room", observe="partial", mode="original")
    script = [
        ("take stale food from table", "You take the stale food from the table."),
        ("eat fresh food", "You need to take the fresh food first."),
        ("take bowl from table", "You can't see any such thing."),
        ("take fresh food from table", "You take the fresh food from the table."),
        ("eat fresh food", "You eat the fresh food. Not bad."),
        ("inventory", "You are carrying: a stale food."),
        ("drop stale food", "You drop the stale food on the ground."),
        ("inventory", "You are carrying nothing."),
        ("take stale food", "You pick up the stale food from the ground."),
        ("put stale food on table", "You put the stale food on the table."),
        ("go north", "You can't go that way."),
        ("xyzzy", "That's not a verb I recognise."),
        ("examine table", "The table is solidly built. On the table is a stale food."),
        ("take stale food from table", "You take the stale food from the table."),
        (
            "look",
            "You see a table. Unfortunately, there isn't a thing on it. Sometimes, just "
            "sometimes, TextWorld can just be the worst.\n\n"
            "There are unguarded exits to the east, south and west.",
        ),
        (
            "go south",
            "You make out a chest.\n\nThere are unguarded exits to the east and north.",
        ),
        ("open chest", "You open the chest, revealing an utensils."),
        ("take utensils from chest", "You take the utensils from the chest."),
        ("insert utensils into chest", "You put the utensils into the chest."),
        ("close chest", "You close the chest."),
        ("examine chest", "The chest looks strong, and impossible to break. It is closed."),
        ("drop stale food", "You drop the stale food on the ground."),
        (
            "look",
            "You make out a chest.\n\nThere are unguarded exits to the east and north.\n\n"
            "There is a stale food on the floor.",
        ),
    ]
    for text, answer in script:
        assert first_part(said(env, text)) == answer


def test_full_observation_tells_room_and_inventory() -> None:
    env = begun("office", mode="original")
    assert env.render() == (
        "You find yourself in an office. You make out a chest.\n\n"
        "There are unguarded exits to the east and north.\n"
        "You are carrying nothing.\n\n"
        "Admissible commands: go east, go north, open chest\n"
    )


def test_plain_words() -> None:
    env = begun("kitchen")
    assert env.render() == (
        "You are in the kitchen. There is a closed fridge. Exits: east, north, west.\n"
        "You are carrying nothing.\n"
        "Admissible commands: go east, go north, go west, open fridge"
    )
    env.step("open fridge")
    assert said(env, "look").startswith("You are in the kitchen. There is an open fridge with a")
    partial = begun("garden", observe="partial")
    assert partial.render() == "Exits: south.\nAdmissible commands: go south"


@pytest.mark.parametrize("text", ["Take the stale food", "get stale food from table", "take stale"])
def test_what_can_only_mean_one_command(text: str) -> None:
    env = begun("living room")
    assert env.step(text)[4]["inventory"] == [FOOD]


@pytest.mark.parametrize("mode", ["fixed", "original"])
@pytest.mark.parametrize("text", ["", "\n", "take", "go up", "\ud800", "quit", "x" * 100_000])
def test_what_is_not_possible_changes_nothing(mode: str, text: str) -> None:
    env = begun("living room", mode=mode)
    before = env.key()
    observation, reward, terminated, truncated, info = env.step(text)
    assert observation["error"]
    assert len(observation["error"]) < 300
    assert (reward, terminated, truncated, info["state_key"]) == (0.0, False, False, before)


@pytest.mark.parametrize("mode", ["fixed", "original"])
@pytest.mark.parametrize("room", EXITS)
def test_the_experts_way_is_shortest(mode: str, room: str) -> None:
    env = begun(room, mode=mode)
    turns, terminated = 0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(env.oracle_action())
        turns += 1
    assert reward == 1.0
    # Take, two rooms to the kitchen, open, insert, close.
    assert turns == distance(room, "living room") + 6 <= 15
    assert env.key().startswith("kitchen")


def test_the_expert_helps_from_anywhere() -> None:
    env = TextNavEnv()
    env.action_space.seed(0)
    helped = 0
    for seed in range(120):
        env.reset(seed=seed)
        terminated = False
        for _ in range(20):
            terminated = terminated or env.step(env.action_space.sample())[2]
        if terminated:
            continue
        turns, reward = 0, 0.0
        while not terminated:
            _, reward, terminated, _, _ = env.step(env.oracle_action())
            turns += 1
            assert turns <= 15
        helped += reward == 1.0
    assert helped >= 60


def test_food_in_the_chest_is_found() -> None:
    env = begun("living room")
    for text in ("take stale food", "go south", "open chest", "insert stale food into chest"):
        env.step(text)
    env.step("close chest")
    assert env.oracle_action() == "open chest"
    env.step("open chest")
    assert env.oracle_action() == "take stale food from chest"


def test_chance_hardly_ever_wins() -> None:
    env = gym.make("agentgym/text_nav-v0")
    env.action_space.seed(0)
    won = 0
    for seed in range(150):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        won += reward == 1.0
    assert won <= 4


def test_starts_are_drawn_from_the_seed() -> None:
    env, twin = TextNavEnv(), TextNavEnv()
    rooms = set()
    for seed in range(60):
        first = env.reset(seed=seed)
        assert first == twin.reset(seed=seed)
        rooms.add(first[1]["room"])
    assert rooms == set(EXITS)


def test_keys_do_not_depend_on_the_way() -> None:
    env = begun("bedroom")
    start = env.key()
    for text in ("go west", "take fresh food", "put fresh food on table", "go east"):
        env.step(text)
    assert env.key() == start
    env.step("take bowl")
    assert env.key() != start


@pytest.mark.parametrize("mode", ["fixed", "original"])
@pytest.mark.parametrize("observe", ["full", "partial"])
def test_a_forked_game_goes_on_like_the_first(mode: str, observe: str) -> None:
    env = gym.make("agentgym/text_nav-v0", mode=mode, observe=observe)
    env.action_space.seed(0)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(env.action_space.sample())
        copy = fork(env)
        for _ in range(10):
            action = env.action_space.sample()
            ours = env.step(action)
            assert copy.step(action) == ours
            if ours[2]:
                break
        assert copy.reset() == env.reset()


def test_snapshots_of_other_houses_are_refused() -> None:
    env = begun()
    good = env.save()
    wrongs: list[dict[str, Any]] = [
        {"room": "attic"},
        {"opened": ["table"]},
        {"inside": {**good["inside"], "hand": ["sword"]}},
        {"inside": {**good["inside"], "hand": ["bowl"]}},
        {"inside": {"hand": []}},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            env.load(good | wrong)
    env.load(good)
    assert env.save() == good


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="observe must be"):
        TextNavEnv("some")
    for options in ({"start": "garden"}, {"room": "attic"}):
        with pytest.raises(ConfigError):
            TextNavEnv().reset(seed=0, options=options)


def test_small_helpers() -> None:
    assert listed(["office"]) == "an office"
    assert way("garden", "living room") == "south"
    assert way("garden", "garden") == ""
