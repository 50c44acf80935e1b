"""Models from scratch: their tokens, their size, and that nothing but texts and seed decides."""

import pytest
import torch

from agentgym.chat import ChatFormat
from agentgym.errors import ConfigError
from agentgym.models.fresh import fresh_model, fresh_tokenizer

TEXTS = ["Is it a carrot?", "Is it a car? You are at 8, 6.", "Is it alive?"]


@pytest.mark.parametrize(
    "text",
    ["", "a  b\n\tc", "héllo 😀 \x00", "<|end|><|user|>\r\n", "   ", "\u00a0 12 34", "carrot"],
)
def test_any_text_survives(text: str) -> None:
    tokenizer = fresh_tokenizer(TEXTS)
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


def test_words_are_tokens_and_digits_stand_alone() -> None:
    tokenizer = fresh_tokenizer(TEXTS)
    ids = tokenizer.encode("Is it a carrot? at 8, 66", add_special_tokens=False)
    pieces = [tokenizer.decode([i]) for i in ids]
    assert pieces == ["Is", " it", " a", " carrot", "?", " at", " 8", ",", " 6", "6"]


def test_neither_order_nor_number_of_texts_matters() -> None:
    first, second = fresh_tokenizer(TEXTS), fresh_tokenizer([*reversed(TEXTS), *TEXTS])
    assert first.get_vocab() == second.get_vocab()
    assert len(fresh_tokenizer(TEXTS * 50, 280)) == 280


def test_a_message_costs_two_control_tokens() -> None:
    tokenizer = fresh_tokenizer(TEXTS)
    chat = ChatFormat(tokenizer)
    ids = chat.following(chat.answer("Is it a car?"), "No")
    assert tokenizer.decode(ids) == "<|user|>No<|end|><|agent|>"
    assert tokenizer.decode([chat.end_id]) == tokenizer.eos_token == "<|end|>"


def test_the_seed_decides_the_weights_and_nothing_else_changes() -> None:
    before = torch.get_rng_state()
    models = [fresh_model(TEXTS, seed=seed, width=32, heads=2)[0] for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    weights = [model.model.embed_tokens.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert models[0].lm_head.weight is weights[0]


@pytest.mark.parametrize(
    "wrong", [{"vocabulary": 200}, {"layers": 0}, {"width": 36, "heads": 4}, {"positions": 0}]
)
def test_sizes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        fresh_model(TEXTS, **wrong)
