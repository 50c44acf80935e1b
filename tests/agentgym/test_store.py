"""The trajectory store: round trip, reading in parts, other readers, full disks, killed writers.

Run as a program, this file is the writer that a test kills.
"""

import dataclasses
import errno
import hashlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from agentgym.errors import StoreError
from agentgym.records import SCHEMA, to_table
from agentgym.store import TrajectoryStore
from agentgym.types import EndReason, Image, Source, Task, Trajectory, Turn


def picture(content: bytes) -> Image:
    return Image(hashlib.sha256(content).hexdigest(), content)


def episode(i: int, *, size: int = 3, images: bool = True) -> Trajectory:
    """The i-th episode: a function of `i` alone."""
    rng = np.random.default_rng(i)
    turns = tuple(
        Turn(
            observation=f"turn {k}",
            prompt_ids=rng.integers(50_000, size=size, dtype=np.int32),
            extends=k > 0,
            action_ids=rng.integers(50_000, size=2, dtype=np.int32),
            text=f"act {k}",
            logprobs=rng.normal(size=2).astype(np.float32),
            image=picture(b"png %d" % (i % 5)) if images else None,
            reward=0.5 * k,
        )
        for k in range(i % 3 + 1)
    )
    return Trajectory(
        id=f"rollout/{i:05d}",
        task=Task(f"env-{i % 2}", i, split="test" if i % 4 == 0 else "train"),
        turns=turns,
        end=EndReason.SUCCESS,
        outcome=None if i % 7 == 0 else float(i % 2),
        source=Source.EXPERT if i % 3 == 0 else Source.POLICY,
        final_image=picture(b"last png %d" % i) if images else None,
        metadata={"phase": f"phase-{i % 2}", "i": i},
    )


def equal(found: Iterator[Trajectory] | list[Trajectory], numbers: list[int]) -> bool:
    expected = to_table(episode(i) for i in numbers)
    return bool(to_table(found).equals(expected))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TrajectoryStore]:
    with TrajectoryStore(tmp_path / "store") as made:
        yield made


def test_episodes_come_back_in_order(store: TrajectoryStore) -> None:
    store.append([])
    store.append(map(episode, range(70)))
    for i in range(70, 75):
        store.append([episode(i)])
    assert len(store) == 75
    assert equal(list(store), list(range(75)))
    store.close()
    with TrajectoryStore(store.folder) as again:
        assert equal(list(again), list(range(75)))


def test_parts(store: TrajectoryStore) -> None:
    store.append(map(episode, range(10)))
    assert equal(list(store.between(3, 6)), [3, 4, 5])
    assert equal(list(store.between(8)), [8, 9])
    assert list(store.between(20)) == []
    assert next(iter(store)).id == "rollout/00000"


def test_reading_by_id(store: TrajectoryStore) -> None:
    store.append(map(episode, range(10)))
    assert equal(store.read(["rollout/00007", "rollout/00002", "rollout/00007"]), [7, 2, 7])
    assert "rollout/00009" in store
    assert "rollout/00010" not in store
    store.append([episode(10)])
    assert equal(store.read(["rollout/00010"]), [10])
    store.truncate(5)
    assert "rollout/00009" not in store
    with pytest.raises(StoreError, match=r"no trajectory 'rollout/00009' \(5 episodes; 1 of 2"):
        store.read(["rollout/00001", "rollout/00009"])


def test_of_equal_ids_the_last_counts(store: TrajectoryStore) -> None:
    store.append([episode(1)])
    again = Trajectory("rollout/00001", Task("again", 0), (), EndReason.FAILURE, 0.0)
    store.append([again])
    assert [t.task.env_id for t in store.read(["rollout/00001"])] == ["again"]


def test_where(store: TrajectoryStore) -> None:
    store.append(map(episode, range(30)))

    def numbers(**equals: object) -> list[int]:
        return [t.task.seed for t in store.where(**equals)]

    assert numbers(split="test") == list(range(0, 30, 4))
    assert numbers(source=Source.EXPERT, env_id="env-1") == [3, 9, 15, 21, 27]
    assert numbers(outcome=None) == [0, 7, 14, 21, 28]
    assert numbers(phase="phase-1", split="train") == list(range(1, 30, 2))
    assert numbers(i=4, id="rollout/00004") == [4]
    assert numbers(no_such_key=None) == []
    assert numbers() == list(range(30))


