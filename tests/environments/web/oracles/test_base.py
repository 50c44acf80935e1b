"""The oracles' context, table and helpers."""

import pytest

from agentgym.actions import ActionCall
from agentgym.environments.web.oracles import base
from agentgym.environments.web.oracles.base import (
    ORACLES,
    OracleContext,
    click,
    fill,
    fill_form,
    first,
    is_field,
    nth,
    oracle,
    privileged_tasks,
)
from agentgym.environments.web.view import Element, PageView


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the tables, so that what a test registers is forgotten."""
    monkeypatch.setattr(base, "ORACLES", dict(ORACLES))
    monkeypatch.setattr(base, "_privileged", set(privileged_tasks()))


def stop(context: OracleContext) -> tuple[str, ActionCall]:
    return "Stop.", ActionCall("wait", {"seconds": 1.0})


@pytest.mark.usefixtures("tables")
def test_register() -> None:
    assert oracle("a-task", "b-task", privileged=True)(stop) is stop
    assert base.ORACLES["a-task"] is base.ORACLES["b-task"] is stop
    assert {"a-task", "b-task"} <= privileged_tasks()
    with pytest.raises(ValueError, match="'b-task' has an oracle already"):
        oracle("c-task", "b-task")(stop)


def context(*elements: Element, goal: str = "") -> OracleContext:
    def evaluate(expression: str) -> None:
        raise AssertionError(f"not privileged: {expression}")

    return OracleContext(goal, PageView(elements), evaluate)


def test_ask() -> None:
    made = context(goal='Enter "Kim" and press Submit.')
    assert made.ask(r'Enter "(\w+)" and press (\w+)') == ("Kim", "Submit")
    assert made.ask(r"(Enter)|(Select)") == ("Enter", "")
    with pytest.raises(LookupError, match="does not match"):
        made.ask(r"Select (\w+)")


def test_elements_can_be_acted_on() -> None:
    made = context(
        Element("", "text", "Ok", tag="#text"),
        Element("1", "clickable", "Ok"),
        Element("2", "button", "Ok"),
    )
    assert [e.id for e in made.elements(name="Ok")] == ["1", "2"]
    assert made.element("button").id == "2"
    assert made.texts() == ["Ok"]
    assert made.submit("Ok", "Done.") == (
        'Done. Click "Ok".',
        ActionCall("click", {"element": "2"}),
    )
    with pytest.raises(LookupError, match="no button named 'Submit'"):
        made.submit()


@pytest.mark.parametrize(
    ("tag", "kind", "expected"),
    [
        ("input", "text", True),
        ("input", "password", True),
        ("input", "", True),
        ("input", "checkbox", False),
        ("textarea", "", True),
        ("select", "", False),
        ("button", "submit", False),
    ],
)
def test_is_field(tag: str, kind: str, expected: bool) -> None:
    element = Element("1", "role", "", tag=tag, attributes=(("type", kind),) if kind else ())
    assert is_field(element) is expected


def test_fill_form_goes_field_by_field() -> None:
    name = Element("1", "textbox", "", value="bob", tag="input")
    secret = Element("2", "textbox", "", tag="input", attributes=(("type", "password"),))
    masked = Element("2", "textbox", "", "**", "input", attributes=secret.attributes)
    done = ("Done.", click(Element("3", "button", "Ok")))
    wanted = [("Name", name, "bob"), ("Password", secret, "xY")]
    assert fill_form(wanted, done) == ("Password is xY.", fill(secret, "xY"))
    assert fill_form([("Name", name, "Bob"), *wanted], done) == ("Name is Bob.", fill(name, "Bob"))
    assert fill_form([("Name", name, "bob"), ("Password", masked, "xY")], done) == done


def test_first() -> None:
    assert first(iter([3, 4]), "number") == 3
    with pytest.raises(LookupError, match="the page shows no number"):
        first([], "number")


@pytest.mark.parametrize(("word", "index"), [("1st", 0), ("2nd", 1), ("12th", 11)])
def test_nth(word: str, index: int) -> None:
    assert nth(word) == index
