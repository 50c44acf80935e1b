"""Oracles of tasks that press the mouse at one point and release it at another."""

import re

from agentgym.actions import ActionCall
from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    drag_at,
    drag_by,
    drag_onto,
    fill_form,
    first,
    hover,
    nth,
    oracle,
)
from agentgym.environments.web.view import Element

GRIP = 5.0
"""How far inside of a text area's corner its grip is, in CSS pixels."""
BEYOND = 3.0
"""CSS pixels past the centre of another item at which a sorted list takes the place."""
HALF = 6.0
"""CSS pixels from the middle of a cell that are surely in one half of it."""
LINE = 40.0
"""Length of a drawn line, in CSS pixels."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DRAWN = ("circle", "rectangle", "triangle")
"""Roles of shapes that can be dragged."""


def _centre(element: Element) -> tuple[float, float]:
    x, y, width, height = element.box
    return x + width / 2, y + height / 2


@oracle("drag-circle", "drag-single-shape", privileged=True)
def shape(ctx: OracleContext) -> Step:
    """Drag the only shape a little way."""
    (direction,) = ctx.ask(r"Drag the \w+ (\w+)")
    if ctx.history:
        return ctx.submit()
    x, y = DIRECTIONS[direction]
    only = first((e for e in ctx.view if e.role in DRAWN), "shape")
    return f"Drag it {direction}.", drag_by(only, 40 * x, 40 * y)


@oracle("drag-box")
def box_into_box(ctx: OracleContext) -> Step:
    """Drag the small box onto the middle of the large one."""
    if ctx.history:
        return ctx.submit()
    small = ctx.element(name="s")
    large = ctx.element(name="L")
    return "Drag s onto L.", drag_onto(small, large)


@oracle("drag-shapes", privileged=True)
def shapes_into_box(ctx: OracleContext) -> Step:
    """Drag all shapes of a kind into the box, which is the rectangle without colour."""
    (kind,) = ctx.ask(r"Drag all (\w+)s into")
    (box,) = _containers(ctx)
    for e in ctx.view:
        if e.role == kind and e != box and not _inside(e, box):
            return f"A {kind} is outside.", _into(e, box)
    return ctx.submit()


@oracle("drag-shapes-2", privileged=True)
def shapes_into_boxes(ctx: OracleContext) -> Step:
    """Drag shapes of a kind or colour into the left box, the others into the right one."""
    (wish,) = ctx.ask(r"Drag all (\w+?)s? (?:shapes )?into")
    left, right = _containers(ctx)
    for e in ctx.view:
        if e.role not in DRAWN or e in (left, right):
            continue
        fits = wish in (e.role, dict(e.attributes).get("fill"))
        box = left if fits else right
        if not _inside(e, box):
            return f"A {e.role} belongs {'left' if fits else 'right'}.", _into(e, box)
    return ctx.submit()


def _containers(ctx: OracleContext) -> list[Element]:
    return [e for e in ctx.view if dict(e.attributes).get("id") == "shape-container"]


def _inside(element: Element, box: Element) -> bool:
    x, y = _centre(element)
    return 0 < x - box.box[0] < box.box[2] and 0 < y - box.box[1] < box.box[3]


def _into(element: Element, box: Element) -> ActionCall:
    return drag_at(*_centre(element), *_centre(box))


PLACES = (
    "top left", "top center", "top right",
    "center left", "center", "center right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip


@oracle("drag-items", "drag-items-grid", privileged=True)
def item(ctx: OracleContext) -> Step:
    """Move one item of a list, or of a grid of three by three, to another place."""
    name, where = ctx.ask(r"Drag (\S+) (.+)\.")
    items = ctx.elements()
    old = items.index(ctx.element(name=name))
    grid = len(items) == 9
    new = _place(old, where, grid)
    move = _move_in_grid if grid else _move
    return f"Drag {name} {where}.", move(items, old, new)


def _place(old: int, where: str, grid: bool) -> int:
    rows = 3 if grid else 1
    for word, step in (("down", rows), ("up", -rows), ("right by", 1), ("left by", -1)):
        if where.startswith(word):
            return old + step
    where = where.removeprefix("to the ")
    if grid:
        return PLACES.index(where)
    position = re.match(r"(\d)\w\w position", where)
    return nth(position[1]) if position else 0 if where == "top" else 4


def _move(items: list[Element], old: int, new: int) -> ActionCall:
    """Drags a line of a list to a place, and a little past it in the direction of the move."""
    (x, y1), (_, y2) = _centre(items[old]), _centre(items[new])
    return drag_at(x, y1, x, y2 + (BEYOND if y2 > y1 else -BEYOND))


def _move_in_grid(items: list[Element], old: int, new: int) -> ActionCall:
    """Drags a cell of the grid to a place.

    jQuery UI puts a cell after the one under the mouse if the mouse last went right or down, else
    before it; and only once the mouse is in that half of it. Right and up at once therefore has
    to aim at the cell before the place.
    """
    right = new % 3 - old % 3
    down = new // 3 - old // 3
    aim = new - 1 if right > 0 and down < 0 else new
    (x1, y1), (x2, y2) = _centre(items[old]), _centre(items[aim])
    if right:
        x1, x2 = x1 - HALF * _sign(right), x2 + HALF * _sign(right)
    if down:
        y1, y2 = y1 - HALF * _sign(down), y2 + HALF * _sign(down)
    return drag_at(x1, y1, x2, y2)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


@oracle("drag-sort-numbers", privileged=True)
def sort_numbers(ctx: OracleContext) -> Step:
    """Bring the smallest number that is out of place to its place."""
    items = [e for e in ctx.elements() if e.role != "button"]
    numbers = [int(e.name) for e in items]
    for new, number in enumerate(sorted(numbers)):
        if numbers[new] != number:
            return f"{number} belongs to place {new + 1}.", _move(items, numbers.index(number), new)
    return ctx.submit()


@oracle("resize-textarea", privileged=True)
def resize(ctx: OracleContext) -> Step:
    """Drag the lower right corner of the text area."""
    _, direction = ctx.ask(r"the (width|height) is (larger|smaller)")
    if ctx.history:
        return ctx.submit()
    area = first((e for e in ctx.fields() if e.tag == "textarea"), "text area")
    x, y = area.box[0] + area.box[2] - GRIP, area.box[1] + area.box[3] - GRIP
    step = 15 if direction == "larger" else -15
    return f"Make it {direction}.", drag_at(x, y, x + step, y + step)


@oracle("highlight-text", "highlight-text-2", privileged=True)
def highlight(ctx: OracleContext) -> Step:
    """Drag over the paragraph from its first to its last letter."""
    if ctx.history:
        return ctx.submit()
    position = nth(ctx.ask(r"the (\w+) paragraph and")[0]) if "paragraph and" in ctx.goal else 0
    x, y, width, height = [e for e in ctx.view if e.tag == "#text"][position].box
    return "Drag over the text.", drag_at(x + 0.5, y + 3, x + width + 5, y + height - 3)


@oracle("draw-line", privileged=True)
def line(ctx: OracleContext) -> Step:
    """Draw from the dot to where there is room.

    The page takes the dot to be 4 pixels up and left of its middle.
    """
    (direction,) = ctx.ask(r"Draw a (horizontal|vertical) line")
    if ctx.history:
        return ctx.submit()
    x, y = (v - 4 for v in _centre(ctx.element("circle")))
    dx, dy = (LINE, 0) if direction == "horizontal" else (0, LINE)
    if x > 80:
        dx = -dx
    if y > 110:
        dy = -dy
    return f"Draw a {direction} line.", drag_at(x, y, x + dx, y + dy)


HALF_HOURS = {"30 mins": 1, "0.5 hours": 1, "60 mins": 2, "1 hour": 2, "90 mins": 3, "1.5 hours": 3}
"""How many half hours the durations of daily-calendar are."""
WINDOWS = {"8AM": 16, "12PM": 24, "4PM": 32}
"""The first half hour of each four-hour window, counted from midnight."""


@oracle("daily-calendar", privileged=True)
def calendar(ctx: OracleContext) -> Step:
    """Drag over free half hours of the window, name the event, create it."""
    duration, name, start = ctx.ask(r'Create a (.+) event named "(\w+)", between (\w+) and')
    fields = ctx.fields()
    if fields:
        return fill_form([("Name", fields[0], name)], ctx.submit("Create"))
    halves = [e for e in ctx.elements() if e.name == "half hour"]
    events = [e for e in ctx.view if e.name in EVENTS]
    length = HALF_HOURS[duration]
    for at in range(WINDOWS[start], WINDOWS[start] + 9 - length):
        chosen = halves[at : at + length]
        if not any(_overlap(half, event) for half in chosen for event in events):
            break
    else:
        raise LookupError("the window has no room")
    if not ctx.history:
        return f"Go to {start}.", hover(chosen[-1])
    return f"Drag over {length} half hours.", drag_onto(chosen[0], chosen[-1])


EVENTS = ("Phonecall", "Food", "Party", "Meeting", "Gym")
"""Names of the events that are there already."""
LONGEST = 3
"""Half hours of the longest of them."""


def _overlap(half: Element, event: Element) -> bool:
    """True if the event may cover the half hour: its name is at its top, its length is unknown."""
    begins = round((event.box[1] - half.box[1]) / half.box[3])
    return -LONGEST < begins <= 0
