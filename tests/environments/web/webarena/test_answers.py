"""How WebArena compares; expected values are what the published evaluators give."""

import pytest

from agentgym.environments.web.webarena import answers
from agentgym.environments.web.webarena.answers import includes, required_value, same_url, words


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        (" Quest ", "quest"),
        ('"Quest"', "quest"),
        ("""'"abc"'""", '"abc"'),  # one pair only
        ("'", ""),  # a lone quote begins and ends with itself
        ("'a\"", "'a\""),
    ],
)
def test_clean(answer: str, cleaned: str) -> None:
    assert answers.clean(answer) == cleaned


@pytest.mark.parametrize(
    ("answer", "alone"),
    [
        ("There were 1 commits", True),
        ("11 commits", False),
        ("$1", True),
        ("1,000", False),
        ("1.5", False),
        ("It was 1.", True),
        ("1%", True),
        ("#1", True),
        ("(1)", True),
        ("[1]", True),
        ("<1>", True),
        ("1, 2", True),
        ("1;", True),
        ("1!", True),
        ("**1**", True),
        ('say "1"', True),
        ("'1'", True),
        ("1-2", False),
        ("1st", False),
        ("1:30", False),
        ("1/2", False),
        ("x=1", False),
    ],
)
def test_a_single_character_must_be_a_word(answer: str, alone: bool) -> None:
    assert includes("1", answer, tokenize="character") is alone
    assert includes("1", answer)


def test_longer_references_are_substrings_in_compat_and_words_in_strict_mode() -> None:
    assert includes("10", "100", tokenize="character")
    assert not includes("10", "100", strict=True)
    assert not includes("10", "1,000 and 10.5 and 10,000", strict=True)
    assert includes("10", "it is 10, I think", strict=True)
    assert includes("10", "$10.", strict=True)
    assert includes("$10", "only $10", strict=True)
    assert not includes("cat", "concatenate", strict=True)
    assert includes("cat", "a Cat!", strict=True)


def test_words_of_several_sentences() -> None:
    assert words("It is 1. Then 2.") == ["It", "is", "1", ".", "Then", "2", "."]
    assert words("a 1. b") == ["a", "1.", "b"]


@pytest.mark.parametrize(
    ("reference", "url", "compat", "strict"),
    [
        ("http://h/f/books", "http://h/f/books/", True, True),
        ("http://h/f/books", "https://h/f/books#x", True, True),
        ("http://h/f/book", "http://h/f/books", True, False),
        ("http://h/f/books", "http://h/f/books/123", True, True),
        ("http://h/a?x=1&y=2", "http://h/a?y=2&z=3&x=1", True, True),
        ("http://h/a?x=1&y=2", "http://h/a?x=1", False, False),
        ("http://h/A?q=1 |OR| http://h/B?q=2", "http://h/A?q=2", True, False),
        ("http://h/A?q=1 |OR| http://h/B?q=2", "http://h/B?q=2", True, True),
        ("http://h/a", "http://evil/http://h/a", True, False),
        ("http://h/a", "http://other/?next=http://h/a", False, False),
        ("http://h/a%20b", "http://h/a b", False, True),
        ("http://h/a", "http://[broken", False, False),
    ],
)
def test_addresses(reference: str, url: str, compat: bool, strict: bool) -> None:
    assert same_url(reference, url) is compat
    assert same_url(reference, url, strict=True) is strict


def test_exact_addresses() -> None:
    assert same_url("http://h/a?x=1", "http://h/a?x=1/", note="EXACT")
    assert not same_url("http://h/a?x=1", "http://h/a?x=1&y=2", note="EXACT")
    assert same_url("http://h/a |OR| http://h/b", "http://h/b", note="EXACT")


def test_addresses_of_the_other_families_are_text() -> None:
    assert same_url("http://h/a", "http://h/a/b", family="visual")
    assert not same_url("http://h/a", "https://h/a", family="visual")
    assert same_url("http://localhost/a/", "http://127.0.0.1/a", note="EXACT", family="visual")
    assert not same_url("http://h/a?x=1&y=2", "http://h/a?y=2&x=1", family="lite")
    assert same_url("http://h/a?x=1&y=2", "http://h/a?y=2&x=1", strict=True, family="lite")


def test_a_reference_of_one_word_may_have_to_be_a_word() -> None:
    assert not includes("red", "reduced", tokenize="word")
    assert includes("red", "It is Red.", tokenize="word")
    assert includes("dark red", "dark reduced", tokenize="word")  # two words: a substring again
    assert not includes(" red", "red", strip=False)


@pytest.mark.parametrize(
    ("rule", "answer", "compat", "strict"),
    [
        ("<= 5", " 5 ", True, True),
        ("<= 5", "there are 5", False, True),
        ("<= 5", "6 items", False, False),
        ("> 1,000", "1,200", True, True),
        ("> 1,000", "$1,200.50", False, True),
        ("!= 3", "3", False, False),
        ("7", "7 pieces", False, True),
        ("< 0 |OR| >= 10", "10", True, True),
        ("<= 5", "none", False, False),
        ("a few", "3", False, False),
    ],
)
def test_required_values(rule: str, answer: str, compat: bool, strict: bool) -> None:
    assert required_value(rule, answer) is compat
    assert required_value(rule, answer, strict=True) is strict
