"""BrowserGym's actions: its subsets, signatures, grammar and errors, read as the engine's calls.

Facts of the interface (names, signatures, subsets, the layout of the description, error strings)
follow BrowserGym 0.14 (https://arxiv.org/abs/2412.05467); sentences and examples are our own.
"""

import inspect
import random
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentgym.actions import ActionCall
from agentgym.environments.web.browsergym_grammar import Parsed, parse_calls
from agentgym.environments.web.dialects import VOCABULARY, Plan
from agentgym.environments.web.view import PageView
from agentgym.errors import ActionParseError

Calls = list[ActionCall]
_Button = Literal["left", "middle", "right"]
_Modifier = Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]


class _Refused(Exception):
    """What BrowserGym would say of an argument, as a whole."""


def _to(name: str, **arguments: Any) -> ActionCall:
    try:
        return VOCABULARY.call(name, **arguments)
    except ActionParseError as error:
        raise _Refused(f"Error: {error}") from error


_KINDS = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}


def _text(method: str, name: str, value: str) -> str:
    if not isinstance(value, str):
        kind = _KINDS.get(type(value).__name__, "object")
        raise _Refused(f"Error: {method}: {name}: expected string, got {kind}")
    return value


def _pixels(value: float) -> float:
    """A coordinate; BrowserGym divides it by its zoom, and tells Python's own error."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise TypeError(f"unsupported operand type(s) for /: '{kind}' and 'float'")
    return value


def _bid(bid: str) -> str:
    if not isinstance(bid, str):
        raise ValueError(f"expected a string, got {bid!r}")
    return bid


def _checked_button(method: str, button: str) -> str:
    if button not in typing.get_args(_Button):
        raise _Refused(f"Error: {method}: button: expected one of (left|right|middle)")
    return button


def _checked_modifiers(method: str, modifiers: list[str]) -> str:
    for index, modifier in enumerate(modifiers):
        if modifier not in typing.get_args(_Modifier):
            known = "|".join(typing.get_args(_Modifier))
            raise _Refused(f"Error: {method}: modifiers[{index}]: expected one of ({known})")
    return "+".join(modifiers)


_KEY_NAMES = {
    "Backquote": "`",
    "Minus": "-",
    "Equal": "=",
    "Backslash": "\\",
    "ShiftLeft": "Shift",
    "ShiftRight": "Shift",
    "ControlLeft": "Control",
    "ControlRight": "Control",
    "AltLeft": "Alt",
    "AltRight": "Alt",
    "MetaLeft": "Meta",
    "MetaRight": "Meta",
    "BracketLeft": "[",
    "BracketRight": "]",
    "Semicolon": ";",
    "Quote": "'",
    "Comma": ",",
    "Period": ".",
    "Slash": "/",
    **{f"Key{letter}": letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    **{f"Digit{digit}": digit for digit in "0123456789"},
}


def _keys(method: str, key: str) -> str:
    """A combination of keys, each by the name that the engine knows."""
    key = _text(method, "key", key)
    parts = key.split("+") if len(key) > 1 else [key]
    return "+".join(_KEY_NAMES.get(part, part) for part in parts)


# ---- the actions: signature, description, and what the engine does for it --------------------


def noop(wait_ms: float = 1000) -> Calls:
    """Let some time pass (in milliseconds) and do nothing."""
    if isinstance(wait_ms, bool) or not isinstance(wait_ms, int | float):
        kind = _KINDS.get(type(wait_ms).__name__, "object")
        raise _Refused(f"Error: Page.wait_for_timeout: timeout: expected number, got {kind}")
    return [_to("wait", seconds=wait_ms / 1000)]


def send_msg_to_user(text: str) -> Calls:
    """Say something to the user; this is also how a question is answered."""
    if not isinstance(text, str):
        raise ValueError(f"Forbidden value: {text} is not a string")
    return [_to("answer", text=text)]


def report_infeasible(reason: str) -> Calls:
    """Tell the user that the task cannot be done, and why."""
    if not isinstance(reason, str):
        raise ValueError(f"Forbidden value: {reason} is not a string")
    return [_to("infeasible", reason=reason)]


def scroll(delta_x: float, delta_y: float) -> Calls:
    """Turn the mouse wheel by so many pixels: to the right and down, or left and up if negative."""
    return [_to("wheel", dx=_pixels(delta_x), dy=_pixels(delta_y))]


def fill(bid: str, value: str, enable_autocomplete_menu: bool = False) -> Calls:
    """Replace what a text field or editable element holds. Keys are typed, so that lists of suggestions open."""  # noqa: E501
    element = _bid(bid)
    return [_to("type", element=element, text=_text("Locator.fill", "value", value))]


def check(bid: str) -> Calls:
    """Make sure that a box or radio button is checked."""
    return [_to("set_checked", element=_bid(bid), checked=True)]


def uncheck(bid: str) -> Calls:
    """Make sure that a box is not checked."""
    return [_to("set_checked", element=_bid(bid), checked=False)]


def select_option(bid: str, options: str | list[str]) -> Calls:
    """Choose one option of a list, or several where the list allows it, by label or by value."""
    wanted = [options] if isinstance(options, str) else list(options)
    return [_to("select_only", element=_bid(bid), options=wanted)]


def click(
    bid: str,
    button: Literal["left", "middle", "right"] = "left",
    modifiers: list[Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]] = [],  # noqa: B006
) -> Calls:
    """Click an element, with any mouse button and with keys held if wanted."""
    return _clicked("Locator.click", bid, button, modifiers, 1)


def dblclick(
    bid: str,
    button: Literal["left", "middle", "right"] = "left",
    modifiers: list[Literal["Alt", "Control", "ControlOrMeta", "Meta", "Shift"]] = [],  # noqa: B006
) -> Calls:
    """Click an element twice in a row."""
    return _clicked("Locator.dblclick", bid, button, modifiers, 2)


def _clicked(method: str, bid: str, button: str, modifiers: Sequence[str], clicks: int) -> Calls:
    element = _bid(bid)
    held = _checked_modifiers(method, list(modifiers))
    if _checked_button(method, button) == "left" and not held:
        return [_to("click" if clicks == 1 else "dblclick", element=element)]
    return [_to("click_with", element=element, button=button, modifiers=held, clicks=clicks)]


def hover(bid: str) -> Calls:
    """Move the mouse onto an element."""
    return [_to("hover", element=_bid(bid))]


def press(bid: str, key_comb: str) -> Calls:
    """Give an element the focus and press a key there, or several at once joined by "+". Keys are named as in KeyboardEvent.key: Enter, Tab, Escape, ArrowDown, Backspace, F1, a, #; Shift, Control, Alt, Meta and ControlOrMeta are held while the last one is pressed."""  # noqa: E501
    return [_to("focus", element=_bid(bid)), _to("press", key=_keys("Locator.press", key_comb))]


