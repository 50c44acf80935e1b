from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentgym.environments.web.browser import Browser
from agentgym.environments.web.page import Page, script

SIZE = (332, 214)
PageOf = Callable[[str], Page]


@pytest.fixture(scope="module")
def _page() -> Iterator[Page]:
    init = script("clock.js") + script("listeners.js")
    page = Browser.shared().page(size=SIZE, init_script=init, offline=True)
    yield page
    page.close()


@pytest.fixture
def page_of(_page: Page, tmp_path: Path) -> PageOf:
    """A page that shows this html body."""

    def show(body: str) -> Page:
        file = tmp_path / "page.html"
        file.write_text(f"<!DOCTYPE html><title>T</title><body style='margin:0'>{body}</body>")
        _page.run(_page.navigate(file.as_uri()))
        return _page

    return show
