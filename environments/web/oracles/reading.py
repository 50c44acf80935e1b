"""Oracles of tasks whose answer is read off the page, or worked out from it."""

import re

from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    click,
    fill,
    fill_form,
    first,
    nth,
    oracle,
    press,
    scroll,
)


def _answer(ctx: OracleContext, reason: str, text: str) -> Step:
    """Types the answer into the only field, then submits."""
    field = ctx.fields()[-1]
    if field.value != text:
        return reason, fill(field, text)
    return ctx.submit()


@oracle("simple-arithmetic")
def arithmetic(ctx: OracleContext) -> Step:
    """Add, subtract or multiply two digits."""
    problem = first((t for t in ctx.texts() if t.endswith("=")), "problem")
    a, sign, b, _ = problem.split()
    x, y = int(a), int(b)
    result = {"+": x + y, "-": x - y, "x": x * y}[sign]
    return _answer(ctx, f"{problem} {result}", str(result))


@oracle("simple-algebra")
def algebra(ctx: OracleContext) -> Step:
    """Solve for x, which is one of the two terms on the left."""
    problem = first((t for t in ctx.texts() if "=" in t and t != "x ="), "equation")
    left, sign, right, _, result = problem.split()
    total = int(result)
    if left == "x":
        term = int(right)
        working = f"{total} {'-' if sign == '+' else '+'} {term}"
        x = total - term if sign == "+" else total + term
    else:
        term = int(left)
        working = f"{total} - {term}" if sign == "+" else f"{term} - {total}"
        x = total - term if sign == "+" else term - total
    return _answer(ctx, f"{problem}, so x = {working} = {x}", str(x))


@oracle("read-table")
def table(ctx: OracleContext) -> Step:
    """The value stands after its key."""
    (key,) = ctx.ask(r"value of (.+) into")
    value = _table(ctx)[key]
    return _answer(ctx, f"{key} is {value}.", value)


@oracle("read-table-2")
def table_form(ctx: OracleContext) -> Step:
    """Each field's label is a key of the table."""
    values = _table(ctx)
    keys = [(field.name.rstrip(":"), field) for field in ctx.fields()]
    return fill_form([(key, field, values[key]) for key, field in keys], ctx.submit())


def _table(ctx: OracleContext) -> dict[str, str]:
    """Rows such as "Country | Peru"."""
    rows = (text.split(" | ") for text in ctx.texts())
    return {row[0]: row[1] for row in rows if len(row) == 2}


@oracle("find-word")
def word(ctx: OracleContext) -> Step:
    """Count words; punctuation does not count as part of them."""
    (position,) = ctx.ask(r"the (\w+) word")
    words = " ".join(ctx.texts()).split()
    answer = re.sub(r"[^A-Za-z]", "", words[nth(position)])
    return _answer(ctx, f'The {position} word is "{answer}".', answer)


@oracle("text-transform")
def captcha(ctx: OracleContext) -> Step:
    """Skewed letters are still letters."""
    text = "".join(ctx.texts()).replace(" ", "")
    return _answer(ctx, f'The text is "{text}".', text)


@oracle("scroll-text")
def last_word(ctx: OracleContext) -> Step:
    """The text area's last word."""
    area = first((e for e in ctx.fields() if e.tag == "textarea"), "text area")
    answer = re.sub(r"[^A-Za-z0-9]", "", area.value.split()[-1])
    return _answer(ctx, f'The last word is "{answer}".', answer)


@oracle("scroll-text-2")
def scroll_to_end(ctx: OracleContext) -> Step:
    """Keys take the caret, and the view with it, to either end."""
    (end,) = ctx.ask(r"to the (bottom|top)")
    area = first((e for e in ctx.fields() if e.tag == "textarea"), "text area")
    if not ctx.history:
        return "Click the text.", click(area)
    if len(ctx.history) == 1:
        return f"Go to the {end}.", press("Control+End" if end == "bottom" else "Control+Home")
    return ctx.submit()