def focus(bid: str) -> Calls:
    """Give an element the keyboard focus."""
    return [_to("focus", element=_bid(bid))]


def clear(bid: str) -> Calls:
    """Empty a text field."""
    return [_to("type", element=_bid(bid), text="")]


def drag_and_drop(from_bid: str, to_bid: str) -> Calls:
    """Press the mouse on one element, move it onto another one and let go there."""
    return [_to("drag", element=_bid(from_bid), to=_bid(to_bid))]


def upload_file(bid: str, file: str | list[str]) -> Calls:
    """Choose one or several files for a file field."""
    files = [file] if isinstance(file, str) else list(file)
    return [_to("upload", element=_bid(bid), files=files)]


def scroll_at(x: int, y: int, dx: int, dy: int) -> Calls:
    """Move the mouse to a point and turn its wheel there by so many pixels."""
    return [*mouse_move(x, y), *scroll(dx, dy)]


def mouse_move(x: float, y: float) -> Calls:
    """Move the mouse to a point, in pixels from the top left of the page's window."""
    return [_to("mouse_move", x=_pixels(x), y=_pixels(y))]


def mouse_up(x: float, y: float, button: Literal["left", "middle", "right"] = "left") -> Calls:
    """Move the mouse to a point and release a button there."""
    held = _checked_button("Mouse.up", button)
    return [_to("mouse_up", x=_pixels(x), y=_pixels(y), button=held)]


