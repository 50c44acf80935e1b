"""Skill games: built by TextWorld, won by their oracle, and what happens when a model babbles."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.text import textworld
from agentgym.environments.text.games import GameSpec, complete, game_file
from agentgym.environments.text.skill_env import SkillEnv
from agentgym.environments.text.skills import IDEAS, sketch_by_grammar
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.forks import fork
from agentgym.players import PlayerTurn

SKETCH = sketch_by_grammar("have a picnic", 0).write()
"""Puts, eats, opens a container and moves the same thing twice."""


class Writer:
    """Answers every turn alike."""

    name = "writer"

    def __init__(self, answer: str) -> None:
        self.text = answer
        self.asked: list[str] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Writer":
        return self

    def answer(self, turn: PlayerTurn) -> str:
        self.asked.append(turn.facts["idea"])
        return self.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[GameSpec]:
    """Which games are asked for; the one that is played is always the picnic."""
    specs: list[GameSpec] = []

    def one_game(spec: GameSpec, timeout_s: float) -> Path:
        specs.append(spec)
        return game_file(GameSpec("skill", complete("skill", {"sketch": SKETCH}), 0), timeout_s)

    monkeypatch.setattr(textworld, "game_file", one_game)
    return specs


@pytest.mark.usefixtures("asked")
def test_the_oracle_earns_a_share_for_each_step_and_wins_with_the_last() -> None:
    env = SkillEnv()
    observation, info = env.reset(seed=0)
    assert observation["goal"].startswith("Your task is to have a picnic. To do so, put the")
    rewards = []
    while "success" not in info:
        _, reward, _, _, info = env.step(env.oracle_action())
        assert info["action_error"] == ""
        rewards.append(reward)
    env.close()
    assert info["success"] is True
    assert sorted(rewards)[-4:] == [0.0, *[pytest.approx(1 / 3)] * 3]
    assert rewards[-1] > 0


@pytest.mark.usefixtures("asked")
def test_a_brief_goal_names_the_skill_alone() -> None:
    env = SkillEnv(goal="brief")
    assert env.reset(seed=0)[0]["goal"] == "Your task is to have a picnic."
    env.close()


def test_ideas_reach_the_grammar(asked: list[GameSpec]) -> None:
    env = SkillEnv(idea="boil water")
    env.reset(seed=0)
    env.reset(seed=1, options={"idea": "send a letter"})
    assert [spec.settings["idea"] for spec in asked] == ["boil water", "send a letter"]
    assert [spec.settings["sketch"] for spec in asked] == ["", ""]
    env.close()
    with pytest.raises(ConfigError, match="idea must be one of"):
        SkillEnv(idea="fly")
    with pytest.raises(ConfigError, match="use TextWorldEnv"):
        SkillEnv("cooking")


def test_a_player_sketches_any_idea(asked: list[GameSpec]) -> None:
    writer = Writer(f"Here you are: {SKETCH}")
    env = SkillEnv(player=writer, idea="eat outside")
    env.reset(seed=0)
    assert env.diagnostics["sketch_by"] == "writer"
    env.reset(seed=0, options={"idea": "rest in the grass"})
    env.reset(seed=5, options={"idea": ""})
    env.close()
    assert writer.asked[:2] == ["eat outside", "rest in the grass"]
    assert writer.asked[2] in IDEAS
    assert {spec.settings["sketch"] for spec in asked} == {SKETCH}


def test_a_babbling_player_gives_way_to_the_grammar(asked: list[GameSpec]) -> None:
    env = SkillEnv(player=Writer("no"), idea="boil water")
    env.reset(seed=0)
    env.reset(seed=0, options={"idea": "fly a kite"})
    env.close()
    assert env.diagnostics["sketch_by"] == "grammar"
    assert [dict(spec.settings) for spec in asked] == [
        {"idea": "boil water", "sketch": ""},
        {"idea": "", "sketch": ""},
    ]


def test_without_fallback_a_babbling_player_is_an_error() -> None:
    env = SkillEnv(player=Writer("no"), fallback=False)
    with pytest.raises(EnvFailureError, match=r"writer gave no game: .*no usable answer"):
        env.reset(seed=0)


@pytest.mark.parametrize("idea", [3, "x" * 81, "a\nb"])
def test_ideas_for_a_player_are_short_lines(idea: Any) -> None:
    with pytest.raises(ConfigError, match="idea must be a line"):
        SkillEnv(player=Writer("no"), idea=idea).reset(seed=0)


@pytest.mark.usefixtures("asked")
def test_a_sketched_game_is_forked_without_its_player() -> None:
    """The snapshot holds the sketch: nobody has to be asked again."""
    writer = Writer(SKETCH)
    env = gym.make("agentgym/textworld.skill-v0", player=writer)
    env.reset(seed=0)
    world: Any = env.unwrapped
    env.step(world.oracle_action())
    assert json.loads(world.snapshot())["settings"]["sketch"] == SKETCH
    twin = fork(env)
    assert len(writer.asked) == 1
    action = world.oracle_action()
    assert twin.step(action) == env.step(action)
    env.close()
    twin.close()
