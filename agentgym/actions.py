"""Typed actions, and one codec between model text and calls in four syntaxes.

========  =====================================================  =======================
syntax    example                                                used by
========  =====================================================  =======================
python    ``click("a12")``                                       the default; BrowserGym
json      ``{"name": "click", "arguments": {"element": "a12"}}`` OpenAI tool calls
bracket   ``click [a12]``                                        WebArena
text      ``take coin``                                          text games
========  =====================================================  =======================

In the syntax "text" the last line that is not empty is the argument of the set's only action.

Parsing never evaluates code and its cost is bounded by `MAX_TEXT` whatever the model writes.
"""

import difflib
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from agentgym.errors import ActionParseError, ConfigError
from agentgym.syntaxes import (
    find_bracket,
    find_json,
    find_python,
    find_text,
    write_bracket,
    write_json,
    write_python,
    write_text,
)

Syntax = Literal["python", "json", "bracket", "text"]
SYNTAXES: tuple[Syntax, ...] = ("python", "json", "bracket", "text")
MAX_TEXT = 8192
"""Characters of model text that are looked at, from the end."""
_FINDERS = {
    "python": find_python,
    "json": find_json,
    "bracket": find_bracket,
    "text": find_text,
}
_MAX_INTEGER = 2**63
_REQUIRED: Any = inspect.Parameter.empty
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_PYTHON_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an action."""

    name: str
    type: str = "string"
    """JSON schema type: string, integer, number, boolean, or array (of strings)."""
    default: Any = _REQUIRED
    choices: tuple[Any, ...] = ()
    doc: str = ""

    @property
    def required(self) -> bool:
        """True if a call must give it."""
        return self.default is _REQUIRED

    def schema(self) -> dict[str, Any]:
        """JSON schema of the value."""
        schema: dict[str, Any] = {"type": self.type}
        if self.type == "array":
            schema["items"] = {"type": "string"}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.doc:
            schema["description"] = self.doc
        if not self.required:
            schema["default"] = self.default
        return schema

    def signature(self) -> str:
        """How it stands in a Python signature."""
        if self.choices:
            kind = " | ".join(repr(c) for c in self.choices)
        else:
            kind = _PYTHON_NAMES.get(self.type, "list[str]")
        return f"{self.name}: {kind}" + ("" if self.required else f" = {self.default!r}")

    def coerce(self, value: Any) -> Any:
        """The value in the declared type; what a model plausibly meant is accepted.

        Raises:
            ActionParseError: the value cannot be read as that type or is not a choice.
        """
        value = _coerce(self, value)
        if self.choices and value not in self.choices:
            allowed = ", ".join(repr(c) for c in self.choices)
            raise ActionParseError(f"{self.name} must be one of {allowed}, got {_short(value)}")
        return value


def _coerce(parameter: Parameter, value: Any) -> Any:
    match parameter.type, value:
        case "string", str():
            return _printable(value)
        case "string", bool() | int() | float():
            return str(value)
        case "boolean", bool():
            return value
        case "boolean", 0 | 1 | "0" | "1" | "true" | "True" | "false" | "False":
            return value in (1, "1", "true", "True")
        case "integer", int() if not isinstance(value, bool) and abs(value) < _MAX_INTEGER:
            return value
        case "integer", float() if value.is_integer() and abs(value) < _MAX_INTEGER:
            return int(value)
        case "integer", str() if re.fullmatch(r"\s*[+-]?\d{1,19}\s*", value):
            return _coerce(parameter, int(value))
        case "number", int() if not isinstance(value, bool) and abs(value) < _MAX_INTEGER:
            return float(value)
        case "number", float() if math.isfinite(value):
            return value
        case "number", str():
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
        case "array", str():
            return _listed(value) or [_printable(value)]
        case "array", list() | tuple() if all(isinstance(v, str | int | float) for v in value):
            return [_printable(str(v)) for v in value]
    kind = _PYTHON_NAMES.get(parameter.type, "list[str]")
    raise ActionParseError(f"{parameter.name} must be {kind}, got {_short(value)}")


def _listed(text: str) -> list[str]:
    """The items, if the text is a list in JSON: the form in which brackets hold one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        return []
    return [_printable(str(v)) for v in value]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """One action: name, parameters, one line of what it does."""

    name: str
    doc: str
    parameters: tuple[Parameter, ...] = ()

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> "ActionSpec":
        """The action that a Python function's signature and first docstring line declare.

        Example:
            >>> def click(element: str) -> None:
            ...     '''Click an element.'''
            >>> ActionSpec.from_function(click).signature()
            'click(element: str)'
        """
        hints = typing.get_type_hints(function)
        parameters = []
        for p in inspect.signature(function).parameters.values():
            if p.name == "self":
                continue
            hint = hints.get(p.name, str)
            choices: tuple[Any, ...] = ()
            if typing.get_origin(hint) is Literal:
                choices = typing.get_args(hint)
                hint = type(choices[0])
            kind = "array" if typing.get_origin(hint) is list else _JSON_TYPES.get(hint, "")
            if not kind or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise ConfigError(
                    f"{function.__name__}: parameter {p} cannot be an action's; use str, int, "
                    "float, bool, list[str] or Literal"
                )
            parameters.append(Parameter(p.name, kind, p.default, choices))
        doc = (inspect.getdoc(function) or "").split("\n")[0]
        return cls(function.__name__, doc, tuple(parameters))

    def signature(self) -> str:
        """As a Python signature, e.g. ``fill(element: str, text: str)``."""
        return f"{self.name}({', '.join(p.signature() for p in self.parameters)})"

    def bracket_signature(self) -> str:
        """As WebArena would write it, e.g. ``fill [element] [text]``."""
        return " ".join([self.name, *(f"[{p.name}]" for p in self.parameters)])

    def openai_tool(self) -> dict[str, Any]:
        """OpenAI tool schema."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.doc,
                "parameters": {
                    "type": "object",
                    "properties": {p.name: p.schema() for p in self.parameters},
                    "required": [p.name for p in self.parameters if p.required],
                    "additionalProperties": False,
                },
            },
        }

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, coerced and complete.

        Raises:
            ActionParseError: too many, missing, doubled or unknown arguments, or a wrong type.
        """
        if len(args) > len(self.parameters):
            raise ActionParseError(
                f"{self.signature()} takes at most {len(self.parameters)} arguments, "
                f"got {len(args)}"
            )
        names = [p.name for p in self.parameters]
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                raise ActionParseError(f"{self.signature()} has no argument {_short(name)}")
            if name in given:
                raise ActionParseError(f"{self.signature()}: {name} is given twice")
            given[name] = value
        bound = {}
        for p in self.parameters:
            if p.name in given:
                bound[p.name] = p.coerce(given[p.name])
            elif p.required:
                raise ActionParseError(f"{self.signature()}: {p.name} is missing")
            else:
                bound[p.name] = p.default
        return bound


