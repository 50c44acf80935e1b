"""Twenty Questions: both modes' rules by transcripts, the expert, other oracles."""

import random
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.core import GenerationRequest
from agentgym.environments.text.object_table import object_table
from agentgym.environments.text.question_game import QUESTIONS
from agentgym.environments.text.twenty_questions import (
    CANNOT_TELL,
    TwentyQuestionsEnv,
    guess_question,
    published_question,
)
from agentgym.errors import ConfigError, EnvFailureError, InferenceError
from agentgym.forks import fork
from agentgym.inference.scripted import ScriptedBackend
from agentgym.players import LanguagePlayer, PlayerTurn

NAMES = object_table().names


class Says:
    """An oracle that answers by a function of the turn."""

    name = "fake"

    def __init__(self, answer: Callable[[PlayerTurn], str]) -> None:
        self.answer = answer


def made(thing: str = "Cat", **arguments: Any) -> TwentyQuestionsEnv:
    env = TwentyQuestionsEnv(**arguments)
    env.reset(seed=0, options={"object": thing})
    return env


def played(env: TwentyQuestionsEnv, *lines: str) -> list[tuple[str, float, bool]]:
    """Text, reward and end of each line's turn."""
    steps = [env.step(line) for line in lines]
    return [(step[0]["text"], step[1], step[2]) for step in steps]


def test_golden_transcript() -> None:
    env = TwentyQuestionsEnv()
    observation, info = env.reset(seed=0, options={"object": "Horse"})
    assert observation["text"] == "Ask your first question. Questions left: 20."
    assert info["questions_left"] == 20
    assert played(
        env,
        "Is it an animal?",
        "Is it a pet?",
        "Is it a dream of a dream?",
        "Is it a cow?",
        "I think it has a mane.\nIs it a horse?",
    ) == [
        ("Yes. Questions left: 19.", -1.0, False),
        ("No. Questions left: 18.", -1.0, False),
        ("I cannot tell. Questions left: 17.", -1.0, False),
        ("No. Questions left: 16.", -1.0, False),
        ("Yes, it is: Horse.", 0.0, True),
    ]


def test_golden_transcript_of_the_original() -> None:
    env = TwentyQuestionsEnv(mode="original")
    observation, _ = env.reset(seed=0, options={"object": "Horse"})
    assert observation["text"] == "Questions:\n"
    assert played(
        env,
        "is it an animal",  # made a question: Is it an animal?
        "Is it a dream of a dream?",  # unknown: No.
        "Tell me what it is.",  # no valid question: No.
        "It is a horse.",
        "Is it a type of animal that is a horse?",  # another noun: does not win
        "Is it a kind of horse?",
    ) == [
        ("Yes.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("Yes.\n", 0.0, True),
    ]


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_twenty_questions_lose(mode: str) -> None:
    env = made("Cat", mode=mode)
    for _ in range(QUESTIONS - 1):
        assert env.step("Is it a dog?")[1:4] == (-1.0, False, False)
    observation, reward, terminated, truncated, info = env.step("Is it a dog?")
    assert (reward, terminated, truncated, info["success"]) == (-1.0, True, False, False)
    ending = "No.\n" if mode == "original" else "No. No questions are left. It was: Cat."
    assert observation["text"] == ending


def test_the_last_question_may_win() -> None:
    env = made("Cat")
    for _ in range(QUESTIONS - 1):
        env.step("Is it a dog?")
    assert played(env, "Is it a cat?") == [("Yes, it is: Cat.", 0.0, True)]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("is it red", "Is it red?"),
        ("  Is it red?  ", "Is it red?"),
        ("", "Is this a valid question?"),
        ("?", "Is this a valid question?"),
        ("Has it wheels?", "Is this a valid question?"),
        ("It is a cat", "Is this a valid question?"),
        ("Is it a cat.", "Is this a valid question?"),
        ("Is it used for pens, paper, etc.", "Is it used for pens, paper, etc.?"),
        ("Is it" + " very" * 39 + " red", "Is this a valid question?"),
    ],
)
def test_published_questions(text: str, asked: str) -> None:
    assert published_question(text) == asked


@pytest.mark.parametrize(
    ("thing", "question", "wins"),
    [
        ("Pants", "Is it a pair of pants?", True),
        ("Airplane", "Is it a plane?", True),
        ("Lego", "Is the object a lego set?", True),
        ("Watch", "Is it something like a watch?", False),
        ("Watch", "Is it a piece of jewelry called a watch?", False),
        ("Smartphone", "Is it a phone?", False),
    ],
)
def test_what_wins_in_the_original(thing: str, question: str, wins: bool) -> None:
    assert made(thing, mode="original").step(question)[2] is wins


