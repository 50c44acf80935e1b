"""The benchmark `text`: what its sides do, on little work; no number is checked for its size."""

from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.bench import BenchmarkOptions, Measurement, run_benchmark
from agentgym.environments.text import benchmark
from agentgym.environments.text.benchmark import Cheapest, game_ids, random_play, text
from agentgym.errors import UnknownNameError
from agentgym.registry import BENCHMARKS

MAZE = "agentgym/maze-v0"


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "STEPS", 32)
    monkeypatch.setattr(benchmark, "LIVE", 60)
    monkeypatch.setattr(benchmark, "TEXTWORLD_GAMES", ("coin_collector",))
    monkeypatch.setattr(benchmark, "TEXTWORLD_EPISODES", 1)


def test_every_side_does_the_work_of_its_baseline() -> None:
    assert "text" in BENCHMARKS
    result = run_benchmark("text", BenchmarkOptions(True, (MAZE, "agentgym/textworld.custom-v0")))
    rows = {(row["case"], row["side"]): row for row in result.rows}
    assert [case for case, _ in rows][::2] == [
        "maze",
        "cheapest environment",
        "textworld.custom",
        "maze, 3 live",
        "maze, 8 at once",
    ]
    for (case, side), row in rows.items():
        assert row["same_work"] is True, (case, side)
        assert row["steps_per_s"] > 0
        assert row["resets_per_s"] > 0
    assert rows["maze, 3 live", "interleaved"]["steps"] == 3 * 3 * benchmark.LIVE_TURNS
    assert rows["maze, 3 live", "interleaved"]["kib_per_game"] >= 0
    assert rows["maze, 3 live", "one by one"]["kib_per_game"] is None
    assert rows["maze, 8 at once", "make_vec sync"]["steps"] == 3 * 8


def test_games_are_those_in_pure_python() -> None:
    ids = game_ids()
    assert MAZE in ids
    assert not [env_id for env_id in ids if "textworld" in env_id or "miniwob" in env_id]
    assert text(BenchmarkOptions()).cases[: len(ids)][ids.index(MAZE)].name == "maze"


def test_unknown_environments_are_told() -> None:
    with pytest.raises(UnknownNameError, match="maze-v0"):
        text(BenchmarkOptions(env_ids=("agentgym/mase-v0",)))


def test_random_play_counts_steps_and_resets() -> None:
    measured = random_play(gym.make(MAZE), 4, 10, 0)
    assert measured.counts == {"steps": 10, "resets": 3}  # after 4, 8: a maze is not won so soon
    assert len(measured.latencies["step"]) == 10
    assert len(measured.latencies["reset"]) == 3
    assert measured.seconds == pytest.approx(sum(map(sum, measured.latencies.values())))


def test_the_cheapest_environment_is_one() -> None:
    env = Cheapest()
    assert env.reset() == ("", {})
    assert env.step("x") == ("", 0.0, False, False, {})


def test_memory_is_told_where_the_system_tells() -> None:
    assert benchmark._memory() > 10**6
    assert benchmark._weight(Measurement(1.0, {"live": 4, "bytes": 8192})) == 2.0
    assert benchmark._weight(Measurement(1.0, {"steps": 1})) is None


def test_no_memory_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", none)
    assert benchmark._memory() == 0
