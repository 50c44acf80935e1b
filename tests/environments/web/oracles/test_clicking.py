"""Oracles of clicking tasks, on pages written by hand."""

from collections.abc import Callable
from typing import Any

import pytest

TABS = """
[1] tab "Tab #1" selected
[2] tab "Tab #2"
text "Nibh eu"
[3] clickable "nisl"
"""
TREE = """
[1] clickable "hitarea"
[2] clickable "Ann"
[3] clickable "hitarea"
[4] clickable "Bob"
[5] clickable "Cleo"
"""
WIDGETS = """
[1] textarea value="q"
[2] radio "a"
[3] textbox value="b"
[4] button "c"
"""
MENU = """
[1] menuitem "Ada"
[2] menuitem "Bea"
[3] menuitem "Cy"
"""
ROWS = """
[1] button "Odd"
text "-5"
[2] button "Even"
[3] button "Odd"
text "4"
[4] button "Even"
[5] button "Submit"
"""


@pytest.mark.parametrize(
    ("task", "goal", "page", "history", "expected"),
    [
        ("click-test", "Click the button.", '[7] button "Click Me!"', [],
         'Click "Click Me!". click("7")'),
        ("click-test-2", "Click button ONE.", '[1] button "TWO"\n[2] button "ONE"', [],
         'Click "ONE". click("2")'),
        ("click-button", 'Click on the "no" button.', 'text "no"\n[1] button "No"\n[2] button "no"',
         [], 'Click "no". click("2")'),
        ("click-link", 'Click on the link "eu,".', '[1] clickable "eu"\n[2] clickable "eu,"', [],
         'Click "eu,". click("2")'),
        ("click-dialog-2", 'Click the button in the dialog box labeled "x".',
         '[1] button "OK"\n[2] button "Close"', [], 'Click "Close". click("2")'),
        ("click-button-sequence", "Click button ONE, then click button TWO.",
         '[1] button "TWO"\n[2] button "ONE"', ['click("2")'], 'Click "TWO". click("1")'),
        ("click-tab", "Click on Tab #2.", TABS, [], 'Click "Tab #2". click("2")'),
        ("click-tab-2", 'find and click on the link "nisl".', TABS, [],
         '"nisl" is here. Click it. click("3")'),
        ("click-tab-2", 'find and click on the link "1".', TABS, [],
         '"1" is not here. Open "Tab #2". click("2")'),
        ("click-collapsible", "Expand the section below and click submit.",
         '[1] tab "Section #3"\n[2] button "Submit"', [], 'Expand "Section #3". click("1")'),
        ("click-collapsible", "Expand the section below and click submit.",
         '[1] tab "Section #3"\n[2] button "Submit"', ['click("1")'], 'Click "Submit". click("2")'),
        ("click-option", "Select b and click Submit.", '[1] radio "a" checked\n[2] radio "b"', [],
         'Select "b". click("2")'),
        ("click-option", "Select b and click Submit.", '[2] radio "b" checked\n[3] button "Submit"',
         [], '"b" is selected. Click "Submit". click("3")'),
        ("choose-list", "Select Peru from the list and click Submit.", '[1] combobox value="Chad"',
         [], 'Select "Peru". select("1", "Peru")'),
        ("click-scroll-list", "Select Peru, Chad from the scroll list and click Submit.",
         '[1] listbox value="Peru"', [], 'Select "Chad". select("1", "Chad")'),
        ("click-scroll-list", "Select Peru, Chad from the scroll list and click Submit.",
         '[1] listbox value="Chad, Peru"\n[2] button "Submit"', [],
         'All are selected. Click "Submit". click("2")'),
        ("click-widget", 'Click on a "text" widget.', WIDGETS, [], 'Click a text. click("3")'),
        ("click-widget", 'Click on a "textarea" widget.', WIDGETS, [],
         'Click a textarea. click("1")'),
        ("click-widget", 'Click on a "radio" widget.', WIDGETS, [], 'Click a radio. click("2")'),
        ("focus-text-2", "Focus into the 2nd input textbox.", "[4] textbox\n[5] textbox", [],
         'Click the 2nd textbox. click("5")'),
        ("navigate-tree", 'click on the folder or file named "Cleo".', TREE, [],
         '"Cleo" is here. Click it. click("5")'),
        ("navigate-tree", 'click on the folder or file named "Dan".', TREE, [],
         '"Dan" is not here. Open "Ann". click("1")'),
        ("click-menu", "Select Bea>Cy", MENU, [], 'Open "Bea". hover("2")'),
        ("click-menu", "Select Bea>Cy", MENU, ['hover("2")'], 'Click "Cy". click("3")'),
        ("click-pie", 'click on the item labeled "w".', '[1] letter "+ white 32px"', [],
         'Expand the menu. click("1")'),
        ("click-pie", 'click on the item labeled "w".', '[1] digit "5 red"\n[2] letter "w red"',
         ['click("1")'], 'Click "w". click("2")'),
        ("button-delay", "Click button ONE, wait 2 seconds, then click button TWO.",
         '[1] button "ONE"\n[2] button "TWO"', ['click("1")'],
         "One second is over. Wait 1 more. wait()"),
        ("button-delay", "Click button ONE, wait 2 seconds, then click button TWO.",
         '[1] button "ONE"\n[2] button "TWO"', ['click("1")', "wait()"], 'Click "TWO". click("2")'),
        ("click-color", "Click on the olive colored box.",
         '[1] clickable "lime"\n[2] clickable "olive"', [], 'Click the olive box. click("2")'),
        ("click-shades", "Select all the shades of red and press Submit.",
         '[1] clickable "gray" {data-color=red}\n[2] clickable "red" {data-color=red}',
         ['click("1")'], 'Click a red box. click("2")'),
        ("generate-number", "Generate an odd number, then press submit.",
         'text "4"\n[1] button "Generate"\n[2] button "Submit"', [],
         'Click "Generate". click("1")'),
        ("generate-number", "Generate a number less than 5, then press submit.",
         'text "4"\n[1] button "Generate"\n[2] button "Submit"', [],
         '4 fits. Click "Submit". click("2")'),
        ("odd-or-even", "Mark the numbers", ROWS, [], '-5 is odd. click("1")'),
        ("odd-or-even", "Mark the numbers", ROWS, ['click("1")'], '4 is even. click("4")'),
        ("odd-or-even", "Mark the numbers", ROWS, ['click("1")', 'click("4")'],
         'All are marked. Click "Submit". click("5")'),
    ],
)  # fmt: skip
def test_next_step(
    act: Callable[..., str], task: str, goal: str, page: str, history: list[str], expected: str
) -> None:
    assert act(task, goal, page, *history) == expected


