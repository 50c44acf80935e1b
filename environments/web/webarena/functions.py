"""The helpers that WebArena's task files call by ``func:``: read as calls, never evaluated.

They ask a site over its own interface, or the page at hand. Source: WebArena's
``evaluation_harness/helper_functions.py`` (names and meaning; `memeber` is its spelling).
"""

import ast
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from agentgym.errors import ConfigError, EnvFailureError

Fetch = Callable[[str, Mapping[str, str], bytes | None], Any]
"""(url, headers, body or None for GET) to the decoded JSON."""
TIMEOUT_S = 20.0
MAX_BYTES = 10_000_000
_LATEST_ORDER = (
    "searchCriteria[sortOrders][0][field]=created_at"
    "&searchCriteria[sortOrders][0][direction]=DESC&searchCriteria[pageSize]=1"
)


class Readable(Protocol):
    """A page that answers JavaScript."""

    def evaluate(self, expression: str) -> Any:
        """The value of an expression; ValueError if it fails."""
        ...


def fetch_json(url: str, headers: Mapping[str, str], body: bytes | None) -> Any:
    """Ask a site for JSON.

    Raises:
        EnvFailureError: the site did not answer in time, or not with JSON.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError, urllib.error.URLError) as error:
        raise EnvFailureError(f"{url} gave no usable answer: {error}") from error


class SiteFunctions:
    """The helpers, for the sites at given addresses.

    Args:
        sites: name to address, as for `tasks.load_tasks`.
        admin: user and password of the shop's administrator, as published with WebArena.
        fetch: how a site is asked.
    """

    def __init__(
        self,
        sites: Mapping[str, str],
        *,
        admin: tuple[str, str] = ("admin", "admin1234"),
        fetch: Fetch = fetch_json,
    ) -> None:
        self.sites = dict(sites)
        self.admin = admin
        self.fetch = fetch
        self._token = ""
        self._urls: dict[str, Callable[..., str]] = {
            "reddit_get_post_url": reddit_post_url,
            "shopping_get_latest_order_url": self._latest_order_url,
        }
        self._texts: dict[str, Callable[..., str]] = {
            "gitlab_get_project_memeber_role": member_role,
            "get_query_text": query_text,
            "get_query_text_lowercase": lambda page, selector: query_text(page, selector).lower(),
            "shopping_get_sku_latest_review_author": self._review_author,
            "shopping_get_sku_latest_review_rating": self._review_rating,
        }

    def url(self, call: str, *, last_url: str) -> str:
        """The address that a target's ``url`` names.

        Args:
            call: ``func:name(...)``.
            last_url: where the agent ended.

        Raises:
            ConfigError: it is no call of a known helper.
            EnvFailureError: the site failed.
        """
        name, arguments = read_call(call, self._urls)
        return self._urls[name](*[a.replace("__last_url__", last_url) for a in arguments])

    def text(self, call: str, *, page: Readable) -> str:
        """The text that a target's ``locator`` names; see `url`."""
        name, arguments = read_call(call, self._texts)
        return self._texts[name](*[page if a == "__page__" else a for a in arguments])

    def _latest_order_url(self) -> str:
        shop = self._shop()
        found = self.fetch(f"{shop}/rest/V1/orders?{_LATEST_ORDER}", self._headers(), None)
        number = _dig(found, "items", 0, "increment_id")
        return f"{shop}/sales/order/view/order_id/{int(number)}/"

    def _latest_review(self, sku: str) -> Any:
        url = f"{self._shop()}/rest/V1/products/{quote(sku, safe='')}/reviews"
        reviews = self.fetch(url, self._headers(), None)
        if not isinstance(reviews, list):
            raise EnvFailureError(f"{url} answered {str(reviews)[:100]!r}, not a list of reviews")
        return reviews[-1] if reviews else None

    def _review_author(self, sku: str) -> str:
        review = self._latest_review(sku)
        return "" if review is None else str(_dig(review, "nickname"))

    def _review_rating(self, sku: str) -> str:
        review = self._latest_review(sku)
        return "" if review is None else str(_dig(review, "ratings", 0, "percent"))

    def _headers(self) -> dict[str, str]:
        if not self._token:
            user, password = self.admin
            self._token = str(
                self.fetch(
                    f"{self._shop()}/rest/default/V1/integration/admin/token",
                    {"Content-Type": "application/json"},
                    json.dumps({"username": user, "password": password}).encode(),
                )
            )
        return {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}

    def _shop(self) -> str:
        if "shopping" not in self.sites:
            raise ConfigError("this task asks the shop; set WA_SHOPPING=http://...")
        return self.sites["shopping"].rstrip("/")


def read_call(text: str, known: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Name and arguments of ``func:name('a', __page__)``, read and never run.

    Raises:
        ConfigError: it is no such call, or of an unknown name.

    Example:
        >>> read_call("func:role(__page__, 'ann')", {"role": None})
        ('role', ['__page__', 'ann'])
    """
    source = text.removeprefix("func:").strip()
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{text[:100]!r} is no call: {error}") from error
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.keywords:
        raise ConfigError(f"{text[:100]!r} is no plain call of a helper")
    if tree.func.id not in known:
        raise ConfigError(
            f"helper {tree.func.id!r} is not known; known: {', '.join(sorted(known))}"
        )
    arguments = []
    for node in tree.args:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            arguments.append(node.value)
        elif isinstance(node, ast.Name) and node.id == "__page__":
            arguments.append(node.id)
        else:
            raise ConfigError(f"{text[:100]!r}: arguments must be texts or __page__")
    return tree.func.id, arguments


def reddit_post_url(url: str) -> str:
    """The address of the post that a page of the forum belongs to; other addresses unchanged.

    Example:
        >>> reddit_post_url("http://h/f/books/12/a-title/-/comment/3")
        'http://h/f/books/12/'
    """
    parts = urlsplit(url)
    path = parts.path.split("/")
    if len(path) < 4 or path[1] != "f":
        return url
    return f"{parts.scheme}://{parts.netloc}/f/{path[2]}/{path[3]}/"


def member_role(page: Readable, account: str) -> str:
    """A member's role on GitLab's page of members; "" if it is not shown."""
    name = json.dumps(f"@{account}")
    # Two lists of equal length, read in one go: accounts, and the roles beside them.
    value = _read(
        page,
        "(() => { const accounts = [...document.querySelectorAll("
        "\"td[data-label='Account'] span.gl-avatar-labeled-sublabel\")].map(e => e.outerText);"
        f" const row = accounts.indexOf({name});"
        ' const roles = document.querySelectorAll("td.col-max-role span");'
        ' return row < 0 || !roles[row] ? "" : roles[row].outerText; })()',
    )
    return value if isinstance(value, str) else ""


def query_text(page: Readable, selector: str) -> str:
    """Text content of the first element that fits a selector; "" if there is none."""
    value = _read(page, f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")
    return value if isinstance(value, str) else ""


def _read(page: Readable, expression: str) -> Any:
    try:
        return page.evaluate(expression)
    except ValueError:
        return ""


def _dig(value: Any, *keys: Any) -> Any:
    try:
        for key in keys:
            value = value[key]
    except (KeyError, IndexError, TypeError) as error:
        raise EnvFailureError(f"a site's answer lacks {keys}: {str(value)[:100]}") from error
    return value
