"""TOML text from plain values; `tomllib` reads it back to the same values.

Source: TOML 1.0.0, https://toml.io/en/v1.0.0
"""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from agentgym.errors import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", "\b": "\\b", "\t": "\\t", "\f": "\\f", "\r": "\\r"}
_WIDTH = 88


def to_toml(values: Mapping[str, Any], *, inline: bool = False) -> str:
    """TOML text of nested mappings, lists, numbers, texts, booleans, dates and times.

    Args:
        values: the document.
        inline: write nested mappings as ``{a = 1}`` instead of as tables.

    Raises:
        ConfigError: a value has no place in TOML (`None`, a lone surrogate, another object).

    Example:
        >>> print(to_toml({"name": "demo", "train": {"lr": 0.1}}), end="")
        name = "demo"
        <BLANKLINE>
        [train]
        lr = 0.1
    """
    if inline:
        return "".join(f"{_key(k)} = {_value(v, k)}\n" for k, v in values.items())
    return "\n".join(_table(values, ()))


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Blocks of text: this table's own keys, then its sub-tables."""
    lines = [f"[{'.'.join(map(_key, path))}]\n"] if path else []
    tables = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            tables[name] = value
        else:
            lines.append(f"{_key(name)} = {_value(value, '.'.join((*path, name)))}\n")
    own = ["".join(lines)] if len(lines) > bool(path) else []
    return own + [block for n, v in tables.items() for block in _table(v, (*path, n))]


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"key {name!r} is no text")
    return name if _BARE.fullmatch(name) else _text(name, name, multiline=False)


def _value(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return _text(str(value), where)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v, f'{where}.{k}')}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        parts = [_value(v, f"{where}[{i}]") for i, v in enumerate(value)]
        line = f"[{', '.join(parts)}]"
        if len(line) <= _WIDTH:
            return line
        return "[\n" + "".join(f"    {part},\n" for part in parts) + "]"
    raise ConfigError(f"{where} is {value!r} ({type(value).__name__}), which TOML cannot say")


def _text(text: str, where: str, *, multiline: bool = True) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} holds {text[error.start]!r}, which is no Unicode") from error
    text = "".join(_escaped(c) for c in text)
    if multiline and "\n" in text:
        # Two quotes in a row could end the text, and so could one before its end.
        return '"""\n' + re.sub(r'"(?="|\Z)', r'\\"', text) + '"""'
    return '"' + text.replace('"', '\\"').replace("\n", "\\n") + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if (ord(character) < 32 and character != "\n") or ord(character) == 127:
        return f"\\u{ord(character):04x}"
    return character
