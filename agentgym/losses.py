"""Losses on tensors: log-probabilities of sampled tokens, their weights and reductions.

Pure functions that know no trajectory. Every loss is a weighted sum over action tokens, and the
weights come from the whole optimiser step: the sum over its micro-batches and processes is the
loss of the step, however it was cut.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agentgym.models.packed import pack_arguments, packed_attention
from agentgym.packing import Pack

Reduction: TypeAlias = Literal["token_mean", "sequence_mean", "constant"]

CHUNK_TOKENS = 1024
"""Action tokens whose logits are turned to float32 at once."""


def action_logprobs(
    model: nn.Module,
    ids: Tensor,
    attention_mask: Tensor,
    mask: Tensor,
    *,
    position_ids: Tensor | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Log-probabilities of the marked tokens, with logits computed for these alone.

    The model's own forward runs; only the input of its output embedding is cut down to the
    positions before the marked tokens. So whatever the model does to its logits (scaling,
    soft caps) and whatever wraps it (adapters, autocast) stays in place. A model that does not
    tell its output embedding computes all logits.

    Args:
        model: a Hugging Face causal language model, adapters allowed.
        ids: (B, L) token ids.
        attention_mask: (B, L) true on tokens, false on padding.
        mask: (B, L) bool, the tokens to score; false in the first column.
        position_ids: (B, L); needed only if padding is on the left (`positions`).
        inputs: goes into the model in the place of `ids`: the embeddings of texts with pictures
            (`inference.sights.whole_inputs`).
        chunk_tokens: how many rows of logits become float32 at a time.

    Returns:
        (M,) float32 nats at temperature 1, the marked tokens in row-major order.

    Raises:
        ValueError: a first token is marked, nothing precedes it.
    """
    if bool(mask[:, 0].any()):
        raise ValueError("the first token of a row cannot be scored: mask[:, 0] must be False")
    arguments: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": False}
    if position_ids is not None:
        arguments["position_ids"] = position_ids
    where = mask[:, 1:].nonzero(as_tuple=True)  # row, position of the logits
    arguments |= {"input_ids": ids} if inputs is None else inputs
    logits = _logits_at(model, where, **arguments)  # (M, V)
    return token_logprobs(logits, ids[:, 1:][where].long(), chunk_tokens=chunk_tokens)


