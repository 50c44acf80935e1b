"""Choosing tokens: temperature, top-k, top-p, exact log-probabilities, one stream per request."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch

from agentgym.core import SamplingParams

_COLDEST = 1e-6
"""Temperatures above 0 but below this count as this: float32 could not divide by them."""
_NOISE = 32
"""Numbers drawn at a time."""
_BLOCK = 256
"""Columns that are added up before any of them is looked at."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One token for each row; a row that is not `ok` had no usable logits."""

    token_ids: torch.Tensor
    """(B,) int64."""
    logprobs: torch.Tensor
    """(B,) float32 nats, of the untruncated distribution at temperature 1."""
    kept_mass: torch.Tensor
    """(B,) float32 probability that top-k and top-p kept, at the sampling temperature."""
    entropy: torch.Tensor
    """(B,) float32 nats, of the untruncated distribution at temperature 1."""
    ok: torch.Tensor
    """(B,) bool; False where logits are NaN, +inf, or all -inf."""

    def rows(self) -> Iterator[tuple[int, float, float, float, bool]]:
        """Row by row on the CPU: a GPU is waited for once."""
        parts = (self.token_ids, self.logprobs, self.kept_mass, self.entropy, self.ok)
        columns = torch.stack([part.double() for part in parts]).tolist()
        for token, logprob, kept_mass, entropy, ok in zip(*columns, strict=True):
            yield int(token), logprob, kept_mass, entropy, bool(ok)


def problem(sampling: SamplingParams) -> str:
    """What is wrong with sampling parameters, with the fix; empty if nothing is."""
    if not (_is_number(sampling.temperature) and sampling.temperature >= 0):
        return f"temperature must be finite and at least 0, got {sampling.temperature!r}"
    if not (_is_number(sampling.top_p) and 0 < sampling.top_p <= 1):
        return f"top_p must be in (0, 1], got {sampling.top_p!r}; 1 switches it off"
    if not (isinstance(sampling.top_k, Integral) and sampling.top_k >= 0):
        return f"top_k must be an integer of at least 0, got {sampling.top_k!r}; 0 switches it off"
    if not (isinstance(sampling.max_tokens, Integral) and sampling.max_tokens >= 1):
        return f"max_tokens must be an integer of at least 1, got {sampling.max_tokens!r}"
    stop: object = sampling.stop
    if not isinstance(stop, tuple) or any(not isinstance(s, str) or not s for s in stop):
        return f"stop must be a tuple of non-empty strings, got {stop!r}"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


class Noise:
    """One number per token for a request, by its seed: what makes a sample independent of others.

    Example:
        >>> Noise(7)[0] == np.random.default_rng(7).random()
        True
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._numbers: list[float] = []
        self._stream: np.random.Generator | None = None  # making one takes as long as 50 numbers

    def __getitem__(self, index: int) -> float:
        """The number in [0, 1) of the token with this index."""
        while index >= len(self._numbers):
            self._stream = self._stream or np.random.default_rng(self._seed)
            self._numbers += self._stream.random(_NOISE).tolist()
        return self._numbers[index]


def sample(
    logits: torch.Tensor, sampling: Sequence[SamplingParams], uniform: torch.Tensor
) -> Sample:
    """Choose one token for each row by inverting its cumulative distribution.

    A row's token depends on its own logits, parameters and uniform number only. Ties at the border
    of top-k or top-p are all kept, so that the kept set does not depend on a sort's order. Top-p
    is applied to what top-k left, as in transformers.

    Args:
        logits: (B, V) any float dtype; computed on in float32, the distribution's sum in float64.
        sampling: (B,) parameters of the rows; temperature 0 takes the largest logit.
        uniform: (B,) float64 in [0, 1), one per row.

    Returns:
        (B,) tokens and what was recorded about them, on the logits' device.
    """
    dist = distribution(logits.float())
    kept_mass = torch.ones(len(logits), device=logits.device)
    hot = [row for row, params in enumerate(sampling) if params.temperature > 0]
    if len(hot) == len(logits):
        token_ids, mass = _invert(dist.shifted, dist.weights, sampling, uniform)
        kept_mass = mass.float()
    else:
        token_ids = dist.best
        if hot:
            rows = _sent(torch.tensor(hot), logits.device)
            token_ids[rows], mass = _invert(
                dist.shifted[rows], dist.weights[rows], [sampling[r] for r in hot], uniform[hot]
            )
            kept_mass[rows] = mass.float()
    taken = dist.shifted.gather(-1, token_ids[:, None])[:, 0] - dist.log_total
    return Sample(token_ids, taken, kept_mass, dist.entropy, dist.ok)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Rows of logits at temperature 1; one that is not `ok` is replaced by equal chances."""

    shifted: torch.Tensor
    """(B, V) float32 logits less the row's largest; forbidden tokens have the lowest number."""
    weights: torch.Tensor
    """(B, V) float32 exponentials of `shifted`."""
    log_total: torch.Tensor
    """(B,) log of the sum of `weights`: log-probabilities are `shifted` less this."""
    best: torch.Tensor
    """(B,) int64 the first of the likeliest tokens."""
    entropy: torch.Tensor
    """(B,) nats."""
    ok: torch.Tensor
    """(B,) bool; False where the logits are unusable."""


