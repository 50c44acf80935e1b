from typing import Any

import pytest

from agentgym.actions import ActionCall
from agentgym.environments.web.browsergym_actions import HighLevelActionSet
from agentgym.environments.web.faces import (
    FACES,
    OFFERED,
    Style,
    WebRLFace,
    estimated_tokens,
    face_of,
)
from agentgym.errors import ConfigError, UnknownNameError

ENDS = {
    "agentgym": 'answer("12")',
    "browsergym": "send_msg_to_user('12')",
    "webarena": "stop [12]",
    "webrl": 'exit(message="12")',
}


@pytest.mark.parametrize("name", FACES)
def test_each_face_tells_its_actions_and_reads_them(name: str) -> None:
    face = face_of(name, Style())
    assert face.plan(ENDS[name]).calls == (ActionCall("answer", {"text": "12"}),)
    wrong = face.plan("Hello!")
    assert (wrong.calls, bool(wrong.error)) == ((), True)
    tools = face.action_set.openai_tools()
    assert {tool["function"]["name"] for tool in tools} == set(face.action_set)
    assert all(tool["function"]["parameters"]["type"] == "object" for tool in tools)
    for action in ("click", "goto") if name != "webrl" else ("Click", "Go Backward"):
        assert action in face.action_set.describe(face.syntax)


@pytest.mark.parametrize("name", FACES)
def test_each_face_reads_tool_calls(name: str) -> None:
    face = face_of(name, Style(), syntax="json")
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "agentgym": ("answer", {"text": "12"}),
        "browsergym": ("send_msg_to_user", {"text": "12"}),
        "webarena": ("stop", {"answer": "12"}),
        "webrl": ("exit", {"message": "12"}),
    }
    name, arguments = calls[name]
    plan = face.plan(str({"name": name, "arguments": arguments}).replace("'", '"'))
    assert plan.calls == (ActionCall("answer", {"text": "12"}),)


def test_actions_are_chosen() -> None:
    assert "upload" in face_of("agentgym", Style(), uploads=True).action_set
    assert "upload" not in face_of("agentgym", Style()).action_set
    raw = face_of("agentgym", Style(), actions=["click_point", "type_keys", "answer"])
    assert list(raw.action_set) == ["click_point", "type_keys", "answer"]
    assert face_of("agentgym", Style(), actions=OFFERED).action_set["wheel"]
    coordinates = face_of("browsergym", Style(), actions=["coord", "chat"])
    assert "mouse_click" in coordinates.action_set
    assert "click" not in coordinates.action_set
    described = HighLevelActionSet("webarena").describe()
    assert face_of("browsergym", Style()).action_set.describe() == described
    assert "upload_file" in face_of("browsergym", Style(), uploads=True).action_set


def test_bad_choices_are_refused() -> None:
    for arguments, error in (
        ({"name": "x"}, UnknownNameError),
        ({"name": "agentgym", "actions": ["click"]}, ConfigError),
        ({"name": "agentgym", "syntax": "xml"}, ConfigError),
        ({"name": "webarena", "actions": ["click"]}, ConfigError),
        ({"name": "browsergym", "actions": []}, ConfigError),
    ):
        with pytest.raises(error):
            face_of(style=Style(), **arguments)


def test_a_budget_of_tokens() -> None:
    style = Style(max_chars=1000, max_tokens=100, count_tokens=lambda text: len(text) // 2)
    assert 180 <= len(style.fitted(lambda limit: "x" * min(limit, 5000))) <= 201
    assert style.fitted(lambda limit: "short") == "short"
    assert estimated_tokens("abc" * 10) == 10
    assert estimated_tokens("日本語") == 3  # more than usual vocabularies need, never fewer


def test_elements_become_points_for_webarena() -> None:
    face = face_of("webarena", Style())
    assert face.plan("click [3]").error == "There is no element [3]."
    face.nodes = {"3": {"union_bound": [10, 20, 30, 40]}}  # type: ignore[attr-defined]
    (call,) = face.plan("click [3]").calls
    assert (call.name, call.arguments["x"], call.arguments["y"]) == ("click_point", 25.0, 40.0)


def test_webrl_names_options_by_a_part() -> None:
    from agentgym.environments.web.faces import _listed
    from agentgym.environments.web.view import PageView

    rows: list[Any] = [
        (-1, "body", -1, [], [0, 0, 9, 9], True, ""),
        (0, "select", 0, [], [0, 0, 9, 9], True, ""),
        (1, "optgroup", -1, [], [0, 0, 9, 9], True, ""),
        (2, "option", -1, [], [0, 0, 9, 9], False, ""),
        (3, "#text", -1, [], [0, 0, 9, 9], False, " Dark  blue "),
        (0, "button", 1, [], [0, 0, 9, 9], True, ""),
    ]
    face = face_of("webrl", Style())
    assert isinstance(face, WebRLFace)
    face.view = PageView(tuple(_listed(rows)))
    assert [e.id for e in face.view] == ["0", "1"]
    (call,) = face.plan('do(action="Select Dropdown Option", argument="BLUE", element="0")').calls
    assert call.arguments == {"element": "0", "option": "Dark blue"}
