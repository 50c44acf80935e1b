"""Trajectories as Arrow rows and back: one flat row each, turns nested, nothing lost.

Columns (`SCHEMA`): ``id env_id seed goal split options`` (the task), ``reward num_turns`` (derived,
for people), ``end outcome source policy sample_seed group_id attempt``, ``final_observation
final_error final_image final_prompt_ids``, ``verdicts`` (list of structs), ``error metadata`` and
``turns`` (list of structs with the fields of `types.Turn`). Token ids are list<int32>, what goes
with them list<float>, pictures their SHA-256, mappings (``options metadata info cost``) JSON text.

What does not come back as it was given, on purpose:

* lone surrogates in texts (they are not UTF-8) become U+FFFD; NUL and everything else survives;
* in mappings tuples come back as lists, numpy values as plain ones, keys as text; NaN and infinity
  are written as Python's `json` writes them;
* an outcome or score that is no finite number is refused: unscored is `None`.
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from agentgym.durable import plain
from agentgym.errors import StoreError
from agentgym.types import EndReason, Image, Source, Task, Trajectory, Turn, Verdict

SCHEMA_VERSION = 2
"""2 added the turns' ``prompt_images``; episodes of 1 are read as having none."""
VERSION_KEY = b"agentgym.schema"


class _Column(NamedTuple):
    """How one field is kept: its Arrow type, its value for Arrow, and Arrow's array as values."""

    type: pa.DataType
    encode: Callable[[Any, str], Any]
    decode: Callable[[pa.Array], list[Any]]


