"""Checkpoints: every bit comes back, half-written ones do not count, damaged ones are told."""

import errno
import json
import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentgym import checkpoint
from agentgym.checkpoint import load, rng_state, save, set_rng_state
from agentgym.errors import StoreError


def same(a: Any, b: Any) -> bool:
    """Equality of states to the bit, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(b.contiguous().view(-1).view(torch.uint8))
        )
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def returned(tmp_path: Path, state: Any) -> Any:
    save(tmp_path, 0, state)
    found = load(tmp_path)
    assert found is not None
    return found.state


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_shape(tmp_path: Path, dtype: torch.dtype) -> None:
    grid = (torch.arange(12) % 5 - 2).view(3, 4).to(dtype)
    state = {
        "grid": grid,
        "scalar": grid[1, 1],
        "transposed": grid.t(),
        "strided": grid[::2, 1:3],
        "expanded": grid[:1].expand(2, 4),
        "empty": grid[:0],
    }
    assert same(returned(tmp_path, state), state)


def test_floats_that_are_no_numbers_keep_their_bits(tmp_path: Path) -> None:
    bits = torch.tensor([0x7FC00001, -1, 0x7F800000, -(2**31), 1], dtype=torch.int32)
    state = {"x": bits.view(torch.float32)}
    assert same(returned(tmp_path, state), state)


def test_plain_values_come_back_as_they_were(tmp_path: Path) -> None:
    state = {
        "ints": [0, -1, 2**127, True, None],
        "floats": [0.1, -0.0, 1e-320, float("inf"), float("nan")],
        "texts": ["", "\ud800", "\0", "日本語", "$tensor"],
        "tuple": (1, (2, []), {}),
        3: {"int key": True, (1, "a"): "tuple key", None: 1.5},
        "$dollar": {"$tensor": "0"},
        "bytes": b"\x00\xff",
        "nested": {"a": [{"b": (torch.ones(2),)}]},
    }
    found = returned(tmp_path, state)
    assert same(found, state)
    assert str(found["floats"][1]) == "-0.0"


def test_arrays(tmp_path: Path) -> None:
    state: dict[str, np.ndarray[Any, Any]] = {
        "f": np.arange(6, dtype=np.float16).reshape(2, 3)[:, ::2],
        "u": np.array([2**64 - 1], dtype=np.uint64),
        "big": np.array([1, 2], dtype=">i4"),
        "text": np.array(["ab", "c"]),
        "zero": np.array(3),
        "none": np.zeros((0, 4)),
        "complex": np.array([1 + 2j]),
    }
    found = returned(tmp_path, state)
    assert same(
        found, {name: np.ascontiguousarray(a) if a.ndim else a for name, a in state.items()}
    )
    found["f"][0, 0] = 9  # writable


def test_what_comes_back_plainer(tmp_path: Path) -> None:
    state = {"o": OrderedDict(a=1), "n": np.float32(0.5), "p": torch.nn.Parameter(torch.ones(1))}
    found = returned(tmp_path, state)
    assert same(found, {"o": {"a": 1}, "n": 0.5, "p": torch.ones(1)})
    assert not found["p"].requires_grad


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, r"state\['a'\]\[0\] is a set, which a checkpoint cannot hold"),
        (np.array([object()]), r"is an array of object"),
        (torch.ones(2, 2).to_sparse(), r"is a tensor of kind torch\.sparse_coo"),
        (torch.ones(1, device="meta"), r"give a dense one"),
        (Path("x"), r"is a PosixPath|is a WindowsPath"),
    ],
)
def test_what_a_checkpoint_cannot_hold(tmp_path: Path, value: Any, message: str) -> None:
    save(tmp_path, 0, {"good": 1})
    with pytest.raises(StoreError, match=message):
        save(tmp_path, 1, {"a": [value]})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]


def test_tied_tensors_stay_tied_and_overlapping_ones_stay_right(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    state = {
        "a": base,
        "again": base,
        "alias": base.view(10),
        "head": base[:5],
        "reshaped": base.view(2, 5),
        "bits": base.view(torch.int32),
        "empty": base[:0],
        "other empty": torch.zeros(0, 3),
    }
    found = returned(tmp_path, state)
    assert same(found, state)
    assert found["a"] is found["again"]
    assert found["a"] is found["alias"]
    assert found["head"].data_ptr() != found["a"].data_ptr()


def test_tensors_made_while_saving_are_not_mixed_up(tmp_path: Path) -> None:
    """Memory that is freed is used again, at the same address."""

    class Lazy(dict[str, Any]):
        def items(self) -> Any:
            return ((str(i), torch.full((8, 4), float(i)).t()) for i in range(50))

    found = returned(tmp_path, Lazy({str(i): None for i in range(50)}))
    assert all(found[str(i)].eq(i).all() for i in range(50))


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, amsgrad=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
    return model, optimiser, schedule


def train(parts: tuple[torch.nn.Module, torch.optim.Optimizer, Any], steps: int) -> None:
    model, optimiser, schedule = parts
    for _ in range(steps):
        optimiser.zero_grad()
        noise = torch.from_numpy(np.random.standard_normal((2, 4)))  # noqa: NPY002
        loss = model(noise.float() * random.random() + torch.rand(2, 4)).square().sum()
        loss.backward()
        optimiser.step()
        schedule.step()


def seed_everything() -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)


def test_training_goes_on_exactly(tmp_path: Path) -> None:
    """4 steps at once, or 2, saved, disturbed, loaded into new objects, and 2 more."""
    whole = training()
    seed_everything()
    train(whole, 4)

    half = training()
    seed_everything()
    train(half, 2)
    names = ("model", "optimiser", "schedule")
    state = {name: part.state_dict() for name, part in zip(names, half, strict=True)}
    save(tmp_path, 2, {**state, "rng": rng_state()})
    train(half, 3)

    resumed = training()
    found = load(tmp_path)
    assert found is not None
    assert found.step == 2
    for name, part in zip(names, resumed, strict=True):
        part.load_state_dict(found.state[name])
    set_rng_state(found.state["rng"])
    train(resumed, 2)
    for one, other in zip(resumed, whole, strict=True):
        assert same(returned(tmp_path, one.state_dict()), returned(tmp_path, other.state_dict()))


def test_random_states_are_those_of_all_three_generators(tmp_path: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.standard_normal(),  # noqa: NPY002
            torch.rand(2).tolist(),
            torch.randn(3).tolist(),
        )

    draw()
    state = returned(tmp_path, rng_state())
    expected = draw()
    draw()
    set_rng_state(state)
    assert draw() == expected


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert load(tmp_path / "nowhere") is None
    for step in (1, 2, 10, 9):
        save(tmp_path, step, {"step": step})
    found = load(tmp_path)
    assert found is not None
    assert (found.step, found.state) == (10, {"step": 10})
    assert [path.name for path in checkpoint.latest_first(tmp_path)] == [
        "step-00000010",
        "step-00000009",
    ]
    save(tmp_path, 11, {}, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000011"]


def test_a_step_saved_again_supersedes_the_one_before(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path, 3, {"i": i})
    found = load(tmp_path)
    assert found is not None
    assert found.state == {"i": 11}
    assert len(list(tmp_path.iterdir())) == 2


def test_files_of_callbacks(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.bin").write_bytes(b"abc")

    path = save(tmp_path, 0, {}, files={"model": write})
    assert (path / "model" / "sub" / "weights.bin").read_bytes() == b"abc"
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"state.json", "model/sub/weights.bin"}
    (path / "model" / "sub" / "weights.bin").write_bytes(b"abd")
    with pytest.raises(StoreError, match=r"weights\.bin has another SHA-256"):
        load(tmp_path)


def test_a_failing_callback_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        save(tmp_path, 0, {}, files={"model": fail})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("step", "keep_last"), [(-1, 2), (0, 0)])
def test_arguments(tmp_path: Path, step: int, keep_last: int) -> None:
    with pytest.raises(ValueError, match="need step >= 0 and keep_last >= 1"):
        save(tmp_path, step, {}, keep_last=keep_last)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: Callable[[Path], None]
) -> None:
    for step in (1, 2):
        save(tmp_path, step, {"x": torch.full((3,), float(step))})
    harm(tmp_path / "step-00000002" / name)
    with caplog.at_level(logging.WARNING):
        found = load(tmp_path)
    assert found is not None
    assert found.state["x"].tolist() == [1.0, 1.0, 1.0]
    assert "step-00000002 is damaged and passed over" in caplog.text
    harm(tmp_path / "step-00000001" / "state.json")
    with pytest.raises(StoreError, match=r"no checkpoint in .* is whole"):
        load(tmp_path)


def test_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    save(tmp_path, 1, {})
    path = save(tmp_path, 2, {}) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StoreError, match=r"has format 99; .* update agentgym"):
        load(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, {"x": torch.ones(3)})

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
                save(tmp_path, 2, {"x": torch.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_tensors_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*args: object) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StoreError, match=r"cannot write .*tensors\.safetensors: I/O error"):
        save(tmp_path, 0, {"x": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_a_crash_at_any_step_leaves_a_whole_checkpoint(
    tmp_path: Path, dies_at: Any, seed: int
) -> None:
    """What is loaded after a death is the last checkpoint or the one begun."""
    rng = random.Random(seed)
    newest = deaths = 0
    save(tmp_path, 0, {"x": torch.zeros(2)})
    for number in range(1, 40):
        with dies_at(rng.randrange(1, 25)) as death:
            save(tmp_path, number, {"x": torch.full((2,), float(number))})
            newest = number
        deaths += death.came
        found = load(tmp_path)
        assert found is not None
        assert found.step in (newest, number)
        assert found.state["x"].tolist() == [found.step] * 2
        newest = found.step
    assert deaths > 10
    save(tmp_path, 100, {})
    assert len(list(tmp_path.iterdir())) == 2
