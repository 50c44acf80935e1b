"""How a browsing session looks to an agent, and what its words mean: one face an action language.

A face makes the observation's text and reads the agent's. Only what it shows is asked of the page.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from agentgym.actions import SYNTAXES, ActionCall, ActionSet, ActionSpec, Parameter
from agentgym.environments.web import axtree, markup
from agentgym.environments.web.actions import ALL_ACTIONS, action_set, sample_call
from agentgym.environments.web.browsergym_actions import HighLevelActionSet
from agentgym.environments.web.browsergym_errors import told
from agentgym.environments.web.dialects import (
    DIALECTS,
    VOCABULARY,
    Dialect,
    Plan,
    WebArenaActions,
    WebRLActions,
    placed,
)
from agentgym.environments.web.inputs import INPUT_ACTIONS
from agentgym.environments.web.page import Page
from agentgym.environments.web.session import ENDINGS, TAB_ACTIONS
from agentgym.environments.web.snapshot import Box, Marked, mark, numbered
from agentgym.environments.web.text import cut_lines, line, render
from agentgym.environments.web.uploads import UPLOAD, Uploads
from agentgym.environments.web.view import Element, PageView
from agentgym.errors import ConfigError, UnknownNameError

FACES: tuple[str, ...] = ("agentgym", *DIALECTS)
ACTIONS: tuple[str, ...] = (*ALL_ACTIONS, *TAB_ACTIONS, *ENDINGS)
"""What an agent is offered by default, in this engine's own language; `UPLOAD` if it has files."""
OFFERED: tuple[str, ...] = (*ACTIONS, UPLOAD.name, *INPUT_ACTIONS)
"""All that it may be offered."""
HEADS: tuple[str, ...] = ("tabs", "url", "focus", "notes", "files")
"""Lines that may stand above a page."""
MAX_TITLE = 80
MAX_URL = 300
MIN_CHARS = 100
T = TypeVar("T")
Counter = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Style:
    """What an agent is shown of a page, and how much."""

    max_chars: int = 8000
    max_tokens: int = 0
    """0 sets no limit; what a token is, `count_tokens` tells."""
    count_tokens: Counter | None = None
    """Tokens of a text; by default estimated from its length, rather too many than too few."""
    head: Sequence[str] = ("tabs", "url", "notes", "files")
    """Which of `HEADS`."""
    coordinates: bool = False
    """Lines tell where the middle of each element is, in pixels."""
    boxes: bool = False
    """Lines tell the box of each element: left, top, width and height in pixels."""
    viewport_only: bool | None = None
    """Nothing that would have to be scrolled to; None as the action language usually does."""

    def __post_init__(self) -> None:
        if self.max_chars < MIN_CHARS:
            raise ConfigError(f"max_chars must be at least {MIN_CHARS}, got {self.max_chars!r}")
        for name in self.head:
            if name not in HEADS:
                raise UnknownNameError("line above a page", name, HEADS)
        if self.max_tokens < 0 or (self.max_tokens and self.max_tokens < 100):
            raise ConfigError(f"max_tokens must be 0 or at least 100, got {self.max_tokens!r}")

    def fitted(self, write: Callable[[int], str]) -> str:
        """The longest text that fits, given what writes at most so many characters."""
        text = write(self.max_chars)
        if not self.max_tokens:
            return text
        count = self.count_tokens or estimated_tokens
        low, high = 0, len(text)
        if count(text) <= self.max_tokens:
            return text
        while high - low > 20:
            middle = (low + high) // 2
            if count(write(middle)) <= self.max_tokens:
                low = middle
            else:
                high = middle
        return write(low)


def style_of(given: Mapping[str, Any]) -> Style:
    """The style with these fields.

    Raises:
        UnknownNameError: there is no such field.
        ConfigError: a value is wrong.
    """
    known = [field.name for field in fields(Style)]
    for name in given:
        if name not in known:
            raise UnknownNameError("argument", name, known)
    return Style(**given)


