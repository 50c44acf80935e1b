import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.web import uploads
from agentgym.environments.web.page import Page
from agentgym.environments.web.uploads import Uploads
from agentgym.errors import ConfigError

PageOf = Callable[[str], Page]
FIELD = """<input type=file id=f onchange="Promise.all([...files].map(f => f.text()))
    .then(texts => document.title = [...files].map(f => f.name + ':' + f.type) + '=' + texts)">"""
FILES: Mapping[str, bytes] = {"a.txt": b"one", "b.png": b"\x89PNG", "c.txt": b"zwei"}


def choose(page: Page, element: str, *names: str, given: Any = FILES) -> str:
    page.run(page.look())
    return page.run(Uploads(given).choose(page, element, names))


def title(page: Page) -> str:
    """What the page has read, which takes a moment."""
    for _ in range(200):
        said = str(page.run(page.evaluate("document.title")))
        if said != "T":
            break
    page.run(page.evaluate("void (document.title = 'T')"))
    return said


@pytest.mark.browser
def test_a_field_gets_the_bytes(page_of: PageOf) -> None:
    page = page_of(FIELD)
    assert choose(page, "1", "a.txt") == ""
    assert title(page) == "a.txt:text/plain=one"
    assert choose(page, "1", "a.txt", "c.txt") == 'Element "1" takes one file only.'
    page = page_of(FIELD.replace("<input", "<input multiple"))
    assert choose(page, "1", "a.txt", "c.txt") == ""
    assert title(page) == "a.txt:text/plain,c.txt:text/plain=one,zwei"


@pytest.mark.browser
@pytest.mark.parametrize("element", ["1", "20,10"])
def test_a_button_that_asks_for_files(page_of: PageOf, element: str) -> None:
    hidden = FIELD.replace("<input", "<input style='display: none'")
    button = "<button onclick='f.click()' style='width: 80px; height: 40px'>Attach</button>"
    page = page_of(button + hidden)
    assert choose(page, element, "c.txt") == ""
    assert title(page) == "c.txt:text/plain=zwei"


@pytest.mark.browser
def test_what_asks_for_no_file(page_of: PageOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "CHOOSER_S", 0.1)
    page = page_of("<button>Nothing</button>" + FIELD.replace("<input", "<input disabled"))
    assert choose(page, "1", "a.txt") == 'Element "1" asks for no file.'
    assert choose(page, "2", "a.txt") == 'Element "2" is disabled.'
    assert choose(page, "9", "a.txt").startswith('There is no element "9".')


def refused(given: Any, *names: str) -> str:
    """What is said before any page is asked."""
    return asyncio.run(Uploads(given).choose(None, "1", names))  # type: ignore[arg-type]


def test_only_given_files_can_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "in.txt").write_text("in")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to(folder / "loop")
    assert Uploads(folder).names() == ["sub/in.txt"]
    for name in ("/etc/passwd", "../secret.txt", "link.txt", "loop", "sub", "", "a\0b", "~"):
        said = refused(folder, name)
        assert said.startswith("There is no file"), name
        assert said.endswith('to choose. Files: "sub/in.txt".')
    assert refused({}, "a.txt") == 'There is no file "a.txt" to choose. Files: none.'


def test_huge_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 5)
    assert "more than 5 bytes" in refused(FILES, "a.txt", "c.txt")


@pytest.mark.parametrize("given", [{"a": "text"}, {"": b""}, "/no/such/folder"])
def test_what_is_no_set_of_files_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="uploads must be"):
        Uploads(given)
