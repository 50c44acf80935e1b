from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agentgym.environments.web.actions import (
    ALL_ACTIONS,
    MAX_TYPED,
    action_set,
    perform,
    sample_call,
)
from agentgym.environments.web.page import Page
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import ConfigError, UnknownNameError

PageOf = Callable[[str], Page]
ACTIONS = action_set()
browser = pytest.mark.browser


def do(page: Page, name: str, *arguments: Any) -> str:
    """Perform a call on the page as it is now; returns the error."""
    view = page.run(page.look())
    return page.run(perform(page, ACTIONS.call(name, *arguments), view))


def value(page: Page, expression: str) -> Any:
    return page.run(page.evaluate(expression))


def test_actions_are_chosen_by_name() -> None:
    assert tuple(action_set(["select", "click"])) == ("select", "click")
    with pytest.raises(UnknownNameError, match="Did you mean 'select'"):
        action_set(["selct"])
    with pytest.raises(ConfigError, match="at least one action"):
        action_set([])


@browser
def test_a_click_is_trusted_and_in_the_middle(page_of: PageOf) -> None:
    page = page_of(
        "<button id=b style='position:absolute;left:20px;top:30px;width:40px'>b</button>"
    )
    value(page, "b.onclick = e => { window.seen = [e.isTrusted, e.clientX, e.detail] }, 1")
    assert do(page, "click", "1") == ""
    assert value(page, "seen") == [True, 40, 1]
    value(page, "b.ondblclick = e => { window.twice = true }, 1")
    assert do(page, "dblclick", "[1]") == ""
    assert value(page, "twice") is True


@browser
def test_what_is_out_of_view_is_scrolled_to(page_of: PageOf) -> None:
    page = page_of("""<div style='height:80px;overflow:auto'><p style='height:900px'>up</p>
        <button onclick='window.hit = true'>low</button></div>""")
    assert do(page, "click", "1") == ""
    assert value(page, "window.hit") is True


@browser
def test_elements_that_cannot_be_clicked_say_why(page_of: PageOf) -> None:
    page = page_of("""<button disabled>off</button><button>under</button>
        <button style='position:absolute;inset:0'>over</button>""")
    assert do(page, "click", "1") == 'Element "1" is disabled.'
    assert do(page, "click", "2") == 'Element "2" is covered by element "3".'
    assert do(page, "click", "17") == 'There is no element "17". Elements: 1-3.'
    assert do(page, "click", "3") == ""


@browser
def test_an_element_that_went_away_is_told(page_of: PageOf) -> None:
    page = page_of("<button>a</button><button id=b>b</button><button>c</button>")
    view = page.run(page.look())
    value(page, "b.remove(), 1")
    call = ACTIONS.call("click", "2")
    assert page.run(perform(page, call, view)).startswith('There is no element "2".')
    assert do(page, "click", "2") == 'There is no element "2". Elements: 1, 3.'
    value(page, "document.querySelector('button').style.display = 'none', 1")
    assert page.run(perform(page, ACTIONS.call("click", "1"), view)) == 'Element "1" is hidden.'


@browser
def test_typing_replaces_with_real_keys(page_of: PageOf) -> None:
    page = page_of("<input id=f value=old>")
    value(
        page,
        "window.log = [], ['keydown', 'input', 'keyup', 'change'].map(t =>"
        "f.addEventListener(t, e => log.push(t + (e.key || ''))))",
    )
    assert do(page, "type", "1", "aB é") == ""
    assert value(page, "f.value") == "aB é"
    assert value(page, "log.slice(0, 3)") == ["keydowna", "input", "keyupa"]
    assert do(page, "type", "1", "") == ""
    assert value(page, "f.value") == ""


FIELDS = """<form><input id=f></form><textarea id=a>old</textarea>
    <script>window.log = []; const note = e => log.push(e.type)</script>"""
EARS = {
    "listener": "document.addEventListener('keydown', note, true)",
    "property": "f.oninput = a.oninput = note",
    "window": "window.onkeyup = note",
    "gone": "f.addEventListener('keypress', note); f.removeEventListener('keypress', note)",
    "attribute": "for (const e of [f.parentNode, a]) e.setAttribute('onkeydown', 'note(event)')",
}


