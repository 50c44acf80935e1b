"""Files that survive a crash: written whole or not at all, locked for one writer, JSON made plain.

A file appears under its name only when its bytes are on the disk (temporary file, fsync, rename,
fsync of the folder), so that a killed process or a full disk leaves what was there before.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from agentgym.errors import StoreError

PARTIAL = ".partial-"
"""What names of unfinished files and folders begin with; readers of Parquet folders skip dots."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Put a file in place, whole and durable when this returns.

    Raises:
        StoreError: it cannot be written; whatever the path held before is still there.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of a JSON value."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably.

    Raises:
        StoreError: it cannot be made.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        except OSError as error:
            raise write_error(folder, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (nothing to do on Windows)."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(path: Path, error: OSError) -> StoreError:
    """What to tell when a path cannot be written: the path, the reason and the fix."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            return StoreError(
                f"cannot write {path}: {error.strerror} ({free / 2**20:.0f} MiB free); what was "
                "written before is intact: free some space there and go on"
            )
    return StoreError(f"cannot write {path}: {error.strerror or error}; check the path and rights")


_held: dict[Path, int] = {}  # to the process, as forked children inherit the dict
_held_guard = threading.Lock()


class WriterLock:
    """One writer for a folder, among processes and within this one.

    A POSIX record lock: the kernel drops it when the process dies, however it dies, and forked
    children do not share it. So a lock that a dead process left is simply taken.

    Args:
        path: the lock file; it stays there, unlocked, and says who was the last to lock it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._pid = os.getpid()
        with _held_guard:
            if _held.get(self.path) == self._pid:
                raise StoreError(
                    f"{path.parent} is open for writing in this process already; close that one "
                    "first, or open read-only"
                )
            self._file = self._take()
            _held[self.path] = self._pid

    def _take(self) -> IO[str]:
        file: IO[str] | None = None
        try:
            file = self.path.open("a+", encoding="utf-8")
            _lock(file)
            file.seek(0)
            file.truncate()
            file.write(json.dumps({"pid": self._pid}))
            file.flush()
        except OSError as error:
            if file is None or error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise write_error(self.path, error) from error
            file.seek(0)
            owner = file.read(200)
            file.close()
            raise StoreError(
                f"{self.path.parent} is open for writing in another process ({owner or 'unknown'})"
                "; wait for it, stop it, or open read-only"
            ) from error
        return file

    @property
    def held(self) -> bool:
        """True until `release`, and only in the process that took it."""
        return not self._file.closed and self._pid == os.getpid()

    def release(self) -> None:
        """Let others write; may be called twice."""
        with _held_guard:
            if self.held:
                del _held[self.path]
            self._file.close()

    def __del__(self) -> None:
        # At the interpreter's exit the module's names may be gone already; so is the lock then.
        if hasattr(self, "_file") and not self._file.closed and _held_guard is not None:
            self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def plain(value: Any, where: str = "value") -> Any:
    """A value as JSON values: numpy scalars become numbers, arrays and tuples lists, keys text.

    Args:
        value: anything nested.
        where: named in the error.

    Raises:
        StoreError: something is no JSON value.

    Example:
        >>> plain({1: (np.float32(0.5), np.arange(2))})
        {'1': [0.5, [0, 1]]}
    """
    try:
        return _quick(value)
    except _Odd:
        return _careful(value, where)


class _Odd(Exception):
    """Something else than JSON's own types."""


def _quick(value: Any) -> Any:
    """`plain` for what is plain already, as nearly everything is."""
    kind = type(value)
    if kind in _EXACT:
        return value
    if kind is list:
        return [v if type(v) in _EXACT else _quick(v) for v in value]
    if kind is dict and all(type(k) is str for k in value):
        return {k: v if type(v) in _EXACT else _quick(v) for k, v in value.items()}
    raise _Odd


def _careful(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value if type(value) in _EXACT else _base(value)
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        return value.tolist()
    if isinstance(value, Mapping):
        return {_key(k, where): _careful(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_careful(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise StoreError(
        f"{where} is {value!r:.80} of type {type(value).__name__}, which is no JSON value; "
        "give numbers, texts, lists and mappings"
    )


_EXACT = frozenset((type(None), bool, int, float, str))


def _base(value: Any) -> int | float | str:
    """Members of enums, and other subclasses, as the plain value they are."""
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value)


def _key(key: Any, where: str) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bool | int | float | np.generic):
        return str(plain(key, where))
    raise StoreError(f"a key of {where} is {key!r}, which is no text; JSON keys are texts")
