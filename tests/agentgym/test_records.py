"""Trajectories to Arrow rows and back: every field, every awkward value."""

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agentgym import records
from agentgym.errors import StoreError
from agentgym.records import SCHEMA, from_table, to_table
from agentgym.types import NO_TOKENS, EndReason, Image, Source, Task, Trajectory, Turn, Verdict

FULL_TURN = Turn(
    observation="[1] button 'OK'\0\n日本語 🙂",
    prompt_ids=np.array([1, 2**31 - 1, 0], dtype=np.int32),
    extends=True,
    action_ids=np.array([5, 6], dtype=np.int32),
    text='I click.\nclick("1")',
    logprobs=np.array([-0.1, -np.inf], dtype=np.float32),
    kept_mass=np.array([1.0, 0.95], dtype=np.float32),
    entropy=np.array([np.nan, 1e-45], dtype=np.float32),
    weights_version=7,
    temperature=0.7,
    finish_reason="length",
    observation_error="no element 9",
    image=Image("a" * 64, b"png"),
    prompt_images=(Image("c" * 64), Image("a" * 64)),
    thought="I click.",
    action='click("1")',
    action_error="stale",
    parsed=False,
    reward=-0.1,
    terminated=True,
    truncated=True,
    state_key="page-1",
    info={"admissible_actions": ["a", "b"], "n": 1, "none": None, "nested": {"x": [1.5, True]}},
    cost={"env_s": 0.25, "generate_s": 1e-9},
)
FULL = Trajectory(
    id="rollout/00001",
    task=Task("agentgym/x-v0", 2**63 - 1, "Click OK.", "test", {"size": 3}),
    turns=(FULL_TURN,),
    end=EndReason.TOKEN_LIMIT,
    outcome=0.25,
    source=Source.SEARCH,
    policy="demo@3",
    sample_seed=2**62,
    group_id="g",
    attempt=2,
    final_observation="bye",
    final_error="late",
    final_image=Image("b" * 64),
    final_prompt_ids=np.array([7, 8, 9], np.int32),
    verdicts=(Verdict(0.5, "judge", "because", (None, 1.0)), Verdict(None, "other")),
    error="what broke",
    metadata={"phase": "eval", "tags": []},
)
EMPTY = Trajectory("", Task("", 0), (), EndReason.ENV_ERROR, None)
BARE_TURN = Turn(observation="", prompt_ids=NO_TOKENS, extends=False, action_ids=None, text="")


