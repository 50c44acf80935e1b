"""Oracles of tasks that fill in fields, tick boxes and submit."""

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
)
from agentgym.environments.web.view import Element


@oracle("enter-text", "enter-text-dynamic")
def enter_text(ctx: OracleContext) -> Step:
    """Type the quoted text."""
    (text,) = ctx.ask(r'Enter "(.+?)"')
    return fill_form([("Text", ctx.fields()[0], text)], ctx.submit())


@oracle("enter-text-2")
def enter_text_in_case(ctx: OracleContext) -> Step:
    """Type the quoted text in upper or lower case."""
    text, case = ctx.ask(r'Type "(.+?)" in all (upper|lower)')
    text = text.upper() if case == "upper" else text.lower()
    label = "In upper case the text" if case == "upper" else "In lower case the text"
    return fill_form([(label, ctx.fields()[0], text)], ctx.submit())


@oracle("enter-password")
def password_twice(ctx: OracleContext) -> Step:
    """Type the password into both fields."""
    (text,) = ctx.ask(r'password "(.+?)"')
    first, second = ctx.fields()
    wanted = [("Password", first, text), ("Password again", second, text)]
    return fill_form(wanted, ctx.submit())


@oracle("enter-date")
def enter_date(ctx: OracleContext) -> Step:
    """A date field takes and shows YYYY-MM-DD."""
    month, day, year = ctx.ask(r"(\d\d)/(\d\d)/(\d{4})")
    return fill_form([("Date", ctx.fields()[0], f"{year}-{month}-{day}")], ctx.submit())


@oracle("enter-time")
def enter_time(ctx: OracleContext) -> Step:
    """A time field takes and shows HH:MM of 24 hours; the goal has AM or PM."""
    hour, minute, half = ctx.ask(r"(\d+):(\d\d)\s*([AP]M)")
    hours = int(hour) % 12 + (12 if half == "PM" else 0)
    return fill_form([("Time", ctx.fields()[0], f"{hours:02}:{minute}")], ctx.submit())


@oracle("login-user")
def login(ctx: OracleContext) -> Step:
    """User name and password, then Login."""
    return _login(ctx, "Login")


@oracle("login-user-popup")
def login_with_popup(ctx: OracleContext) -> Step:
    """As `login`, but a popup may come up and clear nothing: cancel it and go on."""
    cancel = ctx.elements("button", "Cancel")
    if cancel:
        return 'A popup. Click "Cancel".', click(cancel[0])
    return _login(ctx, "OK")


def _login(ctx: OracleContext, button: str) -> Step:
    user, password = ctx.ask(r'username "(.+?)" and the password "(.+?)"')
    name, secret = ctx.fields()
    wanted = [("Username", name, user), ("Password", secret, password)]
    return fill_form(wanted, ctx.submit(button, "Both are filled."))


def _tick(ctx: OracleContext, boxes: list[Element]) -> Step:
    for box in boxes:
        if "checked" not in box.states:
            return f'Tick "{box.name}".', click(box)
    return ctx.submit(reason="All are ticked.")


@oracle("click-checkboxes", "click-checkboxes-large", "click-checkboxes-transfer")
def checkboxes(ctx: OracleContext) -> Step:
    """Tick the named boxes, in the goal's order; "nothing" means none."""
    (text,) = ctx.ask(r"Select (.+) and click Submit")
    names = [] if text == "nothing" else text.split(", ")
    boxes: list[Element] = []
    for name in names:
        # Two boxes may have the same name: the goal then says it twice.
        same = [b for b in ctx.elements("checkbox", name) if b not in boxes]
        boxes.append(same[0] if same else ctx.element("checkbox", name))
    return _tick(ctx, boxes)


SYNONYMS = """
big large huge enormous gigantic|small tiny little mini petite|red scarlet crimson vermillion
happy cheerful joyful gleeful delighted|sad unhappy sorrowful miserable tragic
angry mad furious irritated|evil wicked immoral sinful corrupt depraved
wrong incorrect mistaken erroneous|real genuine actual|strange odd peculiar unusual weird
stop cease halt end finish|scared terrified panicked fearful frightened afraid
quiet calm peaceful serene mild|old aged archaic|love like adore favor|kill murder assassinate
keep retain preserve sustain maintain|hide conceal camouflage
hate despise loathe detest dislike|funny humorous amusing comical laughable
fat fleshy plump chubby|stupid dumb dull unwise|delicious savory delectable appetizing
cut slice carve chop|brave courageous fearless|begin start initiate launch
answer reply response|television televisions TV TVs|house home houses homes
fire flame fires flames|pig pork swine|rabbit rabbits bunny bunnies
car cars automobile automobiles vehicle vehicles|water
"""
"""Words of like meaning that click-checkboxes-soft draws from."""

