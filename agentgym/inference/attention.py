"""Attention of packed tokens over pages: one new token a row by batched matmuls, more by SDPA."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from agentgym.inference.pages import PAGE, Memory, PagePool

_MATMUL_SCORES = 1 << 24
"""Most scores that a row of several tokens computes by plain products, which on a CPU takes about
0.6 times as long as SDPA; more would take too much memory."""
_DENSE = 0.7
"""Pages are read in place if the span they lie in holds at least this part of them."""
_RAGGED = 1.6
"""Rows share one softmax as long as padding them to the longest makes at most this many times as
many pages."""


@dataclass(frozen=True, slots=True)
class Span:
    """What one row brings to a step."""

    past: int
    """Tokens in memory before the step."""
    new: int
    """Tokens that the step computes."""
    trunk: tuple[int, ...]
    """Pages of its beginning, full, that it shares with other rows."""
    pages: tuple[int, ...]
    """Its own pages: what comes after the trunk, the new tokens included."""


def in_order(spans: Sequence[Span]) -> list[int]:
    """The order in which a `Plan` wants rows: single tokens first, by trunk and by length."""
    return sorted(
        range(len(spans)),
        key=lambda i: (spans[i].new > 1, spans[i].trunk, -len(spans[i].pages)),
    )


class Plan:
    """Where the tokens of one step are written and what they see; the same in every layer.

    Rows of one new token see their own pages by one batched matmul over all those pages, each with
    the query of the row that owns it: nothing is gathered or padded. A trunk is read once for all
    rows that share it. The scores, which are small, are put side by side for the softmax.
    """

    def __init__(self, spans: Sequence[Span], pool: PagePool) -> None:
        """Prepare a step.

        Args:
            spans: the rows, as `in_order` orders them. Their tokens are packed in this order.
            pool: holds their pages.
        """
        self.pool = pool
        self.device = pool.memory.device
        self.singles = sum(span.new == 1 for span in spans)
        starts = [0]
        for span in spans:
            starts.append(starts[-1] + span.new)
        self.tokens = starts[-1]
        self.last = self._index([start - 1 for start in starts[1:]])
        """(B,) index of each row's last token."""
        self.positions = self._index([t for s in spans for t in range(s.past, s.past + s.new)])
        """(T,) position of each token in its text."""
        self._pages, self._slots = self._places(spans)
        self._decode = _Decode(spans[: self.singles], pool) if self.singles else None
        self._prefill = [
            _Prefill(span, slice(start, start + span.new), self.device)
            for span, start in zip(spans, starts, strict=False)
            if span.new > 1
        ]

    def attend(
        self,
        layer: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Write keys and values of the new tokens, and let them attend.

        Args:
            layer: whose pages.
            queries: (T, Hq, D), where consecutive heads share a key head.
            keys: (T, H, D).
            values: (T, H, D).
            scale: of the scores.

        Returns:
            (T, Hq * D).
        """
        memory = self.pool.views(layer)
        memory[0][self._pages, :, self._slots] = keys
        memory[1][self._pages, :, :, self._slots] = values
        parts = []
        if self._decode is not None:
            parts.append(self._decode.attend(memory, queries[: self.singles], scale))
        for row in self._prefill:
            parts.append(row.attend(memory, queries[row.where], scale))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _index(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _places(self, spans: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
        """(T,) the page that each new token is written into, and (T,) where in it."""
        pages, slots = [], []
        for span in spans:
            for position in range(span.past, span.past + span.new):
                pages.append(span.pages[position // PAGE - len(span.trunk)])
                slots.append(position % PAGE)
        return self._index(pages), self._index(slots)


class _Prefill:
    """A row of several new tokens."""

    def __init__(self, span: Span, where: slice, device: torch.device) -> None:
        self.where = where
        self._pages = torch.tensor(span.trunk + span.pages, device=device)
        columns = torch.arange(len(self._pages) * PAGE, device=device)
        rows = torch.arange(span.past, span.past + span.new, device=device)
        self._visible = columns <= rows[:, None]  # (new, columns)
        self._bias = torch.where(self._visible, 0.0, float("-inf"))
        self._on_cpu = device.type == "cpu"

    def attend(self, memory: Memory, queries: torch.Tensor, scale: float) -> torch.Tensor:
        """(new, Hq * D) of (new, Hq, D)."""
        new, query_heads, width = queries.shape
        keys, values = _joined(memory, self._pages)
        heads = len(keys)
        if not self._on_cpu or query_heads * self._bias.numel() > _MATMUL_SCORES:
            seen = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None],
                keys[None],
                values.transpose(1, 2)[None],
                attn_mask=self._visible,
                scale=scale,
                enable_gqa=query_heads != heads,
            )
            return seen[0].transpose(0, 1).reshape(new, -1)
        grouped = queries.view(new, heads, -1, width).permute(1, 2, 0, 3)
        scores = torch.bmm(grouped.reshape(heads, -1, width), keys.transpose(1, 2))
        scores = scores.view(heads, -1, *self._bias.shape)  # (H, G, new, columns)
        weights = torch.add(self._bias, scores, alpha=scale).softmax(dim=-1).to(keys.dtype)
        mixed = torch.bmm(weights.view(heads, -1, weights.shape[-1]), values.transpose(1, 2))
        return mixed.view(heads, -1, new, width).permute(2, 0, 1, 3).reshape(new, -1)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Rows that take their softmax together: of one trunk and of similar length."""

    rows: slice
    trunk: torch.Tensor | None
    """(S,) pages."""
    table: torch.Tensor
    """(R * P,) for each row its pages, as indices among the step's pages; padded with the first."""
    sums: torch.Tensor
    """(R * P,) the same, padded with the index after the last page."""
    bias: torch.Tensor
    """(R, P, 1, PAGE) float32: 0 where there is a token, else -inf."""


class _Decode:
    """Rows of one new token."""

    def __init__(self, spans: Sequence[Span], pool: PagePool) -> None:
        device = pool.memory.device
        used = sorted(page for span in spans for page in span.pages)
        low, high = used[0], used[-1] + 1
        self._block: slice | None = None
        self._pages = torch.tensor(used, device=device)
        if len(used) >= _DENSE * (high - low):
            self._block = slice(low, high)
            place = {page: page - low for page in used}
            width = high - low
        else:
            place = {page: index for index, page in enumerate(used)}
            width = len(used)
        owner = torch.zeros(width, dtype=torch.long)  # others' pages are computed and never read
        for row, span in enumerate(spans):
            owner[[place[page] for page in span.pages]] = row
        self._clusters: list[_Cluster] = []
        back = torch.zeros(width, dtype=torch.long)
        offset = 0
        for rows in _clusters(spans):
            members = spans[rows]
            longest = len(members[0].pages)
            table = torch.full((len(members), longest), width)
            lengths = torch.tensor([s.past + 1 - PAGE * len(s.trunk) for s in members])
            for index, span in enumerate(members):
                slots = torch.tensor([place[page] for page in span.pages])
                table[index, : len(slots)] = slots
                back[slots] = offset + index * longest + torch.arange(len(slots))
            filled = torch.arange(longest * PAGE) < lengths[:, None]
            bias = torch.where(filled, 0.0, float("-inf")).view(len(members), longest, 1, PAGE)
            trunk = members[0].trunk
            self._clusters.append(
                _Cluster(
                    rows=rows,
                    trunk=torch.tensor(trunk, device=device) if trunk else None,
                    table=table.view(-1).masked_fill(table.view(-1) == width, 0).to(device),
                    sums=table.view(-1).to(device),
                    bias=bias.to(device),
                )
            )
            offset += table.numel()
        self._owner = owner.to(device)
        self._back = back.to(device)

    def attend(self, memory: Memory, queries: torch.Tensor, scale: float) -> torch.Tensor:
        """(B, Hq * D) of (B, Hq, D)."""
        keys, values = (
            part[self._block] if self._block is not None else part.index_select(0, self._pages)
            for part in memory
        )
        count, heads, _, width = keys.shape
        rows, query_heads, _ = queries.shape
        queries = queries.reshape(rows, -1)
        spread = queries.index_select(0, self._owner).view(count * heads, -1, width)
        scores = torch.bmm(spread, keys.reshape(-1, PAGE, width).transpose(1, 2))
        scores = scores.view(count, -1)
        weights, trunks = [], []
        for cluster in self._clusters:
            own = scores.index_select(0, cluster.table)
            own = own.view(cluster.bias.shape[0], -1, query_heads, PAGE)
            # The scores come out in float32 through the bias.
            own = torch.add(cluster.bias, own, alpha=scale).transpose(1, 2).flatten(2)
            if cluster.trunk is not None:
                shared = _Trunk(memory, cluster.trunk)
                before = shared.scores(queries[cluster.rows]).float() * scale
                split = before.shape[-1]
                own = torch.cat([before, own], dim=-1).softmax(dim=-1)
                trunks.append((cluster.rows, shared.mix(own[..., :split].to(keys.dtype))))
                own = own[..., split:]
            else:
                own = own.softmax(dim=-1)
            own = own.reshape(own.shape[0], query_heads, -1, PAGE).transpose(1, 2)
            weights.append(own.to(keys.dtype).reshape(-1, query_heads * PAGE))
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        weight = weight.index_select(0, self._back).view(count * heads, -1, PAGE)
        mixed = queries.new_empty(count + 1, query_heads * width)
        mixed[count] = 0  # what padding adds
        torch.bmm(
            weight,
            values.reshape(-1, width, PAGE).transpose(1, 2),
            out=mixed[:count].view(count * heads, -1, width),
        )
        parts = [
            mixed.index_select(0, cluster.sums).view(*cluster.bias.shape[:2], -1).sum(dim=1)
            for cluster in self._clusters
        ]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        for where, part in trunks:
            out[where] += part
        return out


class _Trunk:
    """Pages that several rows of one new token see in full."""

    def __init__(self, memory: Memory, pages: torch.Tensor) -> None:
        self._keys, self._values = _joined(memory, pages)
        self._heads, _, self._width = self._keys.shape

    def scores(self, queries: torch.Tensor) -> torch.Tensor:
        """(R, Hq, S * PAGE) of (R, Hq * D)."""
        rows = len(queries)
        spread = queries.view(rows, self._heads, -1, self._width).transpose(0, 1)
        spread = spread.reshape(self._heads, -1, self._width)
        scores = torch.bmm(spread, self._keys.transpose(1, 2))  # (H, R * G, S * PAGE)
        return scores.view(self._heads, rows, -1, scores.shape[-1]).transpose(0, 1).flatten(1, 2)

    def mix(self, weights: torch.Tensor) -> torch.Tensor:
        """(R, Hq * D) of (R, Hq, S * PAGE)."""
        rows, _, columns = weights.shape
        spread = weights.reshape(rows, self._heads, -1, columns).transpose(0, 1)
        spread = spread.reshape(self._heads, -1, columns)
        mixed = torch.bmm(spread, self._values.transpose(1, 2))
        return mixed.view(self._heads, rows, -1, self._width).transpose(0, 1).reshape(rows, -1)


def _joined(memory: Memory, pages: torch.Tensor) -> Memory:
    """(H, S * PAGE, D) keys and (H, D, S * PAGE) values of (S,) pages."""
    keys, values = (part.index_select(0, pages) for part in memory)
    heads, width = values.shape[1:3]
    return (
        keys.transpose(0, 1).reshape(heads, -1, width),
        values.permute(1, 2, 0, 3).reshape(heads, width, -1),
    )


def _clusters(spans: Sequence[Span]) -> Iterator[slice]:
    """Runs of rows with one trunk, cut where padding to the longest would be too much."""
    start, pages = 0, 0
    for index, span in enumerate(spans):
        first = spans[start]
        padded = len(first.pages) * (index + 1 - start)
        full = padded > _RAGGED * (pages + len(span.pages)) and padded > 64
        if index > start and (span.trunk != first.trunk or full):
            yield slice(start, index)
            start, pages = index, 0
        pages += len(span.pages)
    yield slice(start, len(spans))
