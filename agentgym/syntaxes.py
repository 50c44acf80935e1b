"""How calls stand in model text: one finder and one writer a syntax. Nothing is ever evaluated.

Finders yield (name, positional arguments, named arguments, position) of candidate calls from the
last to the first. They look at `MAX_CANDIDATES` of them, each in one pass over the text, so that
the cost is linear in its length whatever the model writes.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from agentgym.errors import ActionParseError

MAX_CANDIDATES = 32
_MAX_DEPTH = 8
_MAX_DIGITS = 20

Found = tuple[str, Sequence[Any], Mapping[str, Any], int]
_Arguments = tuple[list[Any], dict[str, Any], int]
_CALL = re.compile(r"(?<![\w.])([A-Za-z_]\w{0,63})\s*\(")
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>[rRuU]?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[()\[\],=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED |= {"\\": "\\", "'": "'", '"': '"', "\n": ""}
_CLOSES = {"[": "]", "(": ")"}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


def find_python(text: str, known: Collection[str]) -> Iterator[Found]:
    """Calls such as ``click("a12", times=2)``. What stands in another call's arguments is none.

    Raises:
        ActionParseError: a call of a known name whose arguments are no literals, if no other
            candidate was taken.
    """
    matches = list(_CALL.finditer(text))[-MAX_CANDIDATES:]
    calls = [(match, _arguments(text, match.end())) for match in matches]
    spans = [
        (match.start(), _closing(text, match.end() - 1) if call is None else call[2])
        for match, call in calls
        if match[1] in known
    ]
    broken = ""
    for match, call in reversed(calls):
        if any(start < match.start() < end for start, end in spans):
            continue
        if call is not None:
            yield match[1], call[0], call[1], match.start()
        elif match[1] in known and not broken:
            end = _closing(text, match.end() - 1)
            broken = text[match.start() : min(end, match.start() + 60)]
    if broken:
        raise ActionParseError(
            f'Could not read {broken!r}: arguments must be literals such as "text" or 3'
        )


def _arguments(text: str, position: int) -> _Arguments | None:
    """(positional, named, end) of the call whose arguments start here; none if they cannot be."""
    try:
        return _Literals(text, position).arguments()
    except ValueError:
        return None


class _Literals:
    """Reads literals off a text; a `ValueError` if something else comes."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self._kind = self._token = ""
        self._next()

    def _next(self) -> str:
        """The token that was at hand; the one behind it is then."""
        token = self._token
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self._kind = self._token = ""
        else:
            self._kind, self._token = str(match.lastgroup), match[str(match.lastgroup)]
            self.position = match.end()
        return token

    def arguments(self) -> _Arguments:
        """Up to the closing bracket."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        while self._token != ")":
            if self._kind == "word" and self._token not in _WORDS:
                name = self._next()
                if self._next() != "=" or name in named:
                    raise ValueError(name)
                named[name] = self._value(0)
            elif named:
                raise ValueError("a positional argument after a named one")
            else:
                positional.append(self._value(0))
            if self._token == ",":
                self._next()
            elif self._token != ")":
                raise ValueError(self._token)
        return positional, named, self.position

    def _value(self, depth: int) -> Any:
        kind, token = self._kind, self._next()
        if kind == "string":
            value = _string(token)
            while self._kind == "string":  # neighbours are one string, as in Python
                value += _string(self._next())
            return value
        if kind == "number":
            if not re.fullmatch(r"[+-]?\d+", token):
                return float(token)
            if len(token) <= _MAX_DIGITS:
                return int(token)
        if kind == "word" and token in _WORDS:
            return _WORDS[token]
        if kind == "mark" and token in _CLOSES and depth < _MAX_DEPTH:
            values = self._values(_CLOSES[token], depth + 1)
            return values[0] if token == "(" and len(values) == 1 else values
        raise ValueError(token)

    def _values(self, closing: str, depth: int) -> list[Any]:
        values = []
        while self._token != closing:
            values.append(self._value(depth))
            if self._token == ",":
                self._next()
            elif self._token != closing:
                raise ValueError(self._token)
        self._next()
        return values


def _string(token: str) -> str:
    """The value of a quoted string. Raw newlines are what the model meant by them."""
    if token[0] in "rR":
        return token[2:-1]
    return _ESCAPE.sub(_escaped, token.lstrip("uU")[1:-1])


def _escaped(match: re.Match[str]) -> str:
    if match[5] is not None:
        return _ESCAPED.get(match[5], match[0])
    code = int(match[4], 8) if match[4] else int(match[1] or match[2] or match[3], 16)
    return chr(code) if code <= 0x10FFFF else match[0]


def _closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`, or the end of the text."""
    depth, quote, i = 0, "", start
    while i < len(text):
        c = text[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = ""
        elif c in "\"'":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return len(text)


def write_python(name: str, values: Sequence[Any]) -> str:
    """A call with positional arguments."""
    return f"{name}({', '.join(_literal(value) for value in values)})"


def _literal(value: Any) -> str:
    """A Python literal with double quotes, which models write more often than single ones."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(_literal(v) for v in value)}]"
    return repr(value)


def find_json(text: str, known: Collection[str]) -> Iterator[Found]:
    """Objects with a name: ours, OpenAI's tool call, or a bare function."""
    decoder = json.JSONDecoder()
    found: list[Found] = []
    end = 0
    for position in [match.start() for match in re.finditer(r"\{", text)][-MAX_CANDIDATES:]:
        if position < end:
            continue
        try:
            value, after = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            continue
        end = after
        call = _tool_call(value)
        if call is not None:
            start = text.rfind("<tool_call>", 0, position)
            found.append((*call, start if start >= 0 else position))
    yield from reversed(found)


def _tool_call(value: Any) -> tuple[str, Sequence[Any], Mapping[str, Any]] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return value["name"], (), arguments


def write_json(name: str, arguments: Mapping[str, Any]) -> str:
    """An object with name and arguments."""
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)


