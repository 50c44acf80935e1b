import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from agentgym import losses
from agentgym.losses import (
    action_logprobs,
    negative_log_likelihood,
    packed_logprobs,
    positions,
    token_logprobs,
    token_weights,
)
from agentgym.models.tiny import tiny_model
from agentgym.packing import pack_rows
from agentgym.rows import Row

LENGTHS = (12, 9, 5)
MASKED = ((4, 5, 11), (3, 8), (1, 2, 3, 4))
"""Positions of the action tokens in rows of these lengths."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(0)[0]


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Three rows padded on the right: ids, attention mask, action mask."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 250, (3, 12), generator=generator)
    attention = torch.arange(12) < torch.tensor(LENGTHS)[:, None]
    mask = torch.zeros(3, 12, dtype=torch.bool)
    for row, places in enumerate(MASKED):
        mask[row, list(places)] = True
    return ids, attention, mask


def reference(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Row by row, without padding, from all logits in float32."""
    parts = []
    for row, length in enumerate(LENGTHS):
        alone = ids[row : row + 1, :length]
        logprobs = torch.log_softmax(model(input_ids=alone).logits.float(), -1)[0]
        parts += [logprobs[place - 1, ids[row, place]] for place in mask[row].nonzero()[:, 0]]
    return torch.stack(parts)


def gradients(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_token_logprobs_by_hand() -> None:
    # exp(0) = 1 and exp(log 3) = 3: probabilities 1/4 and 3/4.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    values = token_logprobs(logits, torch.tensor([0, 1]))
    assert values.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert values.dtype == torch.float32


def test_token_logprobs_in_chunks_are_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(10, 7, generator=generator).requires_grad_()
    targets = torch.randint(0, 7, (10,), generator=generator)
    whole, parts = (token_logprobs(logits, targets, chunk_tokens=n) for n in (10, 3))
    assert torch.equal(whole, parts)
    (first,) = torch.autograd.grad(whole.sum(), logits)
    (second,) = torch.autograd.grad(parts.sum(), logits)
    assert torch.equal(first, second)


def test_padding_and_company_change_nothing(model: Any, batch: Any) -> None:
    ids, attention, mask = batch
    expected = reference(model, ids, mask)
    right = action_logprobs(model, ids, attention, mask)
    torch.testing.assert_close(right, expected, rtol=0, atol=1e-5)
    # The same rows padded on the left.
    shift = [(12 - n) for n in LENGTHS]
    left = [torch.stack([x.roll(s) for x, s in zip(t, shift, strict=True)]) for t in batch]
    assert positions(left[1])[1].tolist() == [0, 0, 0, *range(9)]
    moved = action_logprobs(model, *left, position_ids=positions(left[1]))
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def test_logits_are_computed_at_actions_only(model: Any, batch: Any) -> None:
    seen = []
    handle = model.lm_head.register_forward_hook(lambda _, i, o: seen.append(tuple(o.shape)))
    try:
        action_logprobs(model, *batch)
    finally:
        handle.remove()
    assert seen == [(1, 9, model.config.vocab_size)]
    assert not model.lm_head._forward_pre_hooks, "the hook is gone"


def test_whatever_the_model_does_to_its_logits_stays() -> None:
    """Gemma 2 caps its logits after the output embedding."""
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).train(False)
    ids, mask = torch.arange(8)[None] + 3, torch.arange(8)[None] > 5
    values = action_logprobs(model, ids, torch.ones_like(mask), mask)
    logits = model(input_ids=ids).logits[0, 5:7]
    assert logits.abs().max() <= 0.5, "capped, or the test shows nothing"
    expected = torch.log_softmax(logits, -1).gather(-1, ids[0, 6:, None])[:, 0]
    torch.testing.assert_close(values, expected)


