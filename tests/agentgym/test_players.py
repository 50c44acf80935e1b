"""Players: what is asked and how often, and how a talk becomes a language model's prompt."""

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentgym.chat import ChatFormat
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ConfigError, EnvFailureError, InferenceError
from agentgym.inference.scripted import ScriptedBackend
from agentgym.models.tiny import tiny_tokenizer
from agentgym.players import LanguagePlayer, Player, PlayerTurn, ask
from agentgym.types import Image, Message


class Says:
    """A player that answers by a function of the turn."""

    name = "fake"

    def __init__(self, answer: Callable[[PlayerTurn], Any]) -> None:
        self.answer = answer


def turn(*talk: str, seed: int = 7) -> PlayerTurn:
    """A turn whose messages are written "u: hello" or "a: hi"."""
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    messages = [Message(roles[line[0]], line[3:]) for line in talk]  # type: ignore[arg-type]
    return PlayerTurn("oracle", "Be brief.", tuple(messages), {"word": "cat"}, seed)


def number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def test_what_is_read_is_returned() -> None:
    assert ask(Says(lambda t: "12"), turn("u: how many?"), number) == 12
    assert ask(Says(lambda t: "0"), turn("u: how many?"), number) == 0  # false, but a meaning


def test_babble_is_asked_for_again_with_other_seeds() -> None:
    seeds: list[int] = []

    def answer(asked: PlayerTurn) -> str:
        seeds.append(asked.seed)
        assert (asked.instructions, asked.facts) == ("Be brief.", {"word": "cat"})
        return "well" if len(seeds) < 3 else "5"

    assert ask(Says(answer), turn("u: how many?"), number) == 5
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    again = list(seeds)
    seeds.clear()
    ask(Says(answer), turn("u: how many?"), number)
    assert seeds == again  # equal turns are asked with equal seeds


def test_nothing_but_babble_is_the_environments_failure() -> None:
    asked: list[PlayerTurn] = []
    babbler = Says(lambda t: asked.append(t) or "well " * 100)  # type: ignore[func-returns-value]
    with pytest.raises(EnvFailureError, match=r"fake as oracle gave no usable .* 2 attempts") as e:
        ask(babbler, turn("u: how many?"), number, attempts=2)
    assert len(asked) == 2
    assert len(str(e.value)) < 200
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        ask(babbler, turn("u: how many?"), number, attempts=0)


@pytest.mark.parametrize(
    "error", [InferenceError("no model"), TimeoutError("30 s"), OSError("gone"), KeyError("x")]
)
def test_what_a_player_raises_is_the_environments_failure(error: Exception) -> None:
    def fail(asked: PlayerTurn) -> str:
        raise error

    with pytest.raises(EnvFailureError, match="fake as oracle failed") as caught:
        ask(Says(fail), turn("u: hi"), number)
    assert caught.value.__cause__ is error


def test_wrong_settings_are_said_as_such() -> None:
    def fail(asked: PlayerTurn) -> str:
        raise ConfigError("no key")

    with pytest.raises(ConfigError, match="no key"):
        ask(Says(fail), turn("u: hi"), number)


@pytest.mark.parametrize("answer", [None, 3, b"3"])
def test_answers_are_text(answer: object) -> None:
    with pytest.raises(EnvFailureError, match=f"with {type(answer).__name__}, not text"):
        ask(Says(lambda t: answer), turn("u: hi"), number)


def test_a_language_model_gets_instructions_talk_and_seed() -> None:
    backend = ScriptedBackend([" 42 \n"])
    player = LanguagePlayer(backend, sampling=SamplingParams(max_tokens=5), name="judge")
    assert isinstance(player, Player)
    assert player.answer(turn("u: one", "a: two", "u: three", seed=9)) == "42"
    (request,) = backend.requests
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )
    assert (request.seed, request.sampling.max_tokens, len(request.prompt_ids)) == (9, 5, 0)


@pytest.mark.parametrize(
    ("talk", "alternating"),
    [
        (("u: one",), ["one"]),
        (("u: one", "u: two"), ["one\ntwo"]),
        (
            ("u: one", "t: two", "a: three", "a: four", "u: five"),
            ["one\ntwo", "three\nfour", "five"],
        ),
        (("a: one", "u: two"), ["", "one", "two"]),
        (("u: ", "u: "), ["\n"]),
    ],
)
def test_both_sides_take_turns(talk: tuple[str, ...], alternating: list[str]) -> None:
    backend, tokenizer = ScriptedBackend(["fine"]), tiny_tokenizer()
    LanguagePlayer(backend, tokenizer).answer(turn(*talk))
    (request,) = backend.requests
    contents = [message.content for message in request.messages]
    assert contents == ["Be brief.", *alternating]
    roles = [message.role for message in request.messages[1:]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    # The ids are what the template makes of these messages.
    rendered = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in request.messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode(request.prompt_ids.tolist()) == rendered
    assert request.prompt_ids.dtype == "int32"


def test_control_tokens_in_the_talk_stay_text() -> None:
    backend, tokenizer = ScriptedBackend(["fine"]), tiny_tokenizer()
    LanguagePlayer(backend, tokenizer).answer(turn("u: <|im_end|>"))
    ids = backend.requests[0].prompt_ids.tolist()
    assert ids.count(ChatFormat(tokenizer).end_id) == 2  # of the system and the user message


@pytest.mark.parametrize("talk", [(), ("u: one", "a: two")])
def test_there_must_be_something_to_answer(talk: tuple[str, ...]) -> None:
    player = LanguagePlayer(ScriptedBackend(["fine"]))
    with pytest.raises(ConfigError, match="oracle has nothing to answer"):
        player.answer(turn(*talk))


def test_a_failed_request_is_the_environments_failure() -> None:
    def fail(request: GenerationRequest) -> str:
        raise ValueError("out of memory")

    with pytest.raises(EnvFailureError, match=r"as oracle failed: .*out of memory"):
        ask(LanguagePlayer(ScriptedBackend(fail)), turn("u: hi"), number)


def test_copies_share_the_model() -> None:
    player = LanguagePlayer(ScriptedBackend(["fine"]))
    assert copy.deepcopy({"oracle": player})["oracle"] is player


def test_a_backend_is_not_asked_by_more_than_it_can_take() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    class Slow(ScriptedBackend):
        concurrency = 2

        def generate(self, requests: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
            return super().generate(requests)

    player = LanguagePlayer(Slow(["fine"]))
    threads = [threading.Thread(target=player.answer, args=(turn("u: hi"),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 2
    assert len(player.backend.requests) == 6  # type: ignore[attr-defined]


def test_pictures_stay_where_they_are_in_the_talk() -> None:
    red, blue = Image("a" * 64, b"red"), Image("b" * 64, b"blue")
    messages = (Message("user", "See ", ((4, red),)), Message("user", "and ", ((4, blue),)))
    backend = ScriptedBackend(["yes"])
    turn = PlayerTurn("judge", "Look.", messages)
    assert LanguagePlayer(backend).answer(turn) == "yes"
    message = backend.requests[0].messages[1]
    assert message.parts == ("See ", red, "\nand ", blue)
    with pytest.raises(ConfigError, match="hold no pictures"):
        LanguagePlayer(ScriptedBackend(["yes"]), tiny_tokenizer()).answer(turn)
