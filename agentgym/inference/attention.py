"""Attention of packed tokens over pages: single tokens page by page, several of a text joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from agentgym.inference.pages import PAGE, Memory, PagePool, select

_MATMUL_SCORES = 1 << 24
"""Most scores that a row of several tokens computes by plain products, which on a CPU takes about
0.6 times as long as SDPA; more would take too much memory."""
DENSE = 0.5
"""Pages are read in place if they are at least this part of the span they lie in; where running
rows have fewer of the lowest pages, theirs are brought together."""
_RAGGED = 1.6
"""Rows share one softmax as long as padding them to the longest makes at most this many times as
many pages."""
_PADDED = 1.25
"""Rows of several new tokens are computed together as long as padding them to the longest makes at
most this many times as many scores,"""
_TOGETHER = 1 << 16
"""and at most so many of each head: more leave the cache on their way (2^15 to 2^20 tried)."""


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
    """The order in which a `Plan` wants rows: single tokens first, by trunk and by length.

    Others come by how many they are, and by length.
    """

    def key(span: Span) -> tuple[object, ...]:
        if span.new == 1:
            return (0, span.trunk, -len(span.pages))
        return (1, -span.new, -len(span.trunk) - len(span.pages))

    return sorted(range(len(spans)), key=lambda index: key(spans[index]))


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
            _Prefill(spans[rows], starts[rows.start], pool) for rows in _alike(spans, self.singles)
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
        for part, new in zip(memory, (keys, values), strict=True):
            part[self._pages, :, self._slots] = new
        parts = []
        if self._decode is not None:
            parts.append(self._decode.attend(memory, queries[: self.singles], scale))
        for rows in self._prefill:
            parts.append(rows.attend(memory, queries[rows.where], scale))
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
    """Rows of several new tokens, padded to the longest of them."""

    def __init__(self, spans: Sequence[Span], start: int, pool: PagePool) -> None:
        """Prepare rows whose tokens begin at `start` among the step's."""
        device = pool.memory.device
        heads = pool.memory.shape[3]
        news = torch.tensor([span.new for span in spans])
        new = int(news.max())
        self.where = slice(start, start + int(news.sum()))
        firsts = news.cumsum(0) - news
        steps = torch.arange(new)
        real = steps < news[:, None]  # (R, new)
        self._padding: tuple[torch.Tensor, torch.Tensor] | None = None
        if not bool(real.all()):
            sources = firsts[:, None] + torch.minimum(steps, news[:, None] - 1)
            targets = real.flatten().nonzero()[:, 0]
            self._padding = (sources.flatten().to(device), targets.to(device))
        self._table = _by_head([span.trunk + span.pages for span in spans], heads).to(device)
        columns = torch.arange(len(self._table) // (heads * len(spans)) * PAGE)
        pasts = torch.tensor([span.past for span in spans])
        visible = columns <= (pasts[:, None] + steps)[..., None]  # padding sees something, too
        self._visible = visible[:, None].to(device)  # (R, 1, new, columns)
        self._bias = torch.where(self._visible, 0.0, float("-inf"))
        self._on_cpu = device.type == "cpu"

    def attend(self, memory: Memory, queries: torch.Tensor, scale: float) -> torch.Tensor:
        """(T, Hq * D) of the rows' (T, Hq, D)."""
        rows, _, new, columns = self._bias.shape
        query_heads, width = queries.shape[1:]
        if self._padding is not None:
            queries = queries.index_select(0, self._padding[0])
        queries = queries.view(rows, new, query_heads, width).transpose(1, 2)
        keys, values = _joined(memory, self._table, columns)
        heads = len(keys) // rows
        if self._on_cpu and query_heads * self._bias.numel() <= _MATMUL_SCORES:
            scores = torch.bmm(queries.reshape(rows * heads, -1, width), keys.transpose(1, 2))
            scores = scores.view(rows, query_heads, new, columns)
            weights = torch.add(self._bias, scores, alpha=scale).softmax(dim=-1).to(keys.dtype)
            mixed = torch.bmm(weights.view(rows * heads, -1, columns), values)
            mixed = mixed.view(rows, query_heads, new, width)
        else:
            mixed = F.scaled_dot_product_attention(
                queries,
                keys.view(rows, heads, columns, width),
                values.view(rows, heads, columns, width),
                attn_mask=self._visible,
                scale=scale,
                enable_gqa=query_heads != heads,
            )
        out = mixed.transpose(1, 2).reshape(rows * new, -1)
        return out if self._padding is None else out.index_select(0, self._padding[1])


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Rows that take their softmax together: of one trunk and of similar length."""

    rows: slice
    trunk: torch.Tensor | None
    """(H * S,) pages; see `_by_head`."""
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
        heads = pool.memory.shape[3]
        used = sorted(page for span in spans for page in span.pages)
        low, high = used[0], used[-1] + 1
        self._block: slice | None = None
        self._pages = torch.tensor(used, device=device)
        if len(used) >= DENSE * (high - low):
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
                    trunk=_by_head([trunk], heads).to(device) if trunk else None,
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
            part[self._block] if self._block is not None else select(part, self._pages)
            for part in memory
        )
        count, heads, _, width = keys.shape
        rows, query_heads, _ = queries.shape
        queries = queries.reshape(rows, -1)
        spread = queries.index_select(0, self._owner).view(count * heads, -1, width)
        scores = torch.bmm(spread, keys.flatten(0, 1).transpose(1, 2))
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
            values.flatten(0, 1),
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

    def __init__(self, memory: Memory, table: torch.Tensor) -> None:
        """Join pages as `_by_head` orders them."""
        self._heads, page, self._width = memory[0].shape[1:]
        self._keys, self._values = _joined(memory, table, len(table) // self._heads * page)

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
        mixed = torch.bmm(spread, self._values)
        return mixed.view(self._heads, rows, -1, self._width).transpose(0, 1).reshape(rows, -1)


def _by_head(texts: Sequence[Sequence[int]], heads: int) -> torch.Tensor:
    """(R * H * S,) where each head of each text's pages lies among all pages' heads.

    Short texts are padded with pages of their own.
    """
    longest = max(map(len, texts))
    pages = [[*text, *[text[0]] * (longest - len(text))] for text in texts]
    table = torch.tensor(pages)[:, None] * heads + torch.arange(heads)[:, None]
    return table.flatten()


def _joined(memory: Memory, table: torch.Tensor, columns: int) -> Memory:
    """(R * H, S * PAGE, D) keys and values of texts in (R * H * S,) pages."""
    keys, values = (_join(select(part.flatten(0, 1), table), columns) for part in memory)
    return keys, values


def _join(parts: torch.Tensor, columns: int) -> torch.Tensor:
    """(R, S * PAGE, D) of (R * S, PAGE, D), laid out alike."""
    page, width = parts.shape[1:]
    if parts.is_contiguous():
        return parts.view(-1, columns, width)
    split = parts.transpose(1, 2).view(-1, columns // page, width, page).transpose(1, 2)
    return split.reshape(-1, width, columns).transpose(1, 2)


def _alike(spans: Sequence[Span], start: int) -> Iterator[slice]:
    """Runs of the rows from `start` on, each of which is worth padding to the longest in it."""
    new = pages = real = 0
    for index in range(start, len(spans)):
        span = spans[index]
        own = len(span.trunk) + len(span.pages)
        padded = max(new, span.new) * max(pages, own) * (index + 1 - start)
        full = padded > _PADDED * (real + span.new * own) or padded * PAGE > _TOGETHER
        if index > start and full:
            yield slice(start, index)
            start, new, pages, real = index, 0, 0, 0
        new, pages, real = max(new, span.new), max(pages, own), real + span.new * own
    if start < len(spans):
        yield slice(start, len(spans))


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