class Headless(nn.Module):
    """A model that does not tell its output embedding, and keeps its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **arguments: Any) -> Any:
        output = self.model(**arguments)
        self.logits = output.logits
        self.logits.retain_grad()
        return output


def test_only_positions_before_actions_get_gradient(model: Any, batch: Any) -> None:
    ids, attention, mask = batch
    headless = Headless(model)
    values = action_logprobs(headless, ids, attention, mask)
    torch.testing.assert_close(values, action_logprobs(model, *batch))
    torch.autograd.backward(values.sum())
    touched = headless.logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched[:, :-1], mask[:, 1:])
    assert not touched[:, -1].any()
    model.zero_grad()


def test_tokens_after_the_last_action_change_nothing(model: Any, batch: Any) -> None:
    ids, attention, mask = batch
    mask = mask.clone()
    mask[0, 11] = False  # what follows position 5 is the environment's
    other = ids.clone()
    other[0, 6:] = (other[0, 6:] + 1) % 250
    first, second = (
        gradients(model, action_logprobs(model, x, attention, mask).sum()) for x in (ids, other)
    )
    assert torch.equal(first, second)
    other[0, 2] = (other[0, 2] + 1) % 250  # while the prompt does matter
    assert not torch.equal(first, gradients(model, action_logprobs(model, other, *batch[1:]).sum()))


def test_packed_rows_have_the_same_values_and_gradient(model: Any, batch: Any) -> None:
    ids, attention, mask = batch
    ids = ids.clone()
    ids[1, :4] = ids[0, :4]  # with its marked token
    rows = []
    for line, length, marked in zip(ids.numpy(), LENGTHS, mask.numpy(), strict=True):
        unknown = np.full(length, -1, np.int32)
        own = line[:length].astype(np.int32)
        rows.append(
            Row(own, marked[:length], np.zeros(length, np.float32), unknown, unknown, trajectory=0)
        )
    padded = action_logprobs(model, ids, attention, mask)
    pack = pack_rows(rows, min_shared=1)
    assert len(pack) == sum(LENGTHS) - 4
    packed = packed_logprobs(model, pack)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    weights = torch.arange(1.0, 1 + len(packed))
    torch.testing.assert_close(
        gradients(model, (weights * packed).sum()),
        gradients(model, (weights * padded).sum()),
        rtol=1e-4,
        atol=1e-4,
    )
    assert model.config._attn_implementation == "sdpa", "as it was"


def test_a_first_token_cannot_be_scored(model: Any, batch: Any) -> None:
    ids, attention, mask = batch
    with pytest.raises(ValueError, match=r"mask\[:, 0\] must be False"):
        action_logprobs(model, ids, attention, torch.ones_like(mask))


MASK = torch.tensor([[False, True, True, True], [False, False, False, True]])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", [0.25, 0.25, 0.25, 0.25]),  # 4 tokens
        ("sequence_mean", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),  # 2 rows of 3 tokens and of 1
        ("constant", [0.05, 0.05, 0.05, 0.05]),  # 2 rows counted as 10 tokens
    ],
)
def test_reductions_by_hand(reduction: Any, expected: list[float]) -> None:
    weights = token_weights(MASK, reduction, total_tokens=4, total_rows=2, constant=10)
    assert weights.tolist() == pytest.approx(expected)
    # Cut into micro-batches, the same counts give the same weights.
    parts = [
        token_weights(part, reduction, total_tokens=4, total_rows=2, constant=10)
        for part in MASK[:, None]
    ]
    assert torch.equal(torch.cat(parts), weights)


def test_loss_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    weights = token_weights(MASK, "sequence_mean", total_tokens=4, total_rows=2)
    # Rows: mean of 1, 2, 3 is 2, and 4; their mean is 3.
    assert float(negative_log_likelihood(logprobs, weights)) == pytest.approx(3.0)


def test_bad_reductions() -> None:
    with pytest.raises(ValueError, match="'mean'"):
        token_weights(MASK, "mean", total_tokens=4, total_rows=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        token_weights(MASK, "token_mean", total_tokens=0, total_rows=2)


# ---- policy gradients ------------------------------------------------------------------------


def token_gradient(loss_of: Any, logprobs: list[float]) -> list[float]:
    values = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    loss_of(values).backward()
    assert values.grad is not None
    return values.grad.tolist()


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_reinforce_pushes_towards_what_was_better() -> None:
    weights = tensor(0.5, 0.25, 0.25)
    gradient = token_gradient(
        lambda p: losses.policy_gradient(p, tensor(2, -1, 0), weights), [-1.0, -2.0, -3.0]
    )
    assert gradient == [-1.0, 0.25, 0.0]  # descending raises the first, lowers the second


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope", "cut"),
    [
        (1.0, 1.0, -1.0, False),
        (1.3, 1.0, 0.0, True),  # above 1 + high and better: enough
        (1.3, -1.0, 1.3, False),  # above and worse: back
        (0.7, 1.0, -0.7, False),  # below 1 - low and better: back
        (0.7, -1.0, 0.0, True),  # below and worse: enough
        (1.1, -1.0, 1.1, False),
    ],
)
def test_clipping_takes_the_gradient_only_where_it_would_go_too_far(
    ratio: float, advantage: float, slope: float, cut: bool
) -> None:
    old = -1.0
    clips: list[bool] = []

    def loss(p: Tensor) -> Tensor:
        value, where = losses.clipped_policy_gradient(
            p, tensor(old), tensor(advantage), tensor(1.0)
        )
        clips.extend(where.tolist())
        return value

    (gradient,) = token_gradient(loss, [old + math.log(ratio)])
    assert gradient == pytest.approx(slope)
    assert clips == [cut]


def test_clip_ranges() -> None:
    def value(ratio: float, advantage: float, **kwargs: Any) -> float:
        loss, _ = losses.clipped_policy_gradient(
            tensor(math.log(ratio)), tensor(0.0), tensor(advantage), tensor(1.0), **kwargs
        )
        return float(loss)

    assert value(2.0, 1.0, high=0.28) == pytest.approx(-1.28)
    assert value(0.5, -1.0, low=0.1) == pytest.approx(0.9)
    assert value(0.5, -1.0, low=0.1, reciprocal=True) == pytest.approx(1 / 1.1)


def test_tokens_of_a_unit_share_the_product_of_their_ratios() -> None:
    old, now = tensor(0, 0, 0), tensor(math.log(1.1), math.log(1.2), math.log(1.05))
    weights, better = tensor(1, 1, 1), tensor(1, 1, 1)
    loss, where = losses.clipped_policy_gradient(
        now, old, better, weights, high=0.3, units=torch.tensor([7, 7, 2])
    )
    assert where.tolist() == [True, True, False]  # 1.1 * 1.2 = 1.32
    assert float(loss) == pytest.approx(-(1.3 + 1.3 + 1.05))


def test_without_a_step_between_the_surrogate_is_reinforce() -> None:
    now, advantages, weights = [-1.0, -0.5], tensor(1.5, -2), tensor(0.3, 0.7)
    clipped = token_gradient(
        lambda p: losses.clipped_policy_gradient(p, tensor(*now), advantages, weights)[0], now
    )
    plain = token_gradient(lambda p: losses.policy_gradient(p, advantages, weights), now)
    assert clipped == pytest.approx(plain)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [("k1", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", math.exp(-0.5) - 0.5, 1 - math.exp(-0.5))],
)
def test_divergence_pulls_back_to_the_reference(estimator: Any, value: float, slope: float) -> None:
    # the policy likes the token more than the reference does: -1 against -1.5
    gradient = token_gradient(lambda p: losses.divergence(p, tensor(-1.5), estimator).sum(), [-1.0])
    assert gradient == pytest.approx([slope])
    assert losses.divergence(tensor(-1.0), tensor(-1.5), estimator).item() == pytest.approx(value)


def test_divergence_estimates_the_divergence() -> None:
    policy, reference = tensor(0.5, 0.3, 0.2), tensor(0.2, 0.3, 0.5)
    true = float((policy * (policy / reference).log()).sum())
    for estimator in ("k1", "k3"):
        each = losses.divergence(policy.log(), reference.log(), estimator)
        assert float((policy * each).sum()) == pytest.approx(true)
    with pytest.raises(ValueError, match="k4"):
        losses.divergence(policy, reference, "k4")  # type: ignore[arg-type]


def test_gradients_of_the_divergence_in_the_mean_over_the_policy() -> None:
    """KL's gradient by the logits is p (log p / q - KL). k2 has it; k1 has none; k3 pulls along."""
    logits = torch.tensor([0.4, -0.1, -0.3], dtype=torch.float64, requires_grad=True)
    reference = tensor(0.2, 0.3, 0.5).log()
    policy = logits.detach().softmax(0)
    apart = policy.log() - reference
    true = policy * (apart - (policy * apart).sum())
    found = {}
    for estimator in ("k1", "k2", "k3"):
        each = losses.divergence(logits.log_softmax(0), reference, estimator)
        (found[estimator],) = torch.autograd.grad((policy * each).sum(), logits)
    torch.testing.assert_close(found["k2"], true)
    torch.testing.assert_close(found["k1"], torch.zeros_like(true))
    assert (found["k3"] * true > 0).all()


