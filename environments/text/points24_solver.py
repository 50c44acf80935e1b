"""Which formulas of four cards can still become 24: exact, from any formula half written."""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, pairwise
from math import gcd
from typing import NamedTuple

Hand = tuple[int, ...]
"""Numbers, sorted; any of them may stand more than once."""
Ratio = tuple[int, int]
"""An exact value: numerator and denominator, in lowest terms, the denominator positive. Pairs are
several times faster than `Fraction`, of which a search needs thousands."""

OPERATORS = ("+", "-", "*", "/", "(", ")", "=")
_ZERO: Ratio = (0, 1)
_WHATEVER: Ratio = (0, 0)
"""Stands for "any value will do" among wanted values."""


def ratio(numerator: int, denominator: int = 1) -> Ratio:
    """The value in lowest terms.

    Example:
        >>> ratio(8, -6)
        (-4, 3)
    """
    shared = gcd(numerator, denominator)
    if denominator < 0:
        shared = -shared
    return numerator // shared, denominator // shared


def _add(a: Ratio, b: Ratio, sign: int = 1) -> Ratio:
    return ratio(a[0] * b[1] + sign * b[0] * a[1], a[1] * b[1])


class Level(NamedTuple):
    """A formula between two brackets, or the whole, as far as it is written."""

    total: Ratio = _ZERO
    """The terms that are complete."""
    sign: int = 1
    """Of the term at hand."""
    term: Ratio | None = None
    """The factors of the term at hand so far."""
    factor: str = ""
    """``*`` or ``/`` if that was written last."""
    binary: bool = False
    """An operator stands here, or need not: brackets around one number are not written."""


_OPENED = Level(binary=True)


class Prefix(NamedTuple):
    """A formula half written, token by token."""

    levels: tuple[Level, ...] = (_OPENED,)
    operand: bool = True
    """What comes next: a number or "(", otherwise an operator, ")" or "="."""
    dead: bool = False
    """It divides by zero."""

    @property
    def value(self) -> Fraction | None:
        """Of a formula that is complete, else None."""
        if self.operand or self.dead or len(self.levels) > 1:
            return None
        return Fraction(*_sum(self.levels[0]))

    def unmet(self) -> int:
        """How many open brackets hold no operator yet."""
        return sum(not level.binary for level in self.levels)


def _sum(level: Level) -> Ratio:
    assert level.term is not None
    return _add(level.total, level.term, level.sign)


def write_on(prefix: Prefix, token: str, *, lenient: bool = False) -> Prefix | None:
    """The formula with one more token, or None if that is no formula's beginning.

    Args:
        prefix: what is written.
        token: a number or one of `OPERATORS` but "=".
        lenient: brackets around a single number are formulas too.
    """
    *outer, level = prefix.levels
    if token.isdigit() or token == "(":
        if not prefix.operand:
            return None
        if token == "(":
            return prefix._replace(levels=(*prefix.levels, Level(binary=lenient)))
        return _operand((*outer, level), ratio(int(token)), prefix.dead)
    if prefix.operand:
        return None
    if token == ")":
        if not outer or not level.binary:
            return None
        return _operand(tuple(outer), _sum(level), prefix.dead)
    if token in ("*", "/"):
        return Prefix((*outer, level._replace(factor=token, binary=True)), True, prefix.dead)
    sign = 1 if token == "+" else -1
    return Prefix((*outer, Level(_sum(level), sign, None, "", True)), True, prefix.dead)


def _operand(levels: tuple[Level, ...], value: Ratio, dead: bool) -> Prefix:
    *outer, level = levels
    term = level.term
    if term is None:
        term = value
    elif level.factor == "*":
        term = ratio(term[0] * value[0], term[1] * value[1])
    elif value[0]:
        term = ratio(term[0] * value[1], term[1] * value[0])
    else:
        term, dead = _ZERO, True
    return Prefix((*outer, level._replace(term=term, factor="")), False, dead)


