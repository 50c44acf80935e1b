"""The base of games in pure Python, on a game of counting."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Choices, Outcome, TextGame
from agentgym.errors import ConfigError, EpisodeOverError
from agentgym.types import ImageArray


def count(text: str) -> None:
    """Say the next number."""


class Counting(TextGame):
    """Count on from a random number to ten."""

    actions = (count,)

    def begin(self, options: Mapping[str, Any]) -> str:
        if set(options) - {"first"}:
            raise ConfigError(f"unknown option {options!r}")
        self.number = int(options.get("first", self.np_random.integers(1, 6)))
        return f"I say {self.number}."

    def goal(self) -> str:
        return "Count to ten."

    def play(self, call: ActionCall) -> Outcome:
        if call.arguments["text"] != str(self.number + 1):
            return Outcome("No.", -1.0, error="that is not the next number")
        self.number += 1 + int(self.np_random.integers(2))
        return Outcome(f"I say {self.number}.", 1.0, self.number >= 10, success=self.number >= 10)

    def save(self) -> Any:
        return [self.number]

    def load(self, state: Any) -> None:
        (self.number,) = state

    def admissible(self) -> list[str]:
        return [str(self.number + 1)]

    def expert(self) -> str:
        return str(self.number + 1)


class Drawn(Counting):
    image_size = (2, 3)

    def picture(self) -> ImageArray:
        return np.full((2, 3, 3), self.number, np.uint8)


def ready(seed: int = 0, **kwargs: Any) -> Counting:
    game = Counting(**kwargs)
    game.reset(seed=seed)
    return game


def test_a_game_from_its_start_to_its_end() -> None:
    game = Counting()
    observation, info = game.reset(options={"first": 8}, seed=1)
    assert observation == {"goal": "Count to ten.", "text": "I say 8.", "error": ""}
    assert info["admissible_actions"] == ["9"]
    assert game.oracle_action() == "9"
    observation, reward, terminated, truncated, info = game.step("I think.\n9")
    assert (reward, truncated) == (1.0, False)
    if not terminated:
        *_, terminated, truncated, info = game.step(game.oracle_action())
    assert terminated
    assert info["success"] is True
    assert info["admissible_actions"] == []
    for act in (lambda: game.step("1"), game.oracle_action):
        with pytest.raises(EpisodeOverError):
            act()


@pytest.mark.parametrize(("text", "parsed"), [("", False), ("\x00", True), ("ten", True)])
def test_what_cannot_be_done_is_told(text: str, parsed: bool) -> None:
    game = ready()
    before = game.render()
    observation, _, terminated, _, info = game.step(text)
    assert observation["error"] == info["action_error"] != ""
    assert info["parsed"] is parsed
    assert not terminated
    assert game.render() == ("No." if parsed else before)


def test_from_equal_snapshots_equal_games() -> None:
    game = ready()
    game.step(game.oracle_action())
    snapshot = game.snapshot()
    json.loads(snapshot)
    other = Counting()
    assert other.restore(snapshot) == game.restore(snapshot)
    for _ in range(3):
        action = game.oracle_action()
        answer = game.step(action)
        assert other.step(action) == answer
        if answer[2]:
            break
    over = game.snapshot()
    assert other.restore(over)[0] == game.restore(over)[0]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"null",
        lambda s: s | {"game": "Chess"},
        lambda s: s | {"mode": "original"},
        lambda s: s | {"snapshot": 99},
        lambda s: s | {"state": 3},
        lambda s: s | {"state": [1, 2]},
        lambda s: s | {"chance": {}},
        lambda s: {k: v for k, v in s.items() if k != "over"},
    ],
)
def test_a_snapshot_that_is_none_changes_nothing(damage: Any) -> None:
    game = ready()
    before = game.snapshot()
    bad = damage if isinstance(damage, bytes) else json.dumps(damage(json.loads(before))).encode()
    with pytest.raises(ConfigError):
        game.restore(bad)
    assert game.snapshot() == before
    assert not game.step(game.oracle_action())[0]["error"]


def test_arguments_are_checked() -> None:
    for kwargs in ({"mode": "hard"}, {"action_syntax": "morse"}, {"images": True}):
        with pytest.raises(ConfigError):
            Counting(**kwargs)
    with pytest.raises(ConfigError, match="unknown option"):
        Counting().reset(options={"last": 3})


def test_syntaxes_and_pictures() -> None:
    game = Drawn(action_syntax="python", images=True)
    observation, info = game.reset(seed=0)
    assert observation in game.observation_space
    assert observation["image"].tolist() == np.full((2, 3, 3), game.number).tolist()
    assert info["admissible_actions"] == [f"count('{game.number + 1}')"] or info[
        "admissible_actions"
    ] == [f'count("{game.number + 1}")']
    assert game.action_space.sample() == info["admissible_actions"][0]
    assert game.step(game.oracle_action())[1] == 1.0


def test_random_actions_come_from_those_that_are_possible() -> None:
    choices = Choices(["a", "b"])
    rng = np.random.default_rng(0)
    assert {choices(rng) for _ in range(20)} == {"a", "b"}
