"""Key/value memory in pages of a fixed budget, and the tree of prefixes that are kept in it."""

import heapq
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import numpy as np
import torch

from agentgym.types import IntArray

PAGE = 32
"""Tokens in a page: measured fastest for attention page by page on a CPU (16 to 128 tried)."""


Memory: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""(N, H, PAGE, D) keys and values of one layer's pages, see `PagePool.views`."""


class PagePool:
    """A fixed number of pages, each with the keys and values of `PAGE` tokens in all layers.

    Pages for running rows are taken from the low end, copies that only keep a prefix from the high
    end: attention then reads the running rows' pages as one dense block. With `tables` pages are
    as good anywhere, and shared instead of copied.

    Without tables either the keys or the values of a page lie transposed, see `views`: the products
    of single queries with many small pages take a third less time so.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        pages: int,
        dtype: torch.dtype,
        device: torch.device,
        tables: bool = False,
    ) -> None:
        shape = (layers, 2, pages + tables, heads, PAGE, width)
        self.memory = _zeros(shape, dtype, device)
        """(L, 2, N, H, PAGE, D): keys and values; with `tables` a page more, which is nobody's."""
        self.tables = tables
        # oneDNN's products in half precision are fastest with rows of both, MKL's in float32 with
        # columns of both.
        self._transposed = (dtype == torch.float32, dtype != torch.float32)
        self._free = np.ones(pages, dtype=bool)
        self.free = pages
        """How many pages nobody has."""

    def views(self, layer: int) -> Memory:
        """A layer's keys and values without `tables`, one of them by other strides."""
        keys, values = (
            part.view(*part.shape[:2], part.shape[3], PAGE).transpose(2, 3) if turned else part
            for part, turned in zip(self.memory[layer], self._transposed, strict=True)
        )
        return keys, values

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return len(self._free)

    def take(self, *, high: bool = False) -> int | None:
        """A page for the caller, the lowest (or highest) that is free; `None` if none is."""
        if not self.free:
            return None
        page = len(self._free) - 1 - self._free[::-1].argmax() if high else self._free.argmax()
        self._free[page] = False
        self.free -= 1
        return int(page)

    def give(self, pages: Sequence[int]) -> None:
        """Take pages back."""
        assert not self._free[list(pages)].any(), "a page was given back twice"
        self._free[list(pages)] = True
        self.free += len(pages)

    def exchange(self, page: int, free: int) -> None:
        """Give a page back and have a free one instead."""
        self._free[page], self._free[free] = True, False

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy pages in all layers; all sources are read before any target is written."""
        if not sources:
            return
        device = self.memory.device
        here = torch.tensor(sources, device=device)
        there = torch.tensor(targets, device=device)
        if device.type != "cpu":
            self.memory.index_copy_(2, there, self.memory.index_select(2, here))
            return
        # What a layer holds stays in the cache on its way.
        for part in self.memory.flatten(0, 1).flatten(2).view(torch.int64):
            part.index_copy_(0, there, part.index_select(0, here))

    def clear(self, pages: Sequence[int]) -> None:
        """Overwrite pages that may hold NaN: masked positions count as 0 times what is there."""
        self.memory[:, :, list(pages)] = 0


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU they take real memory only once they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    blank = np.zeros(int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return torch.from_numpy(blank).view(dtype).view(shape)


def select(part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Some of (N, ..., PAGE, D) keys or values, laid out alike."""
    if part.is_contiguous():
        return part.index_select(0, index)
    return part.transpose(-1, -2).index_select(0, index).transpose(-1, -2)


def bytes_per_page(layers: int, heads: int, width: int, dtype: torch.dtype) -> int:
    """Size of one page in all layers."""
    return layers * 2 * heads * PAGE * width * dtype.itemsize


