"""The score of a finished WebArena episode: once, at the end, on what the agent left behind.

Nothing here steers the agent's own tabs: other pages are looked at in tabs of their own. What only
a model can judge is not judged here: the evaluation lists its questions, and `Evaluation.judged`
takes the answers, so that a judge can work later, elsewhere and in batches.

Source: WebArena's ``evaluation_harness`` (arXiv 2307.13854, section 3.2). Modes as in `answers`.
"""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from agentgym.environments.web.webarena import answers, pictures, verified
from agentgym.environments.web.webarena.functions import SiteFunctions
from agentgym.environments.web.webarena.pictures import fetch_picture
from agentgym.environments.web.webarena.tasks import Goal, HtmlTarget, WebArenaTask
from agentgym.errors import BrowserError, ConfigError
from agentgym.tape import Exchange

Mode = Literal["compat", "github", "strict"]
MODES: tuple[Mode, ...] = ("compat", "github", "strict")
NOT_ACHIEVABLE = "N/A"


class PageState(Protocol):
    """A page that is looked at and not changed by the agent any more."""

    @property
    def url(self) -> str:
        """Its address."""
        ...

    def content(self) -> str:
        """The page's HTML."""
        ...

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression.

        Raises:
            ValueError: the expression itself fails; anything else is the browser's failure.
        """
        ...

    def pictures(self, selector: str) -> Sequence[bytes]:
        """The files of the pictures that a selector names, or of all that are seen."""
        ...


class FinalState(Protocol):
    """What the agent left behind."""

    @property
    def answer(self) -> str:
        """Text of its last message; empty if there was none."""
        ...

    @property
    def page(self) -> PageState:
        """The page it ended on."""
        ...

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """What its browser asked of sites, in order."""
        ...

    def visit(self, url: str) -> AbstractContextManager[PageState]:
        """Another page with the agent's cookies, in a tab of its own that is closed after."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked."""

    kind: Literal["same_meaning", "same_reason", "in_pictures"]
    """Does the answer mean the same as the reference; is the agent's reason why the task cannot
    be done the true one; is the reference the answer to `task` for any of the pictures."""
    task: str
    """What the agent had been told; for "in_pictures" the question about the pictures."""
    reference: str
    answer: str
    pictures: tuple[str, ...] = ()
    """As data addresses."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One part of a score; the score is their product."""

    name: str
    """E.g. ``string_match.must_include[0]``."""
    value: float | None
    """0 or 1; None as long as `question` is open."""
    detail: str = ""
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A score and how it came about."""

    factors: tuple[Factor, ...]

    @property
    def score(self) -> float | None:
        """0 or 1; None if it hangs on a judge."""
        values = [factor.value for factor in self.factors]
        if 0.0 in values:
            return 0.0
        return None if None in values else float(math.prod(v for v in values if v is not None))

    @property
    def questions(self) -> tuple[Question, ...]:
        """What a judge must be asked; empty if the score stands without."""
        if self.score is not None:
            return ()
        return tuple(f.question for f in self.factors if f.value is None and f.question)

    def judged(self, verdicts: Sequence[bool | None]) -> "Evaluation":
        """With the answers to `questions`, in order; None where the judge could not tell.

        Raises:
            ConfigError: as many answers as questions are needed.
        """
        questions = self.questions
        if len(verdicts) != len(questions):
            raise ConfigError(f"{len(questions)} questions, but {len(verdicts)} answers")
        given = iter(verdicts)
        factors = []
        for factor in self.factors:
            if factor.value is None and factor.question is not None and questions:
                verdict = next(given)
                factor = factor if verdict is None else replace(factor, value=float(verdict))
            factors.append(factor)
        return Evaluation(tuple(factors))

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "Evaluation":
        """What `to_json` made.

        Raises:
            ConfigError: it is none.
        """
        try:
            questions = [
                Question(
                    q["kind"], q["task"], q["reference"], q["answer"], tuple(q.get("pictures", ()))
                )
                for q in told["questions"]
            ]
            given = iter(questions)
            factors = []
            for f in told["factors"]:
                question = next(given) if f["value"] is None and questions else None
                factors.append(Factor(f["name"], f["value"], f["detail"], question))
            made = cls(tuple(factors))
        except (KeyError, TypeError, StopIteration) as error:
            raise ConfigError(f"{str(told)[:80]} is no evaluation: {error!r}") from error
        if len(made.questions) != len(questions) or (made.score is None and not questions):
            raise ConfigError(f"{str(told)[:80]} is no evaluation: its questions do not fit")
        return made

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for `info` and stores."""
        return {
            "score": self.score,
            "factors": [
                {"name": f.name, "value": f.value, "detail": f.detail} for f in self.factors
            ],
            "questions": [
                {"kind": q.kind, "task": q.task, "reference": q.reference, "answer": q.answer}
                | ({"pictures": list(q.pictures)} if q.pictures else {})
                for q in self.questions
            ],
        }


