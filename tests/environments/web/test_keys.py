import pytest

from agentgym.environments.web.keys import parse_keys, type_key


@pytest.mark.parametrize(
    ("name", "key", "code", "modifiers", "text"),
    [
        ("Enter", "Enter", "Enter", 0, "\r"),
        ("return", "Enter", "Enter", 0, "\r"),
        ("esc", "Escape", "Escape", 0, ""),
        ("a", "a", "KeyA", 0, "a"),
        ("A", "A", "KeyA", 8, "A"),
        ("Space", " ", "Space", 0, " "),
        (" ", " ", "Space", 0, " "),
        ("+", "+", "", 0, "+"),
        ("Control+a", "a", "KeyA", 2, ""),
        ("ctrl+shift+Tab", "Tab", "Tab", 10, ""),
        ("Shift+A", "A", "KeyA", 8, "A"),
        ("Control++", "+", "", 2, ""),
        ("é", "é", "", 0, "é"),
        ("ArrowDown", "ArrowDown", "ArrowDown", 0, ""),
    ],
)
def test_names_of_keys(name: str, key: str, code: str, modifiers: int, text: str) -> None:
    keys, error = parse_keys(name)
    assert error == ""
    assert [(k.key, k.code, k.modifiers, k.text) for k in keys] == [(key, code, modifiers, text)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Entre", "Did you mean 'Enter'?"),
        ("", "Keys: Enter"),
        ("Hyper+a", "Modifiers: Control"),
        ("hello world", "Unknown key"),
        ("x" * 5000, "Unknown key"),
        ("\x00", "Unknown key"),
        ("a+", "Unknown key"),
        ("++", "Unknown key"),
    ],
)
def test_what_is_no_key_is_said(name: str, said: str) -> None:
    keys, error = parse_keys(name)
    assert keys == []
    assert said in error
    assert len(error) < 200


def test_control_a_selects_everything() -> None:
    assert parse_keys("Control+a")[0][0].down()["commands"] == ["selectAll"]


def test_a_typed_key_types_and_a_held_one_does_not() -> None:
    assert type_key("x").down()["type"] == "keyDown"
    assert type_key("\n").down()["text"] == "\r"
    assert parse_keys("Control+x")[0][0].down()["type"] == "rawKeyDown"
    assert "text" not in type_key("x").up()
