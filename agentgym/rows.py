"""What trainers see of trajectories: rows of token ids with the sampled tokens marked; numpy only.

A row is a stretch of tokens that the model saw in exactly this order. Nothing is tokenised again
and no gradient is dropped: where the context was rewritten a new row begins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from agentgym.types import FloatArray, Image, IntArray, Trajectory, Turn

BoolArray: TypeAlias = npt.NDArray[np.bool_]
RowMode: TypeAlias = Literal["fork", "per_turn"]
MicroBatch: TypeAlias = tuple[int, ...]
"""Indices of the rows that go through the model together."""
OptimiserStep: TypeAlias = tuple[MicroBatch, ...]
"""The micro-batches whose gradients make one step."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One stretch of context and actions, ending with its last trained token."""

    ids: IntArray
    """(L,) token ids."""
    mask: BoolArray
    """(L,) True exactly on the action tokens to train on; never on the first token."""
    logprobs: FloatArray
    """(L,) nats, as sampled; 0 off the mask and where the backend did not tell."""
    turn_index: IntArray
    """(L,) index into the trajectory's turns on the mask, -1 elsewhere."""
    weights_version: IntArray
    """(L,) version of the weights that sampled the token on the mask, -1 elsewhere."""
    trajectory: int
    """Index into the trajectories that were given."""
    group_id: str = ""
    has_logprobs: bool = False
    """True if every masked token has its log-probability."""
    images: tuple[tuple[int, Image], ...] = ()
    """Pictures in order, each with the end of the stretch of context that has its placeholders."""

    def images_until(self, end: int) -> tuple[tuple[int, Image], ...]:
        """The pictures of the row's first tokens, cut between two turns."""
        return tuple(each for each in self.images if each[0] <= end)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def action_tokens(self) -> int:
        """How many tokens are trained on."""
        return int(self.mask.sum())


class _Builder:
    """Grows one row turn by turn."""

    def __init__(self, trajectory: int, group_id: str) -> None:
        self.trajectory, self.group_id = trajectory, group_id
        self.ids: list[IntArray] = []
        self.mask: list[BoolArray] = []
        self.logprobs: list[FloatArray] = []
        self.turn_index: list[IntArray] = []
        self.weights_version: list[IntArray] = []
        self.images: list[tuple[int, Image]] = []
        self.length = 0
        self.has_logprobs = True

    def context(self, ids: IntArray, images: Sequence[Image] = ()) -> None:
        self._append(ids, False, None, -1, -1)
        self.images += [(self.length, image) for image in images]

    def action(self, index: int, turn: Turn, ids: IntArray, train: bool) -> None:
        if train and len(ids):
            self.has_logprobs &= turn.logprobs is not None
        logprobs = turn.logprobs if train else None
        where = (index, turn.weights_version) if train else (-1, -1)
        self._append(ids, train, logprobs, *where)

    def _append(
        self, ids: IntArray, train: bool, logprobs: FloatArray | None, turn: int, version: int
    ) -> None:
        n = len(ids)
        self.length += n
        self.ids.append(np.asarray(ids, dtype=np.int32))
        self.mask.append(np.full(n, train))
        self.logprobs.append(
            np.zeros(n, np.float32) if logprobs is None else np.asarray(logprobs, np.float32)
        )
        self.turn_index.append(np.full(n, turn, np.int32))
        self.weights_version.append(np.full(n, version, np.int32))

    def build(self) -> Row | None:
        """The row, or `None` if it holds nothing to train on."""
        mask = np.concatenate(self.mask) if self.mask else np.zeros(0, np.bool_)
        if not mask.any():
            return None
        end = int(np.flatnonzero(mask)[-1]) + 1
        return Row(
            ids=np.concatenate(self.ids)[:end],
            mask=mask[:end],
            logprobs=np.concatenate(self.logprobs)[:end],
            turn_index=np.concatenate(self.turn_index)[:end],
            weights_version=np.concatenate(self.weights_version)[:end],
            trajectory=self.trajectory,
            group_id=self.group_id,
            has_logprobs=self.has_logprobs,
            images=tuple(each for each in self.images if each[0] <= end),
        )


