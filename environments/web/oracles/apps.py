"""Oracles of tasks that look like small applications: search, phone book, calendar, terminal."""

import re

from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    click,
    fill,
    first,
    nth,
    oracle,
    press,
)
from agentgym.environments.web.view import Element


@oracle("search-engine")
def search(ctx: OracleContext) -> Step:
    """Search, turn to the result's page, click it; a page has three results."""
    text, position = ctx.ask(r'enter "(.+?)" and press "Search", .* the (\w+) search result')
    field = ctx.fields()[0]
    if field.value != text:
        return f'Search for "{text}".', fill(field, text)
    links = ctx.elements("link")
    if not links:
        return 'Click "Search".', click(ctx.element("button", "Search"))
    page, row = divmod(nth(position), 3)
    if page and len(ctx.history) < 3:
        return (
            f"The {position} result is on page {page + 1}.",
            click(ctx.element("link", str(page + 1))),
        )
    return f"The {position} result is number {row + 1} of this page.", click(links[row])


@oracle("phone-book")
def phone_book(ctx: OracleContext) -> Step:
    """Turn pages until the name shows, then click what the goal asks for."""
    name, wish = ctx.ask(r"Find (.+) in the contact book and click on their (\w+)")
    labels = [e for e in ctx.view if e.tag == "#text"]
    if labels[0].name.strip() != name:
        return f"This is not {name}.", click(ctx.element("link", ">"))
    elements = list(ctx.view)
    label = first((e for e in labels if e.name == f"{wish.capitalize()}:"), wish)
    return f"This is {name}. Click the {wish}.", click(elements[elements.index(label) + 1])


MONTHS = (
    "January February March April May June July August September October November December".split()
)


def _pick_date(ctx: OracleContext, month: str, day: str, year: str) -> Step:
    """One step in jQuery UI's calendar, which is open."""
    shown = " ".join(e.name for e in ctx.view)
    found = re.search(rf"({'|'.join(MONTHS)}) (\d{{4}})", shown)
    if found is None:
        raise LookupError("the page shows no calendar")
    now = (int(found[2]), MONTHS.index(found[1]))
    wanted = (int(year), int(month) - 1)
    if now != wanted:
        button = "Prev" if now > wanted else "Next"
        reason = f"{found[0]} is after" if now > wanted else f"{found[0]} is before"
        return (
            f"{reason} {MONTHS[wanted[1]]} {year}. Click {button}.",
            click(ctx.element(name=button)),
        )
    return f"Click day {int(day)}.", click(ctx.element("link", str(int(day))))


@oracle("choose-date", "choose-date-easy", "choose-date-medium", "choose-date-nodelay")
def choose_date(ctx: OracleContext) -> Step:
    """Open the calendar, turn to the month, click the day."""
    month, day, year = ctx.ask(r"(\d\d)/(\d\d)/(\d{4})")
    field = ctx.fields()[0]
    if field.value == f"{month}/{day}/{year}":
        return ctx.submit()
    if not ctx.history:
        return "Open the calendar.", click(field)
    return _pick_date(ctx, month, day, year)


@oracle("book-flight", "book-flight-nodelay")
def flight(ctx: OracleContext) -> Step:
    """Fill the search form, search, book the best of the offers."""
    wish, start, end, month, day, year = ctx.ask(
        r"the (\w+) one-way flight from: (.+) to: (.+) on (\d\d)/(\d\d)/(\d{4})"
    )
    offers = [e for e in ctx.elements("button") if e.name.startswith("Book flight for")]
    if offers:
        return _book(ctx, wish, offers)
    fields = ctx.fields()
    for label, field, text in (("From", fields[0], start), ("To", fields[1], end)):
        if text not in field.value:
            return f"{label} is {text}.", fill(field, text)
        if "(" not in field.value:
            offered = [e for e in ctx.elements() if e.tag in ("li", "div") and text in e.name]
            item = first((e for e in offered if "(" in e.name), text)
            return f'Pick "{item.name}".', click(item)
    if fields[2].value == f"{month}/{day}/{year}":
        return ctx.submit("Search")
    if click(fields[2]) not in ctx.history:
        return "Open the calendar.", click(fields[2])
    return _pick_date(ctx, month, day, year)


def _book(ctx: OracleContext, wish: str, offers: list[Element]) -> Step:
    if wish == "cheapest":
        best = min(offers, key=lambda e: int(e.name.split("$")[1]))
        return f"The cheapest is ${best.name.split('$')[1]}.", click(best)
    shown = [e.name for e in ctx.view if re.fullmatch(r"\d+h \d+m", e.name)]
    minutes = [60 * int(h) + int(m) for h, m in (re.findall(r"\d+", t) for t in shown)]
    index = minutes.index(min(minutes))
    return f"The shortest is {shown[index]}.", click(offers[index])


@oracle("terminal")
def terminal(ctx: OracleContext) -> Step:
    """List the files, then remove one with the right ending."""
    line = first(ctx.fields(), "line to type in")
    shown = " ".join(e.name for e in ctx.view)
    typed = shown.rpartition("user$")[2].strip(" █")
    answer = re.search(r"user\$ ls (.+?) user\$", shown)
    if answer is None:
        if typed == "ls":
            return "Press Enter.", press("Enter")
        return "List the files.", fill(line, "ls")
    ending = "" if "no file extension" in ctx.goal else ctx.ask(r"extension \.(\S+)")[0]
    command = "rm " + first((f for f in answer[1].split() if _has_ending(f, ending)), f".{ending}")
    if typed == command:
        return "Press Enter.", press("Enter")
    return f"Type {command}.", fill(line, command)


def _has_ending(file: str, ending: str) -> bool:
    # The page looks for the ending's first place in the name: "bash.sh" does not count for it.
    if ending:
        return file.endswith(f".{ending}") and file.index(ending) == len(file) - len(ending)
    return "." not in file
