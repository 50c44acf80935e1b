"""Oracles of sliders, spinners and pickers, on pages written by hand."""

from collections.abc import Callable
from typing import Any

import pytest

SLIDER = '[1] slider{}\ntext "{}"\n[2] button "Submit"'
EDITOR = """
[1] clickable "ql picker label"
[2] button "ql bold"
[3] button "ql italic"
[4] textbox "ql editor" value="In leo."
[5] button "Submit"
[6] clickable "red"
"""


@pytest.mark.parametrize(
    ("value", "states", "expected"),
    [
        ("0", "", 'Click the spinner. click("1")'),
        ("0", " focused", '0 is not -2. Press ArrowDown. press("ArrowDown")'),
        ("-3", " focused", '-3 is not -2. Press ArrowUp. press("ArrowUp")'),
        ("-2", " focused", 'Click "Submit". click("2")'),
    ],
)
def test_spinner(act: Callable[..., str], value: str, states: str, expected: str) -> None:
    page = f'[1] spinbutton value="{value}"{states}\n[2] button "Submit"'
    assert act("use-spinner", "Select -2 with the spinner and hit Submit.", page) == expected


def test_slider_learns_how_far_a_page_goes(act: Callable[..., str]) -> None:
    goal, memory = "Select 37 with the slider and hit Submit.", dict[Any, Any]()
    steps = [
        ("", 10, 'Set slider 1 to 37. click("1")'),
        (" focused", 10, '10 is not 37. Press PageUp. press("PageUp")'),
        (" focused", 30, '30 is not 37. Press ArrowRight. press("ArrowRight")'),  # a page is 20
        (" focused", 31, '31 is not 37. Press ArrowRight. press("ArrowRight")'),
        (" focused", 37, 'Click "Submit". click("2")'),
    ]
    for states, value, expected in steps:
        assert act("use-slider", goal, SLIDER.format(states, value), memory=memory) == expected


def test_sliders_one_after_the_other(act: Callable[..., str]) -> None:
    goal = "Set the sliders to the combination [3,18,0] and submit."
    memory = dict[Any, Any]()
    page = '[1] slider{}\ntext "{}"\n[2] slider{}\ntext "{}"\n[3] slider\ntext "0"\n' + (
        '[4] button "Submit"'
    )
    steps = [
        (("", 3, "", 20), 'Set slider 2 to 18. click("2")'),
        (("", 3, " focused", 20), '20 is not 18. Press ArrowLeft. press("ArrowLeft")'),
        (("", 3, " focused", 18), 'Click "Submit". click("4")'),
    ]
    for values, expected in steps:
        assert act("use-slider-2", goal, page.format(*values), memory=memory) == expected


def test_slider_then_checkbox(act: Callable[..., str]) -> None:
    goal = "Select -4 with the slider, click the 2nd checkbox, then hit Submit."
    page = '[1] slider\ntext "-4"\n[2] checkbox\n[3] checkbox{}\n[4] button "Submit"'
    assert act("form-sequence", goal, page.format("")) == 'Tick the 2nd checkbox. click("3")'
    assert act("form-sequence", goal, page.format(" checked")) == 'Click "Submit". click("4")'


def test_colors(act: Callable[..., str]) -> None:
    page = '[1] textbox value="AB2567"\n[2] button "Submit"'
    answer = act("use-colorwheel", "Select teal with the color picker and hit Submit.", page)
    assert answer == 'Teal is 008080. type("1", "008080")'
    answer = act("use-colorwheel-2", "Select the color", page, evaluated="rgb(171, 37, 103)")
    assert answer == 'Click "Submit". click("2")'  # 171, 37, 103 is AB2567


def test_editor_styles_everything(act: Callable[..., str]) -> None:
    goal = "Using the text editor, give everything the style italics and press Submit."
    calls = ['click("4")', 'press("Control+a")', 'click("3")', 'click("5")']
    for done, call in enumerate(calls):
        assert act("text-editor", goal, EDITOR, *calls[:done]).endswith(f" {call}")


def test_editor_colors_a_word(act: Callable[..., str]) -> None:
    goal = "Using the text editor, give the text leo. the color red."
    calls = ["drag_at(30.5, 60.0, 49.5, 60.0)", 'click("1")', 'click("6")', 'click("5")']
    for done, call in enumerate(calls):
        answer = act("text-editor", goal, EDITOR, *calls[:done], evaluated=[30, 55, 50, 65])
        assert answer.endswith(f" {call}")
