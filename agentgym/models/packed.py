"""A transformers model on packed rows: everything but attention sees one sequence of tokens.

Attention goes segment by segment: those that begin rows are causal by themselves, the children of
one segment attend to what is above them and to themselves, with gradient. So a prompt that eight
answers share is computed once, and nothing is padded but the keys and queries inside one call.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agentgym.models.modes import in_eval
from agentgym.packing import Pack, Segment

_NAME = "agentgym_packed"
_RAGGED = 1.25
"""How many queries, padding included, are computed for each that is needed before segments of
different length get calls of their own."""
_SPECIAL = ("softcap", "s_aux", "sliding_window", "position_bias")


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """Segments that attend together."""

    queries: Tensor
    """(n, S) indices of their tokens, padded with each one's first."""
    above: Tensor | None
    """(P,) indices of the tokens that all of them see; `None` for the beginnings of rows."""
    visible: Tensor | None
    """(1, 1, S, P + S) bool; `None` where plain causal attention says it."""


class Attention:
    """Who sees whom in a pack, on a device."""

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        """Sort segments into calls.

        Args:
            segments: as of `packing.Pack`.
            device: where the model computes.
        """
        children: dict[int, list[int]] = {}
        for index, segment in enumerate(segments):
            children.setdefault(segment.parent, []).append(index)
        self._calls: list[_Call] = []
        back = torch.empty(sum(s.length for s in segments), dtype=torch.long)
        offset = 0
        for parent, family in children.items():
            for siblings in _alike(segments, family):
                queries, filled = _queries(segments, siblings)
                places = torch.arange(offset, offset + queries.numel()).view_as(queries)
                back[queries[filled]] = places[filled]
                offset += queries.numel()
                self._calls.append(_call(segments, parent, queries, device))
        self._back = back.to(device)

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, dropout: float, scale: float
    ) -> Tensor:
        """Attend.

        Args:
            queries: (T, Hq, D).
            keys: (T, H, D).
            values: (T, H, D).
            dropout: of attention weights.
            scale: of the scores.

        Returns:
            (T, Hq, D).
        """
        parts = []
        for call in self._calls:
            count, length = call.queries.shape
            flat = call.queries.flatten()
            q = queries.index_select(0, flat).view(count, length, *queries.shape[1:])
            q = q.transpose(1, 2)
            k, v = (_seen(tokens, call) for tokens in (keys, values))
            if call.visible is not None and not dropout and _is_small(q, k):
                out = _by_products(q, k, v, call.visible, scale)
                parts.append(out.transpose(1, 2).reshape(-1, *queries.shape[1:]))
                continue
            groups = queries.shape[1] // keys.shape[1]
            if groups > 1 and queries.is_cuda and call.visible is not None:
                # CUDA's kernels that take a mask want as many heads of keys as of queries.
                k, v = (part.repeat_interleave(groups, dim=1) for part in (k, v))
                groups = 1
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=call.visible,
                dropout_p=dropout,
                is_causal=call.visible is None,
                scale=scale,
                enable_gqa=groups > 1,
            )
            parts.append(out.transpose(1, 2).reshape(-1, *queries.shape[1:]))
        return torch.cat(parts).index_select(0, self._back)


_SMALL_SCORES = 1 << 22
"""Most scores at once by plain products; beyond, they would take much memory."""


def _is_small(queries: Tensor, keys: Tensor) -> bool:
    """True where plain products are faster: short texts below a prompt, on a CPU."""
    count, heads, length, _ = queries.shape
    return not queries.is_cuda and count * heads * length * keys.shape[2] <= _SMALL_SCORES


def _by_products(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scale: float
) -> Tensor:
    """(n, Hq, S, D) of masked attention; on a CPU about twice as fast as SDPA where S is small."""
    count, heads, length, width = queries.shape
    if torch.is_autocast_enabled(queries.device.type):  # as SDPA does
        kind = torch.get_autocast_dtype(queries.device.type)
        queries, keys, values = queries.to(kind), keys.to(kind), values.to(kind)
    # Heads of queries that share a head of keys become rows of one product.
    rows = queries.reshape(count * keys.shape[1], -1, width)
    keys, values = (part.reshape(len(rows), -1, width) for part in (keys, values))
    bias = torch.where(visible[0, 0], 0.0, float("-inf"))
    out: Tensor = _Products.apply(rows, keys, values, bias, scale)  # type: ignore[no-untyped-call]
    return out.view(count, heads, length, width)


class _Products(torch.autograd.Function):
    """Attention of rows (n, G * S, D) by plain products, with the weights computed again later.

    The backward pass is that of Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B.2,
    without blocks.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        out = torch.bmm(_weights(rows, keys, bias, scale), values)
        ctx.save_for_backward(rows, keys, values, bias, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, keys, values, bias, out = ctx.saved_tensors
        weights = _weights(rows, keys, bias, ctx.scale)
        by_values = torch.bmm(weights.transpose(1, 2), gradient)
        scores = torch.bmm(gradient, values.transpose(1, 2))
        # float32 from here: the difference is small beside its parts.
        scores = scores - (gradient.float() * out).sum(-1, keepdim=True)
        scores = scores.mul_(weights).mul_(ctx.scale).to(rows.dtype)
        by_keys = torch.bmm(scores.transpose(1, 2), rows)
        return torch.bmm(scores, keys), by_keys, by_values, None, None


def _weights(rows: Tensor, keys: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(n, G * S, L) softmax of scores, taken in float32; bias (S, L)."""
    scores = torch.bmm(rows, keys.transpose(1, 2))
    scores = scores.view(len(rows), -1, *bias.shape)
    weights = torch.add(bias, scores, alpha=scale).softmax(-1).to(rows.dtype)
    return weights.view(len(rows), -1, bias.shape[-1])


