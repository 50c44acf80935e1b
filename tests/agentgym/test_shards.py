"""The sharded table: merges, truncation, readers beside a writer, and a crash at every step."""

import json
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agentgym import durable, shards
from agentgym.errors import StoreError
from agentgym.shards import ShardedTable

KEY = b"test.schema"


def table(folder: Path) -> ShardedTable:
    return ShardedTable(folder, 1, KEY)


def opened(folder: Path) -> ShardedTable:
    made = table(folder)
    made.open_for_writing()
    return made


def rows(*values: int) -> pa.Table:
    schema = pa.schema({"n": pa.int64(), "text": pa.string()}, metadata={KEY: b"1"})
    return pa.table({"n": list(values), "text": [f"row {v}" for v in values]}, schema=schema)


def values(of: ShardedTable) -> list[int]:
    """Every row, through the row groups."""
    found: list[int] = []
    while len(found) < len(of):
        piece = of.rows(len(found), len(of))
        assert piece is not None
        assert piece.column("text").to_pylist() == [f"row {n}" for n in piece["n"].to_pylist()]
        found += piece.column("n").to_pylist()
    return found


def numbers(of: ShardedTable) -> list[int]:
    """Every row, file by file."""
    return [n for piece in of.columns(["n"]) for n in piece["n"].to_pylist()]


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in (folder / shards.FOLDER).iterdir()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge early and often."""
    monkeypatch.setattr(shards, "MERGE", 3)
    monkeypatch.setattr(shards, "LEVELS", (3, 9, 27))
    monkeypatch.setattr(shards, "ROW_GROUP", 4)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert len(made) == 0
    made.append(rows(*range(100)))
    made.append(rows(100))
    assert values(made) == list(range(101))
    assert values(opened(tmp_path)) == list(range(101))
    piece = made.rows(70, 80)
    assert piece is not None
    assert piece["n"].to_pylist() == list(range(70, 80))
    assert made.rows(101, 200) is None
    assert [t["n"].to_pylist() for t in made.columns(["n"])] == [list(range(100)), [100]]


@pytest.mark.usefixtures("small")
def test_many_small_appends_leave_few_files(tmp_path: Path) -> None:
    made = opened(tmp_path)
    for i in range(100):
        made.append(rows(i))
        assert on_disk(tmp_path) == {shard.name for shard in made.shards}
    assert values(made) == list(range(100))
    assert len(made.shards) <= 9
    assert values(opened(tmp_path)) == list(range(100))


def test_large_files_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MERGED_BYTES", 1)
    made = opened(tmp_path)
    for i in range(20):
        made.append(rows(i))
    assert len(made.shards) == 20


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [0, 1, 5, 9, 10, 11, 12])
def test_truncation_and_going_on(tmp_path: Path, count: int) -> None:
    made = opened(tmp_path)
    for i in range(4):
        made.append(rows(3 * i, 3 * i + 1, 3 * i + 2))
    made.truncate(count)
    assert values(made) == list(range(count))
    made.append(rows(-1, -2))
    assert values(opened(tmp_path)) == [*range(count), -1, -2]
    assert on_disk(tmp_path) == {shard.name for shard in made.shards}


def test_truncation_refuses_what_is_not_there(tmp_path: Path) -> None:
    made = opened(tmp_path)
    made.append(rows(1, 2))
    for count in (3, -1):
        with pytest.raises(StoreError, match=f"holds 2 episodes; cannot go back to {count}"):
            made.truncate(count)


@pytest.mark.usefixtures("small")
def test_a_reader_is_not_disturbed_by_merges(tmp_path: Path) -> None:
    writer, reader = opened(tmp_path), table(tmp_path)
    for i in range(2):
        writer.append(rows(i))
    reader.refresh()
    before = set(on_disk(tmp_path))
    for i in range(2, 30):
        writer.append(rows(i))
    assert not before & on_disk(tmp_path), "the files that the reader knows are merged away"
    assert len(reader) == 2
    piece = reader.rows(1, 2)
    assert piece is not None
    assert piece["n"].to_pylist() == [1]
    reader.refresh()
    assert values(reader) == list(range(30))


@pytest.mark.usefixtures("small")
def test_a_reader_sees_a_truncation(tmp_path: Path) -> None:
    writer, reader = opened(tmp_path), table(tmp_path)
    writer.append(rows(*range(10)))
    reader.refresh()
    generation = reader.generation
    writer.truncate(3)
    assert reader.rows(5, 10) is None
    assert len(reader) == 3
    assert reader.generation > generation


@pytest.mark.usefixtures("small")
def test_a_scan_that_a_merge_disturbs_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the index and listing the files, the writer merges them."""
    writer, reader = opened(tmp_path), table(tmp_path)
    for i in range(2):
        writer.append(rows(i))
    listing, disturbances = ShardedTable._listing, iter([2, 3])

    def disturbed(self: ShardedTable) -> Any:
        if self is reader and (value := next(disturbances, None)) is not None:
            writer.append(rows(value))
        return listing(self)

    monkeypatch.setattr(ShardedTable, "_listing", disturbed)
    reader.refresh()
    assert values(reader) == [0, 1, 2, 3]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_a_torn_last_file_is_ignored_told_and_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(tmp_path)
    made.append(rows(1))
    made.append(rows(2, 3))
    last = made.path(made.shards[-1])
    tear(last)
    reader = table(tmp_path)
    with caplog.at_level(logging.WARNING):
        reader.refresh()
    assert values(reader) == [1]
    assert f"{last} is torn: its 2 episodes are ignored" in caplog.text
    again = opened(tmp_path)
    assert last.with_name(f".torn-{last.name}").exists(), "nothing is destroyed"
    again.append(rows(4))
    assert values(opened(tmp_path)) == [1, 4]


