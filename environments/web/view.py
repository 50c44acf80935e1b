"""What one look at a page yields: plain records, no browser in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agentgym.types import ImageArray


class Element(NamedTuple):
    """One thing on the page: something to act on, or a piece of text."""

    id: str
    """What actions name it by, such as "12"; empty for plain text."""
    role: str
    """ARIA-like role: button, link, textbox, checkbox, radio, combobox, option, tab, text, ..."""
    name: str
    """Accessible name, or the text itself."""
    value: str = ""
    tag: str = ""
    """HTML tag in lower case; "#text" for plain text."""
    depth: int = 0
    states: tuple[str, ...] = ()
    """Such as checked, focused, disabled, selected, expanded."""
    options: tuple[str, ...] = ()
    """Labels of a <select>'s options."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """x, y, width, height in CSS pixels, relative to the viewport."""
    attributes: tuple[tuple[str, str], ...] = ()
    """A few raw attributes that oracles and other dialects need (class, type, placeholder, ...)."""


@dataclass(frozen=True, slots=True)
class PageView:
    """The state of a page at one moment."""

    elements: tuple[Element, ...]
    """In document order."""
    url: str = ""
    title: str = ""
    focused: str = ""
    """Id of the focused element; empty if none."""
    image: ImageArray | None = None

    def __iter__(self) -> Iterator[Element]:
        return iter(self.elements)

    def get(self, id: str) -> Element | None:
        """The element of that id, if it is there."""
        return next((e for e in self.elements if e.id == id), None)

    def find(self, role: str | None = None, name: str | None = None) -> list[Element]:
        """Elements that can be acted on, by role and exact name (blanks at the ends ignored)."""
        return [
            e
            for e in self.elements
            if e.id
            and (role is None or e.role == role)
            and (name is None or e.name.strip() == name.strip())
        ]
