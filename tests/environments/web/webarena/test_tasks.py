"""WebArena's task files."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.web.webarena.tasks import SITES, load_tasks, site_addresses
from agentgym.errors import ConfigError

ADDRESSES = {site: f"http://{site.replace('_', '-')}.test:7770/" for site in SITES}


def raw(**changes: Any) -> dict[str, Any]:
    goal = {
        "eval_types": ["string_match", "url_match", "program_html"],
        "reference_answers": {"must_include": ["a", "b"]},
        "reference_url": "__REDDIT__/f/books",
        "program_html": [
            {
                "url": "__REDDIT__/",
                "locator": "document.querySelector('[name=\"x\"').value",
                "required_contents": {"must_include": ["Books |OR| Novels"]},
            }
        ],
        "url_note": "GOLD in PRED",
    }
    task = {
        "task_id": 599,
        "sites": ["reddit"],
        "require_login": True,
        "storage_state": "./.auth/reddit_state.json",
        "start_url": "__REDDIT__ |AND| __SHOPPING_ADMIN__/x",
        "geolocation": None,
        "intent_template": "Open {{forum}}",
        "instantiation_dict": {"forum": "books"},
        "intent": "Open books at __REDDIT__",
        "require_reset": False,
        "eval": goal,
        "intent_template_id": 4,
    }
    return task | changes


def with_eval(**changes: Any) -> dict[str, Any]:
    return raw(eval=raw()["eval"] | changes)


def load(tmp_path: Path, *entries: Any, sites: Any = ADDRESSES) -> Any:
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(list(entries)))
    return load_tasks(file, sites)


def test_marks_are_filled_wherever_they_stand(tmp_path: Path) -> None:
    (task,) = load(tmp_path, raw()).tasks
    assert task.start_urls == ("http://reddit.test:7770", "http://shopping-admin.test:7770/x")
    assert task.intent == "Open books at http://reddit.test:7770"
    assert task.goal.url == "http://reddit.test:7770/f/books"
    assert task.goal.targets[0].url == "http://reddit.test:7770/"
    assert task.variables == {"forum": "books"}
    assert task.extra == {"geolocation": None}
    assert task.feasible
    assert not task.needs_judge


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("text", "object"),
        (raw(task_id="1"), "task_id"),
        (raw(intent=None), "intent"),
        (raw(start_url=""), "start_url"),
        (raw(sites="reddit"), "sites"),
        (raw(eval=3), "eval"),
        (with_eval(eval_types=["guess"]), "eval.eval_types"),
        (with_eval(reference_answers={"sounds_like": "x"}), "reference_answers"),
        (with_eval(reference_answers={"must_include": [1]}), "must_include"),
        (with_eval(reference_url=None), "reference_url"),
        (with_eval(url_note="ROUGHLY"), "url_note"),
        (with_eval(program_html=[]), "program_html"),
        (with_eval(program_html=[{"url": "last", "locator": "alert(1)"}]), "required_contents"),
        (raw(start_url="__MAP__"), "WA_MAP"),
    ],
)
def test_a_bad_task_is_named_and_the_others_load(tmp_path: Path, entry: Any, words: str) -> None:
    sites = {k: v for k, v in ADDRESSES.items() if k != "map"}
    read = load(tmp_path, raw(task_id=1), entry, raw(task_id=2), sites=sites)
    assert [task.id for task in read.tasks] == [1, 2]
    (problem,) = read.problems
    assert problem.startswith("tasks.json, task ")
    assert words in problem


def test_two_tasks_of_one_number(tmp_path: Path) -> None:
    read = load(tmp_path, raw(), raw())
    assert len(read.tasks) == 1
    assert "task 599" in read.problems[0]
    assert read.by_id(599).id == 599
    with pytest.raises(ConfigError, match="no task 3"):
        read.by_id(3)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "missing.json"):
        with pytest.raises(ConfigError, match=name):
            load_tasks(tmp_path / name, ADDRESSES)


def test_visual_and_verified_tasks(tmp_path: Path) -> None:
    visual = with_eval(url_note=None) | {
        "overall_difficulty": "easy",
        "image": "http://h/a.png",
        "viewport_size": {"width": 1280},
    }
    expected = {"task_type": "navigate", "status": "NOT_FOUND_ERROR", "retrieved_data": None}
    verified = {
        "task_id": 44,
        "sites": ["gitlab"],
        "intent_template_id": 303,
        "start_urls": ["__GITLAB__"],
        "intent": "Open my todos page",
        "intent_template": "Open my todos page",
        "instantiation_dict": {},
        "eval": [{"evaluator": "AgentResponseEvaluator", "expected": expected}],
        "revision": 2,
    }
    first, second = load(tmp_path, visual, verified).tasks
    assert (first.goal.url_note, first.images, first.viewport) == (
        "EXACT",
        ("http://h/a.png",),
        (1280, 720),
    )
    assert second.start_urls == ("http://gitlab.test:7770",)
    assert second.revision == 2
    assert not second.feasible


def test_addresses_from_the_environment() -> None:
    found = site_addresses({"WA_REDDIT": "http://h:9999/", "MAP": "https://m", "OTHER": "x"})
    assert found == {"reddit": "http://h:9999", "map": "https://m"}
    with pytest.raises(ConfigError, match="WA_GITLAB"):
        site_addresses({"WA_GITLAB": "file:///etc/passwd"})


def test_the_published_counts() -> None:
    """On WebArena's own file, where its package is installed (it is no dependency)."""
    spec = importlib.util.find_spec("webarena")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders if (file := Path(folder) / "test.raw.json").is_file()]
    if not files:
        pytest.skip("libwebarena is not installed")
    read = load_tasks(files[0], ADDRESSES)
    assert read.problems == ()
    tasks = read.tasks
    assert len(tasks) == 812
    assert len({task.template_id for task in tasks}) == 190
    assert sum(not task.needs_judge for task in tasks) == 694
    assert sum(not task.feasible for task in tasks) == 36
    assert [task.id for task in tasks if len(task.start_urls) > 1] == [431, 432, 433, 434, 435]
    assert Counter(task.goal.kinds for task in tasks) == {
        ("string_match",): 325,
        ("program_html",): 282,
        ("url_match", "program_html"): 129,
        ("url_match",): 66,
        ("string_match", "url_match"): 10,
    }
    lone = [
        task
        for task in tasks
        for must in [task.goal.answers.get("must_include", ())]
        if "string_match" in task.goal.kinds and len(must) == 1 and len(must[0]) == 1
    ]
    assert len(lone) == 31