def mouse_down(x: float, y: float, button: Literal["left", "middle", "right"] = "left") -> Calls:
    """Move the mouse to a point, press a button there and keep it pressed."""
    held = _checked_button("Mouse.down", button)
    return [_to("mouse_down", x=_pixels(x), y=_pixels(y), button=held)]


def mouse_click(x: float, y: float, button: Literal["left", "middle", "right"] = "left") -> Calls:
    """Click a point."""
    held = _checked_button("Mouse.click", button)
    return [_to("click_point", x=_pixels(x), y=_pixels(y), button=held)]


def mouse_dblclick(
    x: float, y: float, button: Literal["left", "middle", "right"] = "left"
) -> Calls:
    """Click a point twice in a row."""
    held = _checked_button("Mouse.dblclick", button)
    return [_to("click_point", x=_pixels(x), y=_pixels(y), button=held, clicks=2)]


def mouse_drag_and_drop(from_x: float, from_y: float, to_x: float, to_y: float) -> Calls:
    """Press the mouse at one point, move it to another one and let go there."""
    x1, y1, x2, y2 = map(_pixels, (from_x, from_y, to_x, to_y))
    return [_to("drag_at", x1=x1, y1=y1, x2=x2, y2=y2)]


def mouse_upload_file(x: float, y: float, file: str | list[str]) -> Calls:
    """Click a point and choose files in the dialog that opens."""
    files = [file] if isinstance(file, str) else list(file)
    return [_to("upload", element=f"{x:g},{y:g}", files=files)]


def keyboard_down(key: str) -> Calls:
    """Press a key and keep it pressed."""
    return [_to("key_down", key=_keys("Keyboard.down", key))]


def keyboard_up(key: str) -> Calls:
    """Release a key."""
    return [_to("key_up", key=_keys("Keyboard.up", key))]


def keyboard_press(key: str) -> Calls:
    """Press a key, or several at once joined by "+", wherever the focus is. Keys are named as in KeyboardEvent.key: Enter, Tab, Escape, ArrowDown, Backspace, F1, a, #; Shift, Control, Alt, Meta and ControlOrMeta are held while the last one is pressed."""  # noqa: E501
    return [_to("press", key=_keys("Keyboard.press", key))]


def keyboard_type(text: str) -> Calls:
    """Type a text key by key, wherever the focus is."""
    return [_to("type_keys", text=_text("Keyboard.type", "text", text))]


def keyboard_insert_text(text: str) -> Calls:
    """Put a text where the focus is, as one input without keys."""
    return [_to("insert_text", text=_text("Keyboard.insert_text", "text", text))]


def goto(url: str) -> Calls:
    """Open an address."""
    return [_to("goto", url=url)]


def go_back() -> Calls:
    """Go back to the page before."""
    return [_to("go_back")]


def go_forward() -> Calls:
    """Go forward again after going back."""
    return [_to("go_forward")]


def new_tab() -> Calls:
    """Open an empty tab and go to it."""
    return [_to("new_tab")]


def tab_close() -> Calls:
    """Close the tab."""
    return [_to("tab_close")]


def tab_focus(index: int) -> Calls:
    """Go to a tab by its number; the first is 0."""
    if not isinstance(index, int):
        kind = type(index).__name__
        raise TypeError(f"list indices must be integers or slices, not {kind}")
    return [_to("tab_focus", index=index)]


