"""Action languages of other projects, read as this engine's own calls: pure text, never run."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agentgym.actions import MAX_TEXT, ActionCall, ActionSet, ActionSpec, Parameter
from agentgym.environments.web.actions import action_set
from agentgym.environments.web.inputs import INPUT_ACTIONS
from agentgym.environments.web.session import ENDINGS, TAB_ACTIONS
from agentgym.environments.web.uploads import UPLOAD
from agentgym.environments.web.view import PageView
from agentgym.errors import ActionParseError, UnknownNameError

# ---- the calls that plans are made of -------------------------------------------------------


SESSION_ACTIONS = ActionSet([*TAB_ACTIONS.values(), *ENDINGS.values(), UPLOAD])
"""What a page alone cannot do: addresses, tabs, talking. Environments carry out what they can."""

VOCABULARY = ActionSet([*action_set().values(), *INPUT_ACTIONS.values(), *SESSION_ACTIONS.values()])
"""All calls that plans are made of: `actions`, `inputs` and `SESSION_ACTIONS`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a text asks for."""

    calls: tuple[ActionCall, ...] = ()
    """The engine's calls, in order; carried out before `error` is told."""
    error: str = ""
    """What is wrong with the text, in the dialect's own words; empty if nothing is."""
    thought: str = ""
    """What the text says besides."""
    sources: tuple[str, ...] = ()
    """For each call, the dialect's action that it belongs to."""

    def missing(self, offered: Collection[str]) -> str:
        """What an environment that offers only these calls must refuse; empty if nothing.

        Example:
            >>> Plan((ActionCall("click"), ActionCall("goto"))).missing({"click"})
            'This environment cannot do: goto.'
        """
        names = dict.fromkeys(call.name for call in self.calls if call.name not in offered)
        return f"This environment cannot do: {', '.join(names)}." if names else ""


class Dialect(Protocol):
    """One action language."""

    name: str

    def plan(self, text: str, view: PageView | None = None) -> Plan:
        """Read a model's text. Never raises.

        Args:
            text: what the model wrote.
            view: the page, where the language's words depend on it.
        """
        ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> Plan:
        """Read a tool call, such as a model makes with `openai_tools`. Never raises."""
        ...

    def describe(self) -> str:
        """The language, for a prompt."""
        ...

    def openai_tools(self) -> list[dict[str, Any]]:
        """Its actions as OpenAI tools."""
        ...


DIALECTS: tuple[str, ...] = ("browsergym", "webarena", "webrl")


def dialect(name: str) -> Dialect:
    """The dialect of that name, with its usual actions.

    Raises:
        UnknownNameError: there is none.
    """
    match name:
        case "browsergym":
            from agentgym.environments.web.browsergym_actions import HighLevelActionSet

            return HighLevelActionSet()
        case "webarena":
            return WebArenaActions()
        case "webrl":
            return WebRLActions()
    raise UnknownNameError("dialect", name, DIALECTS)


def made(name: str, source: str, *calls: tuple[str, dict[str, Any]]) -> Plan:
    """The plan of what one action `name` stands for; a call that cannot be made is its error."""
    try:
        ready = tuple(VOCABULARY.call(call, **arguments) for call, arguments in calls)
    except ActionParseError as error:
        return Plan(error=f"{name}: {error}")
    return Plan(ready, sources=(source,) * len(ready))


def _unknown(name: str, known: ActionSet) -> str:
    return f"There is no action {name[:40]!r}. Actions: {', '.join(known)}."


# ---- WebArena -------------------------------------------------------------------------------

_ELEMENT = Parameter("element", doc="the number in brackets before the element")
_WEBARENA = ActionSet(
    [
        ActionSpec("click", "Click an element.", (_ELEMENT,)),
        ActionSpec("hover", "Move the mouse onto an element.", (_ELEMENT,)),
        ActionSpec(
            "type",
            "Click a field and type; Enter follows unless press_enter_after is 0.",
            (
                _ELEMENT,
                Parameter("text"),
                Parameter("press_enter_after", "integer", 1, choices=(0, 1)),
            ),
        ),
        ActionSpec("press", "Press keys together, e.g. Control+v.", (Parameter("key_comb"),)),
        ActionSpec(
            "scroll",
            "Scroll by one screen.",
            (Parameter("direction", choices=("up", "down")),),
        ),
        ActionSpec("new_tab", "Open an empty tab."),
        ActionSpec("tab_focus", "Go to a tab.", (Parameter("tab_index", "integer"),)),
        ActionSpec("close_tab", "Close the tab."),
        ActionSpec("goto", "Open an address.", (Parameter("url"),)),
        ActionSpec("go_back", "Go back to the page before."),
        ActionSpec("go_forward", "Undo go_back."),
        ActionSpec(
            "stop",
            "End the task with an answer; N/A if it cannot be done.",
            (Parameter("answer", default=""),),
        ),
    ]
)
_WEBARENA_FORMS = {
    "click": re.compile(r"click ?\[(\d+)\]"),
    "hover": re.compile(r"hover ?\[(\d+)\]"),
    "type": re.compile(r"type ?\[(\d+)\] ?\[(.+)\] ?\[(\d+)\]"),
    "press": re.compile(r"press ?\[(.+)\]"),
    "scroll": re.compile(r"scroll ?\[?(up|down)\]?"),
    "goto": re.compile(r"goto ?\[(.+)\]"),
    "tab_focus": re.compile(r"tab_focus ?\[(\d+)\]"),
    "stop": re.compile(r"stop ?\[(.+)\]"),
}
_FENCE = re.compile(r"```((?:.|\n)*?)```")


