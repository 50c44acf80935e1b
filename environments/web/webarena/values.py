"""Values of WebArena-Verified: what counts as equal, by type. Deterministic; no model is asked.

Source: El Hattami et al., WebArena Verified (ServiceNow), ``webarena-verified`` 1.2.3; types,
tolerances and the order of comparisons are its own. Differs: dates and lengths are read by rules
written here instead of by libraries, similar names are compared by `difflib`, and an address is
compared field by field.
"""

import calendar
import difflib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Schema = Mapping[str, Any]
_ENDS = "'\"`.,;:!?"
_MARKS = dict.fromkeys(map(ord, "\u2122\u00ae\u2120\u00a9"))
_HYPHEN = "[-\u00ad\u2010-\u2015\u2212]"
_BY_LETTER = re.compile(rf"(?<=[a-zA-Z]){_HYPHEN}|{_HYPHEN}(?=[a-zA-Z])")
CURRENCY_TOLERANCE = 0.1
SIMILAR = 0.8
"""Share of two names of places that must be the same."""


def is_pattern(value: object) -> bool:
    """Whether an expected text is a regular expression: it begins with ^ and ends with $."""
    return isinstance(value, str) and value.startswith("^") and value.endswith("$")


def text(value: object) -> str:
    """A text without case, accents, marks and superfluous space.

    Example:
        >>> text("  Quest\u2122  Caf\u00e9-Bar ")
        'quest cafe bar'
    """
    found = unicodedata.normalize("NFKC", str(value).translate(_MARKS))
    found = _BY_LETTER.sub(" ", found)
    found = unicodedata.normalize("NFKD", found).encode("ascii", "ignore").decode()
    return " ".join(found.split()).casefold()


def same_text(expected: object, actual: object) -> bool:
    """Equal as `text`, quotes and punctuation at the ends aside; or the pattern fits the whole."""
    if is_pattern(expected):
        return expected == actual or _fits(str(expected), text(actual))
    return text(expected) == text(actual) or (
        text(expected).strip(_ENDS) == text(actual).strip(_ENDS) != ""
    )


def _fits(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value, re.IGNORECASE | re.DOTALL) is not None
    except re.error:
        return False


def same(
    expected: Any, actual: Any, schema: Schema | None = None, *, ordered: bool = False
) -> bool:
    """Whether an actual value is the expected one.

    Args:
        expected: of a task file; a list where the schema has a single value names alternatives.
        actual: what the agent or a request said.
        schema: JSON schema with the formats of `FORMATS`; texts without one.
        ordered: lists must have the same order.
    """
    kind = (schema or {}).get("type", "")
    if expected is None or kind == "null":
        return actual in (None, "", [], {})
    if kind == "array":
        return _same_list(expected, _listed(actual), (schema or {}).get("items"), ordered)
    if isinstance(expected, Mapping):
        actual = _parsed(actual)
        properties = (schema or {}).get("properties", {})
        return isinstance(actual, Mapping) and all(
            same(value, actual.get(name), properties.get(name), ordered=ordered)
            for name, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        format = (schema or {}).get("format", "")
        if isinstance(actual, list | tuple) and format != "coordinates":
            return _same_list(expected, actual, schema, ordered)
        if format != "coordinates" or any(isinstance(e, list | tuple) for e in expected):
            return any(same(each, actual, schema) for each in expected)
    compare = FORMATS.get((schema or {}).get("format") or kind, same_text)
    try:
        return compare(expected, actual)
    except (ValueError, TypeError, OverflowError):
        return False


def _same_list(expected: Any, actual: Any, items: Schema | None, ordered: bool) -> bool:
    if not isinstance(expected, list | tuple):
        expected = [expected]
    if not isinstance(actual, list | tuple) or len(actual) != len(expected):
        return False
    if ordered:
        return all(same(e, a, items, ordered=True) for e, a in zip(expected, actual, strict=True))
    left = list(actual)
    for each in expected:
        found = next((i for i, a in enumerate(left) if same(each, a, items)), None)
        if found is None:
            return False
        del left[found]
    return True


def _parsed(value: Any) -> Any:
    """What a text says as JSON, if it does."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _listed(value: Any) -> Any:
    value = value if isinstance(value, list | tuple) else _parsed(value)
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


# ---- the types -----------------------------------------------------------------------------------

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()


def number(value: Any) -> float:
    """A number, also written with separators or as a small number's word."""
    if isinstance(value, int | float):
        return float(value)
    written = str(value).strip().lower()
    if written in _WORDS:
        return float(_WORDS.index(written))
    return float(written.replace(",", "").replace(" ", ""))


def money(value: Any) -> float:
    """An amount without its currency; the last separator is the decimal one."""
    if isinstance(value, int | float):
        return float(value)
    found = re.search(r"\d[\d.,\s]*", str(value))
    if found is None:
        raise ValueError(f"no amount in {value!r}")
    digits = re.sub(r"\s", "", found[0]).rstrip(".,")
    cents = re.search(r"[.,](\d{1,2})$", digits)
    whole = re.sub(r"[.,]", "", digits[: cents.start()] if cents else digits)
    amount = float(f"{whole}.{cents[1] if cents else 0}")
    return -amount if str(value).strip().startswith("-") else amount


_DATES = (
    *("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%Y/%m/%d", "%d %B %Y", "%d %b %Y", "%B %d %Y"),
    *("%b %d %Y", "%B %Y", "%b %Y", "%m-%d-%Y", "%d.%m.%Y", "%Y%m%d", "%B %d", "%b %d"),
)


def day(value: Any) -> date:
    """A date: month before day, where both could be."""
    written = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", str(value).strip())
    written = re.sub(r"[T ]\d{1,2}:\d{2}.*$", "", written).rstrip(_ENDS)
    written = " ".join(written.replace(",", " ").split())
    written = re.sub(
        r"^(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.? ",
        "",
        written,
        flags=re.IGNORECASE,
    )
    for form in _DATES:
        try:
            given = written if "%Y" in form or "%y" in form else f"{written} {date.today().year}"
            whole = form if "%Y" in form or "%y" in form else f"{form} %Y"
            return datetime.strptime(given, whole).date()
        except ValueError:
            continue
    raise ValueError(f"{value!r} is no date")


def month(value: Any) -> int:
    """A month's number, of its number, its name or a date."""
    written = str(value).strip().lower()
    if re.fullmatch(r"\d{1,2}(\.0)?", written):
        found = int(float(written))
        if 1 <= found <= 12:
            return found
        raise ValueError(f"{value!r} is no month")
    for index, name in enumerate(calendar.month_name):
        if index and re.match(rf"({name.lower()}|{name[:3].lower()})\b", written):
            return index
    return day(value).month


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def seconds(value: Any) -> float:
    """A span of time: "2h 5min", "1:30" (hours and minutes), "1:02:03"."""
    written = str(value).strip().lower()
    clock = re.fullmatch(r"(\d+):(\d{2})(?::(\d{2}))?(?:\s*h(?:ours?|rs?)?)?", written)
    if clock and clock[3]:
        return int(clock[1]) * 3600.0 + int(clock[2]) * 60 + int(clock[3])
    if clock:  # minutes and seconds, unless hours are said
        unit = 60.0 if "h" in written else 1.0
        return int(clock[1]) * 60 * unit + int(clock[2]) * unit
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)(?:ay|our|r|in|inute|ec|econd)?s?\b", written)
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)(?:ay|our|r|in|inute|ec|econd)?s?\b", "", written)
    if not parts or re.sub(r"\band\b|[\s,]", "", rest):
        raise ValueError(f"{value!r} is no span of time with units")
    return math.fsum(float(amount) * _SECONDS[unit] for amount, unit in parts)


_METRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(
        ("k", "km", "kms", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0
    ),
    **dict.fromkeys(("mi", "mile", "miles"), 1609.344),
    **dict.fromkeys(("ft", "foot", "feet"), 0.3048),
    **dict.fromkeys(("yd", "yard", "yards"), 0.9144),
}


def metres(value: Any) -> float:
    """A length with its unit."""
    found = re.fullmatch(r"\s*([\d,]+(?:\.\d+)?)\s*([a-z]+)\.?\s*", str(value).lower())
    if found is None or found[2] not in _METRES:
        raise ValueError(f"{value!r} is no length with a unit")
    return float(found[1].replace(",", "")) * _METRES[found[2]]


def point(value: Any) -> tuple[float, float]:
    """(latitude, longitude) of a mapping, a pair or a text."""
    if isinstance(value, Mapping):
        keys = {str(key).lower(): item for key, item in value.items()}
        pair = [keys.get("latitude", keys.get("lat")), None]
        pair[1] = next((keys[k] for k in ("longitude", "long", "lon", "lng") if k in keys), None)
    elif isinstance(value, str):
        pair = list(re.findall(r"-?\d+(?:\.\d+)?", value))
    else:
        pair = list(value)
    if len(pair) != 2:
        raise ValueError(f"{value!r} is no point")
    return float(pair[0]), float(pair[1])  # type: ignore[arg-type]


_YES, _NO = ("true", "yes", "y", "1", "t", "on"), ("false", "no", "n", "0", "f", "off")


def truth(value: Any) -> bool:
    """Yes or no."""
    written = str(value).strip().lower() if not isinstance(value, float) else str(int(value))
    if written in _YES + _NO:
        return written in _YES
    raise ValueError(f"{value!r} is neither yes nor no")


def _near(read: Callable[[Any], float], least: float, share: float) -> Callable[[Any, Any], bool]:
    def compare(expected: Any, actual: Any) -> bool:
        a, b = read(expected), read(actual)
        return abs(a - b) <= max(least, share * max(a, b))

    return compare


def _equal(read: Callable[[Any], Any]) -> Callable[[Any, Any], bool]:
    return lambda expected, actual: bool(read(expected) == read(actual))


