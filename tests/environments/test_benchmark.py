"""The benchmark `environment`: baselines play the same episodes. Nothing is timed."""

import importlib.util
import json
from contextlib import closing

import gymnasium as gym
import pytest

from agentgym.bench import BenchmarkOptions, Measurement, run_benchmark
from agentgym.environments import benchmark
from agentgym.environments.benchmark import (
    DEFAULT_IDS,
    EPISODES,
    GAMES,
    MAX_STEPS,
    QUICK_IDS,
    SCRIPTS,
    THREADED_ID,
    THREADS,
    GymPlayer,
    PlainPlaywright,
    RawTextWorld,
    environment,
    measure,
    measure_threads,
    play,
    seeds,
)
from agentgym.errors import MissingDependencyError, UnknownNameError
from agentgym.registry import BENCHMARKS

ORACLE_TAKES = {"click-test": 1, "enter-text": 2, "login-user": 3, "use-autocomplete": 3}
"""Steps of the oracle; click-checkboxes takes one for each box and one more."""


class Counter:
    """Plays episodes of `seed` steps, the last one worth the seed; 0 steps means no end."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seed = self.steps = 0

    def reset(self, seed: int) -> str:
        self.calls.append("reset")
        self.seed, self.steps = seed, 0
        return f"count\n to  {seed}"

    def choose(self) -> str:
        self.calls.append("choose")
        return f"action {self.steps}"

    def step(self, action: str) -> tuple[float, bool]:
        assert action == f"action {self.steps}"
        self.calls.append("step")
        self.steps += 1
        over = self.steps == self.seed
        return (float(self.seed) if over else 0.0), over

    def close(self) -> None:
        self.calls.append("close")


def test_play_alternates_and_counts() -> None:
    player = Counter()
    episodes, latencies = play(player, [2, 1])
    assert player.calls == ["reset", "choose", "step", "choose", "step", "reset", "choose", "step"]
    assert episodes == [(2, "count to 2", 2, 2.0), (1, "count to 1", 1, 1.0)]
    assert {kind: len(values) for kind, values in latencies.items()} == {"reset": 2, "step": 3}


def test_an_endless_episode_is_cut() -> None:
    episodes, _ = play(Counter(), [0])
    assert episodes == [(0, "count to 0", MAX_STEPS, 0.0)]


def test_threads_share_the_same_work() -> None:
    work = [1, 2, 3, 4, 5, 6]
    alone = measure(Counter(), work)
    players = [Counter() for _ in range(4)]
    together = measure_threads(players, work)
    assert together.outcome == alone.outcome
    assert together.counts == alone.counts == {"steps": 21, "resets": 6}
    assert [p.calls.count("reset") for p in players] == [2, 2, 1, 1]
    # With threads, the latencies of one say nothing about the rate of all.
    assert together.latencies == {}
    assert alone.seconds == pytest.approx(sum(map(sum, alone.latencies.values())))


def test_rates_by_hand() -> None:
    plan = environment(BenchmarkOptions(env_ids=("CartPole-v1",)))
    alone = Measurement(
        2.0, {"steps": 4, "resets": 1}, latencies={"step": [0.25] * 4, "reset": [1.0]}
    )
    rates = {name: rate(alone) for name, rate in plan.rates.items()}
    assert rates == {"steps_per_s": 4.0, "resets_per_s": 1.0, "all_steps_per_s": 2.0}
    threads = Measurement(0.5, {"steps": 4, "resets": 1})
    rates = {name: rate(threads) for name, rate in plan.rates.items()}
    assert rates == {"steps_per_s": None, "resets_per_s": None, "all_steps_per_s": 8.0}


def test_seeds() -> None:
    assert seeds("agentgym/miniwob.click-test-v0", 3, 2) == [2000, 2001, 2002]
    assert len(seeds("agentgym/miniwob.click-test-v0", EPISODES, 0)) == THREADS
    games = seeds("agentgym/textworld.cooking-v0", EPISODES, 2)
    assert (len(games), set(games)) == (EPISODES, set(range(GAMES)))
    assert set(games) == set(seeds("agentgym/textworld.cooking-v0", EPISODES, 0)), (
        "all games are made in the warm-up"
    )
    assert seeds("agentgym/textworld.cooking-v0", THREADS, 1) == [0] * THREADS


def test_the_plan_names_what_is_there() -> None:
    names = [case.name for case in environment(BenchmarkOptions()).cases]
    assert len(names) == len(set(names))
    assert {"miniwob.click-test", "miniwob.click-test + image", "textworld.cooking"} <= set(names)
    assert names[-1] == "miniwob.login-user, in threads"
    assert set(QUICK_IDS) | {THREADED_ID} <= set(DEFAULT_IDS)
    tasks = [gym.spec(i).kwargs["task"] for i in DEFAULT_IDS if "miniwob" in i]
    assert sorted(tasks) == sorted(SCRIPTS), "every MiniWoB page has a baseline"
    quick = [case.name for case in environment(BenchmarkOptions(quick=True)).cases]
    assert quick[-1] == "miniwob.click-test, in threads"


def test_unknown_environments_are_named() -> None:
    assert BENCHMARKS.get("environment") is environment
    with pytest.raises(UnknownNameError, match=r"Did you mean 'agentgym/miniwob\.click-test-v0'"):
        environment(BenchmarkOptions(env_ids=("agentgym/miniwob.click-tset-v0",)))


def test_an_environment_without_oracle_and_baseline() -> None:
    result = run_benchmark("environment", BenchmarkOptions(True, ("CartPole-v1",)))
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [(row["case"], row["side"]) for row in written["rows"]] == [
        ("CartPole-v1", "agentgym"),
        ("CartPole-v1, in threads", "4 threads"),
        ("CartPole-v1, in threads", "1 thread"),
    ]
    alone, together, one = written["rows"]
    assert alone["same_work"] is None
    assert "steps_per_s_ratio" not in alone
    assert alone["resets"] == alone["reset_samples"] == 3 * THREADS
    assert alone["steps"] == alone["step_samples"]
    assert alone["step_p50_ms"] <= alone["step_p95_ms"]
    assert together["same_work"], "random actions depend on the seed alone"
    assert together["steps"] == one["steps"]
    assert "all_steps_per_s_ratio" in together
    assert "step_p50_ms" not in together


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="playwright is not installed"):
        benchmark._start_playwright()


@pytest.mark.browser
@pytest.mark.parametrize("task", sorted(SCRIPTS))
def test_plain_playwright_plays_the_same_episodes(task: str) -> None:
    work = [5, 6]
    with closing(GymPlayer(f"agentgym/miniwob.{task}-v0")) as ours:
        expected = measure(ours, work).outcome
        with closing(PlainPlaywright(task, ours.begun, images=True)) as plain:
            played = measure(plain, work).outcome
    assert played == expected
    for _, goal, steps, reward in played:
        assert goal
        assert reward == 1.0
        assert steps == ORACLE_TAKES.get(task, steps)


def test_the_raw_engine_plays_the_same_episodes() -> None:
    with closing(GymPlayer("agentgym/textworld.coin_collector-v0")) as ours:
        expected = measure(ours, [0]).outcome
        with closing(RawTextWorld("coin_collector", ours.played)) as raw:
            played = measure(raw, [0]).outcome
    assert played == expected
    ((_, goal, steps, reward),) = played
    assert goal
    assert steps > 1
    assert reward == 1.0
