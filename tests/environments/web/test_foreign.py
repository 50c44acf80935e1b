import sys
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.web import foreign
from agentgym.environments.web.foreign import Foreign, Package, moves
from agentgym.errors import BrowserError, MissingDependencyError

ENV = """
import time, gymnasium
print("packages print things")

class Env(gymnasium.Env):
    def __init__(self, slow=0.0):
        self.slow, self.log = slow, []
    def reset(self, *, seed=None, options=None):
        self.seed, self.count = seed, 0
        return OBS, {}
    def step(self, action):
        time.sleep(self.slow)
        assert str(action) == WANTED[self.count], (action, WANTED)
        self.count += 1
        return OBS, self.count / 2, self.count == 2, False, {}
"""
GOAL = 'Enter "Bob" into the text field and press Submit.'
BROWSERGYM = """
GOAL = {goal!r}
def node(role, name, bid):
    return {{"role": {{"value": role}}, "name": {{"value": name}}, "browsergym_id": bid}}
OBS = {{"goal": GOAL, "axtree_object": {{"nodes": [{{"ignored": True}}, node("textbox", "", "7"),
       node("button", "Submit", "8")]}}}}
WANTED = ["fill('7', 'Bob')", "click('8')"]
gymnasium.register("browsergym/miniwob.enter-text", Env, disable_env_checker=True)
"""
FARAMA = """
OBS = {{"utterance": {goal!r}, "dom_elements": [
    {{"tag": "input_text", "ref": 3, "parent": 1, "text": ""}},
    {{"tag": "button", "ref": 4, "parent": 1, "text": "Submit"}}]}}
WANTED = ["('type', 3, 'Bob')", "('click', 4, None)"]
class Env(Env):
    def create_action(self, kind, ref, text=None):
        return (kind, ref, text)
gymnasium.register("miniwob/enter-text-v1", Env, disable_env_checker=True)
"""
ACTIONS = """
class ActionTypes:
    CLICK_ELEMENT, FOCUS_ELEMENT_AND_TYPE_TEXT = "click", "type"
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> str:
    """A Python in which packages of these names are what we make of them."""
    for name, text in {
        "browsergym/__init__.py": "",
        "browsergym/miniwob.py": ENV + BROWSERGYM.format(goal=GOAL),
        "miniwob/__init__.py": ENV + FARAMA.format(goal=GOAL),
        "miniwob/action.py": ACTIONS,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("package", ["browsergym", "farama"])
def test_a_package_plays_the_same_moves(package: Package, interpreter: str) -> None:
    with Foreign(package, interpreter, "file:///pages/", {}) as player:
        for seed in (3, 4):
            played = player.play("enter-text", [seed], [77])
            assert played.outcome == [[seed, GOAL, 2, 2.0]]
            assert played.counts == {"steps": 2, "resets": 1}
            assert [len(played.latencies[kind]) for kind in ("reset", "step")] == [1, 2]
            assert played.seconds == pytest.approx(sum(map(sum, played.latencies.values())))


def test_what_goes_wrong_there_is_told(interpreter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Foreign("browsergym", interpreter, "file:///pages/", {}) as player,
        pytest.raises(BrowserError, match=r"browsergym ended: .*doesn't exist"),
    ):
        player.play("no-such-task", [1], [1])
    with pytest.raises(MissingDependencyError, match="/nowhere/python does not run"):
        Foreign("farama", "/nowhere/python", "file:///pages/", {})
    monkeypatch.setattr(foreign, "DEADLINE_S", 0.5)
    with (
        Foreign("browsergym", interpreter, "file:///pages/", {"slow": 60.0}) as player,
        pytest.raises(BrowserError, match=r"took longer than 0\.5 s"),
    ):
        player.play("enter-text", [1], [1])


@pytest.mark.parametrize(
    ("task", "goal", "wanted"),
    [
        ("click-test", "Click the button.", []),
        (
            "click-checkboxes",
            "Select a, b, a and click Submit.",
            [("click", "checkbox", *each) for each in (("a", 0), ("b", 0), ("a", 1))],
        ),
        ("click-checkboxes", "Select nothing and click Submit.", []),
        (
            "login-user",
            'Enter the username "ann" and the password "x,y" into the text fields and press login.',
            [("fill", "textbox", "ann", 0), ("fill", "textbox", "x,y", 1)],
        ),
    ],
)
def test_moves(task: str, goal: str, wanted: list[Any]) -> None:
    assert moves(task, goal) == [*wanted, ("click", "button", "", 0)]