@pytest.mark.parametrize(
    ("value", "slope"),
    [
        (1.0, -1.0),  # below the target of 2 by 1: up
        (3.0, 1.0),
        (0.15, -1.85),  # within 0.2 of the old value: as without clipping
        (0.5, 0.0),  # has moved by 0.5 towards the target: enough for one update
        (-0.5, -2.5),  # has moved away from it: back, from however far
    ],
)
def test_a_value_moves_towards_its_target(value: float, slope: float) -> None:
    """Half the squared error: the slope is value minus target."""
    target, old = tensor(2.0), tensor(0.0)
    clip = None if value in (1.0, 3.0) else 0.2
    gradient = token_gradient(
        lambda v: losses.clipped_value_loss(v, old, target, clip).sum(), [value]
    )
    assert gradient == pytest.approx([slope])


def test_expectiles_pull_up_harder_than_down() -> None:
    """|0.7 - 1[u < 0]| u^2 with u = target - value: the slope by the value is -2 share u."""
    gradient = token_gradient(
        lambda v: losses.expectile_loss(tensor(1.0, -1.0, 2.0) - v, 0.7).sum(), [0.0, 0.0, 0.0]
    )
    assert gradient == pytest.approx([-1.4, 0.6, -2.8])


def test_value_loss() -> None:
    values, old, targets = tensor(1.0, 1.0), tensor(0.0, 0.9), tensor(2.0, 0.0)
    assert losses.clipped_value_loss(values, old, targets, None).tolist() == [0.5, 0.5]
    # the first moved by 1 where 0.2 is allowed: (0.2 - 2)^2 / 2
    assert losses.clipped_value_loss(values, old, targets).tolist() == pytest.approx([1.62, 0.5])


def test_expectiles() -> None:
    errors = tensor(1.0, -1.0, 2.0)
    # (0.7 * 1 + 0.3 * 1 + 0.7 * 4) / 3
    assert float(losses.expectile_loss(errors, 0.7).mean()) == pytest.approx(1.266667, abs=1e-6)
    assert losses.expectile_loss(errors, 0.5).tolist() == (errors.square() / 2).tolist()
    with pytest.raises(ValueError, match="level"):
        losses.expectile_loss(errors, 1.0)