@dataclass(frozen=True, slots=True)
class ActionCall:
    """An action with its arguments, complete and of the declared types."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Python syntax: the canonical form."""
        return write_python(self.name, list(self.arguments.values()))


@dataclass(frozen=True, slots=True)
class Reading:
    """What model text meant: a call, or the error to tell the agent."""

    call: ActionCall | None
    thought: str = ""
    error: str = ""

    def info(self) -> dict[str, Any]:
        """The keys that every environment's `step` info holds (see `core.AgentEnv`)."""
        return {
            "action": "" if self.call is None else str(self.call),
            "action_error": self.error,
            "parsed": self.call is not None,
            "thought": self.thought,
        }


class ActionSet(Mapping[str, ActionSpec]):
    r"""The actions of an environment, and the codec for them.

    Example:
        >>> click = ActionSpec("click", "Click an element.", (Parameter("element"),))
        >>> actions = ActionSet([click])
        >>> actions.parse('I press OK.\nclick("a12")')
        (ActionCall(name='click', arguments={'element': 'a12'}), 'I press OK.')
        >>> actions.format(ActionCall("click", {"element": "a12"}), "bracket")
        'click [a12]'
        >>> actions.read("clik('a12')").error
        "Unknown action 'clik'. Did you mean click(element: str)?"
        >>> command = ActionSpec("command", "A command to the game.", (Parameter("text"),))
        >>> ActionSet([command]).parse("The coin is here.\n> take coin", "text")
        (ActionCall(name='command', arguments={'text': 'take coin'}), 'The coin is here.')
    """

    def __init__(self, specs: Sequence[ActionSpec | Callable[..., Any]]) -> None:
        made = [s if isinstance(s, ActionSpec) else ActionSpec.from_function(s) for s in specs]
        self._specs = {s.name: s for s in made}
        self._text_action: ActionSpec | None = None
        if len(self._specs) != len(made):
            raise ConfigError(f"action names must differ, got {[s.name for s in made]!r}")

    def __getitem__(self, name: str) -> ActionSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> ActionCall:
        """A checked call, for code that acts (oracles, tests).

        Raises:
            ActionParseError: unknown name or bad arguments.
        """
        if name not in self._specs:
            raise ActionParseError(self._unknown(name))
        return ActionCall(name, self._specs[name].bind(args, kwargs))

    def read(self, text: object, syntax: str = "python") -> Reading:
        """Like `parse`, but what is wrong comes back as `Reading.error`. Never raises."""
        try:
            call, thought = self.parse(text, syntax)
        except ActionParseError as error:
            thought = text.strip()[:MAX_TEXT] if isinstance(text, str) else ""
            return Reading(None, _printable(thought), _printable(str(error)))
        return Reading(call, thought)

    def parse(self, text: object, syntax: str = "python") -> tuple[ActionCall, str]:
        """The last call in model text, and the thought before it.

        Args:
            text: what the model wrote.
            syntax: one of `SYNTAXES`.

        Raises:
            ActionParseError: no call, an unknown action, or bad arguments; said for the agent.
            ConfigError: unknown syntax.
        """
        if syntax not in SYNTAXES:
            raise ConfigError(f"syntax must be one of {SYNTAXES}, got {syntax!r}")
        if not isinstance(text, str):
            raise ActionParseError(f"an action is text, got {type(text).__name__}")
        if not text.strip():
            raise ActionParseError(f"The action was empty. {self._hint(syntax)}")
        text = _printable(text[-MAX_TEXT:])
        if syntax == "text":
            self._only()
        unknown = ""
        for name, args, kwargs, start in _FINDERS[syntax](text, self._specs):
            if name in self._specs:
                return ActionCall(name, self._specs[name].bind(args, kwargs)), text[:start].strip()
            unknown = unknown or name
        if unknown:
            raise ActionParseError(self._unknown(unknown))
        raise ActionParseError(f"No action found. {self._hint(syntax)}")

    def format(self, call: ActionCall, syntax: str = "python") -> str:
        """A call as text that `parse` reads back. Trailing arguments at their default are left out.

        Raises:
            ConfigError: unknown syntax.
        """
        spec = self._specs[call.name]
        arguments = dict(call.arguments)
        for p in reversed(spec.parameters):
            if p.required or arguments.get(p.name) != p.default:
                break
            del arguments[p.name]
        if syntax == "python":
            return str(ActionCall(call.name, arguments))
        if syntax == "json":
            return write_json(call.name, arguments)
        if syntax == "bracket":
            return write_bracket(call.name, list(arguments.values()))
        if syntax == "text":
            return write_text(call.arguments[self._only().parameters[0].name])
        raise ConfigError(f"syntax must be one of {SYNTAXES}, got {syntax!r}")

    def describe(self, syntax: str = "python") -> str:
        """One line per action, for a prompt."""
        if syntax == "json":
            return "\n".join(json.dumps(s.openai_tool()["function"]) for s in self._specs.values())
        if syntax == "text":
            return f"Write one line of plain text. {self._only().doc}"
        return "\n".join(
            f"{s.bracket_signature() if syntax == 'bracket' else s.signature()}: {s.doc}"
            for s in self._specs.values()
        )

    def openai_tools(self) -> list[dict[str, Any]]:
        """The actions as OpenAI tools."""
        return [s.openai_tool() for s in self._specs.values()]

    def sample(self, rng: np.random.Generator) -> ActionCall:
        """A random call of the right types."""
        spec = self._specs[list(self._specs)[int(rng.integers(len(self._specs)))]]
        return ActionCall(spec.name, {p.name: _sample(p, rng) for p in spec.parameters})

    def _hint(self, syntax: str) -> str:
        if syntax == "text":
            return self.describe("text")
        return f"Write one, e.g. {self.format(self.sample(np.random.default_rng(0)), syntax)}"

    def _only(self) -> ActionSpec:
        """The action that a plain line of text means."""
        if self._text_action is not None:
            return self._text_action
        specs = list(self._specs.values())
        if len(specs) != 1 or [p.type for p in specs[0].parameters] != ["string"]:
            raise ConfigError(
                f"the syntax 'text' needs one action with one text parameter, got {list(self)!r}"
            )
        self._text_action = specs[0]
        return specs[0]

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, list(self._specs), n=1, cutoff=0.5)
        if near:
            hint = f"Did you mean {self._specs[near[0]].signature()}?"
        else:
            hint = f"Actions: {', '.join(self._specs)}"
        return f"Unknown action {_short(name)}. {hint}"


def _printable(text: str) -> str:
    """Valid UTF-8 whatever came in: halves of characters are joined, or become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _sample(parameter: Parameter, rng: np.random.Generator) -> Any:
    if parameter.choices:
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    match parameter.type:
        case "integer":
            return int(rng.integers(100))
        case "number":
            return float(rng.integers(100))
        case "boolean":
            return bool(rng.integers(2))
        case "array":
            return [str(int(rng.integers(100)))]
    return str(int(rng.integers(100)))
