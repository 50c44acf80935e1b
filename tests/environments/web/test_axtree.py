from collections.abc import Callable
from typing import Any

import pytest

from agentgym.environments.web.axtree import (
    Filter,
    fetch,
    flatten_axtree_to_str,
    merged,
    tab_line,
    webarena_text,
)
from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import mark
from agentgym.errors import ConfigError

PageOf = Callable[[str], Page]


def node(
    id: str, role: str, name: str | None = "", *children: str, bid: str = "", **told: Any
) -> dict[str, Any]:
    """A node as CDP gives it; `told` are its properties, and its value."""
    made: dict[str, Any] = {"nodeId": id, "role": {"type": "role", "value": role}}
    made |= {"childIds": list(children), "backendDOMNodeId": int(id) + 100}
    if name is not None:
        made["name"] = {"type": "computedString", "value": name}
    if "value" in told:
        made["value"] = {"type": "string", "value": told.pop("value")}
    made["properties"] = [
        {"name": key, "value": {"type": "token", "value": value}} for key, value in told.items()
    ]
    if bid:
        made["browsergym_id"] = bid
    return made


# A page with most of what the two texts treat in a way of their own.
NODES = [
    node("1", "RootWebArea", 'Shop "A"', "2", focused=True, url="http://a/"),
    node("2", "none", None, "3", "5", "9", "12"),
    node("3", "generic", "", "4", bid="0"),
    node("4", "StaticText", "It's new\nhere "),
    node("5", "link", "Home \xa0page", "6", bid="1", url="http://a/h"),
    node("6", "StaticText", "Home"),
    node("9", "form", "", "10", "11", bid="2"),
    node("10", "textbox", "Name", bid="3", value="Al", focusable=True, required=True, invalid="x"),
    node("11", "checkbox", "Agree", bid="4", checked="true", focused=False, atomic=False),
    node("12", "list", "", "13", "14", bid="5"),
    node("13", "listitem", "", "15", bid="6", level=1),
    node("14", "button", "Menu", bid="7", hasPopup="menu", expanded=False, disabled=True),
    node("15", "StaticText", "First"),
    node("16", "LineBreak", "\n"),
]
TREE = {"nodes": NODES}


def told(visibility: float, box: list[float] | None, clickable: bool, marked: bool) -> Any:
    return {
        "visibility": visibility,
        "bbox": box,
        "clickable": clickable,
        "set_of_marks": marked,
    }


EXTRA = {
    "1": told(1.0, [1, 2, 10.5, 20], True, True),
    "2": told(1.0, [0, 0, 100, 100], False, False),
    "3": told(0.4, [0, 300, 10, 10], True, True),
    "4": told(0.5, None, False, False),
    "7": told(1.0, [5, 5, 5, 5], True, True),
}


def test_browsergyms_text() -> None:
    assert flatten_axtree_to_str(TREE) == "\n".join(
        [
            "RootWebArea 'Shop \"A\"', focused, url='http://a/'",
            '\tStaticText "It\'s new\\nhere"',
            "\t[1] link 'Home \\xa0page', url='http://a/h'",
            "\t[2] form ''",
            "\t\t[3] textbox 'Name' value='Al', required",
            "\t\t[4] checkbox 'Agree', checked='true'",
            "\t[5] list ''",
            "\t\t[6] listitem ''",
            "\t\t\tStaticText 'First'",
            "\t\t[7] button 'Menu', hasPopup='menu', expanded=False, disabled=True",
        ]
    )


def test_browsergyms_marks_come_first_and_in_order() -> None:
    text = flatten_axtree_to_str(
        TREE,
        EXTRA,
        with_visible=True,
        with_clickable=True,
        with_center_coords=True,
        with_bounding_box_coords=True,
        with_som=True,
        coord_decimals=1,
    )
    assert (
        '[1] link \'Home \\xa0page\', box="(1.0,2.0,11.5,22.0)", center="(6.2,12.0)", '
        "clickable, visible, som, url='http://a/h'"
    ) in text
    assert "[4] checkbox 'Agree', visible, checked='true'" in text
    assert "[3] textbox 'Name' value='Al', box=\"(0.0,300.0,10.0,310.0)\"" in text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"filter_visible_only": True}, ["1", "2", "4", "5", "6", "7"]),
        ({"filter_som_only": True}, ["1", "3", "5", "6", "7"]),
        ({"filter_with_bid_only": True}, ["1", "2", "3", "4", "5", "6", "7"]),
        ({"hide_bid_if_invisible": True}, ["1", "2", "4", "7"]),
        ({"hide_all_bids": True}, []),
    ],
)
def test_browsergyms_filters(options: dict[str, bool], shown: list[str]) -> None:
    lines = flatten_axtree_to_str(TREE, EXTRA, **options).splitlines()  # type: ignore[arg-type]
    bids = [line.strip()[1] for line in lines if line.strip().startswith("[")]
    assert bids == shown
    if options.get("filter_with_bid_only"):
        assert not any("RootWebArea" in line for line in lines)


