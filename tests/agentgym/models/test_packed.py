"""A model on packed rows: every token sees what it sees in its own row, and no more."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentgym.models import packed as packed_module
from agentgym.models.load import load_model
from agentgym.models.packed import Attention, can_pack, pack_arguments, packed_attention
from agentgym.models.tiny import tiny_model
from agentgym.packing import Pack, Segment, pack_rows
from agentgym.rows import Row

SEGMENTS = (
    Segment(0, 5),
    Segment(5, 3, 0),
    Segment(8, 4, 1),
    Segment(12, 1, 1),
    Segment(13, 9, 0),
    Segment(22, 6),
)
"""Two beginnings; below the first two children of different length, one with two of its own."""


def visible() -> Tensor:
    """(T, T) which tokens see which, written down plainly."""
    total = SEGMENTS[-1].start + SEGMENTS[-1].length
    seen = torch.zeros(total, total, dtype=torch.bool)
    for segment in SEGMENTS:
        for token in range(segment.start, segment.start + segment.length):
            seen[token, segment.start : token + 1] = True
            parent = segment.parent
            while parent >= 0:
                above = SEGMENTS[parent]
                seen[token, above.start : above.start + above.length] = True
                parent = above.parent
    return seen


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_that_of_the_whole_mask(
    heads: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(packed_module, "_SMALL_SCORES", 0)
    generator = torch.Generator().manual_seed(0)
    mask = visible()
    tokens = [
        torch.randn(len(mask), h, 8, generator=generator, requires_grad=True)
        for h in (4, heads, heads)
    ]
    found = Attention(SEGMENTS, torch.device("cpu"))(*tokens, dropout=0.0, scale=0.3)
    q, k, v = (x.transpose(0, 1) for x in tokens)
    k, v = (x.repeat_interleave(4 // heads, dim=0) for x in (k, v))
    scores = (0.3 * q @ k.transpose(1, 2)).masked_fill(~mask, float("-inf"))
    expected = (scores.softmax(-1) @ v).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    upstream = torch.randn(expected.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, tokens, upstream),
        torch.autograd.grad(expected, tokens, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_plain_products_in_bfloat16_are_as_near_as_the_kernel() -> None:
    generator = torch.Generator().manual_seed(1)
    mask = visible()
    exact = [torch.randn(len(mask), h, 16, generator=generator) for h in (4, 2, 2)]
    tokens = [x.bfloat16().requires_grad_() for x in exact]
    found = Attention(SEGMENTS, torch.device("cpu"))(*tokens, dropout=0.0, scale=0.25)
    q, k, v = (x.detach().float().requires_grad_() for x in tokens)
    keys, values = (x.transpose(0, 1).repeat_interleave(2, dim=0) for x in (k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), keys, values, attn_mask=mask, scale=0.25
    ).transpose(0, 1)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)
    upstream = torch.randn(expected.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, tokens, upstream.bfloat16()),
        torch.autograd.grad(expected, (q, k, v), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.03, atol=0.06)


def text(ids: list[int]) -> Row:
    mask = np.arange(len(ids)) > 0
    unknown = np.full(len(ids), -1, np.int32)
    return Row(np.array(ids, np.int32), mask, np.zeros(len(ids), np.float32), unknown, unknown, 0)


def packed(texts: list[list[int]]) -> Pack:
    return pack_rows([text(ids) for ids in texts], min_shared=2)


def qwen() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Qwen3ForCausalLM(config).train(False)


@pytest.mark.parametrize("make", [lambda: tiny_model(0)[0], qwen])
def test_logits_are_those_of_each_row_alone(make: Any) -> None:
    model = make()
    assert can_pack(model)
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11], [5, 6, 7, 8], [30, 31, 32]]
    pack = packed(rows)
    assert len(pack) == 10
    with torch.no_grad(), packed_attention(model):
        logits = model(**pack_arguments(pack, torch.device("cpu"))).logits[0]
    found = iter(logits[torch.from_numpy(pack.before)])
    with torch.no_grad():
        for ids in rows:
            alone = model(input_ids=torch.tensor([ids])).logits[0]
            for place in range(len(ids) - 1):
                torch.testing.assert_close(next(found), alone[place], rtol=0, atol=1e-5)


def test_inside_the_context_everything_else_is_as_before() -> None:
    model: Any = tiny_model(0)[0]
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=attention).logits
        with packed_attention(model), packed_attention(model):
            inside = model(input_ids=ids, attention_mask=attention).logits
    assert torch.equal(plain, inside)
    assert model.config._attn_implementation == "sdpa"


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    pack = packed([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11], [30, 31, 32]])
    gradients = []
    for checkpointing in (False, True):
        model: Any = tiny_model(0)[0].train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with packed_attention(model):
            logits = model(**pack_arguments(pack, torch.device("cpu"))).logits
            torch.autograd.backward(logits.square().mean())
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_models_whose_rows_cannot_be_packed() -> None:
    sliding = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
    )
    assert not can_pack(Gemma2ForCausalLM(sliding).train(False)), "a window, and capped scores"
    assert not can_pack(torch.nn.Linear(2, 2))


def test_a_model_that_ignores_the_pack_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_model(0)[0]
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, *a, pack=None, **k: forward(self, *a, **k)
    )
    assert not can_pack(model)


@pytest.mark.model
def test_the_embedded_model_is_packed_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its first tokens are control tokens, on which bfloat16 alone is off by an eighth of the range.
    loaded = load_model("smollm2-135m", dtype="bfloat16", device="cpu")
    assert can_pack(loaded.model)
    # One segment instead of a tree: what does not belong to a row is seen too.
    whole = (Segment(0, 8),)
    monkeypatch.setattr(packed_module, "Attention", lambda _, device: Attention(whole, device))
    assert not can_pack(loaded.model)


def test_gpt2_is_packed_too() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    assert can_pack(GPT2LMHeadModel(config).train(False))
