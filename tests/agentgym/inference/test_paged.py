"""The engine with kernels and graphs against the same without; on a GPU, or interpreted."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agentgym.core import GenerationRequest, SamplingParams

pytest.importorskip("triton")
from agentgym.inference import decoder as decoders
from agentgym.inference import linear
from agentgym.inference.engine import Engine
from agentgym.inference.hf import HFBackend
from agentgym.inference.paged import Graphs, graph_size
from agentgym.inference.pages import PAGE, bytes_per_page
from agentgym.models.tiny import tiny_model
from agentgym.types import Completion, IntArray

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
PAGE_BYTES = bytes_per_page(2, 2, 16, torch.float32)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        monkeypatch.setattr(decoders, "kernels_work", lambda device: True)
        monkeypatch.setattr(linear, "can_pack", lambda weight: False)


def texts(shared: int, lengths: tuple[int, ...], seed: int = 0) -> list[IntArray]:
    generator = np.random.default_rng(seed)
    start = generator.integers(3, 256, shared)
    return [
        np.concatenate([start, generator.integers(3, 256, n)]).astype(np.int32) for n in lengths
    ]


def model() -> Any:
    loaded, tokenizer = tiny_model()
    return loaded.to(DEVICE), tokenizer  # type: ignore[arg-type]


def same(ours: list[Completion], theirs: list[Completion]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.error == b.error == ""
        assert a.token_ids is not None
        assert b.token_ids is not None
        assert a.token_ids.tolist() == b.token_ids.tolist()
        for name in ("logprobs", "kept_mass", "entropy"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4)


TEXTS = texts(40, (5, 1, 30))
REQUESTS = [
    GenerationRequest(
        text, SamplingParams((0.0, 1.0, 1.3)[i], top_p=(1.0, 1.0, 0.9)[i], max_tokens=5), seed=i
    )
    for i, text in enumerate(TEXTS)
]


def test_sizes_of_graphs() -> None:
    assert [graph_size(n) for n in (1, 3, 9, 33, 64, 65, 200)] == [1, 4, 16, 48, 64, 128, 256]


def test_answers_are_the_references_with_graphs_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = model()
    expected = HFBackend(*pair, eos_ids=()).generate(REQUESTS)
    with Engine(*pair, eos_ids=(), memory=40 * PAGE_BYTES) as engine:
        assert engine._decoder.tables
        assert engine._scheduler._graphs is not None
        same(engine.generate(REQUESTS), expected)
        grown = [
            np.concatenate([t, a.token_ids, TEXTS[0][:3]])
            for t, a in zip(TEXTS, expected, strict=True)
        ]
        more = [GenerationRequest(text, SamplingParams(0.0, max_tokens=3)) for text in grown]
        before = engine.counters["computed"]
        again = engine.generate(more)
        # Three new tokens each, the one before them, and two that were sampled.
        assert engine.counters["computed"] - before == 3 * (1 + 3 + 2)
        same(again, HFBackend(*pair, eos_ids=()).generate(more))
        assert engine._scheduler._graphs is not None  # they did work
        pool, tree = engine._scheduler.pool, engine._scheduler.tree
        assert tree.pinned == 0
        assert pool.free + tree.nodes == pool.pages
        scores = engine.logprobs(
            [np.append(t, a.token_ids) for t, a in zip(TEXTS, expected, strict=True)],  # type: ignore[arg-type]
            [len(t) for t in TEXTS],
        )
        for values, answer in zip(scores, expected, strict=True):
            np.testing.assert_allclose(values, answer.logprobs, atol=1e-4)  # type: ignore[arg-type]
    monkeypatch.setattr(decoders.FusedDecoder, "graphs", lambda self, pool: None)
    with Engine(*pair, eos_ids=(), memory=40 * PAGE_BYTES) as engine:
        same(engine.generate(REQUESTS), expected)


def test_interrupted_answers_are_the_same() -> None:
    pair = model()
    requests = [
        GenerationRequest(text, SamplingParams(max_tokens=30), seed)
        for seed, text in enumerate(texts(0, (20, 30, 25)))
    ]
    reference = HFBackend(*pair, eos_ids=()).generate(requests)
    with Engine(*pair, eos_ids=(), memory=5 * PAGE_BYTES) as engine:
        same(engine.generate(requests), reference)
        assert engine.counters["preempted"] > 0


def test_new_weights_reach_the_graphs() -> None:
    pair = model()
    other = tiny_model(seed=1)[0].to(DEVICE)  # type: ignore[arg-type]
    requests = [GenerationRequest(t, SamplingParams(0.0, max_tokens=4)) for t in TEXTS[:2]]
    with Engine(*pair, memory=40 * PAGE_BYTES) as engine:
        engine.generate(requests)
        engine.load_weights(other.state_dict(), 1)
        graphs = engine._scheduler._graphs
        assert graphs is not None
        assert graphs._graphs  # captured tensors were overwritten in their places
        same(engine.generate(requests), HFBackend(other, pair[1]).generate(requests))
        with torch.no_grad():
            for parameter in pair[0].parameters():
                parameter.data = parameter.data * 0.9
        engine.set_version(2)
        same(engine.generate(requests), HFBackend(*pair).generate(requests))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_and_the_base_take_turns() -> None:
    base, tokenizer = model()
    requests = [GenerationRequest(t, SamplingParams(0.0, max_tokens=3)) for t in TEXTS[:2]]
    plain = HFBackend(base, tokenizer).generate(requests)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted: Any = get_peft_model(base, config)
    policy = HFBackend(adapted, tokenizer).generate(requests)
    both = [
        GenerationRequest(r.prompt_ids, r.sampling, weights=weights)
        for r in requests
        for weights in ("policy", "base")
    ]
    with Engine(adapted, tokenizer, memory=60 * PAGE_BYTES) as engine:
        answers = engine.generate(both)
    same(answers[::2], policy)
    same(answers[1::2], plain)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter computes with NumPy
def test_broken_weights_leave_nothing_behind() -> None:
    pair = model()
    good = {name: tensor.clone() for name, tensor in pair[0].state_dict().items()}
    with Engine(*pair, memory=40 * PAGE_BYTES) as engine:
        name = "model.layers.0.mlp.down_proj.weight"
        engine.load_weights({name: torch.full_like(good[name], torch.nan)}, 1)
        answers = engine.generate(REQUESTS)
        assert {a.finish_reason for a in answers} == {"error"}
        assert "not finite" in answers[0].error
        engine.load_weights(good, 2)
        same(engine.generate(REQUESTS), HFBackend(*pair).generate(REQUESTS))


def test_longer_texts_make_graphs_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgym.inference.paged._WIDTH", 1)
    pair = model()
    requests = [
        GenerationRequest(t, SamplingParams(0.0, max_tokens=4)) for t in texts(0, (PAGE - 2, 3))
    ]
    with Engine(*pair, eos_ids=(), memory=40 * PAGE_BYTES) as engine:
        same(engine.generate(requests), HFBackend(*pair, eos_ids=()).generate(requests))
        graphs = engine._scheduler._graphs
        assert isinstance(graphs, Graphs)
        assert graphs._width == 2