def test_browsergyms_filtered_parents() -> None:
    extra = {"6": told(0.0, None, False, False), "5": told(0.0, None, False, False)}
    text = flatten_axtree_to_str(TREE, extra, filter_visible_only=True)
    assert "First" not in text  # its parent is filtered
    assert "\n\t[7] button" in text  # hoisted
    text = flatten_axtree_to_str(TREE, extra, filter_visible_only=True, hide_all_children=True)
    assert "[7]" not in text


def test_browsergyms_other_options() -> None:
    text = flatten_axtree_to_str(TREE, skip_generic=False, remove_redundant_static_text=False)
    assert "\n\t[0] generic\n\t\tStaticText" in text
    assert "\n\t\tStaticText 'Home'" in text
    text = flatten_axtree_to_str(TREE, ignored_roles=["form"], ignored_properties=["url"])
    assert "form" not in text
    assert "focusable=True" in text
    assert flatten_axtree_to_str({"nodes": []}) == ""
    with pytest.raises(ConfigError, match="extra_properties argument required"):
        flatten_axtree_to_str(TREE, with_som=True)


def test_a_filter_knows_nothing_of_unknown_bids() -> None:
    shown = Filter(EXTRA, filter_som_only=True, with_visible=True)
    assert (shown.skips("99"), shown.skips(None)) == (False, True)
    assert shown.attributes("99") == []


def test_webarenas_tabs() -> None:
    assert tab_line(["A", "B"], 0) == "Tab 0 (current): A | Tab 1: B"


def test_webarenas_text() -> None:
    shown = webarena_text(NODES, ["Shop"])
    assert shown.text == "\n".join(
        [
            "Tab 0 (current): Shop",
            "",
            "[1] RootWebArea 'Shop \"A\"' focused: True",
            '\t[4] StaticText "It\'s new\\nhere "',
            "\t[5] link 'Home \\xa0page'",
            "\t[9] form ''",
            "\t\t[10] textbox 'Name' required: True",
            "\t\t[11] checkbox 'Agree' checked: true focused: False atomic: False",
            "\t[15] StaticText 'First'",
            "\t[14] button 'Menu' hasPopup: menu expanded: False disabled: True",
        ]
    )
    assert shown.nodes["9"] == {"backend_id": 109, "union_bound": None, "text": "[9] form ''"}


def test_webarena_repeats_no_text_of_the_three_lines_before() -> None:
    texts = ["qz", "z", "k", "v", "j", "z", "", "x"]
    children = [str(i) for i in range(2, 2 + len(texts))]
    nodes = [node("1", "RootWebArea", "R", *children)]
    nodes += [node(id, "StaticText", text) for id, text in zip(children, texts, strict=True)]
    lines = webarena_text(nodes, ["T"]).text.splitlines()[3:]
    # the "x" is in the word StaticText of the lines before
    assert [line.split("'")[1] for line in lines] == ["qz", "k", "v", "j", "z"]


def test_webarena_drops_some_nodes_without_a_name() -> None:
    children = [str(i) for i in range(2, 8)]
    nodes = [
        node("1", "RootWebArea", "", *children),
        node("2", "img", " "),
        node("3", "img", "", live="polite"),
        node("4", "listitem", "", selected=True),
        node("5", "paragraph", "text"),
        node("6", "button", ""),
        node("7", "heading", None),
    ]
    lines = webarena_text(nodes, ["T"]).text.splitlines()[2:]
    assert [line.strip() for line in lines] == [
        "[1] RootWebArea ''",
        "[3] img '' live: polite",
        "[5] paragraph 'text'",
        "[6] button ''",
    ]


