"""The household: published texts, exact commands, tasks, an expert from anywhere, both modes."""

from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.household import HELP, NOTHING, HouseholdEnv, listed
from agentgym.environments.text.household_rooms import SPLITS, TASKS, Game, house
from agentgym.errors import ConfigError
from agentgym.forks import fork

KITCHEN = Game(
    split="train",
    number=0,
    room="kitchen",
    layout=0,
    task="pick_cool_then_place_in_recep",
    thing="apple",
    target="countertop",
    wording="put a cool apple in countertop",
    receptacles=(
        *("countertop 1", "fridge 1", "drawer 1", "sinkbasin 1", "microwave 1"),
        *("sidetable 1", "garbagecan 1"),
    ),
    objects=("apple 1", "knife 1", "mug 1", "fork 1"),
    places=(1, 0, 0, 2),
)
BEDROOM = KITCHEN._replace(
    room="bedroom",
    task="look_at_obj_in_light",
    thing="book",
    target="desklamp",
    wording="examine the book with the desklamp",
    receptacles=("bed 1", "desk 1"),
    objects=("book 1", "desklamp 1", "pillow 1"),
    places=(0, 1, 0),
)


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> HouseholdEnv:
    return at_start(monkeypatch, KITCHEN)


def at_start(monkeypatch: pytest.MonkeyPatch, game: Game, **arguments: Any) -> HouseholdEnv:
    monkeypatch.setattr(
        "agentgym.environments.text.household.make_game", lambda split, number: game
    )
    env = HouseholdEnv(**arguments)
    env.reset(seed=0)
    return env


def said(env: HouseholdEnv, text: str) -> str:
    return env.step(text)[0]["text"]


