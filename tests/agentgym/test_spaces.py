"""Spaces: membership, samples, Gymnasium's checker, and both kinds of vector environments."""

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from agentgym.actions import ActionSet
from agentgym.errors import ConfigError
from agentgym.spaces import ActionText, ChatMessages, ToolCall, Unicode, observation_space


def click(element: str, times: int = 1) -> None:
    """Click an element."""


ACTIONS = ActionSet([click])
MAKERS: dict[str, Callable[[], gym.Space[Any]]] = {
    "unicode": Unicode,
    "action_text": partial(ActionText, ACTIONS),
    "chat": ChatMessages,
    "tool_call": partial(ToolCall, ACTIONS),
    "observation": observation_space,
}


class Mirror(gym.Env[Any, Any]):
    """Its observation is a sample of a space; its action is of the space too."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = MAKERS[name]()
        self.action_space = MAKERS[name]()

    def _shown(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.turns = 0
        return self._shown(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.turns += 1
        return self._shown(), 0.0, self.turns >= 3, False, {}


@pytest.mark.parametrize("name", MAKERS)
def test_samples_belong_are_seeded_and_survive_json(name: str) -> None:
    space, twin = MAKERS[name](), MAKERS[name]()
    space.seed(3)
    twin.seed(3)
    samples = [space.sample() for _ in range(50)]
    assert all(space.contains(s) for s in samples)
    assert samples == [twin.sample() for _ in range(50)]
    assert space.from_jsonable(space.to_jsonable(samples)) == samples
    assert space == twin


@pytest.mark.parametrize("name", MAKERS)
def test_copies_draw_the_same(name: str) -> None:
    space = MAKERS[name]()
    space.seed(3)
    copies = copy.deepcopy(space), pickle.loads(pickle.dumps(space))
    expected = [space.sample() for _ in range(5)]
    for again in copies:
        assert again == space
        assert [again.sample() for _ in range(5)] == expected


@pytest.mark.parametrize("name", MAKERS)
def test_gymnasiums_checker_is_content(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Mirror(name), skip_render_check=True)


@pytest.mark.parametrize("name", MAKERS)
def test_vector_environments_hold_them(name: str) -> None:
    makers = [partial(Mirror, name) for _ in range(2)]
    expected = _play(SyncVectorEnv(makers))
    asynchronous = AsyncVectorEnv(makers, shared_memory=False)
    try:
        assert _play(asynchronous) == expected
    finally:
        asynchronous.close()


def _play(envs: Any) -> list[Any]:
    seen, _ = envs.reset(seed=5)
    shown = [seen]
    envs.action_space.seed(5)
    for _ in range(3):
        seen, *_ = envs.step(envs.action_space.sample())
        shown.append(seen)
    assert all(observation in envs.observation_space for observation in shown)
    return shown


@pytest.mark.parametrize("text", ["", "two\nlines", "é 日本 🙂", "\x00\t", "x" * 20])
def test_any_encodable_text_is_unicode(text: str) -> None:
    assert text in Unicode(20)


@pytest.mark.parametrize("other", ["x" * 21, "\ud800", 3, None, b"x"])
def test_other_things_are_not(other: Any) -> None:
    assert other not in Unicode(20)


def test_unicode_bounds_and_sampler() -> None:
    space = Unicode(4, min_length=2, sampler=lambda rng: "abcdefgh"[: int(rng.integers(9))])
    space.seed(0)
    assert all(2 <= len(space.sample()) <= 4 for _ in range(50))
    assert "a" not in space
    with pytest.raises(ConfigError, match="min_length <= max_length"):
        Unicode(1, min_length=2)
    with pytest.raises(ConfigError, match="admissible_actions"):
        space.sample(mask=np.ones(1))


def test_action_text_takes_what_does_not_parse_and_samples_what_does() -> None:
    space = ActionText(ACTIONS, "json")
    space.seed(0)
    assert "nonsense" in space
    assert all(ACTIONS.read(space.sample(), "json").call is not None for _ in range(20))


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": "a list"}],
        ({"role": "pirate", "content": "arr"},),
        ({"role": "user"},),
        ({"role": "user", "content": "x", "name": "y"},),
        ({"role": "user", "content": 3},),
        ({"role": "user", "content": "x"},) * 3,
    ],
)
def test_what_is_no_chat(chat: Any) -> None:
    assert chat not in ChatMessages(max_messages=2)


@pytest.mark.parametrize(
    "call",
    [
        {"name": "click", "arguments": {"element": 3}},
        {"name": "click", "arguments": {}},
        {"name": "clack", "arguments": {"element": "3"}},
        {"name": "click", "arguments": {"element": "3", "x": 1}},
        {"name": "click"},
        {"name": ["click"], "arguments": {"element": "3"}},
        {"name": "click", "arguments": {3: "3"}},
        {"name": "click", "arguments": ["3"]},
        "click(3)",
    ],
)
def test_what_is_no_tool_call(call: Any) -> None:
    space = ToolCall(ACTIONS)
    assert call not in space
    assert {"name": "click", "arguments": {"element": "3"}} in space


def test_observation_space_with_an_image() -> None:
    space = observation_space(image_size=(2, 3))
    shown = {"goal": "g", "text": "t", "error": "", "image": np.zeros((2, 3, 3), np.uint8)}
    assert shown in space
    assert {**shown, "image": np.zeros((3, 2, 3), np.uint8)} not in space
    assert {k: v for k, v in shown.items() if k != "image"} not in space