def estimated_tokens(text: str) -> int:
    """Tokens of a text for usual vocabularies: one for three bytes of UTF-8, rounded up."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)


class Shown(Protocol):
    """What a face looks at: a `Session`, or `OnePage`. Only on the browser's loop."""

    size: tuple[int, int]
    uploads: Uploads | None

    @property
    def notes(self) -> Sequence[str]:
        """What the agent may like to know besides."""
        ...

    @property
    def index(self) -> int:
        """Which tab is the current one, from 0."""
        ...

    async def look(self) -> PageView:
        """The engine's own view of the page."""
        ...

    async def read(self, what: str, of: Callable[[Any], Coroutine[Any, Any, T]]) -> T | None:
        """What a coroutine finds out about the page; None if it cannot be read."""
        ...

    async def where(self) -> tuple[str, str]:
        """Address and title."""
        ...

    async def tab_list(self, view: PageView) -> list[tuple[str, str]]:
        """Address and title of each tab; the current one's are the view's."""
        ...


class OnePage:
    """A page that is no tab of a session, as faces look at it."""

    index = 0
    notes = ()

    def __init__(self, page: Page) -> None:
        self.page = page
        self.size = page.size
        self.uploads: Uploads | None = None

    async def look(self) -> PageView:
        """See `Shown.look`."""
        return await self.page.look()

    async def read(self, what: str, of: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """See `Shown.read`."""
        return await of(self.page)

    async def where(self) -> tuple[str, str]:
        """See `Shown.where`."""
        url, title = await self.page.ask("[location.href, document.title]")
        return url, title

    async def tab_list(self, view: PageView) -> list[tuple[str, str]]:
        """See `Shown.tab_list`."""
        return [(view.url, view.title)]


class Face(ABC):
    """One action language with its way to show pages."""

    def __init__(self, style: Style, actions: ActionSet, syntax: str) -> None:
        self.style = style
        self.action_set = actions
        """What prompts tell of the language."""
        self.syntax = syntax
        self.view = PageView(())
        """What the page showed last, as far as the language needs it."""

    @abstractmethod
    def plan(self, text: str) -> Plan:
        """What the agent's text asks for. Never raises."""

    @abstractmethod
    async def look(self, shown: Shown) -> str:
        """The observation's text; only on the browser's loop."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, words: Sequence[str], start: str) -> str:
        """A random action, as an agent would write it."""

    def told(self, said: str, source: str) -> str:
        """What the language says when the engine says this of its action `source`."""
        return said


def face_of(
    name: str,
    style: Style,
    *,
    actions: Sequence[str] | None = None,
    syntax: str = "",
    uploads: bool = False,
) -> Face:
    """The face of that name.

    Args:
        name: of `FACES`.
        style: what is shown.
        actions: to offer; of `OFFERED`, for BrowserGym names of its subsets, None for the usual.
        syntax: how they are written; empty for the language's own.
        uploads: there are files to choose.

    Raises:
        UnknownNameError: no such face, action or syntax.
        ConfigError: the language's actions are not to be chosen, or the syntax not its own.
    """
    if name not in FACES:
        raise UnknownNameError("dialect", name, FACES)
    if name == "agentgym":
        if actions is None:
            actions = (*ACTIONS, UPLOAD.name) if uploads else ACTIONS
        return OwnFace(style, _offered(actions), syntax or "python")
    if syntax not in ("", "json"):
        raise ConfigError(
            f"dialect {name!r} has a syntax of its own; leave action_syntax out, or use 'json' "
            f"for tool calls, got {syntax!r}"
        )
    if name == "browsergym":
        return BrowserGymFace(style, actions, syntax, uploads)
    if actions is not None:
        raise ConfigError(f"the actions of dialect {name!r} cannot be chosen; leave them out")
    return WebArenaFace(style, syntax) if name == "webarena" else WebRLFace(style, syntax)


# ---- this engine's own -----------------------------------------------------------------------


class OwnFace(Face):
    """One line an element, and one call an action."""

    def __init__(self, style: Style, actions: ActionSet, syntax: str) -> None:
        if syntax not in SYNTAXES:
            raise ConfigError(f"action_syntax must be one of {SYNTAXES}, got {syntax!r}")
        super().__init__(style, actions, syntax)

    def plan(self, text: str) -> Plan:
        """See `Face.plan`."""
        reading = self.action_set.read(text, self.syntax)
        if reading.call is None:
            return Plan(error=reading.error, thought=reading.thought)
        return Plan((reading.call,), "", reading.thought, (reading.call.name,))

    async def look(self, shown: Shown) -> str:
        """See `Face.look`."""
        return await self.show(shown, await shown.look())

    async def show(self, shown: Shown, view: PageView) -> str:
        """The observation's text for a view that was just taken."""
        self.view = view
        focus = view.get(view.focused)
        lines = await head_lines(shown, self.style, view, line(focus) if focus else "")
        if self.style.viewport_only:
            view = replace(view, elements=tuple(e for e in view if "offscreen" not in e.states))

        def write(limit: int) -> str:
            head = "\n".join(lines)[: limit // 2]
            left = max(0, limit - len(head) - 2 * bool(head))
            body = render(view, left, coordinates=self.style.coordinates, boxes=self.style.boxes)
            return f"{head}\n\n{body}" if head else body

        return self.style.fitted(write)

    def sample(self, rng: np.random.Generator, words: Sequence[str], start: str) -> str:
        """See `Face.sample`."""
        name = list(self.action_set)[int(rng.integers(len(self.action_set)))]
        if name in ALL_ACTIONS:
            call = sample_call(action_set([name]), self.view, rng, words=words)
        elif name in INPUT_ACTIONS or name == UPLOAD.name:
            call = ActionSet([self.action_set[name]]).sample(rng)
        else:
            word = words[int(rng.integers(len(words)))]
            values = {"url": start, "index": 0, "text": word, "reason": word}
            spec = self.action_set[name]
            call = ActionCall(name, {p.name: values[p.name] for p in spec.parameters})
        return self.action_set.format(call, self.syntax)


def _offered(names: Sequence[str]) -> ActionSet:
    for name in names:
        if name not in OFFERED:
            raise UnknownNameError("action", name, OFFERED)
    if not any(name in ENDINGS for name in names):
        raise ConfigError(f"the agent needs one of {tuple(ENDINGS)} to end an episode")
    return ActionSet([VOCABULARY[name] for name in names])


async def head_lines(shown: Shown, style: Style, view: PageView, focus: str) -> list[str]:
    """The lines above a page that are wanted.

    Args:
        shown: whose tabs and notes are told.
        style: which lines.
        view: address and title of the current tab.
        focus: what has the focus, in the face's own words; empty if nothing has.
    """
    lines = []
    for part in style.head:
        match part:
            case "tabs":
                tabs = await shown.tab_list(view)
                titles = [_title(title) for _, title in tabs]
                lines.append(axtree.tab_line(titles, shown.index))
            case "url":
                lines.append(f"URL: {_cut(view.url, MAX_URL)}")
            case "focus":
                lines.append(f"Focus: {focus or 'nothing'}")
            case "notes":
                lines += [f"Note: {_cut(note, MAX_URL)}" for note in shown.notes]
            case "files" if shown.uploads is not None:
                names = ", ".join(map(_title, shown.uploads.names()))
                lines.append(f"Files: {names or 'none'}")
    return lines


# ---- other projects' ---------------------------------------------------------------------------


class DialectActions(ActionSet):
    """The actions of a dialect, which tells of them in its own words."""

    def __init__(self, specs: Sequence[ActionSpec], dialect: Dialect) -> None:
        super().__init__(specs)
        self.dialect = dialect

    def describe(self, syntax: str = "python") -> str:
        """The dialect's own description; for tool calls the usual one."""
        return super().describe(syntax) if syntax == "json" else self.dialect.describe()

    def openai_tools(self) -> list[dict[str, Any]]:
        """The dialect's own tools."""
        return self.dialect.openai_tools()


class DialectFace(Face):
    """The face of a dialect: its words are read by it, and so are tool calls."""

    def __init__(self, style: Style, dialect: Dialect, syntax: str, own: str) -> None:
        specs = [_spec(tool["function"]) for tool in dialect.openai_tools()]
        super().__init__(style, DialectActions(specs, dialect), syntax or own)
        self.dialect = dialect

    def plan(self, text: str) -> Plan:
        """See `Face.plan`."""
        if self.syntax != "json":
            return self.dialect.plan(text, self.view)
        reading = self.action_set.read(text, "json")
        if reading.call is None:
            return Plan(error=reading.error, thought=reading.thought)
        plan = self.dialect.call(reading.call.name, reading.call.arguments)
        return replace(plan, thought=reading.thought)

    def written(self, name: str, *arguments: Any, **more: Any) -> str:
        """A call as an agent would write it."""
        return self.action_set.format(self.action_set.call(name, *arguments, **more), self.syntax)


def _spec(tool: Mapping[str, Any]) -> ActionSpec:
    """An action from its tool; a parameter of several kinds takes a list."""
    given = tool["parameters"]
    parameters = []
    for name, schema in given["properties"].items():
        default = {"default": schema["default"]} if name not in given.get("required", ()) else {}
        kind, choices = schema.get("type", "array"), tuple(schema.get("enum", ()))
        parameters.append(Parameter(name, kind, choices=choices, **default))
    return ActionSpec(tool["name"], tool["description"], tuple(parameters))


def _ids(view: PageView) -> list[str]:
    return [element.id for element in view if element.id]


class BrowserGymFace(DialectFace):
    """BrowserGym's actions, and its text of the accessibility tree."""

    def __init__(
        self, style: Style, subsets: Sequence[str] | None, syntax: str, uploads: bool
    ) -> None:
        usual = "visualwebarena" if uploads else "webarena"
        try:
            dialect = HighLevelActionSet(usual if subsets is None else list(subsets))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        super().__init__(style, dialect, syntax, "python")

    def told(self, said: str, source: str) -> str:
        """BrowserGym's error."""
        return told(said, source)

    async def look(self, shown: Shown) -> str:
        """See `Face.look`."""
        found = await shown.read("Looking at the page", _marked_tree)
        url, title = await shown.where()
        marked, tree = found or (None, {"nodes": []})
        properties = marked.properties if marked else {}
        self.view = self.viewed(marked, url, title)
        focus = f"[{self.view.focused}]" if self.view.focused else ""
        lines = await head_lines(shown, self.style, self.view, focus)
        text = axtree.flatten_axtree_to_str(
            tree,
            properties,
            with_visible=not self.style.viewport_only,
            with_clickable=True,
            with_center_coords=self.style.coordinates,
            with_bounding_box_coords=self.style.boxes,
            filter_visible_only=bool(self.style.viewport_only),
        )
        return self.style.fitted(lambda limit: cut_lines("\n".join([*lines, "", text]), limit))

    def viewed(self, marked: Marked | None, url: str, title: str) -> PageView:
        """What can be clicked, as far as errors and `sample` need it."""
        properties = marked.properties if marked else {}
        shown = [bid for bid in properties if properties[bid]["clickable"]]
        elements = tuple(Element(bid, "element", "") for bid in shown)
        return PageView(elements, url, title, marked.focused if marked else "")

    def sample(self, rng: np.random.Generator, words: Sequence[str], start: str) -> str:
        """A click, or a scroll if nothing can be clicked."""
        ids = _ids(self.view)
        if not ids:
            return self.written("scroll", 0, 200)
        return self.written("click", ids[int(rng.integers(len(ids)))])


async def _marked_tree(page: Page) -> tuple[Marked, dict[str, Any]]:
    marked = await mark(page)
    return marked, await axtree.fetch(page, marked)


class WebArenaFace(DialectFace):
    """WebArena's bracket actions, and its text of the accessibility tree.

    The address is the last line, as WebArena's prompts have it. By default what is out of view is
    not shown, as in all of its published runs.
    """

    def __init__(self, style: Style, syntax: str) -> None:
        super().__init__(style, WebArenaActions(), syntax, "bracket")
        self.nodes: Mapping[str, Mapping[str, Any]] = {}
        """See `axtree.WebArenaText`."""

    def plan(self, text: str) -> Plan:
        """See `Face.plan`; elements become the middle of their boxes, as WebArena clicks."""
        return placed(super().plan(text), self.nodes)

    async def look(self, shown: Shown) -> str:
        """See `Face.look`."""
        found = await shown.read("Looking at the page", _boxed_tree)
        tree, boxes = found or ({"nodes": []}, {})
        url, title = await shown.where()
        here = PageView((), url, title)
        titles = [title for _, title in await shown.tab_list(here)]
        numbered(tree["nodes"])
        whole = self.style.viewport_only is False
        made = axtree.webarena_text(
            tree["nodes"],
            [_cut(" ".join(each.split()), MAX_TITLE) for each in titles],
            shown.index,
            boxes=boxes,
            viewport=None if whole else shown.size,
        )
        self.nodes = made.nodes
        seen = (Element(id, "node", "") for id in made.nodes if made.nodes[id]["union_bound"])
        self.view = replace(here, elements=tuple(seen))
        others = replace(self.style, head=[h for h in self.style.head if h not in ("tabs", "url")])
        lines = await head_lines(shown, others, self.view, "")
        if "url" in self.style.head:
            lines.append(f"URL: {_cut(url, MAX_URL)}")
        end = "\n".join(["", *lines]) if lines else ""
        text = made.text if "tabs" in self.style.head else made.text.partition("\n\n")[2]
        return self.style.fitted(
            lambda limit: cut_lines(text, max(0, limit - len(end))) + end[: limit // 2]
        )

    def sample(self, rng: np.random.Generator, words: Sequence[str], start: str) -> str:
        """A click, or a scroll if there is nothing."""
        ids = _ids(self.view)
        if not ids:
            return self.written("scroll", "down")
        return self.written("click", ids[int(rng.integers(len(ids)))])


async def _boxed_tree(page: Page) -> tuple[dict[str, Any], Mapping[int, Box]]:
    tree = await axtree.fetch(page)
    return tree, (await mark(page)).boxes


class WebRLFace(DialectFace):
    """WebRL's calls, and its simplified HTML."""

    def __init__(self, style: Style, syntax: str) -> None:
        super().__init__(style, WebRLActions(), syntax, "python")

    async def look(self, shown: Shown) -> str:
        """See `Face.look`; without lines above the page but for notes and files."""
        rows = await shown.read("Looking at the page", markup.rows) or []
        url, title = await shown.where()
        self.view = PageView(tuple(_listed(rows)), url, title)
        head = [part for part in self.style.head if part in ("notes", "files")]
        lines = await head_lines(shown, replace(self.style, head=head), self.view, "")
        above = "".join(f"{each}\n" for each in lines)

        def write(limit: int) -> str:
            top = above[: limit // 2]
            left = max(0, limit - len(top))
            return top + markup.simplified_html(rows, positions=True, max_chars=left)

        return self.style.fitted(write)

    def sample(self, rng: np.random.Generator, words: Sequence[str], start: str) -> str:
        """A click, or a scroll if nothing can be clicked."""
        ids = _ids(self.view)
        if not ids:
            return self.written("do", "Scroll Down")
        return self.written("do", "Click", element=ids[int(rng.integers(len(ids)))])


def _listed(rows: Sequence[markup.Row]) -> list[Element]:
    """What has an id, with the options of lists."""
    options: dict[int, list[str]] = {}
    above: dict[int, int] = {}  # an option's list
    for index, (parent, tag, *_) in enumerate(rows):
        if tag == "select":
            options[index] = []
        elif tag in ("option", "optgroup") and (parent in options or parent in above):
            above[index] = above.get(parent, parent)
        elif tag == "#text" and parent in above:
            options[above[parent]].append(" ".join(rows[index][6].split()))
    return [
        Element(str(row[2]), row[1], "", options=tuple(options.get(index, ())))
        for index, row in enumerate(rows)
        if row[2] >= 0
    ]


def _title(text: str) -> str:
    return json.dumps(_cut(" ".join(text.split()), MAX_TITLE), ensure_ascii=False)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - 3)] + "..."
