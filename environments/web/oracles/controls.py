"""Oracles of tasks with sliders, spinners and things to drag."""

import json
import re

from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    click,
    drag_at,
    fill_form,
    nth,
    oracle,
    press,
)


@oracle("use-spinner")
def spinner(ctx: OracleContext) -> Step:
    """Focus the spinner, then press arrows until the number is right."""
    (goal,) = ctx.ask(r"Select (-?\d+) with")
    field = ctx.element("spinbutton")
    value, target = int(field.value), int(goal)
    if value == target:
        return ctx.submit()
    if "focused" not in field.states:
        return "Click the spinner.", click(field)
    key = "ArrowUp" if value < target else "ArrowDown"
    return f"{value} is not {target}. Press {key}.", press(key)


def _slide(ctx: OracleContext, index: int, target: int) -> Step | None:
    """One step towards the target with the slider of that index; None if it is there.

    A page key moves by a fifth of the range. The range is not shown, so the oracle learns how
    far that is from the first press.
    """
    handle = ctx.elements("slider")[index]
    value = int(ctx.texts()[index])
    before = ctx.memory.pop(("before", index), value)
    # A press near the end of the range may go less far than a page.
    page = ctx.memory["page"] = max(ctx.memory.get("page", 0), abs(value - before))
    difference = target - value
    if difference == 0:
        return None
    if "focused" not in handle.states:
        return f"Set slider {index + 1} to {target}.", click(handle)
    if abs(difference) > 2 and abs(difference) >= page:
        ctx.memory["before", index] = value
        key = "PageUp" if difference > 0 else "PageDown"
    else:
        key = "ArrowRight" if difference > 0 else "ArrowLeft"
    return f"{value} is not {target}. Press {key}.", press(key)


@oracle("use-slider")
def slider(ctx: OracleContext) -> Step:
    """One slider."""
    (goal,) = ctx.ask(r"Select (-?\d+) with")
    return _slide(ctx, 0, int(goal)) or ctx.submit()


@oracle("use-slider-2")
def sliders(ctx: OracleContext) -> Step:
    """Three sliders."""
    (goal,) = ctx.ask(r"combination (\[.+?\])")
    for index, target in enumerate(json.loads(goal)):
        step = _slide(ctx, index, target)
        if step:
            return step
    return ctx.submit()


@oracle("form-sequence")
def slider_and_checkbox(ctx: OracleContext) -> Step:
    """A slider, a checkbox by position, submit."""
    goal, position = ctx.ask(r"Select (-?\d+) with the slider, click the (\w+) checkbox")
    step = _slide(ctx, 0, int(goal))
    if step:
        return step
    box = ctx.elements("checkbox")[nth(position)]
    if "checked" not in box.states:
        return f"Tick the {position} checkbox.", click(box)
    return ctx.submit()


COLORS = {
    "black": "000000", "white": "FFFFFF", "aqua": "00FFFF", "blue": "0000FF", "gray": "808080",
    "green": "008000", "lime": "00FF00", "maroon": "800000", "navy": "000080", "olive": "808000",
    "purple": "800080", "red": "FF0000", "silver": "C0C0C0", "teal": "008080", "yellow": "FFFF00",
    "pink": "FFC0CB", "magenta": "FF00FF", "gold": "FFD700", "orange": "FFA500",
}  # fmt: skip
"""The colours of use-colorwheel, as CSS defines them."""


@oracle("use-colorwheel")
def named_color(ctx: OracleContext) -> Step:
    """The picker's field takes the colour's number."""
    (name,) = ctx.ask(r"Select (\w+) with")
    return fill_form([(name.capitalize(), ctx.fields()[0], COLORS[name])], ctx.submit())


@oracle("use-colorwheel-2", privileged=True)
def shown_color(ctx: OracleContext) -> Step:
    """The goal only shows the colour."""
    css = ctx.evaluate("getComputedStyle(document.querySelector('#query .cc')).backgroundColor")
    number = "".join(f"{int(v):02X}" for v in re.findall(r"\d+", css)[:3])
    return fill_form([("The color", ctx.fields()[0], number)], ctx.submit())


STYLES = {"bold": "ql bold", "italics": "ql italic", "underlined": "ql underline"}
"""text-editor's buttons."""
WORD = """(() => {
  const text = document.querySelector(".ql-editor p").firstChild;
  const range = document.createRange();
  const start = text.data.indexOf(%s);
  range.setStart(text, start);
  range.setEnd(text, start + %s.length);
  const box = range.getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})()"""
"""Where a word stands in text-editor's text."""


@oracle("text-editor", privileged=True)
def text_editor(ctx: OracleContext) -> Step:
    """Select all or one word, style it, submit."""
    word, kind, style = ctx.ask(r"(?:give|make) (?:the text )?(\S+) the (style|color) (\w+)")
    done = len(ctx.history)
    if done == 0 and word != "everything":
        left, top, right, bottom = ctx.evaluate(WORD % (json.dumps(word), json.dumps(word)))
        middle = (top + bottom) / 2
        return f'Drag over "{word}".', drag_at(left + 0.5, middle, right - 0.5, middle)
    if word == "everything" and done < 2:
        if done == 0:
            return "Click the text.", click(ctx.element("textbox"))
        return "Select all.", press("Control+a")
    steps = [STYLES[style]] if kind == "style" else ["ql picker label", style]
    place = done - (2 if word == "everything" else 1)
    if place < len(steps):
        return f'Click "{steps[place]}".', click(ctx.element(name=steps[place]))
    return ctx.submit()
