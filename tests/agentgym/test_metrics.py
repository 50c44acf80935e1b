"""metrics.jsonl: torn lines, resuming, numbers that are none; the other sinks; means and timers."""

import json
import logging
import resource
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym import metrics
from agentgym.errors import MissingDependencyError, StoreError, UnknownNameError
from agentgym.metrics import MetricsWriter, RunningMeans, Timer, read


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def write(folder: Path, *rows: dict[str, Any], **options: Any) -> int:
    with MetricsWriter(folder, **options) as writer:
        for row in rows:
            writer.write({"time": 0, **row})
        return writer.rows


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [
        {"time": 0, "step": 1, "phase": "train", "loss": 0.1},
        {"time": 0, "step": 2, "phase": "eval", "success": 1, "ends": {"failure": 2}, "ok": True},
    ]
    assert read(tmp_path) == []
    assert write(tmp_path / "run", *rows) == 2
    assert read(tmp_path / "run") == rows


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write({"step": 1})
    row = json.loads(lines(tmp_path)[0])
    assert row["step"] == 1
    assert row["time"] > 1.5e9
    writer.close()
    writer.close()


def test_numbers_of_other_libraries(tmp_path: Path) -> None:
    import torch

    write(
        tmp_path,
        {"f": np.float32(0.5), "i": np.int64(3), "t": torch.tensor(2.5), "a": np.arange(2)},
    )
    assert read(tmp_path) == [{"time": 0, "f": 0.5, "i": 3, "t": 2.5, "a": [0, 1]}]


def test_what_is_not_finite_is_null_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        write(tmp_path, {"loss": float("nan"), "norm": np.float64("inf"), "ok": 1.0}, {"ok": 2})
    assert read(tmp_path) == [
        {"time": 0, "loss": None, "norm": None, "ok": 1.0, "nonfinite": 2},
        {"time": 0, "ok": 2},
    ]
    assert "loss=nan, norm=inf" in caplog.text


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(StoreError, match=r"loss is .*object"):
            writer.write({"loss": object()})
        with pytest.raises(StoreError, match="nested value"):
            writer.write({"losses": [float("nan")]})
        writer.write({"time": 0})
    assert read(tmp_path) == [{"time": 0}]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\xff\x00"])
def test_a_torn_last_line_is_passed_over_and_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    write(tmp_path, {"step": 1}, {"step": 2})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert [row["step"] for row in read(tmp_path)] == [1, 2]
    assert "torn last line" in caplog.text
    assert write(tmp_path, {"step": 3}) == 3
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("bad", ['{"step": 2', "[1]", ""])
def test_damage_before_the_last_line_is_named(tmp_path: Path, bad: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    for attempt in (read, MetricsWriter):
        with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2 is damaged"):
            attempt(tmp_path)
    assert len(lines(tmp_path)) == 3


def test_resuming_at_a_number_of_rows(tmp_path: Path) -> None:
    steps = [{"step": step} for step in (1, 2, 2, 3)]
    write(tmp_path, *steps)
    assert write(tmp_path, {"step": 9}, resume_rows=3) == 4
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 2, 9]
    with pytest.raises(StoreError, match="holds 4 rows; 5 were there at the checkpoint"):
        MetricsWriter(tmp_path, resume_rows=5)
    assert write(tmp_path, resume_rows=0) == 0
    assert lines(tmp_path) == []
    with pytest.raises(StoreError, match="is missing; 2 rows were there"):
        MetricsWriter(tmp_path / "other", resume_rows=2)
    assert write(tmp_path / "new", resume_rows=0) == 0


def test_resuming_at_a_step(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1}, {"note": "between"}, {"step": 2}, {"step": 3}, {"note": "after"})
    assert write(tmp_path, resume_step=2) == 3
    assert read(tmp_path)[-1]["step"] == 2


def test_a_full_disk_keeps_whole_lines(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match=r"metrics\.jsonl: File too large.*free some space"):
            writer.write({"text": "x" * 5000})
        writer.write({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert writer.rows == 2
    writer.close()
    assert [row["step"] for row in read(tmp_path)] == [1, 2]


class FakeModule(types.ModuleType):
    """Stands for trackio or wandb: remembers the calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> "FakeModule":
        self.calls.append(("init", options))
        return self

    def log(self, values: dict[str, float]) -> None:
        self.calls.append(("log", values))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("sink", ["trackio", "wandb"])
def test_trackio_and_wandb_get_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    module = FakeModule(sink)
    monkeypatch.setitem(sys.modules, sink, module)
    row = {"phase": "train", "step": 1, "loss": 0.5, "bad": float("nan"), "text": "x"}
    write(tmp_path / "demo", row, sinks=("jsonl", sink))
    (_, options), *rest = module.calls
    assert (options["project"], options["name"]) == ("agentgym", "demo")
    assert rest == [("log", {"train/loss": 0.5, "train/nonfinite": 1.0}), ("finish", None)]
    assert len(read(tmp_path / "demo")) == 1


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(
        tmp_path,
        {"phase": "train", "step": 3, "loss": 0.5},
        {"phase": "train", "loss": 0.25},
        sinks=["tensorboard"],
    )
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tag = "train/loss"
    found = [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors(tag)]
    assert found == [(3, 0.5), (4, 0.25)]


def test_sinks_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"metrics sink 'wanb' .* 'wandb'"):
        MetricsWriter(tmp_path, ["wanb"])
    for package in ("tensorboard", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.summary", None)
        with pytest.raises(MissingDependencyError, match=rf"{package} is not .*\.\[sinks\]"):
            MetricsWriter(tmp_path, [package])


def test_means() -> None:
    means = RunningMeans()
    assert means.result() == {}
    for value in (1.0, 2.0, 6.0, float("nan"), float("inf")):
        means.add({"a": value})
    means.add({"b": 4.0}, weight=0.0)
    means.add({"b": 1.0}, weight=3.0)
    means.add({"b": 5.0}, weight=1.0)
    assert means.result() == {"a": 3.0, "b": 2.0}


def test_means_do_not_drift() -> None:
    """A sum of these would lose the small differences."""
    means = RunningMeans()
    for i in range(1000):
        means.add({"x": 1e15 + i % 2})
    assert means.result()["x"] == pytest.approx(1e15 + 0.5, abs=0.2)


def test_the_timer_adds_up_by_phase() -> None:
    times = iter([0.0, 1.5, 2.0, 3.0, 10.0, 14.0])
    timer = Timer(clock=lambda: next(times))
    with timer("rollout"):
        pass
    with pytest.raises(KeyError), timer("rollout"):
        raise KeyError
    with timer("train"):
        pass
    assert timer.seconds() == {"rollout_s": 2.5, "train_s": 4.0}
    timer.reset()
    assert timer.seconds() == {}


def test_the_file_has_one_name() -> None:
    assert metrics.FILE == "metrics.jsonl"
