"""Raw mouse and keyboard: single presses and moves, other buttons, keys held between actions."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

from agentgym.actions import ActionCall, ActionSet
from agentgym.environments.web.actions import MAX_TYPED, Hands
from agentgym.environments.web.keys import MODIFIERS, Key, parse_keys, type_key
from agentgym.environments.web.page import Page
from agentgym.environments.web.view import PageView

Button = Literal["left", "middle", "right"]
_BUTTON_BITS = {"left": 1, "right": 2, "middle": 4}

_SELECT_ONLY = """((element, wanted) => {
  if (!element) return "gone";
  if (element.localName !== "select") return "no list";
  if (element.disabled) return "disabled";
  const options = [...element.options];
  const chosen = wanted.map((text) => options.find((o) => o.value === text || o.label === text));
  if (chosen.some((o) => !o)) return "no option";
  if (chosen.some((o) => o.disabled)) return "disabled";
  const only = new Set(element.multiple ? chosen : chosen.slice(-1));
  element.focus();
  for (const option of options) {
    if (option.selected !== only.has(option)) option.selected = only.has(option);
  }
  element.dispatchEvent(new Event("input", { bubbles: true }));
  element.dispatchEvent(new Event("change", { bubbles: true }));
  return "";
})"""
_FOCUS = """((element) => {
  if (!element) return "gone";
  element.focus();
  return "";
})"""
_CHECKED = """((element) => {
  if (!element) return "gone";
  const told = element.getAttribute("aria-checked");
  if (typeof element.checked !== "boolean" && told === null) return "no box to check";
  return String(element.checked ?? told === "true");
})"""
_SCROLL_PAGES = """((pages) => {
  (document.scrollingElement || document.body).scrollTop += innerHeight * pages;
})"""


def click_with(element: str, button: Button = "left", modifiers: str = "", clicks: int = 1) -> None:
    """Click an element with any button while keys such as Control+Shift are held."""


def click_point(x: float, y: float, button: Button = "left", clicks: int = 1) -> None:
    """Click a point with any button."""


def mouse_move(x: float, y: float) -> None:
    """Move the mouse; what is pressed stays pressed."""


def mouse_down(x: float, y: float, button: Button = "left") -> None:
    """Press a mouse button at a point and hold it."""


def mouse_up(x: float, y: float, button: Button = "left") -> None:
    """Release a mouse button at a point."""


def wheel(dx: float, dy: float) -> None:
    """Turn the mouse wheel by pixels, right and down."""


def scroll_pages(pages: float) -> None:
    """Scroll the whole page by viewport heights, down if positive."""


def focus(element: str) -> None:
    """Give an element the keyboard focus."""


def select_only(element: str, options: list[str]) -> None:
    """Make these the chosen options of a list, by label or value."""


def set_checked(element: str, checked: bool) -> None:
    """Click a box unless it is checked, or not, as wanted."""


def key_down(key: str) -> None:
    """Press a key and hold it."""


def key_up(key: str) -> None:
    """Release a key."""


def type_keys(text: str) -> None:
    """Type a text into what has the focus."""


def insert_text(text: str) -> None:
    """Put a text into what has the focus, without any key."""


INPUT_ACTIONS = ActionSet(
    [
        click_with,
        click_point,
        mouse_move,
        mouse_down,
        mouse_up,
        wheel,
        scroll_pages,
        focus,
        select_only,
        set_checked,
        key_down,
        key_up,
        type_keys,
        insert_text,
    ]
)
"""What this module carries out, beside the actions of `agentgym.environments.web.actions`."""


_FAR = 100_000.0


def _near(pixels: float) -> float:
    """Pixels that Chromium can count: it never answers to a mouse that is much farther away."""
    return min(max(pixels, -_FAR), _FAR)


class Inputs:
    """Mouse and keyboard of one page, and what is held down between calls.

    Args:
        page: the page; its coroutines run on the browser's loop.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.buttons: dict[str, None] = {}
        """Mouse buttons that are held, in the order of pressing."""
        self.modifiers = 0
        """Modifier keys that are held, as CDP's bits."""
        self._hands = Hands(page, PageView(()))
        self._drag: dict[str, Any] | None = None
        self._do: dict[str, Callable[..., Awaitable[str]]] = {
            "click_with": self._click_with,
            "click_point": self._click_point,
            "mouse_move": self._move,
            "mouse_down": self._down,
            "mouse_up": self._up,
            "wheel": self._wheel,
            "scroll_pages": self._scroll_pages,
            "focus": self._focus,
            "select_only": self._select_only,
            "set_checked": self._set_checked,
            "key_down": self._key_down,
            "key_up": self._key_up,
            "type_keys": self._type_keys,
            "insert_text": self._insert_text,
        }

    async def perform(self, call: ActionCall, view: PageView) -> str:
        """Carry out one of `INPUT_ACTIONS`.

        Args:
            call: the action.
            view: what the agent saw; errors tell which elements it could have named.

        Returns:
            What was wrong, said for the agent; empty if the action was carried out.
        """
        self._hands = Hands(self.page, view)
        return await self._do[call.name](**call.arguments)

    async def _mouse(
        self, kind: str, x: float, y: float, button: str = "none", clicks: int = 0
    ) -> None:
        held = sum(_BUTTON_BITS[name] for name in self.buttons)
        if button == "none" and self.buttons:
            button = next(iter(self.buttons))  # a drag is a move with its button
        x, y = _near(x), _near(y)
        event = {"type": kind, "x": x, "y": y, "button": button, "buttons": held}
        event |= {"clickCount": clicks, "modifiers": self.modifiers}
        await self.page.point(event)

    async def _clicks(self, x: float, y: float, button: str, clicks: int) -> None:
        await self._move(x, y)
        for count in range(1, clicks + 1):
            await self._mouse("mousePressed", x, y, button, count)
            await self._mouse("mouseReleased", x, y, button, count)

    async def _click_with(self, element: str, button: str, modifiers: str, clicks: int) -> str:
        keys, error = parse_keys(f"{modifiers}+a") if modifiers else ([], "")
        if error:
            return error
        x, y, error = await self._hands.reach(element)
        if error:
            return error
        held = self.modifiers
        self.modifiers |= sum(key.modifiers for key in keys)
        try:
            await self._clicks(x, y, button, clicks)
        finally:
            self.modifiers = held
        return ""

    async def _click_point(self, x: float, y: float, button: str, clicks: int) -> str:
        await self._clicks(x, y, button, clicks)
        return ""

    async def _move(self, x: float, y: float) -> str:
        await self._mouse("mouseMoved", x, y)
        if "left" in self.buttons:
            self._drag = await self.page.dragged() or self._drag
        return ""

    async def _down(self, x: float, y: float, button: str) -> str:
        await self._move(x, y)
        self.buttons[button] = None
        await self._mouse("mousePressed", x, y, button, 1)
        return ""

    async def _up(self, x: float, y: float, button: str) -> str:
        await self._move(x, y)
        drag, self._drag = self._drag, None
        for kind in ("dragEnter", "dragOver", "drop") if drag and button == "left" else ():
            event = {"type": kind, "x": x, "y": y, "data": drag}
            await self.page.session.send("Input.dispatchDragEvent", event)
        self.buttons.pop(button, None)
        await self._mouse("mouseReleased", x, y, button, 1)
        return ""

    async def _wheel(self, dx: float, dy: float) -> str:
        width, height = self.page.size
        x, y = self.page.mouse or (width / 2, height / 2)
        event = {"type": "mouseWheel", "x": x, "y": y, "deltaX": _near(dx), "deltaY": _near(dy)}
        event["modifiers"] = self.modifiers
        turned = self.page.session.post("Input.dispatchMouseEvent", event)
        while not turned.done():  # it is answered with a frame
            await self.page.frame()
        await turned
        await self.page.frame()  # scrolling is drawn with the next one
        return ""

    async def _scroll_pages(self, pages: float) -> str:
        await self.page.ask(f"{_SCROLL_PAGES}({json.dumps(pages)})")
        return ""

    async def _focus(self, element: str) -> str:
        return await self._on_element(_FOCUS, element)

    async def _select_only(self, element: str, options: list[str]) -> str:
        state = await self._on_element(_SELECT_ONLY, element, options)
        if state == "no option":
            return f"There is no such option: {', '.join(map(json.dumps, options))[:200]}."
        return state

    async def _set_checked(self, element: str, checked: bool) -> str:
        state = await self._ask(_CHECKED, element)
        if state not in ("true", "false"):
            return self._hands.problem(element, state)
        return (
            "" if checked == (state == "true") else await self._click_with(element, "left", "", 1)
        )

    async def _on_element(self, function: str, element: str, *arguments: Any) -> str:
        state = await self._ask(function, element, *arguments)
        return state if state in ("", "no option") else self._hands.problem(element, state)

    async def _ask(self, function: str, element: str, *arguments: Any) -> str:
        """What a function of the page says about an element."""
        given = ", ".join([f"agentgym.find({json.dumps(element)})", *map(json.dumps, arguments)])
        return str(await self.page.ask(f"{function}({given})"))

    async def _key_down(self, key: str) -> str:
        return await self._key(key, down=True)

    async def _key_up(self, key: str) -> str:
        return await self._key(key, down=False)

    async def _key(self, name: str, *, down: bool) -> str:
        keys, error = parse_keys(name)
        if error:
            return error
        bit = MODIFIERS.get(name.strip().lower(), 0)
        self.modifiers = self.modifiers | bit if down else self.modifiers & ~bit
        await self._send([self._held(key).down() if down else self._held(key).up() for key in keys])
        return ""

    def _held(self, key: Key) -> Key:
        return replace(key, modifiers=key.modifiers | self.modifiers)

    async def _type_keys(self, text: str) -> str:
        keys = [type_key(character) for character in text[:MAX_TYPED]]
        await self._send([event for key in keys for event in (key.down(), key.up())])
        return ""

    async def _insert_text(self, text: str) -> str:
        await self.page.session.send("Input.insertText", {"text": text[:MAX_TYPED]})
        return ""

    async def _send(self, events: list[dict[str, Any]]) -> None:
        """Key events, in order and as one burst."""
        send = self.page.session.send
        await asyncio.gather(*(send("Input.dispatchKeyEvent", event) for event in events))