MEANING = {
    word: index
    for index, group in enumerate(re.split(r"[|\n]", SYNONYMS))
    for word in group.split()
}


@oracle("click-checkboxes-soft")
def similar_checkboxes(ctx: OracleContext) -> Step:
    """Tick the boxes whose words mean the same as the goal's."""
    (text,) = ctx.ask(r"similar to (.+) and click Submit")
    for word in text.split(", "):
        boxes = ctx.elements("checkbox")
        box = first((b for b in boxes if MEANING[b.name] == MEANING[word]), f"word like {word}")
        if "checked" not in box.states:
            return f'"{word}" is like "{box.name}". Tick "{box.name}".', click(box)
    return _tick(ctx, [])


@oracle("copy-paste")
def copy_text(ctx: OracleContext) -> Step:
    """Type what the text area holds into the textbox."""
    source = first((e for e in ctx.elements() if e.tag == "textarea"), "text area")
    target = first((e for e in ctx.elements() if e.tag == "input"), "textbox")
    return fill_form([("The text", target, source.value)], ctx.submit())


@oracle("copy-paste-2")
def copy_nth_text(ctx: OracleContext) -> Step:
    """Type what the text area of that position holds into the textbox."""
    (position,) = ctx.ask(r"the (\w+) text area")
    areas = [e for e in ctx.fields() if e.tag == "textarea"]
    target = first((e for e in ctx.elements() if e.tag == "input"), "textbox")
    text = areas[nth(position)].value
    return fill_form([(f"The {position} text", target, text)], ctx.submit())


@oracle("use-autocomplete", "use-autocomplete-nodelay")
def autocomplete(ctx: OracleContext) -> Step:
    """Type the start, then pick an item that the list offers."""
    (start,) = ctx.ask(r'starts with "(.+?)"')
    end = ctx.ask(r'ends with "(.+?)"')[0] if "ends with" in ctx.goal else ""
    field = ctx.fields()[0]
    if field.value.startswith(start) and field.value.endswith(end) and len(ctx.history) > 1:
        return ctx.submit(reason=f'"{field.value}" fits.')
    for item in ctx.elements():
        if item.id != field.id and item.name.startswith(start) and item.name.endswith(end):
            return f'"{item.name}" fits. Click it.', click(item)
    if not ctx.history:
        return f'Type "{start}".', fill(field, start)
    return "The list is empty. Press ArrowDown.", press("ArrowDown")


@oracle("form-sequence-2")
def radio_and_number(ctx: OracleContext) -> Step:
    """Check a radio button and fill a textbox, both by position."""
    radio, number, box = ctx.ask(r'the (\w+) radio button .* number "(-?\d+)" into the (\w+)')
    button = ctx.elements("radio")[nth(radio)]
    if "checked" not in button.states:
        return f"Check the {radio} radio button.", click(button)
    wanted = [(f"The {box} textbox", ctx.fields()[nth(box)], number)]
    return fill_form(wanted, ctx.submit())


@oracle("form-sequence-3")
def dropdown_and_button(ctx: OracleContext) -> Step:
    """Choose from a dropdown that a script draws in place of the <select>, then click."""
    option, button = ctx.ask(r'Choose (.+) from the dropdown.*labeled "(.+?)"')
    if not ctx.history:
        return "Open the dropdown.", click(ctx.element(name="selectric"))
    if len(ctx.history) == 1:
        return f'Choose "{option}".', click(ctx.element(name=option))
    return ctx.submit(button)


FINAL_WORDS = ("Submit", "Search", "Go!")
"""Names of the movie search's button."""
ROW_WORDS = {"genre": ("genre",), "director": ("director",), "year": ("year", "date")}
"""Words in the labels of the movie search's three fields."""


@oracle("multi-layouts", "multi-orderings")
def movie_search(ctx: OracleContext) -> Step:
    """Genre, director and year in any order and look."""
    genre, director, year = ctx.ask(r"for (.+) movies directed by (.+) from year (\d+)")
    texts = {"genre": genre, "director": director, "year": year}
    wanted = []
    for key, element in zip(_row_keys(ctx), ctx.fields(), strict=True):
        wanted.append((key.capitalize(), element, texts[key]))
    button = first((e for e in ctx.elements() if e.name in FINAL_WORDS), "button")
    return fill_form(wanted, (f'All are filled. Click "{button.name}".', click(button)))


def _row_keys(ctx: OracleContext) -> list[str]:
    """What the fields are for, in document order; each has one label before or after it."""
    keys = []
    for element in ctx.view:
        words = element.name.lower().split()
        for key, names in ROW_WORDS.items():
            if any(w.strip(":") in names for w in words) and key not in keys:
                keys.append(key)
    return keys
