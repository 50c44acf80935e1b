"""A page as CDP's DOM snapshot, with BrowserGym's ids and properties; the page is only read."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgym.environments.web.page import Page, script
from agentgym.errors import BrowserError

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the viewport."""
_ATTEMPTS = 3
_SNAPSHOT = {"computedStyles": [], "includeDOMRects": True, "includePaintOrder": False}
_HANDLERS = (
    '[...document.querySelectorAll("*")].map((e, i) => (e.onclick ? i : -1)).filter((i) => i >= 0)'
)
_ELEMENT, _DOCUMENT = 1, 9


@dataclass(frozen=True, slots=True)
class Marked:
    """What `mark` found."""

    dom: dict[str, Any]
    """``DOMSnapshot.captureSnapshot``'s answer; its elements have an attribute ``bid``, and
    ``value`` and ``checked`` as they are now."""
    bids: Mapping[int, str]
    """CDP's backend node id of an element: its bid."""
    boxes: Mapping[int, Box]
    """Backend node id: where the node is drawn; nodes that are not drawn are missing."""
    properties: dict[str, dict[str, Any]]
    """BrowserGym's ``extra_element_properties``: for each bid ``visibility``, ``bbox``,
    ``clickable`` and ``set_of_marks``."""
    focused: str
    """Bid of the focused element; empty if it has none."""


async def mark(page: Page, *, every_tag: bool = False, scale: float = 1.0) -> Marked:
    """Number a page's elements and tell where they are.

    Differs from BrowserGym: nothing is written to the page; visibility is computed from boxes and
    not by an observer; documents of other origins get no ids.

    Args:
        page: the page.
        every_tag: elements with names that are no HTML get ids too.
        scale: of the boxes in `Marked.properties`.

    Raises:
        BrowserError: the page never stood still.
    """
    for _ in range(_ATTEMPTS):
        found, dom = await asyncio.gather(
            _found(page, every_tag), page.session.send("DOMSnapshot.captureSnapshot", _SNAPSHOT)
        )
        try:
            return joined(dom, found, scale)
        except _Changed:
            continue
    raise BrowserError("the page changed while it was being read")


async def focused(page: Page, *, every_tag: bool = False) -> str:
    """Number a page's elements as `mark` does, without its snapshot.

    Returns:
        Bid of the focused element; empty if it has none.
    """
    found = await _found(page, every_tag)
    return str(found["focused"])


async def _found(page: Page, every_tag: bool) -> dict[str, Any]:
    handlers = await page.evaluate(_HANDLERS)
    asked = f"agentgym.mark({json.dumps(every_tag)}, {json.dumps(handlers)})"
    found = await page.ask(f"agentgym.mark ? {asked} : null")
    if found is None:
        await page.ask(script("bids.js"))
        found = await page.ask(asked)
    return dict(found)


class _Changed(Exception):
    """Snapshot and marking are not of the same page."""


def joined(dom: dict[str, Any], found: Mapping[str, Any], scale: float = 1.0) -> Marked:
    """A snapshot with what `bids.js` found on the same page; `dom` is changed."""
    strings = _Strings(dom["strings"])
    bids: dict[int, str] = {}
    everywhere: dict[int, Box] = {}
    properties: dict[str, dict[str, Any]] = {}
    pending = [(0, found["rows"], 0.0, 0.0)]
    while pending:
        number, rows, left, top = pending.pop()
        document = dom["documents"][number]
        boxes = _boxes(document, left, top)
        backends = document["nodes"]["backendNodeId"]
        everywhere.update((backends[index], box) for index, box in boxes.items())
        inside = document["nodes"].get("contentDocumentIndex", {"index": [], "value": []})
        frames = dict(zip(inside["index"], inside["value"], strict=True))
        elements = list(_elements(document, strings))
        if [tag for _, tag in elements] != [row["tag"] for row in rows or []]:
            if rows is not None:
                raise _Changed
            rows = [{"bid": ""} for _ in elements]
        clickable = set(document["nodes"]["isClickable"]["index"])
        for (index, _), row in zip(elements, rows or [], strict=True):
            if index in frames:
                x, y, _, _ = boxes.get(index, (0.0, 0.0, 0.0, 0.0))
                pending.append((frames[index], row.get("inside"), x, y))
            if not row["bid"]:
                continue
            _set_attributes(document["nodes"]["attributes"][index], row, strings)
            bids[backends[index]] = row["bid"]
            box = boxes.get(index)
            properties[row["bid"]] = {
                "visibility": float(row["seen"]),
                "bbox": [v * scale for v in box] if box else None,
                "clickable": index in clickable,
                "set_of_marks": row["marked"],
            }
    return Marked(dom, bids, everywhere, properties, found["focused"])


