"""Numbers of a run over time: metrics.jsonl, other sinks beside it, running means and timers."""

import importlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from agentgym import durable
from agentgym.errors import MissingDependencyError, StoreError, UnknownNameError

_log = logging.getLogger(__name__)

FILE = "metrics.jsonl"


class Sink(Protocol):
    """Another place where rows of metrics go."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class MetricsWriter:
    """Appends rows to ``metrics.jsonl``: one JSON object per line, flushed line by line.

    A killed process leaves at most one torn last line, which the next writer cuts off and `read`
    passes over. NaN and infinity are written as null, and ``nonfinite`` counts them.

    Args:
        folder: made if missing.
        sinks: further places by name: ``tensorboard``, ``trackio``, ``wandb`` (the file is always
            written; ``jsonl`` names it). They get the numbers of every row.
        resume_rows: keep so many rows and cut off the rest (what was written after a checkpoint).
        resume_step: keep the rows whose ``step`` is at most this.
        name: of the run, for sinks that name runs.

    Raises:
        StoreError: the file cannot be written, or holds fewer than `resume_rows` rows.
        MissingDependencyError: a sink's package is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        sinks: Sequence[str] = ("jsonl",),
        *,
        resume_rows: int | None = None,
        resume_step: int | None = None,
        name: str | None = None,
    ) -> None:
        self.path = Path(folder) / FILE
        durable.make_folder(self.path.parent)
        self.rows = _cut(self.path, resume_rows, resume_step)
        """Rows in the file, for a checkpoint."""
        self._sinks = _open_sinks(sinks, self.path.parent, name or self.path.parent.name)
        try:
            self._file: IO[bytes] = self.path.open("ab")
        except OSError as error:
            raise durable.write_error(self.path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; ``time`` (seconds since 1970) is added if it has none.

        Args:
            row: JSON values, numpy numbers and one-element tensors, by name.

        Raises:
            StoreError: a value is no JSON value, or the disk is full.
        """
        clean = {str(name): durable.plain(_scalar(v), str(name)) for name, v in row.items()}
        clean.setdefault("time", time.time())
        nonfinite = [name for name, v in clean.items() if _is_nonfinite(v)]
        if nonfinite:
            _log.warning("not finite: %s", ", ".join(f"{n}={clean[n]}" for n in nonfinite))
            clean = {**clean, **dict.fromkeys(nonfinite), "nonfinite": len(nonfinite)}
        try:
            line = json.dumps(clean, allow_nan=False).encode() + b"\n"
        except ValueError as error:
            raise StoreError(f"a nested value of {clean!r} is not finite") from error
        position = self._file.tell()
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._drop_torn(position)
            raise durable.write_error(self.path, error) from error
        self.rows += 1
        for sink in self._sinks:
            sink.write(clean)

    def _drop_torn(self, position: int) -> None:
        """After a failed write: forget what is buffered, cut off what reached the file."""
        handle = os.dup(self._file.fileno())
        try:
            self._file.close()
        except OSError:  # the same full disk: the buffer is what shall be dropped
            _log.debug("closing %s failed as its write did", self.path)
        os.ftruncate(handle, position)
        os.close(handle)
        self._file = self.path.open("ab")

    def close(self) -> None:
        """Flush everything to the disk; may be called twice."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read(folder: str | Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics, none if there is no file; a torn last line is passed over.

    Raises:
        StoreError: a line before the last is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    return [row for row, _ in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows, each with the file's offset after it."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                _log.warning("%s: the torn last line is ignored", path)
                return
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
            except ValueError as error:
                raise StoreError(
                    f"{path}, line {number} is damaged ({error}); delete that line"
                ) from error
            offset += len(line)
            yield row, offset


def _cut(path: Path, rows: int | None, step: int | None) -> int:
    """Cut the file after what is kept; returns the rows left."""
    if not path.exists():
        if rows:
            raise StoreError(f"{path} is missing; {rows} rows were there at the checkpoint")
        return 0
    kept = end = 0
    for row, offset in _rows(path):
        if rows is not None and kept >= rows:
            break
        if step is not None and isinstance(row.get("step"), int) and row["step"] > step:
            break
        kept, end = kept + 1, offset
    if rows is not None and kept < rows:
        raise StoreError(f"{path} holds {kept} rows; {rows} were there at the checkpoint")
    if end < path.stat().st_size:
        try:
            os.truncate(path, end)
        except OSError as error:
            raise durable.write_error(path, error) from error
    return kept


def _scalar(value: Any) -> Any:
    """A tensor of one element as its number, without importing torch."""
    if hasattr(value, "item") and hasattr(value, "detach"):
        return value.item()
    return value


def _is_nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


# -- sinks ------------------------------------------------------------------------------------


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row under ``phase/name``; the phase is whatever text says it."""
    phase = row.get("phase")
    prefix = f"{phase}/" if isinstance(phase, str) else ""
    skip = ("step", "time")
    return {
        prefix + name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and name not in skip
    }


class _Counter:
    """The step of a row that names none: how many rows came before."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, row: Mapping[str, Any]) -> int:
        step = row.get("step", self.count)
        self.count = max(self.count, int(step)) + 1
        return int(step)


class _TensorBoard:
    def __init__(self, folder: Path, name: str) -> None:
        self._writer = _import("tensorboard.summary").Writer(str(folder / "tensorboard"))
        self._step = _Counter()

    def write(self, row: Mapping[str, Any]) -> None:
        step = self._step(row)
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, folder: Path, name: str) -> None:
        self._module = _import("trackio")
        self._module.init(project="agentgym", name=name)

    def write(self, row: Mapping[str, Any]) -> None:
        self._module.log(_numbers(row))

    def close(self) -> None:
        self._module.finish()


class _WandB:
    def __init__(self, folder: Path, name: str) -> None:
        self._run = _import("wandb").init(
            project="agentgym", name=name, dir=str(folder), id=name, resume="allow"
        )

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log(_numbers(row))

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, Callable[[Path, str], Sink]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _WandB,
}


