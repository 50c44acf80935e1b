"""Key names and the keyboard events that CDP wants for them."""

import difflib
from dataclasses import dataclass
from typing import Any

MODIFIERS = {"alt": 1, "control": 2, "ctrl": 2, "controlormeta": 2, "meta": 4, "shift": 8}
"""CDP's bit for each modifier key, by name in lower case."""
_COMMAND = 1 | 2 | 4  # with one of these held, a key does not type
_NAMED: dict[str, tuple[str, int, str]] = {  # name: (code, key code, text)
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Backspace": ("Backspace", 8, ""),
    "Delete": ("Delete", 46, ""),
    "Escape": ("Escape", 27, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
    "PageUp": ("PageUp", 33, ""),
    "PageDown": ("PageDown", 34, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "Insert": ("Insert", 45, ""),
    "Space": ("Space", 32, " "),
    "Shift": ("ShiftLeft", 16, ""),
    "Control": ("ControlLeft", 17, ""),
    "Alt": ("AltLeft", 18, ""),
    "Meta": ("MetaLeft", 91, ""),
    **{f"F{n}": (f"F{n}", 111 + n, "") for n in range(1, 13)},
}
_ALIASES = {
    "return": "Enter",
    "esc": "Escape",
    "del": "Delete",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    " ": "Space",
    "\n": "Enter",
    "\t": "Tab",
    "ctrl": "Control",
    **{name.lower(): name for name in _NAMED},
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key press."""

    key: str
    code: str = ""
    key_code: int = 0
    text: str = ""
    modifiers: int = 0
    commands: tuple[str, ...] = ()

    def down(self) -> dict[str, Any]:
        """Parameters of ``Input.dispatchKeyEvent`` for pressing it."""
        event: dict[str, Any] = {
            "type": "keyDown" if self.text else "rawKeyDown",
            "key": self.key,
            "code": self.code,
            "windowsVirtualKeyCode": self.key_code,
            "modifiers": self.modifiers,
        }
        if self.text:
            event |= {"text": self.text, "unmodifiedText": self.text}
        if self.commands:
            event["commands"] = list(self.commands)
        return event

    def up(self) -> dict[str, Any]:
        """Parameters of ``Input.dispatchKeyEvent`` for releasing it."""
        return {
            "type": "keyUp",
            "key": self.key,
            "code": self.code,
            "windowsVirtualKeyCode": self.key_code,
            "modifiers": self.modifiers,
        }


def type_key(character: str) -> Key:
    r"""The key that types a character.

    Example:
        >>> type_key("a").code, type_key("\n").key, type_key("é").text
        ('KeyA', 'Enter', 'é')
    """
    named = _ALIASES.get(character)
    if named in ("Enter", "Space"):
        code, key_code, text = _NAMED[named]
        return Key("Enter" if named == "Enter" else " ", code, key_code, text)
    upper = character.upper()
    if character.isascii() and character.isalpha():
        return Key(character, f"Key{upper}", ord(upper), character, 8 * (character == upper))
    if character.isascii() and character.isdigit():
        return Key(character, f"Digit{character}", ord(character), character)
    return Key(character, "", 0, character)


def parse_keys(name: str) -> tuple[list[Key], str]:
    """The keys that a name such as ``Enter``, ``a`` or ``Control+Shift+a`` means.

    Returns:
        The keys, and what is wrong with the name (said for the agent; empty if nothing is).
    """
    parts = name.split("+") if len(name) > 1 else [name]
    if name.endswith("++"):
        parts = [*name[:-2].split("+"), "+"]
    modifiers = 0
    for part in parts[:-1]:
        if part.strip().lower() not in MODIFIERS:
            return [], f"Unknown key {name[:40]!r}. Modifiers: Control, Shift, Alt, Meta."
        modifiers |= MODIFIERS[part.strip().lower()]
    last = parts[-1] if len(parts[-1]) == 1 else parts[-1].strip()
    named = _ALIASES.get(last.lower())
    if named is not None:
        code, key_code, text = _NAMED[named]
        text = "" if modifiers & _COMMAND else text
        return [Key(" " if named == "Space" else named, code, key_code, text, modifiers)], ""
    if len(last) != 1 or not last.isprintable():
        near = difflib.get_close_matches(last, _NAMED, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else "Keys: Enter, Tab, Escape, ArrowDown, a."
        return [], f"Unknown key {name[:40]!r}. {hint}"
    key = type_key(last)
    commands = ("selectAll",) if modifiers & 2 and last.lower() == "a" else ()
    text = "" if modifiers & _COMMAND else key.text
    return [Key(key.key, key.code, key.key_code, text, modifiers | key.modifiers, commands)], ""
