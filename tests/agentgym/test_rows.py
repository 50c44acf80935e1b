from typing import Any

import numpy as np
import pytest

from agentgym.rows import (
    Row,
    as_rows,
    collate,
    micro_batches,
    pack,
    padding_share,
    plan_epoch,
    unpack,
    untrainable_turns,
)
from agentgym.types import EndReason, Image, Task, Trajectory, Turn


def ids(*values: int) -> Any:
    return np.array(values, np.int32)


def turn(prompt: Any, action: Any, extends: bool = True, **fields: Any) -> Turn:
    return Turn("page", prompt, extends, action, "text", **fields)


def episode(*turns: Turn, name: str = "a", group: str = "") -> Trajectory:
    return Trajectory(name, Task("env", 0), turns, EndReason.SUCCESS, 1.0, group_id=group)


def make_row(length: int, first_action: int = 1) -> Row:
    mask = np.arange(length) >= first_action
    zeros = np.zeros(length, np.float32)
    return Row(np.arange(length, dtype=np.int32), mask, zeros, ids(*mask), ids(*mask), 0)


# Three turns; the third rewrites the context.
THREE = episode(
    turn(
        ids(1, 2), ids(3, 4), False, logprobs=np.array([-0.5, -1.0], np.float32), weights_version=7
    ),
    turn(ids(5), ids(6), logprobs=np.array([-2.0], np.float32), weights_version=8),
    turn(ids(1, 9), ids(10), False),
    group="g",
)


def test_fork_begins_a_row_where_the_context_was_rewritten() -> None:
    first, second = as_rows([THREE])
    assert first.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert first.mask.tolist() == [False, False, True, True, False, True]
    assert first.logprobs.tolist() == [0, 0, -0.5, -1.0, 0, -2.0]
    assert first.turn_index.tolist() == [-1, -1, 0, 0, -1, 1]
    assert first.weights_version.tolist() == [-1, -1, 7, 7, -1, 8]
    assert first.has_logprobs
    assert second.ids.tolist() == [1, 9, 10]
    assert second.turn_index.tolist() == [-1, -1, 2]
    assert not second.has_logprobs
    assert (first.trajectory, first.group_id, first.action_tokens, len(first)) == (0, "g", 3, 6)


def test_per_turn_repeats_the_context() -> None:
    rows = as_rows([THREE], "per_turn")
    assert [row.ids.tolist() for row in rows] == [
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5, 6],
        [1, 9, 10],
    ]
    assert [np.flatnonzero(row.mask).tolist() for row in rows] == [[2, 3], [5], [2]]
    assert [row.turn_index.max() for row in rows] == [0, 1, 2]
    assert rows[1].logprobs.tolist() == [0, 0, 0, 0, 0, -2.0], "earlier actions are context"


@pytest.mark.parametrize("mode", ["fork", "per_turn"])
def test_every_sampled_token_is_masked_once(mode: Any) -> None:
    rng = np.random.default_rng(0)

    def draw(low: int) -> Any:
        return rng.integers(0, 50, rng.integers(low, 6)).astype(np.int32)

    episodes = [
        episode(*(turn(draw(1), draw(0), extends=i > 0 and rng.random() < 0.7) for i in range(6)))
        for _ in range(30)
    ]
    rows = as_rows(episodes, mode)
    for number, trajectory in enumerate(episodes):
        masked = [row.ids[row.mask] for row in rows if row.trajectory == number]
        sampled = [t.action_ids for t in trajectory.turns if t.action_ids is not None]
        assert np.concatenate(masked).tolist() == np.concatenate(sampled).tolist()


def test_turns_not_trained_on_stay_as_context() -> None:
    three = episode(
        turn(ids(1), ids(2), False),
        turn(ids(3), ids(4), parsed=False),
        turn(ids(5), ids(6)),
        turn(ids(7), ids(8), parsed=False),
    )
    (row,) = as_rows([three], trainable=lambda t: t.parsed)
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6], "and the row ends with its last trained token"
    assert row.ids[row.mask].tolist() == [2, 6]
    assert as_rows([three], trainable=lambda t: False) == []


def test_turns_whose_tokens_are_not_known() -> None:
    partly = episode(
        turn(ids(1), ids(2), False),
        turn(ids(3), None),
        turn(ids(4), ids(5)),  # extends what is not known
        turn(ids(6), ids(7), False),
        name="remote",
    )
    with pytest.raises(ValueError, match=r"turn 1 of trajectory 'remote' .* told only text"):
        as_rows([partly])
    rows = as_rows([partly], missing="skip")
    assert [row.ids.tolist() for row in rows] == [[1, 2], [6, 7]]
    assert untrainable_turns([partly]) == 2


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((turn(ids(1), ids(2)),), "turn 0 .* extends a turn before it"),
        ((turn(ids(), ids(2), False),), "no context before it"),
        (
            (turn(ids(1), ids(2), False, logprobs=np.zeros(2, np.float32)),),
            "1 action tokens but 2 log-probabilities",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["fork", "per_turn"])
