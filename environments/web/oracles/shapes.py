"""Oracles of tasks about shapes and colours in a drawing."""

import math
from dataclasses import dataclass

from agentgym.environments.web.oracles.base import OracleContext, Step, click, first, oracle
from agentgym.environments.web.view import Element

ROLES = ("letter", "digit", "rectangle", "circle", "triangle")


@dataclass(frozen=True, slots=True)
class Shape:
    """A drawn shape as the goals describe it."""

    element: Element
    kind: str
    """letter, digit or shape."""
    text: str
    """The character, or rectangle, circle, triangle."""
    color: str
    size: str

    def matches(self, words: list[str]) -> bool:
        """True if every word of a description such as "large blue item" fits."""
        known = {self.kind, self.text, self.color, self.size, "item"}
        return all(word in known for word in words)


def shapes(ctx: OracleContext) -> list[Shape]:
    """All shapes of the drawing."""
    found = []
    for e in ctx.view:
        if e.role not in ROLES:
            continue
        *text, color, pixels = e.name.split()
        kind = e.role if text else "shape"
        size = "large" if pixels == "20px" else "small"
        found.append(Shape(e, kind, text[0] if text else e.role, color, size))
    return found


@oracle("click-shape")
def described_shape(ctx: OracleContext) -> Step:
    """Any shape that fits the description."""
    (description,) = ctx.ask(r"Click on an? (.+)")
    shape = first((s for s in shapes(ctx) if s.matches(description.split())), description)
    return f"Click the {shape.size} {shape.color} {shape.text}.", click(shape.element)


@oracle("count-shape")
def count(ctx: OracleContext) -> Step:
    """How many shapes fit the description."""
    (description,) = ctx.ask(r"How many (.+)s are there")
    number = str(sum(s.matches(description.split()) for s in shapes(ctx)))
    return f"There are {number}.", click(ctx.element("button", number))


@oracle("identify-shape")
def identify(ctx: OracleContext) -> Step:
    """The button that names the only shape's kind."""
    (shape,) = shapes(ctx)
    name = {"digit": "Number", "letter": "Letter"}.get(shape.kind, shape.text.capitalize())
    return f"It is a {name.lower()}.", click(ctx.element("button", name))


@oracle("grid-coordinate", privileged=True)
def grid(ctx: OracleContext) -> Step:
    """The point at the coordinate: five columns and rows, y upwards."""
    x, y = (int(v) for v in ctx.ask(r"\((-?\d),(-?\d)\)"))
    points = [e for e in ctx.view if e.role == "circle"]
    columns = sorted({e.box[0] for e in points})
    rows = sorted({e.box[1] for e in points}, reverse=True)
    left, top = columns[x + 2], rows[y + 2]
    point = first((e for e in points if e.box[:2] == (left, top)), "point")
    return f"Column {x}, row {y}.", click(point)


@oracle("ascending-numbers")
def ascending(ctx: OracleContext) -> Step:
    """The first click covers the other numbers by rectangles, which are listed in their order."""
    number = len(ctx.history) + 1
    if number == 1:
        return "Click 1.", click(first((s.element for s in shapes(ctx) if s.text == "1"), "1"))
    cover = ctx.element("rectangle")
    return f"{number} is the first rectangle.", click(cover)


AREA = """(() => {
  const drawing = document.querySelector("canvas#c").getContext("2d");
  let inside = 0;
  for (let x = 0; x < 150; x++)
    for (let y = 0; y < 100; y++) inside += drawing.isPointInPath(x, y);
  return inside;
})()"""
"""Area of what count-sides drew last, in square pixels."""
RADIUS = 35.0
"""Distance of its corners from its middle, in pixels."""


@oracle("count-sides", privileged=True)
def sides(ctx: OracleContext) -> Step:
    """Which regular polygon has the area of the drawn one."""
    area = ctx.evaluate(AREA)

    def miss(n: int) -> float:
        return math.fabs(n / 2 * math.sin(2 * math.pi / n) * RADIUS**2 - area)

    number = min(range(3, 8), key=miss)
    return f"It has {number} sides.", click(ctx.element("button", str(number)))
