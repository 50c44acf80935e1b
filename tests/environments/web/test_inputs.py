from collections.abc import Callable
from typing import Any

import pytest

from agentgym.environments.web.inputs import INPUT_ACTIONS, Inputs
from agentgym.environments.web.page import Page

pytestmark = pytest.mark.browser
PageOf = Callable[[str], Page]
LOG = """<script>
  window.log = [];
  for (const type of ["mousedown", "mouseup", "click", "dblclick", "contextmenu", "keydown",
                      "keyup", "input", "change", "drop"]) {
    document.addEventListener(type, (e) => {
      log.push([type, e.target.id || "", e.button ?? e.key ?? "",
                (e.shiftKey ? "S" : "") + (e.ctrlKey ? "C" : "")].join(" ").trim());
    }, true);
  }
  const heard = (...types) => log.filter((line) => types.includes(line.split(" ")[0]));
</script>"""
BOX = "position:absolute;left:10px;width:40px;height:20px;background:red;top:"


def performed(page: Page, *calls: tuple[Any, ...], inputs: Inputs | None = None) -> list[str]:
    """What was wrong with each call."""
    used = inputs or Inputs(page)

    async def run() -> list[str]:
        view = await page.look()
        return [await used.perform(INPUT_ACTIONS.call(*call), view) for call in calls]

    return page.run(run())


def heard(page: Page, *types: str) -> Any:
    quoted = ", ".join(f"'{type}'" for type in types)
    return page.run(page.evaluate(f"heard({quoted})"))


def test_clicks_with_other_buttons_and_keys(page_of: PageOf) -> None:
    page = page_of(f"<button id=a style='{BOX}10px'>a</button>{LOG}")
    errors = performed(
        page,
        ("click_with", "1", "right"),
        ("click_with", "1", "left", "Control+Shift", 2),
        ("click_with", "9"),
        ("click_with", "1", "left", "Super"),
    )
    assert errors[:2] == ["", ""]
    assert "no element" in errors[2]
    assert "Unknown key" in errors[3]
    assert heard(page, "contextmenu", "click", "dblclick") == [
        "contextmenu a 2",
        "click a 0 SC",
        "click a 0 SC",
        "dblclick a 0 SC",
    ]


def test_points_and_what_is_held_between_calls(page_of: PageOf) -> None:
    page = page_of(
        f"<div id=a style='{BOX}10px'></div><div id=b style='{BOX}50px'></div><input id=i>{LOG}"
    )
    inputs = Inputs(page)
    assert performed(page, ("mouse_down", 20, 20), inputs=inputs) == [""]
    assert inputs.buttons == {"left": None}
    assert performed(page, ("mouse_move", 20, 60), ("mouse_up", 20, 60), inputs=inputs) == ["", ""]
    assert performed(page, ("click_point", 20, 60, "left", 2), inputs=inputs) == [""]
    assert heard(page, "mousedown", "mouseup", "dblclick") == [
        "mousedown a 0",
        "mouseup b 0",
        *["mousedown b 0", "mouseup b 0"] * 2,
        "dblclick b 0",
    ]


def test_a_drag_of_the_pages_own(page_of: PageOf) -> None:
    page = page_of(
        f"<div id=a draggable=true style='{BOX}10px'></div><div id=b style='{BOX}50px'></div>"
        f"{LOG}<script>b.ondragover = (e) => e.preventDefault();</script>"
    )
    moves = [("mouse_move", 20, y) for y in (24, 30, 45, 60)]
    performed(page, ("mouse_down", 20, 20), *moves, ("mouse_up", 20, 60))
    assert heard(page, "drop") == ["drop b 0"]


def test_keys(page_of: PageOf) -> None:
    page = page_of(f"<input id=i>{LOG}")
    errors = performed(
        page,
        ("focus", "1"),
        ("key_down", "Shift"),
        ("key_down", "ArrowLeft"),
        ("key_up", "ArrowLeft"),
        ("key_up", "Shift"),
        ("type_keys", "ab"),
        ("insert_text", "cd"),
        ("key_down", "Foo"),
        ("focus", "7"),
    )
    assert errors[:7] == [""] * 7
    assert "Unknown key" in errors[7]
    assert "no element" in errors[8]
    assert page.run(page.evaluate("i.value")) == "abcd"
    assert heard(page, "keydown", "keyup")[:4] == [
        "keydown i Shift S",
        "keydown i ArrowLeft S",
        "keyup i ArrowLeft S",
        "keyup i Shift",
    ]
    assert heard(page, "input") == ["input i"] * 3


def test_lists_and_boxes(page_of: PageOf) -> None:
    page = page_of(
        "<select id=s><option value=x>A<option>B</select><select id=m multiple><option selected>C"
        f"<option>D<option disabled>E</select><input type=checkbox id=c><p tabindex=0>p</p>{LOG}"
    )
    errors = performed(
        page,
        ("select_only", "1", ["x"]),
        ("select_only", "2", ["D"]),
        ("select_only", "1", ["Z"]),
        ("select_only", "2", ["E"]),
        ("select_only", "3", ["x"]),
        ("set_checked", "3", True),
        ("set_checked", "3", True),
        ("set_checked", "1", True),
    )
    assert errors == [
        "",
        "",
        'There is no such option: "Z".',
        'Element "2" is disabled.',
        'Element "3" is not a list of options. Click it instead.',
        "",
        "",
        'Element "1" is no box to check.',
    ]
    state = "[s.value, [...m.selectedOptions].map((o) => o.label), c.checked]"
    assert page.run(page.evaluate(state)) == ["x", ["D"], True]
    assert heard(page, "change") == ["change s", "change m", "change c"]


def test_scrolling(page_of: PageOf) -> None:
    page = page_of(f"<div style='height:2000px'></div>{LOG}")
    performed(page, ("mouse_move", 5, 5), ("wheel", 0, 120))
    assert page.run(page.evaluate("scrollY")) == 120
    performed(page, ("scroll_pages", 1.0))
    assert page.run(page.evaluate("scrollY")) == 120 + page.size[1]
    performed(page, ("scroll_pages", -1.0))
    assert page.run(page.evaluate("scrollY")) == 120


def test_a_mouse_far_away_does_not_stop_the_page(page_of: PageOf) -> None:
    page = page_of("<p>a</p>")
    far = ("mouse_move", 1e300, -1e300), ("wheel", 1e300, 0), ("click_point", -1e18, 0)
    assert performed(page, *far) == ["", "", ""]
    assert page.mouse == (-100_000, 0)
