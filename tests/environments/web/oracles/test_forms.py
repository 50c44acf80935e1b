"""Oracles of form tasks, on pages written by hand."""

from collections.abc import Callable

import pytest

LOGIN = 'Enter the username "bob" and the password "xY" into the text fields and press login.'
BOXES = """
[1] checkbox "a" checked
[2] checkbox "b"
[3] checkbox "c"
[4] button "Submit"
"""
MOVIE = "Search for urban movies directed by Bo from year 2002."


@pytest.mark.parametrize(
    ("task", "goal", "page", "history", "expected"),
    [
        ("enter-text", 'Enter "Myron" into the text field and press Submit.',
         '[1] textbox\n[2] button "Submit"', [], 'Text is Myron. type("1", "Myron")'),
        ("enter-text", 'Enter "Myron" into the text field and press Submit.',
         '[1] textbox value="Myron"\n[2] button "Submit"', [], 'Click "Submit". click("2")'),
        ("enter-text-2", 'Type "KIM" in all lower case letters in the text input and press Submit.',
         '[1] textbox value="KIM"\n[2] button "Submit"', [],
         'In lower case the text is kim. type("1", "kim")'),
        ("enter-password", 'Enter the password "q1" into both text fields and press submit.',
         '[1] password value="**"\n[2] password\n[3] button "Submit"', [],
         'Password again is q1. type("2", "q1")'),
        ("enter-password", 'Enter the password "q1" into both text fields and press submit.',
         '[1] password value="*"\n[2] password\n[3] button "Submit"', [],
         'Password is q1. type("1", "q1")'),
        ("enter-date", "Enter 07/26/2017 as the date and hit submit.",
         '[1] textbox\n[2] button "Submit"', [], 'Date is 2017-07-26. type("1", "2017-07-26")'),
        ("enter-time", "Enter 12:05 AM as the time and press submit.",
         '[1] textbox\n[2] button "Submit"', [], 'Time is 00:05. type("1", "00:05")'),
        ("enter-time", "Enter 1:30 PM as the time and press submit.",
         '[1] textbox\n[2] button "Submit"', [], 'Time is 13:30. type("1", "13:30")'),
        ("login-user", LOGIN, '[1] textbox\n[2] password\n[3] button "Login"', [],
         'Username is bob. type("1", "bob")'),
        ("login-user", LOGIN, '[1] textbox value="bob"\n[2] password\n[3] button "Login"', [],
         'Password is xY. type("2", "xY")'),
        ("login-user", LOGIN,
         '[1] textbox value="bob"\n[2] password value="**"\n[3] button "Login"', [],
         'Both are filled. Click "Login". click("3")'),
        ("login-user-popup", LOGIN,
         '[1] textbox disabled\n[2] password disabled\n[3] button "OK"\n[4] button "Cancel"', [],
         'A popup. Click "Cancel". click("4")'),
        ("click-checkboxes", "Select a, c and click Submit.", BOXES, [], 'Tick "c". click("3")'),
        ("click-checkboxes", "Select nothing and click Submit.", BOXES, [],
         'All are ticked. Click "Submit". click("4")'),
        ("click-checkboxes", "Select a, a and click Submit.",
         '[1] checkbox "a" checked\n[2] checkbox "b"\n[3] checkbox "a"\n[4] button "Submit"', [],
         'Tick "a". click("3")'),
        ("click-checkboxes-soft", "Select words similar to huge and click Submit.",
         '[1] checkbox "tiny"\n[2] checkbox "large"\n[3] button "Submit"', [],
         '"huge" is like "large". Tick "large". click("2")'),
        ("copy-paste", "Copy the text", '[1] textbox\n[2] textarea value="A b. "\n'
         '[3] button "Submit"', [], 'The text is A b. . type("1", "A b. ")'),
        ("copy-paste-2", "Copy the text from the 2nd text area below and paste it",
         '[1] textarea value="A"\n[2] textarea value="B"\n[3] textbox\n[4] button "Submit"', [],
         'The 2nd text is B. type("3", "B")'),
        ("use-autocomplete", 'Enter an item that starts with "Pe" and ends with "ru".',
         '[1] textbox\n[2] button "Submit"', [], 'Type "Pe". type("1", "Pe")'),
        ("use-autocomplete", 'Enter an item that starts with "Pe" and ends with "ru".',
         '[1] textbox value="Pe"\n[2] button "Submit"\n[3] menuitem "Pera"\n[4] menuitem "Peru"',
         ['type("1", "Pe")'], '"Peru" fits. Click it. click("4")'),
        ("use-autocomplete", 'Enter an item that starts with "Pe" and ends with "ru".',
         '[1] textbox value="Peru"\n[2] button "Submit"', ['type("1", "Pe")', 'click("4")'],
         '"Peru" fits. Click "Submit". click("2")'),
        ("form-sequence-2", 'Check the 2nd radio button and enter the number "-7" into the 1st '
         "textbox.", "[1] radio\n[2] radio\n[3] textbox", [],
         'Check the 2nd radio button. click("2")'),
        ("form-sequence-2", 'Check the 2nd radio button and enter the number "-7" into the 1st '
         "textbox.", '[1] radio\n[2] radio checked\n[3] textbox\n[4] button "Submit"', [],
         'The 1st textbox is -7. type("3", "-7")'),
        ("form-sequence-3", 'Choose 6ft 1in from the dropdown, then click the button labeled "No".',
         '[1] clickable "selectric"\n[2] button "No"\n[3] clickable "6ft 1in"', ['click("1")'],
         'Choose "6ft 1in". click("3")'),
        ("multi-layouts", MOVIE, 'text "Released Date"\n[1] textbox\ntext "Director Name"\n'
         '[2] textbox\ntext "Movie Genre"\n[3] textbox\n[4] button "Go!"', [],
         'Year is 2002. type("1", "2002")'),
        ("multi-layouts", MOVIE, '[1] textbox value="Bo"\ntext "Director"\n'
         '[2] textbox\ntext "Genre"\n[3] textbox\ntext "Year"\n[4] clickable "Search"', [],
         'Genre is urban. type("2", "urban")'),
    ],
)  # fmt: skip
def test_next_step(
    act: Callable[..., str], task: str, goal: str, page: str, history: list[str], expected: str
) -> None:
    assert act(task, goal, page, *history) == expected