class _Strings:
    """A snapshot's table of strings, which may grow."""

    def __init__(self, table: list[str]) -> None:
        self.table = table
        self._index = {text: index for index, text in enumerate(table)}

    def number(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.table)
            self.table.append(text)
        return self._index[text]

    def __getitem__(self, index: int) -> str:
        return self.table[index] if index >= 0 else ""


def _elements(document: Mapping[str, Any], strings: _Strings) -> Iterator[tuple[int, str]]:
    """Index and tag of the elements that scripts can see, in the document's order."""
    nodes = document["nodes"]
    closed = {
        index
        for index, kind in zip(*_sparse(nodes.get("shadowRootType")), strict=True)
        if strings[kind] != "open"
    }
    pseudo = set(_sparse(nodes.get("pseudoType"))[0])
    hidden = [False] * len(nodes["parentIndex"])
    for index, parent in enumerate(nodes["parentIndex"]):
        hidden[index] = index in closed or index in pseudo or (parent >= 0 and hidden[parent])
        if not hidden[index] and nodes["nodeType"][index] == _ELEMENT:
            yield index, strings[nodes["nodeName"][index]].lower()


def _sparse(data: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    return (data["index"], data["value"]) if data else ([], [])


def _boxes(document: Mapping[str, Any], left: float, top: float) -> dict[int, Box]:
    """Where each drawn node of a document is; the document itself begins at (left, top)."""
    layout = document["layout"]
    x, y = left - document["scrollOffsetX"], top - document["scrollOffsetY"]
    boxes = {}
    rows = zip(layout["nodeIndex"], layout["bounds"], layout["clientRects"], strict=True)
    for index, bounds, client in rows:
        if client or document["nodes"]["nodeType"][index] != _ELEMENT:
            boxes[index] = (bounds[0] + x, bounds[1] + y, bounds[2], bounds[3])
    return boxes


def _set_attributes(attributes: list[int], row: Mapping[str, Any], strings: _Strings) -> None:
    """Write into the snapshot what BrowserGym writes into the page."""
    names = attributes[::2]
    given: dict[str, str | None] = {}
    if "value" in row:
        given["value"] = row["value"]
    if "checked" in row:
        given["checked"] = "" if row["checked"] else None
    for name, value in (given | {"bid": row["bid"]}).items():
        number = strings.number(name)
        if number in names:
            at = 2 * names.index(number)
            if value is None:
                del attributes[at : at + 2]
                names = attributes[::2]
            else:
                attributes[at + 1] = strings.number(value)
        elif value is not None:
            attributes += [number, strings.number(value)]
            names.append(number)


def stable(dom: dict[str, Any], tree: dict[str, Any]) -> None:
    """Give the nodes of a snapshot and of an accessibility tree numbers from 1, and frames too.

    Chromium's own differ between equal episodes, because it counts on.

    Args:
        dom: `Marked.dom`; changed.
        tree: of `axtree.fetch`, or empty; changed.
    """
    backends: dict[int, int] = {}
    for number, document in enumerate(dom["documents"]):
        given = document["nodes"]["backendNodeId"]
        for index, backend in enumerate(given):
            given[index] = backends.setdefault(backend, len(backends) + 1)
        dom["strings"][document["frameId"]] = f"frame {number}"
    numbered(tree.get("nodes", ()))
    frames: dict[str, str] = {}
    for node in tree.get("nodes", ()):
        if "frameId" in node:
            node["frameId"] = frames.setdefault(node["frameId"], f"frame {len(frames)}")
        for place in (node, *_related(node)):
            if "backendDOMNodeId" in place:
                backend = place["backendDOMNodeId"]
                place["backendDOMNodeId"] = backends.setdefault(backend, len(backends) + 1)


def numbered(nodes: Sequence[dict[str, Any]]) -> None:
    """Give the nodes of an accessibility tree ids from 1; they are changed."""
    ids: dict[str, str] = {}
    for node in nodes:
        for one in (node["nodeId"], *node.get("childIds", ())):
            ids.setdefault(one, str(len(ids) + 1))
    for node in nodes:
        node["nodeId"] = ids[node["nodeId"]]
        node["childIds"] = [ids[child] for child in node.get("childIds", ())]
        if "parentId" in node:
            node["parentId"] = ids.setdefault(node["parentId"], str(len(ids) + 1))


def _related(value: Any) -> Iterator[dict[str, Any]]:
    """The other nodes that a node's properties and sources name."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "relatedNodes":
                yield from part
            yield from _related(part)
    elif isinstance(value, list):
        for part in value:
            yield from _related(part)
