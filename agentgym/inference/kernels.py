"""Triton kernels of the engine on a GPU: attention by page tables, rotations, norms, gates."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton
import triton.language as tl
from torch import Tensor

_FEW = 16
"""Query rows of a program when every text has one new token: the least that a product takes."""
_MANY = 64
"""Query rows of a program when texts are read."""


@triton.jit
def _attention_kernel(
    out,
    queries,
    keys,
    values,
    table,
    block_rows,
    block_starts,
    starts,
    pasts,
    news,
    scale,
    table_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some new tokens of one text, with the query heads of one key head, over its pages."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(block_rows + block)
    first = tl.load(block_starts + block)
    past = tl.load(pasts + row)
    new = tl.load(news + row)
    start = tl.load(starts + row)
    line = tl.arange(0, ROWS)
    tokens_at_once: tl.constexpr = ROWS // GROUP
    token = first + line // GROUP
    valid = (token < new) & (line < tokens_at_once * GROUP)
    column = tl.arange(0, WIDE)
    inside = column < WIDTH
    at = (start + token).to(tl.int64) * (HEADS * GROUP * WIDTH)
    at = at + (head * GROUP + line % GROUP) * WIDTH
    wanted = valid[:, None] & inside[None, :]
    query = tl.load(queries + at[:, None] + column[None, :], mask=wanted, other=0.0)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, WIDE], tl.float32)
    place = tl.arange(0, PAGE)
    seen = past + tl.minimum(first + tokens_at_once, new)
    for index in range(0, tl.cdiv(seen, PAGE)):
        page = tl.load(table + row * table_stride + index).to(tl.int64)
        base = (page * HEADS + head) * (PAGE * WIDTH)
        position = index * PAGE + place
        written = position < seen  # what lies after may be anything, even NaN
        key = tl.load(
            keys + base + place[None, :] * WIDTH + column[:, None],
            mask=inside[:, None] & written[None, :],
            other=0.0,
        )
        value = tl.load(
            values + base + place[:, None] * WIDTH + column[None, :],
            mask=inside[None, :] & written[:, None],
            other=0.0,
        )
        score = tl.dot(query, key, input_precision="ieee") * scale
        score = tl.where(position[None, :] <= past + token[:, None], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(weight, 1)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        best = higher
    mixed = mixed / total[:, None]
    tl.store(out + at[:, None] + column[None, :], mixed.to(out.dtype.element_ty), mask=wanted)


@triton.jit
def _rotation_kernel(
    out,
    heads,
    cos,
    sin,
    keys,
    values,
    slots,
    QUERY_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One head of one token: a query is rotated, a key rotated and kept, a value kept."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    column = tl.arange(0, WIDE)
    inside = column < half
    source = heads + (token * (QUERY_HEADS + 2 * HEADS) + head) * WIDTH + column
    low = tl.load(source, mask=inside, other=0.0)
    high = tl.load(source + half, mask=inside, other=0.0)
    if head < QUERY_HEADS + HEADS:
        angle = token * WIDTH + column
        cos_low = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        cos_high = tl.load(cos + angle + half, mask=inside, other=0.0).to(tl.float32)
        sin_low = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        sin_high = tl.load(sin + angle + half, mask=inside, other=0.0).to(tl.float32)
        left = low.to(tl.float32)
        right = high.to(tl.float32)
        low = (left * cos_low - right * sin_low).to(low.dtype)
        high = (right * cos_high + left * sin_high).to(high.dtype)
    slot = tl.load(slots + token).to(tl.int64)
    line = ((slot // PAGE) * HEADS + (head - QUERY_HEADS) % HEADS) * PAGE + slot % PAGE
    if head < QUERY_HEADS:
        target = out + (token * QUERY_HEADS + head) * WIDTH + column
    elif head < QUERY_HEADS + HEADS:
        target = keys + line * WIDTH + column
    else:
        target = values + line * WIDTH + column
    tl.store(target, low, mask=inside)
    tl.store(target + half, high, mask=inside)


@triton.jit
def _norm_kernel(out, x, weight, eps, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """One token."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDE)
    inside = column < SIZE
    part = tl.load(x + row * SIZE + column, mask=inside, other=0.0).to(tl.float32)
    part = part * tl.rsqrt(tl.sum(part * part) / SIZE + eps)
    part = part * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + column, part.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_kernel(out, gate_up, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Some columns of one token."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = column < SIZE
    source = gate_up + row * (2 * SIZE) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + SIZE, mask=inside, other=0.0).to(tl.float32)
    part = gate * tl.sigmoid(gate) * up
    tl.store(out + row * SIZE + column, part.to(out.dtype.element_ty), mask=inside)


