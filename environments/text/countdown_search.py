"""Countdown by itself: operations, solutions, how many there are, and traces of a search."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from random import Random
from typing import NamedTuple

from agentgym.environments.text.arithmetic import FormulaError, evaluate

OPERATORS = "+-*/"
MAX_NUMBERS = 6
_LISTED = 3  # up to so many numbers, all that they can make is kept
_OPERATION = re.compile(
    r"\s*(\d{1,40})\s*([-+*/x\u00d7\u00f7])\s*(\d{1,40})\s*(?:=\s*(\d{1,40})\s*)?",
    re.ASCII,
)
_SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "x": "*"})
# Every part is bounded, so that a hostile trace cannot take quadratic time.
_STATE = re.compile(r"Current State: \d{1,40}:\[.{0,400}?\], Operations: \[(.{0,400}?)\]", re.ASCII)
_FIRST = re.compile(r"Current State: (\d{1,40}):\[(.{0,400}?)\]", re.ASCII)
_EXPLORED = re.compile(
    r"Exploring Operation: (.{0,200}?=\d{1,40}), Resulting Numbers: \[.{0,400}?\]", re.ASCII
)
_REACHED = re.compile(r"(\d{1,40}),(\d{1,40}) equal: Goal Reached", re.ASCII)


class Operation(NamedTuple):
    """One operation on two of the numbers: natural numbers in, a natural number out."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        """As Stream of Search writes it, e.g. ``6*4=24``."""
        return f"{self.left}{self.sign}{self.right}={self.result}"


@lru_cache(2048)
def combine(a: int, b: int, operators: str = OPERATORS) -> tuple[Operation, ...]:
    """What two numbers can be made into: a+b, a*b, |a-b|, and a/b or b/a if that is whole.

    These are Stream of Search's operations, in its order (Gandhi et al. 2024, arXiv:2404.03683).
    """
    low, high = (a, b) if a <= b else (b, a)
    made = [Operation(a, "+", b, a + b), Operation(a, "*", b, a * b)]
    made.append(Operation(high, "-", low, high - low))
    if low and high % low == 0:
        made.append(Operation(high, "/", low, high // low))
    return tuple(operation for operation in made if operation.sign in operators)


def questions(a: int, b: int, operators: str) -> list[str]:
    """The operations of `combine` without their results, e.g. ``6*4``."""
    low, high = (a, b) if a <= b else (b, a)
    found = []
    if "+" in operators:
        found.append(f"{a}+{b}")
    if "*" in operators:
        found.append(f"{a}*{b}")
    if "-" in operators:
        found.append(f"{high}-{low}")
    if "/" in operators and low and high % low == 0:
        found.append(f"{high}/{low}")
    return found


def solve(
    target: int, numbers: Sequence[int], *, use_all: bool = True, operators: str = OPERATORS
) -> tuple[Operation, ...] | None:
    """Operations that lead to the target, or None if nothing does.

    Every way to reach a number is a tree whose root combines one part of the numbers with the
    rest; so what the rest must make is known, and is looked up among all that it can make.

    Args:
        target: to be made.
        numbers: to make it of.
        use_all: the target must be made of all numbers; otherwise of some, as few as possible.
        operators: which may be used.

    Example:
        >>> [str(operation) for operation in solve(24, [8, 3, 1])]
        ['3*8=24', '1*24=24']
    """
    ordered = tuple(sorted(numbers))
    if use_all:
        return _solve(target, ordered, operators)
    for size in range(1, len(ordered) + 1):
        for some in combinations(ordered, size):
            way = _solve(target, some, operators)
            if way is not None:
                return way
    return None


@lru_cache(2048)
def _solve(target: int, numbers: tuple[int, ...], operators: str) -> tuple[Operation, ...] | None:
    if len(numbers) == 1:
        return () if numbers[0] == target else None
    for part, rest in _splits(numbers):
        possible = _values(rest, operators) if len(rest) <= _LISTED else None
        for a in _values(part, operators):
            for b in _partners(target, a, rest, operators):
                if possible is not None and b not in possible:
                    continue
                of_rest = _solve(b, rest, operators)
                of_part = _solve(a, part, operators)
                if of_rest is not None and of_part is not None:
                    last = next(o for o in combine(a, b, operators) if o.result == target)
                    return (*of_rest, *of_part, last)
    return None


def _partners(target: int, a: int, rest: tuple[int, ...], operators: str) -> Iterator[int]:
    """Every b that one operation makes the target of, together with a."""
    if "+" in operators and target >= a:
        yield target - a
    if "-" in operators:
        yield a + target
        if a >= target > 0:
            yield a - target
    if "*" in operators and a and target % a == 0:
        yield target // a
    if "/" in operators and a:
        yield a * target
        if target and a % target == 0:
            yield a // target
    if a == target == 0 and ("*" in operators or "/" in operators):
        largest = max(_values(rest, operators), default=0)
        if largest or "*" in operators:
            yield largest


@lru_cache(1024)
def _values(numbers: tuple[int, ...], operators: str) -> frozenset[int]:
    """All that the numbers can make, each used once."""
    if len(numbers) == 1:
        return frozenset(numbers)
    made = set()
    for part, rest in _splits(numbers):
        for a in _values(part, operators):
            for b in _values(rest, operators):
                low, high = (a, b) if a <= b else (b, a)
                if "+" in operators:
                    made.add(a + b)
                if "*" in operators:
                    made.add(a * b)
                if "-" in operators:
                    made.add(high - low)
                if "/" in operators and low and high % low == 0:
                    made.add(high // low)
    return frozenset(made)


def _splits(numbers: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The numbers in two parts, in every way; the first is not the larger one."""
    return [
        (tuple([numbers[i] for i in part]), tuple([numbers[i] for i in rest]))
        for part, rest in _PLACES[len(numbers)]
    ]


