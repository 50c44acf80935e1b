"""Checkpoints: a nested state with tensors, written whole or not at all, checked when read.

    checkpoints/step-00000012/
        state.json              the state's structure and plain values
        tensors.safetensors     its tensors and arrays
        <name>/...              what the callbacks in `files` wrote
        manifest.json           format, step, size and SHA-256 of every file

A checkpoint is made in a folder of another name, with the manifest last, and renamed into place
once all of it is on the disk. `load` takes the newest whose files all match its manifest. No
pickle: tensors and arrays come back with every bit, dtype and shape; tensors that were the same
view of the same memory (tied weights) come back as one object; tuples, and keys that are no text,
come back as they were. Numpy scalars come back as Python's.
"""

import base64
import hashlib
import json
import logging
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentgym import durable
from agentgym.errors import MissingDependencyError, StoreError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    step: int
    state: Any
    """As it was given to `save`."""


def save(
    folder: str | Path,
    step: int,
    state: Any,
    *,
    files: Mapping[str, Callable[[Path], object]] | None = None,
    keep_last: int = 2,
) -> Path:
    """Write a checkpoint; it is on the disk when this returns. One writer at a time.

    Args:
        folder: of all checkpoints of a run; made if missing.
        step: orders the checkpoints; saving a step again supersedes the one before.
        state: mappings, lists, tuples, numbers, texts, bytes, `None`, tensors and numpy arrays,
            nested in any way.
        files: name to a function that writes whatever it wants into the folder it is given (such
            as ``model.save_pretrained``); found later at ``checkpoint.path / name``.
        keep_last: older ones are deleted; at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        StoreError: the disk is full, or something in the state cannot be written. The checkpoints
            that were there still are.
    """
    if step < 0 or keep_last < 1:
        raise ValueError(f"need step >= 0 and keep_last >= 1, got {step!r} and {keep_last!r}")
    folder = Path(folder)
    durable.make_folder(folder)
    _clear_partial(folder)
    again = [c for c in _listing(folder) if c[0] == step]
    name = f"step-{step:08d}" + (f".{again[-1][1] + 1}" if again else "")
    making = folder / f"{durable.PARTIAL}{name}"
    try:
        making.mkdir()
        _write_state(making, state)
        for part, write in (files or {}).items():
            (making / part).mkdir()
            write(making / part)
        manifest = {"format": FORMAT_VERSION, "step": step, "files": _sums(making)}
        for sub in [making, *(p for p in making.rglob("*") if p.is_dir())]:
            durable.sync_folder(sub)
        durable.write_json(making / MANIFEST, manifest)
        os.rename(making, folder / name)
        durable.sync_folder(folder)
    except OSError as error:
        raise durable.write_error(folder / name, error) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _prune(folder, keep_last)
    return folder / name


