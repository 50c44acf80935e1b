"""Rows as one sequence without padding, in which what several rows begin with stands once.

Episodes of a group begin with the same instructions, and turns of an episode with its earlier
turns. Rows are merged into a tree of segments: a segment follows its parent's last token, and rows
part where their tokens first differ. A token sees its own segment up to itself and all of the
segments above, which is exactly what it sees in every row that it belongs to. numpy only; the
model's part is `agentgym.models.packed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from agentgym.rows import MicroBatch, Row
from agentgym.types import IntArray

MIN_SHARED = 16
"""Tokens that sharing must save before it is worth a segment of its own."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of a pack that follow each other in every row they belong to."""

    start: int
    """Index of its first token in the pack."""
    length: int
    parent: int = -1
    """Index of the segment before it, whose last token it follows; -1 if it begins its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Rows as a tree of segments."""

    ids: IntArray
    """(T,) token ids."""
    positions: IntArray
    """(T,) of each token in its rows."""
    segments: tuple[Segment, ...]
    """Parents before children; together they cover all tokens in order."""
    before: npt.NDArray[np.int64]
    """(M,) for each marked token of the rows, in row-major order, the token before it."""
    targets: IntArray
    """(M,) ids of the marked tokens."""

    def __len__(self) -> int:
        return len(self.ids)


def pack_rows(rows: Sequence[Row], *, share: bool = True, min_shared: int = MIN_SHARED) -> Pack:
    """Merge rows into a tree.

    Args:
        rows: at least one, none with its first token marked.
        share: let rows share beginnings; otherwise every row stands alone.
        min_shared: see `MIN_SHARED`.

    Raises:
        ValueError: there are no rows, or a first token is marked: nothing precedes it.
    """
    if not rows:
        raise ValueError("there are no rows to pack")
    if any(row.mask[0] for row in rows):
        raise ValueError("the first token of a row cannot be scored: nothing precedes it")
    tree = _Tree(rows, min_shared if share else max(len(row) for row in rows) * len(rows) + 1)
    tree.grow(list(range(len(rows))))
    return Pack(
        ids=np.concatenate(tree.ids),
        positions=np.concatenate(tree.positions),
        segments=tuple(tree.segments),
        before=np.concatenate(
            [place[np.flatnonzero(r.mask) - 1] for place, r in zip(tree.places, rows, strict=True)]
        ),
        targets=np.concatenate([row.ids[row.mask] for row in rows]),
    )


class _Tree:
    """Segments as they are found."""

    def __init__(self, rows: Sequence[Row], min_shared: int) -> None:
        self._rows, self._min_shared = rows, min_shared
        self.segments: list[Segment] = []
        self.ids: list[IntArray] = []
        self.positions: list[IntArray] = []
        self.places = [np.zeros(len(row), np.int64) for row in rows]
        """Of each row's tokens in the pack."""
        self._size = 0

    def grow(self, members: list[int]) -> None:
        """Add rows that have nothing in the tree yet."""
        waiting = [(members, 0, 0, -1)]
        while waiting:
            rows, begin, same, parent = waiting.pop()
            end = self._common(rows, same)
            tokens = sum(min(len(self._rows[row]), end) - begin for row in rows)
            if len(rows) == 1 or tokens - (end - begin) >= self._min_shared:
                parent, begin = self._add(rows, begin, end, parent), end
                rows = [row for row in rows if len(self._rows[row]) > end]
            parts: dict[int, list[int]] = {}
            for row in rows:
                # A row that ends here and is in no segment yet becomes one: a key of its own.
                ended = len(self._rows[row]) <= end
                key = -1 - row if ended else int(self._rows[row].ids[end])
                parts.setdefault(key, []).append(row)
            # Last in, first out: so that the pack has the rows' order.
            waiting += [(part, begin, end, parent) for part in reversed(parts.values())]

    def _common(self, rows: list[int], same: int) -> int:
        """How many first tokens the longest row shares with all, `same` known; some end before."""
        longest = max((self._rows[row].ids for row in rows), key=len)
        end = len(longest)
        for row in rows:
            ids = self._rows[row].ids[same:end]
            differing = np.flatnonzero(ids != longest[same : same + len(ids)])
            if differing.size:
                end = same + int(differing[0])
        return end

    def _add(self, rows: list[int], begin: int, end: int, parent: int) -> int:
        self.segments.append(Segment(self._size, end - begin, parent))
        longest = max((self._rows[row].ids for row in rows), key=len)
        self.ids.append(longest[begin:end])
        self.positions.append(np.arange(begin, end, dtype=np.int32))
        for row in rows:
            places = self.places[row][begin:end]
            places[:] = np.arange(self._size, self._size + len(places))
        self._size += end - begin
        return len(self.segments) - 1


def _shared(before: Row, row: Row) -> int:
    """First tokens that a row need not bring along after another one."""
    length = min(len(before), len(row))
    differing = np.flatnonzero(before.ids[:length] != row.ids[:length])
    same = int(differing[0]) if differing.size else length
    return same if same >= MIN_SHARED else 0


def packed_batches(
    rows: Sequence[Row],
    indices: Sequence[int],
    max_tokens: int,
    *,
    share: bool = True,
    part: int = 0,
    parts: int = 1,
) -> list[MicroBatch]:
    """Split rows into micro-batches for `pack_rows`, rows that begin alike together.

    Args:
        rows: all rows.
        indices: those of the step.
        max_tokens: of a pack, about; a single row may be longer.
        share: as for `pack_rows`.
        part: which share of the step, in [0, parts).
        parts: shares of about as many tokens each; together they are all rows.

    Returns:
        The largest first, so that a lack of memory shows at once.
    """
    # Big-endian bytes sort as the numbers do: what begins alike is next to each other.
    ordered = sorted(indices, key=lambda i: (rows[i].ids.astype(">i4").tobytes(), i))
    added = np.array([len(rows[i]) for i in ordered], np.int64)
    if share:
        for place, (one, other) in enumerate(pairwise(ordered), start=1):
            added[place] -= _shared(rows[one], rows[other])
    # A row belongs to the share in which its middle falls.
    owners = (np.cumsum(added) - added / 2) * parts // max(1, added.sum())
    batches: list[tuple[int, list[int]]] = []
    for place in np.flatnonzero(owners == part).tolist():
        row, new = ordered[place], int(added[place])
        if batches and batches[-1][0] + new <= max_tokens:
            batches[-1] = (batches[-1][0] + new, [*batches[-1][1], row])
        else:
            batches.append((len(rows[row]), [row]))
    return [tuple(batch) for _, batch in sorted(batches, key=lambda b: -b[0])]