def _text(value: Any, where: str) -> str:
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise StoreError(f"{where} is {value!r:.80}, not a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(value)


def _number(value: Any, where: str) -> float:
    return float(value)


def _score(value: Any, where: str) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise StoreError(f"{where} is {value!r}; write None for what could not be scored")
    return number


def _vector(dtype: type[np.generic]) -> Callable[[Any, str], Any]:
    kinds = "iu" if issubclass(dtype, np.integer) else "iuf"

    def encode(value: Any, where: str) -> Any:
        if value is None:
            return None
        given = np.asarray(value)
        if given.ndim != 1 or (given.size and given.dtype.kind not in kinds):
            raise StoreError(
                f"{where} is an array of {given.dtype} with shape {given.shape}; expected one "
                f"dimension of {dtype.__name__}"
            )
        if given.dtype == dtype:
            return given
        with np.errstate(over="ignore"):
            array = given.astype(dtype)
        if kinds == "iu" and not np.array_equal(array, given):
            raise StoreError(f"{where} holds ids beyond {dtype.__name__}")
        return array

    return encode


def _vectors(column: pa.Array) -> list[Any]:
    """(T,) arrays that own their memory, so that one turn does not keep a whole shard alive."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    return [
        values[offsets[i] : offsets[i + 1]].copy() if valid else None
        for i, valid in enumerate(column.is_valid().to_pylist())
    ]


def _verdicts(value: Iterable[Verdict], where: str) -> list[dict[str, Any]]:
    return [
        {
            "score": _score(v.score, f"{where}.score"),
            "judge": _text(v.judge, f"{where}.judge"),
            "reason": _text(v.reason, f"{where}.reason"),
            "turn_scores": [_score(s, f"{where}.turn_scores") for s in v.turn_scores],
        }
        for v in value
    ]


def _values(column: pa.Array) -> list[Any]:
    return list(column.to_pylist())


def _mapped(function: Callable[[Any], Any]) -> Callable[[pa.Array], list[Any]]:
    return lambda column: [None if v is None else function(v) for v in column.to_pylist()]


_TEXT = _Column(pa.string(), _text, _values)
_OPTIONAL_TEXT = _Column(pa.string(), lambda v, w: None if v is None else _text(v, w), _values)
_BOOL = _Column(pa.bool_(), lambda v, w: bool(v), _values)
_INT = _Column(pa.int64(), lambda v, w: int(v), _values)
_FLOAT = _Column(pa.float64(), _number, _values)
_SCORE = _Column(pa.float64(), _score, _values)
_IDS = _Column(pa.list_(pa.int32()), _vector(np.int32), _vectors)
_FLOATS = _Column(pa.list_(pa.float32()), _vector(np.float32), _vectors)
_JSON = _Column(pa.string(), lambda v, w: json.dumps(plain(v, w)), _mapped(json.loads))
_IMAGE = _Column(pa.string(), lambda v, w: None if v is None else v.sha256, _mapped(Image))
_IMAGES = _Column(
    pa.list_(pa.string()),
    lambda v, w: [image.sha256 for image in v],
    lambda column: [tuple(map(Image, names or ())) for names in column.to_pylist()],
)
_VERDICTS = _Column(
    pa.list_(
        pa.struct(
            {
                "score": pa.float64(),
                "judge": pa.string(),
                "reason": pa.string(),
                "turn_scores": pa.list_(pa.float64()),
            }
        )
    ),
    _verdicts,
    _mapped(
        lambda rows: tuple(Verdict(**{**r, "turn_scores": tuple(r["turn_scores"])}) for r in rows)
    ),
)

TASK_COLUMNS = {"env_id": _TEXT, "seed": _INT, "goal": _TEXT, "split": _TEXT, "options": _JSON}
TURN_COLUMNS = {
    "observation": _TEXT,
    "prompt_ids": _IDS,
    "extends": _BOOL,
    "action_ids": _IDS,
    "text": _TEXT,
    "logprobs": _FLOATS,
    "kept_mass": _FLOATS,
    "entropy": _FLOATS,
    "weights_version": _INT,
    "temperature": _FLOAT,
    "finish_reason": _TEXT,
    "observation_error": _TEXT,
    "image": _IMAGE,
    "prompt_images": _IMAGES,
    "thought": _TEXT,
    "action": _TEXT,
    "action_error": _TEXT,
    "parsed": _BOOL,
    "reward": _FLOAT,
    "terminated": _BOOL,
    "truncated": _BOOL,
    "state_key": _OPTIONAL_TEXT,
    "info": _JSON,
    "cost": _JSON,
}
_TURN_ENCODERS = [(name, column.encode) for name, column in TURN_COLUMNS.items()]
_TURN_TYPE = pa.struct({name: column.type for name, column in TURN_COLUMNS.items()})


def _turns(value: Iterable[Turn], where: str) -> list[dict[str, Any]]:
    turns = tuple(value)
    try:
        return [
            {name: encode(getattr(turn, name), "") for name, encode in _TURN_ENCODERS}
            for turn in turns
        ]
    except (StoreError, TypeError, ValueError, OverflowError):
        return _named_turns(turns, where)


def _named_turns(value: Iterable[Turn], where: str) -> list[dict[str, Any]]:
    """As above, with the place of each value at hand for the error, which costs more than all."""
    return [
        {
            name: column.encode(getattr(turn, name), f"{where}[{i}].{name}")
            for name, column in TURN_COLUMNS.items()
        }
        for i, turn in enumerate(value)
    ]


def _turn_tuples(column: pa.Array) -> list[Any]:
    flat = column.flatten()
    known = {field.name for field in flat.type}
    columns = {name: c for name, c in TURN_COLUMNS.items() if name in known}
    if missing := set(TURN_COLUMNS) - known - {"prompt_images"}:
        raise KeyError(f"turns without {', '.join(sorted(missing))}")
    parts = [c.decode(flat.field(name)) for name, c in columns.items()]
    turns = [Turn(**dict(zip(columns, values, strict=True))) for values in zip(*parts, strict=True)]
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
    return [tuple(turns[offsets[i] : offsets[i + 1]]) for i in range(len(column))]


TRAJECTORY_COLUMNS = {
    "id": _TEXT,
    "end": _Column(pa.string(), _text, _mapped(EndReason)),
    "outcome": _SCORE,
    "source": _Column(pa.string(), _text, _mapped(Source)),
    "policy": _TEXT,
    "sample_seed": _INT,
    "group_id": _TEXT,
    "attempt": _INT,
    "final_observation": _TEXT,
    "final_error": _TEXT,
    "final_image": _IMAGE,
    "final_prompt_ids": _IDS,
    "verdicts": _VERDICTS,
    "error": _TEXT,
    "metadata": _JSON,
    "turns": _Column(pa.list_(_TURN_TYPE), _turns, _turn_tuples),
}
_LATER_COLUMNS = ("final_prompt_ids",)
"""Stores may be older than these columns; their rows have the fields' defaults."""
DERIVED_COLUMNS = {"reward": _FLOAT, "num_turns": _INT}
_COLUMNS = {
    "id": _TEXT,
    **TASK_COLUMNS,
    **DERIVED_COLUMNS,
    **TRAJECTORY_COLUMNS,  # "id" keeps its first place, "turns" comes last
}
SCHEMA = pa.schema(
    {name: column.type for name, column in _COLUMNS.items()},
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def to_table(trajectories: Iterable[Trajectory]) -> pa.Table:
    """Trajectories as a table of `SCHEMA`.

    Raises:
        StoreError: a value does not fit its column; trajectory and field are named.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for trajectory in trajectories:
        for name, column in _COLUMNS.items():
            where = f"trajectory {trajectory.id!r}: {name}"
            try:
                columns[name].append(column.encode(_field(trajectory, name), where))
            except (TypeError, ValueError, OverflowError) as error:
                raise StoreError(f"{where} cannot be stored: {error}") from error
    try:
        return pa.table(columns, schema=SCHEMA)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise StoreError(f"trajectories cannot be stored: {error}") from error


def _field(trajectory: Trajectory, name: str) -> Any:
    if name in TASK_COLUMNS:
        return getattr(trajectory.task, name)
    if name == "num_turns":
        return len(trajectory.turns)
    return getattr(trajectory, name)


def from_table(table: pa.Table) -> list[Trajectory]:
    """The inverse of `to_table`; pictures come without their bytes.

    Raises:
        StoreError: a value is unknown to this version.
    """
    batch = table.combine_chunks()
    try:
        columns = {
            name: column.decode(_one_chunk(batch.column(name)))
            for name, column in _COLUMNS.items()
            if name not in DERIVED_COLUMNS
            and not (name in _LATER_COLUMNS and name not in batch.column_names)
        }
    except (KeyError, ValueError) as error:
        raise StoreError(f"these trajectories cannot be read: {error}") from error
    rows = (
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    )
    return [
        Trajectory(task=Task(**{name: row.pop(name) for name in TASK_COLUMNS}), **row)
        for row in rows
    ]


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def images_of(trajectory: Trajectory) -> Iterable[Image]:
    """Every picture of a trajectory, repetitions included."""
    turns = trajectory.turns
    pictures = (
        *(picture for turn in turns for picture in (turn.image, *turn.prompt_images)),
        trajectory.final_image,
    )
    return (picture for picture in pictures if picture is not None)
