import asyncio
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agentgym.actions import ActionCall
from agentgym.environments.web.actions import perform
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.page import Page, image_of, view_of
from agentgym.environments.web.text import line
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import BrowserError

pytestmark = pytest.mark.browser
PageOf = Callable[[str], Page]


def look(page: Page) -> PageView:
    return page.run(page.look())


def lines(page: Page) -> list[str]:
    return [line(element) for element in look(page)]


def test_names_come_from_labels_text_and_attributes(page_of: PageOf) -> None:
    page = page_of("""
        <p><label>User</label><input id=u></p>
        <label><input type=checkbox checked> I agree</label>
        <label for=z>Town</label><input id=z value=Rome>
        <input aria-label="Search" type=search> <input placeholder="Your age" type=number>
        <button>Ok <b>then</b></button> <a href="#">Home</a> <input type=submit value=Send>
        <button aria-label=Close>x</button> <button><img alt=Trash width=9 height=9></button>""")
    assert lines(page) == [
        '[1] textbox "User"',
        '[2] checkbox "I agree" checked',
        '[3] textbox "Town" value="Rome"',
        '[4] searchbox "Search"',
        '[5] spinbutton "Your age"',
        '[6] button "Ok then"',
        '[7] link "Home"',
        '[8] button "Send"',
        '[9] button "Close"',
        '[10] button "Trash"',
    ]


def test_only_what_can_be_seen_is_listed(page_of: PageOf) -> None:
    page = page_of("""
        <button style="display:none">a</button> <button style="visibility:hidden">b</button>
        <div style="opacity:0">c</div> <script>var d</script>
        <div style="height:0;overflow:hidden"><button>e</button></div>
        <div style="position:absolute;left:-9999px">f</div>
        <div style="height:30px;overflow:auto"><p>in</p><p style="margin-top:90px">below</p></div>
        <input type=hidden value=g>""")
    assert lines(page) == ['text "in"', 'text "below" offscreen']


def test_text_is_gathered_into_lines_and_rows(page_of: PageOf) -> None:
    page = page_of("""
        <p>One <b>bold</b> word<br>here</p><div>Two</div>
        <table><tr><td>Name</td><td>Ann</td></tr><tr><td>Age</td><td><input></td></tr></table>""")
    assert lines(page) == [
        'text "One bold word here"',
        'text "Two"',
        'text "Name | Ann"',
        'text "Age"',
        "[1] textbox",
    ]


def test_listeners_make_things_clickable(page_of: PageOf) -> None:
    page = page_of("""
        <div id=a>by listener</div> <div id=b>by property</div> <div onclick="1">by attribute</div>
        <div style="cursor:pointer">by cursor</div> <div id=c>no longer</div> <ul id=d><li>item
        </ul><script>
          const [a, b, c, d] = [..."abcd"].map((id) => document.getElementById(id)), f = () => 1;
          for (const e of [a, c, d]) e.addEventListener("click", f);
          b.onclick = f;
          c.removeEventListener("click", f);
        </script>""")
    assert lines(page) == [
        '[1] clickable "by listener"',
        '[2] clickable "by property"',
        '[3] clickable "by attribute"',
        '[4] clickable "by cursor"',
        'text "no longer"',
        '[5] clickable "item"',
    ]


def test_shapes_tell_kind_colour_and_size(page_of: PageOf) -> None:
    page = page_of("""<svg width=200 height=100>
        <circle cx=20 cy=20 r=10 fill=red /> <rect x=50 width=30 height=10 fill="#0000ff" />
        <polygon points="100,0 120,0 110,20" fill=aqua />
        <line x1=0 y1=50 x2=90 y2=50 stroke=green />
        <text x=5 y=90 font-size=20 fill=magenta>7</text> </svg>""")
    assert lines(page) == [
        '[1] circle "red 20px"',
        '[2] rectangle "blue 30x10px"',
        '[3] triangle "aqua 20px"',
        '[4] line "green 90x0px"',
        '[5] digit "7 magenta 20px"',
    ]