class WebArenaActions:
    """The bracket actions of WebArena, e.g. ``type [12] [red shoes] [1]``, by its own rules.

    Source: https://arxiv.org/abs/2307.13854; the rules are those of its parser of id-based actions.

    Args:
        fenced: the action must stand between two ```` ``` ````, and the first such pair counts, as
            in WebArena's prompts. Otherwise a text without them is an action as a whole.
    """

    name = "webarena"

    def __init__(self, *, fenced: bool = False) -> None:
        self.fenced = fenced

    def plan(self, text: str, view: PageView | None = None) -> Plan:
        """Read a model's text. Never raises.

        As in WebArena, an action that cannot be read does nothing and is told.
        """
        text = text[-MAX_TEXT:]
        found = _FENCE.search(text)
        if found is None and self.fenced:
            return Plan(error="No action between ``` and ``` was found.", thought=text.strip())
        action = found[1].strip() if found else text.strip()
        thought = text[: found.start()].strip() if found else ""
        return replace(self._read(action), thought=thought)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Plan:
        """Read a tool call. Never raises."""
        if name not in _WEBARENA:
            return Plan(error=_unknown(name, _WEBARENA))
        try:
            bound = _WEBARENA[name].bind((), arguments)
        except ActionParseError as error:
            return Plan(error=str(error))
        return self._made(name, list(bound.values()))

    def describe(self) -> str:
        """One line an action."""
        return _WEBARENA.describe("bracket")

    def openai_tools(self) -> list[dict[str, Any]]:
        """Its actions as OpenAI tools."""
        return _WEBARENA.openai_tools()

    def _read(self, action: str) -> Plan:
        words = action.split()
        name = action.split("[")[0].strip() if "[" in action else (words[0] if words else "")
        if name not in _WEBARENA:
            return Plan(error=_unknown(name, _WEBARENA))
        if name not in _WEBARENA_FORMS:
            return self._made(name, [])
        if name == "type" and not action.endswith(("[0]", "[1]")):
            action += " [1]"
        match = _WEBARENA_FORMS[name].search(action)
        if match is None and name != "stop":
            form = _WEBARENA[name].bracket_signature()
            return Plan(error=f"Could not read {action[:60]!r}; write {form}.")
        return self._made(name, list(match.groups()) if match else [""])

    def _made(self, name: str, values: Sequence[Any]) -> Plan:
        calls: list[tuple[str, dict[str, Any]]]
        match name, list(values):
            case "click" | "hover", [element]:
                calls = [(name, {"element": element})]
            case "type", [element, text, enter]:
                typed = str(text) + ("\n" if int(enter) == 1 else "")
                calls = [("click", {"element": element}), ("type_keys", {"text": typed})]
            case "press", [key]:
                calls = [("press", {"key": key})]
            case "scroll", [direction]:
                calls = [("scroll_pages", {"pages": 1.0 if direction == "down" else -1.0})]
            case "goto", [url]:
                calls = [("goto", {"url": url})]
            case "tab_focus", [index]:
                calls = [("tab_focus", {"index": index})]
            case "close_tab", _:
                calls = [("tab_close", {})]
            case "stop", [text]:
                calls = [("answer", {"text": text})]
            case _:
                calls = [(name, {})]
        return made(name, name, *calls)


