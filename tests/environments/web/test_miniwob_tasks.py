import importlib.util

import gymnasium as gym
import pytest

import agentgym
from agentgym.environments.web.miniwob import html_folder
from agentgym.environments.web.miniwob_tasks import RESTARTABLE, TASKS

assert agentgym  # registers the ids


def test_every_page_of_the_wheel_has_a_task() -> None:
    if importlib.util.find_spec("miniwob") is None:
        pytest.skip("miniwob is not installed")
    pages = {file.stem for file in (html_folder() / "miniwob").glob("*.html")}
    assert set(TASKS) == pages
    assert len(TASKS) == len(pages) == 130


def test_every_task_has_an_id() -> None:
    ids = {i for i in gym.registry if i.startswith("agentgym/miniwob.")}
    assert ids == {f"agentgym/miniwob.{task}-v0" for task in TASKS}


def test_what_restarts_is_a_task() -> None:
    assert set(TASKS) >= RESTARTABLE
