"""Pages written as text, so that oracles can be tried without a browser."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentgym.actions import ActionCall, ActionSet
from agentgym.environments.web.actions import action_set
from agentgym.environments.web.oracles import ORACLES, OracleContext
from agentgym.environments.web.view import Element, PageView

LINE = re.compile(
    r"\s*(?:\[(?P<id>\d+)\] )?(?P<role>\w+)(?: \"(?P<name>.*?)\")?(?: value=\"(?P<value>.*?)\")?"
    r"(?P<states>(?: [a-z]+)*)(?: at (?P<box>[-\d., ]+))?(?: \{(?P<attributes>.*)\})?"
)
SPECIAL = {  # role in these tests: (role, tag, attributes)
    "text": ("text", "#text", {}),
    "textbox": ("textbox", "input", {"type": "text"}),
    "password": ("textbox", "input", {"type": "password"}),
    "textarea": ("textbox", "textarea", {}),
    "spinbutton": ("spinbutton", "input", {"type": "number"}),
}

Act = Callable[..., str]


def page(text: str) -> PageView:
    """The view that the lines describe, e.g. ``[3] button "Ok" focused at 0,0,20,10 {class=a}``."""
    elements = []
    for line in text.strip().splitlines():
        match = LINE.fullmatch(line)
        assert match, f"bad line {line!r}"
        role, tag, attributes = SPECIAL.get(match["role"], (match["role"], "div", {}))
        given = dict(pair.split("=", 1) for pair in (match["attributes"] or "").split("; ") if pair)
        x, y, width, height = (float(v) for v in (match["box"] or "0,0,0,0").split(","))
        elements.append(
            Element(
                id=match["id"] or "",
                role=role,
                name=match["name"] or "",
                value=(match["value"] or "").replace("\\n", "\n"),
                tag=tag,
                states=(*match["states"].split(), *(("multiline",) if tag == "textarea" else ())),
                box=(x, y, width, height),
                attributes=tuple({**attributes, **given}.items()),
            )
        )
    return PageView(tuple(elements))


@pytest.fixture(scope="session")
def actions() -> ActionSet:
    return action_set()


@pytest.fixture
def act(actions: ActionSet) -> Act:
    """``act(task, goal, page, *calls so far)``: the oracle's answer as the model would write it."""

    def answer(
        task: str,
        goal: str,
        text: str,
        *history: str,
        evaluated: Any = None,
        memory: dict[Any, Any] | None = None,
    ) -> str:
        thought, call = ORACLES[task](
            OracleContext(
                goal=goal,
                view=page(text),
                evaluate=lambda expression: evaluated,
                history=_calls(actions, history),
                memory={} if memory is None else memory,
            )
        )
        assert thought == thought.strip()
        assert "\n" not in thought
        assert actions.call(call.name, **call.arguments) == call, "complete and of the right types"
        return f"{thought} {actions.format(call)}"

    return answer


def _calls(actions: ActionSet, texts: Sequence[str]) -> list[ActionCall]:
    return [actions.parse(text)[0] for text in texts]
