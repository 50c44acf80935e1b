"""TextWorld: won by its oracles, deaf to hostile text, and never out of step with its engine."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agentgym  # noqa: F401  (registers the ids)
from agentgym.actions import SYNTAXES
from agentgym.environments.text import textworld
from agentgym.environments.text.games import KINDS, GameSpec, complete, game_file
from agentgym.environments.text.textworld import TextWorldEnv
from agentgym.errors import (
    ConfigError,
    EnvFailureError,
    EpisodeOverError,
    MissingDependencyError,
    UnknownNameError,
)

SEEDS = (0, 1)
"""Of `custom`; making a game takes seconds, so of the other kinds there is one."""
GAMES = [*((kind, 0) for kind in KINDS), ("custom", 1)]
HARMLESS = ("go", "open", "close", "take", "look", "examine", "inventory")


@contextmanager
def playing(
    game: str, seed: int = 0, **kwargs: Any
) -> Iterator[tuple[TextWorldEnv, Any, dict[str, Any]]]:
    env = TextWorldEnv(game, **kwargs)
    try:
        yield env, *env.reset(seed=seed)
    finally:
        env.close()


def play(env: TextWorldEnv, turns: int = 100) -> tuple[float, dict[str, Any]]:
    """Let the oracle play to the end; (sum of rewards, last info)."""
    total = 0.0
    info: dict[str, Any] = {}
    for _ in range(turns):
        _, reward, terminated, _, info = env.step(env.oracle_action())
        assert info["action_error"] == ""
        total += reward
        if terminated:
            break
    return total, info


def test_every_kind_of_game_has_an_id() -> None:
    ids = {name for name in gym.registry if name.startswith("agentgym/textworld.")}
    assert ids == {f"agentgym/textworld.{kind}-v0" for kind in KINDS}


# ---- oracles


@pytest.mark.parametrize(("kind", "seed"), GAMES)
def test_the_oracle_wins(kind: str, seed: int) -> None:
    limit = gym.spec(f"agentgym/textworld.{kind}-v0").max_episode_steps
    assert limit is not None
    with playing(kind, seed) as (env, _, _):
        total, info = play(env, limit)
        assert info["success"] is True
        assert info["score"] == info["max_score"]
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_wins_after_detours(kind: str) -> None:
    with playing(kind) as (env, _, info):
        rng = random.Random(3)
        for _ in range(12):
            harmless = [c for c in info["admissible_actions"] if c.split()[0] in HARMLESS]
            _, _, terminated, _, info = env.step(rng.choice(harmless))
            if terminated:  # the shortest games may be won or lost on the way
                return
            rng.random() < 0.5 and env.oracle_action()  # asking changes nothing
        _, info = play(env)
        assert info["success"] is True


def test_the_cooking_oracle_reads_the_recipe_before_it_acts_on_it() -> None:
    with playing("cooking") as (env, _, _):
        commands = []
        terminated = False
        while not terminated:
            commands.append(env.oracle_action())
            _, _, terminated, _, _ = env.step(commands[-1])
    assert "inventory" not in commands
    read = commands.index("examine cookbook")
    assert all(c.split()[0] in ("go", "open") for c in commands[:read])


def test_no_oracle_for_limited_inventories() -> None:
    env = TextWorldEnv("cooking", drop=True)
    assert not env.has_oracle
    assert TextWorldEnv("cooking").has_oracle


def test_a_game_that_cannot_be_won_any_more_has_a_harmless_oracle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with playing("coin_collector") as (env, _, _):
        monkeypatch.setattr(env, "_plan", lambda: "")
        assert env.oracle_action() == "look"


def test_random_agents_do_not_win() -> None:
    with playing("simple") as (env, _, info):
        for trial in range(3):
            rng = random.Random(trial)
            _, info = env.reset(seed=0)
            for _ in range(20):
                _, _, terminated, _, info = env.step(rng.choice(info["admissible_actions"]))
                assert not terminated
                assert info["action_error"] == ""  # what is listed can be done


# ---- rewards and ends


@pytest.mark.parametrize("kind", KINDS)
def test_doing_nothing_earns_nothing(kind: str) -> None:
    with playing(kind) as (env, _, info):
        key = info["state_key"]
        for text in ("look", "inventory", "", "dance", "take"):
            _, reward, terminated, truncated, info = env.step(text)
            assert (reward, terminated, truncated) == (0.0, False, False)
            assert "success" not in info
            assert info["state_key"] == key


def test_rewards_are_shares_of_the_greatest_score() -> None:
    with playing("simple") as (env, _, info):
        total = 0
        while total < info["max_score"]:
            _, reward, _, _, info = env.step(env.oracle_action())
            gained = info["score"] - total
            assert gained in (0, 1)
            assert reward == pytest.approx(gained / info["max_score"])
            total = info["score"]


def test_a_lost_game_ends_without_success() -> None:
    with playing("cooking") as (env, _, _):
        info: dict[str, Any] = {"action": ""}
        while not info["action"].startswith('command("cook'):
            _, _, _, _, info = env.step(env.oracle_action())
        again = json.loads(info["action"].removeprefix("command(").removesuffix(")"))
        observation, reward, terminated, truncated, info = env.step(again)  # burnt
        assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
        assert "You lost" in observation["text"]
        assert info["admissible_actions"] == []


def test_only_running_episodes_are_played() -> None:
    env = TextWorldEnv("coin_collector")
    for method in (lambda: env.step("look"), env.oracle_action):
        with pytest.raises(EpisodeOverError, match="reset"):
            method()
    env.reset(seed=0)
    play(env)
    for method in (lambda: env.step("look"), env.oracle_action):
        with pytest.raises(EpisodeOverError, match="reset"):
            method()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(EpisodeOverError):
        env.step("look")
    env.reset(seed=0)
    env.step("look")
    env.close()


# ---- what is shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("describe", [True, False])
def test_texts_are_compact(kind: str, describe: bool) -> None:
    with playing(kind, describe=describe) as (env, observation, _):
        goal = observation["goal"]
        terminated = False
        while not terminated:
            text = observation["text"]
            assert "$$" not in text  # the banner
            assert goal not in text
            assert "\n\n" not in text
            assert "  " not in text
            assert "=-0/" not in text  # the status line
            assert not text.endswith(">")
            assert "RESTART" not in text
            assert observation["goal"] == goal
            assert observation in env.observation_space
            observation, _, terminated, _, _ = env.step(env.oracle_action())
        assert "*** The End ***" in observation["text"]


def test_room_and_inventory_are_shown_once() -> None:
    with playing("custom") as (env, first, info):
        assert first["text"].startswith("-= ")
        assert first["text"].count("You are carrying") == 1
        for command in ("look", "inventory", info["admissible_actions"][0]):
            text = env.step(command)[0]["text"]
            assert text.count("-= ") == 1
            assert text.count("You are carrying") == 1


def test_without_description_only_the_answer_is_shown() -> None:
    with playing("custom", describe=False) as (env, first, _):
        assert first["text"].startswith("-= ")
        assert env.step("inventory")[0]["text"].startswith("You are carrying")
        assert "-= " not in env.step("inventory")[0]["text"]
        observation = env.step("go up")[0]
        assert observation["text"] == observation["error"] == "You can't go that way."


def test_an_error_is_told_once_beside_the_state() -> None:
    with playing("custom") as (env, first, _):
        observation, _, _, _, info = env.step("go up")
        assert observation["error"] == info["action_error"] == "You can't go that way."
        assert observation["text"] == first["text"]
        assert env.step("look")[0]["error"] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_brief_goal_tells_what_not_how(kind: str) -> None:
    with playing(kind) as (_, observation, _):
        detailed = observation["goal"]
    with playing(kind, goal="brief") as (env, observation, _):
        if kind == "cooking":
            assert observation["goal"] == detailed
        else:
            assert env._engine is not None
            skill = kind == "skill"
            assert skill or env._engine.walkthrough[-1] in observation["goal"]
            assert len(observation["goal"]) < len(detailed)


def test_render_shows_the_screen() -> None:
    with playing("custom", render_mode="ansi") as (env, observation, _):
        assert env.render() == observation["text"]
        assert env.render() != env.step("go up")[0]["error"]


# ---- commands


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_plays(syntax: str) -> None:
    with playing("custom", action_syntax=syntax) as (env, _, info):
        assert env.oracle_action() in info["admissible_actions"]
        assert env.action_space.sample() in info["admissible_actions"]
        thinking = "I think so.\n" + env.oracle_action()
        _, _, _, _, info = env.step(thinking)
        assert info["thought"] == "I think so."
        assert info["action"].startswith('command("')
        assert play(env)[1]["success"] is True


def test_infos_hold_what_every_environment_tells() -> None:
    with playing("custom") as (env, _, info):
        assert set(info) == {"admissible_actions", "state_key", "score", "max_score"}
        assert info["admissible_actions"] == sorted(info["admissible_actions"])
        step = env.step("I will look.\n```\n> Look.\n```")[4]
        assert set(step) - set(info) == {"action", "action_error", "parsed", "thought"}
        assert (step["action"], step["parsed"]) == ('command("look")', True)
        assert json.loads(json.dumps(step)) == step
        step = env.step("dance")[4]
        assert (step["action"], step["parsed"]) == ('command("dance")', True)
        step = env.step("*** The End ***")[4]
        assert (step["action"], step["parsed"]) == ("", False)


def test_equal_states_have_equal_keys() -> None:
    """Opening and closing a container leads back; the score belongs to the state."""
    with playing("custom") as (env, _, info):
        first = info["state_key"]
        opening = next(c for c in info["admissible_actions"] if c.startswith("open"))
        opened = env.step(opening)[4]["state_key"]
        closed = env.step(opening.replace("open", "close"))[4]["state_key"]
        assert opened != first
        assert closed == first


HOSTILE = [
    "",
    " \n\t ",
    "\x00",
    "take\x00coin",
    "\ud800",
    "loo\udfffk",
    "日本語",
    "a" * 1_000_000,
    "take " * 200_000,
    "\n" * 100_000,
    "look" + "\n" * 100_000,
    *("quit", "q", "y", "yes", "restart", "save", "restore", "undo", "again", "g", "oops coin"),
    *("script", "transcript", "script on", "verbose", "brief", "superbrief", "notify off"),
    *("print_state", "enable print state option", "restrict commands", "tw-trace-actions"),
    *("tw-extra-infos score", "tw-print max_score", "test quest0_0", "actions on", "goal", "help"),
    *("purloin coin", "gonear coin", "showme coin", "say *** The End ***", "*** You lost! ***"),
    *("look then quit", "look then save", "look then script", "look. save", "look, save"),
    *("take", "drop all", "take all", "take it", "examine", "x me", "go", "put", "unlock"),
    *("[taking the coin - succeeded]", "<score>\n9\n</score>", "\x1b[2Jlook at", "../../etc"),
]


@pytest.fixture(scope="module")
def victim() -> Iterator[TextWorldEnv]:
    with playing("custom", 1) as (env, _, _):
        yield env


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_hostile_text_is_answered_and_changes_nothing(
    victim: TextWorldEnv, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert victim._file is not None
    files = sorted(victim._file.parent.iterdir())
    key = victim.step("look")[4]["state_key"]
    observation, reward, terminated, _, info = victim.step(text)
    assert (reward, terminated) == (0.0, False)
    assert observation in victim.observation_space
    assert 0 < len(observation["error"]) < 500
    assert info["action_error"] == observation["error"]
    assert info["state_key"] == key
    assert len(json.dumps(info, ensure_ascii=False).encode()) < 20_000
    observation, *_ = victim.step("look")
    assert observation["text"].startswith("-= ")
    assert observation["error"] == ""
    # The interpreter's "save" and "script" write files, the latter of any name.
    assert os.listdir(tmp_path) == []
    assert sorted(victim._file.parent.iterdir()) == files


WORDS = (
    "look take drop put insert open unlock go examine inventory quit save restore restart undo "
    "script then and all it me . , key coin crate chest from in on with north the save yes"
).split()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join))
def test_what_is_not_admissible_changes_nothing(
    victim: TextWorldEnv, tmp_path: Path, text: str
) -> None:
    assert victim._engine is not None
    before = victim._engine.key
    admissible = victim._engine.commands
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        _, _, terminated, _, info = victim.step(text)
    finally:
        os.chdir(here)
    if terminated:
        victim.reset(seed=1)
    elif info["action_error"]:
        assert info["state_key"] == before
        assert os.listdir(tmp_path) == []
    else:
        assert json.loads(info["action"][len("command(") : -1]) in admissible


def transcript(seed: int, noise: tuple[str, ...] = (), turns: int = 15) -> list[Any]:
    with playing("custom", seed) as (env, observation, info):
        rng = random.Random(0)
        lines: list[Any] = [observation, info]
        for _ in range(turns):
            assert all(env.step(text)[4]["action_error"] for text in noise)
            *line, info = env.step(rng.choice(info["admissible_actions"]))
            lines += [line, info]
            if line[2]:
                break
        return lines


def test_rejected_commands_leave_the_engine_as_it_was() -> None:
    noise = ("drop all", "take all", "take", "open all", "put all on rack", "go up", "x me")
    assert transcript(0, noise) == transcript(0)


def test_two_threads_play_apart() -> None:
    alone = [transcript(seed) for seed in SEEDS]
    together: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda s=seed: together.setdefault(s, transcript(s)))
        for seed in SEEDS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in SEEDS] == alone
    assert alone[0] != alone[1]


# ---- resets


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GameSpec]:
    """Which games are asked for; the one that is played is always the same."""
    specs: list[GameSpec] = []

    def one_game(spec: GameSpec, timeout_s: float) -> Path:
        specs.append(spec)
        return game_file(GameSpec("custom", complete("custom", {}), 0), timeout_s)

    monkeypatch.setattr(textworld, "game_file", one_game)
    return specs


def test_seeds_name_games_and_start_streams(asked: list[GameSpec]) -> None:
    env = TextWorldEnv("custom")
    for seed in (7, None, None, 7, None, 2**32 + 7):
        env.reset(seed=seed)
    env.close()
    seeds = [spec.seed for spec in asked]
    assert seeds[0] == seeds[3] == seeds[5] == 7
    assert seeds[1] == seeds[4]
    assert len({7, seeds[1], seeds[2]}) == 3


def test_options_are_settings_for_one_episode(asked: list[GameSpec]) -> None:
    env = TextWorldEnv("custom", world_size=3)
    env.reset(seed=0, options={"quest_length": 2})
    env.reset(seed=0)
    env.close()
    assert asked[0].settings == {"world_size": 3, "nb_objects": 10, "quest_length": 2}
    assert asked[1].settings == {"world_size": 3, "nb_objects": 10, "quest_length": 5}
    with pytest.raises(ConfigError, match="Did you mean 'quest_length'"):
        env.reset(options={"quest_lenght": 2})


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"game": "coin"}, UnknownNameError, "TextWorld game 'coin'"),
        ({"level": 0}, ConfigError, "level must be"),
        ({"levle": 1}, ConfigError, "Did you mean 'level'"),
        ({"goal": "none"}, ConfigError, "goal must be one of"),
        ({"action_syntax": "xml"}, ConfigError, "action_syntax must be one of"),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextWorldEnv(**kwargs)


def test_resets_free_the_interpreter() -> None:
    """Each engine maps a library of its own; a leak would add one at every reset."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("libfrotz.so")

    before = mapped()
    env = TextWorldEnv("custom")
    env.reset(seed=0)
    env.oracle_action()
    two_engines = mapped() - before
    for _ in range(5):
        env.reset(seed=0)
        env.oracle_action()
    assert mapped() - before == two_engines > 0
    env.close()
    assert mapped() == before


