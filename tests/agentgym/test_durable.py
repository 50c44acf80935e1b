"""Durable files, the writer's lock, and plain JSON values."""

import enum
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agentgym import durable
from agentgym.durable import WriterLock, make_folder, plain, write_bytes, write_json
from agentgym.errors import StoreError

HOLD = """
import sys, time
from pathlib import Path
from agentgym.durable import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"one")
    write_bytes(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StoreError, match=r"file: No space left .* MiB free\).*free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "the unfinished file is gone, its space is free"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing/file: No such file"):
        write_bytes(tmp_path / "missing" / "file", b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: File exists; check the path"):
        make_folder(tmp_path / "file" / "sub")


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_one_writer_in_a_process(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "lock")
    assert lock.held
    with pytest.raises(StoreError, match="in this process already; close that one first"):
        WriterLock(tmp_path / "." / "lock")
    lock.release()
    lock.release()
    assert not lock.held
    WriterLock(tmp_path / "lock").release()


def test_a_forgotten_lock_is_released(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "lock")
    del lock
    WriterLock(tmp_path / "lock").release()


def test_one_writer_among_processes_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"another process .*{other.pid}.*open read-only"):
            WriterLock(tmp_path / "lock")
        other.send_signal(signal.SIGKILL)
        other.wait()
        lock = WriterLock(tmp_path / "lock")
        assert json.loads((tmp_path / "lock").read_text()) == {"pid": os.getpid()}
        lock.release()


def test_a_forked_child_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WriterLock(tmp_path / "lock")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert not lock.held
    monkeypatch.undo()
    assert lock.held
    lock.release()


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("\ud800\0", "\ud800\0"),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        ((1, [2, {"a": (3,)}]), [1, [2, {"a": [3]}]]),
        ({1: "a", 1.5: "b", np.int64(2): "c"}, {"1": "a", "1.5": "b", "2": "c"}),
    ],
)
def test_plain_values(value: object, expected: object) -> None:
    result = plain(value)
    assert result == expected
    assert json.loads(json.dumps(result)) == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2, 3}]}, r"info\['a'\]\[1\] is \{2, 3\} of type set"),
        (b"bytes", "info is b'bytes' of type bytes"),
        (np.array([object()]), "of type ndarray"),
        ({(1, 2): 3}, r"a key of info is \(1, 2\)"),
    ],
)
def test_what_is_no_json_is_named(value: object, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        plain(value, "info")


def test_partial_files_are_hidden_from_parquet_readers() -> None:
    assert durable.PARTIAL.startswith(".")
