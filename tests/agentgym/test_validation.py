"""`agentgym validate` on environments that are sound, too easy, unwinnable, or broken."""

import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest

from agentgym import validation
from agentgym.actions import ActionSet
from agentgym.core import AgentEnv, Expectation
from agentgym.errors import ConfigError, MissingDependencyError, UnknownNameError
from agentgym.registry import EXPECTATIONS
from agentgym.spaces import ActionText, observation_space
from agentgym.validation import HOSTILE, Rate, expectation, matching, validate


def pick(number: int) -> None:
    """Pick a number."""


class Pick(AgentEnv):
    """Won by one of a million numbers, unless a subclass says otherwise."""

    has_oracle = True

    def __init__(self) -> None:
        self.action_set = ActionSet([pick])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()

    def oracle_action(self) -> str:
        return f"pick({self.secret})"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.secret = 1000 + int(self.np_random.integers(10**6))
        return {"goal": "Pick", "text": "?", "error": ""}, {}

    def wins(self, number: int | None) -> bool:
        return number == self.secret

    def step(self, action: str) -> Any:
        reading = self.action_set.read(action)
        number = None if reading.call is None else reading.call.arguments["number"]
        won = self.wins(number)
        info = {**reading.info(), **({"success": True} if won else {})}
        observation = {"goal": "Pick", "text": "?", "error": reading.error}
        return observation, float(won), won, False, info


class Easy(Pick):
    def wins(self, number: int | None) -> bool:
        return number is not None


class Forged(Pick):
    def wins(self, number: int | None) -> bool:
        return number is None or super().wins(number)


class Lost(Pick):
    def wins(self, number: int | None) -> bool:
        return False


class Broken(Pick):
    def wins(self, number: int | None) -> bool:
        if number is None:
            raise RuntimeError("cannot read this")
        return super().wins(number)


class NoOracle(Pick):
    has_oracle = False


class Slow(Pick):
    def reset(self, **arguments: Any) -> Any:
        time.sleep(0.02)
        return super().reset(**arguments)


class Absent(Pick):
    def reset(self, **arguments: Any) -> Any:
        raise MissingDependencyError("there is no engine")


KINDS = (Pick, Easy, Forged, Lost, Broken, NoOracle, Slow, Absent)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for kind in KINDS:
        gym.register(
            f"agentgym/{kind.__name__}-v9",
            entry_point=lambda kind=kind, **k: kind(**k),
            max_episode_steps=4,
        )
    yield
    for kind in KINDS:
        del gym.registry[f"agentgym/{kind.__name__}-v9"]


def check(kind: type[Pick], **options: Any) -> validation.Validation:
    (found,), skipped = validate([f"agentgym/{kind.__name__}-v9"], **options)
    assert skipped == {}
    return found


def test_a_sound_environment() -> None:
    found = check(Pick)
    assert found.sound
    rate = found.rates["oracle"]
    assert rate == Rate(20, 20, rate.low, 1.0, 1.0, 1.0)
    assert rate.low == pytest.approx(0.8389, abs=1e-4)
    assert found.rates["random"].successes == 0
    assert found.rates["hostile"].mean_turns == 4.0
    assert found.to_json()["sound"] is True


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Easy, "random won 20 of 20, allowed are 10%"),
        (Forged, "hostile won 20 of 20, allowed are 0%"),
        (Lost, "oracle won 0 of 20, expected 100%"),
        (Broken, "hostile: seed 0 raised RuntimeError: cannot read this"),
    ],
)
def test_what_is_wrong_is_named(kind: type[Pick], problem: str) -> None:
    found = check(kind)
    assert found.problems == (problem,)
    assert not found.sound


def test_without_an_oracle_there_is_no_rate_of_it() -> None:
    found = check(NoOracle)
    assert found.sound
    assert list(found.rates) == ["random", "hostile"]


def test_rates_must_be_certain_to_be_wrong() -> None:
    """1 of 2 has the Wilson interval (9 %, 91 %): too little to say that it is above 10 %."""
    expected = Expectation(random=0.1, oracle=0.9)
    rate = Rate(1, 2, 0.0945, 0.9055, 0.5, 1.0)
    assert validation._misses("random", rate, expected) == []
    assert validation._misses("oracle", rate, expected) == []
    rate = Rate(5, 10, 0.2366, 0.7634, 0.5, 1.0)
    assert validation._misses("random", rate, expected) == ["random won 5 of 10, allowed are 10%"]
    assert validation._misses("oracle", rate, expected) == ["oracle won 5 of 10, expected 90%"]


def test_exceptions_are_by_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXPECTATIONS, "_entries", dict(EXPECTATIONS._entries))
    easy = Expectation(random=1.0, why="a test")
    EXPECTATIONS.register("test", {"agentgym/Eas*": easy})
    assert expectation("agentgym/Easy-v9") == easy
    assert expectation("agentgym/Pick-v9") == Expectation()
    assert check(Easy).sound


def test_slow_environments_are_played_less_often() -> None:
    found = check(Slow, seconds=0.05)
    assert 2 <= found.rates["oracle"].episodes < 20
    assert check(Slow, seconds=1e-9).rates["oracle"].episodes == 2


def test_what_cannot_run_here_is_left_out() -> None:
    found, skipped = validate(["agentgym/Absent-v9", "agentgym/Pick-v9"], episodes=1)
    assert [one.env_id for one in found] == ["agentgym/Pick-v9"]
    assert skipped == {"agentgym/Absent-v9": "there is no engine"}


def test_patterns() -> None:
    assert matching("Pick") == ["agentgym/Pick-v9"]
    assert "agentgym/textworld.custom-v0" in matching("text")  # the folder ...
    assert "agentgym/miniwob.text-editor-v0" not in matching("text")  # ... not the ids
    assert "agentgym/miniwob.text-editor-v0" in matching("web")
    assert {f"agentgym/{kind.__name__}-v9" for kind in KINDS} < set(matching(""))
    with pytest.raises(ConfigError, match="no environment matches 'nothing'"):
        matching("nothing")


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="episodes >= 1"):
        validate(["agentgym/Pick-v9"], episodes=0)
    with pytest.raises(UnknownNameError, match="Pick-v9"):
        validate(["agentgym/Pik-v9"])


def test_hostile_texts_hold_what_breaks_parsers() -> None:
    assert any("\ud800" <= character <= "\udfff" for text in HOSTILE for character in text)
    assert "" in HOSTILE
    assert max(map(len, HOSTILE)) >= 100_000
