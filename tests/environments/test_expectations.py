"""The exceptions to the rule of `agentgym validate`: needed, and explained."""

from fnmatch import fnmatchcase

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.core import Expectation
from agentgym.environments.expectations import EXPECTATIONS
from agentgym.validation import matching, validate

SLOW = ("agentgym/textworld.", "agentgym/chess")
"""Making games takes seconds there, or playing them to the end does."""


@pytest.mark.parametrize("pattern", EXPECTATIONS)
def test_every_exception_is_one_and_says_why(pattern: str) -> None:
    assert any(fnmatchcase(name, pattern) for name in gym.registry)
    expected = EXPECTATIONS[pattern]
    rule = Expectation()
    assert expected.why
    assert (expected.oracle, expected.random, expected.hostile) != (
        rule.oracle,
        rule.random,
        rule.hostile,
    )
    assert 0.0 <= expected.hostile <= expected.random <= 1.0
    assert 0.0 <= expected.oracle <= 1.0


def test_every_game_in_pure_python_is_sound() -> None:
    """Two episodes of each agent, as `agentgym validate text` plays twenty."""
    ids = [name for name in matching("text") if not name.startswith(SLOW)]
    found, skipped = validate(ids, episodes=2)
    assert skipped == {}
    assert {one.env_id: one.problems for one in found if not one.sound} == {}