@oracle("sign-agreement")
def agreement(ctx: OracleContext) -> Step:
    """Scroll down, which enables the form; sign; then agree or cancel."""
    if "cancel button" in ctx.goal:
        return ctx.submit("Cancel")
    name, button = ctx.ask(r'name "(.+?)" then press "(.+?)"')
    signature = first((e for e in ctx.fields() if e.tag == "input"), "textbox")
    if "disabled" in signature.states:
        area = first((e for e in ctx.fields() if e.tag == "textarea"), "text area")
        return "Scroll down.", scroll("down", area)
    return fill_form([("Name", signature, name)], ctx.submit(button))


@oracle("guess-number")
def guess(ctx: OracleContext) -> Step:
    """Halve the range; the page tells which half."""
    field = ctx.fields()[0]
    low, high = ctx.memory.get("range", (0, 9))
    for text in ctx.texts():
        hint = re.search(r"is (lower|higher) than (\d+)", text)
        if hint and hint[1] == "lower":
            high = min(high, int(hint[2]) - 1)
        elif hint:
            low = max(low, int(hint[2]) + 1)
    ctx.memory["range"] = (low, high)
    middle = str((low + high) // 2)
    if field.value != middle:
        return f"It is {low} to {high}. Try {middle}.", fill(field, middle)
    return ctx.submit()


@oracle("buy-ticket")
def ticket(ctx: OracleContext) -> Step:
    """The best of four tickets by cost or duration."""
    (wish,) = ctx.ask(r"the (cheapest|shortest|longest|most expensive)")
    buttons = ctx.elements("button")
    if wish in ("cheapest", "most expensive"):
        values = [int(b.name.split("$")[1]) for b in buttons]
        shown = [f"${v}" for v in values]
    else:
        shown = [t for t in ctx.texts() if re.fullmatch(r"\d+h \d+m", t)]
        values = [_minutes(t) for t in shown]
    best = (min if wish in ("cheapest", "shortest") else max)(values)
    index = values.index(best)
    return f"The {wish} is {shown[index]}.", click(buttons[index])


def _minutes(duration: str) -> int:
    hours, minutes = re.findall(r"\d+", duration)
    return 60 * int(hours) + int(minutes)


@oracle("find-greatest")
def greatest(ctx: OracleContext) -> Step:
    """Turn all cards, which hides the others again; then turn the greatest."""
    cards = [e for e in ctx.elements() if e.role != "button"]
    seen: dict[str, int] = ctx.memory.setdefault("seen", {})
    seen.update({e.id: int(e.name) for e in cards if e.name.isdigit()})
    for place, card in enumerate(cards, 1):
        if card.id not in seen:
            return f"Turn card {place}.", click(card)
    best = max(cards, key=lambda e: seen[e.id])
    if not best.name.isdigit():
        return f"The greatest is {seen[best.id]}. Turn it again.", click(best)
    return ctx.submit()


@oracle("visual-addition", privileged=True)
def blocks(ctx: OracleContext) -> Step:
    """Count the blocks, which are only drawn."""
    number = ctx.evaluate("document.querySelectorAll('.addition-block').length")
    return _answer(ctx, f"There are {number} blocks.", str(number))


DIGITS = (
    "0110 1001 1001 1001 1001 1001 0110",
    "0010 0110 0010 0010 0010 0010 0010",
    "0110 1001 1001 0010 0100 1000 1111",
    "0110 1001 0001 0110 0001 1001 0110",
    "1000 1010 1010 1111 0010 0010 0010",
    "1111 1000 1000 1110 0001 1001 0110",
    "0110 1001 1000 1110 1001 1001 0110",
    "1111 1001 0001 0010 0010 0100 0100",
    "0110 1001 1001 0110 1001 1001 0110",
    "0110 1001 1001 0111 0001 1001 0110",
)
"""How number-checkboxes draws each digit: seven rows of four boxes."""


@oracle("number-checkboxes")
def digit(ctx: OracleContext) -> Step:
    """Tick the boxes that draw the digit."""
    (number,) = ctx.ask(r'number "(\d)"')
    pattern = DIGITS[int(number)].replace(" ", "")
    for index, (box, wanted) in enumerate(zip(ctx.elements("checkbox"), pattern, strict=True)):
        if wanted == "1" and "checked" not in box.states:
            return f"Tick row {index // 4 + 1}, column {index % 4 + 1}.", click(box)
    return ctx.submit()