def test_a_password_is_not_shown(page_of: PageOf) -> None:
    page = page_of("<input type=password value=secret>")
    assert lines(page) == ['[1] textbox value="******"']


def test_lists_show_options_and_what_is_chosen(page_of: PageOf) -> None:
    page = page_of(
        "<select><option>a<option selected>b c</select><select multiple><option>d</select>"
    )
    assert lines(page) == [
        '[1] combobox value="b c" options: "a", "b c"',
        '[2] listbox options: "d"',
    ]


def test_ids_stay_with_their_element_and_restart_with_reset(page_of: PageOf) -> None:
    page = page_of("<button id=a>a</button><button id=b>b</button>")
    assert lines(page) == ['[1] button "a"', '[2] button "b"']
    page.run(page.evaluate("a.before(document.createElement('input')); a.remove()"))
    assert lines(page) == ["[3] textbox", '[2] button "b"']
    page.run(page.ask("agentgym.reset('')"))
    assert lines(page) == ["[1] textbox", '[2] button "b"']


def test_looking_changes_nothing(page_of: PageOf) -> None:
    page = page_of("<p>a</p><button>b</button><input value=c>")
    html = "document.documentElement.outerHTML"
    before = page.run(page.evaluate(html))
    page.run(
        page.evaluate(
            "window.seen = []; new MutationObserver(m => seen.push(...m))"
            ".observe(document, {subtree: true, childList: true, attributes: true})"
        )
    )
    look(page)
    look(page)
    assert page.run(page.evaluate("seen.length")) == 0
    assert page.run(page.evaluate(html)) == before


def test_the_view_tells_focus_boxes_and_attributes(page_of: PageOf) -> None:
    page = page_of(
        "<input id=me class='big red' style='position:absolute;left:7px;top:9px' autofocus>"
    )
    page.run(page.evaluate("me.focus()"))
    view = look(page)
    (field,) = view.elements
    assert view.focused == field.id == "1"
    assert "focused" in field.states
    assert field.box[:2] == (7, 9)
    assert ("class", "big red") in field.attributes
    assert view.title == "T"


def test_time_stands_still_until_it_is_advanced(page_of: PageOf) -> None:
    page = page_of("""<script>
        window.log = [];
        setTimeout(() => log.push(["timeout", Date.now() - start]), 250);
        setInterval(() => log.push(["interval", performance.now()]), 400);
        requestAnimationFrame(function f(t) { window.frames_ = (window.frames_ || 0) + 1;
                                              requestAnimationFrame(f); });
        const start = Date.now();
        </script>""")
    state = "JSON.stringify([new Date().toISOString(), log, window.frames_ || 0])"
    first = page.run(page.evaluate(state))
    time.sleep(0.3)
    assert page.run(page.evaluate(state)) == first
    assert first.endswith(",[],0]")
    page.run(page.evaluate('window[Symbol.for("agentgym")].advance(1000, 100, false)'))
    assert page.run(page.evaluate("log")) == [
        ["timeout", 250],
        ["interval", 400],
        ["interval", 800],
    ]
    assert page.run(page.evaluate("window.frames_")) == 1000 // 16


HOVERED = """<style>p { margin: 0 } p:hover { color: red }</style><p id=p>P</p>
    <script>p.addEventListener("mouseover", () => { window.over = true; })</script>"""