@pytest.mark.usefixtures("small")
def test_a_torn_settled_file_is_ignored_too(tmp_path: Path) -> None:
    made = opened(tmp_path)
    for i in range(3):
        made.append(rows(i))
    assert len(made.shards) == 1, "merged, so the index knows it"
    tear(made.path(made.shards[0]))
    again = opened(tmp_path)
    assert len(again) == 0
    again.append(rows(7))
    assert values(opened(tmp_path)) == [7]


@pytest.mark.parametrize("harm", [tear, Path.unlink])
def test_damage_in_the_middle_is_an_error(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    made = opened(tmp_path)
    for i in range(3):
        made.append(rows(i))
    harm(made.path(made.shards[1]))
    for attempt in (opened, lambda folder: table(folder).refresh()):
        with pytest.raises(StoreError, match=r"00000001-00000002.* missing or damaged.*a copy"):
            attempt(tmp_path)
    assert made.path(made.shards[2]).exists()


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    made = opened(tmp_path)
    made.append(rows(1))
    path = made.path(made.shards[0])
    path.write_bytes(b"x" * (path.stat().st_size - 4) + b"PAR1")
    with pytest.raises(StoreError, match=rf"cannot read {path}"):
        opened(tmp_path).rows(0, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": "x"}'])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    opened(tmp_path)
    (tmp_path / shards.INDEX).write_text(text)
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        opened(tmp_path)


def test_a_lost_index_is_not_taken_for_a_new_table(tmp_path: Path) -> None:
    opened(tmp_path).append(rows(1))
    (tmp_path / shards.INDEX).unlink()
    with pytest.raises(StoreError, match="is missing beside its episodes"):
        opened(tmp_path)
    assert len(list((tmp_path / shards.FOLDER).iterdir())) == 1


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).append(rows(1))
    older = ShardedTable(tmp_path, 0, KEY)
    with pytest.raises(StoreError, match=r"index\.json has schema 1; .* up to 0: update agentgym"):
        older.refresh()
    index = json.loads((tmp_path / shards.INDEX).read_text())
    (tmp_path / shards.INDEX).write_text(json.dumps({**index, "schema": 0}))
    older.refresh()
    with pytest.raises(StoreError, match=r"parquet has schema 1; .* update agentgym"):
        older.rows(0, 1)


def failing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: Any) -> None:
        raise StoreError(f"cannot write {path}: disk full")

    monkeypatch.setattr(durable, what, fail)


def test_a_failed_append_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = opened(tmp_path)
    made.append(rows(1))
    with monkeypatch.context() as patch:
        failing("write_bytes", patch)
        with pytest.raises(StoreError, match="disk full"):
            made.append(rows(2))
    assert values(made) == [1]
    made.append(rows(3))
    assert values(opened(tmp_path)) == [1, 3]


@pytest.mark.usefixtures("small")
def test_a_failed_merge_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(tmp_path)
    with monkeypatch.context() as patch:
        failing("write_json", patch)
        for i in range(7):
            made.append(rows(i))
    assert "stay unmerged" in caplog.text
    assert values(made) == list(range(7))
    assert values(opened(tmp_path)) == list(range(7))
    made.append(rows(7))
    assert len(made.shards) == 1
    assert values(opened(tmp_path)) == list(range(8))


@pytest.mark.usefixtures("small")
def test_a_failure_after_the_commit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is replaced, and only then something fails: what the disk says counts."""
    made = opened(tmp_path)
    made.append(rows(*range(9)))
    write_json = durable.write_json

    def late(path: Path, value: Any) -> None:
        write_json(path, value)
        raise StoreError("the folder cannot be synced")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_json", late)
        with pytest.raises(StoreError, match="cannot be synced"):
            made.truncate(4)
    assert values(made) == [0, 1, 2, 3]
    made.append(rows(10))
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 10]


# -- crashes ----------------------------------------------------------------------------------


def plan(seed: int, length: int) -> Iterator[tuple[str, int, list[int]]]:
    """Seeded operations, each with the rows that must be there after it."""
    rng = random.Random(seed)
    state: list[int] = []
    fresh = 0
    for _ in range(length):
        if state and rng.random() < 0.15:
            count = rng.randrange(len(state) + 1)
            state = state[:count]
            yield "truncate", count, state
        else:
            count = rng.choice([1, 1, 1, 2, 5])
            state = [*state, *range(fresh, fresh + count)]
            fresh += count
            yield "append", count, state


def go_on(made: ShardedTable, kind: str, count: int, state: list[int]) -> None:
    if kind == "append":
        made.append(rows(*state[-count:]))
    else:
        made.truncate(count)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_crash_at_any_step_leaves_the_state_before_or_after(
    tmp_path: Path, dies_at: Any, seed: int
) -> None:
    operations = list(plan(seed, 60))
    states = [[], *(state for _, _, state in operations)]
    rng = random.Random(seed)
    done = deaths = 0
    while done < len(operations):
        with dies_at(rng.randrange(1, 40)) as death:
            made = opened(tmp_path)
            assert on_disk(tmp_path) == {shard.name for shard in made.shards}
            for operation in operations[done:]:
                go_on(made, *operation)
                done += 1
        deaths += death.came
        if not (tmp_path / shards.INDEX).exists():
            continue  # killed before there was a table
        reader = table(tmp_path)
        reader.refresh()
        found = numbers(reader)
        if found != states[done]:
            assert found == states[done + 1], f"death {deaths}, after operation {done}"
            done += 1
    assert deaths > 10, "the writer was hardly ever killed"
    assert values(opened(tmp_path)) == states[-1]
