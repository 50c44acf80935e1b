"""Forks: the same episode twice, apart from each other, however it is wrapped."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, TransformReward

import agentgym  # noqa: F401  (registers the ids)
from agentgym.actions import ActionCall
from agentgym.core import AgentEnv
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError
from agentgym.forks import fork

NAME = "test/count-v0"


def say(text: str) -> None:
    """Say anything."""


class Count(TextGame):
    """Counts what is said, adds chance, and counts its resets."""

    actions: ClassVar[Any] = [say]
    resets: ClassVar[int] = 0

    def begin(self, options: Mapping[str, Any]) -> str:
        Count.resets += 1
        self.count = int(self.np_random.integers(1000))
        return str(self.count)

    def goal(self) -> str:
        return "count"

    def play(self, call: ActionCall) -> Outcome:
        self.count += 1 + int(self.np_random.integers(10))
        return Outcome(str(self.count), reward=1.0)

    def save(self) -> Any:
        return self.count

    def load(self, state: Any) -> None:
        self.count = int(state)


class NoSnapshots(Count):
    can_snapshot = property(lambda self: False)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register(NAME, entry_point=lambda **k: Count(**k), max_episode_steps=5)
    gym.register("test/none-v0", entry_point=lambda **k: NoSnapshots(**k))
    yield
    del gym.registry[NAME], gym.registry["test/none-v0"]


def begun(env: gym.Env[Any, Any] | None = None, turns: int = 2) -> gym.Env[Any, Any]:
    env = env or gym.make(NAME)
    env.reset(seed=3)
    for _ in range(turns):
        env.step("x")
    return env


def test_both_go_on_alike() -> None:
    first = begun()
    second = fork(first)
    assert second.spec == first.spec
    assert [first.step("x") for _ in range(3)] == [second.step("x") for _ in range(3)]


def test_both_go_on_apart() -> None:
    first, alone = begun(), begun()
    second = fork(first)
    for _ in range(2):
        second.step("x")
    second.reset(seed=9)
    assert first.step("x") == alone.step("x")


def test_turns_left_are_counted_on() -> None:
    second = fork(begun(turns=4))
    assert second.step("x")[3] is True  # the fifth of five


def test_a_fork_of_a_fork() -> None:
    first = begun()
    assert fork(fork(first)).step("x") == first.step("x")


def test_no_reset_is_needed() -> None:
    env = begun()
    before = Count.resets
    fork(env).step("x")
    assert Count.resets == before


def test_wrappers_keep_their_counts() -> None:
    first = begun(RecordEpisodeStatistics(gym.make(NAME)))
    second = fork(first)
    for env in (first, second):
        *_, info = [env.step("x") for _ in range(3)][-1]
        assert info["episode"]["l"] == 5
        assert info["episode"]["r"] == 5.0


def test_the_next_episodes_are_alike_too() -> None:
    first = begun()
    second = fork(first)
    assert first.reset() == second.reset()


def test_what_cannot_be_forked_says_why() -> None:
    with pytest.raises(ConfigError, match="takes no snapshots"):
        fork(begun(gym.make("test/none-v0")))
    with pytest.raises(ConfigError, match="takes no snapshots"):
        fork(gym.make("CartPole-v1"))
    bare = Count()
    bare.reset(seed=0)
    with pytest.raises(ConfigError, match=r"gymnasium\.make"):
        fork(bare)


def test_wrappers_that_cannot_be_made_again() -> None:
    class Silent(gym.Wrapper[Any, Any, Any, Any]):
        pass

    with pytest.raises(ConfigError, match="cannot be made again"):
        fork(begun(Silent(gym.make(NAME))))


def test_wrappers_with_kept_arguments_are_made_again() -> None:
    first = begun(TransformReward(gym.make(NAME), float))
    second = fork(first)
    assert isinstance(second, TransformReward)
    assert isinstance(second.unwrapped, AgentEnv)
    assert second.step("x") == first.step("x")