_EXAMPLES: dict[Callable[..., Calls], tuple[str, ...]] = {
    noop: ("noop()", "noop(250)"),
    send_msg_to_user: ("send_msg_to_user('The cheapest one costs $12.')",),
    report_infeasible: ("report_infeasible('There is no way to change the colour here.')",),
    scroll: ("scroll(0, 300)", "scroll(-40.5, -120)"),
    fill: (
        "fill('17', 'first line\\nsecond line')",
        "fill('b23', 'the \"blue\" one')",
        "fill('140', 'Lisb', True)",
    ),
    check: ("check('31')",),
    uncheck: ("uncheck('b31')",),
    select_option: ("select_option('24', 'Monday')", "select_option('b9', ['small', 'large'])"),
    click: (
        "click('12')",
        "click('b7', button='right')",
        "click('95', button='middle', modifiers=['Control'])",
    ),
    dblclick: ("dblclick('33')", "dblclick('c8', button='left', modifiers=['Shift'])"),
    hover: ("hover('61')",),
    press: ("press('17', 'Enter')", "press('b23', 'ControlOrMeta+a')", "press('4', '#')"),
    focus: ("focus('b23')",),
    clear: ("clear('17')",),
    drag_and_drop: ("drag_and_drop('52', '77')",),
    upload_file: ("upload_file('80', 'letter.pdf')", "upload_file('b2', ['a.png', 'b.png'])"),
    scroll_at: ("scroll_at(40, 90, 0, 120)",),
    mouse_move: ("mouse_move(31.5, 128)",),
    mouse_up: ("mouse_up(300, 42)", "mouse_up(19, 77, 'right')"),
    mouse_down: ("mouse_down(110.4, 52)", "mouse_down(19, 77, 'right')"),
    mouse_click: ("mouse_click(71, 94.5)", "mouse_click(19, 77, 'right')"),
    mouse_dblclick: ("mouse_dblclick(71, 94.5)", "mouse_dblclick(19, 77, 'right')"),
    mouse_drag_and_drop: ("mouse_drag_and_drop(20, 35.5, 180, 35.5)",),
    mouse_upload_file: ("mouse_upload_file(64, 20, 'letter.pdf')",),
    keyboard_down: ("keyboard_down('Shift')", "keyboard_down('k')"),
    keyboard_up: ("keyboard_up('Shift')", "keyboard_up('k')"),
    keyboard_press: (
        "keyboard_press('Enter')",
        "keyboard_press('ControlOrMeta+a')",
        "keyboard_press('Shift+Tab')",
    ),
    keyboard_type: ("keyboard_type('Good morning!')",),
    keyboard_insert_text: ("keyboard_insert_text('Good morning!')",),
    goto: ("goto('http://www.example.org')",),
    go_back: ("go_back()",),
    go_forward: ("go_forward()",),
    new_tab: ("new_tab()",),
    tab_close: ("tab_close()",),
    tab_focus: ("tab_focus(1)",),
}
ACTIONS: dict[str, Callable[..., Calls]] = {f.__name__: f for f in _EXAMPLES}
"""Every action, by name."""

_COORD = (
    "scroll_at mouse_move mouse_up mouse_down mouse_click mouse_dblclick mouse_drag_and_drop "
    "mouse_upload_file keyboard_down keyboard_up keyboard_press keyboard_type keyboard_insert_text"
)
_BID = "scroll fill select_option click dblclick hover press focus clear drag_and_drop upload_file"
_WORKARENA = "scroll fill select_option click dblclick hover press focus clear drag_and_drop"
_TABS_AND_ADDRESSES = "tab_focus new_tab tab_close go_back go_forward goto"
_WEBARENA = (
    "scroll keyboard_press click fill hover tab_focus new_tab go_back go_forward goto tab_close "
    "select_option send_msg_to_user"
)
SUBSETS: dict[str, tuple[str, ...]] = {
    name: tuple(actions.split())
    for name, actions in {
        "chat": "send_msg_to_user",
        "infeas": "report_infeasible",
        "bid": _BID,
        "coord": _COORD,
        "nav": "go_back go_forward goto",
        "tab": "tab_close tab_focus new_tab",
        "miniwob_all": "mouse_move mouse_click mouse_dblclick mouse_down mouse_up scroll click "
        "keyboard_press keyboard_type fill",
        "miniwob_shi17": "mouse_click mouse_dblclick mouse_down mouse_up scroll keyboard_press",
        "miniwob_liu18": "click fill",
        "miniwob_humphreys22": "mouse_move mouse_click mouse_dblclick mouse_down mouse_up scroll "
        "keyboard_press keyboard_type",
        "webarena": f"{_WEBARENA} report_infeasible",
        "visualwebarena": f"{_WEBARENA} upload_file report_infeasible",
        "workarena": f"{_WORKARENA} send_msg_to_user",
        "workarena++": f"{_WORKARENA} {_TABS_AND_ADDRESSES} send_msg_to_user report_infeasible",
        "weblinx": "send_msg_to_user click hover fill goto scroll new_tab tab_close tab_focus",
        "assistantbench": "scroll fill select_option click press go_back goto send_msg_to_user",
        "timewarp": "scroll fill click press go_back goto send_msg_to_user report_infeasible "
        "new_tab tab_close tab_focus",
    }.items()
}
"""Actions of each named subset; ``noop`` is in all of them."""
DEFAULT_SUBSETS = ("chat", "infeas", "bid", "nav", "tab")