def same(a: Any, b: Any) -> bool:
    """Equality to the bit and the type, which `==` of records with arrays cannot say."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if dataclasses.is_dataclass(a):
        return all(
            same(getattr(a, f.name), getattr(b, f.name))
            for f in dataclasses.fields(a)
            if not (isinstance(a, Image) and f.name == "data")
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def back(*trajectories: Trajectory) -> list[Trajectory]:
    return from_table(to_table(trajectories))


def changed(**values: Any) -> Trajectory:
    return dataclasses.replace(FULL, **values)


def with_turn(**values: Any) -> Trajectory:
    return changed(turns=(dataclasses.replace(FULL_TURN, **values),))


@pytest.mark.parametrize("trajectory", [FULL, EMPTY, changed(turns=(BARE_TURN, FULL_TURN))])
def test_every_field_comes_back(trajectory: Trajectory) -> None:
    (found,) = back(trajectory)
    assert same(found, trajectory)


def test_the_example_differs_from_the_defaults_everywhere() -> None:
    """Else a column that is dropped would come back right by its default."""
    for record, bare in ((FULL, EMPTY), (FULL_TURN, BARE_TURN), (FULL.task, EMPTY.task)):
        for field in dataclasses.fields(record):
            assert not same(getattr(record, field.name), getattr(bare, field.name)), field.name


def test_every_field_has_a_column() -> None:
    def names(record: type[Any]) -> set[str]:
        return {field.name for field in dataclasses.fields(record)}

    assert set(records.TURN_COLUMNS) == names(Turn)
    assert set(records.TASK_COLUMNS) == names(Task)
    assert set(records.TRAJECTORY_COLUMNS) == names(Trajectory) - {"task"}
    assert set(SCHEMA.names) == (
        names(Trajectory) - {"task"} | names(Task) | set(records.DERIVED_COLUMNS)
    )


def test_the_types_on_disk() -> None:
    turn = SCHEMA.field("turns").type.value_type
    assert str(turn.field("prompt_ids").type) == "list<item: int32>"
    assert str(turn.field("logprobs").type) == "list<item: float>"
    assert str(SCHEMA.field("outcome").type) == "double"
    assert SCHEMA.metadata == {b"agentgym.schema": b"2"}


def test_episodes_of_the_first_schema_are_read_as_having_no_pictures_in_their_prompts() -> None:
    table = to_table([FULL])
    turns = table["turns"].combine_chunks()
    flat = turns.flatten()
    names = [field.name for field in flat.type if field.name != "prompt_images"]
    older = pa.StructArray.from_arrays([flat.field(name) for name in names], names)
    column = pa.ListArray.from_arrays(turns.offsets, older)
    old = table.set_column(table.schema.get_field_index("turns"), "turns", column)
    (found,) = from_table(old)
    assert same(found, with_turn(prompt_images=()))
    mixed = pa.concat_tables([table, old], promote_options="permissive")
    assert [len(t.turns[0].prompt_images) for t in from_table(mixed)] == [2, 0]
    names.remove("text")
    column = pa.ListArray.from_arrays(
        turns.offsets, pa.StructArray.from_arrays([flat.field(name) for name in names], names)
    )
    with pytest.raises(StoreError, match="turns without text"):
        from_table(table.set_column(table.schema.get_field_index("turns"), "turns", column))


def test_stores_older_than_a_column_are_read_by_its_default() -> None:
    older = to_table([FULL]).drop_columns(["final_prompt_ids"])
    (found,) = from_table(older)
    assert found.final_prompt_ids is None
    assert same(dataclasses.replace(found, final_prompt_ids=FULL.final_prompt_ids), FULL)


def test_derived_columns_are_for_people() -> None:
    table = to_table([FULL, EMPTY])
    assert table["reward"].to_pylist() == [-0.1, 0.0]
    assert table["num_turns"].to_pylist() == [1, 0]


def test_slices_and_pieces_come_back_alike() -> None:
    many = [changed(id=str(i), turns=(FULL_TURN, BARE_TURN)[: i % 3]) for i in range(7)]
    table = to_table(many)
    for start, stop in ((0, 7), (2, 5), (6, 7), (3, 3)):
        found = from_table(table.slice(start, stop - start))
        assert all(map(same, found, many[start:stop]))
        assert len(found) == stop - start


def test_arrays_that_come_back_are_owned_and_writable() -> None:
    (found,) = back(FULL)
    ids = found.turns[0].prompt_ids
    assert ids.flags.owndata
    assert ids.flags.writeable


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MAPPING = st.dictionaries(st.text(), JSON, max_size=3)
INT64 = st.integers(-(2**63), 2**63 - 1)
IDS = hnp.arrays(np.int32, st.integers(0, 5))
FLOATS = st.none() | hnp.arrays(np.float32, st.integers(0, 5))
IMAGE = st.none() | st.builds(Image, st.text("0123456789abcdef", min_size=64, max_size=64))
SCORE = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TURN = st.builds(
    Turn,
    prompt_ids=IDS,
    action_ids=st.none() | IDS,
    logprobs=FLOATS,
    kept_mass=FLOATS,
    entropy=FLOATS,
    image=IMAGE,
    weights_version=INT64,
    info=MAPPING,
    cost=st.dictionaries(st.text(), st.floats(), max_size=2),
)
TRAJECTORY = st.builds(
    Trajectory,
    task=st.builds(Task, seed=INT64, options=MAPPING),
    turns=st.lists(TURN, max_size=3).map(tuple),
    outcome=SCORE,
    sample_seed=INT64,
    attempt=INT64,
    final_image=IMAGE,
    verdicts=st.lists(
        st.builds(Verdict, score=SCORE, turn_scores=st.lists(SCORE, max_size=2).map(tuple)),
        max_size=2,
    ).map(tuple),
    metadata=MAPPING,
)


@settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(TRAJECTORY, max_size=3))
def test_anything_comes_back(trajectories: list[Trajectory]) -> None:
    found = back(*trajectories)
    assert len(found) == len(trajectories)
    assert all(map(same, found, trajectories))


def test_lone_surrogates_become_replacement_characters() -> None:
    (found,) = back(with_turn(text="a\ud800b\udfff", info={"x": "\ud800"}))
    assert found.turns[0].text == "a\ufffdb\ufffd"
    assert found.turns[0].info == {"x": "\ud800"}, "JSON text escapes them"


def test_numpy_values_and_tuples_in_mappings_become_plain() -> None:
    info = {"f": np.float32(0.5), "b": np.bool_(True), "t": (1, np.int64(2)), 3: np.arange(2)}
    (found,) = back(with_turn(info=info))
    assert same(found.turns[0].info, {"f": 0.5, "b": True, "t": [1, 2], "3": [0, 1]})


def test_other_number_types_are_brought_to_the_records() -> None:
    (found,) = back(with_turn(prompt_ids=[1, 2], logprobs=np.array([-0.5]), reward=np.float32(0.5)))
    turn = found.turns[0]
    assert same(turn.prompt_ids, np.array([1, 2], dtype=np.int32))
    assert same(turn.logprobs, np.array([-0.5], dtype=np.float32))
    assert same(turn.reward, 0.5)


def test_none_is_not_zero() -> None:
    found = back(changed(outcome=None), changed(outcome=0.0))
    assert [t.outcome for t in found] == [None, 0.0]
    (found_turn,) = back(with_turn(action_ids=None, logprobs=np.zeros(0, np.float32)))[0].turns
    assert found_turn.action_ids is None
    assert same(found_turn.logprobs, np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        (changed(outcome=float("nan")), r"outcome is nan; write None"),
        (changed(outcome=float("inf")), r"outcome is inf"),
        (changed(verdicts=(Verdict(float("nan"), "j"),)), r"verdicts\.score is nan"),
        (with_turn(info={"a": {1, 2}}), r"turns\[0\]\.info\['a'\] is \{1, 2\} of type set"),
        (with_turn(prompt_ids=np.array([2**31])), r"turns\[0\]\.prompt_ids holds ids beyond int32"),
        (with_turn(prompt_ids=np.zeros((2, 2), np.int32)), r"shape \(2, 2\)"),
        (with_turn(prompt_ids=np.array([0.5])), r"array of float64"),
        (with_turn(text=b"bytes"), r"turns\[0\]\.text is b'bytes', not a text"),
        (changed(task=Task("e", 2**63)), r"trajectories cannot be stored"),
        (changed(attempt="two"), r"attempt cannot be stored: invalid literal"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(trajectory: Trajectory, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        to_table([trajectory])


def test_an_end_of_a_later_version_is_refused() -> None:
    table = to_table([FULL])
    index = table.schema.get_field_index("end")
    odd = table.set_column(index, "end", [["abducted"]])
    with pytest.raises(StoreError, match="abducted"):
        from_table(odd)
