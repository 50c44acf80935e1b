from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from agentgym.inference import cache
from agentgym.inference.cache import EqualRows, PaddedRows, RowLayer, Rows, common_prefix
from agentgym.types import IntArray

VOCABULARY = 50
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def build(kind: str, **options: Any) -> PreTrainedModel:
    """A tiny random model of any architecture, with weights large enough to tell errors."""
    torch.manual_seed(0)
    how = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "pad_token_id": 0, **options}
    if kind == "mistral":
        how.setdefault("sliding_window", None)
    config = AutoConfig.for_model(kind, **(SIZES | how))
    auto: Any = AutoModelForCausalLM
    model: Any = auto.from_config(config, dtype=torch.float32)
    return model.train(False)  # type: ignore[no-any-return]


def ids(*values: int) -> IntArray:
    return np.array(values, np.int32)


def alone(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """(V,) logits after the last token, without cache, padding or company."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(tokens)])).logits[0, -1]
    return logits


def check(rows: Rows, model: PreTrainedModel, prompts: list[IntArray]) -> None:
    """Prefill, step, drop rows and step again; every row must be as it is alone."""
    texts = [prompt.tolist() for prompt in prompts]
    generator = np.random.default_rng(0)
    with torch.inference_mode():
        logits = rows.prefill(prompts, 6)
        for dropped in ([], [0], [], [1], []):
            for row, text in enumerate(texts):
                torch.testing.assert_close(logits[row], alone(model, text), atol=2e-4, rtol=1e-4)
            tokens = generator.integers(0, VOCABULARY, len(texts)).tolist()
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
            going = [row for row in range(len(texts)) if row not in dropped]
            if dropped:
                order = rows.keep(going)
                assert sorted(order) == going
                texts = [texts[row] for row in order]
            logits = rows.step(torch.tensor([text[-1] for text in texts]))


RAGGED = [ids(3, 4, 5, 6, 7), ids(9), ids(8, 2, 1, 30, 31, 32, 33, 40), ids(5, 5, 5)]
START = tuple(range(10, 21))
SHARED = [ids(*START, 3, 4, 5), ids(*START, 9), ids(*START, 7, 2, 1, 30, 40), ids(*START, 5, 5)]


@pytest.mark.parametrize("prompts", [RAGGED, SHARED], ids=["ragged", "shared"])
@pytest.mark.parametrize("kind", sorted(cache._PADDABLE))
def test_padded_rows_are_exact_for_every_listed_architecture(
    kind: str, prompts: list[IntArray]
) -> None:
    model = build(kind)
    assert cache.can_pad(model)
    check(PaddedRows(model), model, prompts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_padded_rows_with_either_attention(attention: str, share_prefix: bool) -> None:
    model = build("llama", attn_implementation=attention)
    check(PaddedRows(model, share_prefix=share_prefix), model, SHARED)


def test_padded_rows_of_one_length_and_of_one_text() -> None:
    model = build("llama")
    check(PaddedRows(model), model, [ids(1, 2, 3), ids(4, 5, 6), ids(7, 8, 9)])
    check(PaddedRows(model), model, [ids(*START)] * 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    ],
)
def test_other_models_run_in_equal_lengths(kind: str, options: dict[str, Any]) -> None:
    model = build(kind, **options)
    assert not cache.can_pad(model)
    prompts = [ids(3, 4, 5, 6, 7), ids(9, 8, 7, 6, 5), ids(1, 1, 2, 3, 5)]
    check(EqualRows(model), model, prompts)


def test_a_full_buffer_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_GROWTH", 2)
    model = build("llama")
    check(PaddedRows(model), model, RAGGED)
    layer = RowLayer()
    for length in range(1, 8):
        new = torch.full((2, 1, 1, 3), float(length))
        keys, values = layer.update(new, -new)
        assert keys[0, 0, :, 0].tolist() == list(range(1, length + 1))
        assert torch.equal(values, -keys)


def test_leaving_rows_are_filled_by_the_last() -> None:
    rows = PaddedRows(build("llama"))
    with torch.inference_mode():
        rows.prefill([ids(i, 1) for i in range(2, 8)], 4)
        assert rows.keep([1, 2, 4, 5]) == [4, 1, 2, 5]
        assert rows.keep([0, 1]) == [0, 1]


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([ids(*START, 1)], 0),  # nobody to share with
        ([ids(*START, 1), ids(*START, 2)], 11),
        ([ids(*START), ids(*START)], 10),  # every row keeps a token of its own
        ([ids(*START), ids(*START, 1, 2)], 10),
        ([ids(1, 2, 3, 4), ids(1, 2, 3, 5)], 0),  # too short to be worth it
        ([ids(*START), ids(1, *START)], 0),
    ],
)
def test_common_prefix(prompts: list[IntArray], length: int) -> None:
    assert common_prefix(prompts) == length