def _seen(tokens: Tensor, call: _Call) -> Tensor:
    """(n, H, P + S, D) keys or values that a call's queries may see."""
    count, length = call.queries.shape
    own = tokens.index_select(0, call.queries.flatten()).view(count, length, *tokens.shape[1:])
    if call.above is not None:
        above = tokens.index_select(0, call.above)
        own = torch.cat([above[None].expand(count, *above.shape), own], dim=1)
    return own.transpose(1, 2)


def _alike(segments: Sequence[Segment], family: list[int]) -> Iterator[list[int]]:
    """Segments of like length together."""
    group: list[int] = []
    needed = 0
    for index in sorted(family, key=lambda i: -segments[i].length):
        longest = segments[group[0]].length if group else 0
        if group and longest * (len(group) + 1) > _RAGGED * (needed + segments[index].length):
            yield group
            group, needed = [], 0
        group.append(index)
        needed += segments[index].length
    yield group


def _queries(segments: Sequence[Segment], siblings: list[int]) -> tuple[Tensor, Tensor]:
    """(n, S) indices of segments' tokens, padded with each one's first, and where they are not."""
    starts = torch.tensor([segments[i].start for i in siblings])[:, None]
    lengths = torch.tensor([segments[i].length for i in siblings])[:, None]
    columns = torch.arange(int(lengths.max()))
    filled = columns < lengths
    return starts + torch.where(filled, columns, 0), filled


def _call(segments: Sequence[Segment], parent: int, queries: Tensor, device: torch.device) -> _Call:
    if parent < 0:  # padding is at the end, where no token of the row sees it
        return _Call(queries.to(device), None, None)
    above: list[Tensor] = []
    while parent >= 0:
        segment = segments[parent]
        above.insert(0, torch.arange(segment.start, segment.start + segment.length))
        parent = segment.parent
    seen = torch.cat(above)
    columns = torch.arange(queries.shape[1])
    visible = torch.ones(len(columns), len(seen) + len(columns), dtype=torch.bool)
    visible[:, len(seen) :] = columns <= columns[:, None]
    return _Call(queries.to(device), seen.to(device), visible[None, None].to(device))


# ---------------------------------------------------------------------------------------------
# Inside a model
# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Let a model read packs for a while, and all else as before.

    Gradient checkpointing computes the forward pass again in the backward pass, so both must be
    inside.
    """
    config = _base(model).config
    before = config._attn_implementation
    if before == _NAME:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def pack_arguments(pack: Pack, device: torch.device) -> dict[str, Any]:
    """What a model inside `packed_attention` is called with to read a pack."""
    return {
        "input_ids": torch.from_numpy(pack.ids).to(device).long()[None],
        "position_ids": torch.from_numpy(pack.positions).to(device).long()[None],
        # A mask of four dimensions is left alone; what it says is not read.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "use_cache": False,
        "pack": Attention(pack.segments, device),
    }


def can_pack(model: Any) -> bool:
    """True if a model gives the same for packed rows as for each row alone; tried on a few tokens.

    It needs attention over everything before, that can be exchanged in transformers, and tokens
    that meet in attention only.
    """
    base = _base(model)
    config = getattr(base, "config", None)
    if (
        not getattr(base, "_supports_attention_backend", False)
        or getattr(base, "_is_stateful", False)
        or getattr(config, "is_encoder_decoder", False)
        or hasattr(config, "vision_config")
        or set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}
        or (
            getattr(config, "sliding_window", None) is not None
            and getattr(config, "use_sliding_window", True)
        )
    ):
        return False
    segments = (Segment(0, 3), Segment(3, 2, 0), Segment(5, 3, 0))
    # Spread over the vocabulary: the first tokens of many are control tokens that training never
    # saw, on which bfloat16 alone is further off than a model that reads packs wrongly.
    vocabulary = base.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([5, 3, 7, 11, 2, 13, 4, 6]) * vocabulary // 16
    positions = torch.tensor([0, 1, 2, 3, 4, 3, 4, 5])
    device = base.device
    rows = [ids[[0, 1, 2, 3, 4]], ids[[0, 1, 2, 5, 6, 7]]]
    pack = Pack(ids.numpy(), positions.numpy(), segments, ids.numpy()[:0], ids.numpy()[:0])
    try:
        with torch.no_grad(), in_eval(model):
            alone = [model(input_ids=row[None].to(device), use_cache=False).logits for row in rows]
            with packed_attention(model):
                packed = model(**pack_arguments(pack, device)).logits
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
    wanted = torch.stack([alone[0][0, -1], alone[1][0, -1]]).float()
    found = packed[0, [4, 7]].float()
    limit = 1e-3 if base.dtype == torch.float32 else 0.1
    return bool((found - wanted).abs().max() <= limit * wanted.abs().max().clamp_min(1.0))


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pack: Attention | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' form: (1, H, T, D) in, (1, T, H, D) out."""
    if pack is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return found
    if special := [name for name in _SPECIAL if options.get(name) is not None]:
        raise ValueError(f"packed rows do not work with {special[0]} in attention")
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return pack(queries, keys, values, dropout=dropout, scale=scale)[None], None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
