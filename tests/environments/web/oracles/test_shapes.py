"""Oracles of drawing tasks, on drawings written by hand."""

from collections.abc import Callable

import pytest

DRAWING = """
[1] letter "q blue 10px"
[2] digit "4 blue 20px"
[3] circle "blue 20px"
[4] rectangle "red 20px"
[5] triangle "red 10px"
[6] button "1"
[7] button "2"
[8] button "3"
[9] button "0"
"""


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("Click on a large blue item", 'Click the large blue 4. click("2")'),
        ("Click on a small red item", 'Click the small red triangle. click("5")'),
        ("Click on a q", 'Click the small blue q. click("1")'),
        ("Click on a large shape", 'Click the large blue circle. click("3")'),
    ],
)
def test_described_shape(act: Callable[..., str], goal: str, expected: str) -> None:
    assert act("click-shape", goal, DRAWING) == expected


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("blue item", 'There are 3. click("8")'),
        ("shape", 'There are 3. click("8")'),
        ("large shape", 'There are 2. click("7")'),
        ("digit", 'There are 1. click("6")'),
        ("small circle", 'There are 0. click("9")'),
    ],
)
def test_count(act: Callable[..., str], what: str, expected: str) -> None:
    assert act("count-shape", f"How many {what}s are there?", DRAWING) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('digit "9 red 30px"', 'It is a number. click("2")'),
        ('letter "e red 30px"', 'It is a letter. click("3")'),
        ('triangle "red 30px"', 'It is a triangle. click("4")'),
    ],
)
def test_identify(act: Callable[..., str], shape: str, expected: str) -> None:
    buttons = '[2] button "Number"\n[3] button "Letter"\n[4] button "Triangle"'
    assert act("identify-shape", "Click the button", f"[1] {shape}\n{buttons}") == expected


def test_grid_counts_upwards(act: Callable[..., str]) -> None:
    points = [
        f'[{5 * column + row + 1}] circle "blue 8px" at {30 * column},{30 * row},8,8'
        for column in range(5)
        for row in range(5)
    ]
    # Column 4 of 0 to 4 begins at id 21; y = -2 is the lowest of its five rows.
    answer = act("grid-coordinate", "Click on the grid coordinate (2,-2).", "\n".join(points))
    assert answer == 'Column 2, row -2. click("25")'


def test_covered_numbers_keep_their_order(act: Callable[..., str]) -> None:
    before = '[1] digit "2 black 20px"\n[2] digit "1 black 20px"'
    assert act("ascending-numbers", "Click", before) == 'Click 1. click("2")'
    after = '[3] rectangle "black 20px"\n[4] rectangle "black 20px"'
    expected = '2 is the first rectangle. click("3")'
    assert act("ascending-numbers", "Click", after, 'click("2")') == expected


@pytest.mark.parametrize(
    ("area", "number"), [(1590, 3), (2450, 4), (2914, 5), (3182, 6), (3352, 7)]
)
def test_sides_follow_from_the_area(act: Callable[..., str], area: int, number: int) -> None:
    # n / 2 sin(2 pi / n) 35 squared: 1591.3, 2450, 2912.6, 3182.6, 3352.2
    page = "\n".join(f'[{n}] button "{n}"' for n in range(3, 8))
    expected = f'It has {number} sides. click("{number}")'
    assert act("count-sides", "Press", page, evaluated=area) == expected
