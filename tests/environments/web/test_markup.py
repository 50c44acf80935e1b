from collections.abc import Callable
from typing import Any

import pytest

from agentgym.environments.web.actions import action_set, perform
from agentgym.environments.web.markup import (
    Row,
    Tag,
    fitted,
    flatten_dom_to_str,
    parse_html,
    prettify,
    prune_html,
    rows,
    simplified_html,
)
from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import mark
from agentgym.environments.web.view import PageView
from agentgym.errors import ConfigError

PageOf = Callable[[str], Page]


def snapshot(*documents: list[tuple[int, int, str, dict[str, str]]], **frames: int) -> Any:
    """CDP's form of documents: (parent, kind, name or text, attributes) of each node."""
    strings: list[str] = []

    def number(text: str) -> int:
        strings.append(text)
        return len(strings) - 1

    made = []
    for nodes in documents:
        made.append(
            {
                "nodes": {
                    "parentIndex": [parent for parent, _, _, _ in nodes],
                    "nodeType": [kind for _, kind, _, _ in nodes],
                    "nodeName": [number(text) if kind == 1 else -1 for _, kind, text, _ in nodes],
                    "nodeValue": [number(text) if kind != 1 else -1 for _, kind, text, _ in nodes],
                    "attributes": [
                        [number(part) for pair in given.items() for part in pair]
                        for _, _, _, given in nodes
                    ],
                    "contentDocumentIndex": {"index": [], "value": []},
                }
            }
        )
    made[0]["nodes"]["contentDocumentIndex"] = {
        "index": [int(key[1:]) for key in frames],
        "value": list(frames.values()),
    }
    return {"documents": made, "strings": strings}


PAGE = snapshot(
    [
        (-1, 9, "", {}),
        (0, 10, "", {}),
        (0, 1, "HTML", {"bid": "0"}),
        (2, 1, "BODY", {"bid": "1"}),
        (3, 8, " a comment ", {}),
        (3, 1, "P", {"bid": "2", "title": 'a "b"', "class": "x"}),
        (5, 3, "  One & two\n three ", {}),
        (5, 1, "BR", {}),
        (3, 1, "DIV", {"bid": "3", "browsergym_set_of_marks": "1"}),
        (8, 1, "INPUT", {"bid": "4", "checked": ""}),
        (8, 3, "\n  ", {}),
        (3, 1, "IFRAME", {"bid": "a"}),
        (3, 1, "TEXTAREA", {"bid": "5"}),
        (12, 3, " l1\n l2 ", {}),
    ],
    [
        (-1, 9, "", {}),
        (0, 1, "HTML", {"bid": "a0"}),
        (1, 1, "BODY", {"bid": "a1"}),
        (2, 1, "B", {"bid": "a2"}),
        (3, 3, "in", {}),
    ],
    n11=1,
)


def told(visibility: float, marked: bool = False, clickable: bool = False) -> Any:
    return {
        "visibility": visibility,
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "clickable": clickable,
        "set_of_marks": marked,
    }


def test_browsergyms_dom_text() -> None:
    assert flatten_dom_to_str(PAGE) == "\n".join(
        [
            '<html bid="0">',
            ' <body bid="1">',
            '  <p bid="2" class="x" title=\'a "b"\'>',
            "   One &amp; two",
            " three",
            "   <br/>",
            "  </p>",
            '  <div bid="3">',
            '   <input bid="4" checked=""/>',
            "  </div>",
            '  <iframe bid="a">',
            '   <b bid="a2">',
            "    in",
            "   </b>",
            "  </iframe>",
            '  <textarea bid="5"> l1\n l2 </textarea>',
            " </body>",
            "</html>",
            "",
        ]
    )


def test_browsergyms_options_of_the_dom_text() -> None:
    extra = {"2": told(0.2), "3": told(1.0, marked=True, clickable=True), "4": told(1.0)}
    text = flatten_dom_to_str(
        PAGE, extra, with_visible=True, with_clickable=True, with_center_coords=True, with_som=True
    )
    assert '<div bid="3" center="(2,4)" clickable="" som="" visible="">' in text
    text = flatten_dom_to_str(PAGE, extra, filter_visible_only=True)
    assert "<p" not in text
    assert "One" not in text  # text goes with its element
    assert "<br/>" in text  # other elements do not
    assert flatten_dom_to_str(PAGE, extra, filter_som_only=True).splitlines()[:2] == [
        '<html bid="0">',
        ' <body bid="1">',
    ]
    assert "bid" not in flatten_dom_to_str(PAGE, hide_all_bids=True)
    with pytest.raises(ConfigError, match="extra_properties"):
        flatten_dom_to_str(PAGE, with_visible=True)


def test_pruned_html() -> None:
    assert prune_html(flatten_dom_to_str(PAGE)) == "\n".join(
        [
            '<p bid="2" class="x" title=\'a "b"\'>',
            " One &amp; two  three",
            "</p>",
            '<input bid="4" checked=""/>',
            '<iframe bid="a">',
            ' <b bid="a2">',
            "  in",
            " </b>",
            "</iframe>",
            '<textarea bid="5"> l1  l2 </textarea>',
            "",
        ]
    )
    page = (
        "<!-- c --><div bid=1><span bid=2>a</span><i bid=3 id=x>b</i></div><style>s</style>"
        "<div bid=4><p bid=5></p></div><div>plain</div><script>1 < 2</script>"
    )
    assert prune_html(page) == 'a\n<i bid="3" id="x">\n b\n</i>\n<div>\n plain\n</div>\n'


