"""The benchmark `rollout`: the baseline does the same work. Nothing is timed."""

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agentgym import bench, rollout_benchmark
from agentgym.bench import BenchmarkOptions, run_benchmark
from agentgym.errors import MissingDependencyError, UnknownNameError
from agentgym.inference.hf import HFBackend
from agentgym.inference.scripted import ScriptedBackend
from agentgym.models.tiny import tiny_model, tiny_tokenizer
from agentgym.registry import BENCHMARKS, Registry
from agentgym.rollout_benchmark import (
    MAX_TOKENS,
    MAX_TURNS,
    Rooms,
    _Log,
    rollout,
    run_collect,
    run_plain_loop,
    tasks_of,
)

ANSWERS = ("take('red book')", "go()", "well")


class ScriptedModel:
    """What the plain loop uses of a transformers model: answers in turn, and remembers prompts."""

    device = torch.device("cpu")

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = answers
        self.prompts: list[list[int]] = []

    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        assert kwargs["max_new_tokens"] == MAX_TOKENS
        assert not kwargs["do_sample"]
        answer = self.answers[len(self.prompts) % len(self.answers)]
        self.prompts.append(input_ids[0].tolist())
        return torch.cat([input_ids, torch.tensor([answer])], dim=1)


def test_both_sides_send_the_same_prompts_and_get_the_same_rewards() -> None:
    tokenizer = tiny_tokenizer()
    tasks = tasks_of([Rooms.ID], 2, repetition=1)
    backend = ScriptedBackend(ANSWERS, tokenizer)
    ours = run_collect(backend, tokenizer, tasks, num_envs=1, compared=2)
    model = ScriptedModel([[*tokenizer.encode(a), tokenizer.eos_token_id] for a in ANSWERS])
    plain = run_plain_loop(model, tokenizer, tasks)
    assert model.prompts == [r.prompt_ids.tolist() for r in backend.requests]
    assert len({tuple(p) for p in model.prompts}) == 2 * MAX_TURNS, "every prompt is another one"
    assert ours.outcome == plain.outcome == [["rooms#1000", 3, 1.0], ["rooms#1001", 3, 1.0]]
    assert ours.counts == plain.counts
    # Bytes are tokens here, and every answer has its end token.
    assert ours.counts["tokens"] == 2 * sum(len(a) + 1 for a in ANSWERS)


def test_counts_and_shares_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_benchmark, "MAX_TOKENS", 5)
    model, tokenizer = tiny_model()
    tasks = tasks_of([Rooms.ID], 4, repetition=2)
    ours = run_collect(HFBackend(model, tokenizer), tokenizer, tasks, num_envs=2, compared=1)
    plain = run_plain_loop(model, tokenizer, tasks[:1])
    assert ours.counts["episodes"] == 4
    assert ours.counts["turns"] == 4 * MAX_TURNS
    assert ours.counts["batches"] == 2 * MAX_TURNS, "two episodes at once, twice"
    assert ours.counts["turns"] <= ours.counts["tokens"] <= ours.counts["turns"] * 5
    assert ours.counts["broken"] == 0
    assert plain.counts["batches"] == plain.counts["turns"] == MAX_TURNS
    assert ours.outcome == plain.outcome == [["rooms#2000", 3, 1.0]]
    for measured in (ours, plain):
        assert set(measured.shares) == {"generation", "environments", "idle"}
        assert all(0 <= share <= 1 for share in measured.shares.values())


def test_shares_by_hand() -> None:
    log = _Log(generation=[(0, 4), (6, 8)], environments=[(3, 5), (4, 5)])
    # Of 10 s: 6 s of generation, 2 s of environments, and 3 s (5 to 6, 8 to 10) of neither.
    assert log.shares(10) == {"generation": 0.6, "environments": 0.2, "idle": pytest.approx(0.3)}


def test_more_tasks_begin_with_fewer() -> None:
    ids = ["a", "b"]
    few, many = tasks_of(ids, 3, 1), tasks_of(ids, 5, 1)
    assert [(t.env_id, t.seed) for t in few] == [("a", 1000), ("b", 1001), ("a", 1002)]
    assert many[:3] == few
    assert not {t.seed for t in tasks_of(ids, 5, 2)} & {t.seed for t in many}
    assert len(tasks_of(ids, 5, 0)) == 1, "the warm-up is short"


def test_rooms_are_an_environment_in_which_every_walk_is_equally_long() -> None:
    env = Rooms()
    check_env(env, skip_render_check=True)
    for answer in ("go()", "no action at all"):
        first, _ = env.reset(seed=3)
        steps = [env.step(answer) for _ in range(MAX_TURNS)]
        assert [over for _, _, over, _, _ in steps] == [False] * (MAX_TURNS - 1) + [True]
        assert [reward for _, reward, *_ in steps] == [0.0] * (MAX_TURNS - 1) + [1.0]
        assert bool(steps[0][0]["error"]) == (answer != "go()")
    again, _ = env.reset(seed=3)
    other, _ = env.reset(seed=4)
    assert first["text"] == again["text"] != other["text"]


def test_a_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh: Registry[Any] = Registry("benchmark")
    monkeypatch.setattr(bench, "BENCHMARKS", fresh)
    monkeypatch.setattr(rollout_benchmark, "MAX_TOKENS", 3)  # this is about the records

    def rooms_only(options: BenchmarkOptions) -> bench.Benchmark:
        benchmark = rollout(options)
        assert [case.name for case in benchmark.cases] == ["in-process rooms", "miniwob"]
        return dataclasses.replace(benchmark, cases=benchmark.cases[:1])

    fresh.register("rollout", rooms_only)
    written = json.loads(
        json.dumps(run_benchmark("rollout", BenchmarkOptions(quick=True)).to_json())
    )
    assert written["settings"]["model"] == "tiny"
    assert written["settings"]["dtype"] in ("torch.float32", "torch.bfloat16")  # the machine's
    sides = [row["side"] for row in written["rows"]]
    assert sides == ["collect, 1 at once", "collect, 4 at once", "baseline"]
    for row in written["rows"]:
        assert row["same_work"]
        assert row["turns"] == row["episodes"] * MAX_TURNS
        assert row["tokens"] <= row["turns"] * 3
        shown = set(written["columns"]) - {"tokens_per_s_ratio", "episodes_per_min_ratio"}
        assert shown <= set(row)
        assert ("tokens_per_s_ratio" in row) == (row["side"] != "baseline")
    rates = [
        sample["counts"]["turns"] / sample["seconds"]
        for sample in written["samples"]
        if sample["side"] == "baseline"
    ]
    assert written["rows"][2]["turns_per_s"] == pytest.approx(float(np.median(rates)))


def test_bad_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BENCHMARKS.get("rollout") is rollout
    with pytest.raises(UnknownNameError, match="environment 'agentgym/nothing-v0' is not known"):
        rollout(BenchmarkOptions(env_ids=("agentgym/nothing-v0",)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="torch is not installed"):
        rollout(BenchmarkOptions())
