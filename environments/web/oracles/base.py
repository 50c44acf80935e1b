"""What an oracle is: the context it sees, the table of oracles, and short ways to make calls."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from agentgym.actions import ActionCall
from agentgym.environments.web.view import Element, PageView

T = TypeVar("T")

Step: TypeAlias = tuple[str, ActionCall]
"""One line of thought, and the call that follows from it."""


@dataclass(slots=True)
class OracleContext:
    """What an oracle may look at when it chooses the next call."""

    goal: str
    view: PageView
    evaluate: Callable[[str], Any]
    """Privileged: the JSON value of a JavaScript expression in the page's main world."""
    history: list[ActionCall] = field(default_factory=list)
    """The calls carried out so far in this episode."""
    memory: dict[Any, Any] = field(default_factory=dict)
    """The oracle's own notes; fresh per episode."""

    def ask(self, pattern: str) -> tuple[str, ...]:
        """The groups of a pattern in the goal.

        Raises:
            LookupError: the goal does not match.
        """
        match = re.search(pattern, self.goal)
        if match is None:
            raise LookupError(f"the goal {self.goal!r} does not match {pattern!r}")
        return tuple(group or "" for group in match.groups())

    def elements(self, role: str = "", name: str | None = None) -> list[Element]:
        """Elements that can be acted on, in document order; blanks around names do not count."""
        return self.view.find(role or None, name)

    def element(self, role: str = "", name: str | None = None) -> Element:
        """The first of `elements`.

        Raises:
            LookupError: there is none.
        """
        found = self.elements(role, name)
        if not found:
            raise LookupError(f"the page shows no {role or 'element'} named {name!r}")
        return found[0]

    def texts(self) -> list[str]:
        """What the page says besides the names of things to act on."""
        return [e.name.strip() for e in self.view if e.tag == "#text"]

    def fields(self) -> list[Element]:
        """Elements that take text, in document order."""
        return [e for e in self.view if e.id and is_field(e)]

    def submit(self, name: str = "Submit", reason: str = "") -> Step:
        """The click that ends most tasks."""
        return f'{reason} Click "{name}".'.lstrip(), click(self.element("button", name))


Oracle: TypeAlias = Callable[[OracleContext], Step]

ORACLES: dict[str, Oracle] = {}
"""By task name, e.g. "click-button"."""


_privileged: set[str] = set()


def oracle(*tasks: str, privileged: bool = False) -> Callable[[Oracle], Oracle]:
    """Registers the decorated function as the oracle of the named tasks.

    Args:
        tasks: names such as "click-button".
        privileged: the oracle needs what the text observation does not show, such as where things
            are; a text model cannot learn from what it does.

    Raises:
        ValueError: a task has an oracle already.
    """

    def register(function: Oracle) -> Oracle:
        for task in tasks:
            if task in ORACLES:
                raise ValueError(f"{task!r} has an oracle already")
            ORACLES[task] = function
        if privileged:
            _privileged.update(tasks)
        return function

    return register


def privileged_tasks() -> frozenset[str]:
    """Tasks whose oracle was registered as privileged."""
    return frozenset(_privileged)


def click(element: Element) -> ActionCall:
    """Click an element."""
    return ActionCall("click", {"element": element.id})


def fill(element: Element, text: str) -> ActionCall:
    """Focus a field, clear it and type."""
    return ActionCall("type", {"element": element.id, "text": text})


def choose(element: Element, option: str) -> ActionCall:
    """Choose an option of a <select> by its label."""
    return ActionCall("select", {"element": element.id, "option": option})


def hover(element: Element) -> ActionCall:
    """Move the mouse onto an element."""
    return ActionCall("hover", {"element": element.id})


def press(key: str) -> ActionCall:
    """Press a key, such as "Enter" or "ArrowUp"."""
    return ActionCall("press", {"key": key})


def scroll(direction: str, element: Element) -> ActionCall:
    """Scroll an element."""
    return ActionCall("scroll", {"direction": direction, "element": element.id})


def wait(seconds: float = 1.0) -> ActionCall:
    """Let time pass."""
    return ActionCall("wait", {"seconds": seconds})


def drag_at(x1: float, y1: float, x2: float, y2: float) -> ActionCall:
    """Press the mouse at one point and release it at another."""
    return ActionCall("drag_at", {"x1": x1, "y1": y1, "x2": x2, "y2": y2})


def drag_by(element: Element, dx: float, dy: float) -> ActionCall:
    """Drag an element by its centre."""
    x, y = element.box[0] + element.box[2] / 2, element.box[1] + element.box[3] / 2
    return drag_at(x, y, x + dx, y + dy)


def drag_onto(element: Element, to: Element) -> ActionCall:
    """Drag an element onto another one, centre to centre."""
    return ActionCall("drag", {"element": element.id, "to": to.id})


def is_field(element: Element) -> bool:
    """True if the element takes text."""
    kind = dict(element.attributes).get("type", "text")
    return element.tag == "textarea" or (
        element.tag == "input" and kind not in ("checkbox", "radio", "button", "submit", "range")
    )


def fill_form(wanted: Iterable[tuple[str, Element, str]], submit: Step) -> Step:
    """Fills the first field that does not hold its text yet; submits once all do.

    Args:
        wanted: what the field is called in the thought, the field, and its text.
        submit: what to do when all fields are filled.
    """
    for label, element, text in wanted:
        masked = dict(element.attributes).get("type") == "password"
        if element.value != ("*" * len(text) if masked else text):
            return f"{label} is {text}.", fill(element, text)
    return submit


def first(found: Iterable[T], what: str) -> T:
    """The first of what was found.

    Raises:
        LookupError: nothing was found.
    """
    for each in found:
        return each
    raise LookupError(f"the page shows no {what}")


def nth(ordinal: str) -> int:
    """The index, from 0, that a word like "1st" or "12th" means."""
    return int(re.sub(r"\D", "", ordinal)) - 1