@browser
@pytest.mark.parametrize("ear", [*EARS, ""])
def test_keys_are_only_left_out_where_nobody_can_hear_them(
    page_of: PageOf, ear: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(FIELDS)
    value(page, f"{EARS.get(ear, '0')}, 0" if ear != "gone" else f"{{{EARS[ear]}}}")
    sent: list[str] = []
    post = page.session.post

    def noted(method: str, params: dict[str, Any] | None = None) -> Any:
        sent.append(method)
        return post(method, params)

    monkeypatch.setattr(page.session, "post", noted)
    monkeypatch.setattr(page.session, "send", noted)
    assert do(page, "type", "1", "Jo é 漢") == ""
    assert do(page, "type", "2", "new") == ""
    assert value(page, "[f.value, a.value, document.activeElement.id]") == ["Jo é 漢", "new", "a"]
    keys = sent.count("Input.dispatchKeyEvent")
    assert keys == (0 if ear == "" else 2 * 9)
    assert sent.count("Input.insertText") == (2 if ear == "" else 0)
    assert bool(value(page, "log.length")) == (ear not in ("", "gone"))


@browser
@pytest.mark.parametrize(
    ("field", "text", "after"),
    [
        ("<input maxlength=3>", "abcde", "abc"),
        ("<input type=email>", "a@b", "a@b"),
        ("<textarea></textarea>", "a\nb", "a\nb"),
        ("<input>", "x\n", "x"),
    ],
)
def test_keys_that_may_do_more_are_pressed(
    page_of: PageOf, field: str, text: str, after: str
) -> None:
    page = page_of(f"<form onsubmit='window.sent = 1; return false'>{field}</form>")
    assert do(page, "type", "1", text) == ""
    assert value(page, "document.querySelector('input, textarea').value") == after
    assert value(page, "window.sent || 0") == int(text == "x\n")


@browser
def test_a_text_goes_where_keys_would_go(page_of: PageOf) -> None:
    page = page_of("<input id=f onfocus='this.blur()'><input id=g onfocus='f.focus()'><input id=h>")
    for number in ("1", "2", "3"):
        assert do(page, "type", number, "x") == ""
    assert value(page, "[f.value, g.value, h.value]") == ["", "", "x"]


@browser
def test_a_text_at_once_is_the_users(page_of: PageOf) -> None:
    page = page_of("<input id=f value=old onchange='window.changed = f.value'><button>b</button>")
    assert do(page, "type", "1", "new") == ""
    assert value(page, "window.changed || 0") == 0
    assert do(page, "click", "2") == ""
    assert value(page, "window.changed") == "new"
    assert do(page, "type", "1", "again") == ""
    assert do(page, "press", "Control+z") == ""
    assert value(page, "f.value") == "new"


@browser
def test_typing_where_there_is_no_text_is_told(page_of: PageOf) -> None:
    page = page_of("<button>b</button><input readonly><input type=date><textarea></textarea>")
    assert do(page, "type", "1", "x") == 'Element "1" is not a text field.'
    assert do(page, "type", "2", "x") == 'Element "2" is readonly.'
    assert "2024-12-31" in do(page, "type", "3", "tomorrow")
    assert do(page, "type", "3", "2020-02-29") == ""
    assert do(page, "type", "4", "two\nlines") == ""
    assert value(page, "document.querySelector('textarea').value") == "two\nlines"
    assert value(page, "document.querySelector('[type=date]').value") == "2020-02-29"


@browser
def test_an_editor_is_a_field_too(page_of: PageOf) -> None:
    page = page_of("<div contenteditable>old</div>")
    assert do(page, "type", "1", "new") == ""
    assert page.run(page.look()).elements[0].value == "new"


@browser
def test_huge_text_is_cut(page_of: PageOf) -> None:
    page = page_of("<input>")
    assert do(page, "type", "1", "x" * (MAX_TYPED + 100)) == ""
    assert value(page, "document.querySelector('input').value.length") == MAX_TYPED


@browser
def test_options_are_chosen_by_label(page_of: PageOf) -> None:
    page = page_of("""<select id=s><option>Red</option><option value=g>Dark  green</option></select>
        <select id=m multiple><option>a</option><option>b</option></select><button>c</button>""")
    value(page, "window.changes = 0, s.onchange = () => changes++, 1")
    assert do(page, "select", "1", "dark green") == ""
    assert value(page, "[s.value, changes]") == ["g", 1]
    assert do(page, "select", "1", "blue") == (
        'There is no option "blue". Options: "Red", "Dark  green".'.replace("  ", " ")
    )
    for option in ("a", "b", "a"):
        assert do(page, "select", "2", option) == ""
    assert value(page, "[...m.selectedOptions].map(o => o.label)") == ["b"]
    assert do(page, "select", "3", "x").startswith('Element "3" is not a list')


@browser
def test_keys_reach_the_focused_element(page_of: PageOf) -> None:
    page = page_of("<input id=a value=abc><input id=b>")
    value(page, "a.focus()")
    assert do(page, "press", "Control+a") == ""
    assert do(page, "press", "Control+c") == ""
    assert do(page, "press", "Tab") == ""
    assert do(page, "press", "Control+v") == ""
    assert value(page, "b.value") == "abc"
    assert do(page, "press", "Backspace") == ""
    assert value(page, "b.value") == "ab"
    assert "Did you mean 'Enter'" in do(page, "press", "Entre")


@browser
def test_scrolling_ends_somewhere(page_of: PageOf) -> None:
    page = page_of(
        "<div id=d style='height:50px;overflow:auto'><p style='height:120px'>a</p></div>"
    )
    assert do(page, "scroll", "down") == ""
    assert value(page, "d.scrollTop") > 0
    while not (error := do(page, "scroll", "down")):
        pass
    assert error == "Nothing scrolls down any further."
    assert do(page, "scroll", "up") == ""


@browser
def test_dragging_moves_with_the_button_down(page_of: PageOf) -> None:
    page = page_of("""<button id=a style='position:absolute;left:0;top:0'>a</button>
        <button id=b style='position:absolute;left:100px;top:100px'>b</button>""")
    value(
        page,
        "window.log = [], ['mousedown', 'mousemove', 'mouseup'].map(t => document.addEventListener("
        "t, e => log.push([t, e.buttons, e.target.id])))",
    )
    assert do(page, "drag", "1", "2") == ""
    log = value(page, "log")
    assert ["mousedown", 1, "a"] in log
    assert log[-1] == ["mouseup", 0, "b"]
    assert any(kind == "mousemove" and buttons == 1 for kind, buttons, _ in log)


@browser
def test_native_drag_and_drop_arrives(page_of: PageOf) -> None:
    page = page_of("""<div id=a draggable=true tabindex=0 style='width:50px;height:20px'>a</div>
        <div id=b tabindex=0 style='width:50px;height:50px'>b</div>""")
    value(
        page,
        "a.ondragstart = e => e.dataTransfer.setData('text/plain', 'hello'),"
        "b.ondragover = e => e.preventDefault(),"
        "b.ondrop = e => { window.got = e.dataTransfer.getData('text/plain') }, 1",
    )
    assert do(page, "drag", "1", "2") == ""
    assert value(page, "window.got") == "hello"


@browser
def test_points_outside_the_page_are_told(page_of: PageOf) -> None:
    page = page_of("<div onclick='window.hit = 1' style='height:200px'></div>")
    assert do(page, "click_at", 5, 5) == ""
    assert value(page, "window.hit") == 1
    assert do(page, "click_at", 5, 1e9).endswith("is outside the page, which is 332 x 214 pixels.")
    assert "outside" in do(page, "drag_at", 1, 1, -1, 1)
    assert "between 0 and 10" in do(page, "wait", 1e12)


def test_samples_name_what_is_there() -> None:
    view = PageView(
        (
            Element("1", "button", "a"),
            Element("2", "textbox", ""),
            Element("3", "combobox", "", options=("x", "y")),
            Element("", "text", "note"),
        )
    )
    rng = np.random.default_rng(0)
    calls = [sample_call(ACTIONS, view, rng, words=["w"]) for _ in range(300)]
    assert {c.name for c in calls} == set(ALL_ACTIONS)
    assert {c.arguments["element"] for c in calls if c.name == "click"} == {"1", "2", "3"}
    assert {c.arguments["option"] for c in calls if c.name == "select"} == {"x", "y"}
    assert {c.arguments["text"] for c in calls if c.name == "type"} == {"w"}
    empty = {sample_call(ACTIONS, PageView(()), rng).name for _ in range(100)}
    assert empty == {"press", "scroll", "click_at", "drag_at", "wait"} - {"scroll"}
    assert sample_call(action_set(["type"]), PageView(()), rng).name == "type"
