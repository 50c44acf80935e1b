"""A step on a GPU: page tables for the kernels, and CUDA graphs of steps of single tokens."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from agentgym.inference import kernels
from agentgym.inference.attention import Span
from agentgym.inference.pages import PAGE, PagePool
from agentgym.types import IntArray

log = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor, "PagedPlan", bool], torch.Tensor]
"""(T,) ids, a plan, and whether with adapters, to (T, V) logits."""

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""Rows of the graphs; beyond them, multiples of the last."""
_WIDTH = 64
"""Pages of a text that graphs begin with; doubled when a text is longer."""


class PagedPlan:
    """Where the tokens of one step are written and what they see, for kernels that read tables.

    The counterpart of `attention.Plan` on a GPU: any order of rows, pages anywhere.
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        positions: torch.Tensor,
        slots: torch.Tensor,
        table: torch.Tensor,
        blocks: tuple[torch.Tensor, torch.Tensor],
        rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Wrap int32 tensors on the device.

        Args:
            pool: holds the pages.
            positions: (T,) of each new token in its text.
            slots: (T,) page * PAGE + place within the page.
            table: (R, P) pages of each text.
            blocks: see `kernels.attention`.
            rows: see `kernels.attention`.
        """
        self.pool = pool
        self.tokens = len(positions)
        self.positions = positions
        self._slots = slots
        self._table = table
        self._blocks = blocks
        self._rows = rows
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(cls, spans: Sequence[Span], pool: PagePool, group: int) -> "PagedPlan":
        """The plan of any step, by one copy to the device.

        Args:
            spans: the rows; their tokens are packed in this order.
            pool: holds their pages.
            group: query heads that share a key head.
        """
        news = np.array([span.new for span in spans])
        pasts = np.array([span.past for span in spans])
        texts = [(*span.trunk, *span.pages) for span in spans]
        table = np.zeros((len(spans), max(map(len, texts))), np.int32)
        for row, pages in enumerate(texts):
            table[row, : len(pages)] = pages
        starts = news.cumsum() - news
        owner = np.repeat(np.arange(len(spans)), news)
        positions = np.arange(len(owner)) + (pasts - starts)[owner]
        slots = table[owner, positions // PAGE] * PAGE + positions % PAGE
        step = kernels.tokens_in_block(group, many=bool(news.max() > 1))
        counts = -(-news // step)
        block_rows = np.repeat(np.arange(len(spans)), counts)
        firsts = np.arange(len(block_rows)) - (counts.cumsum() - counts)[block_rows]
        parts = (positions, slots, block_rows, firsts * step, starts, pasts, news)
        inputs = _sent(np.concatenate([*parts, table.ravel()]).astype(np.int32), pool)
        *found, flat = torch.split(inputs, [*map(len, parts), table.size])
        return cls(
            pool,
            positions=found[0],
            slots=found[1],
            blocks=(found[2], found[3]),
            rows=(found[4], found[5], found[6]),
            table=flat.view(table.shape),
        )

    def attend(
        self,
        layer: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Write keys and values of the new tokens, and let them attend; see `Plan.attend`."""
        memory = self.pool.memory[layer]
        if self._places is None:
            slots = self._slots.long()
            self._places = (slots // PAGE, slots % PAGE)
        pages, places = self._places
        for part, new in zip(memory, (keys, values), strict=True):
            part[pages, :, places] = new
        return self._seen(memory, queries.contiguous(), scale)

    def attend_rotated(
        self, layer: int, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The same with queries, keys and values that have no positions yet.

        Args:
            layer: whose pages.
            heads: (T, Hq + 2 H, D) contiguous.
            cos: (T, D) contiguous.
            sin: (T, D) contiguous.
            scale: of the scores.

        Returns:
            (T, Hq * D).
        """
        memory = self.pool.memory[layer]
        queries = kernels.rotate_and_keep(heads, cos, sin, memory, self._slots)
        return self._seen(memory, queries, scale)

    def _seen(self, memory: torch.Tensor, queries: torch.Tensor, scale: float) -> torch.Tensor:
        return kernels.attention(queries, memory, self._table, self._blocks, self._rows, scale)


class Graphs:
    """Steps of one token a row as CUDA graphs, one for each number of rows that is met.

    A small model computes a step in less time than Python needs to launch its kernels one by one.
    """

    def __init__(self, forward: Forward, pool: PagePool) -> None:
        """Capture nothing yet.

        Args:
            forward: what is captured.
            pool: memory with a page of nobody's at its end, for rows that only fill up a graph.
        """
        self._forward = forward
        self._pool = pool
        self._graphs: dict[tuple[int, bool], tuple[Callable[[], object], torch.Tensor]] = {}
        self._memory: Any = None
        self._stream: Any = None
        self._rows = 0
        self._width = 0
        self._spans: list[Span | None] = []
        self._grow(_SIZES[-1], _WIDTH)

    def logits(self, tokens: Sequence[int], spans: Sequence[Span], adapted: bool) -> torch.Tensor:
        """Logits of the next tokens.

        Args:
            tokens: (R,) the newest token of each text.
            spans: (R,) each of one new token.
            adapted: with adapters.

        Returns:
            (R, V), overwritten by the next call.

        Raises:
            RuntimeError: out of memory.
        """
        rows = graph_size(len(spans))
        longest = max(len(span.trunk) + len(span.pages) for span in spans)
        if rows > self._rows or longest > self._width:
            width = self._width
            while width < longest:
                width *= 2
            self._grow(max(rows, self._rows), width)
        self._fill(tokens, spans, rows)
        self._device[:rows].copy_(self._host[:rows], non_blocking=True)
        if (rows, adapted) not in self._graphs:
            self._graphs[rows, adapted] = self._capture(rows, adapted)
        replay, out = self._graphs[rows, adapted]
        replay()
        return out[: len(spans)]

    def drop(self) -> None:
        """Forget all graphs: tensors that they read have moved."""
        self._graphs.clear()

    def _grow(self, rows: int, width: int) -> None:
        """Room for so many texts of so many pages."""
        self.drop()
        device = self._pool.memory.device
        # Columns: token, position, slot, pages.
        shape = (rows, 3 + width)
        self._host = torch.zeros(shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = torch.zeros(shape, dtype=torch.int32, device=device)
        # Graphs read these, so they must live as long: nobody else may be given their memory.
        self._order = torch.arange(rows, dtype=torch.int32, device=device)
        self._zeros, self._ones = torch.zeros_like(self._order), torch.ones_like(self._order)
        self._spans = [None] * rows
        self._rows, self._width = rows, width

    def _fill(self, tokens: Sequence[int], spans: Sequence[Span], rows: int) -> None:
        host: IntArray = self._host.numpy()
        count = len(spans)
        for row, span in enumerate(spans):
            before = self._spans[row]
            if before is None or before.pages != span.pages or before.trunk != span.trunk:
                host[row, 3 : 3 + len(span.trunk)] = span.trunk
                start = 3 + len(span.trunk)
                host[row, start : start + len(span.pages)] = span.pages
                self._spans[row] = span
        positions = np.array([span.past for span in spans])
        pages = host[np.arange(count), 3 + positions // PAGE]
        host[:count, 0] = tokens
        host[:count, 1] = positions
        host[:count, 2] = pages * PAGE + positions % PAGE
        if count < rows:
            host[count:rows, :2] = 0
            host[count:rows, 2] = self._pool.pages * PAGE
            host[count:rows, 3] = self._pool.pages
            self._spans[count:rows] = [None] * (rows - count)

    def _capture(self, rows: int, adapted: bool) -> tuple[Callable[[], object], torch.Tensor]:
        """A function that computes from the inputs on the device, and where its results appear."""
        inputs = self._device[:rows]
        order, zeros, ones = self._order[:rows], self._zeros[:rows], self._ones[:rows]

        def run() -> torch.Tensor:
            ids, positions, slots = inputs[:, :3].t().contiguous()
            plan = PagedPlan(
                self._pool,
                positions=positions,
                slots=slots,
                table=inputs[:, 3:],
                blocks=(order, zeros),
                rows=(order, positions, ones),
            )
            return self._forward(ids, plan, adapted)

        if inputs.device.type != "cuda":  # interpreted kernels cannot be captured
            out = run()
            return lambda: out.copy_(run()), out
        if not self._graphs:  # a pool ends with its last graph
            self._memory = torch.cuda.graph_pool_handle()
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side = self._stream
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()  # compiles kernels and chooses algorithms, which a capture must not
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads, a trainer's for one, may go on allocating meanwhile.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=side, capture_error_mode="thread_local"
        ):
            out = run()
        return graph.replay, out


def graph_size(rows: int) -> int:
    """Rows of the smallest graph that holds so many."""
    largest = _SIZES[-1]
    if rows > largest:
        return -(-rows // largest) * largest
    return next(size for size in _SIZES if size >= rows)


def probe(device: torch.device) -> None:
    """Run a kernel: Triton needs a compiler and a GPU that it knows.

    Raises:
        Exception: of many kinds, when it does not work.
    """
    kernels.rms_norm(torch.ones(1, 16, device=device), torch.ones(16, device=device), 1e-6)


def _sent(values: IntArray, pool: PagePool) -> torch.Tensor:
    """Numbers on the pool's device; the copy does not wait."""
    device = pool.memory.device
    if device.type != "cuda":
        return torch.from_numpy(values).to(device)
    host = torch.empty(len(values), dtype=torch.int32, pin_memory=True)
    host.numpy()[:] = values
    return host.to(device, non_blocking=True)
