"""Formulas: exact values, Python's values, and whatever is no formula."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.environments.text.arithmetic import MAX_FORMULA, FormulaError, evaluate


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("8 - 2 - 3", 3),
        ("8 / 4 / 2", 1),
        ("-3 + +5", 2),
        ("2 * -3", -6),
        ("8/(3-8/3)", 24),
        ("1/3", Fraction(1, 3)),
        ("  12+12 ", 24),
    ],
)
def test_exact_values(formula: str, value: Fraction) -> None:
    assert evaluate(formula)[0] == value


def test_numbers_are_listed_as_written() -> None:
    assert evaluate("10*(2+2)")[1] == ["10", "2", "2"]
    assert evaluate("1.5*.5", python=True)[1] == ["1.5", ".5"]


@pytest.mark.parametrize(
    "formula",
    [
        "7",
        "8/(3-8/3)",
        "-2**2",
        "2**-1",
        "2**3**2",
        "(-8)**3",
        "7//2",
        "-7//2*2",
        "2*3**2",
        "1.5*2",
        "3./2",
        ".5+00",
        "5/2*2",
        "--3",
    ],
)
def test_pythons_values_are_pythons(formula: str) -> None:
    value = evaluate(formula, python=True)[0]
    assert value == eval(formula)
    assert type(value) is type(eval(formula))


BAD = [
    "",
    "()",
    "1 2",
    "2(3)",
    "(1+2",
    "1+2)",
    "1+",
    "*3",
    "a",
    "1/0",
    "1e3",
    "0x1",
    "1;2",
    "3=3",
    "\u0663",
    "\u00b2",
]


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("formula", [*BAD, "1" * (MAX_FORMULA + 1), "(" * MAX_FORMULA, "9**9**9"])
def test_what_is_no_formula(formula: str, python: bool) -> None:
    with pytest.raises(FormulaError):
        evaluate(formula, python=python)


@pytest.mark.parametrize("formula", ["2**3", "7//2", "1.5"])
def test_only_python_reads_these(formula: str) -> None:
    assert evaluate(formula, python=True)[0] == eval(formula)
    with pytest.raises(FormulaError):
        evaluate(formula)


@pytest.mark.parametrize("formula", ["(0-8)**(1/2)", "0**-1", "012"])
def test_values_that_are_none(formula: str) -> None:
    with pytest.raises(FormulaError):
        evaluate(formula, python=True)


@settings(derandomize=True, deadline=None)
@given(st.text("0123456789+-*/(). ", max_size=12))
def test_python_agrees_or_refuses(text: str) -> None:
    """Whatever we can work out, `eval` makes the same of it."""
    try:
        value = evaluate(text, python=True)[0]
    except FormulaError:
        return
    assert value == eval(text.strip())
