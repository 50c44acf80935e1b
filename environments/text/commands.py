"""What a written command means among those that TextWorld lists."""

from collections.abc import Sequence

_DIRECTIONS = {"n": "north", "s": "south", "e": "east", "w": "west"}
_SYNONYMS = {
    **{short: f"go {long}" for short, long in _DIRECTIONS.items()},
    **{long: f"go {long}" for long in _DIRECTIONS.values()},
    **dict.fromkeys(("walk", "run"), "go"),
    **dict.fromkeys(("get", "pick up"), "take"),
    **dict.fromkeys(("put down", "discard"), "drop"),
    **dict.fromkeys(("look at", "x", "read", "check", "describe"), "examine"),
    **{"shut": "close", "l": "look", "i": "inventory", "inv": "inventory"},
}
_ARTICLES = {"the", "a", "an", "some"}


def resolve(text: str, admissible: Sequence[str]) -> str:
    """The admissible command that was meant, or "" if there is none or more than one.

    Case, articles, the synonyms that the engine knows and left out words do not matter, as long as
    only one command fits: so does the engine's parser read, but TextWorld loses track of the state
    after a command that it has not listed in just these words.

    Example:
        >>> resolve("Get the key", ["go east", "take old key from chest"])
        'take old key from chest'
        >>> resolve("take key", ["take old key", "take new key"])
        ''
    """
    if text in admissible:
        return text
    words = words_of(text)
    for candidates in (
        [c for c in admissible if c.lower().split() == words],
        [c for c in admissible if _without_articles(c.lower().split()) == words],
        [c for c in admissible if len(words) > 1 and _abbreviates(words, c.lower().split())],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return ""


def words_of(text: str) -> list[str]:
    """A command's words as the engine would write them, without articles."""
    words = text.lower().split()
    for length in (2, 1):
        known = _SYNONYMS.get(" ".join(words[:length]))
        if known is not None:
            words = [*known.split(), *words[length:]]
            break
    if words[:1] == ["go"]:
        words = [_DIRECTIONS.get(word, word) for word in words]
    if words[:1] == ["put"] and {"in", "into", "inside"} & set(words):
        words = ["insert", *("into" if w in ("in", "inside") else w for w in words[1:])]
    return _without_articles(words)


def _without_articles(words: list[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _abbreviates(words: list[str], full: list[str]) -> bool:
    """True if both begin alike and `full` has all the words, in their order."""
    rest = iter(full)
    return words[:1] == full[:1] and all(word in rest for word in words)
