import json
from collections.abc import Callable
from typing import Any

import pytest

from agentgym.environments.web.axtree import fetch, webarena_text
from agentgym.environments.web.dialects import (
    DIALECTS,
    VOCABULARY,
    Plan,
    WebArenaActions,
    WebRLActions,
    dialect,
    placed,
)
from agentgym.environments.web.inputs import INPUT_ACTIONS, Inputs
from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import mark
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import UnknownNameError

HOSTILE = ["", "\x00", "\ud800", "[" * 9000, "do(" * 9000, "type [1] [", "```", "stop [[[", "f("]


def calls(plan: Plan) -> list[str]:
    assert plan.error == ""
    return [str(call) for call in plan.calls]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("click [12]", ['click("12")']),
        ("click[12]", ['click("12")']),
        ("click [12] where it says Go", ['click("12")']),
        ("hover [3]", ['hover("3")']),
        ("type [5] [red] [0]", ['click("5")', 'type_keys("red")']),
        ("type [5] [red] [1]", ['click("5")', 'type_keys("red\\n")']),
        ("type [5] [red]", ['click("5")', 'type_keys("red\\n")']),
        ("type [5] [a [b] c] [0]", ['click("5")', 'type_keys("a [b] c")']),
        ("type [5] [red] [2]", ['click("5")', 'type_keys("red] [2\\n")']),
        ("press [Control+v]", ['press("Control+v")']),
        ("press [ctrl+A]", ['press("ctrl+A")']),
        ("scroll [down]", ["scroll_pages(1.0)"]),
        ("scroll up", ["scroll_pages(-1.0)"]),
        ("goto [http://a/b?c=[1]]", ['goto("http://a/b?c=[1]")']),
        ("new_tab", ["new_tab()"]),
        ("tab_focus [2]", ["tab_focus(2)"]),
        ("close_tab", ["tab_close()"]),
        ("go_back", ["go_back()"]),
        ("go_forward", ["go_forward()"]),
        ("stop [the answer]", ['answer("the answer")']),
        ("stop [N/A]", ['answer("N/A")']),
        ("stop", ['answer("")']),
        ("stop N/A", ['answer("")']),
        ("  click [4]\n", ['click("4")']),
    ],
)
def test_webarenas_rules(text: str, made: list[str]) -> None:
    assert calls(WebArenaActions().plan(text)) == made


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("jump [1]", "There is no action 'jump'."),
        ("Click [1]", "There is no action 'Click'."),
        ("I click [1]", "There is no action 'I click'."),
        ("", "There is no action ''."),
        ("click [x]", "Could not read 'click [x]'; write click [element]."),
        ("type [1] [two\nlines] [0]", "Could not read 'type [1] [two\\nlines] [0]'; write type "),
        ("scroll [left]", "Could not read 'scroll [left]'; write scroll [direction]."),
    ],
)
def test_what_webarena_cannot_read_does_nothing(text: str, error: str) -> None:
    plan = WebArenaActions().plan(text)
    assert plan.calls == ()
    assert plan.error.startswith(error)


def test_webarenas_fences() -> None:
    text = "I look.\nIn summary, the next action I will perform is ```click [7]``` or ```stop```"
    plan = WebArenaActions(fenced=True).plan(text)
    assert calls(plan) == ['click("7")']
    assert plan.thought.startswith("I look.")
    assert WebArenaActions(fenced=True).plan("click [7]").error
    assert calls(WebArenaActions().plan("click [7]")) == ['click("7")']


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('do(action="Click", element="7")', ['click("7")']),
        ('do(action="Hover", element="7")', ['hover("7")']),
        (
            'do(action="Type", argument="01/01/2023", element="22")',
            ['type("22", "01/01/2023")'],
        ),
        (
            'do(action="Search", argument="shoes", element="13")',
            ['type("13", "shoes")', 'press("Enter")'],
        ),
        ('do(action="Scroll Down")', ['scroll("down", "")']),
        ('do(action="Scroll Up")', ['scroll("up", "")']),
        ('do(action="Press Enter")', ['press("Enter")']),
        ('do(action="Go Backward")', ["go_back()"]),
        ('do(action="Go Forward")', ["go_forward()"]),
        ("go_backward()", ["go_back()"]),
        ('exit(message="3 items")', ['answer("3 items")']),
        ("exit()", ['answer("")']),
        ('# Element: a box\ndo(action="Click", element="7")', ['click("7")']),
        ('do(action="Click", element="1")\ndo(action="Click", element="2")', ['click("2")']),
        (
            'do(action="Type", argument="how to do(x)", element="2")',
            ['type("2", "how to do(x)")'],
        ),
    ],
)
def test_webrls_calls(text: str, made: list[str]) -> None:
    assert calls(WebRLActions().plan(text)) == made


