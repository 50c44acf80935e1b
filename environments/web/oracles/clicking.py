"""Oracles of tasks that are solved by clicks on what the goal names."""

import itertools

from agentgym.environments.web.oracles.base import (
    OracleContext,
    Step,
    choose,
    click,
    first,
    hover,
    nth,
    oracle,
    wait,
)


@oracle("click-test", "click-dialog")
def only_button(ctx: OracleContext) -> Step:
    """The page has one button."""
    button = ctx.element("button")
    return f'Click "{button.name}".', click(button)


@oracle("click-test-2", "click-test-transfer")
def button_after_the_word(ctx: OracleContext) -> Step:
    """The goal ends with the button's name, in capitals."""
    (name,) = ctx.ask(r"button (\w+)\.")
    return f'Click "{name}".', click(ctx.element("button", name))


@oracle("click-button", "unicode-test")
def quoted_button(ctx: OracleContext) -> Step:
    """The goal quotes the button's name."""
    (name,) = ctx.ask(r'"(.+?)"')
    return f'Click "{name}".', click(ctx.element("button", name))


@oracle("click-link")
def quoted_link(ctx: OracleContext) -> Step:
    """The goal quotes the link's text; links are styled spans, so the role is left open."""
    (name,) = ctx.ask(r'link "(.+?)"')
    return f'Click "{name}".', click(ctx.element(name=name))


@oracle("click-dialog-2")
def dialog_button(ctx: OracleContext) -> Step:
    """The "x" of the dialog's title bar is a button named "Close"."""
    (name,) = ctx.ask(r'labeled "(.+?)"')
    button = ctx.element("button", "Close" if name == "x" else name)
    return f'Click "{button.name}".', click(button)


@oracle("click-button-sequence")
def one_then_two(ctx: OracleContext) -> Step:
    """Click ONE, then TWO."""
    name = "TWO" if ctx.history else "ONE"
    return f'Click "{name}".', click(ctx.element("button", name))


@oracle("click-tab")
def tab(ctx: OracleContext) -> Step:
    """The goal ends with the tab's name."""
    (name,) = ctx.ask(r"(Tab #\d)")
    return f'Click "{name}".', click(ctx.element(name=name))


@oracle("click-tab-2", "click-tab-2-easy", "click-tab-2-medium", "click-tab-2-hard")
def link_in_tabs(ctx: OracleContext) -> Step:
    """Look at one tab after the other until the link shows."""
    (name,) = ctx.ask(r'link "(.+?)"')
    tabs = ctx.elements("tab")
    found = [e for e in ctx.elements(name=name) if e not in tabs]
    if found:
        return f'"{name}" is here. Click it.', click(found[0])
    opened = ctx.memory.setdefault("opened", [t.name for t in tabs if "selected" in t.states])
    following = first((t for t in tabs if t.name not in opened), f"link {name!r} in any tab")
    opened.append(following.name)
    return f'"{name}" is not here. Open "{following.name}".', click(following)


@oracle("click-collapsible", "click-collapsible-nodelay")
def expand_and_submit(ctx: OracleContext) -> Step:
    """Expand the section, then submit."""
    if ctx.history:
        return ctx.submit()
    section = ctx.element("tab")
    return f'Expand "{section.name}".', click(section)


@oracle("click-collapsible-2", "click-collapsible-2-nodelay")
def link_in_sections(ctx: OracleContext) -> Step:
    """Expand one section after the other until the link shows."""
    (name,) = ctx.ask(r'link "(.+?)"')
    found = ctx.elements(name=name)
    if found:
        return f'"{name}" is here. Click it.', click(found[0])
    opened = ctx.memory.setdefault("opened", [])
    sections = ctx.elements("tab")
    following = first((s for s in sections if s.name not in opened), f"link {name!r} anywhere")
    opened.append(following.name)
    return f'"{name}" is not here. Expand "{following.name}".', click(following)


@oracle("click-option")
def option(ctx: OracleContext) -> Step:
    """Check the named radio button, then submit."""
    (name,) = ctx.ask(r"Select (.+) and click Submit")
    radio = ctx.element("radio", name)
    if "checked" in radio.states:
        return ctx.submit(reason=f'"{name}" is selected.')
    return f'Select "{name}".', click(radio)


@oracle("choose-list")
def list_option(ctx: OracleContext) -> Step:
    """Choose the named option, then submit."""
    (name,) = ctx.ask(r"Select (.+) from the list and click Submit")
    listbox = ctx.element("combobox")
    if listbox.value == name:
        return ctx.submit(reason=f'"{name}" is selected.')
    return f'Select "{name}".', choose(listbox, name)


@oracle("click-scroll-list")
def scroll_list(ctx: OracleContext) -> Step:
    """Choose all named options of a multiple <select>, then submit."""
    (names,) = ctx.ask(r"Select (.+) from the scroll list and click Submit")
    listbox = ctx.element("listbox")
    for name in names.split(", "):
        if name not in listbox.value.split(", "):
            return f'Select "{name}".', choose(listbox, name)
    return ctx.submit(reason="All are selected.")


@oracle("click-widget")
def widget(ctx: OracleContext) -> Step:
    """Click any widget of the named kind."""
    (kind,) = ctx.ask(r'a "(.+?)" widget')
    if kind in ("text", "textarea"):
        multiline = kind == "textarea"
        boxes = ctx.elements("textbox")
        found = first((e for e in boxes if ("multiline" in e.states) == multiline), kind)
    else:
        found = ctx.element(kind)
    return f"Click a {kind}.", click(found)


