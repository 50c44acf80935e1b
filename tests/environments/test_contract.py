"""One contract, over every registered environment that needs no browser.

The browser's environments run the same checks in `tests/environments/web`, where a browser is.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import agentgym  # noqa: F401  (registers the ids)
from agentgym import paths
from agentgym.core import AgentEnv
from agentgym.environments.text.games import GameSpec, game_file
from agentgym.errors import ConfigError, EpisodeOverError
from agentgym.forks import fork

BROWSER = ("agentgym/miniwob.", "agentgym/browsergym.", "agentgym/web")
IDS = sorted(
    name for name in gym.registry if name.startswith("agentgym/") and not name.startswith(BROWSER)
)
FAMILIES = sorted({re.split(r"[.-]", name.split("/")[1])[0]: name for name in IDS}.values())
"""One id of each family: of what stands before the dot."""
TEXTWORLD = "agentgym/textworld."
WORLDS = 50
HOSTILE = ["", "\x00", "\ud800", "a" * 100_000, "\n" * 10_000, '{"name": "x"', "f(", "quit"]
PLAYED = """
import json, sys
import gymnasium as gym
import agentgym
for name in sys.argv[1:]:
    env = gym.make(name)
    for seed in (0,) if ".textworld." in name.replace("/", ".") else (0, 1):
        lines = [*env.reset(seed=seed)]
        env.action_space.seed(seed)
        for turn in range(12):
            expert = turn % 2 and env.unwrapped.has_oracle
            action = env.unwrapped.oracle_action() if expert else env.action_space.sample()
            lines += [action, *env.step(action)]
            if lines[-3] or lines[-2]:
                break
        print(json.dumps([name, seed, lines], default=lambda image: image.tolist()))
    env.close()
