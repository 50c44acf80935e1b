"""`TrajectoryStore`: an append-only folder of episodes that survives a kill, a full disk, a reader.

    episodes/*.parquet           the episodes, by position (`shards` tells how they are kept safe)
    images/ab/ab12....png        each picture once, by SHA-256; written before the row that names it
    index.json                   schema version and settled files
    writer.lock                  held by the one writer

Other programs read the same files; the columns are told in `records`::

    pandas.read_parquet(folder / "episodes")
    datasets.load_dataset("parquet", data_files=str(folder / "episodes" / "*.parquet"))

While a writer merges small files these may see rows twice; `TrajectoryStore.table` never does.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from agentgym import durable
from agentgym.errors import StoreError
from agentgym.records import SCHEMA, SCHEMA_VERSION, VERSION_KEY, from_table, images_of, to_table
from agentgym.shards import INDEX, ShardedTable
from agentgym.types import Image, Trajectory

LOCK, IMAGES = "writer.lock", "images"
_HASH = re.compile(r"[0-9a-f]{64}")


class TrajectoryStore:
    """Episodes in a folder, in the order they were appended.

    Args:
        folder: made if missing, unless `read_only`.
        read_only: open without the lock, also while another process writes. `len` and iteration
            show what was there at the last `refresh`.

    Raises:
        StoreError: another writer has the folder, a newer version wrote it, or it is damaged.

    Example:
        >>> import tempfile
        >>> with TrajectoryStore(tempfile.mkdtemp()) as store:
        ...     store.append([])
        ...     len(store)
        0
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.read_only = read_only
        self._guard = threading.RLock()
        self._lock: durable.WriterLock | None = None
        self._rows = ShardedTable(self.folder, SCHEMA_VERSION, VERSION_KEY)
        self._positions: dict[str, int] = {}
        self._positions_of = -1
        if read_only:
            if not (self.folder / INDEX).is_file():
                raise StoreError(f"{self.folder} holds no trajectories ({INDEX} is missing)")
            self.refresh()
            return
        durable.make_folder(self.folder)
        self._lock = durable.WriterLock(self.folder / LOCK)
        try:
            self._rows.open_for_writing()
        except BaseException:
            self.close()
            raise

    # -- writing ------------------------------------------------------------------------------

    def append(self, trajectories: Iterable[Trajectory]) -> None:
        """Add episodes, all or none; they are on the disk when this returns.

        Raises:
            StoreError: a value does not fit, a picture is missing, the disk is full, or this store
                is not open for writing. What was there before stays.
        """
        batch = list(trajectories)
        with self._guard:
            self._check_writable()
            if not batch:
                return
            table = to_table(batch)
            self._write_images(batch)
            start = len(self)
            self._rows.append(table)
            self._positions.update((t.id, start + i) for i, t in enumerate(batch))

    def truncate(self, count: int) -> None:
        """Drop every episode after the first `count`; a crash leaves all of them or `count`.

        Pictures stay: they are named by content and serve again when the episodes are repeated.

        Raises:
            StoreError: fewer than `count` are there.
        """
        with self._guard:
            self._check_writable()
            self._rows.truncate(count)

    def close(self) -> None:
        """Let another writer in; may be called twice. Reading goes on to work."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "TrajectoryStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- reading ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Trajectory]:
        return self.between()

    def __contains__(self, id: object) -> bool:
        return id in self._ids()

    def between(self, start: int = 0, stop: int | None = None) -> Iterator[Trajectory]:
        """Episodes by position, read as they are asked for; `stop` is the length by default."""
        end = len(self) if stop is None else min(stop, len(self))
        position = max(0, start)
        while position < end:
            found = self._rows.rows(position, end)
            if found is None:
                return  # truncated meanwhile
            yield from from_table(found)
            position += found.num_rows

    def read(self, ids: Iterable[str]) -> list[Trajectory]:
        """Episodes by id, in the order asked; of equal ids the one appended last.

        Raises:
            StoreError: an id is not there.
        """
        wanted = list(ids)
        positions = self._ids()
        missing = [id for id in wanted if id not in positions]
        if missing:
            raise StoreError(
                f"{self.folder} holds no trajectory {missing[0]!r} ({len(self)} episodes; "
                f"{len(missing)} of {len(wanted)} asked for are missing)"
            )
        found = dict(self._at(sorted({positions[id] for id in wanted})))
        return [found[positions[id]] for id in wanted]

    def where(self, **equals: Any) -> Iterator[Trajectory]:
        """Episodes whose columns have these values.

        Args:
            equals: columns of `records.SCHEMA` such as ``split``, ``source``, ``env_id``; any other
                name is looked up in the episode's ``metadata``.

        Example:
            ``store.where(split="train", phase="demonstrations")``
        """
        columns = [name for name in equals if name in SCHEMA.names]
        others = {name: value for name, value in equals.items() if name not in SCHEMA.names}
        table = self.table(list(dict.fromkeys(["id", *columns, *(["metadata"] if others else [])])))
        keep = np.ones(table.num_rows, dtype=bool)
        for name in columns:
            values = table.column(name).to_pylist()
            keep &= np.fromiter((v == equals[name] for v in values), bool, len(values))
        if others:
            texts = table.column("metadata").to_pylist()
            for i in np.flatnonzero(keep):
                metadata = json.loads(texts[i])
                keep[i] = all(n in metadata and metadata[n] == v for n, v in others.items())
        return (trajectory for _, trajectory in self._at(np.flatnonzero(keep).tolist()))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All episodes as an Arrow table, for ``.to_pandas()``.

        Args:
            columns: names in `records.SCHEMA`; all by default (the turns are heavy).
        """
        names = list(SCHEMA.names if columns is None else columns)
        unknown = [name for name in names if name not in SCHEMA.names]
        if unknown:
            raise StoreError(f"no column {unknown[0]!r}; there are {', '.join(SCHEMA.names)}")
        empty = pa.schema([SCHEMA.field(name) for name in names], metadata=SCHEMA.metadata)
        parts = [empty.empty_table(), *self._rows.columns(names)]
        return pa.concat_tables(parts, promote_options="permissive")  # older parts lack fields

    def files(self) -> list[Path]:
        """The Parquet files that count, in order."""
        return [self._rows.path(shard) for shard in self._rows.shards]

    def image(self, sha256: str) -> bytes:
        """The PNG file of a picture.

        Raises:
            StoreError: it is not there, or damaged.
        """
        path = self._image_path(sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{self.folder} holds no picture {sha256!r}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"{path} is damaged: its content has another SHA-256")
        return data

    def with_pictures(self, trajectory: Trajectory) -> Trajectory:
        """A stored episode whose pictures have their bytes, as training and judges need them.

        Raises:
            StoreError: one is not there, or damaged.
        """
        known: dict[str, Image] = {}

        def filled(image: Image | None) -> Image | None:
            if image is None or image.data is not None:
                return image
            if image.sha256 not in known:
                known[image.sha256] = Image(image.sha256, self.image(image.sha256))
            return known[image.sha256]

        turns = tuple(
            replace(
                turn,
                image=filled(turn.image),
                prompt_images=tuple(i for image in turn.prompt_images if (i := filled(image))),
            )
            for turn in trajectory.turns
        )
        return replace(trajectory, turns=turns, final_image=filled(trajectory.final_image))

    def refresh(self) -> None:
        """See what another process has appended or truncated since."""
        with self._guard:
            self._rows.refresh()

    # -- parts --------------------------------------------------------------------------------

    def _image_path(self, sha256: str) -> Path:
        if not _HASH.fullmatch(sha256):
            raise StoreError(f"a picture is named by 64 hexadecimal digits, not {sha256!r}")
        return self.folder / IMAGES / sha256[:2] / f"{sha256}.png"

    def _check_writable(self) -> None:
        if self._lock is None or not self._lock.held:
            why = "opened read-only" if self.read_only else "closed, or opened in another process"
            raise StoreError(f"{self.folder} cannot be written to: it was {why}")

    def _write_images(self, batch: Iterable[Trajectory]) -> None:
        seen: set[str] = set()
        for trajectory in batch:
            for image in images_of(trajectory):
                if image.sha256 in seen:
                    continue
                seen.add(image.sha256)
                path = self._image_path(image.sha256)
                if path.exists():
                    continue
                if image.data is None:
                    raise StoreError(
                        f"trajectory {trajectory.id!r} shows picture {image.sha256!r}, which is "
                        "not stored here and comes without its bytes"
                    )
                if hashlib.sha256(image.data).hexdigest() != image.sha256:
                    raise StoreError(
                        f"trajectory {trajectory.id!r}: the bytes of picture {image.sha256!r} "
                        "have another SHA-256"
                    )
                durable.make_folder(path.parent)
                durable.write_bytes(path, image.data)

    def _at(self, positions: Sequence[int]) -> Iterator[tuple[int, Trajectory]]:
        """Episodes at ascending positions; each row group is read once."""
        wanted = list(positions)
        while wanted:
            table = self._rows.rows(wanted[0], len(self))
            if table is None:
                return
            inside = [p for p in wanted if p < wanted[0] + table.num_rows]
            chosen = table.take([p - wanted[0] for p in inside])
            yield from zip(inside, from_table(chosen), strict=True)
            wanted = wanted[len(inside) :]

    def _ids(self) -> dict[str, int]:
        """Where each id is; read anew when rows have changed their places."""
        with self._guard:
            if self._positions_of != self._rows.generation:
                generation = self._rows.generation
                ids = self.table(["id"]).column("id").to_pylist()
                self._positions = {id: position for position, id in enumerate(ids)}
                self._positions_of = generation
            return self._positions
