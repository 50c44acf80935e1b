"""The base of question games, on a game of three secrets."""

import json

import pytest

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Outcome
from agentgym.environments.text.question_game import QUESTIONS, QuestionGame
from agentgym.errors import ConfigError
from agentgym.players import PlayerTurn, ask


class Letters:
    """Answers whether the letter is in the secret."""

    name = "letters"

    def answer(self, turn: PlayerTurn) -> str:
        return "yes" if turn.messages[-1].content in turn.facts["word"] else "no"


class Words(QuestionGame):
    """Guess a word by its letters."""

    noun = "word"
    secrets = ("cat", "dog", "cow")

    def goal(self) -> str:
        return "Find the word."

    def play(self, call: ActionCall) -> Outcome:
        text = call.arguments["text"]
        if text == self.secrets[self.secret]:
            return self.won()
        answer = ask(self.oracle, self.turn(text, "Be true."), lambda said: said)
        has = sum(1 << i for i, word in enumerate(self.secrets) if text in word)
        self.left &= has if answer == "yes" else ~has
        return self.counted(f"{answer}.", error=self.too_long(text))


def made(word: str = "dog") -> Words:
    env = Words(Letters())
    env.reset(seed=0, options={"word": word})
    return env


def test_turns_are_counted() -> None:
    env = made("dog")
    observation, reward, terminated, _, info = env.step("o")
    assert (observation["text"], reward) == ("yes. Questions left: 19.", -1.0)
    assert (terminated, info["questions_left"]) == (False, 19)
    assert env.left == 0b110
    observation, reward, terminated, _, info = env.step("dog")
    assert (observation["text"], reward) == ("Yes, it is: dog.", 0.0)
    assert (terminated, info["success"], info["questions_left"]) == (True, True, 18)


def test_the_last_question_loses() -> None:
    env = made("dog")
    for _ in range(QUESTIONS - 1):
        env.step("x")
    observation, reward, terminated, _, info = env.step("x")
    assert (reward, terminated, info["success"]) == (-1.0, True, False)
    assert observation["text"] == "no. No questions are left. It was: dog."


@pytest.mark.parametrize(
    ("text", "long"), [("a " * 40, False), ("a " * 41, True), ("a" * 301, True)]
)
def test_length(text: str, long: bool) -> None:
    assert bool(made().too_long(text)) is long


def test_turns_tell_the_secret_and_have_seeds_of_their_own() -> None:
    env = made("cow")
    turn = env.turn("o", "Be true.")
    assert (turn.role, turn.instructions, turn.facts) == ("oracle", "Be true.", {"word": "cow"})
    assert [(m.role, m.content) for m in turn.messages] == [("user", "o")]
    assert turn == env.turn("o", "Be true.")
    env.step("o")
    assert env.turn("o", "Be true.").seed != turn.seed


def test_draws_come_from_the_seed() -> None:
    env = Words(Letters())
    keys = [env.reset(seed=seed)[1]["state_key"] for seed in range(30)]
    assert {key.split("/")[0] for key in keys} == {"0", "1", "2"}
    assert keys == [env.reset(seed=seed)[1]["state_key"] for seed in range(30)]
    numbers = [env.reset(seed=s, options={"deterministic": True})[1]["state_key"] for s in range(4)]
    assert [key.split("/")[0] for key in numbers] == ["0", "1", "2", "0"]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="word must be one of cat, dog, cow, got 'emu'"):
        made("emu")
    with pytest.raises(ConfigError, match="known: word, deterministic"):
        Words(Letters()).reset(options={"object": "cat"})


def test_snapshots_hold_everything() -> None:
    env = made("cow")
    env.step("o")
    snapshot = env.snapshot()
    state = json.loads(snapshot)["state"]
    assert (state["secret"], state["asked"], state["left"]) == (2, 1, "6")
    other = Words(Letters())
    other.reset(seed=9)
    other.restore(snapshot)
    assert other.key() == env.key() == "2/1/6"
    assert other.step("c") == env.step("c")
    with pytest.raises(ConfigError, match="no snapshot"):
        other.restore(snapshot.replace(b'"secret":2', b'"secret":3'))