def as_rows(
    trajectories: Sequence[Trajectory],
    mode: RowMode = "fork",
    *,
    trainable: Callable[[Turn], bool] | None = None,
    missing: Literal["error", "skip"] = "error",
) -> list[Row]:
    """View trajectories as rows, in order.

    Args:
        trajectories: the episodes.
        mode: ``"fork"`` keeps turns that extend each other in one row and starts a new row where
            the context was rewritten; ``"per_turn"`` makes one row a turn, its whole context
            before it.
        trainable: which turns to train on; all if `None`. The others stay as context.
        missing: what to do with a turn whose tokens the backend did not tell: an error, or leave
            it out together with the turns that extend it (`untrainable_turns` counts them).

    Returns:
        Rows with at least one token to train on.

    Raises:
        ValueError: a turn has no action tokens and `missing` is "error"; or a record is malformed
            (first turn extends nothing, an action without any context, lengths that differ).
    """
    if mode not in ("fork", "per_turn"):
        raise ValueError(f"mode must be 'fork' or 'per_turn', got {mode!r}")
    rows: list[Row] = []
    for number, trajectory in enumerate(trajectories):
        rows.extend(_rows_of(trajectory, number, mode, trainable, missing == "skip"))
    return rows


def _rows_of(
    trajectory: Trajectory,
    number: int,
    mode: RowMode,
    trainable: Callable[[Turn], bool] | None,
    skip: bool,
) -> list[Row]:
    group = trajectory.group_id
    built: list[Row | None] = []
    builder: _Builder | None = None
    context: list[tuple[IntArray, Sequence[Image]]] = []  # all before the action, for "per_turn"
    for index, turn in enumerate(trajectory.turns):
        if turn.extends and index == 0:
            raise ValueError(_problem(trajectory, 0, "extends a turn before it"))
        if not turn.extends:
            if builder is not None:
                built.append(builder.build())
            builder, context = _Builder(number, group), []
        if turn.action_ids is None:
            if not skip:
                raise ValueError(
                    _problem(trajectory, index, "has no action tokens: its backend told only text")
                    + "; collect with a backend that returns token ids, or skip such turns"
                )
            if builder is not None:
                built.append(builder.build())
            builder = None
            continue
        if builder is None:  # what came before is unknown
            continue
        _check_turn(trajectory, index, turn)
        if mode == "per_turn":
            builder = _Builder(number, group)
            for ids, images in context:
                builder.context(ids, images)
        builder.context(turn.prompt_ids, turn.prompt_images)
        train = trainable is None or trainable(turn)
        if train and len(turn.action_ids) and not any(len(ids) for ids in builder.ids):
            raise ValueError(_problem(trajectory, index, "has an action but no context before it"))
        builder.action(index, turn, turn.action_ids, train)
        if mode == "per_turn":
            context += [(turn.prompt_ids, turn.prompt_images), (turn.action_ids, ())]
            built.append(builder.build())
            builder = _Builder(number, group)
    if builder is not None:
        built.append(builder.build())
    return [row for row in built if row is not None]


def _check_turn(trajectory: Trajectory, index: int, turn: Turn) -> None:
    assert turn.action_ids is not None
    if turn.logprobs is not None and len(turn.logprobs) != len(turn.action_ids):
        lengths = f"{len(turn.action_ids)} action tokens but {len(turn.logprobs)} log-probabilities"
        raise ValueError(_problem(trajectory, index, f"has {lengths}"))


def _problem(trajectory: Trajectory, index: int, what: str) -> str:
    return f"turn {index} of trajectory {trajectory.id!r} {what}"


def untrainable_turns(trajectories: Sequence[Trajectory]) -> int:
    """How many turns `as_rows(..., missing="skip")` leaves out."""
    count = 0
    for trajectory in trajectories:
        known = True
        for turn in trajectory.turns:
            known = (known or not turn.extends) and turn.action_ids is not None
            count += not known
    return count


# ---------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows padded on the right."""

    ids: IntArray
    """(B, L)"""
    attention: BoolArray
    """(B, L) False on padding."""
    mask: BoolArray
    """(B, L) tokens to train on."""
    logprobs: FloatArray
    """(B, L) as sampled."""
    turn_index: IntArray
    """(B, L) -1 off the mask."""


def collate(rows: Sequence[Row], pad_id: int = 0) -> RowBatch:
    """Pad rows on the right to the longest."""
    width = max((len(row) for row in rows), default=0)

    def padded(arrays: list[npt.NDArray[Any]], fill: Any, dtype: Any) -> npt.NDArray[Any]:
        out = np.full((len(rows), width), fill, dtype=dtype)
        for line, array in zip(out, arrays, strict=True):
            line[: len(array)] = array
        return out

    return RowBatch(
        ids=padded([row.ids for row in rows], pad_id, np.int32),
        attention=padded([np.ones(len(row), np.bool_) for row in rows], False, np.bool_),
        mask=padded([row.mask for row in rows], False, np.bool_),
        logprobs=padded([row.logprobs for row in rows], 0.0, np.float32),
        turn_index=padded([row.turn_index for row in rows], -1, np.int32),
    )


