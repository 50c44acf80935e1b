"""Settings as frozen dataclasses: from TOML files and ``key=value`` overrides, and back to TOML.

Unknown keys and wrong types are errors that name the full dotted key. Types that may stand in a
configuration: `bool`, `int`, `float` (also from an integer), `str`, `Path`, enums, `Literal`,
`Optional` and other unions, `tuple`, `list`, `dict` with text keys, `Any` (a TOML value as it is)
and dataclasses of these.

TOML has no null: where a field may be `None`, the text ``"none"`` means `None`.
"""

import ast
import dataclasses
import difflib
import enum
import functools
import inspect
import itertools
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from agentgym.errors import ConfigError, UnknownNameError
from agentgym.toml import to_toml

T = TypeVar("T")

NONE = "none"


def load(
    cls: type[T],
    source: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> T:
    """Make a configuration.

    Args:
        cls: a dataclass.
        source: a TOML file, or the values themselves; nothing means all defaults.
        overrides: ``"dotted.key=value"`` with a TOML value; what is no TOML is taken as text, so
            that ``name=demo`` works. Later ones win.

    Raises:
        ConfigError: the file is missing or no TOML (file and line are named), a key is unknown or
            missing, a value has the wrong type, or the class refuses its values.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Train:
        ...     lr: float = 1e-3
        >>> load(Train, {"lr": 1}, ["lr=1e-4"])
        Train(lr=0.0001)
        >>> load(Train, {"rl": 1})
        Traceback (most recent call last):
        agentgym.errors.ConfigError: unknown key 'rl'. Did you mean 'lr'?
    """
    if source is None:
        values: dict[str, Any] = {}
        origin = ""
    elif isinstance(source, Mapping):
        values, origin = _copied(source), ""
    else:
        values, origin = _read(Path(source)), f"{source}: "
    for text in overrides:
        _override(values, cls, text)
    try:
        made: T = _dataclass(values, cls, "", None)
    except ConfigError as error:
        raise ConfigError(f"{origin}{error}") from error.__cause__
    return made


def dump(instance: Any) -> str:
    """TOML text from which `load` makes an equal instance.

    Raises:
        ConfigError: a value has no place in TOML, such as `None` inside a ``dict[str, Any]``.
    """
    return to_toml(_plain(instance, type(instance), ""))


def variants(**sets: Mapping[str, Any]) -> Callable[[type[T]], type[T]]:
    """Other sets of defaults of a dataclass, chosen by its field ``variant``.

    The value that ``variant`` has by default stands for the defaults as the class has them. What
    is given explicitly goes before the variant's. A subclass that is a dataclass names its own.

    Args:
        sets: for each variant the defaults that differ, by field.

    Raises:
        TypeError: the class has no field ``variant``, or a set names no field of it.

    Example:
        >>> @variants(released={"clip": 0.1})
        ... @dataclasses.dataclass(frozen=True)
        ... class Train:
        ...     clip: float = 0.2
        ...     variant: str = "paper"
        >>> Train(), Train(variant="released"), Train(variant="released", clip=0.3)
        (Train(clip=0.2, variant='paper'), Train(clip=0.1, variant='released'), \
Train(clip=0.3, variant='released'))
    """

    def decorate(cls: type[T]) -> type[T]:
        fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
        strange = [name for values in sets.values() for name in values if name not in fields]
        if "variant" not in fields or strange:
            raise TypeError(f"{cls.__name__} needs the fields {['variant', *strange]!r}")
        usual = str(fields["variant"].default)
        known = {usual: {}, **sets}
        made = cls.__init__
        signature = inspect.signature(made)

        @functools.wraps(made)
        def init(self: T, *args: Any, **given: Any) -> None:
            explicit = signature.bind(self, *args, **given).arguments
            name = explicit.get("variant", usual)
            if name not in known:
                raise ConfigError(str(UnknownNameError("variant", str(name), known)))
            made(**{**known[name], **explicit})

        cls.__init__ = init  # type: ignore[assignment]
        return cls

    return decorate


class Key(NamedTuple):
    """One setting, as `describe` tells it."""

    name: str
    """Dotted."""
    type: str
    default: str
    """As TOML; empty if the key must be given."""
    doc: str
    """The docstring under the field."""


def describe(cls: type[Any]) -> list[Key]:
    """Every key of a configuration, for ``--help``."""
    return _describe(cls, "", None)


def _describe(cls: type[Any], prefix: str, base: Any) -> list[Key]:
    keys: list[Key] = []
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        hint = _hints(cls)[field.name]
        name = prefix + field.name
        default = _default(field) if base is None else getattr(base, field.name)
        given = default is not dataclasses.MISSING
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            keys += _describe(hint, f"{name}.", default if given else None)
            continue
        text = to_toml({"x": _plain(default, hint, name)}, inline=True) if given else " = "
        default_text = text.partition(" = ")[2].strip()
        keys.append(Key(name, _type_name(hint), default_text, docs.get(field.name, "")))
    return keys


def field_docs(cls: type[Any]) -> Mapping[str, str]:
    """The docstrings that stand under the fields of a dataclass and its bases, on one line each."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue  # made without a source file: the keys are listed without explanation
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, below in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[statement.target.id] = " ".join(below.value.value.split())
    return docs


# -- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return value


class _Override(NamedTuple):
    """A value from the command line: what it is as TOML, and what was typed."""

    value: Any
    text: str


def _override(values: dict[str, Any], cls: type[Any], text: str) -> None:
    """Put ``a.b=value`` into the values; whether the keys exist is checked with the rest."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {text!r} is not of the form key=value")
    raw = raw.strip()
    try:
        parsed = tomllib.loads(f"x = {raw}")
        value = parsed["x"] if set(parsed) == {"x"} else raw
    except tomllib.TOMLDecodeError:
        value = raw
    place = values
    *path, last = key.split(".")
    for i, name in enumerate(path):
        below = place.setdefault(name, {})
        if isinstance(below, _Override):
            below = place[name] = below.value
        if not isinstance(below, dict):
            raise ConfigError(f"override {text!r}: {'.'.join(path[: i + 1])} is no table")
        place = below
    place[last] = _Override(value, raw)


