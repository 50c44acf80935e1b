import pytest

from agentgym.environments.web.browsergym_errors import told


@pytest.mark.parametrize(
    ("said", "source", "error"),
    [
        ("", "click", ""),
        ('There is no element "a5". Elements: 1.', "click", 'find element with bid "a5"'),
        ('Element "1" is not a text field.', "fill", "Error: Locator.fill: Error: Element is not"),
        ('Element "1" is not a list of options. Click it.', "select_option", "not a <select>"),
        ("Unknown key 'Foo'. Keys: a", "keyboard_press", 'Keyboard.press: Unknown key: "Foo"'),
        ('Element "1" is hidden.', "click", "TimeoutError: Locator.click: Timeout 500ms exceeded."),
        ("There is no tab 3.", "tab_focus", "IndexError: list index out of range"),
        ("'file:///a' was not opened.", "goto", "Error: Page.goto: 'file:///a' was not opened."),
    ],
)
def test_what_the_engine_says_becomes_what_browsergym_says(
    said: str, source: str, error: str
) -> None:
    assert error in told(said, source)
    assert bool(told(said, source)) is bool(said)