def _open_sinks(names: Sequence[str], folder: Path, run: str) -> list[Sink]:
    for name in names:
        if name not in ("jsonl", *_SINKS):
            raise UnknownNameError("metrics sink", name, ("jsonl", *_SINKS))
    return [_SINKS[name](folder, run) for name in names if name != "jsonl"]


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} is not installed; run pip install -e '.[sinks]', or leave this sink out"
        ) from error


# -- means and times --------------------------------------------------------------------------


class RunningMeans:
    """Means of named numbers, one pass, numerically steady.

    Source: Welford 1962, https://doi.org/10.1080/00401706.1962.10490022 (weighted form: West 1979,
    https://doi.org/10.1145/359146.359153).

    Example:
        >>> means = RunningMeans()
        >>> means.add({"loss": 1.0})
        >>> means.add({"loss": 4.0}, weight=2)
        >>> means.result()
        {'loss': 3.0}
    """

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, float], weight: float = 1.0) -> None:
        """Count some values; those not finite are left out."""
        for name, value in values.items():
            number = float(_scalar(value))
            if math.isfinite(number) and weight > 0:
                total = self._weights[name] = self._weights.get(name, 0.0) + weight
                mean = self._means.get(name, 0.0)
                self._means[name] = mean + (number - mean) * weight / total

    def result(self) -> dict[str, float]:
        """The means so far."""
        return dict(self._means)


class Timer:
    """Seconds spent in named phases.

    Example:
        >>> timer = Timer()
        >>> with timer("rollout"):
        ...     pass
        >>> list(timer.seconds())
        ['rollout_s']
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time in the block, also if it raises."""
        started = self._clock()
        try:
            yield
        finally:
            self._spent[phase] = self._spent.get(phase, 0.0) + self._clock() - started

    def seconds(self) -> dict[str, float]:
        """Seconds by ``<phase>_s`` since the start or the last `reset`."""
        return {f"{phase}_s": spent for phase, spent in self._spent.items()}

    def reset(self) -> None:
        """Start again at nothing."""
        self._spent.clear()