def test_malformed_records_are_named(turns: tuple[Turn, ...], message: str, mode: Any) -> None:
    with pytest.raises(ValueError, match=message):
        as_rows([episode(*turns)], mode)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="'linear'"):
        as_rows([THREE], "linear")  # type: ignore[arg-type]


def test_pictures_stay_with_their_stretch_of_context() -> None:
    x, y, z = (Image(name, name.encode()) for name in "xyz")
    shown = episode(
        turn(ids(1, 2), ids(3), False, prompt_images=(x,)),
        turn(ids(4, 5), ids(6), prompt_images=(y, z)),
        turn(ids(7), ids(8), prompt_images=(x,), parsed=False),
        turn(ids(9), ids(10), False, prompt_images=(z,)),
    )
    first, second = as_rows([shown], trainable=lambda turn: turn.parsed)
    # The last turn of the first context is not trained on: the row ends before its picture.
    assert first.images == ((2, x), (5, y), (5, z))
    assert second.images == ((1, z),)
    assert first.images_until(3) == ((2, x),)
    rows = as_rows([shown], "per_turn")
    assert [row.images for row in rows] == [
        ((2, x),),
        ((2, x), (5, y), (5, z)),
        ((2, x), (5, y), (5, z), (7, x)),
        ((1, z),),
    ]
    state = pack(rows)
    assert set(state["pictures"]) == {"x", "y", "z"}
    back = unpack(state)
    assert [row.images for row in back] == [row.images for row in rows]
    assert all(image.data == image.sha256.encode() for row in back for _, image in row.images)
    del state["images"], state["pictures"]  # as written before rows had pictures
    assert all(row.images == () for row in unpack(state))


def test_collate_pads_on_the_right() -> None:
    first, second = as_rows([THREE])
    batch = collate([second, first], pad_id=99)
    assert batch.ids.tolist() == [[1, 9, 10, 99, 99, 99], [1, 2, 3, 4, 5, 6]]
    assert batch.attention.sum(1).tolist() == [3, 6]
    assert batch.mask.sum(1).tolist() == [1, 3]
    assert batch.turn_index[0].tolist() == [-1, -1, 2, -1, -1, -1]
    assert batch.logprobs[1].tolist() == first.logprobs.tolist()


def test_micro_batches_keep_the_budget() -> None:
    lengths = [10, 3, 9, 4, 4, 50]
    # 50 alone, above the budget; 10 and 9 make 2 x 10; 4, 4, 3 make 3 x 4.
    assert micro_batches(range(6), lengths, 20) == [(5,), (0, 2), (3, 4, 1)]
    assert micro_batches([], lengths, 20) == []
    assert padding_share([(0, 2), (3, 4, 1)], lengths) == pytest.approx(1 - 30 / 32)
    assert padding_share([], lengths) == 0.0


def test_plan_epoch_holds_every_row_once_and_depends_on_the_seed_alone() -> None:
    lengths = np.random.default_rng(1).integers(10, 400, 101).tolist()

    def plan(seed: int, pool: int = 8) -> list[tuple[int, ...]]:
        return plan_epoch(lengths, 4, np.random.default_rng(seed), pool=pool)

    assert sorted(i for batch in plan(0) for i in batch) == list(range(101))
    assert plan(0) == plan(0)
    assert plan(0) != plan(1)
    assert max(len(batch) for batch in plan(0)) == 4
    assert len(plan(0)) == 26, "no batch is lost and one only is not full"
    assert padding_share(plan(0), lengths) < 0.5 * padding_share(plan(0, pool=1), lengths)
    with pytest.raises(ValueError, match="at least 1"):
        plan_epoch(lengths, 0, np.random.default_rng(0))
    assert plan_epoch([], 4, np.random.default_rng(0)) == []


def test_rows_come_back_from_arrays() -> None:
    rows = as_rows([THREE, THREE], "per_turn")
    state = pack(rows)
    for row, again in zip(rows, unpack(state), strict=True):
        for name in ("ids", "mask", "logprobs", "turn_index", "weights_version"):
            old, new = getattr(row, name), getattr(again, name)
            assert (old.dtype, old.tolist()) == (new.dtype, new.tolist())
        for name in ("trajectory", "group_id", "has_logprobs"):
            assert getattr(row, name) == getattr(again, name)
    assert unpack(pack([])) == []