"""


@pytest.fixture(autouse=True)
def _one_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """TextWorld needs seconds to make a game, and the checks ask for many: one must do."""

    def only(spec: GameSpec, timeout_s: float) -> Path:
        return game_file(GameSpec(spec.kind, spec.settings, 0), timeout_s)

    monkeypatch.setattr("agentgym.environments.text.textworld.game_file", only)


@pytest.fixture
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    env = gym.make(request.param)
    env.action_space.seed(0)
    yield env
    env.close()


every_env = pytest.mark.parametrize("env", IDS, indirect=True)


def inner(env: gym.Env[Any, Any]) -> AgentEnv:
    assert isinstance(env.unwrapped, AgentEnv)
    return env.unwrapped


def test_there_is_something_to_check() -> None:
    assert len(IDS) >= 5
    assert FAMILIES


@every_env
def test_gymnasiums_own_check(env: gym.Env[Any, Any]) -> None:
    check_env(env.unwrapped)  # every warning is an error here


@pytest.mark.parametrize("name", IDS)
def test_specs_are_json_and_have_a_turn_limit(name: str) -> None:
    spec = gym.spec(name)
    assert spec.max_episode_steps is not None
    assert spec.version is not None
    assert isinstance(spec.entry_point, str)
    read = EnvSpec.from_json(spec.to_json())
    assert read == spec
    env = gym.make(read)
    assert env.spec is not None
    assert env.spec.id == name
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_render_modes(name: str) -> None:
    modes = gym.make(name).metadata["render_modes"]
    assert modes
    for mode in modes:
        env = gym.make(name, render_mode=mode)
        assert env.render_mode == mode
        env.reset(seed=0)
        drawn: Any = env.render()
        if mode == "ansi":
            assert isinstance(drawn, str)
            assert drawn
        elif mode == "rgb_array":
            assert drawn.dtype == np.uint8
            assert drawn.shape[2:] == (3,)
        else:
            assert drawn is None
        env.close()


@every_env
def test_oracles_are_where_they_are_said_to_be(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=0)
    world = inner(env)
    if world.has_oracle:
        action = world.oracle_action()
        assert action in env.action_space
        assert world.action_set.read(action, world.action_syntax).error == ""
    else:
        with pytest.raises(NotImplementedError):
            world.oracle_action()


@every_env
def test_infos_and_observations(env: gym.Env[Any, Any]) -> None:
    observation, info = env.reset(seed=0)
    goal = observation["goal"]
    assert goal
    assert observation["error"] == ""
    for _ in range(5):
        assert observation in env.observation_space
        assert json.loads(json.dumps(info)) == info
        assert observation["goal"] == goal
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert {"action", "action_error", "parsed", "thought"} <= set(info)
        assert observation["error"] == info["action_error"]
        assert isinstance(info["parsed"], bool)
        assert type(reward) is float
        assert ("success" in info) == terminated
        if terminated or truncated:
            break


@every_env
def test_hostile_text_is_told_not_raised(env: gym.Env[Any, Any]) -> None:
    env.reset(seed=0)
    for text in HOSTILE:
        observation, reward, terminated, truncated, info = env.step(text)
        assert observation in env.observation_space
        assert observation["error"]
        json.dumps(info, ensure_ascii=False).encode()
        assert float(reward) <= 0.0
        if terminated or truncated:
            env.reset(seed=0)


@every_env
def test_steps_outside_an_episode_are_refused(env: gym.Env[Any, Any]) -> None:
    world = inner(env)
    with pytest.raises(EpisodeOverError):
        world.step("")
    if world.has_oracle:
        won, turns = False, 0
        for seed in range(3):  # against chance and opponents no expert wins every time
            env.reset(seed=seed)
            terminated = truncated = False
            while not (terminated or truncated):
                _, _, terminated, truncated, info = env.step(world.oracle_action())
                turns += 1
            with pytest.raises(EpisodeOverError):
                world.step("")
            if won := terminated and info["success"]:
                break
        assert won, f"{turns} turns and no success"


def test_transcripts_do_not_depend_on_the_hash_seed() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PLAYED, *IDS],
            env=paths.environment(PYTHONHASHSEED=hash_seed),
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    printed = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    textworld = sum(name.startswith(TEXTWORLD) for name in IDS)
    assert len(printed[0]) == 2 * len(IDS) - textworld
    assert printed[0] == printed[1]


def test_the_readmes_example_is_an_environment() -> None:
    """What it teaches passes the checks that it promises."""
    readme = (Path(__file__).parents[2] / "environments" / "README.md").read_text("utf-8")
    (code,) = [part for part in readme.split("```") if "class GuessNumberEnv" in part]
    module: dict[str, Any] = {"__name__": "guess_number"}
    exec(code.removeprefix("python"), module)
    world = module["GuessNumberEnv"]()
    check_env(world, skip_render_check=True)  # which wants a spec
    for seed in range(20):
        world.reset(seed=seed)
        snapshot, rewards = world.snapshot(), []
        for _ in range(2):
            world.restore(snapshot)
            rewards.append(0.0)
            turns, terminated = 0, False
            while not terminated:
                action = world.oracle_action()
                _, reward, terminated, _, info = world.step(action)
                rewards[-1] += reward
                turns += 1
            assert info["success"] is True
            assert turns <= 7  # halving 100
        assert rewards == [1.0, 1.0]
    world.reset(seed=0)
    assert world.step("a hundred")[0]["error"] == "Guess a whole number from 1 to 100."


# ---- snapshots


def wander(env: gym.Env[Any, Any], turns: int, seed: int = 0) -> list[Any]:
    """Random actions, and what came of them."""
    env.action_space.seed(seed)
    lines: list[Any] = []
    for _ in range(turns):
        action = env.action_space.sample()
        lines += [action, *env.step(action)]
        if lines[-3] or lines[-2]:
            break
    return lines


def alike(one: list[Any], other: list[Any]) -> None:
    """Equal, pictures included."""
    np.testing.assert_equal(one, other)


@every_env
def test_a_fork_goes_on_as_the_first_would_have(env: gym.Env[Any, Any]) -> None:
    if not inner(env).can_snapshot:
        with pytest.raises(NotImplementedError):
            inner(env).snapshot()
        return
    for turns in (0, 1, 3):
        env.reset(seed=1)
        if any(wander(env, turns)[-3:-1]):
            continue  # over already
        twin = fork(env)
        before = inner(env).snapshot()
        assert inner(twin).snapshot() == before
        played = wander(twin, 6, seed=5)
        assert inner(env).snapshot() == before  # they share nothing
        alike(wander(env, 6, seed=5), played)
        assert inner(twin).snapshot() == inner(env).snapshot()
        twin.close()


@every_env
def test_what_restore_tells_is_what_was_seen(env: gym.Env[Any, Any]) -> None:
    if not inner(env).can_snapshot:
        pytest.skip("takes no snapshots")
    begun = env.reset(seed=1)
    world, start = inner(env), inner(env).snapshot()
    json.loads(start)
    env.step(env.action_space.sample())
    np.testing.assert_equal(world.restore(start), begun)
    assert world.snapshot() == start


@every_env
def test_bytes_that_are_no_snapshot_change_nothing(env: gym.Env[Any, Any]) -> None:
    if not inner(env).can_snapshot:
        pytest.skip("takes no snapshots")
    env.reset(seed=1)
    env.step(env.action_space.sample())
    world, sound = inner(env), inner(env).snapshot()
    fields = json.loads(sound)
    wrong = [b"", b"\xff\xfe", b"null", b"3", b"[]", b"{}", b'"text"', sound[:-1], sound[1:]]
    wrong += [b"[" * 50_000, b'{"snapshot": 1}']
    for name in fields:
        if fields[name] is None:
            continue
        values: list[Any] = [None, {"x": [None]}, [[]]]
        for value in values:
            wrong.append(json.dumps({**fields, name: value}).encode())
        wrong.append(json.dumps({k: v for k, v in fields.items() if k != name}).encode())
    for snapshot in wrong:
        with pytest.raises(ConfigError):
            world.restore(snapshot)
        assert world.snapshot() == sound, snapshot[:200]


def test_many_worlds_at_once_are_as_each_alone() -> None:
    """Fifty, of every game in pure Python, a turn of each in turn."""
    games = [name for name in IDS if not name.startswith(TEXTWORLD)]
    worlds = [(games[i % len(games)], i) for i in range(max(WORLDS, len(games)))]

    def begun(name: str, seed: int) -> tuple[gym.Env[Any, Any], list[Any]]:
        env = gym.make(name)
        lines = [*env.reset(seed=seed)]
        env.action_space.seed(seed)
        return env, lines

    def turn(env: gym.Env[Any, Any], lines: list[Any]) -> None:
        if len(lines) == 2 or not (lines[-3] or lines[-2]):
            action = env.action_space.sample()
            lines += [action, *env.step(action)]

    together = [begun(*world) for world in worlds]
    for _ in range(5):
        for env, lines in together:
            turn(env, lines)
    for (name, seed), (_, lines) in zip(worlds, together, strict=True):
        env, alone = begun(name, seed)
        for _ in range(5):
            turn(env, alone)
        alike(alone, lines)


# ---- vectors


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "sync") for name in FAMILIES), (FAMILIES[0], "async"), (FAMILIES[-1], "async")],
)
def test_vectors(name: str, mode: str) -> None:
    vector = gym.make_vec(
        name,
        num_envs=2,
        vectorization_mode=mode,
        vector_kwargs={"shared_memory": False} if mode == "async" else {},
    )
    alone = []
    try:
        observations, infos = vector.reset(seed=0)  # and 1 for the second
        for seed in (0, 1):
            env = gym.make(name)
            env.action_space.seed(seed)
            alone.append((env, env.reset(seed=seed)[0]))
            assert_part(observations, seed, alone[-1][1])
        over = False
        for _ in range(4):
            if over:
                break  # the vector would reset by itself
            actions = tuple(env.action_space.sample() for env, _ in alone)
            observations, rewards, terminated, truncated, infos = vector.step(actions)
            for index, (env, _) in enumerate(alone):
                observation, reward, *ends, info = env.step(actions[index])
                assert_part(observations, index, observation)
                assert (rewards[index], terminated[index], truncated[index]) == (reward, *ends)
                over = over or any(ends)
                assert infos["action"][index] == info["action"]
        assert vector.action_space.sample() in vector.action_space
    finally:
        vector.close()
        for env, _ in alone:
            env.close()


def assert_part(observations: Any, index: int, observation: Any) -> None:
    """The vector's observations hold this one."""
    for key, value in observation.items():
        np.testing.assert_array_equal(observations[key][index], value)