def evaluate(
    task: WebArenaTask,
    state: FinalState,
    *,
    mode: Mode = "compat",
    functions: SiteFunctions | None = None,
    fetch: Callable[[str], bytes] = fetch_picture,
) -> Evaluation:
    """Score what the agent left behind.

    Args:
        task: what it should have done.
        state: how things stand.
        mode: "compat" repeats the published evaluators, "github" WebArena's repository where it
            differs from the package that BrowserGym uses (after a page has been visited, "last"
            means that one, as it does in WebArena-Lite), "strict" repairs them.
        functions: the helpers that targets name by ``func:``; they ask the sites.
        fetch: gets the pictures that a task compares with, by address.

    Raises:
        ConfigError: the mode.
        EnvFailureError: the browser or a site failed.
    """
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {MODES}, got {mode!r}")
    goal = task.goal
    if goal.verified:
        return Evaluation(tuple(_verified(goal, state)))
    parts: dict[str, Callable[[], Iterator[Factor]]] = {
        "string_match": lambda: _string_match(task, goal, state.answer, mode),
        "url_match": lambda: _url_match(goal, state.page.url, mode),
        "program_html": lambda: _program_html(task, goal, state, mode, functions),
        "page_image_query": lambda: _page_images(goal, state, functions, fetch),
    }
    factors: list[Factor] = []
    for kind in goal.kinds:
        for factor in parts[kind]():
            factors.append(factor)
            if factor.value == 0.0:  # a product: whatever follows cannot change it
                return Evaluation(tuple(factors))
    return Evaluation(tuple(factors))


def _string_match(task: WebArenaTask, goal: Goal, said: str, mode: Mode) -> Iterator[Factor]:
    strict = mode == "strict"
    answer = answers.clean(said, strip=strict or goal.family == "original")
    impossible = goal.answers.get("fuzzy_match") == NOT_ACHIEVABLE
    if impossible:
        same = answers.exact(NOT_ACHIEVABLE, answer)
        question = Question("same_reason", task.intent, goal.impossible_because, answer)
        yield Factor("string_match.impossible", 1.0 if same else None, answer, question)
        if not same and not strict:
            return  # the judge's word overwrites every other factor in the original
    for rule, reference in goal.answers.items():
        if rule == "fuzzy_match" and impossible:
            continue
        rated = Rated(answer, task.intent, strict, goal.family, spoken=True)
        yield from _rule(f"string_match.{rule}", rule, reference, rated)


@dataclass(frozen=True, slots=True)
class Rated:
    """What a rule is about, and whose rules hold."""

    text: str
    intent: str
    strict: bool
    family: answers.Family
    spoken: bool
    """It is the agent's answer, not what a page shows."""


def _rule(name: str, rule: str, reference: Any, rated: Rated) -> Iterator[Factor]:
    """The factors of one rule."""
    items = [reference] if isinstance(reference, str) else list(reference)
    text, strict, original = rated.text, rated.strict, rated.family == "original"
    strip = strict or original

    def includes(wanted: str) -> bool:
        # The original looks for words only if there is one reference of one character, and only in
        # the agent's answer.
        tokenize: answers.Tokenize = "word"
        if original:
            tokenize = "character" if rated.spoken and len(items) == 1 else "no"
        return answers.includes(wanted, text, tokenize=tokenize, strict=strict, strip=strip)

    if rule == "exact_match":
        yield _factor(name, answers.exact(items[0], text, strip), text)
    elif rule == "one_of":
        if strict:
            found = any(answers.exact(item, text) for item in items)
        else:
            found = any(answers.clean(item, strip) in text for item in items)
        yield _factor(name, found, text)
    elif rule == "must_include":
        for index, item in enumerate(items):
            options = [item] if rated.spoken and original else item.split(answers.OR)
            yield _factor(f"{name}[{index}]", any(map(includes, options)), text)
    elif rule == "must_exclude":
        for index, item in enumerate(items):
            yield _factor(f"{name}[{index}]", not includes(item), text)
    elif rule == "required_values":
        for index, item in enumerate(items):
            holds = answers.required_value(item, text, strict=strict)
            yield _factor(f"{name}[{index}]", holds, text)
    else:
        if rated.family == "lite":
            items = [", ".join(items)]
        elif isinstance(reference, str):
            items = reference.split(answers.OR)
        for index, item in enumerate(items):
            question = Question("same_meaning", rated.intent, item, text)
            yield Factor(f"{name}[{index}]", None, _short(text), question)


def _url_match(goal: Goal, url: str, mode: Mode) -> Iterator[Factor]:
    strict = mode == "strict"
    same = answers.same_url(goal.url, url, note=goal.url_note, strict=strict, family=goal.family)
    yield _factor("url_match", same, url)