def _dataclass(value: Any, cls: type[Any], key: str, base: Any) -> Any:
    """An instance; what the value does not say is taken from `base`, or from the class."""
    if isinstance(value, _Override):
        value = value.value
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(value, cls, key)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.5)
            hint = f"Did you mean {prefix + near[0]!r}?" if near else f"Known: {', '.join(fields)}"
            raise ConfigError(f"unknown key {prefix + str(name)!r}. {hint}")
    for name, field in fields.items():
        if base is None and name not in value and _default(field) is dataclasses.MISSING:
            raise ConfigError(f"key {prefix + name!r} ({_type_name(hints[name])}) must be given")
    arguments = {}
    for name, part in value.items():
        hint, default = hints[name], _default(fields[name]) if base is None else getattr(base, name)
        if (
            isinstance(hint, type)
            and dataclasses.is_dataclass(default)
            and isinstance(default, hint)
        ):
            arguments[name] = _dataclass(part, type(default), prefix + name, default)
        else:
            arguments[name] = _convert(part, hint, prefix + name)
    try:
        return cls(**arguments) if base is None else dataclasses.replace(base, **arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from error


def _convert(value: Any, hint: Any, key: str) -> Any:
    """A value of the wanted type.

    Raises:
        ConfigError: key, value and wanted type are named.
    """
    if isinstance(value, _Override):
        return _convert_override(value, hint, key)
    if hint is Any or hint is object:
        return _unwrapped(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(value, hint, key, None)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(value, hint, key)
    if origin is Literal:
        for choice in get_args(hint):
            if type(choice) is type(value) and choice == value:
                return choice
        raise _wrong(value, hint, key)
    if origin in (tuple, list) or hint in (tuple, list):
        return _sequence(value, hint, key)
    if _is_mapping(hint):
        return _mapping(value, hint, key)
    return _scalar(value, hint, key)


def _convert_override(value: _Override, hint: Any, key: str) -> Any:
    """Try the TOML value; where that does not fit, what was typed as text (``name=123``)."""
    try:
        return _convert(value.value, hint, key)
    except ConfigError as complaint:
        if isinstance(value.value, str | dict):
            raise
        try:
            return _convert(value.text, hint, key)
        except ConfigError:
            raise complaint from None  # the first one says it better


def _union(value: Any, hint: Any, key: str) -> Any:
    options = get_args(hint)
    if type(None) in options and (value is None or value == NONE):
        return None
    options = tuple(o for o in options if o is not type(None))
    if len(options) == 1:
        return _convert(value, options[0], key)
    # An exact type goes before a conversion: 1 is an int where int | float is asked for.
    for option in sorted(options, key=lambda o: not (isinstance(o, type) and type(value) is o)):
        try:
            return _convert(value, option, key)
        except ConfigError:
            continue
    raise _wrong(value, hint, key)


def _sequence(value: Any, hint: Any, key: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(value, hint, key)
    kind = get_origin(hint) or hint
    args = get_args(hint)
    if kind is tuple and args and not (len(args) == 2 and args[1] is Ellipsis):
        args = () if args == ((),) else args
        if len(args) != len(value):
            raise _wrong(value, hint, key)
        kinds = args
    else:
        kinds = (args[0] if args else Any,) * len(value)
    return kind(
        _convert(v, k, f"{key}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True))
    )


def _mapping(value: Any, hint: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(value, hint, key)
    args = get_args(hint) or (str, Any)
    return {str(k): _convert(v, args[1], f"{key}.{k}") for k, v in value.items()}


def _scalar(value: Any, hint: Any, key: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            if member is value or (type(member.value) is type(value) and member.value == value):
                return member
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    elif hint not in (bool, int, str, float, Path) and not _is_known(hint):
        raise ConfigError(f"{key} has type {_type_name(hint)}, which no configuration can hold")
    raise _wrong(value, hint, key)


def _is_known(hint: Any) -> bool:
    return hint is type(None) or (isinstance(hint, type) and issubclass(hint, enum.Enum))


def _unwrapped(value: Any) -> Any:
    if isinstance(value, _Override):
        return value.value
    if isinstance(value, Mapping):
        return {k: _unwrapped(v) for k, v in value.items()}
    return value


# -- writing ----------------------------------------------------------------------------------


def _plain(value: Any, hint: Any, key: str) -> Any:
    """A value as TOML values. Whatever would not come back as it is, is refused."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        prefix = f"{key}." if key else ""
        return {
            f.name: _plain(getattr(value, f.name), _hints(cls)[f.name], prefix + f.name)
            for f in dataclasses.fields(cls)
            if f.init
        }
    if value is None:
        if hint is Any or not _allows_none(hint):
            raise ConfigError(f"{key} is None, which TOML cannot say here")
        return NONE
    if isinstance(value, enum.Enum):
        value = value.value
    elif isinstance(value, Path):
        value = str(value)
    if value == NONE and _allows_none(hint) and hint is not Any:
        raise ConfigError(f"{key} is the text {NONE!r}, which would be read as None")
    if isinstance(value, Mapping):
        inner = (get_args(_without_none(hint)) or (str, Any))[-1]
        return {str(k): _plain(v, inner, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        args = [a for a in get_args(_without_none(hint)) if a is not Ellipsis] or [Any]
        inner_hints = args if len(args) == len(value) else [args[0]] * len(value)
        return [
            _plain(v, h, f"{key}[{i}]")
            for i, (v, h) in enumerate(zip(value, inner_hints, strict=True))
        ]
    return value


# -- types ------------------------------------------------------------------------------------


def _hints(cls: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _allows_none(hint: Any) -> bool:
    return hint is Any or type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    rest = [arg for arg in get_args(hint) if arg is not type(None)]
    is_union = get_origin(hint) in (Union, types.UnionType)
    return rest[0] if is_union and len(rest) == 1 else hint


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(NONE if a is type(None) else _type_name(a) for a in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " | ".join(repr(member.value) for member in hint)
    if get_args(hint):
        inner = ", ".join("..." if a is Ellipsis else _type_name(a) for a in get_args(hint))
        return f"{get_origin(hint).__name__}[{inner}]"
    return "table" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def _wrong(value: Any, hint: Any, key: str) -> ConfigError:
    value = _unwrapped(value)
    return ConfigError(
        f"{key or 'the configuration'} is {value!r:.200} ({type(value).__name__}); expected "
        f"{_type_name(hint)}"
    )
