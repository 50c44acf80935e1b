"""BrowserGym's grammar of actions: calls with literal arguments, anywhere in a text."""

import ast
import re
from typing import Any

from agentgym.actions import MAX_TEXT

_MAX_DEPTH = 20
_MAX_CALLS = 100

Parsed = tuple[str, list[Any], dict[str, Any]]
"""Name, positional and named arguments of a call."""

_COMMENT = r"\#[^\n]*"
_SKIPPED = re.compile(rf"(?:\s|{_COMMENT})*")
_START = re.compile(rf"(?P<comment>{_COMMENT})|(?P<name>[^\W\d]\w*)")
_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"""|\'\'\'(?:[^'\\]|\\.|'(?!\'\'))*\'\'\'
    |"(?:[^"\\\n\r]|\\(?:[^x]|x[0-9a-fA-F]+))*"|'(?:[^'\\\n\r]|\\(?:[^x]|x[0-9a-fA-F]+))*\'''',
    re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\W\d]\w*")
_CONSTANTS = {"True": True, "False": False, "None": None}


def parse_calls(text: str, *, strict: bool = False) -> list[Parsed]:
    """The calls with literal arguments in a text, in order; comments hide what they hold.

    What cannot be read as a call is skipped, as in BrowserGym: a call whose string runs over the
    end of a line is none.

    Args:
        text: of which the last `MAX_TEXT` characters count.
        strict: nothing but calls and comments may stand there.

    Raises:
        ValueError: with `strict`, something else does.
    """
    text = text[-MAX_TEXT:]
    calls: list[Parsed] = []
    position = end = 0  # of the search, and of the last call
    while len(calls) < _MAX_CALLS and (match := _START.search(text, position)):
        position = match.end()
        if match["comment"]:
            continue
        reader = _Reader(text, position)
        try:
            positional, named = reader.arguments()
        except (ValueError, SyntaxError):
            continue
        if strict and _SKIPPED.fullmatch(text, end, match.start()) is None:
            break
        calls.append((match["name"], positional, named))
        position = end = reader.position
    if strict and _SKIPPED.fullmatch(text, end) is None:
        rest = text[end:].strip()[:40]
        raise ValueError(f"only calls with literal arguments may be given, got {rest!r}")
    return calls


class _Reader:
    """Reads the literals of one call off a text; a `ValueError` if something else comes."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """From the opening to the closing bracket."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        self._take("(")
        while not self._taken(")"):
            name = self._name()
            if name:
                if name in named:
                    raise ValueError(name)
                named[name] = self._value(0)
            elif named:
                raise ValueError("a positional argument after a named one")
            else:
                positional.append(self._value(0))
            # BrowserGym wants no comma between the last positional and the first named argument.
            if not self._taken(",") and (named or self._word() is None):
                self._take(")")
                break
        return positional, named

    def _word(self) -> re.Match[str] | None:
        """The word that begins here, if it is no constant."""
        self._skip()
        word = _WORD.match(self.text, self.position)
        return word if word and word[0] not in _CONSTANTS else None

    def _name(self) -> str:
        """The name of a named argument, if one begins here."""
        word = self._word()
        if word is None:
            return ""
        self.position = word.end()
        self._take("=")
        return word[0]

    def _value(self, depth: int) -> Any:
        self._skip()
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        string = _STRING.match(self.text, self.position)
        if string:
            self.position = string.end()
            return ast.literal_eval(_plain(string[0]))
        number = _NUMBER.match(self.text, self.position)
        if number:
            self.position = number.end()
            whole = number[0].lstrip("+-").isdigit()
            return int(number[0]) if whole else float(number[0])
        word = _WORD.match(self.text, self.position)
        if word and word[0] in _CONSTANTS:
            self.position = word.end()
            return _CONSTANTS[word[0]]
        if self._taken("["):
            return self._values("]", depth)
        if self._taken("("):
            return tuple(self._values(")", depth))
        self._take("{")
        return self._pairs(depth)

    def _values(self, closing: str, depth: int) -> list[Any]:
        values = []
        while not self._taken(closing):
            values.append(self._value(depth + 1))
            if not self._taken(","):
                self._take(closing)
                break
        return values

    def _pairs(self, depth: int) -> dict[Any, Any]:
        pairs = {}
        while not self._taken("}"):
            key = self._value(depth + 1)
            if not isinstance(key, str):
                raise ValueError(key)
            self._take(":")
            pairs[key] = self._value(depth + 1)
            if not self._taken(","):
                self._take("}")
                break
        return pairs

    def _skip(self) -> None:
        match = _SKIPPED.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def _taken(self, mark: str) -> bool:
        self._skip()
        found = self.text.startswith(mark, self.position)
        self.position += len(mark) if found else 0
        return found

    def _take(self, mark: str) -> None:
        if not self._taken(mark):
            raise ValueError(f"expected {mark}")


_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_KNOWN_ESCAPES = "\n\\'\"abfnrtv01234567xNuU"


def _plain(literal: str) -> str:
    """The literal without the escapes that Python only warns about: their backslash stays."""
    return _ESCAPE.sub(
        lambda match: match[0] if match[1] in _KNOWN_ESCAPES else "\\" + match[0], literal
    )