def load(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, tensors on the CPU; `None` if none was ever written.

    A damaged one is told (logging) and the one before is taken.

    Raises:
        StoreError: all are damaged, or a newer version wrote the newest.
    """
    damage = ""
    for path in latest_first(folder):
        try:
            manifest = _verify(path)
        except _DamagedError as error:
            damage = str(error)
            _log.warning("checkpoint %s is damaged and passed over: %s", path, damage)
            continue
        return Checkpoint(path, manifest["step"], _read_state(path))
    if damage:
        raise StoreError(f"no checkpoint in {folder} is whole ({damage}); delete it to start over")
    return None


def latest_first(folder: str | Path) -> list[Path]:
    """Folders of finished checkpoints, newest first, unchecked."""
    return [Path(folder) / name for _, _, name in reversed(_listing(Path(folder)))]


def rng_state() -> dict[str, Any]:
    """State of the global random generators: Python, numpy and, if it is loaded, torch."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (libraries draw from it)
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Go on from a `rng_state`; states of devices that are not here are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    if "torch" in state:
        torch = _import_torch()
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


# -- files ------------------------------------------------------------------------------------


class _DamagedError(Exception):
    """Why a checkpoint cannot be trusted."""


def _listing(folder: Path) -> list[tuple[int, int, str]]:
    """(step, how often that step was saved before, name), oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 0), path.name))
    return sorted(found)


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file, each made durable on the way."""
    sums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        sums[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return sums


def _verify(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text("utf-8"))
        if manifest["format"] > FORMAT_VERSION:
            raise StoreError(
                f"{path} has format {manifest['format']}; this agentgym reads up to "
                f"{FORMAT_VERSION}: update agentgym"
            )
        for name, expected in manifest["files"].items():
            if (path / name).stat().st_size != expected["bytes"]:
                raise _DamagedError(f"{name} has another size")
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise _DamagedError(f"{name} has another SHA-256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from error
    return manifest


def _clear_partial(folder: Path) -> None:
    for path in folder.glob(f"{durable.PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, keep_last: int) -> None:
    for _, _, name in _listing(folder)[:-keep_last]:
        leaving = folder / f"{durable.PARTIAL}deleted-{name}"
        os.rename(folder / name, leaving)  # so that no half-deleted one is taken for a checkpoint
        shutil.rmtree(leaving, ignore_errors=True)


# -- state ------------------------------------------------------------------------------------


def _write_state(folder: Path, state: Any) -> None:
    encoder = _Encoder()
    skeleton = encoder.encode(state, "state")
    durable.write_bytes(folder / STATE, json.dumps(skeleton).encode())
    if encoder.tensors:
        import safetensors.torch

        try:
            safetensors.torch.save_file(encoder.tensors, folder / TENSORS)
        except Exception as error:  # its Rust part raises its own kind for a full disk
            if isinstance(error, OSError):
                raise
            raise StoreError(
                f"cannot write {folder / TENSORS}: {error}; the checkpoints before are intact: "
                "if the disk is full, free some space there and go on"
            ) from error


def _read_state(folder: Path) -> Any:
    tensors: dict[str, Any] = {}
    if (folder / TENSORS).exists():
        _import_torch()
        import safetensors.torch

        tensors = safetensors.torch.load_file(folder / TENSORS)
    return _decode(json.loads((folder / STATE).read_text("utf-8")), tensors)


class _Encoder:
    """A nested state as JSON, with its tensors aside under numbers.

    What JSON lacks is an object with one key that begins with "$".
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._used: set[int] = set()
        self._alive: list[torch.Tensor] = []  # pointers are unique among living tensors only

    def encode(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, bool | int | float | str | np.generic):
            return durable.plain(value, where)
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, list):
            return self._sequence(value, where)
        if isinstance(value, tuple):
            return {"$tuple": self._sequence(value, where)}
        if isinstance(value, Mapping):
            if all(type(k) is str and not k.startswith("$") for k in value):
                return {k: self.encode(v, f"{where}[{k!r}]") for k, v in value.items()}
            pairs = value.items()
            return {
                "$pairs": [
                    [self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in pairs
                ]
            }
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return {"$tensor": self._tensor(value, where)}
        raise StoreError(
            f"{where} is a {type(value).__name__}, which a checkpoint cannot hold; give tensors, "
            "arrays, numbers, texts, bytes, lists, tuples and mappings"
        )

    def _sequence(self, values: Any, where: str) -> list[Any]:
        return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(values)]

    def _tensor(self, tensor: "torch.Tensor", where: str) -> str:
        import torch

        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise StoreError(f"{where} is a tensor of kind {tensor.layout}; give a dense one")
        tensor = tensor.detach()
        shape, stride = tuple(tensor.shape), tensor.stride()
        key = (tensor.device, tensor.dtype, tensor.data_ptr(), shape, stride)
        if tensor.numel() and key in self._names:
            return self._names[key]
        name = str(len(self.tensors))
        self._names[key] = name
        self._alive.append(tensor)
        # safetensors wants every tensor alone on its memory: copy what is not.
        alone = tensor.cpu().contiguous()
        memory = alone.untyped_storage()
        whole = memory.nbytes() == alone.numel() * alone.element_size()
        if not whole or memory.data_ptr() in self._used:
            alone = alone.clone()
        self._used.add(alone.untyped_storage().data_ptr())
        self.tensors[name] = alone
        return name

    def _array(self, array: np.ndarray[Any, Any], where: str) -> Any:
        if array.dtype.kind not in "biufcSUMm":
            raise StoreError(
                f"{where} is an array of {array.dtype}, which a checkpoint cannot hold"
            )
        torch = _import_torch()
        data = np.frombuffer(array.tobytes(), dtype=np.uint8).copy()
        name = str(len(self.tensors))
        self.tensors[name] = torch.from_numpy(data)
        return {"$array": [name, array.dtype.str, list(array.shape)]}


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("$"):
        return {k: _decode(v, tensors) for k, v in value.items()}
    content = value[kind]
    if kind == "$tensor":
        return tensors[content]
    if kind == "$tuple":
        return tuple(_decode(content, tensors))
    if kind == "$pairs":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    if kind == "$bytes":
        return base64.b64decode(content)
    name, dtype, shape = content
    return np.frombuffer(tensors[name].numpy().tobytes(), dtype=dtype).reshape(shape).copy()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "torch is not installed; run pip install -e '.[train]'"
        ) from error
    return torch
