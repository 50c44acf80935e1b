"""WebArena-Verified's evaluators: the agent's answer as JSON, and what its browser asked of sites.

Both are deterministic. What the browser asked is a list of exchanges (see `agentgym.tape`), so that
an episode can also be evaluated later, from a recording.

Source: El Hattami et al., WebArena Verified (ServiceNow), ``webarena-verified`` 1.2.3.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from agentgym.environments.web.webarena import values
from agentgym.tape import Exchange

_STATIC = tuple(f".{end}" for end in "css js png jpg jpeg gif svg woff woff2 ttf ico webp".split())
_BLOCK = re.compile(r"```(?:json)?\s*\n?(.*?)\n?```", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9_-]{4,}={0,2}")
_PATH = re.compile(
    r"\.([\w-]+)|\['([^']+)'\]|\[(\d+)\]|\[\?\(@\.(\w+)\s*==\s*([^)]+?)\s*\)\]|\[\*\]"
)


# ---- the answer ----------------------------------------------------------------------------------


def same_response(evaluator: Mapping[str, Any], answer: str) -> tuple[bool, str]:
    """Whether an answer is the expected one.

    Args:
        evaluator: an ``AgentResponseEvaluator`` of a task file.
        answer: the agent's last words: JSON, also in a block of code.

    Returns:
        Whether, and what is not.
    """
    expected = evaluator["expected"]
    given = _json(answer)
    if not isinstance(given, Mapping):
        return False, "the answer is no JSON object"
    task_type = given.get("task_type", given.get("performed_operation"))
    for name, value in (("task_type", task_type), ("status", given.get("status"))):
        if not values.same(expected.get(name), value):
            return False, f"{name} is {value!r}"
    if not values.same_text(expected.get("task_type"), "retrieve"):
        return True, ""
    wanted, data = expected.get("retrieved_data"), given.get("retrieved_data")
    if wanted in (None, []):
        return data in (None, "", [], {}), "there should be no retrieved_data"
    schema = evaluator.get("results_schema") or {}
    ordered = bool(evaluator.get("ordered", False))
    same = values.same(wanted, data, {"type": "array", **schema}, ordered=ordered)
    return same, "" if same else "retrieved_data is not as expected"


def _json(text: str) -> Any:
    block = _BLOCK.search(text)
    try:
        return json.loads(block[1] if block else text)
    except (ValueError, RecursionError):
        return None


# ---- what the browser asked ------------------------------------------------------------------


def same_event(
    evaluator: Mapping[str, Any], exchanges: Sequence[Exchange], *, navigates: bool = False
) -> tuple[bool, str]:
    """Whether the browser asked for what is expected.

    Args:
        evaluator: a ``NetworkEventEvaluator`` of a task file.
        exchanges: all of the episode, in order.
        navigates: the task is to get somewhere: the last page that was opened counts.

    Returns:
        Whether, and what is not.
    """
    found = list(_candidates(evaluator, exchanges, navigates))
    if evaluator.get("should_not_exist"):
        return not found, f"{len(found)} requests of a kind that should not be" if found else ""
    if not found:
        return False, "no such request"
    if evaluator.get("last_event_only", True):
        found = found[-1:]
    wrong = [_difference(evaluator, each) for each in found]
    return ("" in wrong), ("" if "" in wrong else f"{wrong[-1]} of {found[-1].url[:200]}")


def _candidates(
    evaluator: Mapping[str, Any], exchanges: Sequence[Exchange], navigates: bool
) -> Iterator[Exchange]:
    expected = evaluator["expected"]
    method = expected.get("http_method", "GET")
    relevant = [e for e in exchanges if not urlsplit(e.url).path.endswith(_STATIC)]
    if navigates and method == "GET":
        yield from [e for e in relevant if e.document and e.method == "GET"][-1:]
        return
    referer = _header(expected, "referer")
    for exchange in relevant:
        came_from = dict(exchange.asked).get("referer", "")
        if (
            exchange.method.lower() == method.lower()
            and _bases(evaluator, expected.get("url", ""), exchange.url)
            and (
                not (referer and came_from) or any(values.same_base(r, came_from) for r in referer)
            )
        ):
            yield exchange


def _difference(evaluator: Mapping[str, Any], exchange: Exchange) -> str:
    """What of a request is not as expected; empty if nothing."""
    expected = evaluator["expected"]
    if expected.get("http_method", "GET").lower() != exchange.method.lower():
        return "the method"
    if not _same_url(
        evaluator, expected.get("url", ""), exchange.url, expected.get("query_params")
    ):
        return "the address"
    if expected.get("response_status", 200) != exchange.status:
        return f"the status {exchange.status}"
    asked = dict(exchange.asked)
    for name, wanted in (expected.get("headers") or {}).items():
        given = asked.get(name.lower(), "")
        address = name.lower() in ("referer", "redirect_url")
        if not given or not (
            _same_url(evaluator, wanted, given) if address else values.same(wanted, given)
        ):
            return f"the header {name}"
    for name, wanted in (expected.get("response_cookies") or {}).items():
        if not values.same(wanted, _cookies(exchange).get(name)):
            return f"the cookie {name}"
    content_type = asked.get("content-type", "")
    posted = parsed(exchange.posted, content_type)
    ignored = evaluator.get("ignored_post_data_params_patterns") or ()
    posted = {k: v for k, v in posted.items() if not any(re.search(p, k) for p in ignored)}
    wrong = _mapping(expected.get("post_data"), posted, evaluator.get("post_data_schema"))
    if wrong:
        return f"what was sent as {wrong}"
    content: dict[str, Any] = {}
    if expected.get("response_content"):
        kind = next((v for k, v in exchange.headers if k.lower() == "content-type"), "")
        content = parsed(exchange.body.decode("utf-8", "replace"), kind)
    wrong = _mapping(expected.get("response_content"), content, None)
    return f"what was answered as {wrong}" if wrong else ""


def _mapping(
    expected: Mapping[str, Any] | None, actual: Mapping[str, Any], schema: Mapping[str, Any] | None
) -> str:
    """The first key whose value is not as expected; empty if all are."""
    properties = (schema or {}).get("properties", {})
    if expected and not actual:
        return "nothing"
    for key, wanted in (expected or {}).items():
        name = key.strip()
        given = at_path(actual, name) if name.startswith(("$", "^")) else actual.get(name)
        if not values.same(wanted, given, properties.get(key)):
            return name
    return ""


def _header(expected: Mapping[str, Any], name: str) -> Sequence[str]:
    headers = expected.get("headers") or {}
    return [each for k, v in headers.items() if k.lower() == name for each in _alternatives(v)]


def _alternatives(url: Any) -> Sequence[str]:
    return [url] if isinstance(url, str) else list(url)


def _read(evaluator: Mapping[str, Any], url: str) -> tuple[str, dict[str, str]]:
    """An address without queries that are written into its path in base 64, and its query."""
    if not evaluator.get("decode_base64_query"):
        return url, values.address(url)[1]
    parts = urlsplit(url)
    kept, more = [], []
    for segment in parts.path.split("/"):
        said = _decoded(segment)
        if said:
            more.append(unquote(said).strip().lstrip("?&"))
        else:
            kept.append(segment)
    query = "&".join(filter(None, [*more, parts.query]))
    whole = parts._replace(path="/".join(kept), query=query).geturl()
    return whole, values.address(whole)[1]


def _decoded(segment: str) -> str:
    if not _BASE64.fullmatch(segment):
        return ""
    try:
        said = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode()
    except (binascii.Error, ValueError):
        return ""
    return said if "=" in said else ""


def _bases(evaluator: Mapping[str, Any], expected: Any, actual: str) -> bool:
    try:
        seen = {actual, _read(evaluator, actual)[0]}
    except ValueError:
        return False
    return any(values.same_base(e, a) for e in _alternatives(expected) for a in seen)


def _same_url(
    evaluator: Mapping[str, Any], expected: Any, actual: str, query: Mapping[str, Any] | None = None
) -> bool:
    names = evaluator.get("ignored_query_params") or ()
    patterns = evaluator.get("ignored_query_params_patterns") or ()

    def ignored(name: str) -> bool:
        return name in names or any(re.search(p, name, re.IGNORECASE) for p in patterns)

    try:
        given = _read(evaluator, actual)[1]
    except ValueError:
        return False
    for one in _alternatives(expected):
        if not _bases(evaluator, one, actual):
            continue
        wanted = query if query is not None else {}
        if query is None and not values.is_pattern(one):
            wanted = _read(evaluator, one)[1]
        if values.same_query(wanted, given, ignored, evaluator.get("query_params_schema")):
            return True
    return False


def _cookies(exchange: Exchange) -> dict[str, str]:
    """What the answer set, decoded."""
    found = {}
    for name, value in exchange.headers:
        if name.lower() == "set-cookie":
            for line in value.split("\n"):
                key, _, rest = line.partition("=")
                found[key.strip()] = unquote(rest.partition(";")[0])
    return found


def parsed(text: str, content_type: str) -> dict[str, Any]:
    """A form or a JSON object as keys and values; empty if it is neither.

    Example:
        >>> parsed("a=1&b=&a=2", "application/x-www-form-urlencoded")
        {'a': '1', 'b': ''}
    """
    if "application/json" in content_type:
        found = _json(text)
        return dict(found) if isinstance(found, Mapping) else {}
    if "application/x-www-form-urlencoded" in content_type:
        return {k: v[0] for k, v in parse_qs(text, keep_blank_values=True).items()}
    boundary = re.search(r"boundary=([^;\s]+)", content_type)
    if "multipart/form-data" not in content_type or boundary is None:
        return {}
    fields = {}
    for part in text.split(f"--{boundary[1]}"):
        head, _, body = part.strip().replace("\r\n", "\n").partition("\n\n")
        if name := re.search(r'content-disposition:.*?\bname="([^"]+)"', head, re.IGNORECASE):
            fields[name[1]] = body.rstrip("\n")
    return fields


def at_path(data: Any, path: str) -> Any:
    r"""What stands at a path of JSON; several things are a list, nothing is None.

    Paths such as ``$.items[0].name`` or ``$['rows'][?(@.new == 1)].id``, and ``$.^pattern$`` or
    ``^pattern$`` for keys of the outermost object. Texts that hold JSON are gone into.

    Example:
        >>> at_path({"a": [{"b": 1}, {"b": 2}]}, "$.a[1].b"), at_path({"x_1": 5}, r"$.^x_\d$")
        (2, 5)
    """
    pattern = path.removeprefix("$.")
    if values.is_pattern(pattern):
        found = [v for k, v in dict(data).items() if re.match(pattern, k)]
        return found[0] if len(found) == 1 else found or None
    rest, here, several, end = path[1:], [data], False, 0
    for step in _PATH.finditer(rest):
        if step.start() != end:
            return None
        end = step.end()
        key, quoted, index, field, value = step.groups()
        here = [values._parsed(each) for each in here]
        name = key or quoted
        if name:
            here = [each[name] for each in here if isinstance(each, Mapping) and name in each]
        elif index:
            here = [e[int(index)] for e in here if isinstance(e, list) and int(index) < len(e)]
        else:
            several = True
            here = [item for each in here if isinstance(each, list) for item in each]
            if field:
                wanted = values._parsed(value.strip("'\""))
                here = [e for e in here if isinstance(e, Mapping) and e.get(field) == wanted]
    if end != len(rest) or not here:
        return None
    return here if several or len(here) > 1 else here[0]
