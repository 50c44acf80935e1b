"""An append-only table in a folder of Parquet files: crash-safe, one writer, any readers.

    episodes/00000000-00000016-00000001.parquet     rows 0 to 15, written as file number 1
    index.json                                       schema version; the files that are settled

Every append is one file, put in place by a rename once its bytes are on the disk: the rename is the
commit, so there is no journal to replay and no row can be torn. Small files are merged later,
sixteen at a time. A merge or a truncation writes its new file, replaces ``index.json`` (the commit)
and then deletes what that made superfluous; a crash in between leaves files that nothing counts and
that the next writer deletes.

Which files count: those that the index names, then those with a higher number than the index knows
that begin where the rows before them end.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from agentgym import durable
from agentgym.errors import StoreError

_log = logging.getLogger(__name__)
T = TypeVar("T")

INDEX, FOLDER = "index.json", "episodes"
FORMAT = "agentgym trajectories"
MERGE = 16
"""Files that are merged into one."""
LEVELS = (MERGE, MERGE**2, MERGE**3)
"""Rows below which a file is small enough to be merged with its like."""
MERGED_BYTES = 64 * 2**20
"""Merged files stay below this."""
ROW_GROUP = 64
"""Rows that are read together."""
_NAME = re.compile(r"(\d{8,})-(\d{8,})-(\d{8,})\.parquet")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: rows `start` to `stop`, written as file number `serial`."""

    start: int
    stop: int
    serial: int
    size: int
    """Bytes."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.start:08d}-{self.stop:08d}-{self.serial:08d}.parquet"

    @classmethod
    def of(cls, name: str, size: int) -> "Shard | None":
        """The shard that a file name tells of, if it is one's."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        start, stop, serial = map(int, match.groups())
        return cls(start, stop, serial, size)


class _Scan(NamedTuple):
    """What lies in the folder."""

    sound: tuple[Shard, ...]
    torn: tuple[Shard, ...]
    """At the end, after the sound ones."""
    serial: int
    """The highest file number."""