def _similar(expected: Any, actual: Any) -> bool:
    a, b = (" ".join(sorted(text(value).split())) for value in (expected, actual))
    return a == b or (bool(a and b) and difflib.SequenceMatcher(None, a, b).ratio() >= SIMILAR)


def _same_point(expected: Any, actual: Any) -> bool:
    return all(abs(a - b) <= 1e-5 for a, b in zip(point(expected), point(actual), strict=True))


def _parts(value: Any) -> tuple[str, ...]:
    return tuple(sorted(text(part) for part in str(value).split(",") if part.strip()))


def markdown(value: Any) -> str:
    """Markdown without differences that do not show."""
    found = str(value).replace("\r\n", "\n").replace("\r", "\n")
    found = re.sub(r"[ \t]+$", "", found, flags=re.MULTILINE)
    found = re.sub(r"\n{3,}", "\n\n", found)
    found = re.sub(r"^(\s*)(#{1,6})[ \t]+", r"\1\2 ", found, flags=re.MULTILINE)
    found = re.sub(r"^(\s*)[*+][ \t]+", r"\1- ", found, flags=re.MULTILINE)
    found = re.sub(r"^[ \t]+(-)", r"  \1", found, flags=re.MULTILINE)
    found = re.sub(r"\[([^\]]+)\]", lambda m: f"[{' '.join(m[1].split())}]", found)
    return re.sub(r"\(\s*([^)]+?)\s*\)", r"(\1)", found).strip()


def _same_markdown(expected: Any, actual: Any) -> bool:
    if is_pattern(expected):
        return _fits(expected, markdown(actual))
    return markdown(expected) == markdown(actual)


def _same_json(expected: Any, actual: Any) -> bool:
    return bool(json.loads(str(expected)) == json.loads(str(actual)))


FORMATS: Mapping[str, Callable[[Any, Any], bool]] = {
    "string": same_text,
    "number": _equal(number),
    "integer": _equal(number),
    "boolean": _equal(truth),
    "currency": lambda e, a: abs(money(e) - money(a)) <= CURRENCY_TOLERANCE + 1e-9,
    "date": _equal(day),
    "month": _equal(month),
    "duration": _near(seconds, 180.0, 0.10),
    "distance": _near(metres, 10.0, 0.02),
    "coordinates": _same_point,
    "location-name": _similar,
    "string_list": _equal(_parts),
    "markdown": _same_markdown,
    "json": _same_json,
    "url": lambda e, a: same_address(str(e), str(a)),
}


# ---- addresses -----------------------------------------------------------------------------------


def address(url: str) -> tuple[str, dict[str, str]]:
    """An address as what it is compared by: all but its query, and the first value of each query.

    Example:
        >>> address("HTTP://A.com:80/b/?y=2&x=%C3%A9")
        ('http://a.com/b', {'y': '2', 'x': '\u00e9'})
    """
    parts = urlsplit(url.strip())
    port = parts.port
    own = {"http": 80, "https": 443}.get(parts.scheme)
    host = (parts.hostname or "") + ("" if port in (None, own) else f":{port}")
    base = f"{parts.scheme}://{host}{unquote(parts.path)}".rstrip("/").lower()
    if parts.fragment:
        base += f"#{parts.fragment}"
    query = parse_qs(parts.query, keep_blank_values=True)
    return base, {
        unquote(key): sorted(unquote(v).lower().strip() for v in values)[0]
        for key, values in query.items()
    }


def same_base(expected: str, actual: str) -> bool:
    """Equal but for the query; the expected one may be a pattern."""
    if is_pattern(expected):
        without = actual.partition("?")[0]
        return any(_begins(expected, each) for each in (without, without.rstrip("/")))
    try:
        return address(expected)[0] == address(actual)[0]
    except ValueError:
        return False


def _begins(pattern: str, value: str) -> bool:
    try:
        return re.match(pattern, value) is not None or re.match(pattern, unquote(value)) is not None
    except re.error:
        return False


def same_query(
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    ignored: Callable[[str], bool] = lambda name: False,
    schema: Schema | None = None,
) -> bool:
    """Every parameter that is not ignored is equal; a missing one is as good as an empty one."""
    properties = (schema or {}).get("properties", {})
    for name in {*expected, *actual}:
        if ignored(name):
            continue
        wanted, given = expected.get(name, ""), actual.get(name, "")
        if isinstance(wanted, Sequence) and not isinstance(wanted, str):
            wanted = wanted[0] if wanted else ""
        wanted, given = wanted or "", given or ""
        items = properties.get(name, {}).get("items")
        if is_pattern(wanted):
            if not _begins(str(wanted), str(given)):
                return False
        elif items is not None and wanted and given:
            if not same(wanted, given, items):
                return False
        elif str(wanted).lower().strip() != str(given).lower().strip():
            return False
    return True


def same_address(expected: str, actual: str) -> bool:
    """Equal as a whole."""
    if not same_base(expected, actual):
        return False
    if is_pattern(expected):
        return True
    return same_query(address(expected)[1], address(actual)[1])
