"""Which formulas of four cards can still become 24: exact, from any formula half written."""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple

Hand = tuple[int, ...]
"""Numbers, sorted; any of them may stand more than once."""
Values = frozenset[Fraction]

OPERATORS = ("+", "-", "*", "/", "(", ")", "=")
_ZERO = Fraction(0)
_ONE = Fraction(1)
_WHATEVER = Fraction(1, 10**9 + 7)
"""Stands for "any value will do" among wanted values; no formula of cards has this value."""


class Level(NamedTuple):
    """A formula between two brackets, or the whole, as far as it is written."""

    total: Fraction = _ZERO
    """The terms that are complete."""
    sign: Fraction = _ONE
    """Of the term at hand."""
    term: Fraction | None = None
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
        return _sum(self.levels[0])

    def unmet(self) -> int:
        """How many open brackets hold no operator yet."""
        return sum(not level.binary for level in self.levels)


def _sum(level: Level) -> Fraction:
    assert level.term is not None
    return level.total + level.sign * level.term


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
        return _operand((*outer, level), Fraction(int(token)), prefix.dead)
    if prefix.operand:
        return None
    if token == ")":
        if not outer or not level.binary:
            return None
        return _operand(tuple(outer), _sum(level), prefix.dead)
    if token in ("*", "/"):
        return Prefix((*outer, level._replace(factor=token, binary=True)), True, prefix.dead)
    sign = _ONE if token == "+" else -_ONE
    return Prefix((*outer, Level(_sum(level), sign, None, "", True)), True, prefix.dead)


def _operand(levels: tuple[Level, ...], value: Fraction, dead: bool) -> Prefix:
    *outer, level = levels
    if level.term is None:
        term = value
    elif level.factor == "*":
        term = level.term * value
    else:
        dead = dead or not value
        term = level.term / value if value else _ZERO
    return Prefix((*outer, level._replace(term=term, factor="")), False, dead)


@lru_cache(50_000)
def can_reach(target: Fraction, prefix: Prefix, rest: Hand) -> bool:
    """True if the formula can be completed to the target with all numbers of the rest."""
    if prefix.dead:
        return False
    wanted: dict[Hand, set[Fraction]] = {rest: {target}}
    unmet = prefix.unmet() + prefix.operand  # numbers that the levels inside must still get
    for level, inside in pairwise(prefix.levels):
        unmet -= not level.binary
        if level == inside == _OPENED:
            continue  # "((" leads where "(" leads
        inner: dict[Hand, set[Fraction]] = {}
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


def _operand_fits(level: Level, numbers: Hand, wanted: set[Fraction]) -> bool:
    """True if the level, waiting for an operand, can take all numbers to a wanted value."""
    if level.term is None:
        if len(numbers) < (1 if level.binary else 2):
            return False
        return any(
            w == _WHATEVER or can_make(level.sign * (w - level.total), numbers) for w in wanted
        )
    return any(
        v == _WHATEVER or can_make(v, left)
        for used, left in _parts(numbers)
        if left
        for v in _operands(level, used, wanted)
    )


def _operator_fits(level: Level, numbers: Hand, wanted: set[Fraction]) -> bool:
    """True if the level, waiting for an operator or its end, can take all numbers so."""
    term = level.term
    assert term is not None
    if not numbers and not level.binary:
        return False
    if _WHATEVER in wanted:
        return True
    sums = [level.sign * (value - level.total) for value in wanted]
    return any(
        _factor_fits(term, value, factors, summands)
        if factors
        else _sum_fits(value - term, summands)
        for factors, summands in _parts(numbers)
        for value in sums
    )


def _sum_fits(value: Fraction, numbers: Hand) -> bool:
    """True if all the numbers can make the value or its opposite; none make 0."""
    if not numbers:
        return not value
    return can_make(value, numbers) or can_make(-value, numbers)


def _factor_fits(term: Fraction, value: Fraction, factors: Hand, summands: Hand) -> bool:
    """True if term * a + b or term / a + b can be the value, with a and b of the numbers."""
    if len(factors) < len(summands):
        return any(
            _sum_fits(value - term * a, summands) or (a and _sum_fits(value - term / a, summands))
            for a in _values(factors)
        )
    others = _values(factors)
    for b in _values(summands) if summands else (_ZERO,):
        for product in (value - b, value + b):
            if not term:
                if not product:
                    return True
            elif product / term in others or (product and term / product in others):
                return True
    return False


def _operands(level: Level, used: Hand, wanted: set[Fraction]) -> set[Fraction]:
    """The operands after which the level, with all of `used` behind, has a wanted value."""
    found = set()
    for term in _terms(level, used, wanted):
        if level.term is None or term == _WHATEVER:
            found.add(term)
        elif level.factor == "*":
            if level.term:
                found.add(term / level.term)
            elif not term:
                found.add(_WHATEVER)
        elif level.term:
            if term:
                found.add(level.term / term)
        elif not term:
            found.add(_WHATEVER)
    return found


def _terms(level: Level, used: Hand, wanted: set[Fraction]) -> set[Fraction]:
    """The terms that all of `used` can lead from to a wanted value: term * a + b and the like."""
    found = set()
    for factors, summands in _parts(used):
        sums = [s for b in _values(summands) for s in (b, -b)] if summands else [_ZERO]
        for value in wanted:
            if value == _WHATEVER:
                found.add(value)
                continue
            for summand in sums:
                term = level.sign * (value - level.total - summand)
                if not factors:
                    found.add(term)
                    continue
                for a in _values(factors):
                    if a:
                        found.update((term / a, term * a))
                    elif not term:
                        found.add(_WHATEVER)
    return found


def can_make(value: Fraction, numbers: Hand) -> bool:
    """True if a formula of all the numbers has the value.

    Example:
        >>> can_make(Fraction(24), (3, 3, 8, 8)), can_make(Fraction(24), (1, 1, 1, 1))
        (True, False)
    """
    if len(numbers) < 4:
        return value in _values(numbers)
    for part, rest in _halves(numbers):
        others = _values(rest)
        for a in _values(part):
            if any(b in others for b in _partners(value, a)):
                return True
            if not a and not value:
                return True  # 0 times the others
    return False


def _partners(value: Fraction, a: Fraction) -> Iterator[Fraction]:
    """Every b that makes the value together with a by one operation."""
    yield value - a
    yield a - value
    yield value + a
    if a:
        yield value / a
        yield value * a
        if value:
            yield a / value


@lru_cache(4096)
def _values(numbers: Hand) -> Values:
    """All values of formulas of all these numbers."""
    if len(numbers) == 1:
        return frozenset([Fraction(numbers[0])])
    made = set[Fraction]()
    for part, rest in _halves(numbers):
        for a in _values(part):
            for b in _values(rest):
                made.update((a + b, a - b, b - a, a * b))
                if b:
                    made.add(a / b)
                if a:
                    made.add(b / a)
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


def next_token(target: Fraction, prefix: Prefix, rest: Hand) -> str:
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
    while token := next_token(Fraction(target), prefix, rest):
        if token == "=":
            return written
        after = write_on(prefix, token)
        assert after is not None
        prefix, rest, written = after, without(rest, token), written + token
    return ""