def _places(size: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = []
    for part_size in range(1, size // 2 + 1):
        for part in combinations(range(size), part_size):
            if 2 * part_size < size or part[0] == 0:
                found.append((part, tuple(i for i in range(size) if i not in part)))
    return found


_PLACES = [_places(size) for size in range(MAX_NUMBERS + 1)]


@lru_cache(4096)
def count_solutions(
    target: int, numbers: tuple[int, ...], use_all: bool = True, operators: str = OPERATORS
) -> int:
    """How many sequences of operations lead to the target: the fewer, the harder.

    The tree is Stream of Search's: every pair of places, every operation; a sequence ends at the
    target, or with one number left.

    Example:
        >>> count_solutions(24, (4, 6))
        1
    """
    if target in numbers and (len(numbers) == 1 or not use_all):
        return 1
    total = 0
    for i, j in combinations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        for operation in combine(numbers[i], numbers[j], operators):
            after = tuple(sorted([*rest, operation.result]))
            total += count_solutions(target, after, use_all, operators)
    return total


def read_operation(text: str) -> tuple[int, str, int, int | None] | None:
    """The parts of e.g. ``6 * 4`` or ``6*4=24``; None if the text is no operation."""
    found = _OPERATION.fullmatch(text)
    if found is None:
        return None
    return (
        int(found[1]),
        found[2].translate(_SIGNS),
        int(found[3]),
        None if found[4] is None else int(found[4]),
    )


def split_targets(low: int, high: int, held_out: bool, seed: int = 4) -> list[int]:
    """The targets of training, or the tenth of all targets that is held out.

    They are shuffled by Python's own generator, as published, so that the seed of the paper's
    data (4) and its range (10 to 100) hold out the very same targets.
    """
    targets = list(range(low, high + 1))
    Random(seed).shuffle(targets)
    cut = len(targets) // 10
    return targets[:cut] if held_out else targets[cut:]


def write_solution(target: int, numbers: Sequence[int], operations: Sequence[Operation]) -> str:
    """A trace that goes straight to the target, in Stream of Search's words."""
    left, done = list(numbers), list[str]()
    lines = [f"Current State: {target}:{left}, Operations: {done}"]
    for index, operation in enumerate(operations, 2):
        left.remove(operation.left)
        left.remove(operation.right)
        left.append(operation.result)
        lines.append(f"Exploring Operation: {operation}, Resulting Numbers: {left}")
        if len(left) == 1:
            equal = "equal: Goal Reached" if left[0] == target else "unequal: No Solution"
            lines.append(f"{left[0]},{target} {equal}")
        else:
            done.append(str(operation))
            lines.append(f"Generated Node #{index}: {left} from Operation: {operation}")
            lines.append(f"Current State: {target}:{left}, Operations: {done}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class TraceScore:
    """What a written search is worth."""

    score: float
    """In [0, 1]: 0 if invalid, else the higher the fewer nodes were looked at."""
    valid: bool
    reason: str
    """"Valid path.", or what is wrong."""
    nodes: int


def max_nodes(size: int) -> int:
    """Nodes of the whole tree of `size` numbers: 4, 48, 1152, 46080 for 2, 3, 4, 5."""
    nodes = 1
    for left in range(2, size + 1):
        nodes *= comb(left, 2) * 4
    return nodes


def score_trace(
    trace: str,
    *,
    mode: str = "fixed",
    problem: tuple[int, Sequence[int]] | None = None,
    use_all: bool = True,
) -> TraceScore:
    """Judge a written search by Stream of Search's measure, max(1 - nodes / all nodes, 0).

    The path judged is what the last state before the first "Goal Reached" lists as its operations,
    and the last operation explored. In mode "original" the published checker is repeated: it never
    takes a used number away (it looks for text in a list of numbers), does not ask that all are
    used, believes the trace's own first line, and calls a goal reached straight from the first
    state invalid, whose list of operations is empty. In mode "fixed" every number is used once,
    all if `use_all`, by the game's four operations, of the problem given, and reaches its target.

    Args:
        trace: the search in words, see `write_solution` and the paper.
        mode: "fixed" or "original".
        problem: (target, numbers) that were asked; by default the trace's first line.
        use_all: all numbers must be used (only in "fixed").
    """
    trace = trace.replace("<|endoftext|>", "")
    nodes = trace.count("Exploring Operation") + 1
    try:
        size = _check(trace, mode == "original", problem, use_all)
    except ValueError as error:  # a FormulaError, or a number too long for Python to read
        return TraceScore(0.0, False, str(error), nodes)
    return TraceScore(max(1.0 - nodes / max_nodes(size), 0.0), True, "Valid path.", nodes)


def _check(
    trace: str, original: bool, problem: tuple[int, Sequence[int]] | None, use_all: bool
) -> int:
    """How many numbers the problem has.

    Raises:
        FormulaError: why the path is not valid.
    """
    first = _FIRST.match(trace.strip().split("\n")[0])
    if first is None or not re.fullmatch(r"\s*[-+]?\d+\s*(, \s*[-+]?\d+\s*)*", first[2]):
        raise FormulaError("Invalid input: Cannot find the initial state in the first line.")
    target, numbers = int(first[1]), [int(n) for n in first[2].split(", ")]
    if not original and problem is not None:
        if (target, sorted(numbers)) != (problem[0], sorted(problem[1])):
            raise FormulaError("Invalid input: The first line is another problem.")
    goal = _REACHED.search(trace)
    if goal is None:
        raise FormulaError("No goal reached statement found.")
    explored = _EXPLORED.findall(trace, 0, goal.start())
    if not explored:
        raise FormulaError("No operations found leading to the goal.")
    last = explored[-1]
    if not last.split("=")[1].isdigit():
        raise FormulaError("Couldnt parse last op")
    if int(last.split("=")[1]) != target:
        raise FormulaError("Invalid path: Final operation does not result in target.")
    if not original and (goal[1], goal[2]) != (str(target), str(target)):
        raise FormulaError("Invalid path: The goal reached is not the target.")
    states = _STATE.findall(trace, 0, goal.start())
    if not states:
        raise FormulaError("No state found leading to the goal.")
    path = [*states[-1].replace("'", "").split(", "), last]
    if original:
        _replay_as_published(path, numbers)
    else:
        left = _replay([operation for operation in path if operation], numbers)
        if use_all and left > 1:
            raise FormulaError(f"Invalid path: {left - 1} numbers are not used.")
    return len(numbers)


def _replay_as_published(path: list[str], numbers: list[int]) -> None:
    available = set(numbers)
    for operation in path:
        if operation.count("=") != 1:
            raise FormulaError("Could not split operation into lhs, rhs")
        left, right = operation.split("=")
        try:
            equal = evaluate(left, python=True)[0] == int(right)
        except ValueError as error:  # a FormulaError among them
            raise FormulaError(f"Error in evaluating operation {operation}: {error}") from error
        if not equal:
            raise FormulaError(f"Invalid operation: {operation}")
        for number in re.findall(r"\d+", left):
            if int(number) not in available:
                raise FormulaError(f"Invalid operation: {operation}, number {number} not available")
        available.add(int(right))


def _replay(path: list[str], numbers: list[int]) -> int:
    """How many numbers are left."""
    available = list(numbers)
    for operation in path:
        read = read_operation(operation)
        left, sign, right, result = read or (0, "", 0, None)
        if result is None:
            raise FormulaError("Could not split operation into lhs, rhs")
        if Operation(left, sign, right, result) not in (
            *combine(left, right),
            *combine(right, left),
        ):
            raise FormulaError(f"Invalid operation: {operation}")
        for number in (left, right):
            if number not in available:
                raise FormulaError(f"Invalid operation: {operation}, number {number} not available")
            available.remove(number)
        available.append(result)
    return len(available)


def judge_equation(
    equation: str, target: int, numbers: Sequence[int], *, use_all: bool, operators: str
) -> str:
    """Why an equation does not solve the problem; "" if it does. Worked out exactly.

    Args:
        equation: a formula, with or without ``= target``.
        target: to be made.
        numbers: each may be used once.
        use_all: all must be used.
        operators: which may be used.
    """
    formula, _, right = equation.partition("=")
    try:
        value, written = evaluate(formula.translate(_SIGNS))
        if right.strip() and evaluate(right)[0] != value:
            return f"{formula.strip()} is {value}, not {right.strip()}"
    except FormulaError as error:
        return f"No formula: {error}"
    left = list(numbers)
    for number in map(int, written):
        if number not in left:
            return f"{number} is not among the numbers, or used too often"
        left.remove(number)
    if use_all and left:
        return f"Not used: {', '.join(map(str, left))}"
    if unknown := set(formula) & set(OPERATORS) - set(operators):
        return f"Not allowed: {' '.join(sorted(unknown))}"
    if value != target:
        return f"The value is {value}, not {target}"
    return ""