@dataclass(slots=True, eq=False)
class Node:
    """A page of the tree: what comes after its parent's tokens. Partly filled pages are leaves."""

    key: bytes
    """Its tokens as big-endian 32-bit numbers: byte order is token order."""
    page: int
    parent: "Node | None"
    keys: list[bytes] = field(default_factory=list)
    """Of the children, sorted: the longest common prefix with any text is next to its place."""
    children: "list[Node]" = field(default_factory=list)
    users: int = 0
    """Running rows whose text begins with this page, wherever they read it; above 0 it is not
    evicted."""
    lent: bool = False
    """One running row has it among its own pages."""
    stamp: int = 0
    alive: bool = True

    @property
    def length(self) -> int:
        """Tokens in the page."""
        return len(self.key) // 4

    def nearest(self, text: bytes) -> "tuple[Node | None, int]":
        """The child that shares most of `text`, and how many tokens it shares."""
        place = bisect_left(self.keys, text)
        best: tuple[Node | None, int] = (None, 0)
        for index in (place - 1, place):
            if 0 <= index < len(self.keys):
                shared = _common(self.keys[index], text)
                if shared > best[1]:
                    best = (self.children[index], shared)
        return best

    def add(self, child: "Node") -> None:
        """Put a child in its place."""
        place = bisect_left(self.keys, child.key)
        self.keys.insert(place, child.key)
        self.children.insert(place, child)

    def remove(self, child: "Node") -> None:
        """Take a child out."""
        place = bisect_left(self.keys, child.key)
        del self.keys[place], self.children[place]