def test_other_names_win_in_fixed() -> None:
    for thing, line in (("Smartphone", "Is it a phone?"), ("Couch", "Is it the sofa?")):
        assert made(thing).step(line)[1:3] == (0.0, True)


def test_naming_two_objects_does_not_win() -> None:
    assert played(made("Cat"), "Is it a dog or a cat?") == [("Yes. Questions left: 19.", -1, False)]
    every = "Is it " + " or ".join(f"a {name}" for name in NAMES) + "?"
    observation, reward, terminated, _, _ = made("Cat").step(every)
    assert (reward, terminated) == (-1.0, False)
    assert "at most 40 words" in observation["error"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "cat",
        "What is it?",
        "quit",
        "\x00",
        "\ud800",
        "Is " * 50,
        "is" + "x" * 400,
        "x" * 9999,
    ],
)
@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_what_is_no_question_is_told_and_counts(text: str, mode: str) -> None:
    env = made("Cat", mode=mode)
    observation, reward, terminated, _, info = env.step(text)
    assert (reward, terminated, info["questions_left"]) == (-1.0, False, 19)
    if mode == "fixed" or not text.startswith("is"):
        assert observation["error"]
        assert observation in env.observation_space


def test_the_expert_finds_every_object() -> None:
    for mode in ("fixed", "original"):
        env = TwentyQuestionsEnv(mode=mode)
        turns = []
        for name in NAMES:
            env.reset(seed=0, options={"object": name})
            for _ in range(QUESTIONS):
                _, reward, terminated, _, info = env.step(env.oracle_action())
                if terminated:
                    break
            assert info["success"] is True, name
            assert reward == 0.0
            turns.append(QUESTIONS - info["questions_left"])
        assert max(turns) <= 12
        assert sum(turns) / len(turns) < 9  # log2(158) is 7.3, and the name is asked for last


def test_random_play_hardly_ever_wins() -> None:
    env = TwentyQuestionsEnv()
    wins = 0
    env.action_space.seed(0)
    for seed in range(200):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(env.action_space.sample())
        wins += info["success"]
    assert wins <= 6


def test_every_object_comes_up() -> None:
    env = TwentyQuestionsEnv()
    seen = {env.reset(seed=seed)[1]["state_key"].split("/")[0] for seed in range(2000)}
    assert len(seen) == 158
    keys = [env.reset(seed=s, options={"deterministic": True})[1]["state_key"] for s in (3, 161)]
    assert keys[0] == keys[1]
    assert keys[0].startswith("3/")


def test_options_are_checked() -> None:
    env = TwentyQuestionsEnv()
    with pytest.raises(ConfigError, match="known: object"):
        env.reset(options={"word": "Cat"})
    with pytest.raises(ConfigError, match="'Unicorn'"):
        env.reset(options={"object": "Unicorn"})


def test_forks_go_on_alike() -> None:
    chance = random.Random(0)
    env = gym.make("agentgym/twenty_questions-v0")
    env.action_space.seed(0)
    env.reset(seed=5)
    for _ in range(8):
        env.step(env.action_space.sample())
        copy = fork(env)
        action = copy.unwrapped.oracle_action() if chance.random() < 0.5 else "Is it alive?"  # type: ignore[attr-defined]
        assert copy.step(action) == env.step(action)
    env.close()


def test_state_keys_tell_what_is_known() -> None:
    one, other = made("Cat"), made("Cat")
    played(one, "Is it alive?", "Is it a pet?")
    played(other, "Is it a pet?", "Is it alive?")
    assert one.key() == other.key()
    assert played(other, "Is it big?") == played(one, "Is it big?")
    assert one.key() == other.key()
    played(other, "Is it a dog?")
    assert one.key() != other.key()


def test_a_language_model_answers() -> None:
    asked: list[GenerationRequest] = []

    def oracle(request: GenerationRequest) -> str:
        asked.append(request)
        return "yes, certainly"

    env = made("Rock", oracle=LanguagePlayer(ScriptedBackend(oracle)))
    assert played(env, "Is it older than me?", "Is it a cat?", "Is it a rock?") == [
        ("Yes. Questions left: 19.", -1.0, False),
        ("No. Questions left: 18.", -1.0, False),  # what wins is the game's own to tell
        ("Yes, it is: Rock.", 0.0, True),
    ]
    (request,) = asked
    system, question = request.messages
    assert "The object: Rock." in system.content
    assert (question.role, question.content) == ("user", "Is it older than me?")