def test_pruned_html_in_a_budget() -> None:
    page = f"<p id=x>{'word ' * 100}</p><b title='{'t' * 90}'>b</b>"
    whole = prune_html(page)
    assert prune_html(page, max_chars=len(whole)) == whole
    short = prune_html(page, max_chars=200)
    assert len(short) <= 200
    assert short.endswith("</b>\n")
    assert "word wo..." in short
    assert prune_html(page, max_chars=20) == '<p id="x">\n word ...'


def test_fitting_takes_the_longest_that_fits() -> None:
    assert fitted(lambda limit: "x" * limit, 200) == "x" * 200
    assert fitted(lambda limit: "x" * limit, 10) == "x" * 7 + "..."


def test_html_is_read_as_it_stands() -> None:
    root = parse_html("<a href='x&amp;y' b>1<br>2<p>3</a>4</p><script>a<b</script>")
    assert root.children == [
        Tag("a", {"href": "x&y", "b": ""}, ["1", Tag("br"), "2", Tag("p", {}, ["3"])]),
        "4",
        Tag("script", {}, ["a<b"]),
    ]
    assert prettify(root.children).endswith("<script>\n a<b\n</script>\n")
    deep = "<div>" * 3000
    assert prettify(parse_html(deep).children).count("<div>") == 3000


def row(parent: int, tag: str, id: int = -1, seen: bool = True, **given: str) -> Row:
    text = given.pop("text", "")
    return (parent, tag, id, list(given.items()), [1, 2, 3, 4], seen, text)


ROWS = [
    row(-1, "html"),
    row(0, "body"),
    row(1, "div"),  # holds two ids
    row(2, "a", 0),
    row(3, "#text", text="Home\n page"),
    row(2, "span"),  # nothing of its own: only what is in it
    row(5, "input", 1, value='say "hi"', type="text"),
    row(1, "p"),  # text only, with its parts in order
    row(7, "#text", text="One "),
    row(7, "b"),
    row(9, "#text", text="bold"),
    row(7, "#text", text=" word <3"),
    row(1, "div", seen=False),
    row(12, "#text", seen=False, text="below"),
    row(1, "i"),  # nothing in it
]


def test_webrls_html() -> None:
    assert simplified_html(ROWS, positions=False) == (
        '<html> <body> <div> <a id="0"> Home page </a> '
        '<input id="1" value="say &quot;hi&quot;" type="text"> </input> </div> '
        "<p> One bold word &lt;3 </p> </body> </html>"
    )
    assert simplified_html(ROWS[:2]) == ""
    assert '<a id="0" data-bbox="1,2,3,4"> Home page </a>' in simplified_html(ROWS)


def test_webrls_html_in_a_budget() -> None:
    page = [row(-1, "p", 0), row(0, "#text", text="word " * 200)]
    assert len(simplified_html(page, positions=False)) == len('<p id="0"> ') + 500 + len(" </p>")
    assert simplified_html(page, positions=False, max_chars=60) == (
        '<p id="0"> word word word word word wo... </p>'
    )


@pytest.mark.browser
def test_the_text_of_a_page(page_of: PageOf) -> None:
    page = page_of("<h1>Hi</h1><div><a href=#>one</a><p>two</p></div><input value=v>")
    found = page.run(mark(page))
    assert flatten_dom_to_str(found.dom).splitlines()[6:] == [
        ' <body bid="3" style="margin:0">',
        '  <h1 bid="4">',
        "   Hi",
        "  </h1>",
        '  <div bid="5">',
        '   <a bid="6" href="#">',
        "    one",
        "   </a>",
        '   <p bid="7">',
        "    two",
        "   </p>",
        "  </div>",
        '  <input bid="8" value="v"/>',
        " </body>",
        "</html>",
    ]


@pytest.mark.browser
def test_webrls_view_of_a_page_and_acting_by_its_ids(page_of: PageOf) -> None:
    page = page_of("""<h1>Head <i>line</i></h1><button>Go</button><p><a href="#x">x</a></p>
        <input type=password value=secret><select><option>A<option>B</select>
        <div id=d>no</div><div style="display:none">hidden</div><style>p { color: red }</style>
        <div style="position:absolute;top:900px"><a href="#y">far</a></div>
        <script>d.onclick = () => d.textContent = "clicked"</script>""")
    html = "document.documentElement.outerHTML"
    before = page.run(page.evaluate(html))
    text = simplified_html(page.run(rows(page)), positions=False)
    assert text == (
        '<html> <body> <h1> Head line </h1> <button id="0"> Go </button> <a id="1"> x </a> '
        '<input id="2" value="******" type="password"> </input> '
        '<select id="3" value="A"> </select> <div id="4"> no </div> '
        "</body> </html>"
    )
    assert page.run(page.evaluate(html)) == before
    call = action_set().call("click", "4")
    assert page.run(perform(page, call, PageView(()))) == ""
    assert page.run(page.evaluate("d.textContent")) == "clicked"
    assert "clicked" in simplified_html(page.run(rows(page)))