# ---- the action set --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HighLevelAction:
    """What is told of an action."""

    signature: str
    description: str
    examples: tuple[str, ...]


class HighLevelActionSet:
    """A choice of BrowserGym's actions: describes them, and reads text with calls of them.

    Differs: `to_python_code` returns the calls alone, normalised, and no program; text is never
    executed. With ``strict`` the message of a syntax error is our own.

    Args:
        subsets: names out of `SUBSETS`, or ``custom``.
        custom_actions: further actions out of `ACTIONS`, by name or as the function, for
            ``custom``.
        multiaction: several calls may be given at once.
        demo_mode: accepted and ignored.
        strict: nothing but calls and comments may stand in the text.
        retry_with_force: accepted and ignored.

    Raises:
        ValueError: no or unknown subsets or actions.
    """

    name = "browsergym"

    def __init__(
        self,
        subsets: str | Sequence[str] | None = DEFAULT_SUBSETS,
        custom_actions: Sequence[str | Callable[..., Any]] | None = None,
        multiaction: bool = True,
        demo_mode: str | None = None,
        strict: bool = False,
        retry_with_force: bool = False,
    ) -> None:
        if not subsets:
            raise ValueError(f"subsets is empty; name some of {sorted(SUBSETS)}")
        chosen = ["noop"]
        for subset in [subsets] if isinstance(subsets, str) else subsets:
            if subset == "custom":
                chosen += _custom(custom_actions)
            elif subset in SUBSETS:
                chosen += SUBSETS[subset]
            else:
                raise ValueError(f"Unknown high-level action subspace: {subset}")
        self.actions = {name: ACTIONS[name] for name in dict.fromkeys(chosen)}
        """The actions, by name, in the order of the description."""
        self.multiaction = multiaction
        self.strict = strict

    @property
    def action_set(self) -> dict[str, HighLevelAction]:
        """What `describe` tells of each action, by name."""
        return {
            name: HighLevelAction(signature(function), _description(function), _EXAMPLES[function])
            for name, function in self.actions.items()
        }

    def describe(self, with_long_description: bool = True, with_examples: bool = True) -> str:
        """The actions, for a prompt."""
        parts = [f"\n{len(self.actions)} different types of actions are available.\n\n"]
        for action in self.action_set.values():
            parts.append(f"{action.signature}\n")
            if with_long_description:
                parts.append(f"    Description: {action.description}\n")
            if with_examples:
                parts.append("    Examples:\n")
                parts += [f"        {example}\n\n" for example in action.examples]
        if self.multiaction:
            parts.append(
                "Several actions may be given at once; they are carried out one after the other, "
                "and the page is not shown in between.\nMore than two or three often fail. "
            )
        else:
            parts.append("Only a single action can be provided at once. ")
        parts.append(f"Example:\n{self.example_action(abstract=False)}\n")
        return "".join(parts)

    def example_action(self, abstract: bool, max_examples: int = 3) -> str:
        """One or a few example calls, or (`abstract`) a sentence on how many are wanted."""
        if abstract:
            if self.multiaction:
                return "One or several actions, separated by new lines."
            return "One single action to be executed. You can only use one action at a time."
        wanted = ("fill", "click", "mouse_click", "keyboard_type")
        names = [name for name in wanted if name in self.actions] or list(self.actions)
        examples = [example for name in names for example in _EXAMPLES[ACTIONS[name]]]
        random.Random(1).shuffle(examples)
        return "\n".join(examples[:max_examples]) if self.multiaction else examples[0]

    def to_tool_description(
        self, api: str = "openai", add_examples: bool = True
    ) -> list[dict[str, Any]]:
        """The actions as flat tools of OpenAI's Responses API, or of Anthropic's."""
        tools = []
        for name, action in self.action_set.items():
            text = action.description
            if add_examples:
                text += "\n\nExamples:\n" + "".join(f"- {e}\n" for e in action.examples)
            schema = "input_schema" if api == "anthropic" else "parameters"
            tool: dict[str, Any] = {"name": name, "description": text}
            tool[schema] = _schema(self.actions[name])
            tools.append({**tool, "type": "function"} if api == "openai" else tool)
        return tools

    def openai_tools(self) -> list[dict[str, Any]]:
        """The actions as tools of OpenAI's chat API."""
        return [
            {
                "type": "function",
                "function": {
                    "name": function.__name__,
                    "description": _description(function),
                    "parameters": _schema(function),
                },
            }
            for function in self.actions.values()
        ]

    def to_python_code(self, action: str) -> str:
        """The calls in a text, one a line.

        Raises:
            ValueError: there is none, or too many.
            NameError: a call is of no action of this set.
        """
        return "\n".join(_written(*call) for call in self._calls(action))

    def plan(self, text: str, view: PageView | None = None) -> Plan:
        """Read a model's text. Never raises.

        Calls before the first one that is wrong are carried out, as BrowserGym does; its error is
        told.
        """
        try:
            return _plan(self._calls(text))
        except (ValueError, NameError) as error:
            return Plan(error=_told(error))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Plan:
        """Read a tool call. Never raises."""
        if name not in self.actions:
            return Plan(error=f"NameError: Invalid action type '{name}'.")
        return _plan([(name, [], dict(arguments))])

    def _calls(self, text: str) -> list[Parsed]:
        calls = parse_calls(text, strict=self.strict)
        if not calls:
            raise ValueError("Received an empty action.")
        if len(calls) > 1 and not self.multiaction:
            raise ValueError("Received a multi-action, only single-actions are allowed.")
        for name, _, _ in calls:
            if name not in self.actions:
                raise NameError(f"Invalid action type '{name}'.")
        return calls


