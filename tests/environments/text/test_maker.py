"""The process that makes games: errors, time limits, and nothing left behind."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.text import maker
from agentgym.environments.text.games import complete
from agentgym.environments.text.maker import FILES, Maker
from agentgym.errors import ConfigError, EnvFailureError


@pytest.fixture
def made_by() -> Iterator[Maker]:
    yield (maker_ := Maker())
    maker_.close()


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> list[subprocess.Popen[str]]:
    """Let a shell script stand in for the process; returns what is started."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                ["sh", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                text=True,
            )
        )
        return started[-1]

    monkeypatch.setattr(maker, "_start", start)
    return started


def test_one_process_answers_job_after_job(
    made_by: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = stand_in(monkeypatch, """while read line; do echo '""'; done""")
    for _ in range(3):
        made_by.make("custom", {}, 1, tmp_path, 60.0)
    assert len(started) == 1
    made_by.close()
    made_by.close()
    assert started[0].returncode is not None


def test_no_game_is_a_wrong_setting(
    made_by: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, """read line; echo '"QuestGenerationError: none"'; cat""")
    with pytest.raises(ConfigError, match=r"custom game of seed 7 .*QuestGenerationError: none"):
        made_by.make("custom", {"quest_length": 20}, 7, tmp_path, 60.0)


def test_too_slow_is_the_environments_failure_and_leaves_no_process(
    made_by: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = stand_in(monkeypatch, "sleep 600 & sleep 600")
    with pytest.raises(EnvFailureError, match=r"took more than 0.01 s"):
        made_by.make("custom", {}, 1, tmp_path, 0.01)
    # The call waits until nobody holds the pipe: the second sleep, too, was killed.
    assert started[0].returncode == -signal.SIGKILL


def test_a_late_answer_is_not_read_as_that_to_the_next_job(
    made_by: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = stand_in(monkeypatch, """read line; read line; echo '"late"'; echo '""'; cat""")
    with pytest.raises(EnvFailureError):
        made_by.make("custom", {}, 1, tmp_path, 0.01)
    with pytest.raises(EnvFailureError):
        made_by.make("custom", {}, 2, tmp_path, 0.01)
    assert len(started) == 2


def test_a_dead_process_is_the_environments_failure_and_the_next_call_starts_another(
    made_by: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = stand_in(monkeypatch, "read line; exit 1")
    for _ in range(2):
        with pytest.raises(EnvFailureError, match=r"died|Broken pipe"):
            made_by.make("custom", {}, 1, tmp_path, 60.0)
    assert len(started) == 2


def test_seeds_without_a_game_give_way_to_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[int] = []

    def make_once(kind: str, settings: object, seed: int, folder: Path) -> None:
        tried.append(seed)
        if len(tried) < 3:
            raise ValueError(f"attempt {len(tried)}")

    monkeypatch.setattr(maker, "_make_once", make_once)
    monkeypatch.setenv("HOME", os.environ["HOME"])
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    assert maker.make_here("custom", {}, 11, tmp_path) == ""
    assert tried[0] == 11
    assert len(set(tried)) == 3
    assert all(0 <= seed < 2**32 for seed in tried)
    tried.clear()
    monkeypatch.setattr(maker, "ATTEMPTS", 2)
    assert maker.make_here("custom", {}, 11, tmp_path) == "ValueError: attempt 1"
    assert len(tried) == 2


def test_a_game_depends_on_nothing_but_its_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not on the hash seed, on what was made before, nor on grammars in the working folder.

    The cooking game draws on hash order; the simple game sets TextWorld's global generator. The
    process that makes two games and the one that makes one work at the same time.
    """
    grammar = tmp_path / "textworld_data" / "logic"
    grammar.mkdir(parents=True)
    (grammar / "bad.twl").write_text("not a grammar")
    monkeypatch.chdir(tmp_path)
    settings = complete("cooking", {"go": 1, "open": False, "cut": False})
    made = []

    def make(maker_: Maker, kinds: Mapping[str, dict[str, Any]], name: str) -> tuple[bytes, bytes]:
        for kind, chosen in kinds.items():
            folder = tmp_path / f"{name}-{kind}"
            folder.mkdir()
            maker_.make(kind, chosen, 5, folder, 600.0)
        maker_.close()
        return undated((folder / FILES[0]).read_bytes()), (folder / FILES[1]).read_bytes()

    with ThreadPoolExecutor(2) as executor:
        for hash_seed, kinds in (
            ("1", {"simple": complete("simple", {}), "cooking": settings}),
            ("2", {"cooking": settings}),
        ):
            monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
            maker_ = Maker()
            maker_._process = maker._start()  # in this environment, before the next
            made.append(executor.submit(make, maker_, kinds, hash_seed))
    assert made[0].result() == made[1].result()


def undated(story: bytes) -> bytes:
    """A story file without the day of its compilation and the checksum."""
    return story[:0x12] + story[0x18:0x1C] + story[0x1E:]
