"""How WebArena compares: answers, addresses and what pages show.

``compat`` is what the published evaluators do, defects included, since published scores rest on it.
``strict`` repairs them: whole words instead of substrings, whole path segments instead of prefixes.

Source: WebArena's ``evaluation_harness`` (arXiv 2307.13854, section 3.2), VisualWebArena's for the
rules ``one_of``, ``must_exclude``, ``required_values`` and the note ``EXACT``.
"""

import re
from collections import defaultdict
from urllib.parse import parse_qs, unquote, urlsplit

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


def clean(answer: str) -> str:
    """Outer space and one pair of quotes off, lower case.

    Example:
        >>> clean(' "Quest" ')
        'quest'
    """
    answer = answer.strip()
    for quote in ("'", '"'):
        if answer.startswith(quote) and answer.endswith(quote):
            # A lone quote begins and ends with itself: it becomes empty, as in the original.
            answer = answer[1:-1]
            break
    return answer.lower()


def words(text: str) -> list[str]:
    """Words and punctuation, set apart by the Penn Treebank convention, sentence by sentence.

    Enough of NLTK's tokenizer for the one use that WebArena makes of it: whether a single
    character stands alone. (Its sentence splitter is trained; ours splits before a capital letter
    or a digit.)

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


def exact(reference: str, answer: str) -> bool:
    """Equal after `clean`."""
    return clean(answer) == clean(reference)


def includes(reference: str, answer: str, *, tokenize: bool = False, strict: bool = False) -> bool:
    """The reference occurs in the answer.

    Args:
        reference: what to find.
        answer: where.
        tokenize: a reference of one character must be a word of its own.
        strict: any reference must begin and end at the edge of a word or number.
    """
    wanted, given = clean(reference), clean(answer)
    if strict:
        return bool(re.search(_bounded(wanted), given))
    if tokenize and len(wanted) == 1:
        return wanted in words(given)
    return wanted in given


def _bounded(text: str) -> str:
    """A pattern for text that is no part of a longer word or number.

    A point or comma between digits belongs to the number: "10" is not in "100", "1,000" or "10.5".
    """
    left = r"(?<!\w)(?<!\d[.,])" if text[:1].isalnum() else ""
    right = r"(?!\w)(?![.,]\d)" if text[-1:].isalnum() else ""
    return left + re.escape(text) + right


def required_value(rule: str, answer: str) -> bool:
    """A number stands in a relation, e.g. ``<= 5``; the answer's first number counts.

    Alternatives are joined by " |OR| ". No number, or a relation that cannot be read: False.
    """
    number = _number(answer)
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


def _number(text: str) -> float | None:
    match = re.search(r"-?\d[\d,]*(?:\.\d+)?", text)
    try:
        return float(match[0].replace(",", "")) if match else None
    except ValueError:
        return None


def same_url(reference: str, url: str, *, note: str = "GOLD in PRED", strict: bool = False) -> bool:
    """The page's address is (one of) the reference.

    "GOLD in PRED": host and path of some alternative occur in the address, and every query value of
    any alternative is there; scheme, fragment and further parameters do not matter. In `strict`
    mode host and path must be equal or lie below at a "/", and an alternative must fit as a whole.
    "EXACT" (VisualWebArena): the addresses are equal up to slashes at the end.
    """
    alternatives = [r.rstrip("/") for r in reference.split(OR)]
    url = url.rstrip("/")
    if note == "EXACT":
        return url in alternatives
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
