"""What an agent can do on a page, and how it is done: trusted input through CDP."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import numpy as np

from agentgym.actions import ActionCall, ActionSet, ActionSpec
from agentgym.environments.web.keys import Key, parse_keys, type_key
from agentgym.environments.web.page import Page
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import ConfigError, UnknownNameError

MAX_TYPED = 1000
"""Characters of one `type` action that are typed; the rest is cut."""
MAX_WAIT_S = 10.0
_DRAG_MOVES = 5
Direction = Literal["up", "down", "left", "right"]


# ---- what the agent reads: names, parameters and one line each ------------------------------


def click(element: str) -> None:
    """Click an element."""


def type(element: str, text: str) -> None:
    """Replace the text of a field."""


def select(element: str, option: str) -> None:
    """Choose an option of a list."""


def press(key: str) -> None:
    """Press a key, such as Enter, Tab, ArrowDown or Control+a."""


def scroll(direction: Direction, element: str = "") -> None:
    """Scroll the page or an element."""


def hover(element: str) -> None:
    """Move the mouse onto an element."""


def dblclick(element: str) -> None:
    """Double-click an element."""


def drag(element: str, to: str) -> None:
    """Drag an element onto another one."""


def click_at(x: float, y: float) -> None:
    """Click a point, in pixels from the top left."""


def drag_at(x1: float, y1: float, x2: float, y2: float) -> None:
    """Press the mouse at one point and release it at another."""


def wait(seconds: float = 1.0) -> None:
    """Do nothing for a while."""


_FUNCTIONS: tuple[Callable[..., None], ...] = (
    click,
    type,
    select,
    press,
    scroll,
    hover,
    dblclick,
    drag,
    click_at,
    drag_at,
    wait,
)
_SPECS = {f.__name__: ActionSpec.from_function(f) for f in _FUNCTIONS}
ALL_ACTIONS: tuple[str, ...] = tuple(_SPECS)


def action_set(names: Sequence[str] = ALL_ACTIONS) -> ActionSet:
    """The named actions of a page.

    Raises:
        UnknownNameError: there is no action of such a name.
        ConfigError: there is no name.
    """
    for name in names:
        if name not in _SPECS:
            raise UnknownNameError("action", name, _SPECS)
    if not names:
        raise ConfigError(f"an environment needs at least one action of {ALL_ACTIONS}")
    return ActionSet([_SPECS[name] for name in names])


# ---- how it is done -------------------------------------------------------------------------


async def perform(page: Page, call: ActionCall, view: PageView) -> str:
    """Carry out a call on a page.

    Args:
        page: the page.
        call: of one of `ALL_ACTIONS`.
        view: what the agent saw; errors tell which elements it could have named.

    Returns:
        What was wrong, said for the agent; empty if the action was carried out.
    """
    arguments = dict(call.arguments)
    for name in ("element", "to"):
        if name in arguments:
            arguments[name] = arguments[name].strip(" []#\"'")
    return await _DO[call.name](Hands(page, view), **arguments)


async def rest_mouse(page: Page, x: float, y: float) -> None:
    """Put the mouse where it touches nothing, if it is elsewhere."""
    if page.mouse != (x, y):
        await Hands(page, PageView(())).mouse(("mouseMoved", x, y, 0))


class Hands:
    """Mouse and keyboard on one page."""

    def __init__(self, page: Page, view: PageView) -> None:
        self.page = page
        self.view = view
        self.pressed = False

    async def mouse(self, *events: tuple[str, float, float, int]) -> None:
        """Mouse events (type, x, y, click count), in order and as one burst."""
        burst = []
        for kind, x, y, clicks in events:
            self.pressed = kind == "mousePressed" or (self.pressed and kind == "mouseMoved")
            event: dict[str, Any] = {"type": kind, "x": x, "y": y, "clickCount": clicks}
            event["button"] = "left" if self.pressed or kind == "mouseReleased" else "none"
            event["buttons"] = int(self.pressed)
            burst.append(event)
        await self.page.point(*burst)

    async def reach(self, element: str) -> tuple[float, float, str]:
        """Like `point`, once the mouse is there and the element shows it."""
        x, y, error = await self.point(element)
        if error or not self.page.hover_styles:
            return x, y, error
        await self.mouse(("mouseMoved", x, y, 0))
        spot = await self.ask("reach", element, (x, y))
        if spot["stale"] or self.page.loading:
            await self.page.settle()
            return await self.point(element)
        return self._place(element, spot)

    async def click(self, x: float, y: float, clicks: int = 1) -> None:
        """Press and release the left button so many times."""
        events = [("mouseMoved", x, y, 0)]
        for n in range(1, clicks + 1):
            events += [("mousePressed", x, y, n), ("mouseReleased", x, y, n)]
        await self.mouse(*events)

    async def drag(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Press the left button at one point and release it at another."""
        await self.ask("holdScroll")
        await self.mouse(("mouseMoved", x1, y1, 0), ("mousePressed", x1, y1, 1))
        for i in range(1, _DRAG_MOVES + 1):  # one by one, or Chromium would join some of them
            part = i / _DRAG_MOVES
            await self.mouse(("mouseMoved", x1 + (x2 - x1) * part, y1 + (y2 - y1) * part, 0))
        data = await self.page.dragged()
        for kind in ("dragEnter", "dragOver", "drop") if data else ():
            event = {"type": kind, "x": x2, "y": y2, "data": data}
            await self.page.session.send("Input.dispatchDragEvent", event)
        await self.mouse(("mouseReleased", x2, y2, 1))
        await self.ask("restoreScroll")

    async def keys(self, keys: Sequence[Key]) -> None:
        """Press and release keys, in order and as one burst."""
        events = [event for key in keys for event in (key.down(), key.up())]
        await asyncio.gather(
            *(self.page.session.send("Input.dispatchKeyEvent", event) for event in events)
        )

    async def ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of `observe.js`."""
        given = ", ".join(map(json.dumps, arguments))
        return await self.page.ask(f"agentgym.{function}({given})")

    async def point(self, element: str) -> tuple[float, float, str]:
        """A point on an element where the mouse reaches it, or what is wrong."""
        return self._place(element, await self.ask("locate", element))

    def _place(self, element: str, spot: dict[str, Any]) -> tuple[float, float, str]:
        if spot["problem"]:
            return 0.0, 0.0, self.problem(element, spot["problem"], spot.get("by", ""))
        return spot["x"], spot["y"], ""

    def problem(self, element: str, problem: str, by: str = "") -> str:
        """What is wrong with an element, said for the agent."""
        name = _quoted(element)
        match problem:
            case "gone":
                return f"There is no element {name}. Elements: {_ranges(self.view)}."
            case "covered" if by:
                return f"Element {name} is covered by element {_quoted(by)}."
            case "no field":
                return f"Element {name} is not a text field."
            case "no list":
                return f"Element {name} is not a list of options. Click it instead."
            case "invalid":
                wanted = self.view.get(element)
                form = _FORMATS.get(wanted.role if wanted else "", "another format")
                return f"Element {name} does not take this text. It wants {form}."
        return f"Element {name} is {problem}."


_FORMATS = {
    "date": "a date as 2024-12-31",
    "time": "a time as 23:59",
    "month": "a month as 2024-12",
    "week": "a week as 2024-W52",
    "datetime": "a date and time as 2024-12-31T23:59",
    "color": "a colour as #ff0000",
    "slider": "a number in its range",
}


async def _click(hands: Hands, element: str, clicks: int = 1) -> str:
    x, y, error = await hands.reach(element)
    if not error:
        await hands.click(x, y, clicks)
    return error


async def _dblclick(hands: Hands, element: str) -> str:
    return await _click(hands, element, 2)


async def _hover(hands: Hands, element: str) -> str:
    x, y, error = await hands.reach(element)
    if not error:
        await hands.mouse(("mouseMoved", x, y, 0))
    return error


async def _type(hands: Hands, element: str, text: str) -> str:
    text = text[:MAX_TYPED]
    state = await hands.ask("startTyping", element, text, hands.page.timeless)
    if state == "done":
        return ""
    if state == "text":
        await hands.page.session.send("Input.insertText", {"text": text})
        return ""
    if state:
        return hands.problem(element, state)
    await hands.keys([type_key(c) for c in text] or parse_keys("Delete")[0])
    return ""


async def _select(hands: Hands, element: str, option: str) -> str:
    state = await hands.ask("choose", element, option[:MAX_TYPED])
    if state == "no option":
        shown = hands.view.get(element)
        known = ", ".join(map(_quoted, shown.options[:20])) if shown else "none"
        return f"There is no option {_quoted(option)}. Options: {known}."
    return hands.problem(element, state) if state else ""


async def _press(hands: Hands, key: str) -> str:
    keys, error = parse_keys(key)
    if error:
        return error
    page = hands.page
    match key.lower().replace("ctrl", "control"):
        case "control+c" | "control+x":
            page.clipboard = await page.ask("agentgym.selection()") or page.clipboard
        case "control+v":
            await page.session.send("Input.insertText", {"text": page.clipboard})
            return ""
    await hands.keys(keys)
    return ""


async def _scroll(hands: Hands, direction: str, element: str) -> str:
    dx, dy = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[direction]
    state = await hands.ask("scroll", element, dx, dy)
    if state == "end":
        return f"Nothing scrolls {direction} any further."
    return hands.problem(element, state) if state else ""


async def _drag(hands: Hands, element: str, to: str) -> str:
    await hands.point(to)  # into view, before the other one
    x1, y1, error = await hands.point(element)
    if error:
        return error
    x2, y2, error = await hands.point(to)
    if error:
        return error
    if (x1, y1, "") != await hands.point(element):
        return f"Elements {_quoted(element)} and {_quoted(to)} are not in view together."
    await hands.drag(x1, y1, x2, y2)
    return ""


async def _click_at(hands: Hands, x: float, y: float) -> str:
    error = _outside(hands.page, (x, y))
    if not error:
        await hands.click(x, y)
    return error


async def _drag_at(hands: Hands, x1: float, y1: float, x2: float, y2: float) -> str:
    error = _outside(hands.page, (x1, y1), (x2, y2))
    if not error:
        await hands.drag(x1, y1, x2, y2)
    return error


async def _wait(hands: Hands, seconds: float) -> str:
    """The environment lets the time pass."""
    if not 0 <= seconds <= MAX_WAIT_S:
        return f"seconds must be between 0 and {MAX_WAIT_S:g}, got {seconds:g}."
    return ""


_DO: dict[str, Callable[..., Awaitable[str]]] = {
    "click": _click,
    "type": _type,
    "select": _select,
    "press": _press,
    "scroll": _scroll,
    "hover": _hover,
    "dblclick": _dblclick,
    "drag": _drag,
    "click_at": _click_at,
    "drag_at": _drag_at,
    "wait": _wait,
}


def _outside(page: Page, *points: tuple[float, float]) -> str:
    width, height = page.size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            return f"({x:g}, {y:g}) is outside the page, which is {width} x {height} pixels."
    return ""


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else text[:37] + "...", ensure_ascii=False)


def _ranges(view: PageView) -> str:
    """The ids of a view, e.g. "1-4, 7"."""
    parts: list[list[int]] = []
    for n in sorted(int(e.id) for e in view if e.id.isdigit()):
        if parts and parts[-1][-1] == n - 1:
            parts[-1][1:] = [n]
        else:
            parts.append([n])
    return ", ".join("-".join(map(str, part)) for part in parts) or "none"


# ---- random calls ---------------------------------------------------------------------------


def sample_call(
    actions: ActionSet, view: PageView, rng: np.random.Generator, *, words: Sequence[str] = ()
) -> ActionCall:
    """A random call that makes sense on the page shown, as far as there is one.

    Args:
        actions: the actions to choose from.
        view: the page; elements and options are taken from it.
        rng: what is drawn from.
        words: texts to type.
    """
    elements = [e for e in view if e.id]
    fields = [e for e in elements if e.role in _FIELD_ROLES]
    lists = [e for e in elements if e.options]
    possible = [
        name
        for name in actions
        if (name != "type" or fields)
        and (name != "select" or lists)
        and (elements or "element" not in {p.name for p in actions[name].parameters})
    ]
    if not possible:
        return actions.sample(rng)
    name = _pick(rng, possible)
    element = _pick(rng, {"type": fields, "select": lists}.get(name, elements) or [None])
    arguments: dict[str, Any] = {}
    for parameter in actions[name].parameters:
        arguments[parameter.name] = _sample_argument(parameter.name, element, elements, words, rng)
    return actions.call(name, **arguments)


_FIELD_ROLES = frozenset({"textbox", "searchbox", "spinbutton", "date", "time", "combobox"})
_KEYS = ("Enter", "Tab", "Escape", "ArrowDown", "ArrowUp", "a", "Backspace")


def _sample_argument(
    name: str,
    element: Element | None,
    elements: Sequence[Element],
    words: Sequence[str],
    rng: np.random.Generator,
) -> Any:
    match name:
        case "element":
            return element.id if element else ""
        case "to":
            return _pick(rng, elements).id
        case "text":
            return _pick(rng, words or ["text"])
        case "option":
            return _pick(rng, element.options) if element else ""
        case "key":
            return _pick(rng, _KEYS)
        case "direction":
            return _pick(rng, ("up", "down", "left", "right"))
        case "seconds":
            return 1.0
    return float(math.floor(rng.random() * 160))  # a coordinate


def _pick(rng: np.random.Generator, things: Sequence[Any]) -> Any:
    return things[int(rng.integers(len(things)))]
