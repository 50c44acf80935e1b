"""Countdown's solver against a plain search, counts, splits, and traces with their score."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from agentgym.environments.text.countdown_search import (
    Operation,
    combine,
    count_solutions,
    judge_equation,
    max_nodes,
    read_operation,
    score_trace,
    solve,
    split_targets,
    write_solution,
)


def ways(target: int, numbers: Sequence[int], operators: str, use_all: bool) -> int:
    """The published search, written again: every pair, every operation."""
    if target in numbers and (len(numbers) == 1 or not use_all):
        return 1
    total = 0
    for i, j in combinations(range(len(numbers)), 2):
        a, b = sorted((numbers[i], numbers[j]))
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        results = {"+": a + b, "*": a * b, "-": b - a}
        if a and b % a == 0:
            results["/"] = b // a
        for sign, result in results.items():
            if sign in operators:
                total += ways(target, [*rest, result], operators, use_all)
    return total


def replayed(numbers: Sequence[int], operations: Sequence[Operation]) -> list[int]:
    left = list(numbers)
    for operation in operations:
        left.remove(operation.left)
        left.remove(operation.right)
        assert operation in (*combine(operation.left, operation.right), *combine(*operation[2::-2]))
        left.append(operation.result)
    return left


def test_operations_as_published() -> None:
    assert [str(o) for o in combine(6, 4)] == ["6+4=10", "6*4=24", "6-4=2"]
    assert [str(o) for o in combine(4, 8)] == ["4+8=12", "4*8=32", "8-4=4", "8/4=2"]
    assert [str(o) for o in combine(0, 5)] == ["0+5=5", "0*5=0", "5-0=5"]
    assert [str(o) for o in combine(5, 5, "-/")] == ["5-5=0", "5/5=1"]


@pytest.mark.parametrize("operators", ["+-*/", "+-", "*/", "/", "-"])
@pytest.mark.parametrize("use_all", [True, False])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_solver_finds_a_way_exactly_where_there_is_one(
    operators: str, use_all: bool, size: int
) -> None:
    rng = np.random.default_rng(size)
    seen = set()
    for _ in range(12):
        numbers = rng.integers(1, 13, size).tolist()
        target = int(rng.integers(0, 25))
        there_is = ways(target, numbers, operators, use_all)
        seen.add(bool(there_is))
        assert count_solutions(target, tuple(sorted(numbers)), use_all, operators) == there_is
        way = solve(target, numbers, use_all=use_all, operators=operators)
        assert (way is not None) == bool(there_is)
        if way is not None:
            left = replayed(numbers, way)
            assert left == [target] if use_all else target in left
    assert seen


def test_five_and_six_numbers() -> None:
    for numbers in ([25, 50, 75, 3, 6], [1, 2, 3, 4, 5, 6]):
        way = solve(99, numbers)
        assert way is not None
        assert replayed(numbers, way) == [99]
    assert solve(1000, [1, 1, 1, 1, 1]) is None


def test_counts_worked_out_by_hand() -> None:
    # 1, 2 to 3: only 1+2. 1, 1 to 1: 1*1 and 1/1.
    assert count_solutions(3, (1, 2)) == 1
    assert count_solutions(1, (1, 1)) == 2
    # 1, 2, 3 to 6. After 1+2: 3+3. After 1*2 and 2/1: 2*3. After 1+3: 4+2. After 1*3 and 3/1: 3*2.
    # After 2+3: 5+1. After 2*3: 6*1 and 6/1.
    assert count_solutions(6, (1, 2, 3)) == 9


def test_held_out_targets() -> None:
    held, kept = split_targets(10, 100, True), split_targets(10, 100, False)
    assert (len(held), len(kept)) == (9, 82)
    assert sorted(held + kept) == list(range(10, 101))
    assert held == split_targets(10, 100, True)


@pytest.mark.parametrize(("size", "nodes"), [(2, 4), (3, 48), (4, 1152), (5, 46080)])
def test_published_sizes_of_the_tree(size: int, nodes: int) -> None:
    assert max_nodes(size) == nodes


TRACE = """\
Current State: 24:[3, 8, 1], Operations: []
Exploring Operation: 3*8=24, Resulting Numbers: [1, 24]
Generated Node #2: [1, 24] from Operation: 3*8=24
Current State: 24:[1, 24], Operations: ['3*8=24']
Exploring Operation: 24*1=24, Resulting Numbers: [24]
24,24 equal: Goal Reached
"""


def test_golden_trace_and_its_score() -> None:
    operations = [Operation(3, "*", 8, 24), Operation(24, "*", 1, 24)]
    assert write_solution(24, [3, 8, 1], operations) == TRACE
    for mode in ("fixed", "original"):
        score = score_trace(TRACE, mode=mode, problem=(24, [8, 3, 1]))
        # Two explored and the root are 3 nodes of 48.
        assert (score.score, score.valid, score.reason, score.nodes) == (
            1 - 3 / 48,
            True,
            "Valid path.",
            3,
        )


def test_a_trace_that_fails() -> None:
    text = write_solution(24, [2, 3, 4], [Operation(2, "+", 3, 5), Operation(4, "*", 5, 20)])
    assert text.endswith("20,24 unequal: No Solution\n")
    assert score_trace(text).reason == "No goal reached statement found."


def reused() -> str:
    return (
        TRACE.replace("3, 8, 1", "5, 7")
        .replace("3*8=24", "5+5=10")
        .replace("24*1=24", "10+7=17")
        .replace("24,24", "17,17")
        .replace("24:[", "17:[")
    )


def test_the_published_checker_lets_numbers_be_used_again() -> None:
    assert score_trace(reused(), mode="original").valid  # there is one 5 only
    assert score_trace(reused()).reason.startswith("Invalid operation: 5+5=10, number 5 not")


def test_the_published_checker_does_not_ask_for_all_numbers() -> None:
    trace = TRACE.replace("[3, 8, 1]", "[3, 8, 1, 9]")
    assert score_trace(trace, mode="original").valid
    assert score_trace(trace).reason == "Invalid path: 1 numbers are not used."
    assert score_trace(trace, use_all=False).valid


def test_the_published_checker_refuses_a_goal_reached_at_once() -> None:
    trace = write_solution(10, [4, 6], [Operation(4, "+", 6, 10)])
    assert score_trace(trace, mode="original").reason.startswith("Could not split")
    assert score_trace(trace).score == 1 - 2 / 4


def test_the_published_checker_believes_the_first_line() -> None:
    assert score_trace(TRACE, mode="original", problem=(50, [1, 2, 3])).valid
    assert not score_trace(TRACE, problem=(50, [1, 2, 3])).valid


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Current State: 24", "State: 24", "Invalid input"),
        ("[3, 8, 1]", "[3, x, 1]", "Invalid input"),
        ("24*1=24", "24*1=25", "Invalid path: Final operation"),
        ("3*8=24", "3*8=25", "Invalid operation: 3*8=25"),
        ("3*8=24", "3/0=24", ""),
        ("3*8=24", "3*8", ""),
        ("Exploring", "Trying", "No operations found"),
    ],
)
@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_bad_traces(old: str, new: str, reason: str, mode: str) -> None:
    score = score_trace(TRACE.replace(old, new), mode=mode)
    assert not score.valid
    assert score.score == 0.0
    assert score.reason.startswith(reason)


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "Current State: 1:[1], Operations: []", "=" * 9, TRACE.replace("24", "9" * 5000)],
)
@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_hostile_traces(text: str, mode: str) -> None:
    assert not score_trace(text, mode=mode).valid


@pytest.mark.parametrize("part", ["1", "Exploring Operation: 1+1=", "Current State: 1:[", "24,24 "])
def test_long_traces_take_no_long_time(part: str) -> None:
    assert not score_trace(TRACE.splitlines()[0] + "\n" + part * (100_000 // len(part))).valid


def test_reading_operations() -> None:
    assert read_operation(" 6 * 4 = 24 ") == (6, "*", 4, 24)
    assert read_operation("6x4") == (6, "*", 4, None)
    assert read_operation("8\u00f74") == (8, "/", 4, None)
    for text in ("6*", "6*4*2", "-6*4", "6**4", "six*4", "1" * 50 + "*2"):
        assert read_operation(text) is None


@pytest.mark.parametrize(
    ("equation", "wrong"),
    [
        ("3*8*1", ""),
        ("(3 \u00d7 8) \u00f7 1 = 24", ""),
        ("8/(1/3)", ""),
        ("3*8", "Not used: 1"),
        ("3*8*1*1", "1 is not among"),
        ("38*1", "38 is not among"),
        ("3+8+1", "The value is 12"),
        ("3*8*1=25", "3*8*1 is 24, not 25"),
        ("3**8", "No formula"),
        ("1.3*8", "No formula"),
        ("", "No formula"),
    ],
)
def test_equations(equation: str, wrong: str) -> None:
    said = judge_equation(equation, 24, [3, 8, 1], use_all=True, operators="+-*/")
    assert said.startswith(wrong)
    assert bool(said) == bool(wrong)


def test_equations_of_some_numbers_and_operations() -> None:
    assert judge_equation("3*8", 24, [3, 8, 1], use_all=False, operators="+*") == ""
    assert "Not allowed: *" in judge_equation("3*8", 24, [3, 8], use_all=True, operators="+-")