def packed_logprobs(model: Any, pack: Pack, *, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Log-probabilities of the marked tokens of packed rows: those of `action_logprobs`.

    Args:
        model: one that `models.packed.can_pack`.
        pack: the rows.
        chunk_tokens: how many rows of logits become float32 at a time.

    Returns:
        (M,) float32 nats, the marked tokens of the rows in row-major order. What rows share is
        computed once and gets the gradient of all of them.
    """
    device = next(model.parameters()).device
    before = torch.from_numpy(pack.before).to(device)
    with packed_attention(model):
        logits = _logits_at(
            model, (torch.zeros_like(before), before), **pack_arguments(pack, device)
        )
    targets = torch.from_numpy(pack.targets).to(device).long()
    return token_logprobs(logits, targets, chunk_tokens=chunk_tokens)


def _logits_at(model: nn.Module, where: tuple[Tensor, ...], **arguments: Any) -> Tensor:
    """Logits (M, V) at given (row, position) pairs."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    shape = next(arguments[n] for n in ("input_ids", "inputs_embeds") if n in arguments).shape[:2]
    selected = False

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal selected
        if not inputs or inputs[0].shape[:2] != shape:
            return None
        selected = True
        return (inputs[0][where].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        logits: Tensor = model(**arguments).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits[0] if selected else logits[where]


def positions(attention_mask: Tensor) -> Tensor:
    """(B, L) position ids that count tokens only, for rows padded on either side."""
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def token_logprobs(logits: Tensor, targets: Tensor, *, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Log-probabilities of given tokens.

    Beyond `chunk_tokens` rows the float32 copies are made chunk by chunk and again in the
    backward pass, so that memory holds the logits in their own type only.

    Args:
        logits: (M, V), any floating type.
        targets: (M,) token ids.
        chunk_tokens: rows at a time.

    Returns:
        (M,) float32 nats.
    """
    if len(logits) <= chunk_tokens:
        return _gather_logprobs(logits, targets)
    parts = [
        checkpoint(_gather_logprobs, part, wanted, use_reentrant=False)
        for part, wanted in zip(
            torch.split(logits, chunk_tokens), torch.split(targets, chunk_tokens), strict=True
        )
    ]
    return torch.cat(parts)


def _gather_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float()
    chosen: Tensor = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    return chosen


def token_weights(
    mask: Tensor,
    reduction: Reduction,
    *,
    total_tokens: int,
    total_rows: int,
    constant: float = 1.0,
) -> Tensor:
    """Weight of each marked token in the loss of a whole optimiser step.

    ===============  ==============================  =============================================
    reduction        weight                          what counts the same
    ===============  ==============================  =============================================
    `token_mean`     1 / total_tokens                every action token
    `sequence_mean`  1 / (total_rows * row's own)    every row (a turn, if rows are turns)
    `constant`       1 / (total_rows * constant)     every token, whatever the others' lengths
    ===============  ==============================  =============================================

    Source of `constant`: Liu et al. 2025, https://arxiv.org/abs/2503.20783, section 3.2.

    Args:
        mask: (B, L) bool of one micro-batch.
        reduction: see the table.
        total_tokens: marked tokens in the step, over all micro-batches and processes.
        total_rows: rows in the step, likewise.
        constant: tokens that a row is counted as, for `constant`.

    Returns:
        (M,) float32, in row-major order; over a step they sum to 1, except for `constant`.

    Raises:
        ValueError: an unknown reduction or a count below 1.
    """
    if total_tokens < 1 or total_rows < 1 or constant <= 0:
        raise ValueError(
            "total_tokens and total_rows must be at least 1 and constant above 0, got "
            f"{total_tokens}, {total_rows} and {constant}"
        )
    own = mask.sum(1, keepdim=True).clamp_min(1).expand_as(mask)[mask].float()
    if reduction == "token_mean":
        return torch.full_like(own, 1.0 / total_tokens)
    if reduction == "sequence_mean":
        return 1.0 / (total_rows * own)
    if reduction == "constant":
        return torch.full_like(own, 1.0 / (total_rows * constant))
    raise ValueError(
        f"reduction must be 'token_mean', 'sequence_mean' or 'constant', got {reduction!r}"
    )


def negative_log_likelihood(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The cloning loss of one micro-batch: minus the weighted sum of log-probabilities.

    Args:
        logprobs: (M,) of the action tokens.
        weights: (M,) from `token_weights`.

    Returns:
        Scalar, in nats per unit of the reduction.
    """
    return -(weights * logprobs).sum()


# ---------------------------------------------------------------------------------------------
# Policy gradients
# ---------------------------------------------------------------------------------------------


def policy_gradient(logprobs: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """REINFORCE: minus the weighted sum of advantage times log-probability.

    Source: Williams 1992, https://doi.org/10.1007/BF00992696.

    Args:
        logprobs: (M,) of the action tokens, with gradient.
        advantages: (M,) of each token.
        weights: (M,) from `token_weights`.

    Returns:
        Scalar.
    """
    return -(weights * advantages * logprobs).sum()


def clipped_policy_gradient(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    reciprocal: bool = False,
    units: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate: minus the weighted sum of min(ratio A, clip(ratio) A).

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7. `low` and `high`
    apart: Yu et al. 2025, https://arxiv.org/abs/2503.14476, equation 10. `reciprocal` and `units`:
    Chen et al. 2025 (LOOP), https://arxiv.org/abs/2502.01600, section 4.

    Args:
        logprobs: (M,) with gradient.
        old_logprobs: (M,) of the policy that sampled.
        advantages: (M,).
        weights: (M,) from `token_weights`.
        low: the ratio is clipped at 1 - low from below, or at 1 / (1 + low) if `reciprocal`.
        high: the ratio is clipped at 1 + high from above.
        reciprocal: see `low`.
        units: (M,) whole numbers; tokens of the same unit (a turn, an episode) share the product
            of their ratios. By default every token has its own.

    Returns:
        The scalar loss, and (M,) bool: where clipping took the gradient away.
    """
    difference = logprobs - old_logprobs
    if units is not None:
        _, place = torch.unique(units, return_inverse=True)
        sums = difference.new_zeros(int(place.max()) + 1 if len(place) else 0)
        difference = sums.index_add(0, place, difference)[place]
    ratio = difference.exp()
    lower = 1.0 / (1.0 + low) if reciprocal else 1.0 - low
    plain, clipped = ratio * advantages, ratio.clamp(lower, 1.0 + high) * advantages
    loss = -(weights * torch.minimum(plain, clipped)).sum()
    return loss, (clipped < plain).detach()


Divergence: TypeAlias = Literal["k1", "k2", "k3"]


def divergence(logprobs: Tensor, reference: Tensor, estimator: Divergence = "k3") -> Tensor:
    """KL(policy || reference) estimated at tokens that the policy sampled.

    =========  ===========================  ==========================================
    estimator  with d = reference - policy
    =========  ===========================  ==========================================
    `k1`       -d                           unbiased; as a loss its gradient is noise of mean 0
    `k2`       d^2 / 2                      biased value, the right gradient
    `k3`       exp(d) - 1 - d               unbiased value, never negative
    =========  ===========================  ==========================================

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.

    Args:
        logprobs: (M,) of the policy, with gradient if it is to be a loss.
        reference: (M,) of the reference.
        estimator: see the table.

    Returns:
        (M,) nats.
    """
    distance = reference - logprobs
    if estimator == "k1":
        return -distance
    if estimator == "k2":
        return distance.square() / 2
    if estimator == "k3":
        return distance.exp() - 1 - distance
    raise ValueError(f"estimator must be 'k1', 'k2' or 'k3', got {estimator!r}")


def clipped_value_loss(
    values: Tensor, old_values: Tensor, targets: Tensor, clip: float | None = 0.2
) -> Tensor:
    """Half the squared error of a critic, of the worse of the value and its clipped version.

    Source: Schulman et al. 2017's released code; the paper has no clipping (``clip=None``).

    Args:
        values: (M,) with gradient.
        old_values: (M,) before the update.
        targets: (M,).
        clip: how far a value may move from the old one within an update; `None` does not clip.

    Returns:
        (M,).
    """
    plain = (values - targets).square()
    if clip is None:
        return plain / 2
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(plain, (near - targets).square()) / 2


def expectile_loss(errors: Tensor, level: float) -> Tensor:
    """Asymmetric squared error: |level - 1[error < 0]| error^2.

    Source: Kostrikov et al. 2021 (IQL), https://arxiv.org/abs/2110.06169, equation 5.

    Args:
        errors: (M,) target minus value.
        level: tau in (0, 1); 0.5 is half the squared error.

    Returns:
        (M,).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    share = torch.where(errors < 0, 1.0 - level, level)
    return share * errors.square()
