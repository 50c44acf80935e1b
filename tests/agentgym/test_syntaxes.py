"""Finders and writers: what is written is found again, in time linear in the text."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym import syntaxes
from agentgym.errors import ActionParseError
from agentgym.syntaxes import (
    MAX_CANDIDATES,
    find_bracket,
    find_json,
    find_python,
    find_text,
    write_bracket,
    write_json,
    write_python,
    write_text,
)

KNOWN = ("fill", "click", "back")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TRICKY = st.one_of(
    TEXT,
    st.text("\"'\\()[]{},=\n\t `", max_size=12),
    st.sampled_from(['click("a")', "x\nback", "fill [a] [b]", "\\", '"""', "\\u00e9", "\\d+"]),
)
VALUES = st.one_of(
    TRICKY,
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TRICKY, max_size=3),
)


def only(found: Any) -> Any:
    """The one call that is found, without its position."""
    (call,) = found
    return (call[0], list(call[1]), dict(call[2]))


@given(st.lists(VALUES, max_size=4))
@settings(max_examples=300, deadline=None)
def test_python_calls_are_found_again(values: list[Any]) -> None:
    assert only(find_python(write_python("fill", values), KNOWN)) == ("fill", values, {})


@given(st.dictionaries(TEXT, VALUES, max_size=4))
@settings(max_examples=200, deadline=None)
def test_json_calls_are_found_again(arguments: dict[str, Any]) -> None:
    assert only(find_json(write_json("fill", arguments), KNOWN)) == ("fill", [], arguments)


@given(st.lists(TRICKY, max_size=4))
@settings(max_examples=300, deadline=None)
def test_bracket_calls_are_found_again(values: list[str]) -> None:
    assert only(find_bracket(write_bracket("fill", values), KNOWN)) == ("fill", values, {})


@given(TRICKY)
@settings(max_examples=100, deadline=None)
def test_plain_lines_are_found_again(value: str) -> None:
    line = write_text(value)
    assert "\n" not in line
    for found in find_text(f"A thought.\n{line}", KNOWN):
        assert found[1][0] in (line, "A thought.") or found[1][0] in line


@pytest.mark.parametrize(
    ("source", "values"),
    [
        # What Python itself says these literals are.
        (r'"\x41\u00e9\U0001F642\101\n\t\\\"\'"', "Aé🙂A\n\t\\\"'"),
        (r'"\d \q"', r"\d \q"),  # unknown escapes stay, without Python's warning
        ('"a\\\nb"', "ab"),
        ('r"\\n"', "\\n"),
        ('"a" \'b\' "c"', "abc"),
        ('"""a"""', "a"),
        (r'"\U00110000"', r"\U00110000"),
        ('"two\nlines"', "two\nlines"),
    ],
)
def test_strings(source: str, values: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert only(find_python(f"fill({source})", KNOWN)) == ("fill", [values], {})


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("1, -2, +3, 1.5, .5, 2., 1e3, -1E-2", [1, -2, 3, 1.5, 0.5, 2.0, 1000.0, -0.01]),
        ("True, false, None, null", [True, False, None, None]),
        ("['a', 1], ('b',), ()", [["a", 1], "b", []]),
        ("[[1, 2], [3]], ('x')", [[[1, 2], [3]], "x"]),
        ('"a",', ["a"]),
        ('\n  "a",\n  2,\n', ["a", 2]),
        ("", []),
    ],
)
def test_literals(source: str, values: list[Any]) -> None:
    assert only(find_python(f"fill({source})", KNOWN)) == ("fill", values, {})


def test_named_arguments() -> None:
    found = only(find_python("fill('a', text = 'b', clear=True)", KNOWN))
    assert found == ("fill", ["a"], {"text": "b", "clear": True})


@pytest.mark.parametrize(
    "source",
    [
        "x",
        "x.y",
        "f('a')",
        "1 + 2",
        "9**9",
        "'a' * 9",
        "*'ab'",
        "**{}",
        "{'a': 1}",
        "a='x', a='y'",
        "a='x', 'y'",
        "a=",
        "=1",
        ",",
        "'a',, 'b'",
        "'a' 1",
        "[1)",
        "[1",
        "'a",
        "f'a'",
        "b'a'",
        "0x10",
        "1_000",
        "1" * 21,
        "[" * 9 + "]" * 9,
        "lambda: 0",
        "a if b else c",
    ],
)
def test_what_is_no_literal_is_told(source: str) -> None:
    with pytest.raises(ActionParseError, match=r"Could not read ['\"]fill"):
        list(find_python(f"fill({source})", KNOWN))


