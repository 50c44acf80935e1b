"""How WebArena compares: answers, addresses and what pages show.

``compat`` is what the published evaluators do, defects included, since published scores rest on it.
``strict`` repairs them: whole words instead of substrings, whole path segments instead of prefixes.

Source: WebArena's ``evaluation_harness`` (arXiv 2307.13854, section 3.2), VisualWebArena's (arXiv
2401.13649) and WebArena-Lite's for what `Family` says.
"""

import re
from collections import defaultdict
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

Family = Literal["original", "visual", "lite"]
"""Whose evaluators a task was published with. VisualWebArena's and WebArena-Lite's look for a
reference of one word among the words, take alternatives in answers too, leave outer space where it
is, and compare addresses as text; WebArena-Lite's ask a judge once for a whole list."""
Tokenize = Literal["no", "character", "word"]
OR = " |OR| "
# Order matters: each rule sees what the ones before have set apart. The rules are those of the Penn
# Treebank convention that can set a single character apart.
_APART: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'^"|(?<=[ (\[{<])"'), " `` "),
    (re.compile(r"(?<=[ (\[{<])'(?=\w)|^'(?=\w)"), " ' "),
    (re.compile(r"([:,])([^\d])"), r" \1 \2"),
    (re.compile(r"([:,])$"), r" \1 "),
    (re.compile(r"\.{2,}"), " ... "),
    (re.compile(r"[;@#$%&\u2012-\u2015]"), r" \g<0> "),
    (re.compile(r"([^.])(\.)([\])}>\"'\u00bb\u201d\u2019 ]*)\s*$"), r"\1 \2 \3 "),
    (re.compile(r"[?!*]"), r" \g<0> "),
    (re.compile(r"[\]\[(){}<>]"), r" \g<0> "),
    (re.compile(r"--"), " -- "),
    (re.compile(r'["\u00bb\u201d\u2019]'), " '' "),
    (re.compile(r"([^' ])'(\s|$)"), r"\1 ' \2"),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9])")


def clean(answer: str, strip: bool = True) -> str:
    """Outer space (unless it stays) and one pair of quotes off, lower case.

    Example:
        >>> clean(' "Quest" ')
        'quest'
    """
    answer = answer.strip() if strip else answer
    for quote in ("'", '"'):
        if answer.startswith(quote) and answer.endswith(quote):
            # A lone quote begins and ends with itself: it becomes empty, as in the original.
            answer = answer[1:-1]
            break
    return answer.lower()


def words(text: str) -> list[str]:
    """Words and punctuation, set apart by the Penn Treebank convention, sentence by sentence.

    Enough of NLTK's tokenizer for the one use that WebArena makes of it: whether a character or a
    word stands alone. (Its sentence splitter is trained, and it takes contractions apart; ours
    splits before a capital letter or a digit.)

    Example:
        >>> words("It costs $1, or 1,000.")
        ['It', 'costs', '$', '1', ',', 'or', '1,000', '.']
    """
    found: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        for pattern, spaced in _APART:
            sentence = pattern.sub(spaced, sentence)
        found += sentence.split()
    return found


def exact(reference: str, answer: str, strip: bool = True) -> bool:
    """Equal after `clean`."""
    return clean(answer, strip) == clean(reference, strip)


def includes(
    reference: str,
    answer: str,
    *,
    tokenize: Tokenize = "no",
    strict: bool = False,
    strip: bool = True,
) -> bool:
    """The reference occurs in the answer.

    Args:
        reference: what to find.
        answer: where.
        tokenize: what must be a word of its own: a reference of one "character", or of one "word".
        strict: any reference must begin and end at the edge of a word or number.
        strip: see `clean`.
    """
    wanted, given = clean(reference, strip), clean(answer, strip)
    if strict:
        return bool(re.search(_bounded(wanted), given))
    alone = len(wanted) == 1 if tokenize == "character" else len(words(wanted)) == 1
    return wanted in words(given) if tokenize != "no" and alone else wanted in given


