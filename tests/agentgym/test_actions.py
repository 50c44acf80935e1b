"""Actions: the codec both ways in every syntax, and what hostile text does to it."""

import copy
import json
import pickle
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.actions import MAX_TEXT, SYNTAXES, ActionCall, ActionSet, ActionSpec, Parameter
from agentgym.errors import ActionParseError, ConfigError


def click(element: str, button: Literal["left", "right"] = "left") -> None:
    """Click an element.

    More that no prompt needs.
    """


def fill(element: str, text: str, clear: bool = True) -> None:
    """Fill a field."""


def move(x: float, y: float, times: int = 1) -> None:
    """Move the mouse."""


def choose(options: list[str]) -> None:
    """Choose options."""


def back() -> None:
    """Go back."""


ACTIONS = ActionSet([click, fill, move, choose, back])
STRUCTURED = tuple(s for s in SYNTAXES if s != "text")  # the plain line has a test of its own
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CALLS = st.one_of(
    st.builds(lambda e: ACTIONS.call("click", e), TEXT),
    st.builds(lambda e, t, c: ACTIONS.call("fill", e, t, c), TEXT, TEXT, st.booleans()),
    st.builds(
        lambda x, y, n: ACTIONS.call("move", x, y, n),
        st.floats(-1e6, 1e6),
        st.floats(-1e6, 1e6),
        st.integers(-(2**63) + 1, 2**63 - 1),
    ),
    st.builds(lambda o: ACTIONS.call("choose", o), st.lists(TEXT, min_size=1, max_size=3)),
    st.builds(lambda: ACTIONS.call("back")),
)


@pytest.mark.parametrize("syntax", STRUCTURED)
@given(call=CALLS)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(syntax: str, call: ActionCall) -> None:
    text = ACTIONS.format(call, syntax)
    assert ACTIONS.parse(text, syntax)[0] == call
    with_thought = f"Some thought, no call.\n{text}"
    parsed, thought = ACTIONS.parse(with_thought, syntax)
    assert parsed == call
    assert thought == "Some thought, no call."


@given(call=CALLS)
@settings(max_examples=100, deadline=None)
def test_the_canonical_form_is_read_back(call: ActionCall) -> None:
    assert ACTIONS.parse(str(call))[0] == call


@pytest.mark.parametrize("syntax", STRUCTURED)
@given(text=st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_reading_never_an_exception(syntax: str, text: str) -> None:
    reading = ACTIONS.read(text, syntax)
    assert (reading.call is None) == bool(reading.error)
    json.dumps(reading.info()).encode("utf-8")  # valid whatever came in


@pytest.mark.parametrize(
    "text",
    [
        "click(" * 5000,
        "click" + "(" * 5000,
        "(" * 100_000,
        "[" * 100_000,
        "{" * 100_000,
        '{"a":' * 5000,
        'click("' + "x" * 1_000_000,
        "click(" + "-" * 8000 + "1)",
        "\ud800\udfff",
        "\x00" * 5000,
        "click(__import__('os').system('true'))",
        "click(9**9**9)",
        "click(" + "9" * 5000 + ")",
        "move(" + "9" * 5000 + ", 1)",
        "choose(" + "[" * 900 + "]" * 900 + ")",
        '{"name": "choose", "arguments": {"options": ' + "[" * 900 + "]" * 900 + "}}",
        '{"name": "move", "arguments": {"x": ' + "9" * 400 + ', "y": 1}}',
        '{"name": "move", "arguments": {"x": 1, "y": 1, "times": ' + "9" * 400 + "}}",
        "`" * 8000 + "\n" * 8000,
        "back" + " " * 100_000 + "x",
    ],
)
@pytest.mark.parametrize("syntax", STRUCTURED)
def test_hostile_text_is_told_not_raised_or_run(text: str, syntax: str) -> None:
    reading = ACTIONS.read(text, syntax)
    assert reading.call is None
    assert reading.error
    assert len(reading.error) < 500
    assert len(reading.thought) <= MAX_TEXT


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("python", 'click("\ud800x")'),
        ("python", 'click("\\ud800x")'),
        ("json", '{"name": "click", "arguments": {"element": "\\ud800x"}}'),
        ("json", '{"name": "click", "arguments": {"element": "\ud800x"}}'),
        ("bracket", "click [\ud800x]"),
    ],
)
def test_halves_of_characters_never_reach_an_environment(syntax: str, text: str) -> None:
    reading = ACTIONS.read(text, syntax)
    assert reading.call == ACTIONS.call("click", "\ufffdx")
    json.dumps(reading.info(), ensure_ascii=False).encode()