class ShardedTable:
    """The table in its folder. Writing is for who holds the folder's lock.

    Args:
        folder: holds ``index.json`` and ``episodes/``.
        version: of the schema; files of a newer one are refused.
        version_key: where the Parquet metadata say it.
    """

    def __init__(self, folder: Path, version: int, version_key: bytes) -> None:
        self.folder, self.version, self.version_key = folder, version, version_key
        self.shards: tuple[Shard, ...] = ()
        self.generation = 0
        """Goes up when rows may have changed their places."""
        self._torn: tuple[Shard, ...] = ()
        self._serial = 0

    def __len__(self) -> int:
        return self.shards[-1].stop if self.shards else 0

    def path(self, shard: Shard) -> Path:
        """Where a file lies."""
        return self.folder / FOLDER / shard.name

    # -- writing ------------------------------------------------------------------------------

    def open_for_writing(self) -> None:
        """Make the table if there is none, see what is there, and clear away what a crash left."""
        durable.make_folder(self.folder / FOLDER)
        if not (self.folder / INDEX).exists():
            if any((self.folder / FOLDER).glob("*.parquet")):
                raise StoreError(
                    f"{self.folder / INDEX} is missing beside its episodes; restore it, or choose "
                    "another folder"
                )
            self._write_index()
        self.refresh()
        self._clean()

    def append(self, rows: pa.Table) -> None:
        """Add rows, all or none; they are on the disk when this returns."""
        shard = self._write(rows, len(self))
        self.shards = (*self.shards, shard)
        for level in LEVELS:
            self._merge(level)

    def truncate(self, count: int) -> None:
        """Drop the rows after the first `count`; a crash leaves all of them or `count`."""
        if not 0 <= count <= len(self):
            raise StoreError(
                f"{self.folder} holds {len(self)} episodes; cannot go back to {count!r}"
            )
        if count == len(self):
            return
        kept = [shard for shard in self.shards if shard.stop <= count]
        cut = next((s for s in self.shards if s.start < count < s.stop), None)
        if cut is not None:
            kept.append(self._write(self._read(cut).slice(0, count - cut.start), cut.start))
        self._settle(kept)
        self.generation += 1

    def _write(self, rows: pa.Table, start: int) -> Shard:
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP)
        data = sink.getvalue()
        self._serial += 1
        shard = Shard(start, start + rows.num_rows, self._serial, data.size)
        try:
            durable.write_bytes(self.path(shard), memoryview(data))
        except StoreError:
            self.path(shard).unlink(missing_ok=True)  # renamed perhaps, but not surely durable
            raise
        return shard

    def _write_index(self) -> None:
        durable.write_json(
            self.folder / INDEX,
            {
                "format": FORMAT,
                "schema": self.version,
                "serial": self._serial,
                "shards": [{"file": s.name, "bytes": s.size} for s in self.shards],
            },
        )

    def _settle(self, shards: Sequence[Shard]) -> None:
        """Make these files the ones that count, and delete the others."""
        before, self.shards = self.shards, tuple(shards)
        try:
            self._write_index()
        except StoreError:
            self.refresh()  # the disk knows whether the index was replaced before it failed
            raise
        for shard in set(before) - set(shards):
            self.path(shard).unlink(missing_ok=True)

    def _merge(self, level: int) -> None:
        """Merge the last files below `level` rows once there are enough of about its size.

        A merge that fails (a full disk) only leaves more files; the rows are safe already.
        """
        run: list[Shard] = []
        size = 0
        for shard in reversed(self.shards):
            size += shard.size
            if shard.rows >= level or size > MERGED_BYTES:
                break
            run.insert(0, shard)
        if len(run) < MERGE or run[-1].rows * MERGE < level:
            return
        try:
            merged = self._write(
                pa.concat_tables([self._read(shard) for shard in run]), run[0].start
            )
            self._settle([*self.shards[: -len(run)], merged])
        except StoreError as error:
            _log.warning("small files of %s stay unmerged: %s", self.folder, error)

    def _clean(self) -> None:
        """Clear away what a crash left: unfinished files, and files that no longer count."""
        folder = self.folder / FOLDER
        for path in folder.glob(f"{durable.PARTIAL}*"):
            _log.warning("%s: the append that was cut off is dropped", path)
            path.unlink()
        torn = {shard.name for shard in self._torn}
        counted = {shard.name for shard in self.shards}
        for path in folder.glob("*.parquet"):
            if path.name in torn:
                path.rename(path.with_name(f".torn-{path.name}"))
            elif Shard.of(path.name, 0) is not None and path.name not in counted:
                path.unlink()
        if torn:
            self._write_index()

    # -- reading ------------------------------------------------------------------------------

    def rows(self, position: int, stop: int) -> pa.Table | None:
        """Rows from `position` to the end of their row group, but not beyond `stop`.

        Returns:
            At least one row; `None` if the table was cut before `position` meanwhile.
        """
        found = self._open(position)
        if found is None:
            return None
        shard, file = found
        group, offset = divmod(position - shard.start, ROW_GROUP)
        with file:
            table = _told(lambda: file.read_row_group(group), self.path(shard))
        return table.slice(offset, stop - position)

    def columns(self, names: Sequence[str]) -> list[pa.Table]:
        """Some columns of all rows, in pieces."""
        pieces: list[pa.Table] = []
        position, stop = 0, len(self)
        while position < stop and (found := self._open(position)) is not None:
            shard, file = found
            with file:
                part = _told(_columns_of(file, names), self.path(shard))
            pieces.append(part.select(names).slice(position - shard.start, stop - position))
            position = shard.stop
        return pieces

    def refresh(self) -> None:
        """See what another process has written since.

        Raises:
            StoreError: a newer version wrote it, or it is damaged other than at its end.
        """
        found = self._settled_scan()
        for shard in found.torn:
            _log.warning("%s is torn: its %d episodes are ignored", self.path(shard), shard.rows)
        self.generation += found.sound != self.shards
        self.shards, self._torn, self._serial = found

    def _open(self, position: int) -> tuple[Shard, Any] | None:
        """The file that holds a row, opened; a merge meanwhile is followed to its new file."""
        for _ in range(100):
            shard = next((s for s in self.shards if s.start <= position < s.stop), None)
            if shard is None:
                return None
            try:
                return shard, self._opened(self.path(shard))
            except FileNotFoundError:
                self.refresh()
        raise StoreError(f"{self.folder} changes faster than it can be read")

    def _opened(self, path: Path) -> Any:
        file = _told(lambda: pq.ParquetFile(path), path)
        version = int((file.schema_arrow.metadata or {}).get(self.version_key, b"0"))
        if version > self.version:
            file.close()
            raise self._newer(path, version)
        return file

    def _read(self, shard: Shard) -> pa.Table:
        with self._opened(self.path(shard)) as file:
            return _told(file.read, self.path(shard))

    # -- finding ------------------------------------------------------------------------------

    def _settled_scan(self) -> _Scan:
        """A `_scan` that no writer has disturbed."""
        failures = 0
        for _ in range(100):
            before = self._index_text()
            try:
                found = self._scan(before)
            except StoreError:
                failures += 1  # a listing made during appends may lack a file before the last
                if failures == 3:
                    raise
                continue
            if self._index_text() == before:
                return found
        raise StoreError(f"{self.folder / INDEX} changes faster than it can be read")

    def _scan(self, index_text: str) -> _Scan:
        """The files that count.

        A rename after an fsync leaves no torn file, but a disk that lies about fsync can: torn ones
        at the end are passed over, and one with good ones after it is an error.
        """
        settled, serial = self._read_index(index_text)
        there = self._listing()
        chain = [(shard, there.get(shard.name) == shard) for shard in settled]
        count = settled[-1].stop if settled else 0
        appended = sorted((s for s in there.values() if s.serial > serial), key=lambda s: s.serial)
        for shard in appended:
            serial = shard.serial
            if shard.start < count:
                continue  # what a crashed merge or truncation has left
            if shard.start > count:
                chain.append((Shard(count, shard.start, serial - 1, 0), False))
            chain.append((shard, _is_whole(self.path(shard))))
            count = shard.stop
        sound = tuple(shard for shard, good in chain if good)
        torn = tuple(shard for shard, good in chain if not good)
        if torn and sound and sound[-1].start >= torn[0].stop:
            raise StoreError(
                f"{self.path(torn[0])} is missing or damaged, and episodes follow it; restore it "
                "from a copy"
            )
        return _Scan(sound, torn, serial)

    def _index_text(self) -> str:
        path = self.folder / INDEX
        try:
            return path.read_text("utf-8")
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    def _read_index(self, text: str) -> tuple[list[Shard], int]:
        path = self.folder / INDEX
        try:
            index = json.loads(text)
            version, serial = int(index["schema"]), int(index["serial"])
            if version > self.version:
                raise self._newer(path, version)
            shards = [Shard.of(entry["file"], int(entry["bytes"])) for entry in index["shards"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged: {error!r}; restore it from a copy") from error
        return [shard for shard in shards if shard is not None], serial

    def _newer(self, path: Path, version: int) -> StoreError:
        return StoreError(
            f"{path} has schema {version}; this agentgym reads up to {self.version}: update "
            "agentgym"
        )

    def _listing(self) -> dict[str, Shard]:
        found = {}
        for path in (self.folder / FOLDER).glob("*.parquet"):
            try:
                shard = Shard.of(path.name, path.stat().st_size)
            except FileNotFoundError:
                continue  # merged away between listing and asking
            if shard is not None:
                found[shard.name] = shard
        return found


def _columns_of(file: Any, names: Sequence[str]) -> Callable[[], pa.Table]:
    return lambda: file.read(list(names))


def _is_whole(path: Path) -> bool:
    """True if a Parquet file has its end, and so its footer."""
    try:
        with path.open("rb") as file:
            file.seek(-4, 2)
            return file.read() == b"PAR1"
    except OSError:
        return False


def _told(read: Callable[[], T], path: Path) -> T:
    """Call `read`, with Arrow's complaints told as ours; a missing file stays what it is."""
    try:
        return read()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"cannot read {path}: {error}; restore it from a copy") from error