WELCOME = (
    "-= Welcome to TextWorld, ALFRED! =-\n\n"
    "You are in the middle of a room. Looking quickly around you, you see a countertop 1, "
    "a fridge 1, a drawer 1, a sinkbasin 1, a microwave 1, a sidetable 1, and a garbagecan 1.\n\n"
    "Your task is to: put a cool apple in countertop."
)
GOLDEN = [
    ("inventory", "You are not carrying anything."),
    ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed."),
    ("open drawer 1", "You open the drawer 1. The drawer 1 is open. In it, you see a fork 1."),
    ("take fork 1 from drawer 1", "You pick up the fork 1 from the drawer 1."),
    ("examine drawer 1", "The drawer 1 is open. In it, you see nothing."),
    ("inventory", "You are carrying: a fork 1."),
    ("look", "You are facing the drawer 1. Next to it, you see nothing."),
    ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing."),
    ("clean fork 1 with sinkbasin 1", "You clean the fork 1 using the sinkbasin 1."),
    ("examine fork 1", "This is a clean fork 1."),
    (
        "go to countertop 1",
        "You arrive at countertop 1. On the countertop 1, you see a knife 1, and a mug 1.",
    ),
    ("move fork 1 to countertop 1", "You move the fork 1 to the countertop 1."),
    ("examine countertop 1", "On the countertop 1, you see a knife 1, a mug 1, and a fork 1."),
    ("examine mug 1", "There's nothing special about mug 1."),
    ("take knife 1 from countertop 1", "You pick up the knife 1 from the countertop 1."),
    ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
    ("open fridge 1", "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1."),
    ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
    ("examine apple 1", "This is a sliced apple 1."),
    ("close fridge 1", "You close the fridge 1."),
    ("examine apple 1", NOTHING),
    ("go to fridge 1", NOTHING),
    ("help", HELP),
]


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_golden_transcript(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    env = at_start(monkeypatch, KITCHEN, mode=mode)
    assert env.render() == WELCOME
    for text, answer in GOLDEN:
        observation, reward, terminated, _, _ = env.step(text)
        assert observation["text"] == answer
        assert (reward, terminated) == (0.0, False)


def test_heat_cool_and_words_for_it(kitchen: HouseholdEnv) -> None:
    for text in ("go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"):
        kitchen.step(text)
    script = [
        ("cool apple 1 with fridge 1", "You cool the apple 1 using the fridge 1."),
        ("examine apple 1", "This is a cold apple 1."),
        ("go to microwave 1", "You arrive at microwave 1. The microwave 1 is closed."),
        ("heat apple 1 with microwave 1", "You heat the apple 1 using the microwave 1."),
        ("examine apple 1", "This is a hot apple 1."),
        ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing."),
        ("clean apple 1 with sinkbasin 1", "You clean the apple 1 using the sinkbasin 1."),
        ("examine apple 1", "This is a hot and clean apple 1."),
    ]
    for text, answer in script:
        assert said(kitchen, text) == answer
    # Hot, not cold: laid on the countertop nothing is done yet.
    kitchen.step("go to countertop 1")
    assert kitchen.step("move apple 1 to countertop 1")[1:3] == (0.0, False)
    for text in ("take apple 1 from countertop 1", "go to fridge 1", "cool apple 1 with fridge 1"):
        kitchen.step(text)
    kitchen.step("go to countertop 1")
    _, reward, terminated, _, info = kitchen.step("move apple 1 to countertop 1")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_exactly_what_is_possible_is_admissible(kitchen: HouseholdEnv) -> None:
    start = list(kitchen.admissible())
    goes = [f"go to {name}" for name in KITCHEN.receptacles]
    assert start == [*goes, "inventory", "look", "help"]
    kitchen.step("go to fridge 1")
    goes.remove("go to fridge 1")
    closed = [*goes, "open fridge 1", "examine fridge 1", "inventory", "look", "help"]
    assert list(kitchen.admissible()) == closed
    kitchen.step("open fridge 1")
    kitchen.step("take apple 1 from fridge 1")
    assert list(kitchen.admissible()) == [
        *goes,
        "close fridge 1",
        "move apple 1 to fridge 1",
        "cool apple 1 with fridge 1",
        "examine fridge 1",
        "examine apple 1",
        "inventory",
        "look",
        "help",
    ]


def test_all_that_is_admissible_works_and_nothing_else() -> None:
    env = HouseholdEnv()
    rng = np.random.default_rng(0)
    verbs = Counter[str]()
    seen: set[str] = set()
    for seed in range(12):
        _, info = env.reset(seed=seed)
        for _ in range(40):
            admissible = info["admissible_actions"]
            assert len(set(admissible)) == len(admissible)
            before = env.snapshot()
            for text in sorted(seen)[:: max(1, len(seen) // 20)]:
                observation = env.step(text)[0]
                assert (observation["text"] == NOTHING) == (text not in admissible), text
                env.restore(before)
            seen.update(admissible)
            action = admissible[int(rng.integers(len(admissible)))]
            verbs[action.split()[0]] += 1
            observation, _, terminated, _, info = env.step(action)
            assert observation["error"] == ""
            if terminated:
                break
    assert {"go", "open", "take", "move", "examine", "close"} <= set(verbs)


def test_light(monkeypatch: pytest.MonkeyPatch) -> None:
    env = at_start(monkeypatch, BEDROOM)
    script = [
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see a desklamp 1."),
        ("examine desklamp 1", "This desklamp 1 is off."),
        ("use desklamp 1", "You turn on the desklamp 1."),
        ("examine desklamp 1", "This desklamp 1 is on."),
        ("use desklamp 1", "You turn off the desklamp 1."),
        ("take desklamp 1 from desk 1", NOTHING),
        ("go to bed 1", "You arrive at bed 1. On the bed 1, you see a book 1, and a pillow 1."),
        ("take book 1 from bed 1", "You pick up the book 1 from the bed 1."),
    ]
    for text, answer in script:
        assert said(env, text) == answer
    assert env.step("go to desk 1")[1:3] == (0.0, False)  # the lamp is off
    assert env.step("use desklamp 1")[1:3] == (1.0, True)


def test_in_the_original_a_lamp_once_used_counts_as_lit(monkeypatch: pytest.MonkeyPatch) -> None:
    env = at_start(monkeypatch, BEDROOM, mode="original")
    env.step("go to desk 1")
    assert said(env, "use desklamp 1") == "You turn on the desklamp 1."
    assert said(env, "use desklamp 1") == "You turn on the desklamp 1."
    env.step("go to bed 1")
    env.step("take book 1 from bed 1")
    assert env.step("go to desk 1")[1:3] == (1.0, True)


def test_slicing_through_a_closed_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, works in (("original", True), ("fixed", False)):
        env = at_start(monkeypatch, KITCHEN, mode=mode)
        env.step("go to countertop 1")
        env.step("take knife 1 from countertop 1")
        env.step("go to fridge 1")
        assert (said(env, "slice apple 1 with knife 1") != NOTHING) == works


def test_the_older_words(monkeypatch: pytest.MonkeyPatch) -> None:
    env = at_start(monkeypatch, KITCHEN, wording="put")
    env.step("go to countertop 1")
    env.step("take mug 1 from countertop 1")
    assert "put mug 1 in/on countertop 1" in env.admissible()
    answer = "You put the mug 1 in/on the countertop 1."
    assert said(env, "put mug 1 in/on countertop 1") == answer
    newer = at_start(monkeypatch, KITCHEN)
    newer.step("go to countertop 1")
    newer.step("take mug 1 from countertop 1")
    answer = "You move the mug 1 to the countertop 1."
    assert said(newer, "put mug 1 in/on countertop 1") == answer


def test_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    game = KITCHEN._replace(
        task="pick_two_obj_and_place",
        thing="fork",
        target="drawer",
        wording="put two fork in drawer",
        receptacles=("countertop 1", "drawer 1", "drawer 2"),
        objects=("fork 1", "fork 2"),
        places=(0, 0),
    )
    env = at_start(monkeypatch, game)
    for drawer, end in ((1, 0.0), (2, 0.0)):  # one in each is not two in one
        env.step("go to countertop 1")
        env.step(f"take fork {drawer} from countertop 1")
        env.step(f"go to drawer {drawer}")
        env.step(f"open drawer {drawer}")
        assert env.step(f"move fork {drawer} to drawer {drawer}")[1] == end
    env.step("take fork 2 from drawer 2")
    env.step("go to drawer 1")
    assert env.step("move fork 2 to drawer 1")[1:3] == (1.0, True)


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_does_every_task(task: str) -> None:
    env = gym.make("agentgym/household-v0", tasks=[task])
    world: Any = env.unwrapped
    for seed in range(100):
        _, info = env.reset(seed=seed)
        assert info["task_type"] == task
        done = False
        while not done:
            observation, reward, terminated, truncated, info = env.step(world.oracle_action())
            assert observation["error"] == ""
            done = terminated or truncated
        assert (reward, info["success"]) == (1.0, True)


@pytest.mark.parametrize("mode", ["fixed", "original"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_helps_from_anywhere(mode: str, split: str) -> None:
    env = HouseholdEnv(split=split, mode=mode, wording="put")
    env.action_space.seed(0)
    for seed in range(40):
        env.reset(seed=seed)
        terminated = False
        for _ in range(25):
            terminated = terminated or env.step(env.action_space.sample())[2]
            if terminated:
                break
        turns = 0
        while not terminated:
            terminated = env.step(env.oracle_action())[2]
            turns += 1
            assert turns < 30


def test_chance_hardly_ever_does_a_task() -> None:
    env = gym.make("agentgym/household-v0")
    env.action_space.seed(0)
    won = 0
    for seed in range(60):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        won += reward == 1.0
    assert won <= 3


@pytest.mark.parametrize(
    "text", ["", "\n", "dance", "take apple 1", "go to moon 1", "\ud800", "put ", "x" * 100_000]
)
def test_what_is_not_possible_does_nothing(kitchen: HouseholdEnv, text: str) -> None:
    before = kitchen.save()
    observation, reward, terminated, truncated, _ = kitchen.step(text)
    assert observation["text"] == NOTHING
    assert observation["error"]
    assert len(observation["error"]) < 300
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert kitchen.save() == before


def test_case_and_spacing_matter_in_the_original_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, answer in (("fixed", True), ("original", False)):
        env = at_start(monkeypatch, KITCHEN, mode=mode)
        assert (said(env, "Go to  Drawer 1") != NOTHING) == answer


def test_a_number_names_a_game() -> None:
    env = HouseholdEnv(split="valid_unseen")
    first = env.reset(seed=0, options={"game": 3})
    assert first[1]["game"] == 3
    assert env.reset(seed=1, options={"game": 3}) == first


def test_keys_name_states() -> None:
    env = HouseholdEnv()
    _, info = env.reset(seed=0)
    start = info["state_key"]
    assert env.step("look")[4]["state_key"] == start
    assert env.step(env.oracle_action())[4]["state_key"] != start
    assert env.reset(seed=0)[1]["state_key"] == start
    assert env.reset(seed=1)[1]["state_key"] != start


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_a_forked_game_goes_on_like_the_first(mode: str) -> None:
    env = gym.make("agentgym/household-v0", mode=mode)
    env.action_space.seed(0)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(10):
            env.step(env.action_space.sample())
        copy = fork(env)
        for _ in range(15):
            action = env.action_space.sample()
            ours = env.step(action)
            assert copy.step(action) == ours
            if ours[2]:
                break
        assert copy.reset() == env.reset()


def test_snapshots_of_other_rooms_are_refused() -> None:
    env = HouseholdEnv()
    env.reset(seed=0)
    good = env.save()
    for wrong in (
        {"places": good["places"][1:]},
        {"places": [99, *good["places"][1:]]},
        {"hand": 0},
        {"at": 99},
        {"number": 10**6},
    ):
        with pytest.raises(ConfigError):
            env.load(good | wrong)
    env.load(good)
    assert env.save() == good


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split must be"),
        ({"wording": "lay"}, "wording must be"),
        ({"tasks": []}, "tasks must be"),
        ({"tasks": "pick_and_place_simple"}, "tasks must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HouseholdEnv(**arguments)


@pytest.mark.parametrize("options", [{"seed": 1}, {"game": "1"}, {"game": -1}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        HouseholdEnv().reset(seed=0, options=options)


def test_lists() -> None:
    assert listed(["a", "b", "c"]) == "a a, a b, and a c"
    assert house().kinds["desklamp"].portable is False
