from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from agentgym.environments.web.browser import Browser
from agentgym.environments.web.guard import Guard, Site
from agentgym.errors import ConfigError

Serve = Callable[[Mapping[str, Any]], str]


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("localhost", Site("localhost")),
        ("localhost:7770", Site("localhost", port=7770)),
        ("HTTPS://Shop.example.com:8443/", Site("shop.example.com", "https", 8443)),
        ("*.example.com", Site("example.com", subdomains=True)),
        ("[::1]:80", Site("::1", port=80)),
        ("*", Site("*")),
    ],
)
def test_sites_are_read(text: str, site: Site) -> None:
    assert Site.read(text) == site


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "file:///etc", "a/b", "a?b", "me@a", "a:99999", "a*b", "*.*", "[::1"]
)
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no host that can be allowed"):
        Site.read(text)


@pytest.mark.parametrize("allowed", [[], "localhost"])
def test_a_guard_needs_a_list(allowed: Any) -> None:
    with pytest.raises(ConfigError, match="list of at least one"):
        Guard(allowed)


@pytest.mark.parametrize(
    ("allowed", "url", "opened"),
    [
        ("a.com", "http://a.com/x?y#z", True),
        ("a.com", "https://A.com.", True),
        ("a.com", "http://a.com:80", True),
        ("a.com", "http://a.com:8080", False),
        ("a.com", "https://a.com:80", False),
        ("a.com", "http://b.a.com", False),
        ("a.com", "http://nota.com", False),
        ("a.com", "http://a.com@b.com", False),
        ("a.com", "http://b.com\\@a.com", False),
        ("a.com", "http://a.com\t", False),
        ("a.com", "http://a.com:x", False),
        ("a.com", "about:blank", True),
        ("a.com:443", "https://a.com", True),
        ("a.com:443", "http://a.com", False),
        ("https://a.com", "http://a.com", False),
        ("https://a.com", "https://a.com/", True),
        ("*.a.com", "http://a.com", True),
        ("*.a.com", "http://x.y.a.com", True),
        ("*.a.com", "http://xa.com", False),
        ("*", "https://example.org:8443/x", True),
        ("*", "http://8.8.8.8", True),
        ("*", "http://localhost", False),
        ("*", "http://127.0.0.1:8000", False),
        ("*", "http://127.1", False),
        ("*", "http://10.0.0.7", False),
        ("*", "http://169.254.169.254/latest", False),
        ("*", "http://[::1]/", False),
        ("*", "http://printer.local", False),
        ("*", "http://judge", False),
    ],
)
def test_addresses(allowed: str, url: str, opened: bool) -> None:
    refusal = Guard([allowed]).refusal(url)
    assert (refusal == "") is opened
    assert opened or "was not opened" in refusal


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "view-source:http://a.com",
        "chrome://version",
        "devtools://devtools",
        "data:text/html,x",
        "javascript:alert(1)",
        "blob:http://a.com/1",
        "ftp://a.com",
        "about:config",
        "a.com",
        "http:///x",
        "",
    ],
)
def test_other_schemes_are_never_opened(url: str) -> None:
    assert Guard(["a.com", "*"]).refusal(url)


# ---- on pages ---------------------------------------------------------------------------------


@pytest.fixture
def forbidden(serve: Serve) -> tuple[str, list[str]]:
    """A site that is not allowed, and the paths that were asked for."""
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.end_headers()

    return serve({f"/{name}": answer for name in "abcdefgh"}), asked


def redirect(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


@pytest.mark.browser
def test_no_way_leads_to_what_is_forbidden(
    serve: Serve, surf: Any, forbidden: tuple[str, list[str]]
) -> None:
    evil, asked = forbidden
    home = serve(
        {
            "/": f"""
                <a href="{evil}/a">link</a> <a href="/away">away</a>
                <a href="{evil}/b" target=_blank>tab</a>
                <button onclick="window.open('{evil}/c')">open</button>
                <button onclick="window.open('/away')">open away</button>
                <button onclick="location = '{evil}/d'">script</button>
                <form action="{evil}/e" method=post><button>form</button></form>
                <a href="/framed">framed</a>
                <button onclick="location = 'file:///etc/passwd'">file</button>
                <button onclick="location = 'data:text/html,x'">data</button>""",
            "/away": redirect(f"{evil}/f"),
            "/framed": f"<title>Framed</title>Here: <iframe src='{evil}/g'></iframe>"
            "<iframe src='/away'></iframe>",
        }
    )
    surfer = surf(home)
    for name in ("link", "away", "tab", "open", "open away", "script", "form"):
        assert surfer.click(name) == ""
        assert f"'{evil}/" in surfer.problems, name
        assert "was not opened: allowed are only" in surfer.problems
        assert surfer.tabs() == [(f"{home}/", "T")]
    for name in ("file", "data"):  # Chromium itself keeps pages from these
        surfer.click(name)
        assert surfer.tabs() == [(f"{home}/", "T")]
    surfer.click("framed")
    assert surfer.view.title == "Framed"
    assert f"{evil}/g" in surfer.problems
    assert f"{evil}/f" in surfer.problems
    assert f"'{evil}/h' was not opened" in surfer.act("goto", url=f"{evil}/h")
    assert "'file:///etc/passwd' was not opened" in surfer.act("goto", url="file:///etc/passwd")
    assert asked == []


@pytest.mark.browser
def test_frames_of_other_sites_and_of_new_tabs_lead_nowhere_either(
    serve: Serve, surf: Any, forbidden: tuple[str, list[str]]
) -> None:
    evil, asked = forbidden
    guest = serve(
        {
            "/": f"<script>location = '{evil}/a'</script>",
            "/b": f"<iframe src='{evil}/b'></iframe><script>open('{evil}/c')</script>",
        }
    ).replace("127.0.0.1", "localhost")  # another site, so its frames are in another process
    framed = f"<title>Framed</title><iframe src='{guest}/'></iframe><iframe src='{guest}/b'>"
    home = serve(
        {
            "/": f"<a href=/framed target=_blank>Go</a> <a href='{guest}/b'>Guest</a>",
            "/framed": framed,
        }
    )
    surfer = surf(home, guest)
    surfer.click("Go")
    surfer.act("wait", seconds=0.3)  # frames may load after the tab is quiet
    surfer.act("goto", url=f"{guest}/b")
    surfer.act("wait", seconds=0.3)
    assert asked == []


@pytest.mark.browser
def test_each_context_has_its_own_guard_and_others_have_none(serve: Serve, surf: Any) -> None:
    first, second = serve({"/": "one"}), serve({"/": "two"})
    one, both = surf(first), surf(second, first)
    assert "was not opened" in one.act("goto", url=second)
    assert both.act("goto", url=first) == ""
    assert both.text == 'text "one"'
    page = Browser.shared().page(size=(100, 100))
    page.run(page.navigate(second))
    assert page.run(page.evaluate("document.body.innerText")) == "two"
    page.close()