def test_a_snapshot_of_a_game_with_other_objects_or_questions_is_refused() -> None:
    snapshot = made("Cat", objects=["Cat", "Rock"], questions=5).snapshot()
    for arguments in ({}, {"objects": ["Cat", "Rock"]}, {"questions": 5}):
        other = made("Cat", **arguments)
        before = other.snapshot()
        with pytest.raises(ConfigError, match="made with the same arguments"):
            other.restore(snapshot)
        assert other.snapshot() == before


def test_an_oracle_that_babbles_fails_the_environment() -> None:
    env = made(oracle=Says(lambda turn: "As a language model, I love cats."))
    before = env.snapshot()
    with pytest.raises(EnvFailureError, match="no usable answer in 3 attempts"):
        env.step("Is it alive?")
    assert env.snapshot() == before

    def times_out(turn: PlayerTurn) -> str:
        raise InferenceError("no answer within 30 s")

    with pytest.raises(EnvFailureError, match="within 30 s"):
        made(oracle=Says(times_out)).step("Is it alive?")


@pytest.mark.parametrize(
    ("answer", "mode", "shown"),
    [
        ("YES!", "fixed", "Yes."),
        ("'no', it is not", "fixed", "No."),
        ("I can't tell", "fixed", CANNOT_TELL),
        ("Unknown.", "fixed", CANNOT_TELL),
        ("Yes", "original", "Yes."),
    ],
)
def test_answers_are_read(answer: str, mode: str, shown: str) -> None:
    env = made("Cat", mode=mode, oracle=Says(lambda turn: answer))
    assert env.step("Is it alive?")[0]["text"].startswith(shown)


def test_not_knowing_is_no_published_answer() -> None:
    env = made("Cat", mode="original", oracle=Says(lambda turn: CANNOT_TELL))
    with pytest.raises(EnvFailureError):
        env.step("Is it alive?")


def test_an_oracle_that_contradicts_itself_leaves_an_expert() -> None:
    env = made("Cat", oracle=Says(lambda turn: "Yes."))
    played(env, "Is it alive?", "Is it not alive?")
    assert env.step(env.oracle_action())[0]["text"].startswith("Yes.")


def test_oracles_are_asked_with_seeds_of_their_own() -> None:
    seeds: list[int] = []
    env = made("Cat", oracle=Says(lambda turn: seeds.append(turn.seed) or "No."))  # type: ignore[func-returns-value]
    played(env, "Is it alive?", "Is it alive?")
    env.reset(seed=1, options={"object": "Cat"})
    env.step("Is it alive?")
    assert len(set(seeds)) == 3


def test_guess_questions_name_their_object() -> None:
    for index, name in enumerate(NAMES):
        meaning = object_table().read(guess_question(name))
        assert meaning is not None
        assert meaning.guess == index


FEW: dict[str, Any] = {
    "objects": ["Cat", "Horse", "Apple"],
    "attributes": ["pet", "animal"],
    "questions": 4,
}


def test_a_smaller_game() -> None:
    env = TwentyQuestionsEnv(**FEW)
    secrets = set()
    for seed in range(40):
        observation, info = env.reset(seed=seed)
        secrets.add(env.secrets[env.secret])
        assert info["questions_left"] == 4
        assert "It is one of: cat, horse, apple. You have 4 questions" in observation["goal"]
        asked = [env.oracle_action()]
        while not env.step(asked[-1])[2]:
            asked.append(env.oracle_action())
        assert len(asked) <= 3
    assert secrets == set(FEW["objects"])
    questions = {"Is it a common pet?", "Is it an animal?"}
    questions |= {"Is it a cat?", "Is it a horse?", "Is it an apple?"}
    assert {env.action_space.sample() for _ in range(200)} == questions


def test_the_last_question_of_a_smaller_game_loses() -> None:
    env = made(**FEW)
    assert [step[2] for step in played(env, *["Is it a horse?"] * 4)] == [False, False, False, True]


def test_the_expert_asks_for_objects_where_no_attribute_tells_them_apart() -> None:
    env = made("Horse", objects=["Horse", "Cow"], attributes=["animal"])
    assert env.oracle_action() in ("Is it a horse?", "Is it a cow?")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"objects": ["Catt"]}, "Cat"),
        ({"attributes": ["pets"]}, "pet"),
        ({"questions": 0}, "questions"),
    ],
)
def test_smaller_games_that_cannot_be(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, LookupError), match=told):
        TwentyQuestionsEnv(**wrong)
