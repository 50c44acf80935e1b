"""What this machine is."""

import json
import os
from pathlib import Path

import pytest

from agentgym import machine


def test_a_description_is_json() -> None:
    told = machine.describe_machine()
    assert json.loads(json.dumps(told)) == told
    assert told["cores"] == os.cpu_count()
    assert told["cpu"]
    assert 1 <= told["usable_cores"] <= told["cores"]


def test_the_processor_is_named_as_linux_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 2000: fast\nmodel name\t: other\n")
    monkeypatch.setattr(machine, "Path", lambda _: info)
    assert machine.processor() == "Abacus 2000: fast"
    info.unlink()
    assert machine.processor()


def test_load_is_three_numbers_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(machine.load_average() or [0, 0, 0]) == 3

    def refuse() -> None:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", refuse, raising=False)
    assert machine.load_average() is None