def micro_batches(
    indices: Sequence[int], lengths: Sequence[int], max_tokens: int
) -> list[MicroBatch]:
    """Split rows into groups of like length, each at most `max_tokens` with its padding.

    Args:
        indices: which rows.
        lengths: of all rows, by index.
        max_tokens: rows times longest row; a single row may be longer.

    Returns:
        Longest rows first, so that a lack of memory shows at once.
    """
    ordered = sorted(indices, key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for index in ordered:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [tuple(group) for group in groups]


def plan_epoch(
    lengths: Sequence[int], batch_size: int, rng: np.random.Generator, *, pool: int = 8
) -> list[tuple[int, ...]]:
    """One pass over the rows in random order, rows of like length together.

    Shuffles, cuts into pools of `pool` batches, sorts each pool by length, cuts it into batches
    and shuffles the batches.

    Args:
        lengths: (n,) tokens of each row.
        batch_size: rows of one optimiser step.
        rng: source of the order.
        pool: batches that are sorted together; 1 draws every batch at random.

    Returns:
        Batches of row indices; every row once, the last batch of a pool may be smaller.
    """
    if batch_size < 1 or pool < 1:
        raise ValueError(f"batch_size and pool must be at least 1, got {batch_size} and {pool}")
    order = rng.permutation(len(lengths)).tolist()
    batches: list[tuple[int, ...]] = []
    size = batch_size * pool
    for begin in range(0, len(order), size):
        chunk = sorted(order[begin : begin + size], key=lambda i: -lengths[i])
        batches += [tuple(chunk[at : at + batch_size]) for at in range(0, len(chunk), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def padding_share(groups: Sequence[MicroBatch], lengths: Sequence[int]) -> float:
    """Share of computed tokens that are padding, in [0, 1)."""
    computed = sum(len(group) * max(lengths[i] for i in group) for group in groups if group)
    useful = sum(lengths[i] for group in groups for i in group)
    return 1.0 - useful / computed if computed else 0.0


# ---------------------------------------------------------------------------------------------
# Rows as arrays, for checkpoints
# ---------------------------------------------------------------------------------------------


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as a few flat arrays and a list of group ids; `unpack` reads them back."""

    def flat(arrays: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)

    return {
        "lengths": np.array([len(row) for row in rows], np.int64),
        "ids": flat([row.ids for row in rows], np.int32),
        "mask": flat([row.mask for row in rows], np.uint8),
        "logprobs": flat([row.logprobs for row in rows], np.float32),
        "turn_index": flat([row.turn_index for row in rows], np.int32),
        "weights_version": flat([row.weights_version for row in rows], np.int32),
        "trajectory": np.array([row.trajectory for row in rows], np.int64),
        "has_logprobs": np.array([row.has_logprobs for row in rows], np.uint8),
        "group_ids": [row.group_id for row in rows],
        "images": [[[end, image.sha256] for end, image in row.images] for row in rows],
        "pictures": {
            image.sha256: np.frombuffer(image.data, np.uint8)
            for row in rows
            for _, image in row.images
            if image.data is not None
        },
    }


def unpack(state: Mapping[str, Any]) -> list[Row]:
    """Rows from what `pack` made; arrays may also be tensors."""
    others = ("group_ids", "images", "pictures")
    arrays = {name: np.asarray(value) for name, value in state.items() if name not in others}
    pictures = {
        name: Image(name, np.asarray(data).tobytes())
        for name, data in state.get("pictures", {}).items()
    }
    images = state.get("images") or [[]] * len(arrays["lengths"])  # older states have none
    ends = np.cumsum(arrays["lengths"])
    rows: list[Row] = []
    for number, end in enumerate(ends.tolist()):
        span = slice(end - int(arrays["lengths"][number]), end)
        rows.append(
            Row(
                ids=arrays["ids"][span],
                mask=arrays["mask"][span].astype(np.bool_),
                logprobs=arrays["logprobs"][span],
                turn_index=arrays["turn_index"][span],
                weights_version=arrays["weights_version"][span],
                trajectory=int(arrays["trajectory"][number]),
                group_id=str(state["group_ids"][number]),
                has_logprobs=bool(arrays["has_logprobs"][number]),
                images=tuple(
                    (int(place), pictures.get(name, Image(name))) for place, name in images[number]
                ),
            )
        )
    return rows
