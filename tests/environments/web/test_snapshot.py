from collections.abc import Callable
from typing import Any

import pytest

from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import Marked, mark

pytestmark = pytest.mark.browser
PageOf = Callable[[str], Page]


def marked(page: Page, **options: Any) -> Marked:
    return page.run(mark(page, **options))


def attributes(found: Marked, bid: str, document: int = 0) -> dict[str, str]:
    """The attributes of an element in the snapshot."""
    nodes, strings = found.dom["documents"][document]["nodes"], found.dom["strings"]
    backend = next(key for key, value in found.bids.items() if value == bid)
    pairs = nodes["attributes"][nodes["backendNodeId"].index(backend)]
    return {strings[n]: strings[v] for n, v in zip(pairs[::2], pairs[1::2], strict=True)}


def test_numbers_follow_the_document_and_stay(page_of: PageOf) -> None:
    page = page_of("<button id=a>a</button><my-tag id=m>m</my-tag><p id=p>p</p>")
    found = marked(page)
    # html 0, head 1, title 2, body 3
    assert [attributes(found, bid).get("id") for bid in ("4", "5")] == ["a", "p"]
    assert list(found.properties) == ["0", "1", "2", "3", "4", "5"]
    page.run(page.evaluate("const old = a; p.before(old.cloneNode(true)); old.remove()"))
    found = marked(page)
    assert list(found.properties) == ["0", "1", "2", "3", "6", "5"]
    assert attributes(marked(page, every_tag=True), "7")["id"] == "m"


def test_frames_are_lettered(page_of: PageOf) -> None:
    page = page_of("<iframe srcdoc='<p>in</p><iframe></iframe>'></iframe><iframe></iframe>")
    assert [b for b in marked(page).properties if not b.isdigit()] == [
        "a",
        "b",
        *["b0", "b1", "b2"],
        *["a0", "a1", "a2", "a3", "aa"],
        *["aa0", "aa1", "aa2"],
    ]


def test_many_frames(page_of: PageOf) -> None:
    page = page_of("<iframe></iframe>" * 28)
    letters = [bid for bid in marked(page).properties if bid.isalpha()]
    assert letters[:1] + letters[25:] == ["a", "z", "aA", "aB"]


def test_values_and_checks_are_in_the_snapshot_and_not_in_the_page(page_of: PageOf) -> None:
    page = page_of("<input id=i><input type=checkbox checked id=c><input type=checkbox id=d>")
    html = "document.documentElement.outerHTML"
    before = page.run(page.evaluate(html))
    page.run(page.evaluate("i.value = 'new'; c.checked = false; d.checked = true"))
    found = marked(page)
    assert attributes(found, "4") == {"id": "i", "value": "new", "bid": "4"}
    assert "checked" not in attributes(found, "5")
    assert attributes(found, "6")["checked"] == ""
    assert page.run(page.evaluate(html)) == before


def test_properties(page_of: PageOf) -> None:
    page = page_of("""<style>* { margin: 0; padding: 0; border: 0 }</style>
        <div style="position:absolute;left:10px;top:20px;width:30px;height:40px"></div>
        <div style="position:absolute;left:322px;top:0;width:40px;height:10px"></div>
        <div style="display:none"></div>
        <div style="height:20px;overflow:hidden"><p style="height:80px">p</p></div>""")
    told = list(marked(page, scale=2.0).properties.values())[-5:]
    assert told[0]["bbox"] == [20, 40, 60, 80]
    assert [p["visibility"] for p in told] == [1.0, 0.25, 0.0, 1.0, 0.25]
    assert told[2]["bbox"] is None


def test_the_set_of_marks(page_of: PageOf) -> None:
    page = page_of("""
        <button id=a>a <b id=in style="cursor:pointer">b</b></button>
        <a href="#" id=tiny style="display:inline-block;width:2px;height:2px"></a>
        <div id=h>handled</div> <div id=plain>plain</div> <p style="cursor:pointer" id=p>p</p>
        <ul><li id=li>text <input id=i></ul>
        <div style="position:relative"><button id=under>u</button>
          <div style="position:absolute;inset:0" id=over></div></div>
        <script>h.onclick = () => 1</script>""")
    found = marked(page)
    ids = {attributes(found, bid).get("id"): bid for bid in found.properties}
    chosen = {id for id, bid in ids.items() if id and found.properties[bid]["set_of_marks"]}
    assert chosen == {"a", "h", "p", "i"}  # the list item lost its mark to the field in it
    assert found.properties[ids["h"]]["clickable"] is True


def test_shadow_trees(page_of: PageOf) -> None:
    page = page_of("""<div id=open></div><div id=closed></div><p>after</p><script>
        open_ = document.getElementById("open").attachShadow({mode: "open"});
        open_.innerHTML = "<button>s</button>";
        document.getElementById("closed").attachShadow({mode: "closed"}).innerHTML = "<i>c</i>";
        open_.querySelector("button").focus();
        </script>""")
    found = marked(page)
    assert len(found.properties) == 9  # html head title body div button div p script
    assert found.focused == "5"


def test_the_focus(page_of: PageOf) -> None:
    page = page_of("<input id=i>")
    assert marked(page).focused == "3"  # the body, as in BrowserGym
    page.run(page.evaluate("i.focus()"))
    assert marked(page).focused == "4"