@lru_cache(2048)
def can_reach(target: int, prefix: Prefix, rest: Hand) -> bool:
    """True if the formula can be completed to the target with all numbers of the rest."""
    if prefix.dead:
        return False
    wanted: dict[Hand, set[Ratio]] = {rest: {(target, 1)}}
    unmet = prefix.unmet() + prefix.operand  # numbers that the levels inside must still get
    for level, inside in pairwise(prefix.levels):
        unmet -= not level.binary
        if level == inside == _OPENED:
            continue  # "((" leads where "(" leads
        inner: dict[Hand, set[Ratio]] = {}
        for numbers, values in wanted.items():
            for used, left in _parts(numbers):
                if (used or level.binary) and len(left) >= unmet:
                    found = _operands(level, used, values)
                    if found:
                        inner.setdefault(left, set()).update(found)
        wanted = inner
    last = prefix.levels[-1]
    check = _operand_fits if prefix.operand else _operator_fits
    return any(check(last, numbers, values) for numbers, values in wanted.items())


def _operand_fits(level: Level, numbers: Hand, wanted: set[Ratio]) -> bool:
    """True if the level, waiting for an operand, can take all numbers to a wanted value."""
    if level.term is None:
        if len(numbers) < (1 if level.binary else 2):
            return False
        return _WHATEVER in wanted or any(
            can_make(value, numbers) for value in _remainders(level, wanted)
        )
    return any(
        value == _WHATEVER or can_make(value, left)
        for used, left in _parts(numbers)
        if left
        for value in _operands(level, used, wanted)
    )


def _operator_fits(level: Level, numbers: Hand, wanted: set[Ratio]) -> bool:
    """True if the level, waiting for an operator or its end, can take all numbers so."""
    term = level.term
    assert term is not None
    if not numbers and not level.binary:
        return False
    if _WHATEVER in wanted:
        return True
    return any(
        _factor_fits(term, value, factors, summands)
        if factors
        else _sum_fits(_add(value, term, -1), summands)
        for factors, summands in _parts(numbers)
        for value in _remainders(level, wanted)
    )


def _remainders(level: Level, wanted: Iterable[Ratio]) -> list[Ratio]:
    """What the term at hand, and all behind it, must come to."""
    return [(level.sign * n, d) for n, d in (_add(value, level.total, -1) for value in wanted)]


def _sum_fits(value: Ratio, numbers: Hand) -> bool:
    """True if all the numbers can make the value or its opposite; none make 0."""
    if not numbers:
        return not value[0]
    return can_make(value, numbers) or can_make((-value[0], value[1]), numbers)


def _factor_fits(term: Ratio, value: Ratio, factors: Hand, summands: Hand) -> bool:
    """True if term * a + b or term / a + b can be the value, with a and b of the numbers."""
    n, d = term
    if len(factors) < len(summands):
        for an, ad in _values(factors):
            if _sum_fits(_add(value, ratio(n * an, d * ad), -1), summands):
                return True
            if an and _sum_fits(_add(value, ratio(n * ad, d * an), -1), summands):
                return True
        return False
    others = _values(factors)
    for bn, bd in _values(summands) if summands else (_ZERO,):
        for sign in (1, -1):
            top, bottom = value[0] * bd + sign * bn * value[1], value[1] * bd
            if not n:
                if not top:
                    return True
            elif ratio(top * d, bottom * n) in others:
                return True
            elif top and ratio(n * bottom, d * top) in others:
                return True
    return False


def _operands(level: Level, used: Hand, wanted: set[Ratio]) -> set[Ratio]:
    """The operands after which the level, with all of `used` behind, has a wanted value."""
    terms = _terms(level, used, wanted)
    if level.term is None:
        return terms
    n, d = level.term
    found = set()
    for top, bottom in terms:
        if not bottom or (not n and not top):
            found.add(_WHATEVER)
        elif n and level.factor == "*":
            found.add(ratio(top * d, bottom * n))
        elif n and top:
            found.add(ratio(n * bottom, d * top))
    return found


def _terms(level: Level, used: Hand, wanted: set[Ratio]) -> set[Ratio]:
    """The terms that all of `used` can lead from to a wanted value: term * a + b and the like."""
    if _WHATEVER in wanted:
        return {_WHATEVER}
    remainders = _remainders(level, wanted)
    found = set()
    for factors, summands in _parts(used):
        for bn, bd in _values(summands) if summands else (_ZERO,):
            for sign in (1, -1):
                for vn, vd in remainders:
                    top, bottom = vn * bd + sign * bn * vd, vd * bd
                    if not factors:
                        found.add(ratio(top, bottom))
                        continue
                    for an, ad in _values(factors):
                        if an:
                            found.add(ratio(top * ad, bottom * an))
                            found.add(ratio(top * an, bottom * ad))
                        elif not top:
                            found.add(_WHATEVER)
    return found


