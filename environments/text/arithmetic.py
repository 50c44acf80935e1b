"""Arithmetic of number games: written formulas are read and worked out without running code."""

import math
import re
from fractions import Fraction

Number = int | float | Fraction

MAX_FORMULA = 100
"""Characters; longer formulas are refused, so that reading one cannot nest without end."""
_MAX_BITS = 4096
_TOKEN = re.compile(r"\s*(\d+\.\d*|\.\d+|\d+|\*\*|//|[-+*/()])", re.ASCII)


class FormulaError(ValueError):
    """A text is no formula, or the formula has no value. The message is for the agent."""


def evaluate(formula: str, *, python: bool = False) -> tuple[Number, list[str]]:
    """The value of a formula, and the numbers in it as they are written.

    Args:
        formula: numbers, ``+ - * /``, brackets and signs.
        python: work as Python's `eval` does on the same text, which is how published games judge:
            division makes floats, which round, decimals, ``**`` and ``//`` are allowed. Otherwise
            all numbers are whole, values are exact `Fraction` and these are refused. Powers of
            more than 4096 bits, on which `eval` may hang, have no value either way.

    Raises:
        FormulaError: the text is no formula, or has no value (division by 0).

    Example:
        >>> evaluate("8 / (3 - 8/3)")
        (Fraction(24, 1), ['8', '3', '8', '3'])
        >>> evaluate("8 / (3 - 8/3)", python=True)[0] == 24
        False
    """
    if len(formula) > MAX_FORMULA:
        raise FormulaError(f"the formula is longer than {MAX_FORMULA} characters")
    reader = _Reader(_tokens(formula), python)
    try:
        value = reader.sum()
    except ZeroDivisionError as error:
        raise FormulaError("division by zero") from error
    except OverflowError as error:
        raise FormulaError("the value is too large") from error
    if reader.next:
        raise FormulaError(f"unexpected {reader.next!r}")
    return value, reader.numbers


def _tokens(formula: str) -> list[str]:
    tokens, at = [], 0
    formula = formula.rstrip()
    while at < len(formula):
        found = _TOKEN.match(formula, at)
        if found is None:
            raise FormulaError(f"unexpected {formula[at:].lstrip()[0]!r}")
        tokens.append(found[1])
        at = found.end()
    return tokens


class _Reader:
    """Recursive descent with Python's precedence: a sign binds less than a power on its right."""

    def __init__(self, tokens: list[str], python: bool) -> None:
        self.numbers: list[str] = []
        self.next = ""
        self._rest = iter(tokens)
        self._python = python
        self._take()

    def _take(self) -> str:
        taken, self.next = self.next, next(self._rest, "")
        return taken

    def sum(self) -> Number:
        value = self._product()
        while self.next in ("+", "-"):
            if self._take() == "+":
                value = value + self._product()
            else:
                value = value - self._product()
        return value

    def _product(self) -> Number:
        value = self._signed()
        while self.next in ("*", "/", "//"):
            operator = self._take()
            if operator == "*":
                value = value * self._signed()
            elif operator == "/":
                value = value / self._signed()
            elif self._python:
                value = value // self._signed()
            else:
                raise FormulaError("unexpected '//'")
        return value

    def _signed(self) -> Number:
        if self.next in ("+", "-"):
            return self._signed() if self._take() == "+" else -self._signed()
        base = self._single()
        if self.next != "**":
            return base
        self._take()
        if not self._python:
            raise FormulaError("unexpected '**'")
        return _power(base, self._signed())

    def _single(self) -> Number:
        token = self._take()
        if token == "(":
            value = self.sum()
            if self._take() != ")":
                raise FormulaError("a bracket is not closed")
            return value
        if not token[-1:].isdigit() and token[:1] not in tuple("0123456789"):
            raise FormulaError(f"unexpected {token!r}" if token else "the formula is not complete")
        self.numbers.append(token)
        if not self._python:
            if not token.isdigit():
                raise FormulaError(f"{token} is no whole number")
            return Fraction(int(token))
        if token.isdigit():
            if len(token) > 1 and token[0] == "0" and token.strip("0"):
                raise FormulaError(f"{token} begins with a zero")
            return int(token)
        return float(token)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        if base.bit_length() * max(exponent, 0) > _MAX_BITS:
            raise OverflowError
    value = base**exponent
    if not isinstance(value, int | float | Fraction) or not math.isfinite(value):
        raise FormulaError("the value is no number")
    return value