def _bounded(text: str) -> str:
    """A pattern for text that is no part of a longer word or number.

    A point or comma between digits belongs to the number: "10" is not in "100", "1,000" or "10.5".
    """
    left = r"(?<!\w)(?<!\d[.,])" if text[:1].isalnum() else ""
    right = r"(?!\w)(?![.,]\d)" if text[-1:].isalnum() else ""
    return left + re.escape(text) + right


def required_value(rule: str, answer: str, *, strict: bool = False) -> bool:
    """A number stands in a relation, e.g. ``<= 5``.

    Alternatives are joined by " |OR| ". No number, or a relation that cannot be read: False.

    Args:
        rule: the relation; without a sign the number itself.
        answer: must be a whole number and nothing else, but for commas.
        strict: the answer's first number counts, wherever it stands.
    """
    number = _number(answer) if strict else _whole(answer)
    for alternative in rule.split(OR):
        match = re.fullmatch(r"\s*(<=|>=|==|=|!=|<|>)?\s*(-?[\d.,]+)\s*", alternative)
        bound = _number(match[2]) if match else None
        if match is None or number is None or bound is None:
            continue
        holds = {
            "<=": number <= bound,
            ">=": number >= bound,
            "!=": number != bound,
            "<": number < bound,
            ">": number > bound,
        }.get(match[1] or "==", number == bound)
        if holds:
            return True
    return False


def _whole(text: str) -> float | None:
    try:
        return float(int(text.strip().replace(",", "")))
    except ValueError:
        return None


def _number(text: str) -> float | None:
    match = re.search(r"-?\d[\d,]*(?:\.\d+)?", text)
    try:
        return float(match[0].replace(",", "")) if match else None
    except ValueError:
        return None


def same_url(
    reference: str,
    url: str,
    *,
    note: str = "GOLD in PRED",
    strict: bool = False,
    family: Family = "original",
) -> bool:
    """The page's address is (one of) the reference.

    "GOLD in PRED": host and path of some alternative occur in the address, and every query value of
    any alternative is there; scheme, fragment and further parameters do not matter. In `strict`
    mode host and path must be equal or lie below at a "/", and an alternative must fit as a whole.
    "EXACT": the addresses are equal, up to a slash at the end. Other families than the original
    have "GOLD in PRED" for some alternative that is part of the address as it is written.
    """
    if note == "EXACT" or (family != "original" and not strict):
        plain, given = [_plain(r) for r in reference.split(OR)], _plain(url)
        return given in plain if note == "EXACT" else any(each in given for each in plain)
    alternatives = [r.rstrip("/") for r in reference.split(OR)]
    url = url.rstrip("/")
    base, query = _split(url)
    if strict:
        return any(
            _below(_normal(r_base), _normal(base)) and _covers(r_query, query)
            for r_base, r_query in map(_split, alternatives)
        )
    merged: dict[str, set[str]] = defaultdict(set)
    for _, r_query in map(_split, alternatives):
        for key, values in r_query.items():
            merged[key].update(values)
    in_base = any(r_base in base for r_base, _ in map(_split, alternatives))
    # `any` of the merged values of a key will do: the alternatives' queries are not kept apart.
    return in_base and all(
        any(value in query.get(key, []) for value in values) for key, values in merged.items()
    )


def _plain(url: str) -> str:
    return url.replace("localhost", "127.0.0.1").removesuffix("/")


def _split(url: str) -> tuple[str, dict[str, list[str]]]:
    try:
        parts = urlsplit(url)
    except ValueError:  # a broken IPv6 host and the like: it is nobody's page
        return url, {}
    return parts.netloc + parts.path, parse_qs(parts.query)


def _normal(base: str) -> str:
    return unquote(base).rstrip("/")


def _below(reference: str, base: str) -> bool:
    return base == reference or base.startswith(reference + "/")


def _covers(wanted: dict[str, list[str]], given: dict[str, list[str]]) -> bool:
    return all(set(values) <= set(given.get(key, ())) for key, values in wanted.items())