def test_calls_come_last_first_with_their_places() -> None:
    text = "click('1') and fill('2')"
    assert [(name, start) for name, _, _, start in find_python(text, KNOWN)] == [
        ("fill", 15),
        ("click", 0),
    ]
    lines = "click [1]\nfill [2]"
    assert [(name, start) for name, _, _, start in find_bracket(lines, KNOWN)] == [
        ("fill", 10),
        ("click", 0),
    ]
    objects = '{"name": "click"} {"name": "fill"}'
    assert [(name, start) for name, _, _, start in find_json(objects, KNOWN)] == [
        ("fill", 18),
        ("click", 0),
    ]


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (find_python, "fill('1', 'click(9)')"),
        (find_python, "fill('1', 'then (click(9))', 'back()')"),
        (find_bracket, "fill [1] [two\nback\nlines]"),
        (find_bracket, "fill [1] [click [9]]"),
        (find_json, '{"name": "fill", "arguments": {"text": {"name": "click"}}}'),
    ],
)
def test_calls_inside_arguments_are_none(find: Callable[..., Any], text: str) -> None:
    assert only(find(text, KNOWN))[0] == "fill"


def test_a_call_that_was_cut_off_hides_what_it_holds() -> None:
    with pytest.raises(ActionParseError, match="Could not read"):
        list(find_python("fill('1', 'please click(9)", KNOWN))


def test_json_is_found_behind_many_braces() -> None:
    text = "{x} " * 100 + '{"name": "click", "arguments": {"element": "7"}}'
    assert only(find_json(text, KNOWN)) == ("click", [], {"element": "7"})


@pytest.mark.parametrize(
    ("text", "line", "thought"),
    [
        ("take coin", "take coin", ""),
        ("I see it.\n\n> take coin\n", "take coin", "I see it.\n\n"),
        ("Why.\n```\ntake coin\n```", "take coin", "Why.\n"),
        ("Why.\n```text\ntake coin\n```\n\n", "take coin", "Why.\n"),
        ("Action: `take coin`", "take coin", ""),
        ("> > Command: take coin", "take coin", ""),
        ('"take coin"', "take coin", ""),
        ("a\r\nb\r\n", "b", "a\r\n"),
    ],
)
def test_plain_lines_as_models_write_them(text: str, line: str, thought: str) -> None:
    ((name, values, _, start),) = find_text(text, ("command",))
    assert (name, list(values), text[:start]) == ("command", [line], thought)


@pytest.mark.parametrize("text", ["```\n```", ">", "\n\n", '""', "` `"])
def test_no_plain_line(text: str) -> None:
    assert list(find_text(text, ("command",))) == []


# ---- cost, counted and not timed


@pytest.mark.parametrize("text", ["click(" * 1300, "click('" * 1000, "f(click(" * 1000])
def test_python_reads_few_candidates_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        original = getattr(syntaxes, name)

        def counted(*args: Any) -> Any:
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(syntaxes, name, counted)

    count("_arguments")
    count("_closing")
    with pytest.raises(ActionParseError, match="Could not read"):
        list(find_python(text, KNOWN))
    assert 0 < counts["_arguments"] <= MAX_CANDIDATES
    assert counts["_closing"] <= MAX_CANDIDATES + 1


def test_brackets_read_few_candidates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    original = syntaxes._groups

    def counted(text: str, position: int) -> Any:
        starts.append(position)
        return original(text, position)

    monkeypatch.setattr(syntaxes, "_groups", counted)
    list(find_bracket("click [\n" * 1000, KNOWN))
    assert len(starts) <= MAX_CANDIDATES


@pytest.mark.parametrize("character", [" ", "\n", "\t", "`", "a", "(", "\\", '"', "[", "{", "."])
def test_patterns_do_not_back_up(character: str) -> None:
    """Every pattern reads a character a bounded number of times.

    A pattern whose work grows with the square of the text would need 2 * 10^10 steps here.
    """
    text = character * 150_000
    found = [match for p in (syntaxes._CALL, syntaxes._WORD) for match in p.finditer(text)]
    found += [match for p in (syntaxes._TOKEN, syntaxes._PROMPT) if (match := p.match(text))]
    assert all(match.end() <= len(text) for match in found)
