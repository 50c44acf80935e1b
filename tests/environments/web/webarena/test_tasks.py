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
        (raw(start_url="__REDDIT__ |AND| file:///etc/passwd"), "start_url"),
        (raw(storage_state=3), "storage_state"),
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
    assert first.goal.family == "visual"
    lite = load(tmp_path, raw(old_task_id=3)).tasks[0]
    assert (lite.goal.family, lite.extra["old_task_id"]) == ("lite", 3)
    assert second.start_urls == ("http://gitlab.test:7770",)
    assert second.revision == 2
    assert not second.feasible


def test_addresses_from_the_environment() -> None:
    found = site_addresses({"WA_REDDIT": "http://h:9999/", "MAP": "https://m", "OTHER": "x"})
    assert found == {"reddit": "http://h:9999", "map": "https://m"}
    with pytest.raises(ConfigError, match="WA_GITLAB"):
        site_addresses({"WA_GITLAB": "file:///etc/passwd"})


def published(package: str, file: str) -> Any:
    """A task file of a package that is no dependency, where it is installed."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [found for folder in folders if (found := Path(folder) / file).is_file()]
    if not files:
        pytest.skip(f"{package} is not installed")
    read = load_tasks(files[0], ADDRESSES)
    assert read.problems == ()
    return read.tasks


def test_the_published_counts() -> None:
    tasks = published("webarena", "test.raw.json")
    assert len(tasks) == 812
    assert len({task.template_id for task in tasks}) == 190
    assert {task.goal.family for task in tasks} == {"original"}
    assert Counter(task.sites for task in tasks) == {
        ("shopping",): 187,
        ("shopping_admin",): 182,
        ("gitlab",): 180,
        ("map",): 109,
        ("reddit",): 106,
        ("wikipedia", "map"): 16,
        ("map", "wikipedia"): 1,
        ("gitlab", "reddit"): 10,
        ("reddit", "gitlab"): 8,
        ("gitlab", "wikipedia"): 6,
        ("shopping", "reddit"): 5,
        ("map", "shopping_admin"): 2,
    }
    assert Counter(task.goal.kinds for task in tasks) == {
        ("string_match",): 325,
        ("program_html",): 282,
        ("url_match", "program_html"): 129,
        ("url_match",): 66,
        ("string_match", "url_match"): 10,
    }
    assert sum(not task.needs_judge for task in tasks) == 694
    assert sum(not task.feasible for task in tasks) == 36
    assert sum(not task.storage_state for task in tasks) == 128
    assert [task.id for task in tasks if len(task.start_urls) > 1] == [431, 432, 433, 434, 435]


def test_the_published_references() -> None:
    tasks = published("webarena", "test.raw.json")
    lone = [
        task.id
        for task in tasks
        for must in [task.goal.answers.get("must_include", ())]
        if "string_match" in task.goal.kinds and len(must) == 1 and len(must[0]) == 1
    ]
    assert lone == [
        *range(11, 16), *range(27, 32), 77, 79, 128, *range(132, 137), 144, 205, 206, 207,
        *(292, 303, 305, 306, 319, 329, 346, 348, 787),
    ]  # fmt: skip
    fuzzy = [t.goal.answers["fuzzy_match"] for t in tasks if "fuzzy_match" in t.goal.answers]
    lists = [references for references in fuzzy if references != "N/A"]
    assert (len(lists), sum(map(len, lists))) == (82, 145)
    assert sum(" |OR| " in t.goal.url and "url_match" in t.goal.kinds for t in tasks) == 7
    alternatives = [
        task.id
        for task in tasks
        if any(
            " |OR| " in item
            for g in task.goal.targets
            for item in g.required.get("must_include", ())
        )
    ]
    assert alternatives == [431, 750, 751, 755, 756]


def test_the_published_targets() -> None:
    tasks = published("webarena", "test.raw.json")
    targets = [g for task in tasks for g in task.goal.targets if "program_html" in task.goal.kinds]
    where = Counter(g.url if g.url == "last" else g.url.partition("(")[0][:4] for g in targets)
    assert where == {"last": 238, "http": 338, "func": 75}
    elsewhere = [
        t
        for t in tasks
        if "program_html" in t.goal.kinds and any(g.url != "last" for g in t.goal.targets)
    ]
    assert len(elsewhere) == 302
    starts = Counter(g.locator.strip().partition(".")[0].partition(":")[0] for g in targets)
    assert starts == {"": 105, "document": 519, "[": 5, "func": 22}
    assert Counter(rule for g in targets for rule in g.required) == {
        "must_include": 463,
        "exact_match": 188,
    }
    assert sum(bool(g.prepare) for g in targets) == 10


def test_the_published_counts_of_other_files() -> None:
    visual = published("visualwebarena", "test_raw.json")
    assert len(visual) == 910
    assert {task.goal.family for task in visual} == {"visual"}
    assert sum("page_image_query" in task.goal.kinds for task in visual) == 42
    assert sum(task.require_reset for task in visual) == 62
    notes = Counter(t.goal.url_note for t in visual if "url_match" in t.goal.kinds)
    assert notes == {"EXACT": 195, "GOLD in PRED": 29}


def test_the_published_counts_of_verified_tasks() -> None:
    tasks = published("webarena_verified", "assets/dataset/webarena-verified.json")
    assert len(tasks) == 812
    said = [
        e["expected"]
        for task in tasks
        for e in task.goal.verified
        if e["evaluator"] == "AgentResponseEvaluator"
    ]
    assert Counter(e["task_type"] for e in said) == {
        "retrieve": 325,
        "mutate": 374,
        "navigate": 113,
    }
    assert Counter(e["status"] for e in said)["SUCCESS"] == 772
    kinds = Counter(e["evaluator"] for task in tasks for e in task.goal.verified)
    assert kinds == {"AgentResponseEvaluator": 812, "NetworkEventEvaluator": 663}
    assert sum(not task.feasible for task in tasks) == 40