def test_tabs_are_opened_once_each(act: Callable[..., str]) -> None:
    goal, memory = 'find and click on the link "quid".', dict[Any, Any]()
    page = TABS + '[4] tab "Tab #3"\n'
    assert act("click-tab-2", goal, page, memory=memory).endswith('click("2")')
    assert act("click-tab-2", goal, page, memory=memory).endswith('click("4")')
    with pytest.raises(LookupError, match="quid"):
        act("click-tab-2", goal, page, memory=memory)


def test_folders_are_opened_once_each(act: Callable[..., str]) -> None:
    goal, memory = 'click on the folder or file named "Dan".', dict[Any, Any]()
    assert act("navigate-tree", goal, TREE, memory=memory).endswith('Open "Ann". click("1")')
    assert act("navigate-tree", goal, TREE, memory=memory).endswith('Open "Bob". click("3")')
    with pytest.raises(LookupError, match="Dan"):
        act("navigate-tree", goal, TREE, memory=memory)


def test_an_icon_in_the_goal_is_read_from_the_page(act: Callable[..., str]) -> None:
    goal = "find and click on the item with the icon."
    page = '[1] button "Menu"\n[2] menuitem "Save"\n[3] menuitem "Playback"'
    icon = "ui-icon ui-icon-disk"
    assert act("click-menu-2", goal, page, evaluated=icon) == 'Click "Save". click("2")'
    icon = "ui-icon ui-icon-stop"
    assert act("click-menu-2", goal, page, evaluated=icon) == 'Open "Playback". hover("3")'