def attention(
    queries: Tensor,
    memory: Tensor,
    table: Tensor,
    blocks: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor, Tensor],
    scale: float,
) -> Tensor:
    """Causal attention of packed new tokens over pages.

    Args:
        queries: (T, Hq, D) contiguous.
        memory: (2, N, H, PAGE, D) keys and values of a layer, the new tokens' included.
        table: (R, P) int32 pages of each text, in order; rows may lie apart.
        blocks: (K,) int32 the text of each block, (K,) int32 its first new token; see
            `tokens_in_block`.
        rows: (R,) int32 where each text's tokens begin among T, how many it had before, how many
            are new.
        scale: of the scores.

    Returns:
        (T, Hq * D).
    """
    _, _, heads, page, width = memory.shape
    count, query_heads, _ = queries.shape
    out = queries.new_empty((count, query_heads * width))
    many = count > len(rows[0])
    _attention_kernel[(len(blocks[0]), heads)](
        out,
        queries,
        memory[0],
        memory[1],
        table,
        *blocks,
        *rows,
        scale,
        table.stride(0),
        HEADS=heads,
        GROUP=query_heads // heads,
        PAGE=page,
        WIDTH=width,
        WIDE=max(16, triton.next_power_of_2(width)),
        ROWS=_lines(query_heads // heads, many=many),
        num_warps=4 if many else 2,
    )
    return out


def tokens_in_block(group: int, *, many: bool) -> int:
    """How many of a text's new tokens one program of `attention` takes.

    Args:
        group: query heads that share a key head.
        many: some text has more than one new token.
    """
    return _lines(group, many=many) // group


def _lines(group: int, *, many: bool) -> int:
    return max(_MANY if many else _FEW, int(triton.next_power_of_2(group)))


def rotate_and_keep(
    heads: Tensor, cos: Tensor, sin: Tensor, memory: Tensor, slots: Tensor
) -> Tensor:
    """Rotate queries and keys, and put keys and values where they are kept.

    Args:
        heads: (T, Hq + 2 H, D) contiguous: queries, keys and values.
        cos: (T, D) contiguous.
        sin: (T, D) contiguous.
        memory: (2, N, H, PAGE, D) keys and values of a layer.
        slots: (T,) int32 page * PAGE + place within the page.

    Returns:
        (T, Hq, D) queries.
    """
    _, _, kept, page, width = memory.shape
    count, total, _ = heads.shape
    queries = total - 2 * kept
    out = heads.new_empty((count, queries, width))
    _rotation_kernel[(count, total)](
        out,
        heads,
        cos,
        sin,
        memory[0],
        memory[1],
        slots,
        QUERY_HEADS=queries,
        HEADS=kept,
        PAGE=page,
        WIDTH=width,
        WIDE=triton.next_power_of_2(width // 2),
        num_warps=1,
    )
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(T, d) of (T, d) contiguous: divided by the root mean square, times (d,) weights."""
    out = x.new_empty(x.shape)
    size = x.shape[-1]
    wide = triton.next_power_of_2(size)
    _norm_kernel[(len(x),)](
        out, x, weight, eps, SIZE=size, WIDE=wide, num_warps=min(max(wide // 256, 1), 8)
    )
    return out


def gate(gate_up: Tensor) -> Tensor:
    """(T, d) silu(gate) * up of (T, 2 d) contiguous."""
    size = gate_up.shape[-1] // 2
    out = gate_up.new_empty((len(gate_up), size))
    wide = min(1024, triton.next_power_of_2(size))
    _gate_kernel[(len(gate_up), triton.cdiv(size, wide))](out, gate_up, SIZE=size, WIDE=wide)
    return out