def test_halves_that_belong_together_are_joined() -> None:
    text = r'choose(["\ud83d\ude42", "\ud83d"])'
    assert ACTIONS.parse(text)[0].arguments["options"] == ["🙂", "\ufffd"]


def test_no_depth_of_nesting_is_raised() -> None:
    for depth in (*range(100, 1100, 100), *range(900, 1010)):
        options = "[" * depth + "]" * depth
        text = f'{{"name": "choose", "arguments": {{"options": {options}}}}}'
        assert ACTIONS.read(text, "json").error


@pytest.mark.parametrize("value", [None, 3, b"click(1)", ["click(1)"]])
def test_what_is_no_text_is_told(value: Any) -> None:
    assert "an action is text" in ACTIONS.read(value).error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click('a12')", ("click", "a12")),
        ("click(element='a12')", ("click", "a12")),
        ("click(12)", ("click", "12")),
        ("First click('1'), no: click('2')", ("click", "2")),
        ("```python\nclick('3')\n```", ("click", "3")),
        ("fill('1', 'call click(9) now')", ("fill", "1")),
        ('I would say "click" and then click("4").', ("click", "4")),
        ('fill("1", "two\nlines")', ("fill", "1")),
    ],
)
def test_python_calls_as_models_write_them(text: str, expected: tuple[str, str]) -> None:
    call, _ = ACTIONS.parse(text)
    assert (call.name, call.arguments["element"]) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "click", "arguments": {"element": "7"}}',
        '{"name": "click", "arguments": "{\\"element\\": 7}"}',
        '{"type": "function", "function": {"name": "click", "arguments": {"element": "7"}}}',
        '<tool_call>\n{"name": "click", "parameters": {"element": "7"}}\n</tool_call>',
        'First {"x": 1}, then {"name": "click", "arguments": {"element": "7"}}',
    ],
)
def test_tool_calls_in_their_usual_shapes(text: str) -> None:
    assert ACTIONS.parse(text, "json")[0] == ACTIONS.call("click", "7")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("click [12]", {"element": "12", "button": "left"}),
        ("In summary, I click.\n```click [12]```", {"element": "12", "button": "left"}),
        ("fill [3] [a [b] c]", {"element": "3", "text": "a [b] c", "clear": True}),
        ("fill [3] [x] [0]", {"element": "3", "text": "x", "clear": False}),
        ("move [1.5] [2]", {"x": 1.5, "y": 2.0, "times": 1}),
        ("back", {}),
    ],
)
def test_brackets(text: str, arguments: dict[str, Any]) -> None:
    assert dict(ACTIONS.parse(text, "bracket")[0].arguments) == arguments


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "The action was empty"),
        ("nothing here", "No action found. Write one, e.g."),
        ("clik('1')", "Unknown action 'clik'. Did you mean click(element: str"),
        ("teleport('1')", "Unknown action 'teleport'. Actions: click, fill, move, choose, back"),
        ("click()", "element is missing"),
        ("click('1', 'left', 3)", "at most 2 arguments, got 3"),
        ("click('1', colour='red')", "has no argument 'colour'"),
        ("click('1', element='2')", "element is given twice"),
        ("click('1', 'middle')", "button must be one of 'left', 'right', got 'middle'"),
        ("move('far', 1)", "x must be float, got 'far'"),
        ("move(1e999, 1)", "x must be float"),
        ("move(1, 2, 1.5)", "times must be int, got 1.5"),
        ("fill('1', 'x', 'maybe')", "clear must be bool"),
        ("click(x)", "Could not read 'click(x)'"),
        ("click(*'1')", "Could not read"),
    ],
)
def test_errors_tell_the_agent_what_to_do(text: str, told: str) -> None:
    assert told in ACTIONS.read(text).error


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", 12, "12"),
        ("integer", " 7 ", 7),
        ("integer", 7.0, 7),
        ("number", "1.5", 1.5),
        ("number", 2, 2.0),
        ("boolean", "true", True),
        ("boolean", 0, False),
        ("array", "one", ["one"]),
        ("array", (1, "b"), ["1", "b"]),
        ("array", '["one", 2]', ["one", "2"]),
        ("array", "[not a list", ["[not a list"]),
        ("array", "[[1]]", ["[[1]]"]),
        ("integer", "9223372036854775807", 2**63 - 1),
    ],
)
def test_values_are_read_as_what_was_meant(kind: str, value: Any, expected: Any) -> None:
    got = Parameter("p", kind).coerce(value)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", True),
        ("integer", "7.5"),
        ("integer", 2**63),
        ("integer", "9999999999999999999"),
        ("integer", 1e30),
        ("number", "nan"),
        ("number", 10**400),
        ("number", False),
        ("string", None),
        ("string", [1]),
        ("array", 3),
        ("array", [["a"]]),
    ],
)
def test_values_of_other_types_are_refused(kind: str, value: Any) -> None:
    with pytest.raises(ActionParseError, match="p must be"):
        Parameter("p", kind).coerce(value)