@dataclass(frozen=True, slots=True)
class Match:
    """How much of a text is in the tree."""

    nodes: tuple[Node, ...] = ()
    """Full pages, from the root down."""
    tail: Node | None = None
    """A page of which only the first `tail_tokens` match."""
    tail_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that need no computing."""
        return len(self.nodes) * PAGE + self.tail_tokens


class PrefixTree:
    """A radix tree over token ids whose nodes are pages. Prefixes are found to the token.

    Texts are kept apart by `kind` (which weights computed them), so that a change of weights never
    meets a stale prefix. What is not in use is evicted from the leaves up, least recently used
    first.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self._roots: dict[Hashable, Node] = {}
        self._queue: list[tuple[int, int, Node]] = []  # (stamp, tie-break, leaf); may be outdated
        self._clock = count(1)
        self._by_page: dict[int, Node] = {}
        self.pinned = 0
        """Pages among them that are in use."""

    @property
    def nodes(self) -> int:
        """Pages in the tree."""
        return len(self._by_page)

    @property
    def evictable(self) -> int:
        """Pages that `evict` could free."""
        return self.nodes - self.pinned

    def match(self, kind: Hashable, tokens: IntArray, limit: int) -> Match:
        """The longest prefix of `tokens[:limit]` in the tree."""
        node = self._roots.get(kind)
        nodes: list[Node] = []
        text = _text(tokens[:limit])
        while node is not None:
            start = len(nodes) * PAGE * 4
            child, shared = node.nearest(text[start : start + PAGE * 4])
            if child is None or shared < PAGE:
                return Match(tuple(nodes), child, shared)
            nodes.append(child)
            node = child
        return Match()

    def pin(self, nodes: Sequence[Node]) -> None:
        """Keep pages from eviction until `unpin`; with each page all pages above it."""
        for node in nodes:
            self.pinned += node.users == 0
            node.users += 1

    def unpin(self, nodes: Sequence[Node]) -> None:
        """Let go of pages, which counts as their last use."""
        for node in nodes:
            node.users -= 1
            self.pinned -= node.users == 0
            self._touch(node)

    def insert(
        self,
        kind: Hashable,
        tokens: IntArray,
        path: Sequence[Node],
        pages: Sequence[int],
        *,
        give: bool = False,
    ) -> set[int]:
        """Keep the keys and values of a text, as far as there is room.

        Args:
            kind: which weights computed them.
            tokens: (T,) the text.
            path: nodes of its first pages, pinned by the caller.
            pages: where the rest lies.
            give: the tree may keep pages themselves, instead of copies.

        Returns:
            Pages that the tree has kept, for `give`.
        """
        node = path[-1] if path else self._roots.setdefault(kind, Node(b"", -1, None))
        text = _text(tokens)
        sources: list[int] = []
        targets: list[int] = []
        kept: set[int] = set()
        walked: list[Node] = []
        for index, page in enumerate(pages, start=len(path)):
            chunk = text[index * PAGE * 4 : (index + 1) * PAGE * 4]
            child, shared = node.nearest(chunk)
            if child is None or shared * 4 < min(len(chunk), len(child.key)):
                child = self._grow(node, chunk, page, give, sources, targets, kept)
                if child is None:
                    break
            elif len(child.key) < len(chunk):  # it goes on where the kept page ended
                node.remove(child)
                child.key = chunk
                node.add(child)
                if give and not child.users:
                    self._exchange(child, page)
                    kept.add(page)
                else:
                    sources.append(page)
                    targets.append(child.page)
            self.pin([child])
            walked.append(child)
            node = child
        self.pool.copy(sources, targets)
        self.unpin(walked)
        return kept

    def evict(self, pages: int) -> int:
        """Free up to so many pages; returns how many it freed."""
        freed = 0
        while freed < pages and self._queue:
            stamp, _, node = heapq.heappop(self._queue)
            if node.alive and node.stamp == stamp and not node.users and not node.children:
                self._remove(node)
                freed += 1
        return freed

    def drop(self, kind: Hashable) -> None:
        """Forget all texts of a kind, none of which may be in use."""
        root = self._roots.pop(kind, None)
        stack = list(root.children) if root is not None else []
        while stack:
            node = stack.pop()
            assert not node.users, "a prefix in use was dropped"
            stack += node.children
            self._lose(node)

    def gather(self, pages: Sequence[int]) -> dict[int, int]:
        """Bring pages of running rows to the low end, in exchange for what lies there.

        Args:
            pages: all that running rows have for themselves, lent ones included.

        Returns:
            For each page that has moved, where it is now.
        """
        used = set(pages)
        sources = [page for page in pages if page >= len(used)]
        targets = [page for page in range(len(used)) if page not in used]
        moved = dict(zip(sources, targets, strict=True))
        kept = {target: source for source, target in moved.items() if target in self._by_page}
        self.pool.copy([*moved, *kept], [*moved.values(), *kept.values()])
        for source, target in moved.items():
            if target not in kept:
                self.pool.exchange(source, target)
        changes = moved | kept
        nodes = [(self._by_page.pop(page, None), changes[page]) for page in changes]
        for node, page in nodes:
            if node is not None:
                node.page = page
                self._by_page[page] = node
        return moved

    def _grow(
        self,
        parent: Node,
        chunk: bytes,
        source: int,
        give: bool,
        sources: list[int],
        targets: list[int],
        kept: set[int],
    ) -> Node | None:
        """A new child with a copy of page `source`, or that page itself; `None` without room."""
        page = source
        if give:
            kept.add(source)
        else:
            free = self.pool.take(high=True)
            if free is None and self.evict(1):
                free = self.pool.take(high=True)
            if free is None:
                return None
            page = free
            sources.append(source)
            targets.append(page)
        child = Node(chunk, page, parent)
        parent.add(child)
        self._by_page[page] = child
        return child

    def _exchange(self, node: Node, page: int) -> None:
        """Let a node have another page than before."""
        del self._by_page[node.page]
        self.pool.give([node.page])
        node.page = page
        self._by_page[page] = node

    def _touch(self, node: Node) -> None:
        node.stamp = next(self._clock)
        self._offer(node)

    def _offer(self, node: Node) -> None:
        """Queue a page for eviction if nothing needs it."""
        if node.users or node.children:
            return
        heapq.heappush(self._queue, (node.stamp, next(self._clock), node))
        if len(self._queue) > 4 * self.nodes + 64:
            self._queue = [e for e in self._queue if e[2].alive and e[2].stamp == e[0]]
            heapq.heapify(self._queue)

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None, "the root is no page"
        parent.remove(node)
        self._lose(node)
        if parent.parent is not None:
            self._offer(parent)

    def _lose(self, node: Node) -> None:
        node.alive = False
        del self._by_page[node.page]
        self.pool.give([node.page])


def _text(tokens: IntArray) -> bytes:
    return np.asarray(tokens).astype(">u4").tobytes()


def _common(a: bytes, b: bytes) -> int:
    """Tokens that two texts begin with in common."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size // 4
    left = np.frombuffer(a, np.uint32, size // 4)
    right = np.frombuffer(b, np.uint32, size // 4)
    return int((left != right).argmax())
