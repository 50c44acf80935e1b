import json

import pytest

from agentgym.actions import ActionCall
from agentgym.environments.web.browsergym_actions import (
    ACTIONS,
    DEFAULT_SUBSETS,
    SUBSETS,
    HighLevelActionSet,
    signature,
)
from agentgym.environments.web.dialects import VOCABULARY

SIGNATURES = """
noop(wait_ms: float = 1000)
send_msg_to_user(text: str)
report_infeasible(reason: str)
scroll(delta_x: float, delta_y: float)
fill(bid: str, value: str, enable_autocomplete_menu: bool = False)
select_option(bid: str, options: str | list[str])
click(bid: str, button: Literal['left', 'middle', 'right'] = 'left', modifiers: \
list[typing.Literal['Alt', 'Control', 'ControlOrMeta', 'Meta', 'Shift']] = [])
hover(bid: str)
press(bid: str, key_comb: str)
focus(bid: str)
clear(bid: str)
drag_and_drop(from_bid: str, to_bid: str)
upload_file(bid: str, file: str | list[str])
scroll_at(x: int, y: int, dx: int, dy: int)
mouse_move(x: float, y: float)
mouse_up(x: float, y: float, button: Literal['left', 'middle', 'right'] = 'left')
mouse_drag_and_drop(from_x: float, from_y: float, to_x: float, to_y: float)
mouse_upload_file(x: float, y: float, file: str | list[str])
keyboard_press(key: str)
goto(url: str)
go_back()
tab_focus(index: int)
new_tab()
"""


def everything() -> HighLevelActionSet:
    return HighLevelActionSet("custom", custom_actions=list(ACTIONS))


def calls(text: str) -> list[str]:
    plan = everything().plan(text)
    assert plan.error == ""
    assert len(plan.sources) == len(plan.calls)
    return [str(call) for call in plan.calls]


@pytest.mark.parametrize("line", SIGNATURES.strip().splitlines())
def test_signatures_are_browsergyms(line: str) -> None:
    assert signature(ACTIONS[line.split("(")[0]]) == line


@pytest.mark.parametrize(
    ("subset", "count"),
    [
        ("chat", 1),
        ("infeas", 1),
        ("bid", 11),
        ("coord", 13),
        ("nav", 3),
        ("tab", 3),
        ("miniwob_all", 10),
        ("miniwob_shi17", 6),
        ("miniwob_liu18", 2),
        ("miniwob_humphreys22", 8),
        ("webarena", 14),
        ("visualwebarena", 15),
        ("workarena", 11),
        ("workarena++", 18),
        ("weblinx", 9),
        ("assistantbench", 8),
        ("timewarp", 11),
    ],
)
def test_subsets(subset: str, count: int) -> None:
    assert len(SUBSETS[subset]) == len(set(SUBSETS[subset])) == count
    assert list(HighLevelActionSet(subset).actions) == ["noop", *SUBSETS[subset]]


def test_the_usual_set_has_all_of_its_subsets_once() -> None:
    wanted = ["noop", *(name for subset in DEFAULT_SUBSETS for name in SUBSETS[subset])]
    assert list(HighLevelActionSet().actions) == wanted


def test_what_is_told_of_an_action() -> None:
    told = HighLevelActionSet("chat").action_set
    assert list(told) == ["noop", "send_msg_to_user"]
    assert told["noop"].signature == "noop(wait_ms: float = 1000)"
    assert told["noop"].description in HighLevelActionSet("chat").describe()
    assert told["noop"].examples == ("noop()", "noop(250)")