def signature(function: Callable[..., Any]) -> str:
    """Name and parameters, as Python prints them."""
    shown = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
    return f"{function.__name__}{shown}"


def _custom(actions: Sequence[str | Callable[..., Any]] | None) -> list[str]:
    if not actions:
        raise ValueError("the subset 'custom' needs custom_actions")
    names = [action if isinstance(action, str) else action.__name__ for action in actions]
    for name in names:
        if name not in ACTIONS:
            raise ValueError(f"custom action {name!r} is not one of {sorted(ACTIONS)}")
    return names


def _description(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split())


def _schema(function: Callable[..., Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        properties[name] = _type_schema(parameter.annotation)
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            properties[name]["default"] = parameter.default
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _type_schema(hint: Any) -> dict[str, Any]:
    plain = {str: "string", float: "number", int: "integer", bool: "boolean"}
    if hint in plain:
        return {"type": plain[hint]}
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return {"type": "string", "enum": list(arguments)}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _type_schema(arguments[0])}
    return {"anyOf": [_type_schema(argument) for argument in arguments]}


def _plan(calls: Sequence[Parsed]) -> Plan:
    made: list[ActionCall] = []
    sources: list[str] = []
    error = ""
    for name, positional, named in calls:
        try:
            meant = ACTIONS[name](*positional, **named)
        except (TypeError, ValueError, _Refused) as refusal:
            error = _told(refusal)
            break
        made += meant
        sources += [name] * len(meant)
    return Plan(tuple(made), error, sources=tuple(sources))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"


def _written(name: str, positional: Sequence[Any], named: Mapping[str, Any]) -> str:
    given = [*map(repr, positional), *(f"{key}={value!r}" for key, value in named.items())]
    return f"{name}({', '.join(given)})"
