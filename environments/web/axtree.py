"""The accessibility tree as text, as BrowserGym and as WebArena write it.

The writers are pure functions of the nodes that CDP's ``Accessibility.getFullAXTree`` returns;
`fetch` gets those of a page.
"""

import asyncio
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentgym.environments.web.page import Page
from agentgym.environments.web.snapshot import Box, Marked
from agentgym.errors import ConfigError

Node = Mapping[str, Any]
"""One node of ``Accessibility.getFullAXTree``."""
Properties = Mapping[str, Mapping[str, Any]]
"""BrowserGym's ``extra_element_properties``, see `snapshot.Marked.properties`."""
IGNORED_ROLES: Final = ("LineBreak", "InlineTextBox")
"""Not in the text. Newer Chromiums repeat all text as InlineTextBox; BrowserGym's did not."""
IGNORED_PROPERTIES: Final = (
    "editable",
    "readonly",
    "level",
    "settable",
    "multiline",
    "invalid",
    "focusable",
)
_BARE = ("required", "focused", "atomic")
VISIBLE = 0.5
"""The share of an element that must be seen for it to count as visible."""


async def fetch(page: Page, marked: Marked | None = None) -> dict[str, Any]:
    """The accessibility trees of a page's frames as one, in the form of BrowserGym.

    Args:
        page: the page.
        marked: its elements; their bids become the nodes' ``browsergym_id``.

    Returns:
        ``{"nodes": [...]}``; the first is the root, and the root of a frame is a child of its
        Iframe node.
    """
    send = page.session.send
    tree, main = await asyncio.gather(
        send("Page.getFrameTree"), send("Accessibility.getFullAXTree")
    )
    trees = [main["nodes"]]
    owners: dict[int, int] = {}  # backend node id of a frame's element: number of its tree
    for frame in _frames(tree["frameTree"]):
        nodes, owner = await asyncio.gather(
            send("Accessibility.getFullAXTree", {"frameId": frame}),
            send("DOM.getFrameOwner", {"frameId": frame}),
        )
        owners[owner["backendNodeId"]] = len(trees)
        trees.append(nodes["nodes"])
    return {"nodes": merged(trees, owners, marked.bids if marked else {})}


def _frames(tree: Mapping[str, Any]) -> Iterator[str]:
    """The ids of all frames below one."""
    for child in tree.get("childFrames", ()):
        yield child["frame"]["id"]
        yield from _frames(child)


