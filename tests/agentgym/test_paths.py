"""Paths: defaults, and the environment variables that change them."""

from pathlib import Path

import pytest

from agentgym import paths


def test_variables_change_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, function in (
        ("AGENTGYM_RUNS", paths.runs),
        ("AGENTGYM_DATA", paths.data),
        ("AGENTGYM_CACHE", paths.cache),
    ):
        monkeypatch.setenv(variable, "/elsewhere")
        assert function() == Path("/elsewhere")
        monkeypatch.delenv(variable)
        assert function() != Path("/elsewhere")
    assert paths.runs() == Path("runs")


def test_chromium_is_none_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTGYM_CHROMIUM", raising=False)
    assert paths.chromium() is None
    monkeypatch.setenv("AGENTGYM_CHROMIUM", "")
    assert paths.chromium() is None
    monkeypatch.setenv("AGENTGYM_CHROMIUM", "/opt/chromium")
    assert paths.chromium() == "/opt/chromium"


def test_processes_that_a_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, count in (("2", 2), ("1", 1), ("0", 1), ("", 1), ("two", 1)):
        monkeypatch.setenv("WORLD_SIZE", told)
        assert paths.launched_processes() == count
    monkeypatch.delenv("WORLD_SIZE")
    assert paths.launched_processes() == 1


def test_variables_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    assert paths.variable("SOME_KEY") == "secret"
    assert paths.variable("NO_SUCH_KEY") is None
