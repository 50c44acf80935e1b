"""Oracles of dragging tasks, on pages written by hand."""

from collections.abc import Callable

import pytest

LIST = """
[1] clickable "Ann" at 0,0,40,20
[2] clickable "Bob" at 0,20,40,20
[3] clickable "Cy" at 0,40,40,20
[4] clickable "Di" at 0,60,40,20
[5] clickable "Ed" at 0,80,40,20
"""
GRID = "\n".join(
    f'[{i + 1}] clickable "{name}" at {40 * (i % 3)},{40 * (i // 3)},40,40'
    for i, name in enumerate("ABCDEFGHI")
)
BOX = '[9] rectangle "black 80x45px" at 60,60,80,40 {id=shape-container}\n[10] button "Submit"'


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("to the top", "drag_at(20.0, 50.0, 20.0, 7.0)"),  # three pixels beyond Ann's middle
        ("to the bottom", "drag_at(20.0, 50.0, 20.0, 93.0)"),
        ("up by one position", "drag_at(20.0, 50.0, 20.0, 27.0)"),
        ("to the 4th position", "drag_at(20.0, 50.0, 20.0, 73.0)"),
    ],
)
def test_list(act: Callable[..., str], where: str, expected: str) -> None:
    assert act("drag-items", f"Drag Cy {where}.", LIST) == f"Drag Cy {where}. {expected}"


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("Drag E left by one.", "drag_at(66.0, 60.0, 14.0, 60.0)"),
        ("Drag E down by one.", "drag_at(60.0, 54.0, 60.0, 106.0)"),
        ("Drag E to the top left.", "drag_at(66.0, 66.0, 14.0, 14.0)"),
        # Right and up: the mouse aims at the cell before the place, so that E lands after it.
        ("Drag E to the top right.", "drag_at(54.0, 66.0, 66.0, 14.0)"),
    ],
)
def test_grid(act: Callable[..., str], goal: str, expected: str) -> None:
    assert act("drag-items-grid", goal, GRID) == f"{goal} {expected}"


def test_numbers_are_sorted_from_the_top(act: Callable[..., str]) -> None:
    page = (
        '[1] clickable "-7" at 0,0,40,20\n[2] clickable "5" at 0,20,40,20\n'
        '[3] clickable "-2" at 0,40,40,20\n[4] button "Submit"'
    )
    expected = "-2 belongs to place 2. drag_at(20.0, 50.0, 20.0, 27.0)"
    assert act("drag-sort-numbers", "Sort", page) == expected
    page = page.replace('"5"', '"-3"')
    assert act("drag-sort-numbers", "Sort", page) == 'Click "Submit". click("4")'


def test_shapes_go_into_the_box(act: Callable[..., str]) -> None:
    goal = "Drag all rectangles into the black box."
    page = '[1] circle "red 17px" at 0,0,20,20\n[2] rectangle "red 17px" at 20,0,20,20\n' + BOX
    answer = act("drag-shapes", goal, page)
    assert answer == "A rectangle is outside. drag_at(30.0, 10.0, 100.0, 80.0)"
    assert (
        act("drag-shapes", goal, page.replace("20,0,", "70,70,")) == 'Click "Submit". click("10")'
    )


def test_shapes_are_parted_by_kind_and_by_color(act: Callable[..., str]) -> None:
    page = (
        '[1] circle "red 17px" at 0,100,20,20 {fill=red}\n'
        '[2] triangle "blue 17px" at 40,100,20,20 {fill=blue}\n'
        '[3] rectangle "black" at 0,0,60,40 {id=shape-container}\n'
        '[4] rectangle "black" at 80,0,60,40 {id=shape-container}'
    )
    goal = "Drag all {} into the left box, and everything else into the right box."
    left, right = "drag_at(10.0, 110.0, 30.0, 20.0)", "drag_at(10.0, 110.0, 110.0, 20.0)"
    for what, expected in (
        ("circles", left),
        ("triangles", right),
        ("red shapes", left),
        ("blue shapes", right),
    ):
        assert act("drag-shapes-2", goal.format(what), page).endswith(expected)


@pytest.mark.parametrize(
    ("task", "goal", "page", "expected"),
    [
        ("drag-circle", "Drag the circle up then press Submit.",
         '[1] circle "red 30px" at 50,80,30,30', "Drag it up. drag_at(65.0, 95.0, 65.0, 55.0)"),
        ("drag-box", "Drag the smaller box", '[1] clickable "s"\n[2] clickable "L"',
         'Drag s onto L. drag("1", "2")'),
        ("resize-textarea", "so that the height is smaller than its initial size",
         "[1] textarea at 10,60,80,40", "Make it smaller. drag_at(85.0, 95.0, 70.0, 80.0)"),
        ("highlight-text-2", "Highlight the text in the 2nd paragraph and click submit.",
         'text "A" at 0,50,90,20\ntext "B" at 0,80,90,20',
         "Drag over the text. drag_at(0.5, 83.0, 95.0, 97.0)"),
        ("draw-line", "Draw a vertical line that runs through the dot, then press submit.",
         '[1] circle "purple 8px" at 96,76,8,8', "Draw a vertical line. "
         "drag_at(96.0, 76.0, 96.0, 116.0)"),
    ],
)  # fmt: skip
def test_one_drag_then_submit(
    act: Callable[..., str], task: str, goal: str, page: str, expected: str
) -> None:
    assert act(task, goal, page) == expected
    call = expected.partition(". ")[2]
    page += '\n[7] button "Submit"'
    assert act(task, goal, page, call) == 'Click "Submit". click("7")'


def test_calendar_leaves_room_for_events(act: Callable[..., str]) -> None:
    goal = 'Create a 60 mins event named "Food", between 12PM and 4PM.'
    halves = [f'[{i + 1}] clickable "half hour" at 30,{20 * i},100,20' for i in range(48)]
    # An event that begins at half hour 25 may last until the end of 27: 28 and 29 are free.
    page = "\n".join([*halves, 'text "Gym" at 30,502,40,11'])
    assert act("daily-calendar", goal, page) == 'Go to 12PM. hover("30")'
    answer = act("daily-calendar", goal, page, 'hover("30")')
    assert answer == 'Drag over 2 half hours. drag("29", "30")'
    named = '[50] textbox value="Food"\n[51] button "Cancel"\n[52] button "Create"'
    assert act("daily-calendar", goal, named) == 'Click "Create". click("52")'