def test_wrong_subsets_are_refused() -> None:
    for subsets, message in [
        ([], "empty"),
        ("bids", "Unknown high-level action subspace: bids"),
        ("custom", "custom_actions"),
    ]:
        with pytest.raises(ValueError, match=message):
            HighLevelActionSet(subsets)
    with pytest.raises(ValueError, match="'jump'"):
        HighLevelActionSet("custom", custom_actions=["jump"])


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("noop()", ["wait(1.0)"]),
        ("noop(wait_ms=250)", ["wait(0.25)"]),
        ("send_msg_to_user('yes')", ['answer("yes")']),
        ("report_infeasible('no')", ['infeasible("no")']),
        ("scroll(0, -20)", ["wheel(0.0, -20.0)"]),
        ("fill('a1', 'x')", ['type("a1", "x")']),
        ("fill('a1', 'x', True)", ['type("a1", "x")']),
        ("check('3') uncheck('4')", ['set_checked("3", True)', 'set_checked("4", False)']),
        ("select_option('2', 'a')", ['select_only("2", ["a"])']),
        ("select_option('2', ['a', 'b'])", ['select_only("2", ["a", "b"])']),
        ("click('1')", ['click("1")']),
        ("click('1', button='right')", ['click_with("1", "right", "", 1)']),
        ("dblclick('1')", ['dblclick("1")']),
        (
            "dblclick('1', modifiers=['Alt', 'Shift'])",
            ['click_with("1", "left", "Alt+Shift", 2)'],
        ),
        ("hover('1')", ['hover("1")']),
        ("press('1', 'Control+KeyA')", ['focus("1")', 'press("Control+a")']),
        ("focus('1')", ['focus("1")']),
        ("clear('1')", ['type("1", "")']),
        ("drag_and_drop('1', '2')", ['drag("1", "2")']),
        ("upload_file('1', 'a.txt')", ['upload("1", ["a.txt"])']),
        ("scroll_at(1, 2, 3, 4)", ["mouse_move(1.0, 2.0)", "wheel(3.0, 4.0)"]),
        ("mouse_move(1, 2)", ["mouse_move(1.0, 2.0)"]),
        ("mouse_down(1, 2)", ['mouse_down(1.0, 2.0, "left")']),
        ("mouse_up(1, 2, 'right')", ['mouse_up(1.0, 2.0, "right")']),
        ("mouse_click(1, 2)", ['click_point(1.0, 2.0, "left", 1)']),
        ("mouse_dblclick(1, 2)", ['click_point(1.0, 2.0, "left", 2)']),
        ("mouse_drag_and_drop(1, 2, 3, 4)", ["drag_at(1.0, 2.0, 3.0, 4.0)"]),
        ("mouse_upload_file(1, 2, ['a'])", ['upload("1,2", ["a"])']),
        ("keyboard_down('ShiftLeft')", ['key_down("Shift")']),
        ("keyboard_up('Digit1')", ['key_up("1")']),
        ("keyboard_press('+')", ['press("+")']),
        ("keyboard_type('a b')", ['type_keys("a b")']),
        ("keyboard_insert_text('a')", ['insert_text("a")']),
        ("goto('http://a/')", ['goto("http://a/")']),
        ("go_back() go_forward()", ["go_back()", "go_forward()"]),
        (
            "new_tab() tab_close() tab_focus(2)",
            ["new_tab()", "tab_close()", "tab_focus(2)"],
        ),
    ],
)
def test_what_the_engine_does_for_each(text: str, made: list[str]) -> None:
    assert calls(text) == made


def test_every_example_can_be_carried_out_or_is_said_to_be_missing() -> None:
    actions = everything()
    for line in actions.describe().splitlines():
        if line.startswith("        "):
            plan = actions.plan(line.strip())
            assert plan.error == ""
            assert all(call.name in VOCABULARY for call in plan.calls)
    offered = [name for name in VOCABULARY if name != "upload"]
    assert actions.plan("upload_file('1', 'a')").missing(offered) != ""
    assert actions.plan("click('1')").missing(offered) == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ValueError: Received an empty action."),
        ("I would click", "ValueError: Received an empty action."),
        ("xyz('1')", "NameError: Invalid action type 'xyz'."),
        ("mouse_click(1, 2)", "NameError: Invalid action type 'mouse_click'."),
        ("click(12)", "ValueError: expected a string, got 12"),
        ("click()", "TypeError: click() missing 1 required positional argument: 'bid'"),
        ("click('1', foo=1)", "TypeError: click() got an unexpected keyword argument 'foo'"),
        (
            "click('1', button='up')",
            "Error: Locator.click: button: expected one of (left|right|middle)",
        ),
        (
            "click('1', modifiers=['Super'])",
            "Error: Locator.click: modifiers[0]: expected one of "
            "(Alt|Control|ControlOrMeta|Meta|Shift)",
        ),
        ("fill('1', 2)", "Error: Locator.fill: value: expected string, got number"),
        (
            "scroll('a', 2)",
            "TypeError: unsupported operand type(s) for /: 'str' and 'float'",
        ),
        ("noop('a')", "Error: Page.wait_for_timeout: timeout: expected number, got string"),
        ("tab_focus('a')", "TypeError: list indices must be integers or slices, not str"),
        ("press('1', 2)", "Error: Locator.press: key: expected string, got number"),
        ("send_msg_to_user(3)", "ValueError: Forbidden value: 3 is not a string"),
    ],
)
def test_errors(text: str, error: str) -> None:
    plan = HighLevelActionSet().plan(text)
    assert (plan.calls, plan.error) == ((), error)