def placed(plan: Plan, nodes: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The plan as WebArena carries it out: at the middle of elements' boxes, whatever is there.

    Args:
        plan: of `WebArenaActions`.
        nodes: of `axtree.WebArenaText`, whose ids the plan names.

    Returns:
        A plan that names no element; an error if there is no such id, or it has no box.
    """
    calls = []
    for call in plan.calls:
        if "element" not in call.arguments:
            calls.append(call)
            continue
        element = call.arguments["element"]
        box = nodes.get(element, {}).get("union_bound")
        if box is None or call.name not in _AT_A_POINT:
            return replace(plan, calls=(), sources=(), error=f"There is no element [{element}].")
        x, y, width, height = box
        point = {"x": x + width / 2, "y": y + height / 2}
        calls.append(VOCABULARY.call(_AT_A_POINT[call.name], **point))
    return replace(plan, calls=tuple(calls))


_AT_A_POINT = {"click": "click_point", "hover": "mouse_move"}


# ---- WebRL ----------------------------------------------------------------------------------

_WEBRL_CALLS: dict[str, tuple[str, ...]] = {
    "Click": ("element",),
    "Type": ("argument", "element"),
    "Search": ("argument", "element"),
    "Hover": ("element",),
    "Scroll Down": (),
    "Scroll Up": (),
    "Press Enter": (),
    "Select Dropdown Option": ("argument", "element"),
    "Go Backward": (),
    "Go Forward": (),
}
_WEBRL = ActionSet(
    [
        ActionSpec(
            "do",
            "One action on the page; element is the id of the element, argument the text.",
            (
                Parameter("action", choices=tuple(_WEBRL_CALLS)),
                Parameter("argument", default=""),
                Parameter("element", default=""),
            ),
        ),
        ActionSpec("go_backward", "Go back to the page before."),
        ActionSpec("exit", "End the task with a message.", (Parameter("message", default=""),)),
    ]
)


class WebRLActions:
    """The calls of WebRL, e.g. ``do(action="Click", element="7")``; comment lines are thoughts.

    Source: https://arxiv.org/abs/2411.02337. ``go_backward()``, which its prompt teaches, is read
    too. The last call that can be read counts.
    """

    name = "webrl"

    def plan(self, text: str, view: PageView | None = None) -> Plan:
        """Read a model's text. Never raises.

        Args:
            text: what the model wrote.
            view: the page; an option of a list is named by a part of its label.
        """
        reading = _WEBRL.read(text)
        if reading.call is None:
            error = reading.error
            if error.startswith("No action found."):
                error = 'No action found. Write one, e.g. do(action="Click", element="7")'
            return Plan(error=error, thought=reading.thought)
        plan = self._made(reading.call.name, reading.call.arguments, view)
        return replace(plan, thought=reading.thought)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Plan:
        """Read a tool call. Never raises."""
        return self._made(name, arguments, None)

    def describe(self) -> str:
        """One line a call."""
        lines = [f'exit(message="..."): {_WEBRL["exit"].doc}']
        for action, given in _WEBRL_CALLS.items():
            parts = [f'action="{action}"', *(f'{name}="..."' for name in given)]
            lines.append(f"do({', '.join(parts)})")
        return "\n".join(lines)

    def openai_tools(self) -> list[dict[str, Any]]:
        """Its calls as OpenAI tools."""
        return _WEBRL.openai_tools()

    def _made(self, name: str, given: Mapping[str, Any], view: PageView | None) -> Plan:
        if name not in _WEBRL:
            return Plan(error=_unknown(name, _WEBRL))
        try:
            bound = _WEBRL[name].bind((), given)
        except ActionParseError as error:
            return Plan(error=str(error))
        if name == "exit":
            return made(name, name, ("answer", {"text": bound["message"]}))
        if name == "go_backward":
            return made(name, name, ("go_back", {}))
        action = bound["action"]
        if "element" in _WEBRL_CALLS[action] and not bound["element"]:
            return Plan(error=f'do(action="{action}"): element is missing')
        return made(action, action, *_webrl_calls(action, bound, view))


def _webrl_calls(
    action: str, bound: Mapping[str, Any], view: PageView | None
) -> list[tuple[str, dict[str, Any]]]:
    element, argument = bound["element"], bound["argument"]
    match action:
        case "Click" | "Hover":
            return [(action.lower(), {"element": element})]
        case "Type":
            return [("type", {"element": element, "text": argument})]
        case "Search":
            typed = ("type", {"element": element, "text": argument})
            return [typed, ("press", {"key": "Enter"})]
        case "Scroll Down" | "Scroll Up":
            return [("scroll", {"direction": action.split()[1].lower()})]
        case "Press Enter":
            return [("press", {"key": "Enter"})]
        case "Go Backward":
            return [("go_back", {})]
        case "Go Forward":
            return [("go_forward", {})]
    shown = view.get(element) if view else None
    options = shown.options if shown else ()
    holding = (option for option in options if argument.lower() in option.lower())
    return [("select", {"element": element, "option": next(holding, argument)})]
