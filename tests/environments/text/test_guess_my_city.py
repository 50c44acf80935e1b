"""Guess My City: both modes' rules by transcripts, the expert, other oracles, leaks."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text.guess_my_city import GuessMyCityEnv
from agentgym.environments.text.question_game import QUESTIONS
from agentgym.errors import EnvFailureError, InferenceError
from agentgym.forks import fork
from agentgym.inference.scripted import ScriptedBackend
from agentgym.players import LanguagePlayer, PlayerTurn


class Says:
    """An oracle that answers by a function of the turn."""

    name = "fake"

    def __init__(self, answer: Callable[[PlayerTurn], str]) -> None:
        self.answer = answer


def made(city: str = "Lima", **arguments: Any) -> GuessMyCityEnv:
    env = GuessMyCityEnv(**arguments)
    env.reset(seed=0, options={"city": city})
    return env


def played(env: GuessMyCityEnv, *lines: str) -> list[tuple[str, float, bool]]:
    """Text, reward and end of each line's turn."""
    steps = [env.step(line) for line in lines]
    return [(step[0]["text"], step[1], step[2]) for step in steps]


def test_golden_transcript() -> None:
    assert played(
        made("Lima"),
        "On which continent is it?",
        "Is it in Brazil?",
        "What do they eat there?",
        "Is it haunted?",
        "Is it Bogota?",
        "Is it Lima, Peru?",
    ) == [
        ("It is in South America. Questions left: 19.", -1.0, False),
        ("No. Questions left: 18.", -1.0, False),
        ("It is known for ceviche and lomo saltado. Questions left: 17.", -1.0, False),
        ("I cannot tell. Questions left: 16.", -1.0, False),
        ("No. Questions left: 15.", -1.0, False),
        ("Yes, it is: Lima.", 0.0, True),
    ]


def test_golden_transcript_of_the_original() -> None:
    env = GuessMyCityEnv(mode="original")
    observation, _ = env.reset(seed=0, options={"city": "Lima"})
    assert observation["text"] == "Questions:\n"
    assert played(
        env,
        "Is it in South America?",
        "On which continent is it?",
        "Is it haunted?",
        "Is it Lima?",
    ) == [
        ("Yes.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("No.\n", -1.0, False),
        ("No.\n", -1.0, False),
    ]


def test_the_original_cannot_be_won() -> None:
    for answer in ("Yes.", "No."):
        env = made("Lima", mode="original", oracle=Says(lambda turn, answer=answer: answer))  # type: ignore[misc]
        rewards, terminated = [], False
        while not terminated:
            _, reward, terminated, _, info = env.step("Is it Lima?")
            rewards.append(reward)
        assert rewards == [-1.0] * QUESTIONS
        assert info["success"] is False
    assert not env.has_oracle
    with pytest.raises(NotImplementedError):
        made(mode="original").oracle_action()


def test_the_original_never_draws_seoul() -> None:
    assert GuessMyCityEnv().secrets[0] == "Seoul"
    original = GuessMyCityEnv(mode="original").secrets
    assert len(original) == 99
    assert "Seoul" not in original


def test_the_original_answers_about_its_own_city() -> None:
    env = made("Tokyo", mode="original")
    assert played(env, "Is it in Japan?", "Is it in Italy?") == [
        ("Yes.\n", -1.0, False),
        ("No.\n", -1.0, False),
    ]


def test_twenty_questions_lose() -> None:
    env = made("Lima")
    for _ in range(QUESTIONS - 1):
        assert env.step("Is it Rome?")[1:4] == (-1.0, False, False)
    observation, reward, terminated, truncated, info = env.step("Is it Rome?")
    assert (reward, terminated, truncated, info["success"]) == (-1.0, True, False, False)
    assert observation["text"] == "No. No questions are left. It was: Lima."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no question"),
        ("quit", "no question"),
        ("\ud800", "no question"),
        ("Rome Lima Paris", "no question"),
        ("Is it Lima or Rome or Paris?", "cannot tell"),
        ("What " * 41, "too long"),
        ("What" + "x" * 400, "too long"),
        ("What is the name of the city?", "secret"),
        ("Which country is it in?", "secret"),
    ],
)
def test_what_does_not_count_as_an_answerable_question(text: str, said: str) -> None:
    env = made("Lima")
    observation, reward, terminated, _, info = env.step(text)
    assert (reward, terminated, info["questions_left"]) == (-1.0, False, 19)
    assert said in observation["text"]
    assert bool(observation["error"]) is (said != "cannot tell")


def test_listing_all_cities_does_not_win() -> None:
    names = GuessMyCityEnv().secrets
    for start in range(0, 100, 10):
        line = "Is it " + " or ".join(names[start : start + 10]) + "?"
        for city in names[start : start + 10]:
            assert made(city).step(line)[2] is False


def test_the_expert_finds_every_city() -> None:
    env = GuessMyCityEnv()
    for name in env.secrets:
        env.reset(seed=0, options={"city": name})
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(env.oracle_action())
        assert (reward, info["success"]) == (0.0, True), name
        assert info["questions_left"] >= 10


def test_random_play_hardly_ever_wins() -> None:
    env = GuessMyCityEnv()
    env.action_space.seed(0)
    wins = 0
    for seed in range(200):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(env.action_space.sample())
        wins += info["success"]
    assert wins <= 10


def test_forks_go_on_alike() -> None:
    env = gym.make("agentgym/guess_my_city-v0")
    env.action_space.seed(0)
    env.reset(seed=5)
    for _ in range(6):
        env.step(env.action_space.sample())
        copy = fork(env)
        action = copy.unwrapped.oracle_action()  # type: ignore[attr-defined]
        assert action == env.unwrapped.oracle_action()  # type: ignore[attr-defined]
        assert copy.step("What is the climate?") == env.step("What is the climate?")
    env.close()


def test_a_language_model_answers_but_does_not_tell_the_name() -> None:
    answers = ["It is Lima!", "The Peruvian capital.", "A city by a cold sea."]
    backend = ScriptedBackend(answers)
    env = made("Lima", oracle=LanguagePlayer(backend))
    assert played(env, "What is it like?") == [
        ("A city by a cold sea. Questions left: 19.", -1.0, False)
    ]
    assert len(backend.requests) == 3
    system = backend.requests[0].messages[0].content
    assert "Lima, Peru" in system
    assert len({request.seed for request in backend.requests}) == 3


@pytest.mark.parametrize("answer", ["", "  \n", "Lima.", "x " * 200])
def test_an_oracle_that_babbles_fails_the_environment(answer: str) -> None:
    env = made("Lima", oracle=Says(lambda turn: answer))
    before = env.snapshot()
    with pytest.raises(EnvFailureError, match="no usable answer"):
        env.step("What is it like?")
    assert env.snapshot() == before


def test_an_oracle_that_times_out_fails_the_environment() -> None:
    def times_out(turn: PlayerTurn) -> str:
        raise InferenceError("no answer within 30 s")

    with pytest.raises(EnvFailureError, match="within 30 s"):
        made(oracle=Says(times_out)).step("What is it like?")
    with pytest.raises(EnvFailureError, match="no usable answer"):
        made(mode="original", oracle=Says(lambda turn: "Maybe")).step("Is it big?")


def test_an_own_answer_leaves_the_expert_able() -> None:
    env = made("Lima", oracle=Says(lambda turn: "Who knows."))
    for _ in range(QUESTIONS - 1):
        env.step(env.oracle_action())
    assert env.oracle_action().startswith("Is it ")