def distribution(logits: torch.Tensor) -> Distribution:
    """What is recorded about a distribution, in few passes over the vocabulary.

    Args:
        logits: (B, V) float32; -inf forbids a token.
    """
    largest, best = logits.max(dim=-1, keepdim=True)
    shifted = logits - largest
    lowest = torch.finfo(logits.dtype).min
    ok = torch.isfinite(largest[:, 0])
    # Asking a GPU whether anything is wrong would wait for it.
    if logits.device.type != "cpu" or not bool(ok.all()):
        shifted = torch.where(ok[:, None], shifted, 0.0)
    shifted.clamp_min_(lowest)  # a forbidden token adds 0 to the entropy, not 0 * -inf
    weights = shifted.exp()
    total = weights.sum(dim=-1)
    log_total = total.log()
    entropy = log_total - torch.linalg.vecdot(weights, shifted) / total
    return Distribution(shifted, weights, log_total, best[:, 0], entropy, ok)


def kept_floor(
    scaled: torch.Tensor, weights: torch.Tensor, sampling: Sequence[SamplingParams]
) -> torch.Tensor | None:
    """The lowest scaled logit that top-k and top-p keep in each row.

    Args:
        scaled: (B, V) logits divided by the temperature, up to a constant.
        weights: (B, V) exponentials of `scaled`.
        sampling: (B,) parameters of the rows.

    Returns:
        (B, 1) inclusive threshold, -inf for rows without truncation; `None` if no row has any.
    """
    vocabulary = scaled.shape[-1]
    if all(params.top_p >= 1 and not 0 < params.top_k < vocabulary for params in sampling):
        return None
    if scaled.device.type != "cpu":
        return _sorted_floor(scaled, sampling)
    floors = scaled.new_full((len(sampling), 1), -math.inf)
    for row, params in enumerate(sampling):
        left = weights[row].double()
        if 0 < params.top_k < vocabulary:
            floors[row] = scaled[row].topk(params.top_k).values[-1]
            left = left.masked_fill(scaled[row] < floors[row], 0.0)
        if params.top_p < 1:
            floors[row] = scaled[row, _nucleus_border(left, params.top_p)]
    return floors