def test_a_page_draws_when_it_is_told_to(page_of: PageOf) -> None:
    page = page_of(HOVERED + "<div id=d style='width: 50px; height: 50px'></div>")
    assert page.browser.stepped
    page.run(page.point({"type": "mouseMoved", "x": 10, "y": 10, "button": "none"}))
    before = page.run(page.photograph())
    assert page.run(page.photograph()) == before
    page.run(page.evaluate("d.style.background = 'lime', 0"))
    after = page.run(page.photograph())
    assert after != before, "a picture shows what came before it"
    # What is under the resting mouse is found out with a frame, and not before.
    state = "[window.over || false, document.querySelector('p:hover') !== null]"
    page.run(
        page.evaluate(
            "p.style.cssText = 'position: absolute; left: 5px; top: 60px', over = false, 0"
        )
    )
    page.run(page.frame())
    assert page.run(page.evaluate(state)) == [False, False]
    page.run(page.evaluate("p.style.top = '0px', 0"))
    time.sleep(0.1)
    assert page.run(page.evaluate(state)) == [False, False]
    page.run(page.frame())
    assert page.run(page.evaluate(state)) == [True, True]


def test_frames_of_many_pages_at_once_do_not_disturb_each_other() -> None:
    browser = Browser.shared(stepped=True)
    pages = [browser.page(size=(60, 40), offline=True) for _ in range(5)]
    hues = ["red", "lime", "blue", "black", "white"]

    async def shot(page: Page, hue: str) -> bytes:
        await page.evaluate(f"document.body.style.background = '{hue}', 0")
        return await page.photograph()

    async def at_once() -> list[bytes]:
        return await asyncio.gather(*map(shot, pages, hues))

    for _ in range(3):
        pictures = browser.run(at_once(), 30)
        middles = [tuple(image_of(png, (60, 40))[20, 30]) for png in pictures]
        assert middles == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)]
    for page in pages:
        page.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_view_leaves_the_collector_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    line = ["1", "button", "Ok", "", "button", 0, ["focused"], [], [0, 1.5, 2, 3], [["id", "b"]]]
    text = json.dumps({"elements": [line], "url": "u", "title": "t", "focused": "1"})
    try:
        gc.enable() if enabled else gc.disable()
        view = view_of(text)
        with pytest.raises(ValueError, match="Expecting"):
            view_of("{")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()
    attributes = (("id", "b"),)
    states, box = ("focused",), (0, 1.5, 2, 3)
    assert view.elements == (
        Element("1", "button", "Ok", "", "button", 0, states, (), box, attributes),
    )
    assert (view.url, view.title, view.focused) == ("u", "t", "1")


def test_dates_still_behave_like_dates(page_of: PageOf) -> None:
    page = page_of("")
    checks = (
        "new Date(2016, 0, 5).getDate() === 5, new Date() instanceof Date,"
        "typeof Date() === 'string', Date.UTC(2000, 0) === 946684800000,"
        "new Date(0).constructor === Date, Date.parse('1970-01-01') === 0"
    )
    assert page.run(page.evaluate(f"[{checks}]")) == [True] * 6


def test_pictures_that_a_style_asks_for_late_are_waited_for(
    page_of: PageOf, tmp_path: Path
) -> None:
    (tmp_path / "late.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='40'/>")
    page = page_of("<style>.on { content: url(late.svg) }</style><span id=s tabindex=0></span>")
    page.run(page.evaluate("s.className = 'on'"))
    (element,) = look(page).elements
    assert element.box[2] == 40


def test_a_script_error_is_told(page_of: PageOf) -> None:
    page = page_of("")
    with pytest.raises(BrowserError, match="ReferenceError: nothing_like_this"):
        page.run(page.evaluate("nothing_like_this"))
    assert page.run(page.evaluate("1 + 1")) == 2


def test_dialogs_popups_and_frames_do_not_stop_a_page(page_of: PageOf) -> None:
    page = page_of("<iframe srcdoc='<p>inside</p>'></iframe>")
    assert page.run(page.evaluate("alert('a'), confirm('b')"), 10) is False
    page.run(page.evaluate("void window.open('about:blank')"), 10)
    assert page.run(page.evaluate("1"), 10) == 1
    assert page.left_for == ""