def test_calls_before_a_wrong_one_are_carried_out_unless_a_name_is_wrong() -> None:
    plan = HighLevelActionSet().plan("click('1') click(2) click('3')")
    assert plan.calls == (ActionCall("click", {"element": "1"}),)
    assert plan.error == "ValueError: expected a string, got 2"
    assert HighLevelActionSet().plan("click('1') clik('2')").calls == ()


def test_single_actions() -> None:
    plan = HighLevelActionSet(multiaction=False).plan("click('1') click('2')")
    assert plan.error == ("ValueError: Received a multi-action, only single-actions are allowed.")


def test_strict_text_holds_nothing_else() -> None:
    assert "only calls" in HighLevelActionSet(strict=True).plan("I click('1')").error
    assert HighLevelActionSet(strict=True).plan("click('1')").error == ""


def test_code_is_the_calls_alone() -> None:
    actions = HighLevelActionSet()
    code = actions.to_python_code("Now I do\nfill( 'a1' ,'it\\'s', enable_autocomplete_menu=True )")
    assert code == "fill('a1', \"it's\", enable_autocomplete_menu=True)"
    assert actions.plan(code).calls == actions.plan("fill('a1', \"it's\")").calls
    with pytest.raises(NameError, match=r"Invalid action type 'exec'\."):
        actions.to_python_code("exec('1')")


def test_the_description_has_browsergyms_layout() -> None:
    assert HighLevelActionSet("chat").describe() == (
        "\n2 different types of actions are available.\n\n"
        "noop(wait_ms: float = 1000)\n"
        "    Description: Let some time pass (in milliseconds) and do nothing.\n"
        "    Examples:\n        noop()\n\n        noop(250)\n\n"
        "send_msg_to_user(text: str)\n"
        "    Description: Say something to the user; this is also how a question is answered.\n"
        "    Examples:\n        send_msg_to_user('The cheapest one costs $12.')\n\n"
        "Several actions may be given at once; they are carried out one after the other, and the "
        "page is not shown in between.\nMore than two or three often fail. Example:\n"
        "noop(250)\nsend_msg_to_user('The cheapest one costs $12.')\nnoop()\n"
    )
    short = HighLevelActionSet("miniwob_liu18", multiaction=False).describe(False, False)
    assert short.startswith(
        "\n3 different types of actions are available.\n\nnoop(wait_ms: float = 1000)\nclick("
    )
    example = short.splitlines()[-1]
    assert short.endswith(f"Only a single action can be provided at once. Example:\n{example}\n")
    assert example.split("(")[0] in ("click", "fill")
    assert "Description" not in short


def test_examples_come_from_filling_and_clicking() -> None:
    lines = HighLevelActionSet("miniwob_all").example_action(abstract=False).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.split("(")[0] in ("fill", "click", "mouse_click", "keyboard_type")
    one = HighLevelActionSet("miniwob_all", multiaction=False)
    assert one.example_action(abstract=True).startswith("One single action")
    assert len(one.example_action(abstract=False).splitlines()) == 1


def test_tools() -> None:
    actions = everything()
    flat = {tool["name"]: tool for tool in actions.to_tool_description()}
    assert set(flat) == set(ACTIONS)
    assert flat["click"]["type"] == "function"
    assert flat["click"]["parameters"] == {
        "type": "object",
        "properties": {
            "bid": {"type": "string"},
            "button": {
                "type": "string",
                "enum": ["left", "middle", "right"],
                "default": "left",
            },
            "modifiers": {
                "type": "array",
                "items": {
                    "type": "string",
                    "enum": ["Alt", "Control", "ControlOrMeta", "Meta", "Shift"],
                },
                "default": [],
            },
        },
        "required": ["bid"],
        "additionalProperties": False,
    }
    other = actions.to_tool_description(api="anthropic", add_examples=False)[0]
    assert set(other) == {"name", "description", "input_schema"}
    nested = actions.openai_tools()
    assert json.loads(json.dumps(nested)) == nested
    assert {tool["function"]["name"] for tool in nested} == set(ACTIONS)
    options = next(t for t in nested if t["function"]["name"] == "select_option")
    assert options["function"]["parameters"]["properties"]["options"] == {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    }


def test_tool_calls_are_read() -> None:
    actions = HighLevelActionSet()
    assert actions.call("fill", {"bid": "3", "value": "x"}) == actions.plan("fill('3', 'x')")
    assert actions.call("fly", {}).error == "NameError: Invalid action type 'fly'."
    assert actions.call("click", {}).error.startswith("TypeError: click() missing")