def _program_html(
    task: WebArenaTask,
    goal: Goal,
    state: FinalState,
    mode: Mode,
    functions: SiteFunctions | None,
) -> Iterator[Factor]:
    strict = mode == "strict"
    moves = mode == "github" or (goal.family == "lite" and not strict)
    last = ""
    for index, target in enumerate(goal.targets):
        name = f"program_html[{index}]"
        url = target.url
        if url.startswith("func:"):
            url = _needed(functions, url).url(url, last_url=last or state.page.url)
        url = last if url == "last" else url
        with state.visit(url) if url else nullcontext(state.page) as page:
            shown = _located(target, page, functions, goal.family)
            last = page.url if url and moves else ""
        if shown is None:
            yield Factor(name, 0.0, "there is no such thing on the page")
            return
        rated = Rated(shown, task.intent, strict, goal.family, spoken=False)
        for rule, reference in target.required.items():
            yield from _rule(f"{name}.{rule}", rule, reference, rated)


def _verified(goal: Goal, state: FinalState) -> Iterator[Factor]:
    """WebArena-Verified's evaluators, up to the first that fails; see `verified`."""
    expected = (e["expected"].get("task_type") for e in goal.verified)
    navigates = "navigate" in expected
    for index, evaluator in enumerate(goal.verified):
        if evaluator["evaluator"] == "AgentResponseEvaluator":
            name = f"agent_response[{index}]"
            holds, why = verified.same_response(evaluator, state.answer)
        else:
            name = f"network_event[{index}]"
            holds, why = verified.same_event(evaluator, state.exchanges, navigates=navigates)
        yield _factor(name, holds, why)
        if not holds:
            return


def _page_images(
    goal: Goal,
    state: FinalState,
    functions: SiteFunctions | None,
    fetch: Callable[[str], bytes],
) -> Iterator[Factor]:
    for index, query in enumerate(goal.images):
        name = f"page_image_query[{index}]"
        url, selector = str(query["eval_image_url"]), str(query["eval_image_class"]).strip()
        if url.startswith("func:"):
            url = _needed(functions, url).url(url, last_url=state.page.url)
        with nullcontext(state.page) if url == "last" else state.visit(url) as page:
            found = _readable(page.pictures(selector))
        if not found:
            yield Factor(name, 0.0, "there is no picture")
            return
        for number, asked in enumerate(query.get("eval_vqa") or ()):
            shown = tuple(pictures.data_url(data) for data, _ in found)
            question = Question("in_pictures", asked["question"], asked["answer"], "", shown)
            yield Factor(f"{name}.eval_vqa[{number}]", None, asked["question"], question)
        wanted = query.get("eval_fuzzy_image_match")
        if wanted:
            references = [pictures.opened(fetch(each)) for each in wanted.split(answers.OR)]
            best = max(pictures.similarity(p, r) for _, p in found for r in references)
            least = query.get("ssim_threshold", pictures.THRESHOLD)
            yield Factor(
                f"{name}.eval_fuzzy_image_match", float(best > least), f"similarity {best:.4f}"
            )


def _readable(files: Sequence[bytes]) -> list[tuple[bytes, Any]]:
    """The files that are pictures, with their pixels; others (drawings, say) do not count."""
    found = []
    for data in files:
        try:
            found.append((data, pictures.opened(data)))
        except ConfigError:
            continue
    return found


def _located(
    target: HtmlTarget, page: PageState, functions: SiteFunctions | None, family: answers.Family
) -> str | None:
    """What the page shows at the target's locator; None if even that is wrong."""
    locator = target.locator.strip()
    plain: Callable[[str], str] = html.unescape if family == "original" else str
    if not locator:
        return plain(page.content())
    if locator.startswith("func:"):
        return plain(_needed(functions, locator).text(locator, page=page))
    try:
        for action in target.prepare:
            page.evaluate(action)
    except ValueError:
        pass  # as in the original: what cannot be prepared is read as it is
    function = locator.removeprefix("lambda:")
    expression = locator if function == locator else f"({function})()"
    try:
        value = page.evaluate(expression)
    except ValueError:
        return "" if function == locator else None
    if function != locator and not value:
        return None
    return plain(_python_text(value))


def _python_text(value: Any) -> str:
    """A value from JavaScript as Python's `str` writes it, on which published scores rest."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _needed(functions: SiteFunctions | None, call: str) -> SiteFunctions:
    if functions is None:
        raise BrowserError(f"{call!r} asks a site, and no `functions` were given to do so")
    return functions


def _factor(name: str, holds: bool, detail: str) -> Factor:
    return Factor(name, float(holds), _short(detail))


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def questions_of(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Question]]:
    """All open questions of many evaluations, for one batch of a judge."""
    return [(name, q) for name, evaluation in evaluations.items() for q in evaluation.questions]