def _sorted_floor(scaled: torch.Tensor, sampling: Sequence[SamplingParams]) -> torch.Tensor:
    """The same for all rows at once, without waiting for any: made for a GPU."""
    vocabulary, device = scaled.shape[-1], scaled.device
    counts = [p.top_k if 0 < p.top_k < vocabulary else vocabulary for p in sampling]
    kept = _sent(torch.tensor(counts), device)[:, None]
    top_p = torch.tensor([p.top_p for p in sampling], dtype=torch.float64)
    top_p = _sent(top_p, device)[:, None]
    ranked = scaled.sort(dim=-1, descending=True).values
    lowest = ranked.gather(-1, kept - 1)
    weights = ranked.double().exp_().masked_fill(ranked < lowest, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    reached = (weights.cumsum(dim=-1) < top_p * total).sum(dim=-1, keepdim=True)
    # Rounding may leave the sum just below a top_p near 1: then all that top-k left are kept.
    last = (weights > 0).sum(dim=-1, keepdim=True) - 1
    border = ranked.gather(-1, torch.minimum(reached, last))
    floor = torch.where(top_p < 1, border, lowest)
    truncated = (top_p < 1) | (kept < vocabulary)
    return torch.where(truncated, floor, -math.inf)


def _nucleus_border(weights: torch.Tensor, top_p: float) -> torch.Tensor:
    """Index of the last token of the smallest set that holds `top_p` of all (V,) weights."""
    total = weights.sum()
    # Tokens below this weight hold less than 1 - top_p together, so the set is among the others;
    # sorting those few takes a hundredth of sorting the vocabulary.
    candidates = (weights > (1 - top_p) / len(weights) * total).nonzero()[:, 0]
    ranked, order = weights[candidates].sort(descending=True)
    reached = int((ranked.cumsum(dim=-1) < top_p * total).sum())
    # Rounding may leave the candidates' sum just below a top_p near 1: then all are kept.
    return candidates[order[min(reached, len(order) - 1)]]


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers on a device; a GPU is not waited for."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _invert(
    shifted: torch.Tensor,
    weights: torch.Tensor,
    sampling: Sequence[SamplingParams],
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) tokens at the given quantiles, and (B,) the mass that truncation kept.

    Args:
        shifted: (B, V) float32 logits less the row's largest.
        weights: (B, V) float32 their exponentials.
        sampling: (B,) parameters of the rows.
        uniform: (B,) float64 quantiles.
    """
    if shifted.device.type == "mps":  # has no float64
        chosen, mass = _invert(shifted.cpu(), weights.cpu(), sampling, uniform.cpu())
        return chosen.to(shifted.device), mass.to(shifted.device)
    uniform = _sent(uniform, shifted.device)
    if any(params.temperature != 1 for params in sampling):
        heat = torch.tensor([max(p.temperature, _COLDEST) for p in sampling])
        shifted = shifted / _sent(heat, shifted.device)[:, None]
        weights = shifted.exp()
    floors = kept_floor(shifted, weights, sampling)
    mass = torch.ones_like(uniform)
    if floors is not None:
        whole = weights.sum(dim=-1, dtype=torch.float64)
        weights = weights.masked_fill(shifted < floors, 0.0)
        mass = weights.sum(dim=-1, dtype=torch.float64) / whole
    return _quantile(weights, uniform), mass


def _quantile(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(B,) where the cumulative sums of (B, V) weights pass (B,) float64 parts of their total.

    First the block of columns is found, then the column: cheaper than cumulative sums over all
    columns.
    """
    weights = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % _BLOCK))
    blocks = weights.view(len(weights), -1, _BLOCK)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    total = ends[:, -1:]
    # What exceeds the target has a weight above 0; the clamp guards against u * total rounding up
    # to total.
    target = torch.minimum(
        uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    block = torch.searchsorted(ends, target, right=True)
    before = ends.gather(-1, (block - 1).clamp_min(0)).masked_fill_(block == 0, 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0]
    column = torch.searchsorted(inside.double().cumsum(dim=-1) + before, target, right=True)
    # The two sums of a block may round apart: then its last column with a weight is meant.
    order = torch.arange(_BLOCK, device=weights.device)
    last = torch.where(inside > 0, order, 0).amax(dim=-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(column, last))[:, 0]