def can_make(value: Ratio, numbers: Hand) -> bool:
    """True if a formula of all the numbers has the value.

    Example:
        >>> can_make(ratio(24), (3, 3, 8, 8)), can_make(ratio(24), (1, 1, 1, 1))
        (True, False)
    """
    if len(numbers) < 4:
        return value in _values(numbers)
    n, d = value
    for part, rest in _halves(numbers):
        others = _values(rest)
        for an, ad in _values(part):
            # What the rest must be, if one operation joins it to this part.
            if (
                ratio(n * ad - an * d, d * ad) in others
                or ratio(an * d - n * ad, d * ad) in others
                or ratio(n * ad + an * d, d * ad) in others
            ):
                return True
            if an and (
                ratio(n * ad, d * an) in others
                or ratio(n * an, d * ad) in others
                or (n and ratio(an * d, ad * n) in others)
            ):
                return True
            if not an and not n:
                return True  # 0 times the others
    return False


@lru_cache(4096)
def _values(numbers: Hand) -> frozenset[Ratio]:
    """All values of formulas of all these numbers."""
    if len(numbers) == 1:
        return frozenset([(numbers[0], 1)])
    made = set[Ratio]()
    for part, rest in _halves(numbers):
        for an, ad in _values(part):
            for bn, bd in _values(rest):
                left, right, bottom = an * bd, bn * ad, ad * bd
                difference = ratio(left - right, bottom)
                made.update((ratio(left + right, bottom), difference, ratio(an * bn, bottom)))
                made.add((-difference[0], difference[1]))
                if bn:
                    made.add(ratio(left, right))
                if an:
                    made.add(ratio(right, left))
    return frozenset(made)


@lru_cache(4096)
def _parts(numbers: Hand) -> tuple[tuple[Hand, Hand], ...]:
    """Every choice of some of the numbers, from none to all, with the others; each once."""
    found = {}
    for size in range(len(numbers) + 1):
        for places in combinations(range(len(numbers)), size):
            chosen = tuple(numbers[i] for i in places)
            found[chosen] = tuple(n for i, n in enumerate(numbers) if i not in places)
    return tuple(found.items())


@lru_cache(4096)
def _halves(numbers: Hand) -> tuple[tuple[Hand, Hand], ...]:
    """The numbers in two parts, none empty; the first is not the larger one."""
    return tuple((a, b) for a, b in _parts(numbers) if 0 < len(a) <= len(b))


def tokens_after(prefix: Prefix, rest: Hand) -> list[str]:
    """What may be written next so that a formula of all numbers, without idle brackets, results.

    "=" is always among them where an operator may be: to end the game.
    """
    unmet = prefix.unmet()
    if prefix.operand:
        numbers = [str(n) for n in dict.fromkeys(rest)]
        return [*numbers, "("] if len(rest) > unmet + 1 else numbers
    level, found = prefix.levels[-1], list[str]()
    if rest and len(rest) > unmet - (not level.binary):
        found += ["+", "-", "*", "/"]
    if len(prefix.levels) > 1 and level.binary:
        found.append(")")
    return [*found, "="] if len(prefix.levels) == 1 else found


def next_token(target: int, prefix: Prefix, rest: Hand) -> str:
    """The token that leads to a formula of the target's value, or "" if none does."""
    if not rest and prefix.value == target:
        return "="
    for token in tokens_after(prefix, rest):
        after = write_on(prefix, token) if token != "=" else None
        if after is not None and can_reach(target, after, without(rest, token)):
            return token
    return ""


def without(rest: Hand, token: str) -> Hand:
    """The numbers left after a token."""
    if not token.isdigit():
        return rest
    at = rest.index(int(token))
    return rest[:at] + rest[at + 1 :]


@lru_cache(4096)
def solution(target: int, hand: Hand) -> str:
    """A formula of all the numbers with the target's value; "" if there is none.

    Example:
        >>> solution(24, (3, 3, 8, 8))
        '8/(3-8/3)'
    """
    prefix, rest, written = Prefix(), hand, ""
    while token := next_token(target, prefix, rest):
        if token == "=":
            return written
        after = write_on(prefix, token)
        assert after is not None
        prefix, rest, written = after, without(rest, token), written + token
    return ""
