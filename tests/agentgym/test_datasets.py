"""Offline datasets: the plan decides every row, whatever stops or slows the work."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from agentgym import datasets
from agentgym.actions import ActionSet
from agentgym.chat import ContextConfig
from agentgym.core import AgentEnv
from agentgym.datasets import PLAN, DatasetPlan, make_dataset, parse_mix, qualities, summarise
from agentgym.errors import ConfigError, EnvFailureError, UnknownNameError
from agentgym.models.tiny import tiny_tokenizer
from agentgym.policy import oracle_policy, random_policy
from agentgym.records import to_table
from agentgym.rollout import collect
from agentgym.spaces import ActionText, observation_space
from agentgym.store import TrajectoryStore
from agentgym.types import EndReason, Observation, Source, Task, Trajectory

NAME = "test/stairs-v0"


def go(up: bool) -> None:
    """Take one step."""


class Stairs(AgentEnv):
    """Reach step `top` from one that the seed chooses."""

    broken_seed = -1
    has_oracle = True

    def __init__(self, top: int = 6) -> None:
        self.top = top
        self.action_set = ActionSet([go])
        self.action_space = ActionText(self.action_set)
        self.observation_space = observation_space()

    def oracle_action(self) -> str:
        return "go(True)"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seed = seed
        self.at = int(self.np_random.integers(3))
        return self._shown(""), {"state_key": str(self.at)}

    def _shown(self, error: str) -> Observation:
        return {"goal": f"Reach {self.top}", "text": f"You are on {self.at}", "error": error}

    def step(self, action: str) -> Any:
        if self.seed == self.broken_seed:
            raise EnvFailureError("the stairs are gone")
        reading = self.action_set.read(action)
        if reading.call is not None:
            self.at = max(0, self.at + (1 if reading.call.arguments["up"] else -1))
        won = self.at == self.top
        info = {**reading.info(), "state_key": str(self.at), **({"success": True} if won else {})}
        return self._shown(reading.error), float(won), won, False, info


class NoExpert(Stairs):
    has_oracle = False


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register(NAME, entry_point=lambda **k: Stairs(**k), max_episode_steps=12)
    gym.register("test/wild-v0", entry_point=lambda **k: NoExpert(**k), max_episode_steps=12)
    gym.register("test/endless-v0", entry_point=lambda **k: Stairs(**k))
    yield
    for name in (NAME, "test/wild-v0", "test/endless-v0"):
        del gym.registry[name]


def rows(folder: Path) -> list[Trajectory]:
    return list(TrajectoryStore(folder, read_only=True))


def told(trajectories: list[Trajectory]) -> Any:
    """Everything but the seconds, as values that can be compared."""
    timeless = [
        dataclasses.replace(t, turns=tuple(dataclasses.replace(u, cost={}) for u in t.turns))
        for t in trajectories
    ]
    return to_table(timeless).to_pylist()


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in TrajectoryStore(folder, read_only=True).files()]


# ---- mixes


def test_mixes_are_read() -> None:
    mix = parse_mix("expert=0.3, mixed=0.4, random=0.3")
    assert [(q.name, q.noise, q.share) for q in mix] == [
        ("expert", 0.0, 0.3),
        ("mixed:0.5", 0.5, 0.4),
        ("random", 1.0, 0.3),
    ]
    assert [q.name for q in parse_mix("mixed:0.20,mixed:0.4")] == ["mixed:0.2", "mixed:0.4"]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("", "quality is expert, mixed, mixed:P or random, got ''"),
        ("oracle=1", "got 'oracle'"),
        ("expert:0.2=1", "got 'expert:0.2'"),
        ("expert=some", "QUALITY=WEIGHT"),
        ("expert=0", "weight of expert must be above 0, got '0'"),
        ("expert=nan", "weight of expert"),
        ("expert=inf", "weight of expert"),
        ("mixed:1=1", "between 0 and 1, got '1'"),
        ("mixed:x=1", "QUALITY=WEIGHT"),
        ("mixed=1,mixed:0.5=2", "mixed:0.5 stands twice"),
    ],
)
def test_wrong_mixes_are_told(mix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_mix(mix)


def test_every_beginning_has_the_shares() -> None:
    mix = parse_mix("expert=0.3,mixed=0.4,random=0.3")
    chosen = [q.name for q in itertools.islice(qualities(mix), 100)]
    for end in range(1, 101):
        counts = Counter(chosen[:end])
        assert all(abs(counts[q.name] - q.share * end) < 1 for q in mix)
    assert Counter(chosen) == {"expert": 30, "mixed:0.5": 40, "random": 30}


# ---- rows


def test_rows_are_those_of_a_rollout(tmp_path: Path) -> None:
    """The same record as `collect` makes of the same actions, but for names and seconds."""
    make_dataset(DatasetPlan(NAME, 4, "expert,random", seed=5), tmp_path)
    made = rows(tmp_path)
    for trajectory in made:
        policy = oracle_policy() if trajectory.source is Source.EXPERT else random_policy()
        index = int(trajectory.id.rpartition("/")[2])
        tasks = [Task(NAME, 5 + i) for i in range(4)]
        other = collect(tasks, policy, seed=5)[index]
        same: Any = {"id": other.id, "policy": other.policy, "metadata": other.metadata}
        assert told([dataclasses.replace(trajectory, **same)]) == told([other])
    assert [t.source for t in made] == [
        Source.EXPERT,
        Source.RANDOM,
        Source.EXPERT,
        Source.RANDOM,
    ]
    assert made[0].id == "stairs-v0-5/0000000"


def test_rows_hold_a_models_tokens_if_it_is_named(tmp_path: Path) -> None:
    """The same ids as a rollout of the expert with that model's tokenizer records."""
    tokenizer = tiny_tokenizer()
    plan = DatasetPlan(NAME, 2, "expert", seed=5, model="tiny")
    make_dataset(plan, tmp_path / "a", tokenizer=tokenizer)
    others = collect([Task(NAME, 5 + i) for i in range(2)], oracle_policy(tokenizer=tokenizer))
    for trajectory, other in zip(rows(tmp_path / "a"), others, strict=True):
        for turn, same in zip(trajectory.turns, other.turns, strict=True):
            assert turn.extends == same.extends
            assert turn.prompt_ids.tolist() == same.prompt_ids.tolist()
            assert turn.action_ids is not None
            assert same.action_ids is not None
            assert turn.action_ids.tolist() == same.action_ids.tolist()
    short = ContextConfig(max_tokens=200)
    make_dataset(plan, tmp_path / "b", tokenizer=tokenizer, context=short)
    assert {t.end for t in rows(tmp_path / "b")} == {EndReason.TOKEN_LIMIT}


