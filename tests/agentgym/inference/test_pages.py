import numpy as np
import pytest
import torch

from agentgym.inference.pages import PAGE, Node, PagePool, PrefixTree, bytes_per_page
from agentgym.types import IntArray


def pool(pages: int = 8) -> PagePool:
    return PagePool(
        layers=1, heads=1, width=2, pages=pages, dtype=torch.float32, device=torch.device("cpu")
    )


def text(*parts: tuple[int, int]) -> IntArray:
    """Runs of equal tokens: (token, how many)."""
    return np.concatenate([np.full(n, token, np.int32) for token, n in parts])


def keep(tree: PrefixTree, tokens: IntArray, kind: str = "policy", give: bool = False) -> set[int]:
    """Put a text into the tree; its page number i holds i + 1 everywhere."""
    pages = [tree.pool.take() for _ in range(-(-len(tokens) // PAGE))]
    taken = [page for page in pages if page is not None]
    for index, page in enumerate(taken):
        tree.pool.memory[:, :, page] = index + 1
    kept = tree.insert(kind, tokens, (), taken, give=give)
    tree.pool.give([page for page in taken if page not in kept])
    return kept


def test_pages_come_from_either_end_and_go_back() -> None:
    memory = pool(4)
    assert (memory.take(), memory.take(high=True), memory.take()) == (0, 3, 1)
    memory.give([0])
    assert (memory.free, memory.take(), memory.take(), memory.take()) == (2, 0, 2, None)
    memory.give([0, 1, 2, 3])
    with pytest.raises(AssertionError, match="twice"):
        memory.give([1])


def test_size_of_a_page() -> None:
    assert bytes_per_page(30, 3, 64, torch.bfloat16) == 30 * 2 * 3 * 32 * 64 * 2
    assert pool(3).memory.nbytes == 3 * bytes_per_page(1, 1, 2, torch.float32)


def test_copy_reads_before_it_writes() -> None:
    memory = pool(3)
    for page in range(3):
        memory.memory[:, :, page] = page
    memory.copy([0, 1], [1, 0])
    assert memory.memory[0, 0, :, 0, 0, 0].tolist() == [1, 0, 2]
    memory.clear([0])
    assert memory.memory[:, :, 0].abs().sum() == 0


def test_prefixes_are_found_to_the_token() -> None:
    tree = PrefixTree(pool())
    keep(tree, text((1, PAGE), (2, 10)))
    for other, found in (
        (text((1, 5)), 5),
        (text((1, PAGE), (2, 3)), PAGE + 3),
        (text((1, PAGE), (2, 30)), PAGE + 10),
        (text((1, 20), (2, 30)), 20),
        (text((2, 5)), 0),
    ):
        assert tree.match("policy", other, 1000).tokens == found
        assert tree.match("policy", other, 4).tokens == min(found, 4)
        assert tree.match("base", other, 1000).tokens == 0
    match = tree.match("policy", text((1, PAGE), (2, 30)), 1000)
    assert [node.length for node in match.nodes] == [PAGE]
    assert match.tail is not None
    held = tree.pool.memory[0, 0, :, 0, 0, 0]
    assert held[[match.nodes[0].page, match.tail.page]].tolist() == [1, 2]


def test_texts_share_pages_grow_in_place_and_branch() -> None:
    tree = PrefixTree(pool())
    keep(tree, text((1, PAGE), (2, 10)))
    assert (tree.nodes, tree.pool.free) == (2, 6)
    keep(tree, text((1, PAGE), (2, 20)))  # the second page goes on
    assert (tree.nodes, tree.pool.free) == (2, 6)
    keep(tree, text((1, PAGE), (2, 5)))  # nothing new
    assert tree.nodes == 2
    keep(tree, text((1, PAGE), (2, 5), (3, 5)))  # branches within a page: a page of its own
    assert tree.nodes == 3
    assert tree.match("policy", text((1, PAGE), (2, 20)), 99).tokens == PAGE + 20
    assert tree.match("policy", text((1, PAGE), (2, 5), (3, 9)), 99).tokens == PAGE + 10


def test_the_longest_of_many_branches_is_found() -> None:
    tree = PrefixTree(pool(600))
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 3, PAGE).astype(np.int32) for _ in range(200)]
    for tokens in texts:
        keep(tree, tokens)
    for _ in range(50):
        wanted = generator.integers(0, 3, PAGE).astype(np.int32)
        longest = max(int(np.argmax([*(wanted != t), True])) for t in texts)
        assert tree.match("policy", wanted, 99).tokens == longest


def test_the_least_recently_used_leaf_goes_first() -> None:
    tree = PrefixTree(pool(4))
    keep(tree, text((1, PAGE), (2, PAGE)))
    keep(tree, text((3, PAGE)))
    used = tree.match("policy", text((1, PAGE), (2, PAGE)), 99).nodes
    tree.pin(used)
    assert tree.evictable == 1
    assert tree.evict(5) == 1  # only what is not in use
    tree.unpin(used)
    keep(tree, text((4, PAGE)))
    tree.pin(used[:1])  # the inner page stays while it is used
    assert tree.evict(1) == 1
    assert tree.match("policy", text((1, PAGE), (2, PAGE)), 99).tokens == PAGE
    tree.unpin(used[:1])
    assert tree.evict(9) == 2
    assert (tree.nodes, tree.pinned, tree.pool.free) == (0, 0, 4)


def test_without_room_the_text_is_kept_as_far_as_it_goes_or_given_away() -> None:
    tree = PrefixTree(pool(4))
    first = text((1, PAGE), (2, PAGE))
    assert keep(tree, first) == set()  # copied: two pages were free
    used = tree.match("policy", first, 99).nodes
    tree.pin(used)
    other = text((5, PAGE), (6, PAGE))
    assert keep(tree, other) == set()
    assert tree.match("policy", other, 99).tokens == 0
    assert keep(tree, other, give=True) == {0, 1}
    assert tree.match("policy", other, 99).tokens == 2 * PAGE
    assert tree.pool.free == 0
    tree.unpin(used)
    assert tree.evict(4) == 4


def test_a_kind_is_dropped_as_a_whole() -> None:
    tree = PrefixTree(pool())
    keep(tree, text((1, PAGE), (2, 5)))
    keep(tree, text((1, PAGE)), kind="base")
    tree.drop("policy")
    assert (tree.nodes, tree.pool.free) == (1, 7)
    assert tree.match("policy", text((1, 5)), 9).tokens == 0
    assert tree.match("base", text((1, 5)), 9).tokens == 5
    assert tree.evict(9) == 1  # what was dropped is not evicted again


def test_running_pages_are_brought_to_the_low_end() -> None:
    tree = PrefixTree(pool(6))
    keep(tree, text((1, PAGE), (2, PAGE)))  # copies at 5 and 4
    pages = [tree.pool.take() for _ in range(4)]
    tree.pool.give([1])
    tree.evict(1)  # what is at 4
    assert pages == [0, 1, 2, 3]
    tree.pool.memory[:, :, 3] = 33
    tree.pool.memory[:, :, 2] = 22
    assert tree.gather([0, 2, 3]) == {3: 1}
    assert tree.pool.memory[0, 0, :4, 0, 0, 0].tolist()[1:3] == [33, 22]
    assert tree.pool.free == 2
    assert tree.pool.take() == 3


def test_what_is_kept_makes_way_and_is_found_where_it_went() -> None:
    tree = PrefixTree(pool(4))
    for page in range(4):
        assert tree.pool.take() == page
        tree.pool.memory[:, :, page] = page
    assert tree.insert("policy", text((1, PAGE)), (), [0], give=True) == {0}
    tree.pool.give([1])
    assert tree.gather([2, 3]) == {2: 0, 3: 1}
    assert tree.match("policy", text((1, PAGE)), 99).nodes[0].page == 2
    assert tree.pool.memory[0, 0, :3, 0, 0, 0].tolist() == [2, 3, 0]
    assert (tree.pool.free, tree.evict(1), tree.pool.free) == (1, 1, 2)
    assert (tree.pool.take(), tree.pool.take()) == (2, 3)


def test_a_kept_page_that_runs_keeps_its_place_in_the_tree() -> None:
    tree = PrefixTree(pool(4))
    for page in range(4):
        assert tree.pool.take() == page
        tree.pool.memory[:, :, page] = page
    for page, token in ((0, 1), (3, 2)):
        assert tree.insert("policy", text((token, PAGE)), (), [page], give=True) == {page}
    tree.pool.give([1, 2])
    assert tree.gather([3]) == {3: 0}  # both are kept: they change places
    for token, page in ((1, 3), (2, 0)):
        assert tree.match("policy", text((token, PAGE)), 99).nodes[0].page == page
    assert tree.pool.memory[0, 0, :, 0, 0, 0].tolist() == [3, 1, 2, 0]
    assert tree.gather([0, 3]) == {3: 1}  # there nobody was
    assert tree.match("policy", text((1, PAGE)), 99).nodes[0].page == 1
    assert (tree.evict(2), tree.pool.free) == (2, 4)


def test_the_queue_of_leaves_stays_short() -> None:
    tree = PrefixTree(pool())
    for _ in range(500):
        keep(tree, text((1, 5)))
    assert len(tree._queue) < 100


def test_nearest_child_of_none() -> None:
    assert Node(b"", 0, None).nearest(b"\0\0\0\1") == (None, 0)
