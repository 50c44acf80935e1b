"""The helpers of WebArena's task files."""

from collections.abc import Mapping
from typing import Any

import pytest

from agentgym.environments.web.webarena.functions import SiteFunctions, fetch_json, read_call
from agentgym.errors import ConfigError, EnvFailureError

SHOP = "http://shop.test"


class Shop:
    """Answers as the shop's interface does."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = {f"{SHOP}/rest/default/V1/integration/admin/token": "secret", **answers}
        self.asked: list[tuple[str, Mapping[str, str], bytes | None]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        self.asked.append((url, headers, body))
        return next(v for k, v in self.answers.items() if url.startswith(k))


class Page:
    def __init__(self, value: Any) -> None:
        self.value = value
        self.asked = ""

    def evaluate(self, expression: str) -> Any:
        self.asked = expression
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("url", "post"),
    [
        ("http://h/f/sub/12/slug/-/comment/3", "http://h/f/sub/12/"),
        ("http://h/f/sub/12", "http://h/f/sub/12/"),
        ("http://h/f/sub", "http://h/f/sub"),
        ("http://h/user/ann", "http://h/user/ann"),
        ("http://h/f/a/1/it's', __import__('os')", "http://h/f/a/1/"),
    ],
)
def test_the_post_that_a_page_belongs_to(url: str, post: str) -> None:
    functions = SiteFunctions({})
    assert functions.url("func:reddit_get_post_url('__last_url__')", last_url=url) == post


def test_the_latest_order() -> None:
    shop = Shop({f"{SHOP}/rest/V1/orders?": {"items": [{"increment_id": "000000190"}]}})
    functions = SiteFunctions({"shopping": SHOP + "/"}, fetch=shop)
    for _ in range(2):
        url = functions.url("func:shopping_get_latest_order_url()", last_url="")
        assert url == f"{SHOP}/sales/order/view/order_id/190/"
    token, order, again = shop.asked  # the token is asked for once
    assert token[2] == b'{"username": "admin", "password": "admin1234"}'
    assert order[1]["Authorization"] == "Bearer secret"
    assert again[0] == order[0]


def test_the_latest_review() -> None:
    reviews = [{"nickname": "A", "ratings": []}, {"nickname": "B", "ratings": [{"percent": 80}]}]
    shop = Shop({f"{SHOP}/rest/V1/products/a%2Fb/": reviews, f"{SHOP}/rest/V1/products/none/": []})
    functions = SiteFunctions({"shopping": SHOP}, fetch=shop)
    author = "func:shopping_get_sku_latest_review_author('a/b')"
    assert functions.text(author, page=Page(None)) == "B"
    rating = "func:shopping_get_sku_latest_review_rating"
    assert functions.text(f"{rating}('a/b')", page=Page(None)) == "80"
    assert functions.text(f"{rating}('none')", page=Page(None)) == ""
    shop.answers = {f"{SHOP}/rest": "secret"}
    with pytest.raises(EnvFailureError, match="reviews"):
        functions.text(author, page=Page(None))


def test_what_the_page_itself_tells() -> None:
    functions = SiteFunctions({})
    page = Page("Guest")
    role = "func:gitlab_get_project_memeber_role(__page__, 'o\"hara')"
    assert functions.text(role, page=page) == "Guest"
    assert '"@o\\"hara"' in page.asked
    assert functions.text(role, page=Page(ValueError("gone"))) == ""
    assert functions.text("func:get_query_text(__page__, '.price')", page=Page("$3")) == "$3"
    assert functions.text("func:get_query_text_lowercase(__page__, 'a')", page=Page("X")) == "x"


@pytest.mark.parametrize(
    "call",
    [
        "func:__import__('os').system('true')",
        "func:open('x')",
        "func:reddit_get_post_url(1)",
        "func:reddit_get_post_url(url='x')",
        "func:reddit_get_post_url('a' + 'b')",
        "func:reddit_get_post_url(",
        "func:" + "(" * 10_000,
    ],
)
def test_nothing_but_a_plain_call_is_read(call: str) -> None:
    with pytest.raises(ConfigError):
        read_call(call, {"reddit_get_post_url": None})


def test_a_missing_shop_is_told() -> None:
    with pytest.raises(ConfigError, match="WA_SHOPPING"):
        SiteFunctions({}).url("func:shopping_get_latest_order_url()", last_url="")


def test_a_site_that_does_not_answer_is_the_environments_failure() -> None:
    with pytest.raises(EnvFailureError, match="no usable answer"):
        fetch_json("http://127.0.0.1:1/", {}, None)