def merged(
    trees: Sequence[list[dict[str, Any]]], owners: Mapping[int, int], bids: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The nodes of several trees as one tree.

    Args:
        trees: of the page and of its frames; their nodes are changed.
        owners: for each frame the backend node id of its element, and the number of its tree.
        bids: backend node id to bid.
    """
    nodes = [node for tree in trees for node in tree]
    for node in nodes:
        backend = node.get("backendDOMNodeId", -1)
        role = node.get("role", {}).get("value")
        if backend in bids and role not in ("StaticText", "InlineTextBox"):
            node["browsergym_id"] = bids[backend]
        if role == "Iframe" and backend in owners and trees[owners[backend]]:
            node["childIds"] = [*node.get("childIds", ()), trees[owners[backend]][0]["nodeId"]]
    return nodes


# ---- BrowserGym's text -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which elements of BrowserGym's texts are shown, and what is told of them."""

    extra_properties: Properties | None = None
    with_visible: bool = False
    with_clickable: bool = False
    with_center_coords: bool = False
    with_bounding_box_coords: bool = False
    with_som: bool = False
    filter_visible_only: bool = False
    filter_with_bid_only: bool = False
    filter_som_only: bool = False
    coord_decimals: int = 0
    hide_bid_if_invisible: bool = False
    hide_all_bids: bool = False
    _known: Properties = field(init=False)

    def __post_init__(self) -> None:
        asks = (self.with_visible or self.with_clickable or self.with_center_coords) or (
            self.with_bounding_box_coords or self.with_som or self.filter_visible_only
        )
        if self.extra_properties is None and (
            asks or self.filter_with_bid_only or self.filter_som_only
        ):
            raise ConfigError("extra_properties argument required")
        object.__setattr__(self, "_known", self.extra_properties or {})

    def skips(self, bid: str | None) -> bool:
        """Whether an element is left out."""
        if bid is None:
            return self.filter_with_bid_only or self.filter_som_only
        told = self._known.get(bid)
        if told is None:
            return False
        hidden = self.filter_visible_only and told["visibility"] < VISIBLE
        return hidden or (self.filter_som_only and not told["set_of_marks"])

    def attributes(self, bid: str | None) -> list[str]:
        """What is told of an element, such as ``clickable``."""
        told = self._known.get(bid) if bid is not None else None
        if told is None:
            return []
        found = []
        if told["bbox"] is not None:
            x, y, width, height = told["bbox"]
            if self.with_bounding_box_coords:
                found.append(f'box="{self._point(x, y, x + width, y + height)}"')
            if self.with_center_coords:
                found.append(f'center="{self._point(x + width / 2, y + height / 2)}"')
        if self.with_clickable and told["clickable"]:
            found.append("clickable")
        if self.with_visible and told["visibility"] >= VISIBLE:
            found.append("visible")
        if self.with_som and told["set_of_marks"]:
            found.append("som")
        return found

    def shows_bid(self, bid: str | None) -> bool:
        """Whether an element's bid is told."""
        if bid is None or self.hide_all_bids:
            return False
        seen = self._known.get(bid, {}).get("visibility", 0)
        return not self.hide_bid_if_invisible or bool(seen >= VISIBLE)

    def _point(self, *coordinates: float) -> str:
        return f"({','.join(f'{c:.{self.coord_decimals}f}' for c in coordinates)})"


def flatten_axtree_to_str(
    AX_tree: Mapping[str, Sequence[Node]],
    extra_properties: Properties | None = None,
    with_visible: bool = False,
    with_clickable: bool = False,
    with_center_coords: bool = False,
    with_bounding_box_coords: bool = False,
    with_som: bool = False,
    skip_generic: bool = True,
    filter_visible_only: bool = False,
    filter_with_bid_only: bool = False,
    filter_som_only: bool = False,
    coord_decimals: int = 0,
    ignored_roles: Collection[str] = IGNORED_ROLES,
    ignored_properties: Collection[str] = IGNORED_PROPERTIES,
    remove_redundant_static_text: bool = True,
    hide_bid_if_invisible: bool = False,
    hide_all_children: bool = False,
    hide_all_bids: bool = False,
) -> str:
    """BrowserGym's text of an accessibility tree: a line a node, indented by tabs.

    Source: https://arxiv.org/abs/2412.05467; arguments and format are those of its 0.14.
    Differs: roles ``InlineTextBox`` are ignored by default, see `IGNORED_ROLES`.

    Args:
        AX_tree: ``{"nodes": [...]}``, the first of which is the root.
        extra_properties: visibility, box, clickable and set_of_marks of each bid.
        with_visible: visible elements are said to be.
        with_clickable: clickable elements are said to be.
        with_center_coords: the middle of each element is told.
        with_bounding_box_coords: the box of each element is told.
        with_som: elements of the set of marks are said to be.
        skip_generic: generic nodes without properties are left out; their children are not.
        filter_visible_only: elements less than half visible are left out.
        filter_with_bid_only: nodes without a bid are left out.
        filter_som_only: only elements of the set of marks are told.
        coord_decimals: of coordinates.
        ignored_roles: nodes that are left out; their children are not.
        ignored_properties: not told.
        remove_redundant_static_text: text that its parent's name holds is left out.
        hide_bid_if_invisible: bids are only told of elements at least half visible.
        hide_all_children: what is directly in a filtered element is left out with it.
        hide_all_bids: no bids are told.

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
    nodes = {node["nodeId"]: node for node in AX_tree["nodes"]}
    lines: list[str] = []
    if not nodes:
        return ""
    pending: list[tuple[Node, int, bool, str]] = [(AX_tree["nodes"][0], 0, False, "")]
    while pending:
        node, depth, parent_filtered, parent_name = pending.pop()
        role, name, bid = node["role"]["value"], "", node.get("browsergym_id")
        skipped, filtered = True, False
        if role not in ignored_roles and "name" in node:
            name = node["name"]["value"]
            told = list(_told(node, ignored_properties))
            skipped = skip_generic and role == "generic" and not told
            skipped = skipped or (hide_all_children and parent_filtered)
            if role == "StaticText":
                redundant = remove_redundant_static_text and name in parent_name
                skipped = skipped or parent_filtered or redundant
            else:
                filtered = shown.skips(bid)
                skipped = skipped or filtered
                told = shown.attributes(bid) + told
            if not skipped:
                text = f"[{bid}] " if shown.shows_bid(bid) else ""
                text += role if role == "generic" and not name else f"{role} {name.strip()!r}"
                value = node.get("value", {}).get("value")
                text += "" if value is None else f" value={value!r}"
                lines.append("\t" * depth + ", ".join([text, *told]))
        for child in reversed(node.get("childIds", ())):
            if child in nodes and child != node["nodeId"]:
                pending.append((nodes[child], depth + (not skipped), filtered, name))
    return "\n".join(lines)


def _told(node: Node, ignored: Collection[str]) -> Iterator[str]:
    """A node's properties in words."""
    for entry in node.get("properties", ()):
        name = entry["name"]
        if name in ignored or "value" not in entry.get("value", {}):
            continue
        value = entry["value"]["value"]
        if name not in _BARE:
            yield f"{name}={value!r}"
        elif value:
            yield name


# ---- WebArena's text -------------------------------------------------------------------------

_EMPTY_ROLES = frozenset(
    "generic img list strong paragraph banner navigation Section LabelText Legend listitem".split()
)
_WEBARENA_HIDDEN = frozenset(IGNORED_PROPERTIES)
_STATIC_TEXT = re.compile(r"\[\d+\] StaticText (.+)")
_MIN_RATIO = 0.6
_LOOKS_BACK = 3


@dataclass(frozen=True, slots=True)
class WebArenaText:
    """What WebArena shows of a page."""

    text: str
    """Tabs and tree."""
    nodes: Mapping[str, Mapping[str, Any]]
    """For each id in the text ``backend_id``, ``union_bound`` and ``text``, its line."""


def tab_line(titles: Sequence[str], current: int) -> str:
    """WebArena's first line: the titles of all tabs.

    Example:
        >>> tab_line(["Mail", "Map"], 1)
        'Tab 0: Mail | Tab 1 (current): Map'
    """
    return " | ".join(
        f"Tab {index}{' (current)' if index == current else ''}: {title}"
        for index, title in enumerate(titles)
    )


def webarena_text(
    nodes: Sequence[Node],
    titles: Sequence[str],
    current: int = 0,
    *,
    boxes: Mapping[int, Box] | None = None,
    viewport: tuple[int, int] | None = None,
) -> WebArenaText:
    """WebArena's text of a page: its tabs, and its accessibility tree.

    Source: https://arxiv.org/abs/2307.13854; the rules are those of its text observation.
    Differs: nodes ``InlineTextBox``, which its Chromium did not list, and properties ``url``, which
    it did not have, are left out.

    Args:
        nodes: of the tree, the first of which is the root.
        titles: of the tabs.
        current: which tab is shown.
        boxes: where each node is, by backend node id.
        viewport: (width, height); nodes that cannot be seen in it are left out, which needs
            `boxes`. WebArena calls it ``current_viewport_only``.

    Raises:
        ConfigError: `viewport` without `boxes`.
    """
    if viewport is not None and boxes is None:
        raise ConfigError("a viewport needs the boxes of the nodes, got none")
    known = boxes or {}
    by_id = {node["nodeId"]: node for node in nodes}
    lines: list[str] = []
    pending: list[tuple[Node, int]] = [(nodes[0], 0)] if nodes else []
    bounds = {}
    while pending:
        node, depth = pending.pop()
        backend = node.get("backendDOMNodeId", -1)
        root = node is nodes[0]
        box: Box | None = (0.0, 0.0, 10.0, 10.0) if root else known.get(backend)
        line = _webarena_line(node)
        if line and viewport is not None and not _in_viewport(box, viewport):
            line = ""
        if line:
            lines.append("\t" * depth + line)
            bounds[node["nodeId"]] = {
                "backend_id": backend,
                "union_bound": list(box) if box else None,
                "text": line,
            }
        for child in reversed(node.get("childIds", ())):
            if child in by_id and child != node["nodeId"]:
                pending.append((by_id[child], depth + bool(line)))
    tree = "\n".join(_without_repeated_text(lines))
    return WebArenaText(f"{tab_line(titles, current)}\n\n{tree}", bounds)


def _webarena_line(node: Node) -> str:
    """A node's line without its indent; empty if it has none."""
    role = node.get("role", {}).get("value", "")
    if "name" not in node or "backendDOMNodeId" not in node or role == "InlineTextBox":
        return ""
    name = node["name"].get("value", "")
    told = [
        f"{entry['name']}: {entry['value']['value']}"
        for entry in node.get("properties", ())
        if entry["name"] not in _WEBARENA_HIDDEN | {"url"} and "value" in entry.get("value", {})
    ]
    if not name.strip() and (role == "listitem" or (role in _EMPTY_ROLES and not told)):
        return ""
    return " ".join([f"[{node['nodeId']}] {role} {name!r}", *told])


def _in_viewport(box: Box | None, viewport: tuple[int, int]) -> bool:
    """WebArena's test: overlap / width * height, which is no share of the area."""
    if box is None or box[2] == 0 or box[3] == 0:
        return False
    x, y, width, height = box
    across = max(0.0, min(x + width, viewport[0]) - max(x, 0.0))
    down = max(0.0, min(y + height, viewport[1]) - max(y, 0.0))
    return across * down / width * height >= _MIN_RATIO


def _without_repeated_text(lines: Sequence[str]) -> Iterator[str]:
    """The lines without text that one of the three kept before holds."""
    kept: list[str] = []
    for line in lines:
        if "statictext" in line.lower():
            match = _STATIC_TEXT.search(line)
            text = match[1][1:-1] if match else ""
            if match and (not text or any(text in before for before in kept[-_LOOKS_BACK:])):
                continue
        kept.append(line)
        yield line