def test_openai_tools() -> None:
    tool = ACTIONS.openai_tools()[0]["function"]
    assert (tool["name"], tool["description"]) == ("click", "Click an element.")
    assert tool["parameters"] == {
        "type": "object",
        "properties": {
            "element": {"type": "string"},
            "button": {"type": "string", "enum": ["left", "right"], "default": "left"},
        },
        "required": ["element"],
        "additionalProperties": False,
    }
    assert ACTIONS.openai_tools()[3]["function"]["parameters"]["properties"]["options"] == {
        "type": "array",
        "items": {"type": "string"},
    }


def test_descriptions_for_prompts() -> None:
    assert ACTIONS.describe().splitlines()[1] == (
        "fill(element: str, text: str, clear: bool = True): Fill a field."
    )
    assert ACTIONS.describe("bracket").splitlines()[1] == (
        "fill [element] [text] [clear]: Fill a field."
    )
    assert json.loads(ACTIONS.describe("json").splitlines()[4])["name"] == "back"


def test_the_plain_line() -> None:
    actions = ActionSet([ActionSpec("command", "Do it.", (Parameter("text"),))])
    call, thought = actions.parse("I need the lamp.\n> take lamp", "text")
    assert call.arguments["text"] == "take lamp"
    assert thought == "I need the lamp."
    assert actions.read("x" * 1_000_000, "text").call is not None
    assert actions.read(" \n\t", "text").call is None
    assert actions.read("", "text").error == "The action was empty. " + actions.describe("text")
    assert actions.describe("text") == "Write one line of plain text. Do it."
    assert actions.format(call, "text") == "take lamp"
    for wrong in (ACTIONS, ActionSet([back]), ActionSet([choose])):
        for use in (wrong.describe, lambda syntax, wrong=wrong: wrong.parse("x", syntax)):
            with pytest.raises(ConfigError, match="one action with one text parameter"):
                use("text")


def test_action_sets_can_be_copied_and_sent_to_other_processes() -> None:
    for again in (copy.deepcopy(ACTIONS), pickle.loads(pickle.dumps(ACTIONS))):
        assert dict(again) == dict(ACTIONS)
        assert again["click"].parameters[0].required
        assert again.parse("click('1')") == ACTIONS.parse("click('1')")


def test_samples_are_valid_and_seeded() -> None:
    def drawn(seed: int) -> list[ActionCall]:
        rng = np.random.default_rng(seed)
        return [ACTIONS.sample(rng) for _ in range(50)]

    for call in drawn(0):
        assert ACTIONS.parse(ACTIONS.format(call))[0] == call
    assert {c.name for c in drawn(0)} == set(ACTIONS)
    assert drawn(0) == drawn(0) != drawn(1)


def test_mistakes_of_the_programmer_are_raised() -> None:
    with pytest.raises(ConfigError, match="must differ"):
        ActionSet([click, click])
    with pytest.raises(ConfigError, match="syntax must be one of"):
        ACTIONS.parse("click(1)", "yaml")
    with pytest.raises(ActionParseError, match="Did you mean"):
        ACTIONS.call("clicks", "1")

    def draw(points: dict[str, int]) -> None:
        """Draw."""

    def shout(*words: str) -> None:
        """Shout."""

    for function, parameter in ((draw, "points"), (shout, "words")):
        with pytest.raises(ConfigError, match=rf"parameter \*?{parameter}.* cannot be an action's"):
            ActionSpec.from_function(function)