def test_leaving_is_noticed_and_forgiven_by_navigating(page_of: PageOf) -> None:
    page = page_of("<a href='#here' id=a>a</a>")
    page.run(page.evaluate("a.click()"))
    assert page.left_for == ""
    page.run(page.evaluate("void (location.href = 'about:blank')"))
    deadline = time.monotonic() + 10
    while not page.left_for and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.left_for == "about:blank"
    assert page_of("").left_for == ""


def test_there_is_no_network(page_of: PageOf) -> None:
    page = page_of("")
    with pytest.raises(BrowserError, match="ERR_INTERNET_DISCONNECTED"):
        page.run(page.navigate("http://localhost:1/"))
    assert look(page_of("back")).elements


def test_a_picture_has_the_size_asked_for(page_of: PageOf) -> None:
    page = page_of("<div style='height: 200px; background: rgb(10, 20, 30)'></div>")
    png = page.run(page.photograph())
    image = image_of(png, (332, 214))
    assert image.shape == (214, 332, 3)
    assert image.dtype == np.uint8
    assert image[100, 100].tolist() == [10, 20, 30]
    assert image_of(png, (400, 10)).shape == (10, 400, 3)


def act(page: Page, view: PageView, name: str, **arguments: str) -> str:
    return page.run(perform(page, ActionCall(name, arguments), view))


SHADOW = """<div id=host><b slot=name>Kettle</b></div><script>
    const root = host.attachShadow({ mode: "open" });
    root.innerHTML = "<slot name=name></slot> costs <button>Buy</button>"
        + "<label>Note <input></label>";
    root.querySelector("button").addEventListener("click", () => (document.title = "bought"));
</script>"""


def test_shadow_trees_are_seen_as_they_are_drawn(page_of: PageOf) -> None:
    page = page_of(SHADOW)
    view = look(page)
    assert [line(element) for element in view] == [
        'text "Kettle costs"',
        '[1] button "Buy"',
        '[2] textbox "Note"',
    ]
    assert act(page, view, "click", element="1") == ""
    assert page.run(page.evaluate("document.title")) == "bought"
    assert act(page, view, "type", element="2", text="red") == ""
    assert lines(page)[-1] == '[2] textbox "Note" value="red" focused'


FRAMES = """<p>Above</p><iframe style="margin: 20px; border: 3px solid; padding: 4px; width: 200px;
    height: 60px" srcdoc="<body style='margin:0'>
    <button onclick='parent.document.title = 1'>In</button>
    <div style='height: 300px'></div><input placeholder=Deep>
    <iframe srcdoc='<body style=margin:0><span id=s>Deepest</span>
    <script>s.addEventListener(`click`, () => top.document.title = 2)</script>'></iframe>">
    </iframe><iframe src="data:text/html,x" title="Elsewhere"></iframe>"""


def test_frames_are_seen_and_reached(page_of: PageOf) -> None:
    page = page_of(FRAMES)
    page.run(page.settle())
    view = look(page)
    assert [(e.id, e.role, e.name) for e in view] == [
        ("", "text", "Above"),
        ("1", "button", "In"),
        ("2", "textbox", "Deep"),
        ("3", "clickable", "Deepest"),
        ("", "frame", "Elsewhere"),
    ]
    button, deep = view.find(name="In")[0], view.find(name="Deep")[0]
    assert "offscreen" in deep.states
    assert "offscreen" not in button.states
    corner = "(r => [r.x + 7, r.y + 7])(document.querySelector('iframe').getBoundingClientRect())"
    assert list(button.box[:2]) == page.run(page.evaluate(corner))
    for element, title in ((button, "1"), (view.find(name="Deepest")[0], "2")):
        assert act(page, view, "click", element=element.id) == ""
        assert page.run(page.evaluate("document.title")) == title
    assert act(page, view, "type", element=deep.id, text="blue") == ""
    after = look(page)
    assert after.focused == deep.id
    assert after.find(name="Deep")[0].value == "blue"
    page.run(page.evaluate("document.querySelector('iframe').srcdoc = 'gone'"))
    assert "There is no element" in act(page, view, "click", element=button.id)