@oracle("focus-text")
def textbox(ctx: OracleContext) -> Step:
    """The only textbox."""
    return "Click the textbox.", click(ctx.element("textbox"))


@oracle("focus-text-2")
def nth_textbox(ctx: OracleContext) -> Step:
    """The textbox of that position."""
    (position,) = ctx.ask(r"the (\w+) input")
    return f"Click the {position} textbox.", click(ctx.elements("textbox")[nth(position)])


@oracle("navigate-tree")
def tree(ctx: OracleContext) -> Step:
    """Open folders, which have a hit area before their name, until the name shows."""
    (name,) = ctx.ask(r'named "(.+?)"')
    found = ctx.elements(name=name)
    if found:
        return f'"{name}" is here. Click it.', click(found[0])
    opened = ctx.memory.setdefault("opened", [])
    for toggle, folder in itertools.pairwise(ctx.elements()):
        if toggle.name == "hitarea" and toggle.id not in opened:
            opened.append(toggle.id)
            return f'"{name}" is not here. Open "{folder.name}".', click(toggle)
    raise LookupError(f"no folder holds {name!r}")


@oracle("click-menu")
def menu(ctx: OracleContext) -> Step:
    """Walk down the path that the goal gives; a click on an inner item would select it."""
    (path,) = ctx.ask(r"Select (.+)")
    items = path.split(">")
    depth = len(ctx.history)
    item = ctx.element("menuitem", items[depth])
    if depth < len(items) - 1:
        return f'Open "{item.name}".', hover(item)
    return f'Click "{item.name}".', click(item)


ICONS = {
    "disk": "Save",
    "seek-start": "Prev",
    "stop": "Stop",
    "play": "Play",
    "seek-end": "Next",
    "zoomin": "Zoom In",
    "zoomout": "Zoom Out",
}
"""What click-menu-2 calls the items with these icons."""


@oracle("click-menu-2", privileged=True)
def menu_with_icons(ctx: OracleContext) -> Step:
    """Open the menu, and the submenu if the item is in it; some goals show only an icon."""
    if "labeled" in ctx.goal:
        (name,) = ctx.ask(r'labeled "(.+?)"')
    else:
        icon = ctx.evaluate("document.querySelector('#query .ui-icon').className")
        name = ICONS[icon.split("ui-icon-")[1]]
    if not ctx.elements("menuitem"):
        return 'Click "Menu".', click(ctx.element("button", "Menu"))
    if not ctx.elements("menuitem", name):
        return 'Open "Playback".', hover(ctx.element("menuitem", "Playback"))
    return f'Click "{name}".', click(ctx.element("menuitem", name))


@oracle("click-pie")
def pie(ctx: OracleContext) -> Step:
    """Expand the menu, then click the slice with the letter or digit."""
    (label,) = ctx.ask(r'labeled "(.)"')
    for e in ctx.elements():
        if e.role in ("letter", "digit") and e.name.split()[0] == label and ctx.history:
            return f'Click "{label}".', click(e)
    plus = first((e for e in ctx.elements() if e.name.startswith("+")), "plus sign")
    return "Expand the menu.", click(plus)


@oracle("button-delay")
def delayed_button(ctx: OracleContext) -> Step:
    """Every action takes a second, the click on ONE too, so the wait is one second shorter."""
    (seconds,) = ctx.ask(r"wait (\d) seconds")
    if not ctx.history:
        return 'Click "ONE".', click(ctx.element("button", "ONE"))
    left = int(seconds) - len(ctx.history)
    if left and len(ctx.history) == 1:
        return f"One second is over. Wait {left} more.", wait(float(left))
    return 'Click "TWO".', click(ctx.element("button", "TWO"))


@oracle("click-color")
def color(ctx: OracleContext) -> Step:
    """The box of that colour."""
    (name,) = ctx.ask(r"on the (\w+) colored box")
    return f"Click the {name} box.", click(ctx.element(name=name))


@oracle("click-shades", privileged=True)
def shades(ctx: OracleContext) -> Step:
    """All boxes of a hue, however pale, which only the page itself tells for sure."""
    (name,) = ctx.ask(r"shades of (\w+) and")
    for box in ctx.elements():
        if dict(box.attributes).get("data-color") == name and click(box) not in ctx.history:
            return f"Click a {name} box.", click(box)
    return ctx.submit()


@oracle("generate-number")
def number(ctx: OracleContext) -> Step:
    """Generate until the number fits, then submit."""
    shown = [e.name for e in ctx.view if e.name.strip().lstrip("-").isdigit()]
    fits = False
    if shown:
        value = int(shown[0])
        if "less" in ctx.goal or "greater" in ctx.goal:
            kind, bound = ctx.ask(r"(less|greater) than (\d+)")
            fits = value < int(bound) if kind == "less" else value > int(bound)
        else:
            fits = (value % 2 == 1) == ("odd" in ctx.goal)
    if fits:
        return ctx.submit(reason=f"{shown[0]} fits.")
    return ctx.submit("Generate")


@oracle("odd-or-even")
def odd_or_even(ctx: OracleContext) -> Step:
    """Mark each number; the buttons of a row stand beside it."""
    odd, even = ctx.elements("button", "Odd"), ctx.elements("button", "Even")
    for text, if_odd, if_even in zip(ctx.texts(), odd, even, strict=True):
        call = click(if_odd if int(text) % 2 else if_even)
        if call not in ctx.history:
            return f"{text} is {'odd' if int(text) % 2 else 'even'}.", call
    return ctx.submit(reason="All are marked.")
