"""The 24 game's solver: published counts, and half-written formulas against trying everything."""

from collections import Counter
from fractions import Fraction
from functools import lru_cache
from itertools import combinations_with_replacement
from math import factorial

import numpy as np
import pytest

from agentgym.environments.text.arithmetic import evaluate
from agentgym.environments.text.points24_solver import (
    Hand,
    Prefix,
    can_make,
    can_reach,
    next_token,
    solution,
    tokens_after,
    without,
    write_on,
)

HANDS: list[Hand] = list(combinations_with_replacement(range(1, 11), 4))
SOLVABLE = [hand for hand in HANDS if can_make((24, 1), hand)]


def test_published_counts() -> None:
    assert len(HANDS) == 715
    assert len(SOLVABLE) == 566
    share = Fraction(0)
    for hand in SOLVABLE:
        deals = factorial(4)
        for times in Counter(hand).values():
            deals //= factorial(times)
        weight = Fraction(deals)
        for number in hand:  # ten, jack, queen and king are all 10
            weight *= Fraction(4 if number == 10 else 1, 13)
        share += weight
    assert round(100 * float(share), 1) == 73.1


def test_every_solution_makes_24_of_the_hand() -> None:
    for hand in HANDS:
        formula = solution(24, hand)
        assert bool(formula) == (hand in SOLVABLE)
        if formula:
            value, numbers = evaluate(formula)
            assert value == 24
            assert sorted(map(int, numbers)) == list(hand)
            assert len(formula.replace("10", "1")) <= 13


def test_the_hand_that_needs_fractions() -> None:
    assert solution(24, (3, 3, 8, 8)) == "8/(3-8/3)"


@lru_cache(None)
def reachable(target: int, prefix: Prefix, rest: Hand) -> bool:
    """By trying every token."""
    if not rest and prefix.value == target:
        return True
    for token in tokens_after(prefix, rest):
        after = write_on(prefix, token) if token != "=" else None
        if after is not None and reachable(target, after, without(rest, token)):
            return True
    return False


@pytest.mark.parametrize("target", [24, 6, 1])
def test_what_can_be_reached_is_what_trying_everything_reaches(target: int) -> None:
    rng = np.random.default_rng(target)
    checked = Counter[bool]()
    for _ in range(60):
        hand = HANDS[int(rng.integers(len(HANDS)))]
        prefix, rest = Prefix(), hand
        while tokens := [token for token in tokens_after(prefix, rest) if token != "="]:
            token = tokens[int(rng.integers(len(tokens)))]
            after = write_on(prefix, token)
            assert after is not None
            prefix, rest = after, without(rest, token)
            if len(rest) <= 2:  # trying everything is slow with more
                expected = reachable(target, prefix, rest)
                assert can_reach(target, prefix, rest) == expected, (hand, prefix, rest)
                assert bool(next_token(target, prefix, rest)) == expected
                checked[expected] += 1
    assert min(checked.values()) >= 5


def write(text: str) -> Prefix | None:
    prefix: Prefix | None = Prefix()
    for token in text.split():
        assert prefix is not None
        prefix = write_on(prefix, token)
    return prefix


@pytest.mark.parametrize("text", ["+", "3 4", "3 (", "( 3 )", "( ( 3 + 4 ) )", "3 )", "3 + )"])
def test_what_is_no_formula(text: str) -> None:
    assert write(text) is None


def test_idle_brackets_where_they_are_allowed() -> None:
    prefix: Prefix | None = Prefix()
    for token in ("(", "3", ")"):
        assert prefix is not None
        prefix = write_on(prefix, token, lenient=True)
    assert prefix is not None
    assert prefix.value == 3


def test_values_of_complete_formulas() -> None:
    for text in ("3 + 4 * 5", "( 3 + 4 ) * 5", "3 - ( 4 - 5 / 2 ) - 1", "6 / 4 / 3 * 2"):
        prefix = write(text)
        assert prefix is not None
        assert prefix.value == evaluate(text)[0]
    dead = write("3 / ( 2 - 2 )")
    assert dead is not None
    assert dead.value is None
    assert not can_reach(24, dead, (8,))


def test_tokens_that_keep_it_a_formula() -> None:
    assert tokens_after(Prefix(), (3, 3, 8, 8)) == ["3", "8", "("]
    half = write("( ( 3")
    assert half is not None
    assert tokens_after(half, (3, 8)) == ["+", "-", "*", "/"]
    full = write("( 3 + 3 + 8")
    assert full is not None
    assert tokens_after(full, (8,)) == ["+", "-", "*", "/", ")"]
    assert tokens_after(full, ()) == [")"]
