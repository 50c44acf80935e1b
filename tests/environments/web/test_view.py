"""Views of pages: looking things up."""

from agentgym.environments.web.view import Element, PageView

VIEW = PageView(
    (
        Element("", "text", "Ok"),
        Element("1", "button", " Ok "),
        Element("2", "link", "Ok"),
        Element("3", "button", "Cancel"),
    )
)


def test_elements_by_id() -> None:
    found = VIEW.get("3")
    assert found is not None
    assert found.name == "Cancel"
    assert VIEW.get("9") is None


def test_find_by_role_and_name_leaves_plain_text_out() -> None:
    assert [e.id for e in VIEW.find(name="Ok")] == ["1", "2"]
    assert [e.id for e in VIEW.find("button")] == ["1", "3"]
    assert [e.id for e in VIEW.find("button", "Ok ")] == ["1"]
    assert VIEW.find("slider") == []


def test_iteration_is_in_document_order() -> None:
    assert [e.id for e in VIEW] == ["", "1", "2", "3"]