_WORD = re.compile(r"^[`\t ]*([A-Za-z_]\w{0,63})[ \t\r]*(?=\[|`|$)", re.MULTILINE)


def find_bracket(text: str, known: Collection[str]) -> Iterator[Found]:
    """Lines such as ``click [a12] [2]``. What stands in the brackets of another is none."""
    found: list[Found] = []
    inside = 0
    for match in list(_WORD.finditer(text))[-MAX_CANDIDATES:]:
        if match.start() < inside:
            continue
        groups, end = _groups(text, match.end())
        if match[1] in known:
            inside = end
        if match[1] in known or groups:
            found.append((match[1], groups, {}, match.start(1)))
    yield from reversed(found)


def _groups(text: str, position: int) -> tuple[list[str], int]:
    """Bracketed values: nested brackets belong to the value, a backslash protects one."""
    groups: list[str] = []
    while True:
        start = position
        while start < len(text) and text[start] in " \t":
            start += 1
        if start >= len(text) or text[start] != "[":
            return groups, position
        depth, value, i = 1, [], start + 1
        while i < len(text):
            c = text[i]
            if c == "\\" and text[i + 1 : i + 2] in ("[", "]", "\\"):
                i += 1
                value.append(text[i])
            else:
                depth += (c == "[") - (c == "]")
                if depth == 0:
                    break
                value.append(c)
            i += 1
        if depth:
            return groups, position
        groups.append("".join(value))
        position = i + 1


def write_bracket(name: str, values: Sequence[Any]) -> str:
    """A line with every value in brackets."""
    return " ".join([name, *(f"[{_bracket(value)}]" for value in values)])


def _bracket(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, bool | list) else str(value)
    return re.sub(r"([\[\]\\])", r"\\\1", text)


_PROMPT = re.compile(r"\s*(?:(?:>|action:|command:)\s*)*", re.IGNORECASE)


def find_text(text: str, known: Collection[str]) -> Iterator[Found]:
    """The last line with something in it, without the marks that models put around a command."""
    start = len(text)
    fence = None
    for line in reversed(text.splitlines(keepends=True)):
        start -= len(line)
        if line.lstrip().startswith("```"):
            continue
        value = _PROMPT.sub("", line, count=1).strip(" \t\r\n`\"'")
        if value:
            fence = re.search(r"```\w*\s*\Z", text[:start])
            yield next(iter(known)), (value,), {}, fence.start() if fence else start
            return


def write_text(value: Any) -> str:
    """One line."""
    return " ".join(str(value).split())