def test_spaces_can_be_copied_and_pickled() -> None:
    with playing("custom") as (env, _, info):
        for space in (
            copy.deepcopy(env.action_space),
            pickle.loads(pickle.dumps(env.action_space)),
        ):
            assert space == env.action_space
            assert space.sample() in info["admissible_actions"]


# ---- snapshots


def wander(env: TextWorldEnv, seed: int, turns: int) -> list[Any]:
    """Harmless commands and refused ones; what came of them."""
    rng = random.Random(seed)
    lines: list[Any] = []
    for _ in range(turns):
        assert env._engine is not None
        commands = [c for c in env._engine.commands if c.split()[0] in HARMLESS]
        lines.append(env.step(rng.choice([*commands, "go up", "zap"])))
    return lines


@pytest.fixture(params=["kept in memory", "played again"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots in the process that took them, and in another one."""
    monkeypatch.setattr(textworld, "_points", OrderedDict())
    if request.param == "played again":
        monkeypatch.setattr(textworld, "_keep", lambda *moment: None)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_game_goes_on_as_the_first(kind: str) -> None:
    with playing(kind) as (env, _, _):
        *_, (observation, _, _, _, info) = wander(env, 0, 6)
        snapshot = env.snapshot()
        told = {"admissible_actions", "state_key", "score", "max_score"}
        other = TextWorldEnv(kind)
        assert other.restore(snapshot) == (observation, {k: info[k] for k in told})
        assert other.snapshot() == snapshot
        assert other.render() == env.render()
        assert wander(other, 1, 4) == wander(env, 1, 4)
        assert other.oracle_action() == env.oracle_action()
        assert play(other) == play(env)
        other.close()


@pytest.mark.usefixtures("memory")
def test_going_back_and_trying_something_else() -> None:
    """As a tree search does: the game is that of the branch, its oracle's plan as well."""
    with playing("custom", 1) as (env, _, _):
        start = env.snapshot()
        branches = []
        for seed in (1, 2, 1):
            env.restore(start)
            branches.append([*wander(env, seed, 5), env.oracle_action()])
        assert branches[0] == branches[2]
        assert branches[0] != branches[1]


def test_a_finished_game_can_be_kept() -> None:
    with playing("coin_collector") as (env, _, _):
        play(env)
        other = TextWorldEnv("coin_collector")
        _, info = other.restore(env.snapshot())
        assert info["admissible_actions"] == []
        with pytest.raises(EpisodeOverError):
            other.step("look")
        other.close()


def test_settings_and_chance_belong_to_a_snapshot(asked: list[GameSpec]) -> None:
    env, other = TextWorldEnv("custom"), TextWorldEnv("custom")
    env.reset(seed=4, options={"world_size": 3})
    other.restore(env.snapshot())
    assert asked[-1] == asked[0]
    assert asked[0].settings["world_size"] == 3
    env.reset()
    other.reset()
    assert asked[-1] == asked[-2]  # the next game of the stream is the same
    env.close()
    other.close()


def test_memory_of_snapshots_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    points: OrderedDict[Any, Any] = OrderedDict()
    monkeypatch.setattr(textworld, "_points", points)
    monkeypatch.setattr(textworld, "POINTS", 3)
    with playing("custom") as (env, _, _):
        snapshots = []
        for _ in range(5):
            env.step("look")
            snapshots.append(env.snapshot())
        assert len(points) == 3
        assert env.restore(snapshots[0])[0]["text"].startswith("-= ")  # forgotten: played again


@pytest.mark.parametrize(
    "change",
    [
        {"snapshot": 0},
        {"game": "simple"},
        {"seed": -1},
        {"seed": "0"},
        {"settings": {"world_size": 99}},
        {"settings": []},
        {"commands": ["look", "fly away"]},
        {"commands": 3},
        {"state_key": "0"},
        {"chance": {}},
        {"chance": {"bit_generator": "PCG64", "state": 3, "has_uint32": 0, "uinteger": 0}},
    ],
    ids=str,
)
def test_a_snapshot_that_is_none_changes_nothing(change: dict[str, Any]) -> None:
    with playing("custom") as (env, _, _):
        env.step("look")
        snapshot = env.snapshot()
        broken = json.dumps({**json.loads(snapshot), **change}).encode()
        with pytest.raises(ConfigError):
            env.restore(broken)
        assert env.snapshot() == snapshot
        assert env.step("look")[0]["error"] == ""


def test_no_snapshot_before_the_first_game() -> None:
    with pytest.raises(EpisodeOverError, match="reset"):
        TextWorldEnv("custom").snapshot()


# ---- what is not there, and what breaks


def test_textworld_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[text\]'"):
        TextWorldEnv("custom")


def test_textworld_is_imported_by_the_first_reset_only() -> None:
    code = (
        "import sys, gymnasium, agentgym\n"
        "env = gymnasium.make('agentgym/textworld.custom-v0')\n"
        "env.unwrapped.action_space.sample(); env.close()\n"
        "print([m for m in ('textworld', 'jericho', 'torch') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_broken_engine_is_the_environments_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with playing("custom") as (env, _, _):
        assert env._engine is not None

        def fail(text: str) -> None:
            raise RuntimeError("no engine")

        monkeypatch.setattr(env._engine._game, "step", fail)
        with pytest.raises(EnvFailureError, match=r"carry out 'look'.*no engine"):
            env.step("look")
        env.reset(seed=0)
        env.step("look")


def test_a_file_that_is_no_game_is_the_environments_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "game.z8").write_bytes(b"")
    (tmp_path / "game.json").write_text("{}")
    monkeypatch.setattr(textworld, "game_file", lambda *spec: tmp_path / "game.z8")
    with pytest.raises(EnvFailureError, match="failed to start"):
        TextWorldEnv("custom").reset(seed=0)
