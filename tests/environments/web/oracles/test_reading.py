"""Oracles of reading tasks, on pages written by hand."""

from collections.abc import Callable
from typing import Any

import pytest

FORM = '\n[1] textbox\n[2] button "Submit"'
TABLE = 'text "Country | Peru"\ntext "Year of Birth | 1957"'
TICKETS = """
text "Duration:"
text "8h 18m"
[1] button "Book for $1617"
text "Duration:"
text "13h 2m"
[2] button "Book for $1417"
"""
AGREEMENT = 'Scroll to the bottom of the textarea, enter the name "Kim" then press "Cancel"'


@pytest.mark.parametrize(
    ("task", "goal", "page", "history", "expected"),
    [
        ("simple-arithmetic", "Solve", 'text "8 x 7 ="' + FORM, [],
         '8 x 7 = 56 type("1", "56")'),
        ("simple-arithmetic", "Solve", 'text "3 - 7 ="' + FORM, [],
         '3 - 7 = -4 type("1", "-4")'),
        ("simple-arithmetic", "Solve", 'text "3 - 7 ="\n[1] textbox value="-4"\n'
         '[2] button "Submit"', [], 'Click "Submit". click("2")'),
        ("simple-algebra", "Solve", 'text "x - 4 = 10"\ntext "x ="' + FORM, [],
         'x - 4 = 10, so x = 10 + 4 = 14 type("1", "14")'),
        ("simple-algebra", "Solve", 'text "x + 4 = 10"\ntext "x ="' + FORM, [],
         'x + 4 = 10, so x = 10 - 4 = 6 type("1", "6")'),
        ("simple-algebra", "Solve", 'text "4 - x = 10"\ntext "x ="' + FORM, [],
         '4 - x = 10, so x = 4 - 10 = -6 type("1", "-6")'),
        ("simple-algebra", "Solve", 'text "4 + x = 10"\ntext "x ="' + FORM, [],
         '4 + x = 10, so x = 10 - 4 = 6 type("1", "6")'),
        ("read-table", "Enter the value of Year of Birth into the text field and press Submit.",
         TABLE + FORM, [], 'Year of Birth is 1957. type("1", "1957")'),
        ("read-table-2", "Enter the values", TABLE + '\n[1] textbox "Year of Birth:" value="1957"\n'
         '[2] textbox "Country:"\n[3] button "Submit"', [], 'Country is Peru. type("2", "Peru")'),
        ("find-word", "Find the 3rd word in the paragraph", 'text "Et neque, ligula. Amet"' + FORM,
         [], 'The 3rd word is "ligula". type("1", "ligula")'),
        ("text-transform", "Type the text below", 'text "B Y p"' + FORM, [],
         'The text is "BYp". type("1", "BYp")'),
        ("scroll-text", "Find the last word", '[3] textarea value="In quis.\\nUt leo."' + FORM, [],
         'The last word is "leo". type("1", "leo")'),
        ("scroll-text-2", "Scroll the textarea to the top of the text hit submit.",
         '[1] textarea value="In"\n[2] button "Submit"', ['click("1")'],
         'Go to the top. press("Control+Home")'),
        ("sign-agreement", "Click the cancel button.", '[3] button "Cancel"', [],
         'Click "Cancel". click("3")'),
        ("sign-agreement", AGREEMENT,
         '[1] textarea value="In"\n[2] textbox disabled\n[3] button "Cancel"', [],
         'Scroll down. scroll("down", "1")'),
        ("sign-agreement", AGREEMENT,
         '[1] textarea value="In"\n[2] textbox value="Kim"\n[3] button "Cancel"', [],
         'Click "Cancel". click("3")'),
        ("buy-ticket", "Buy the ticket with the cheapest cost.", TICKETS, [],
         'The cheapest is $1417. click("2")'),
        ("buy-ticket", "Buy the ticket with the most expensive cost.", TICKETS, [],
         'The most expensive is $1617. click("1")'),
        ("buy-ticket", "Buy the ticket with the longest duration.", TICKETS, [],
         'The longest is 13h 2m. click("2")'),
    ],
)  # fmt: skip
def test_next_step(
    act: Callable[..., str], task: str, goal: str, page: str, history: list[str], expected: str
) -> None:
    assert act(task, goal, page, *history) == expected


def test_guesses_halve_the_range(act: Callable[..., str]) -> None:
    memory = dict[Any, Any]()
    page = 'text "{}"\n[1] spinbutton value="{}"\n[2] button "Submit"'
    steps = [
        ("Waiting for your guess...", "", 'It is 0 to 9. Try 4. type("1", "4")'),
        ("Waiting for your guess...", "4", 'Click "Submit". click("2")'),
        ("The number is higher than 4.", "4", 'It is 5 to 9. Try 7. type("1", "7")'),
        ("The number is lower than 7.", "7", 'It is 5 to 6. Try 5. type("1", "5")'),
        ("The number is higher than 5.", "5", 'It is 6 to 6. Try 6. type("1", "6")'),
    ]
    for hint, value, expected in steps:
        assert act("guess-number", "Guess", page.format(hint, value), memory=memory) == expected


def test_the_greatest_card_is_turned_again(act: Callable[..., str]) -> None:
    memory = dict[Any, Any]()
    page = '[1] clickable "{}"\n[2] clickable "{}"\n[3] button "Submit"'
    steps = [
        ("red", "red", 'Turn card 1. click("1")'),
        ("12", "red", 'Turn card 2. click("2")'),
        ("red", "9", 'The greatest is 12. Turn it again. click("1")'),
        ("12", "red", 'Click "Submit". click("3")'),
    ]
    for one, two, expected in steps:
        assert act("find-greatest", "Find", page.format(one, two), memory=memory) == expected


def test_digits_are_drawn_row_by_row(act: Callable[..., str]) -> None:
    goal = 'Draw the number "7" in the checkboxes'
    boxes = [f"[{i + 1}] checkbox" for i in range(28)]
    page = "\n".join([*boxes, '[29] button "Submit"'])
    assert act("number-checkboxes", goal, page) == 'Tick row 1, column 1. click("1")'
    done = {1, 2, 3, 4, 5, 8, 12, 15, 19, 22, 26}  # 1111 1001 0001 0010 0010 0100 0100
    for i in done:
        boxes[i - 1] += " checked"
    page = "\n".join([*boxes, '[29] button "Submit"'])
    assert act("number-checkboxes", goal, page) == 'Click "Submit". click("29")'


def test_blocks_are_counted_on_the_page(act: Callable[..., str]) -> None:
    assert act("visual-addition", "Type", FORM, evaluated=7) == 'There are 7 blocks. type("1", "7")'
