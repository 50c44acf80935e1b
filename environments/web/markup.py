"""A page as HTML text: BrowserGym's DOM text and pruned HTML, and WebRL's simplified HTML."""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Final

from agentgym.environments.web.axtree import Filter, Properties
from agentgym.environments.web.page import Page, script

VOID: Final = frozenset(
    "area base br col embed hr img input link meta param source track wbr".split()
)
_RAW: Final = frozenset(("script", "style"))
_PRESERVED: Final = frozenset(("pre", "textarea"))
_ELEMENT, _TEXT, _DOCUMENT = 1, 3, 9


@dataclass(slots=True)
class Tag:
    """An element of a tree of markup."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Tag | str]" = field(default_factory=list)


# ---- BrowserGym ------------------------------------------------------------------------------


def flatten_dom_to_str(
    dom_snapshot: Mapping[str, Any],
    extra_properties: Properties | None = None,
    with_visible: bool = False,
    with_clickable: bool = False,
    with_center_coords: bool = False,
    with_bounding_box_coords: bool = False,
    with_som: bool = False,
    filter_visible_only: bool = False,
    filter_with_bid_only: bool = False,
    filter_som_only: bool = False,
    coord_decimals: int = 0,
    hide_bid_if_invisible: bool = False,
    hide_all_bids: bool = False,
) -> str:
    """BrowserGym's text of a DOM snapshot: indented HTML, attributes in order of their names.

    Source: https://arxiv.org/abs/2412.05467; arguments and format are those of its 0.14.
    Differs: no pseudo-elements; quotes inside of attributes are escaped instead of breaking them.

    Args:
        dom_snapshot: as `snapshot.mark` makes it.
        extra_properties: and all others: see `axtree.flatten_axtree_to_str`.
        with_visible: see there.
        with_clickable: see there.
        with_center_coords: see there.
        with_bounding_box_coords: see there.
        with_som: see there.
        filter_visible_only: see there.
        filter_with_bid_only: see there.
        filter_som_only: see there.
        coord_decimals: see there.
        hide_bid_if_invisible: see there.
        hide_all_bids: see there.

    Raises:
        ConfigError: `extra_properties` is needed and missing.
    """
    shown = Filter(
        extra_properties,
        with_visible,
        with_clickable,
        with_center_coords,
        with_bounding_box_coords,
        with_som,
        filter_visible_only,
        filter_with_bid_only,
        filter_som_only,
        coord_decimals,
        hide_bid_if_invisible,
        hide_all_bids,
    )
    root = Tag("")
    documents = [(0, root)] if dom_snapshot["documents"] else []
    for number, holder in documents:  # grows while it is read
        documents += _document(dom_snapshot, number, holder, shown)
    return prettify(root.children)


def _document(
    dom: Mapping[str, Any], number: int, holder: Tag, shown: Filter
) -> Iterator[tuple[int, Tag]]:
    """Put a document's elements into `holder`; yields the documents of its frames."""
    nodes, strings = dom["documents"][number]["nodes"], dom["strings"]
    pseudo = set(nodes.get("pseudoType", {"index": ()})["index"])
    inside = nodes.get("contentDocumentIndex", {"index": [], "value": []})
    frames = dict(zip(inside["index"], inside["value"], strict=True))
    homes: list[tuple[Tag, bool]] = []  # for each node: where its children go, and its text too
    for index, parent in enumerate(nodes["parentIndex"]):
        home, open_ = homes[parent] if parent >= 0 else (holder, False)
        kind = nodes["nodeType"][index]
        if kind == _TEXT and open_:
            home.children.append(_string(strings, nodes["nodeValue"][index]))
        if kind != _ELEMENT or index in pseudo:
            homes.append((home, False))
            continue
        name = _string(strings, nodes["nodeName"][index]).lower()
        pairs = nodes["attributes"][index]
        given = {
            _string(strings, key): _string(strings, value)
            for key, value in zip(pairs[::2], pairs[1::2], strict=True)
            if not _string(strings, key).startswith("browsergym_")
        }
        bid = given.pop("bid", None)
        if shown.skips(bid):
            homes.append((home, False))
            continue
        if number and name in ("html", "head", "body"):  # HTML has room for one of each
            homes.append((home, True))
            continue
        told = (entry.partition("=") for entry in shown.attributes(bid))
        attributes = {key: value.strip('"') for key, _, value in told} | given
        if bid is not None and shown.shows_bid(bid):
            attributes["bid"] = bid
        tag = Tag(name, attributes)
        home.children.append(tag)
        homes.append((tag, True))
        if index in frames:
            yield frames[index], tag