def test_webrls_comment_lines_are_the_thought() -> None:
    plan = WebRLActions().plan('# Note: two left\n# Element: x\ndo(action="Click", element="7")')
    assert plan.thought == "# Note: two left\n# Element: x"


def test_webrls_options_are_named_by_a_part_of_their_label() -> None:
    view = PageView((Element("20", "combobox", "Period", options=("Day", "Month", "12 months")),))
    text = 'do(action="Select Dropdown Option", argument="month", element="20")'
    assert calls(WebRLActions().plan(text, view)) == ['select("20", "Month")']
    assert calls(WebRLActions().plan(text)) == ['select("20", "month")']


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('do(action="Fly")', "action must be one of 'Click'"),
        ('do(action="Click")', 'do(action="Click"): element is missing'),
        ("I am done", "No action found."),
        ("do(action=click)", "Could not read 'do(action=click)'"),
    ],
)
def test_webrls_errors(text: str, error: str) -> None:
    plan = WebRLActions().plan(text)
    assert plan.calls == ()
    assert plan.error.startswith(error)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect(name: str) -> None:
    language = dialect(name)
    assert language.name == name
    assert language.describe()
    tools = language.openai_tools()
    assert json.loads(json.dumps(tools)) == tools
    for tool in tools:
        assert tool["type"] == "function"
        assert set(tool["function"]) == {"name", "description", "parameters"}
    for text in HOSTILE:
        plan = language.plan(text)
        assert plan.calls == () or name == "webarena"
        assert all(call.name in VOCABULARY for call in plan.calls)
    assert language.call("fly", {}).error


def test_tool_calls() -> None:
    webarena, webrl = dialect("webarena"), dialect("webrl")
    typed = {"element": "5", "text": "x", "press_enter_after": 0}
    assert calls(webarena.call("type", typed)) == ['click("5")', 'type_keys("x")']
    assert calls(webarena.call("stop", {})) == ['answer("")']
    assert webarena.call("click", {}).error.endswith("element is missing")
    assert calls(webrl.call("do", {"action": "Click", "element": "3"})) == ['click("3")']
    assert "action is missing" in webrl.call("do", {}).error


def test_unknown_dialects_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="browsergym"):
        dialect("browsergim")


def test_webarenas_elements_are_places() -> None:
    nodes: dict[str, dict[str, Any]] = {
        "7": {"backend_id": 1, "union_bound": [10.0, 20.0, 30.0, 40.0], "text": "[7] link 'a'"},
        "8": {"backend_id": 2, "union_bound": None, "text": "[8] link 'b'"},
    }
    read = WebArenaActions().plan
    assert calls(placed(read("click [7]"), nodes)) == ['click_point(25.0, 40.0, "left", 1)']
    assert calls(placed(read("hover [7]"), nodes)) == ["mouse_move(25.0, 40.0)"]
    assert calls(placed(read("type [7] [x] [0]"), nodes)) == [
        'click_point(25.0, 40.0, "left", 1)',
        'type_keys("x")',
    ]
    assert calls(placed(read("go_back"), nodes)) == ["go_back()"]
    for id in ("8", "9"):
        plan = placed(read(f"click [{id}]"), nodes)
        assert (plan.calls, plan.sources) == ((), ())
        assert plan.error == f"There is no element [{id}]."


@pytest.mark.browser
def test_webarenas_language_on_a_page(page_of: Callable[[str], Page]) -> None:
    page = page_of(
        "<input id=i aria-label=Name><button id=b>Go</button>"
        "<script>b.onclick = () => document.title = i.value</script>"
    )
    inputs = Inputs(page)

    async def act(start: str, text: str) -> None:
        marked = await mark(page)
        tree = await fetch(page, marked)
        shown = webarena_text(tree["nodes"], ["T"], boxes=marked.boxes, viewport=page.size)
        id = next(id for id, node in shown.nodes.items() if f"] {start}" in node["text"])
        plan = placed(WebArenaActions().plan(text.replace("ID", id)), shown.nodes)
        for call in plan.calls:
            assert call.name in INPUT_ACTIONS
            assert await inputs.perform(call, PageView(())) == ""

    page.run(act("textbox 'Name'", "type [ID] [Ann] [0]"))
    page.run(act("button 'Go'", "click [ID]"))
    assert page.run(page.evaluate("document.title")) == "Ann"