def test_equal_plans_make_equal_files(tmp_path: Path) -> None:
    plan = DatasetPlan(NAME, 20)
    for name in ("a", "b"):
        make_dataset(plan, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    make_dataset(dataclasses.replace(plan, seed=1), tmp_path / "c")
    assert files(tmp_path / "c") != files(tmp_path / "a")


def test_mixed_players_stray_at_their_rate(tmp_path: Path) -> None:
    made = make_dataset(DatasetPlan(NAME, 200, "mixed:0.2"), tmp_path)
    assert made["mixed:0.2"].successes > 150
    strayed = turns = 0
    for trajectory in rows(tmp_path):
        assert trajectory.source is Source.SYNTHETIC
        random_turns = set(trajectory.metadata["random_turns"])
        for number, turn in enumerate(trajectory.turns):
            assert number in random_turns or turn.text == "go(True)"
        strayed, turns = strayed + len(random_turns), turns + len(trajectory.turns)
    assert 0.15 < strayed / turns < 0.25  # about 1200 turns: a standard deviation is 0.012


def test_what_an_environment_breaks_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stairs, "broken_seed", 1)
    reports = make_dataset(DatasetPlan(NAME, 3, "expert"), tmp_path)
    first, broken, last = rows(tmp_path)
    assert (broken.end, broken.outcome, broken.attempt) == (EndReason.ENV_ERROR, None, 2)
    assert "the stairs are gone" in broken.error
    assert first.success
    assert last.success
    assert (reports["expert"].episodes, reports["expert"].unscored) == (3, 1)


# ---- stopping, going on, growing


def test_a_stopped_dataset_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = DatasetPlan(NAME, 30)
    make_dataset(plan, tmp_path / "whole")
    monkeypatch.setattr(datasets, "BATCH", 7)
    step, calls = Stairs.step, []

    def stop(self: Stairs, action: str) -> Any:
        calls.append(action)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return step(self, action)

    monkeypatch.setattr(Stairs, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(plan, tmp_path / "parts")
    assert 0 < len(rows(tmp_path / "parts")) < 30
    make_dataset(plan, tmp_path / "parts")
    assert told(rows(tmp_path / "parts")) == told(rows(tmp_path / "whole"))


def test_a_small_dataset_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    make_dataset(DatasetPlan(NAME, 10), tmp_path)
    small = rows(tmp_path)
    reports = make_dataset(DatasetPlan(NAME, 25), tmp_path)
    assert told(rows(tmp_path)[:10]) == told(small)
    assert sum(report.episodes for report in reports.values()) == 25
    assert json.loads((tmp_path / PLAN).read_text())["episodes"] == 25
    with pytest.raises(ConfigError, match="holds 25 episodes already"):
        make_dataset(DatasetPlan(NAME, 10), tmp_path)


def test_another_plan_needs_another_folder(tmp_path: Path) -> None:
    make_dataset(DatasetPlan(NAME, 2), tmp_path)
    with pytest.raises(ConfigError, match="seed=0, not 3"):
        make_dataset(DatasetPlan(NAME, 4, seed=3), tmp_path)
    with pytest.raises(ConfigError, match=r"env=\{\}, not \{'top': 3\}"):
        make_dataset(DatasetPlan(NAME, 4, env={"top": 3}), tmp_path)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no dataset"):
        make_dataset(DatasetPlan(NAME, 2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# ---- what cannot be made


def test_what_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="stairs-v0"):
        make_dataset(DatasetPlan("test/stair-v0", 2), tmp_path)
    with pytest.raises(ConfigError, match="has no expert; only the mix 'random'"):
        make_dataset(DatasetPlan("test/wild-v0", 2), tmp_path)
    with pytest.raises(ConfigError, match="no limit of turns"):
        make_dataset(DatasetPlan("test/endless-v0", 2), tmp_path)
    with pytest.raises(ConfigError, match="episodes >= 1"):
        DatasetPlan(NAME, 0)
    assert make_dataset(DatasetPlan("test/wild-v0", 2, "random"), tmp_path)["random"].episodes == 2


def test_keywords_reach_the_environment(tmp_path: Path) -> None:
    make_dataset(DatasetPlan(NAME, 1, "expert", env={"top": 4}), tmp_path)
    assert rows(tmp_path)[0].task.goal == "Reach 4"


def test_the_report_reads_the_rows(tmp_path: Path) -> None:
    report = make_dataset(DatasetPlan(NAME, 6, "expert,random"), tmp_path)
    assert report == summarise(tmp_path)
    expert = [t for t in rows(tmp_path) if t.policy == "expert"]
    assert report["expert"].successes == report["expert"].episodes == 3
    assert report["expert"].mean_turns == sum(len(t.turns) for t in expert) / 3
    assert report["expert"].mean_return == 1.0