def test_as_a_table(store: TrajectoryStore) -> None:
    store.append(map(episode, range(3)))
    store.append([episode(3)])
    table = store.table(["reward", "id"])
    assert table.column_names == ["reward", "id"]
    assert table["reward"].to_pylist() == [0.0, 0.5, 1.5, 0.0]
    assert store.table().schema.equals(SCHEMA)
    store.truncate(0)
    assert store.table(["id"]).num_rows == 0
    with pytest.raises(StoreError, match="no column 'rewards'; there are id, env_id"):
        store.table(["rewards"])


def test_pictures_are_kept_once_by_content(store: TrajectoryStore) -> None:
    store.append(map(episode, range(20)))
    files = [path for path in (store.folder / "images").rglob("*") if path.is_file()]
    assert len(files) == 5 + 20
    found = next(iter(store)).final_image
    assert found is not None
    assert found.data is None
    assert store.image(found.sha256) == b"last png 0"
    assert (store.folder / "images" / found.sha256[:2] / f"{found.sha256}.png").is_file()
    store.append([episode(99, images=True)])
    store.append(store.read(["rollout/00000"]))  # pictures without bytes that are there already


def test_an_episode_gets_the_bytes_of_its_pictures_back(store: TrajectoryStore) -> None:
    whole = episode(1)
    turn = dataclasses.replace(whole.turns[0], prompt_images=(picture(b"a"), picture(b"b")))
    store.append([dataclasses.replace(whole, turns=(turn,))])
    (read,) = store
    assert all(image.data is None for image in read.turns[0].prompt_images)
    filled = store.with_pictures(read)
    assert [image.data for image in filled.turns[0].prompt_images] == [b"a", b"b"]
    assert filled.turns[0].image == whole.turns[0].image
    for image in (filled.turns[0].image, filled.final_image):
        assert image is not None
        assert image.data is not None
    lost = dataclasses.replace(read, final_image=Image("0" * 64))
    with pytest.raises(StoreError, match="holds no picture"):
        store.with_pictures(lost)


def test_pictures_that_are_not_what_they_say(store: TrajectoryStore) -> None:
    sha = hashlib.sha256(b"one").hexdigest()
    for image, message in (
        (Image(sha), "is not stored here and comes without its bytes"),
        (Image(sha, b"two"), "have another SHA-256"),
        (Image("../../etc/passwd", b"x"), "64 hexadecimal digits"),
    ):
        bad = Trajectory("bad", Task("e", 0), (), EndReason.FAILURE, 0.0, final_image=image)
        with pytest.raises(StoreError, match=message):
            store.append([episode(0), bad])
    assert len(store) == 0
    with pytest.raises(StoreError, match=f"holds no picture '{sha}'"):
        store.image(sha)
    store.append([episode(0)])
    found = store.read(["rollout/00000"])[0].final_image
    assert found is not None
    next((store.folder / "images").rglob(f"{found.sha256}.png")).write_bytes(b"other")
    with pytest.raises(StoreError, match="is damaged"):
        store.image(found.sha256)


def test_truncation_and_the_same_episodes_again(store: TrajectoryStore) -> None:
    store.append(map(episode, range(10)))
    store.truncate(4)
    assert equal(list(store), [0, 1, 2, 3])
    store.append(map(episode, range(4, 12)))
    assert equal(list(store), list(range(12)))


def test_other_programs_read_the_files(store: TrajectoryStore) -> None:
    import pandas as pd

    for i in range(20):
        store.append([episode(i)])
    frame = pd.read_parquet(store.folder / "episodes")
    assert list(frame["id"]) == [f"rollout/{i:05d}" for i in range(20)]
    assert frame["turns"][4][1]["prompt_ids"].dtype == np.int32
    assert frame["turns"][4][1]["logprobs"].dtype == np.float32
    assert frame["turns"][4][1]["text"] == "act 1"
    for path in store.files():
        assert pq.read_schema(path).metadata[b"agentgym.schema"] == b"2"


