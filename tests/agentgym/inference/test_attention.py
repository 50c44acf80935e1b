import math

import pytest
import torch

from agentgym.inference import attention
from agentgym.inference.attention import Plan, Span, in_order
from agentgym.inference.pages import PAGE, Memory, PagePool

HEADS, GROUP, WIDTH = 2, 3, 4


@pytest.fixture(autouse=True, params=[(True, False), (False, True)], ids=["float32", "half"])
def _layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages as they lie in float32, and as in half precision, which is too coarse to compare."""
    views = PagePool.views

    def laid_out(pool: PagePool, layer: int) -> Memory:
        pool._transposed = request.param
        return views(pool, layer)

    monkeypatch.setattr(PagePool, "views", laid_out)


class Texts:
    """Random keys and values of whole texts, with their pages filled up to a point."""

    def __init__(self, lengths: list[int], pages: list[tuple[int, ...]], shared: int = 0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pool = PagePool(
            layers=2,
            heads=HEADS,
            width=WIDTH,
            pages=64,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.pages = pages
        self.keys, self.values = (
            [torch.randn(n, HEADS, WIDTH, generator=generator) for n in lengths] for _ in range(2)
        )
        for part in (self.keys, self.values):
            for other in part[1:]:
                other[:shared] = part[0][:shared]
        self.queries = [torch.randn(n, HEADS * GROUP, WIDTH, generator=generator) for n in lengths]

    def run(self, spans: list[Span], rows: list[int]) -> list[torch.Tensor]:
        """(new, Hq * D) for each span, in the given order."""
        order = in_order(spans)
        plan = Plan([spans[i] for i in order], self.pool)
        new = [slice(spans[i].past, spans[i].past + spans[i].new) for i in order]
        queries, keys, values = (
            torch.cat([part[rows[i]][where] for i, where in zip(order, new, strict=True)])
            for part in (self.queries, self.keys, self.values)
        )
        out = plan.attend(1, queries, keys, values, scale=0.5)
        assert plan.positions.tolist() == [t for w in new for t in range(w.start, w.stop)]
        assert plan.last.tolist() == [
            sum(spans[i].new for i in order[: n + 1]) - 1 for n in range(len(order))
        ]
        parts = torch.split(out, [spans[i].new for i in order])
        return [parts[order.index(i)] for i in range(len(spans))]

    def expected(self, row: int, past: int, new: int) -> torch.Tensor:
        """Plain attention, head by head and token by token."""
        rows = []
        for position in range(past, past + new):
            heads = []
            for head in range(HEADS * GROUP):
                keys = self.keys[row][: position + 1, head // GROUP]
                values = self.values[row][: position + 1, head // GROUP]
                weights = (keys @ self.queries[row][position, head] * 0.5).softmax(0)
                heads.append(weights @ values)
            rows.append(torch.cat(heads))
        return torch.stack(rows)

    def check(self, spans: list[Span], rows: list[int]) -> None:
        for span, row, out in zip(spans, rows, self.run(spans, rows), strict=True):
            torch.testing.assert_close(out, self.expected(row, span.past, span.new))


def test_single_tokens_come_first_by_trunk_and_length() -> None:
    spans = [
        Span(0, 5, (), (1,)),
        Span(64, 1, (7, 8), (2,)),
        Span(9, 1, (), (3,)),
        Span(40, 1, (), (4, 5)),
    ]
    assert in_order(spans) == [3, 2, 1, 0]


@pytest.mark.parametrize("padded", [0, 1.25, math.inf], ids=["one by one", "alike", "together"])
@pytest.mark.parametrize("scores", [0, 1 << 24], ids=["sdpa", "matmul"])
@pytest.mark.parametrize("pages", [[(0, 1), (2,), (3, 4, 5)], [(40, 3), (17,), (9, 60, 1)]])
def test_prefill_then_single_tokens_then_both(
    pages: list[tuple[int, ...]], scores: int, padded: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense pages are read in place, scattered ones are gathered; rows are padded or not. The
    results are the same."""
    monkeypatch.setattr(attention, "_MATMUL_SCORES", scores)
    monkeypatch.setattr(attention, "_PADDED", padded)
    texts = Texts([50, 20, 90], pages)
    everyone = [0, 1, 2]
    spans = [Span(0, n, (), p) for n, p in zip((64, 33, 10), pages, strict=True)]
    assert len(list(attention._alike(spans, 0))) == (1 if padded == math.inf else 3)
    texts.check([Span(0, n, (), p) for n, p in zip((33, 10, 64), pages, strict=True)], everyone)
    texts.check([Span(n, 1, (), p) for n, p in zip((33, 10, 64), pages, strict=True)], everyone)
    texts.check([Span(34, 9, (), pages[0]), Span(11, 1, (), pages[1])], [0, 1])
    texts.check([Span(65, 1, (), pages[2])], [2])


def test_a_trunk_is_read_by_all_its_rows() -> None:
    shared = 2 * PAGE
    texts = Texts([shared + 9] * 4, [(0, 1, 2), (3,), (4,), (5, 6, 7)], shared)
    trunk = (0, 1)
    texts.check([Span(0, shared, (), (0, 1, 2)), Span(0, shared, (), (5, 6, 7))], [0, 3])
    texts.check(
        [
            Span(shared, 1, trunk, (2,)),
            Span(shared, 1, trunk, (3,)),
            Span(shared, 4, trunk, (4,)),
            Span(shared, 1, (), (5, 6, 7)),
        ],
        [0, 1, 2, 3],
    )
    texts.check([Span(shared + 1, 1, trunk, (2,)), Span(shared + 4, 1, trunk, (4,))], [0, 2])


def test_long_and_short_rows_take_their_softmax_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [20 * PAGE, *[PAGE] * 30]
    pages = [tuple(range(20)), *[(20 + i,) for i in range(30)]]
    texts = Texts(lengths, pages)
    rows = list(range(31))
    texts.run([Span(0, n - 1, (), p) for n, p in zip(lengths, pages, strict=True)], rows)
    spans = [Span(n - 1, 1, (), p) for n, p in zip(lengths, pages, strict=True)]
    assert len(list(attention._clusters(spans))) == 2
    texts.check(spans, rows)
    monkeypatch.setattr(attention, "_RAGGED", math.inf)
    assert len(list(attention._clusters(spans))) == 1
    texts.check(spans, rows)