def test_webarena_can_leave_out_what_is_not_in_view() -> None:
    nodes = [
        node("1", "RootWebArea", "R", "2", "4", "5", "6"),
        node("2", "form", "above", "3"),
        node("3", "button", "in"),
        node("4", "button", "below"),
        node("5", "button", "flat"),
        node("6", "button", "corner"),
    ]
    boxes = {
        102: (0.0, -50.0, 10.0, 10.0),
        103: (0.0, 0.0, 10.0, 10.0),
        104: (0.0, 90.0, 10.0, 10.0),
        105: (0.0, 0.0, 10.0, 0.0),
        106: (79.0, 79.0, 50.0, 50.0),
    }
    shown = webarena_text(nodes, ["T"], boxes=boxes, viewport=(80, 80))
    # of "corner" one pixel is seen: 1 * 1 / 50 * 50 = 1
    assert shown.text.splitlines()[2:] == [
        "[1] RootWebArea 'R'",
        "\t[3] button 'in'",
        "\t[6] button 'corner'",
    ]
    assert shown.nodes["1"]["union_bound"] == [0.0, 0.0, 10.0, 10.0]
    assert shown.nodes["6"]["union_bound"] == [79.0, 79.0, 50.0, 50.0]
    with pytest.raises(ConfigError, match="boxes"):
        webarena_text(nodes, ["T"], viewport=(80, 80))


def test_trees_of_frames_are_joined() -> None:
    outer = [node("1", "RootWebArea", "R", "2"), node("2", "Iframe", "")]
    inner = [node("5", "RootWebArea", "", "6"), node("6", "button", "B")]
    nodes = merged([outer, inner], {102: 1}, {102: "a", 106: "a3"})
    assert flatten_axtree_to_str({"nodes": nodes}) == (
        "RootWebArea 'R'\n\t[a] Iframe ''\n\t\tRootWebArea ''\n\t\t\t[a3] button 'B'"
    )


@pytest.mark.browser
def test_a_page_of_chromiums(page_of: PageOf) -> None:
    page = page_of("""<h1>Head <b>line</b></h1><ul><li><a href="#x">It's</a></ul>
        <div><div><p>One<br>two</p></div></div>
        <label>User <input id=u value=bob required></label>
        <input type=checkbox checked aria-label="Agree"><button aria-expanded=false>M</button>
        <select aria-label=S><option>A<option selected>B</select><div style="display:none">no</div>
        <iframe srcdoc="<button>In</button>" style="border:0"></iframe>
        <script>u.focus()</script>""")

    async def read() -> dict[str, Any]:
        return await fetch(page, await mark(page))

    tree = page.run(read())
    url = page.run(page.evaluate("location.href"))
    text = flatten_axtree_to_str(tree)
    assert text.replace(url, "U") == "\n".join(
        [
            "RootWebArea 'T', focused, url='U'",
            "\t[4] heading 'Head line'",
            "\t[6] list ''",
            "\t\t[7] listitem ''",
            "\t\t\tListMarker '•'",
            "\t\t\t[8] link \"It's\", url='U#x'",
            "\t[11] paragraph ''",
            "\t\tStaticText 'One'",
            "\t\tStaticText 'two'",
            "\t[13] LabelText ''",
            "\t\tStaticText 'User'",
            "\t\t[14] textbox 'User' value='bob', focused, required",
            "\t\t\tStaticText 'bob'",
            "\t[15] checkbox 'Agree', checked='true'",
            "\t[16] button 'M', expanded=False",
            "\t[17] combobox 'S' value='B', hasPopup='menu', expanded=False",
            "\t\tMenuListPopup ''",
            "\t\t\t[18] option 'A', selected=False",
            "\t\t\t[19] option 'B', selected=True",
            "\t[a] Iframe ''",
            "\t\tRootWebArea '', url='about:srcdoc'",
            "\t\t\t[a3] button 'In'",
        ]
    )
    lines = webarena_text(tree["nodes"], ["T"]).text.splitlines()[2:]
    assert [line.split("] ")[1] for line in lines[:5]] == [
        "RootWebArea 'T' focused: True",
        "heading 'Head line'",
        "ListMarker '• '",
        'link "It\'s"',
        "StaticText 'One'",
    ]