@pytest.mark.slow
def test_datasets_reads_the_files(store: TrajectoryStore, tmp_path: Path) -> None:
    import datasets

    store.append(map(episode, range(20)))
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(store.folder / "episodes" / "*.parquet"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    assert loaded.num_rows == 20
    assert loaded[4]["turns"][1]["prompt_ids"] == episode(4).turns[1].prompt_ids.tolist()
    assert loaded.features["turns"].feature["prompt_ids"].feature.dtype == "int32"


def test_a_reader_beside_a_writer(store: TrajectoryStore) -> None:
    with pytest.raises(StoreError, match="holds no trajectories"):
        TrajectoryStore(store.folder / "nowhere", read_only=True)
    store.append([episode(0, images=False), episode(1, images=False)])
    reader = TrajectoryStore(store.folder, read_only=True)
    episodes = iter(reader)
    first = next(episodes)
    for i in range(2, 40):
        store.append([episode(i, images=False)])  # merges the files that the reader knows
    assert [first.id, *(t.id for t in episodes)] == ["rollout/00000", "rollout/00001"]
    assert len(reader) == 2
    reader.refresh()
    assert [t.task.seed for t in reader] == list(range(40))
    store.truncate(1)
    assert len(list(reader)) == 1, "files that are gone are noticed"
    with pytest.raises(StoreError, match="cannot be written to: it was opened read-only"):
        reader.append([episode(0)])


def test_two_writers(store: TrajectoryStore) -> None:
    store.append([episode(0)])
    with pytest.raises(StoreError, match="is open for writing in this process already"):
        TrajectoryStore(store.folder)
    other = [sys.executable, __file__, str(store.folder)]
    done = subprocess.run(other, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f'open for writing in another process ({{"pid": {os.getpid()}}})' in done.stderr
    store.close()
    assert equal(list(store), [0]), "reading goes on"
    with pytest.raises(StoreError, match="cannot be written to: it was closed"):
        store.append([episode(1)])
    with TrajectoryStore(store.folder) as second:
        second.append([episode(1)])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file: File exists"):
        TrajectoryStore(tmp_path / "file")


def test_a_store_that_fails_to_open_is_not_locked(store: TrajectoryStore) -> None:
    store.close()
    index = store.folder / "index.json"
    good = index.read_text()
    index.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        TrajectoryStore(store.folder)
    index.write_text(good)
    TrajectoryStore(store.folder).close()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(store: TrajectoryStore) -> None:
    store.append([episode(0)])
    files = sorted(store.folder.rglob("*"))
    with files_of_at_most(100_000):
        with pytest.raises(StoreError, match=r"cannot write .*File too large.*free some space"):
            store.append([episode(1, size=1_000_000, images=False)])
        assert sorted(store.folder.rglob("*")) == files
        store.append([episode(1)])
    assert equal(list(store), [0, 1])
    store.close()
    with TrajectoryStore(store.folder) as again:
        assert equal(list(again), [0, 1])


def test_a_picture_that_does_not_fit_stops_its_episode(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([episode(0)])

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"images/\w\w: No space left on device"):
            store.append([episode(1)])
    assert equal(list(store), [0])


def write_forever(folder: Path) -> None:
    """Append episode after episode, and say so of each once it is safe."""
    with TrajectoryStore(folder) as store:
        for i in itertools.count(len(store)):
            store.append([episode(i)])
            sys.stdout.write(f"{i}\n")
            sys.stdout.flush()


def test_killed_writers_lose_nothing_they_acknowledged(tmp_path: Path) -> None:
    """SIGKILL at three moments; each next writer takes the lock over and goes on."""
    acknowledged = 0
    for lines in (1, 17, 4):
        with subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline()) + 1
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                acknowledged = int(line) + 1
        reader = TrajectoryStore(tmp_path, read_only=True)
        assert len(reader) in (acknowledged, acknowledged + 1)
        assert equal(list(reader), list(range(len(reader))))
        for trajectory in reader:
            assert trajectory.final_image is not None
            assert reader.image(trajectory.final_image.sha256).startswith(b"last png")
    assert acknowledged >= 22
    with TrajectoryStore(tmp_path) as store:
        kept = {path.name for path in store.files()}
        assert {path.name for path in (tmp_path / "episodes").iterdir()} == kept


if __name__ == "__main__":
    write_forever(Path(sys.argv[1]))
