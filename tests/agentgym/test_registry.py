"""Registries and the plug-ins that fill them."""

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from agentgym import registry
from agentgym.errors import AgentGymError, UnknownNameError
from agentgym.registry import BACKENDS, Registry, load_plugins


@pytest.fixture
def numbers() -> Registry[Any]:
    made: Registry[Any] = Registry("number")
    made.register("pi", "math:pi", "circles")
    made.register("two", 2)
    return made


def test_strings_are_imported_on_first_use(numbers: Registry[Any]) -> None:
    assert numbers.get("pi") == pytest.approx(3.14159, abs=1e-5)
    assert numbers.get("two") == 2
    assert numbers.doc("pi") == "circles"
    assert list(numbers) == ["pi", "two"]
    assert len(numbers) == 2
    assert "pi" in numbers
    assert "tau" not in numbers


def test_nothing_is_imported_at_registration() -> None:
    made: Registry[Any] = Registry("thing")
    made.register("gone", "no_such_module:thing")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        made.get("gone")


def test_an_unknown_name_names_the_nearest(numbers: Registry[Any]) -> None:
    with pytest.raises(
        UnknownNameError, match=r"number 'twoo' is not known\. Did you mean 'two'\?"
    ):
        numbers.get("twoo")
    with pytest.raises(UnknownNameError, match="Known: pi, two"):
        numbers.get("zzzzzz")
    with pytest.raises(UnknownNameError, match="Nothing is registered"):
        Registry("empty").get("x")


def test_a_name_is_given_once(numbers: Registry[Any]) -> None:
    numbers.register("two", 2)  # the same again does nothing
    with pytest.raises(AgentGymError, match="'two' is already registered as 2; choose another"):
        numbers.register("two", 3)


def test_the_backends_are_there() -> None:
    assert {"hf", "openai", "scripted"} <= set(BACKENDS)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, registry.PLUGIN_GROUP)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EntryPoint]:
    """Entry points of a made-up distribution, seen by `load_plugins`."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(registry, "_loaded", set(registry._OWN))
    (tmp_path / "gym_plugin_for_tests.py").write_text(
        "calls = []\n"
        "def register(): calls.append(1)\n"
        "def broken(): raise RuntimeError('out of order')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return entries


def test_a_plugin_is_called_once(plugins: list[EntryPoint]) -> None:
    plugins.append(entry("ours", "gym_plugin_for_tests:register"))
    assert load_plugins() == []
    assert load_plugins() == []
    import gym_plugin_for_tests  # type: ignore[import-not-found]

    assert gym_plugin_for_tests.calls == [1]


def test_a_broken_plugin_is_named_and_the_others_load(
    plugins: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    plugins += [
        entry("bad", "gym_plugin_for_tests:broken"),
        entry("gone", "no_such_module:register"),
        entry("ours", "gym_plugin_for_tests:register"),
    ]
    with caplog.at_level(logging.WARNING):
        problems = load_plugins()
    assert len(problems) == 2
    assert "gym_plugin_for_tests:broken" in problems[0]
    assert "out of order" in problems[0]
    assert "no_such_module" in problems[1]
    assert [record.message for record in caplog.records] == problems


def test_an_installed_plugin_is_found_by_name(tmp_path: Path) -> None:
    """A distribution with an entry point, in a process of its own."""
    (tmp_path / "their_rewards.py").write_text(
        "from agentgym.registry import REWARDS\n"
        "def register(): REWARDS.register('theirs', 'math:pi', 'a third party')\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentgym.plugins]\nrewards = their_rewards:register\n")
    code = "from agentgym.registry import REWARDS; print(REWARDS.doc('theirs'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a third party\n"
