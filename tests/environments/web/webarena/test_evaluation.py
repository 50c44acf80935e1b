"""The score of a finished episode, rule by rule."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentgym.environments.web.webarena.evaluation import MODES, Evaluation, evaluate, questions_of
from agentgym.environments.web.webarena.functions import SiteFunctions
from agentgym.environments.web.webarena.tasks import Goal, HtmlTarget, WebArenaTask, load_tasks
from agentgym.errors import AgentGymError, BrowserError, ConfigError
from agentgym.tape import Exchange


class Page:
    def __init__(self, url: str = "http://h/last", html: str = "", **values: Any) -> None:
        self.url, self.html, self.values = url, html, values
        self.ran: list[str] = []
        self.files: list[bytes] = []

    def pictures(self, selector: str) -> list[bytes]:
        return self.files

    def content(self) -> str:
        return self.html

    def evaluate(self, expression: str) -> Any:
        self.ran.append(expression)
        value = self.values.get(expression, ValueError("no such element"))
        if isinstance(value, Exception):
            raise value
        return value


class State:
    def __init__(self, answer: str = "", page: Page | None = None, **others: Page) -> None:
        self.answer = answer
        self.page: Page = page or Page()
        self.others = others
        self.visited: list[str] = []
        self.exchanges: list[Exchange] = []

    @contextmanager
    def visit(self, url: str) -> Iterator[Page]:
        self.visited.append(url)
        yield self.others[url]


def task(goal: Goal) -> WebArenaTask:
    return WebArenaTask(7, "Do it", ("http://h",), ("reddit",), goal)


def said(
    answer: str, mode: Any = "compat", because: str = "", family: Any = "original", **rules: Any
) -> Evaluation:
    goal = Goal(("string_match",), answers=rules, impossible_because=because, family=family)
    return evaluate(task(goal), State(answer), mode=mode)


def showing(
    page: Page, mode: Any = "compat", locator: str = "x", family: Any = "original", **rules: Any
) -> float | None:
    goal = Goal(("program_html",), targets=(HtmlTarget("last", locator, rules),), family=family)
    return evaluate(task(goal), State("", page), mode=mode).score


def test_answers_are_cleaned_twice() -> None:
    band = "Quest Lumaflex\u2122 Band"
    assert said('"  quest lumaflex\u2122 band "', exact_match=band).score == 1
    assert said("""'"abc"'""", exact_match="abc").score == 1
    assert said("abcd", exact_match="abc").score == 0


def test_one_reference_of_one_character_is_a_word_and_two_are_not() -> None:
    assert said("12", must_include=["1"]).score == 0
    assert said("12", must_include=["1", "2"]).score == 1
    assert said("100", must_include=["10"]).score == 1
    assert said("100", "strict", must_include=["10"]).score == 0


def test_alternatives_are_split_on_pages_and_not_in_answers() -> None:
    assert said("a", must_include=["a |OR| b"]).score == 0
    assert showing(Page(x="b"), must_include=["a |OR| b"]) == 1
    assert showing(Page(x="c"), must_include=["a |OR| b"]) == 0


def test_impossible_tasks() -> None:
    sure = said("n/a", fuzzy_match="N/A", because="no shop")
    assert (sure.score, sure.questions) == (1, ())  # no judge is asked
    evaluation = said("no such store", fuzzy_match="N/A", because="no shop")
    assert evaluation.score is None
    (question,) = evaluation.questions
    assert (question.kind, question.reference, question.answer) == (
        "same_reason",
        "no shop",
        "no such store",
    )
    assert evaluation.judged([True]).score == 1
    assert evaluation.judged([False]).score == 0
    assert evaluation.judged([None]).score is None


def test_a_judge_is_asked_once_for_each_reference_and_only_if_it_matters() -> None:
    evaluation = said("five o'clock", must_include=["five"], fuzzy_match=["5 pm", "17:00"])
    assert [q.reference for q in evaluation.questions] == ["5 pm", "17:00"]
    assert evaluation.judged([True, False]).score == 0
    assert evaluation.judged([True, True]).score == 1
    assert evaluation.judged([False, None]).score == 0
    assert said("six", must_include=["five"], fuzzy_match=["5 pm"]).questions == ()
    with pytest.raises(ConfigError, match="2 questions"):
        evaluation.judged([True])
    assert [name for name, _ in questions_of({"t": evaluation})] == ["t", "t"]


@pytest.mark.parametrize("family", ["visual", "lite"])
def test_the_rules_of_visual_webarena_and_lite(family: Any) -> None:
    def score(answer: str, mode: Any = "compat", **rules: Any) -> float | None:
        return said(answer, mode, family=family, **rules).score

    assert score("Gold", one_of=["yellow", "gold"]) == 1
    assert score("golden", one_of=["yellow", "gold"]) == 1  # a substring will do
    assert score("golden", "strict", one_of=["yellow", "gold"]) == 0
    assert score("100", must_include=["10"]) == 0  # one word must be a word, in lists too
    assert score("12", must_include=["1", "2"]) == 0
    assert score("a b", must_include=["z |OR| a b"]) == 1  # alternatives, in answers too
    assert score(" a", exact_match="a") == 0  # outer space stays
    assert score("5", required_values=["<= 8"]) == 1
    assert score("5 left", required_values=["<= 8"]) == 0
    page = Page(x="red and blue", y="7", z="a &amp; b")
    assert showing(page, family=family, must_include=["re"]) == 0
    assert showing(page, family=family, must_exclude=["re"]) == 1
    assert showing(page, family=family, must_exclude=["blue"]) == 0
    assert showing(page, family=family, locator="y", required_values=["<= 8"]) == 1
    assert showing(page, family=family, locator="z", exact_match="a & b") == 0
    nothing = Page()
    nothing.values["(() => 0)()"] = 0
    assert showing(nothing, family=family, locator="lambda:() => 0", must_exclude=["x"]) == 0
    url = Goal(("url_match",), url="http://h/la", url_note="GOLD in PRED", family=family)
    assert evaluate(task(url), State("", Page("http://h/last"))).score == 1
    assert evaluate(task(url), State("", Page("https://h/last"))).score == 0


def test_how_often_a_judge_is_asked_depends_on_the_family() -> None:
    asked = {
        family: [q.reference for q in said("x", family=family, fuzzy_match=["a", "b"]).questions]
        for family in ("original", "visual", "lite")
    }
    assert asked == {"original": ["a", "b"], "visual": ["a", "b"], "lite": ["a, b"]}
    target = HtmlTarget("last", "x", {"fuzzy_match": "a |OR| b"})
    goal = Goal(("program_html",), targets=(target,), family="visual")
    evaluation = evaluate(task(goal), State("", Page(x="c")))
    assert [q.reference for q in evaluation.questions] == ["a", "b"]


@pytest.mark.parametrize(
    ("mode", "family", "last"),
    [
        ("compat", "original", "where the agent ended"),
        ("github", "original", "where the first target led"),
        ("compat", "lite", "where the first target led"),
        ("compat", "visual", "where the agent ended"),
        ("strict", "lite", "where the agent ended"),
    ],
)
def test_which_page_is_the_last_one(mode: Any, family: Any, last: str) -> None:
    here = Page(x="where the agent ended")
    there = Page(url="http://h/f/b/3/", x="where the first target led")
    targets = (
        HtmlTarget("http://h/a", "x", {"exact_match": "where the first target led"}),
        HtmlTarget("last", "x", {"exact_match": last}),
    )
    state = State("", here, **{"http://h/a": there, "http://h/f/b/3/": there})
    goal = Goal(("program_html",), targets=targets, family=family)
    assert evaluate(task(goal), state, mode=mode).score == 1


def test_what_a_page_shows_is_python_text() -> None:
    assert showing(Page(x=None), exact_match="None") == 1  # so published scores have it
    assert showing(Page(x=None), exact_match="") == 0
    assert showing(Page(x=0), exact_match="0") == 1
    assert showing(Page(x=3.0), exact_match="3") == 1
    assert showing(Page(x="a &amp; b"), exact_match="A & B") == 1
    assert showing(Page(), exact_match="") == 1  # the element is not there
    assert showing(Page(html="<p>Books</p>"), locator=" ", must_include=["books"]) == 1
    page = Page()
    page.values["(() => 4)()"] = 4
    assert showing(page, locator="lambda:() => 4", exact_match="4") == 1


def test_other_pages_are_visited_in_tabs_of_their_own() -> None:
    here, there = Page(x="last"), Page(url="http://h/a", x="there")
    targets = (
        HtmlTarget("http://h/a", "x", {"exact_match": "there"}, prepare=("open()",)),
        HtmlTarget("last", "x", {"exact_match": "last"}),
        HtmlTarget("func:reddit_get_post_url('__last_url__')", "x", {"exact_match": "there"}),
    )
    here.url = "http://h/f/b/3/title"
    state = State("", here, **{"http://h/a": there, "http://h/f/b/3/": there})
    goal = Goal(("program_html",), targets=targets)
    assert evaluate(task(goal), state, functions=SiteFunctions({})).score == 1
    assert state.visited == ["http://h/a", "http://h/f/b/3/"]
    assert there.ran == ["open()", "x", "x"]
    assert here.ran == ["x"]
    with pytest.raises(BrowserError, match="reddit_get_post_url"):
        evaluate(task(goal), state)


def test_the_score_is_a_product_and_ends_at_the_first_zero() -> None:
    goal = Goal(
        ("string_match", "url_match", "program_html"),
        answers={"exact_match": "yes"},
        url="http://h/last",
        targets=(HtmlTarget("http://h/never", "x", {"exact_match": "z"}),),
    )
    state = State("no", Page())
    evaluation = evaluate(task(goal), state)
    assert evaluation.score == 0
    assert len(evaluation.factors) == 1
    assert state.visited == []
    told = json.loads(json.dumps(evaluation.to_json()))
    assert told["factors"] == [{"name": "string_match.exact_match", "value": 0.0, "detail": "no"}]


def png(seed: int, noise: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (6, 6)), np.ones((8, 8)))
    pixels = np.clip(
        pixels + np.random.default_rng(9).integers(-noise, noise + 1, (48, 48)), 0, 255
    )
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def seen(files: list[bytes], **query: Any) -> Evaluation:
    page = Page()
    page.files = files
    asked = {"eval_image_url": "last", "eval_image_class": ".photo", **query}
    goal = Goal(("page_image_query",), images=(asked,))
    references = {"http://a": png(1), "http://b": png(2)}
    return evaluate(task(goal), State("", page), fetch=references.__getitem__)


def test_pictures_are_compared() -> None:
    match = {"eval_fuzzy_image_match": "http://a |OR| http://b"}
    assert seen([png(3), png(1, noise=3)], **match).score == 1
    assert seen([png(2)], **match).score == 1
    assert seen([png(3)], **match).score == 0
    assert seen([png(3)], **match, ssim_threshold=-1).score == 1
    assert seen([], **match).score == 0
    assert seen([b"<svg/>"], **match).score == 0


def test_questions_about_pictures_are_a_judges() -> None:
    asked = [{"question": "Is this a dog?", "answer": "yes"}]
    evaluation = seen([png(1), png(2)], eval_vqa=asked)
    (question,) = evaluation.questions
    assert (question.kind, question.task, question.reference) == (
        "in_pictures",
        "Is this a dog?",
        "yes",
    )
    assert len(question.pictures) == 2
    assert evaluation.score is None
    assert evaluation.judged([True]).score == 1
    (told,) = json.loads(json.dumps(evaluation.to_json()))["questions"]
    assert told["pictures"][0].startswith("data:image/jpeg;base64,")
    both = seen([png(3)], eval_vqa=asked, eval_fuzzy_image_match="http://a")
    assert (both.score, both.questions) == (0, ())


def test_verified_tasks_are_scored_by_answer_and_network() -> None:
    said = {"task_type": "mutate", "status": "SUCCESS"}
    goal = Goal(
        (),
        verified=(
            {"evaluator": "AgentResponseEvaluator", "expected": said},
            {"evaluator": "NetworkEventEvaluator", "expected": {"url": "http://h/a"}},
        ),
    )
    state = State(json.dumps(said))
    lost = evaluate(task(goal), state)
    assert (lost.score, lost.factors[-1].name) == (0, "network_event[1]")
    assert lost.factors[-1].detail == "no such request"
    state.exchanges = [Exchange("GET", "http://h/a", status=200)]
    assert evaluate(task(goal), state).score == 1
    state.answer = "done"
    assert [f.name for f in evaluate(task(goal), state).factors] == ["agent_response[0]"]


def test_the_mode_is_checked() -> None:
    with pytest.raises(ConfigError, match="mode must be one of"):
        said("a", "kind", exact_match="a")


# ---- task files with mistakes --------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "task_id": 0,
    "sites": ["reddit"],
    "require_login": True,
    "storage_state": "./.auth/reddit_state.json",
    "start_url": "__REDDIT__",
    "intent_template": "Open {{forum}}",
    "instantiation_dict": {"forum": "books"},
    "intent": "Open books",
    "require_reset": False,
    "intent_template_id": 4,
    "eval": {
        "eval_types": ["string_match", "url_match", "program_html"],
        "reference_answers": {"must_include": ["a", "b"]},
        "reference_url": "__REDDIT__/f",
        "url_note": "GOLD in PRED",
        "program_html": [
            {
                "url": "last",
                "locator": "document.title",
                "required_contents": {"must_include": ["a |OR| b"]},
                "prep_actions": ["open()"],
            }
        ],
    },
}
PICTURES = {
    "eval_types": ["page_image_query", "string_match"],
    "page_image_query": [
        {
            "eval_image_url": "last",
            "eval_image_class": ".x",
            "eval_vqa": [{"question": "q", "answer": "a"}],
            "eval_fuzzy_image_match": "http://a",
            "ssim_threshold": -1.0,
        }
    ],
    "reference_answers": {
        "exact_match": "a b",
        "one_of": ["a"],
        "must_exclude": ["z"],
        "fuzzy_match": ["x"],
        "required_values": ["<= 5"],
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "original": PLAIN,
    "lite": PLAIN | {"old_task_id": 5},
    "visual": PLAIN
    | {
        "overall_difficulty": "easy",
        "image": ["http://a"],
        "viewport_size": {"width": 10, "height": 20},
        "eval": PICTURES,
    },
    "verified": {
        "task_id": 3,
        "sites": ["reddit"],
        "intent_template_id": 303,
        "start_urls": ["__REDDIT__"],
        "intent": "i",
        "intent_template": "t",
        "instantiation_dict": {},
        "revision": 2,
        "eval": [
            {
                "evaluator": "AgentResponseEvaluator",
                "ordered": False,
                "results_schema": {"type": "array", "items": {"type": "x", "format": "currency"}},
                "expected": {
                    "task_type": "retrieve",
                    "status": "SUCCESS",
                    "retrieved_data": ["$1"],
                },
            },
            {
                "evaluator": "NetworkEventEvaluator",
                "last_event_only": True,
                "ignored_query_params": ["a"],
                "ignored_query_params_patterns": ["^x"],
                "ignored_post_data_params_patterns": ["^y"],
                "decode_base64_query": True,
                "query_params_schema": {"type": "object", "properties": {"q": {"type": "x"}}},
                "expected": {
                    "url": ["__REDDIT__/a"],
                    "http_method": "POST",
                    "headers": {"Cookie": "^a$", "Referer": "http://h/"},
                    "response_status": 302,
                    "response_cookies": {"c": "1"},
                    "post_data": {"$.a.b": "^x$"},
                    "query_params": {"q": ["1"]},
                },
            },
        ],
    },
}
WRONG: tuple[Any, ...] = (
    None,
    3,
    -1.5,
    "",
    "x",
    True,
    [],
    {},
    [None],
    ["x"],
    {"a": 1},
    [{"a": 1}],
    [[["x"]]],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all that is in a JSON value."""
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    made = json.loads(json.dumps(value))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_a_task_is_named_or_harmless(kind: str, tmp_path: Path) -> None:
    good = KINDS[kind]
    entries = [good | {"task_id": 0}]
    for path in places(good):
        for wrong in WRONG:
            entries.append(changed(good | {"task_id": len(entries)}, path, wrong))
    entries.append(good | {"task_id": len(entries)})
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(entries))
    read = load_tasks(file, {"reddit": "http://h"})
    assert len(read.tasks) + len(read.problems) == len(entries)
    assert all(problem.startswith("tasks.json, task ") for problem in read.problems)
    assert all("field '" in problem for problem in read.problems)
    assert {0, len(entries) - 1} <= {each.id for each in read.tasks}
    said = {"task_type": "retrieve", "status": "SUCCESS", "retrieved_data": ["$1"]}
    state = Everywhere(json.dumps(said) if kind == "verified" else "a b", Page("http://h/f"))
    state.page.files = [png(1)]
    state.exchanges = [
        Exchange("POST", "http://h/a?q=1", status=302, posted='{"a": {"b": "x"}}', asked=(ASKED,))
    ]
    for each in read.tasks:
        for mode in MODES:
            with suppress(AgentGymError):  # a helper that is none, say: the environment's failure
                evaluate(
                    each, state, mode=mode, functions=SiteFunctions({}), fetch=lambda _: png(1)
                ).to_json()


class Everywhere(State):
    """Whatever is visited is the last page."""

    @contextmanager
    def visit(self, url: str) -> Iterator[Page]:
        yield self.page


ASKED = ("content-type", "application/json")
