"""Processes side by side: order, failures, shares of the cores, and what an interrupt leaves."""

import sys
import time
from pathlib import Path

import pytest

from agentgym.errors import ConfigError
from agentgym.processes import Command, Ended, side_by_side


def command(folder: Path, name: str, code: str) -> Command:
    return Command(name, (sys.executable, "-S", "-c", code), folder / name / "log.txt")


def test_one_that_dies_costs_the_others_nothing(tmp_path: Path) -> None:
    codes = {
        "good": "print('fine')",
        "bad": "print('so far'); raise SystemExit('no more')",
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "last": "print('also fine')",
    }
    told: list[Ended] = []
    ends = side_by_side(
        [command(tmp_path, name, code) for name, code in codes.items()], 2, on_end=told.append
    )
    assert [(end.name, end.code) for end in ends] == [
        ("good", 0),
        ("bad", 1),
        ("killed", -9),
        ("last", 0),
    ]
    assert "so far" in ends[1].told
    assert "no more" in ends[1].told
    assert ends[0].told == ""
    assert {end.name for end in told} == set(codes)
    assert (tmp_path / "last" / "log.txt").read_text() == "also fine\n"


def test_each_has_its_share_of_the_cores(tmp_path: Path) -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    three = [command(tmp_path, name, code) for name in "abc"]
    side_by_side(three, 2, cores=9)
    assert [c.log.read_text() for c in three] == ["4\n"] * 3
    side_by_side(three[:1], 2, cores=9)
    assert three[0].log.read_text() == "9\n"  # alone it has all
    side_by_side(three, 3, cores=2)
    assert three[2].log.read_text() == "1\n"


def test_an_interrupt_stops_those_that_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    waits = command(tmp_path, "waits", f"import time; time.sleep(600); open({str(mark)!r}, 'w')")

    def interrupt(end: Ended) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        side_by_side([waits, command(tmp_path, "ends", "pass")], 2, on_end=interrupt)
    assert time.monotonic() - began < 300
    assert not mark.exists()


def test_nothing_at_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs"):
        side_by_side([command(tmp_path, "a", "pass")], 0)
