"""Shares of one process and of several; the rest is tested by runs of two (`test_run`)."""

import pytest

from agentgym.ranks import Ranks


def test_alone_everything_is_ones_own() -> None:
    ranks = Ranks()
    assert (ranks.count, ranks.first, ranks.device) == (1, True, "")
    assert ranks.share(3) == range(3)
    assert ranks.joined([1, 2]) == [1, 2]
    assert ranks.told("it") == "it"
    ranks.wait()
    ranks.leave()


@pytest.mark.parametrize(("count", "things"), [(2, 5), (3, 2), (4, 8), (2, 0)])
def test_shares_hold_everything_once_in_order(count: int, things: int) -> None:
    ranks = Ranks()
    ranks.count = count
    found: list[int] = []
    sizes = []
    for ranks.rank in range(count):
        share = ranks.share(things)
        found += share
        sizes.append(len(share))
    assert found == list(range(things))
    assert max(sizes) - min(sizes) <= 1