def _string(strings: Sequence[str], index: int) -> str:
    return strings[index] if index >= 0 else ""


_COMMENT = re.compile(r"<!--(.*?)-->")
_STRUCTURE = frozenset(("div", "span", "i", "p"))
_USELESS = frozenset(("style", "link", "script", "br"))


def prune_html(html: str, max_chars: int | None = None) -> str:
    """BrowserGym's shorter form of a page's HTML.

    Comments, styles, scripts and line breaks go; ``html``, ``body``, and ``div``, ``span``, ``i``
    and ``p`` that have a bid and nothing else leave only what is in them.

    Args:
        html: of a page, such as `flatten_dom_to_str` makes.
        max_chars: long texts and attributes lose their ends until the whole fits, or else it loses
            its own.
    """
    root = parse_html(_COMMENT.sub("", html.replace("\n", " ")))
    _prune(root)
    if max_chars is None:
        return prettify(root.children)
    return fitted(lambda limit: prettify(root.children, limit), max_chars)


def _prune(root: Tag) -> None:
    order = [root]
    for tag in order:
        order += [child for child in tag.children if isinstance(child, Tag)]
    for tag in reversed(order):  # children before their parents
        kept: list[Tag | str] = []
        for child in tag.children:
            if isinstance(child, str):
                kept.append(child)
            elif child.name in _USELESS:
                continue
            elif child.name in ("html", "body") or (
                child.name in _STRUCTURE and list(child.attributes) == ["bid"]
            ):
                kept += child.children
            else:
                kept.append(child)
        tag.children = kept


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Tag("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Tag(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        names = [each.name for each in self.open]
        if tag in names[1:]:
            del self.open[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse_html(html: str) -> Tag:
    """HTML as a tree below a tag without a name; end tags that are missing are forgiven."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    return parser.open[0]


def prettify(children: "Sequence[Tag | str]", limit: int | None = None) -> str:
    """A tree as indented text, one tag or text a line.

    Args:
        children: tags and texts.
        limit: characters of each text and attribute.
    """
    lines: list[str] = []
    pending: list[tuple[Tag | str, int, str]] = [(child, 0, "") for child in reversed(children)]
    while pending:
        item, depth, parent = pending.pop()
        if isinstance(item, str):
            text = _cut(item.strip(), limit)
            if text:
                escaped = text if parent in _RAW or parent == "/" else _escaped(text)
                lines.append(" " * depth + escaped)
            continue
        given = "".join(
            f" {name}={_quoted(_cut(value, limit))}"
            for name, value in sorted(item.attributes.items())
        )
        if item.name in VOID:
            lines.append(f"{' ' * depth}<{item.name}{given}/>")
        elif item.name in _PRESERVED:
            text = "".join(child for child in item.children if isinstance(child, str))
            text = _escaped(_cut(text, limit))
            lines.append(f"{' ' * depth}<{item.name}{given}>{text}</{item.name}>")
            nested = [child for child in item.children if isinstance(child, Tag)]
            pending += [(child, depth + 1, item.name) for child in reversed(nested)]
        else:
            lines.append(f"{' ' * depth}<{item.name}{given}>")
            pending.append((f"</{item.name}>", depth, "/"))
            pending += [(child, depth + 1, item.name) for child in reversed(item.children)]
    return "".join(f"{line}\n" for line in lines)


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else text[: max(0, limit - 3)] + "..."


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(text: str) -> str:
    text = _escaped(text)
    if '"' not in text:
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else f'"{text.replace(chr(34), "&quot;")}"'


_LIMITS = (500, 200, 80, 30)


def fitted(write: Callable[[int], str], max_chars: int) -> str:
    """The longest text that fits, of those with shorter and shorter parts; else the last, cut.

    Args:
        write: the text with parts of so many characters at most.
        max_chars: of the result.
    """
    text = ""
    for limit in _LIMITS:
        text = write(limit)
        if len(text) <= max_chars:
            return text
    return _cut(text, max_chars)


# ---- WebRL -----------------------------------------------------------------------------------

Row = tuple[int, str, int, list[tuple[str, str]], list[int], bool, str]
"""Index of the parent, tag (``#text`` for text), id (-1: none), attributes, box x, y, width and
height, whether it is in view, text."""


async def rows(page: Page) -> list[Row]:
    """What `simplified_html` writes; the ids are the page's from then on, see `actions`."""
    found = await page.ask("agentgym.markup ? agentgym.markup() : null")
    if found is None:
        await page.ask(script("markup.js"))
        found = await page.ask("agentgym.markup()")
    return [(p, tag, id, [(k, v) for k, v in a], b, s, text) for p, tag, id, a, b, s, text in found]


def simplified_html(
    rows: Sequence[Row], *, positions: bool = True, max_chars: int | None = None
) -> str:
    """WebRL's view of a page: one line of nested tags with spaces between all parts.

    Elements in view are kept if they have text, one of a few attributes, an id, or hold more than
    one element with an id; what holds only text becomes that text. Elements that can be acted on
    have ids, counted from 0.

    Source: https://arxiv.org/abs/2411.02337 and its browser tools.

    Args:
        rows: of `rows`.
        positions: each tag tells its box, ``data-bbox="x,y,width,height"``.
        max_chars: long texts and attributes lose their ends until the whole fits, or else it loses
            its own.
    """
    tree = _Simplified(rows, positions)
    if max_chars is None:
        return tree.write(_LIMITS[0])
    return fitted(tree.write, max_chars)


class _Simplified:
    def __init__(self, rows: Sequence[Row], positions: bool) -> None:
        self.rows = rows
        self.positions = positions
        count = len(rows)
        self.children: list[list[int]] = [[] for _ in range(count)]
        self.plain = [True] * count  # nothing but text in it, without id and attributes
        labels = [0] * count
        for index in reversed(range(count)):
            parent, _, id, attributes, _, _, _ = rows[index]
            own = id < 0 and not attributes
            if parent >= 0:
                self.children[parent].insert(0, index)
                labels[parent] += labels[index] + (id >= 0)
                self.plain[parent] &= self.plain[index] and own
        self.kept = [
            seen
            and tag != "#text"
            and bool(attributes or id >= 0 or labels[index] > 1 or self._text(index))
            for index, (_, tag, id, attributes, _, seen, _) in enumerate(rows)
        ]

    def _text(self, index: int) -> str:
        """All of the text in an element that holds nothing else, or else what it holds itself."""
        texts = []
        pending = [index]
        while pending:
            each = pending.pop()
            if self.rows[each][1] == "#text" and self.rows[each][5]:
                texts.append(self.rows[each][6])
            if each == index or self.plain[index]:
                pending += reversed(self.children[each])
        return " ".join(" ".join(texts).split())

    def write(self, limit: int) -> str:
        """The whole, with texts and attributes of so many characters at most."""
        parts: list[str] = []
        pending: list[int | str] = [0] if self.rows else []
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                parts.append(item)
                continue
            _, tag, id, attributes, box, _, _ = self.rows[item]
            if tag == "#text":
                continue
            if self.kept[item]:
                given = [("id", str(id))] if id >= 0 else []
                given += attributes
                if self.positions:
                    given.append(("data-bbox", ",".join(map(str, box))))
                told = "".join(f' {key}="{html.escape(_cut(v, limit))}"' for key, v in given)
                parts.append(f"<{tag}{told}>")
                text = _cut(self._text(item), limit)
                parts += [_escaped(text)] if text else []
                pending.append(f"</{tag}>")
            if not (self.kept[item] and self.plain[item]):
                pending += reversed(self.children[item])
        return " ".join(parts)
