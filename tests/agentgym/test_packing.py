"""Rows as a tree: what is shared stands once, and every row can be read off it again."""

import numpy as np
import pytest

from agentgym.packing import Pack, Segment, pack_rows, packed_batches
from agentgym.rows import Row


def row(ids: list[int], marked: list[int] | None = None) -> Row:
    """A row with the given positions marked; its last by default."""
    mask = np.zeros(len(ids), np.bool_)
    mask[[len(ids) - 1] if marked is None else marked] = True
    unknown = np.full(len(ids), -1, np.int32)
    zeros = np.zeros(len(ids), np.float32)
    return Row(np.array(ids, np.int32), mask, zeros, unknown, unknown, 0)


def paths(pack: Pack) -> list[list[int]]:
    """The texts that end at the leaves."""
    parents = {segment.parent for segment in pack.segments}
    found = []
    for index, segment in enumerate(pack.segments):
        if index in parents:
            continue
        ids: list[int] = []
        positions: list[int] = []
        while True:
            span = slice(segment.start, segment.start + segment.length)
            ids = pack.ids[span].tolist() + ids
            positions = pack.positions[span].tolist() + positions
            if segment.parent < 0:
                break
            segment = pack.segments[segment.parent]
        assert positions == list(range(len(ids)))
        found.append(ids)
    return found


def test_a_shared_beginning_stands_once() -> None:
    rows = [row([1, 2, 3, 4, 5]), row([1, 2, 3, 6]), row([7, 8])]
    pack = pack_rows(rows, min_shared=2)
    assert pack.segments == (
        Segment(0, 3),
        Segment(3, 2, 0),
        Segment(5, 1, 0),
        Segment(6, 2),
    )
    assert pack.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert pack.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert pack.before.tolist() == [3, 2, 6], "the token before each marked one"
    assert pack.targets.tolist() == [5, 6, 8]


def test_a_row_inside_another_costs_nothing() -> None:
    """As the turns of an episode, one row each."""
    rows = [row([1, 2, 3]), row([1, 2, 3, 4, 5]), row([1, 2, 3, 4, 5, 6, 7], [4, 6])]
    pack = pack_rows(rows, min_shared=2)
    assert pack.segments == (Segment(0, 7),)
    assert pack.before.tolist() == [1, 3, 3, 5]
    assert pack.targets.tolist() == [3, 5, 5, 7]


def test_little_in_common_is_not_shared_and_nothing_if_not_wanted() -> None:
    rows = [row([1, 2, 3]), row([1, 4, 5]), row([1, 4, 5])]
    assert [s.parent for s in pack_rows(rows, min_shared=3).segments] == [-1] * 2
    assert len(pack_rows(rows, min_shared=3)) == 6, "two equal rows save three tokens"
    assert len(pack_rows(rows, min_shared=4)) == 9
    assert len(pack_rows(rows, share=False, min_shared=1)) == 9


def test_any_rows_can_be_read_off_again() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        # Few different tokens: deep trees, equal rows, rows inside rows.
        texts = [rng.integers(0, 2, rng.integers(2, 9)).tolist() for _ in range(6)]
        rows = [row(text, [int(rng.integers(1, len(text)))]) for text in texts]
        pack = pack_rows(rows, min_shared=int(rng.integers(1, 6)))
        found = paths(pack)
        assert all(any(path[: len(text)] == text for path in found) for text in texts)
        for text, r, before in zip(texts, rows, pack.before, strict=True):
            place = int(np.flatnonzero(r.mask)[0])
            assert pack.positions[before] == place - 1
            assert pack.ids[before] == text[place - 1]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="no rows"):
        pack_rows([])
    with pytest.raises(ValueError, match="nothing precedes"):
        pack_rows([row([1, 2], [0])])


def test_micro_batches_keep_groups_together() -> None:
    trunk = list(range(100, 140))
    rows = [row([*trunk, k, k]) if k % 2 else row([k] * 30) for k in range(8)]
    batches = packed_batches(rows, range(8), 60)
    assert batches[0] == (0, 2), "the largest first"
    assert sorted(batches) == [(0, 2), (1, 3, 5, 7), (4, 6)]
    apart = packed_batches(rows, range(8), 60, share=False)
    assert max(map(len, apart)) == 2
    assert max(sum(len(rows[i]) for i in batch) for batch in apart) <= 60
    assert packed_batches(rows, [1], 5) == [(1,)], "a row may be longer"


@pytest.mark.parametrize("parts", [1, 2, 3, 20])
def test_shares_are_the_step_and_of_like_size(parts: int) -> None:
    rows = [row([k] * (10 + k)) for k in range(1, 15)]
    shares = [
        [i for batch in packed_batches(rows, range(14), 40, part=p, parts=parts) for i in batch]
        for p in range(parts)
    ]
    assert sorted(i for share in shares for i in share) == list(range(14))
    if parts <= 3:
        sizes = [sum(len(rows[i]) for i in share) for share in shares]
        assert max(sizes) - min(sizes) <= 30


def test_no_rows_no_batches() -> None:
    assert packed_batches([], [], 10) == []
