"""The benchmark `inference`: all sides do the same work. Nothing is timed."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from agentgym.bench import BenchmarkOptions, run_benchmark
from agentgym.errors import ConfigError
from agentgym.inference import benchmark
from agentgym.inference.benchmark import FULL, QUICK, Work, play
from agentgym.registry import BENCHMARKS
from agentgym.types import IntArray


def test_conversations_grow_by_observations_and_actions() -> None:
    seen: list[list[IntArray]] = []

    def answer(prompts: Sequence[IntArray], seed: int) -> list[IntArray]:
        seen.append(list(prompts))
        return [np.full(3, 7 + index, np.int32) for index, _ in enumerate(prompts)]

    work = Work(2, 3, shared=10, observation=4, action=3)
    assert play(work, 3, 100, 0, answer) == work.tokens == 18
    assert [[len(p) for p in turn] for turn in seen] == [[14] * 2, [21] * 2, [28] * 2]
    assert (seen[0][0][:10] == seen[0][1][:10]).all()
    assert seen[1][1][14:17].tolist() == [8, 8, 8]
    assert min(min(p) for turn in seen for p in turn) >= 7


def test_a_search_keeps_branches_of_different_nodes() -> None:
    seen: list[int] = []

    def answer(prompts: Sequence[IntArray], seed: int) -> list[IntArray]:
        seen.append(len(prompts))
        return [np.array([index], np.int32) for index, _ in enumerate(prompts)]

    work = Work(4, 3, shared=5, observation=1, action=1, branches=4)
    assert play(work, 3, 100, 0, answer) == work.tokens == 4 + 16 + 16
    assert seen == [4, 16, 16]


def test_full_work_is_what_it_says() -> None:
    assert FULL["16 episodes"].tokens == 2304
    assert FULL["search, depth 6, 4 branches"].tokens == 24 * (4 + 5 * 16)
    assert set(QUICK).isdisjoint(FULL)


def test_bytes_of_sampling_by_hand() -> None:
    work = Work(3, 2, shared=10, observation=4, action=2)
    # Turn 1: 2 steps, contexts 14 and 15; turn 2: 10 + 8 + 2 = 20 and 21.
    assert work.traffic(1, 100, 1) == 2 * 100 + 3 * (14 + 15)
    assert work.traffic(2, 100, 1) == 4 * 100 + 3 * (14 + 15 + 20 + 21)


def test_copying_has_a_speed() -> None:
    assert benchmark.copy_bandwidth(torch.device("cpu"), 1 << 20) > 1e6


def test_parts_are_chosen_by_name() -> None:
    with pytest.raises(ConfigError, match="2 episodes"):
        run_benchmark("inference", BenchmarkOptions(quick=True, parts=("nonsense",)))


@pytest.mark.filterwarnings("ignore:.*min_new_tokens.*")
def test_a_quick_run_measures_every_side() -> None:
    assert BENCHMARKS.get("inference") is benchmark.inference
    result = run_benchmark("inference", BenchmarkOptions(quick=True))
    assert {row["case"] for row in result.rows} == set(QUICK)
    sides = {row["side"] for row in result.rows}
    assert sides == {"engine", "baseline", "one at a time", "HFBackend"}
    assert all(row["tokens_per_s"] > 0 for row in result.rows)
    assert all(row["same_work"] for row in result.rows)
    by_side = {(row["case"], row["side"]): row["tokens"] for row in result.rows}
    for case, work in QUICK.items():
        assert by_side[case, "engine"] == by_side[case, "baseline"] == work.tokens
