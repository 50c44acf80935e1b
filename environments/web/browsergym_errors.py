"""What BrowserGym says of an action that could not be carried out, for what this engine says."""

import json
import re

_GONE = re.compile(r'There is no element (".*?")\. Elements:')
_METHODS = {
    "drag_and_drop": "Locator.hover",
    "keyboard_press": "Keyboard.press",
    "keyboard_down": "Keyboard.down",
    "keyboard_up": "Keyboard.up",
    "goto": "Page.goto",
    "go_back": "Page.go_back",
    "go_forward": "Page.go_forward",
    "tab_close": "Page.close",
    "new_tab": "BrowserContext.new_page",
}
_NO_FIELD = "Element is not an <input>, <textarea> or [contenteditable] element"


def told(said: str, source: str) -> str:
    """The error of BrowserGym 0.14.

    Args:
        said: what the engine says; empty if nothing was wrong.
        source: BrowserGym's action, such as ``fill``.

    Example:
        >>> told('There is no element "a51". Elements: 1-4.', "click")
        'ValueError: Could not find element with bid "a51"'
    """
    if not said:
        return ""
    if source == "tab_focus":
        return "IndexError: list index out of range"
    method = _METHODS.get(source, f"Locator.{source}")
    if match := _GONE.match(said):
        return f'ValueError: Could not find element with bid "{json.loads(match[1])}"'
    if said.endswith("is not a text field."):
        return f"Error: {method}: Error: {_NO_FIELD}"
    if "is not a list of options." in said:
        return f"Error: {method}: Error: Element is not a <select> element"
    if source != "press" and (match := re.match(r"Unknown key '(.*?)'\.", said)):
        return f'Error: {method}: Unknown key: "{match[1]}"'
    if said.startswith("Element") or source in ("press", "select_option"):
        return f"TimeoutError: {method}: Timeout 500ms exceeded.\n{said}"
    return f"Error: {method}: {said}"
