"""WebArena-Verified's evaluators; results as in ``webarena-verified`` 1.2.3."""

import base64
import json
from typing import Any

import pytest

from agentgym.environments.web.webarena.verified import (
    at_path,
    parsed,
    same_event,
    same_response,
)
from agentgym.tape import Exchange

TEXTS = {"type": "array", "items": {"type": "string"}}
GOOD = {"task_type": "retrieve", "status": "SUCCESS", "retrieved_data": ["Sprite"]}


def responds(answer: Any, **evaluator: Any) -> bool:
    expected = {"results_schema": TEXTS, "expected": GOOD, **evaluator}
    said = answer if isinstance(answer, str) else json.dumps(answer)
    return same_response(expected, said)[0]


def test_an_answer_is_json_with_three_parts() -> None:
    assert responds(GOOD)
    assert responds(f"My answer:\n```json\n{json.dumps(GOOD)}\n```")
    assert responds({**GOOD, "retrieved_data": "sprite."})
    legacy = {"performed_operation": "RETRIEVE", "status": "success", "retrieved_data": ["Sprite"]}
    assert responds(legacy)
    for wrong in (
        "Sprite",
        "[]",
        {**GOOD, "status": "NOT_FOUND_ERROR"},
        {**GOOD, "task_type": "navigate"},
        {**GOOD, "retrieved_data": None},
        {**GOOD, "retrieved_data": ["Sprite", "Cola"]},
    ):
        assert not responds(wrong), wrong
    missing = {"task_type": "retrieve", "status": "NOT_FOUND_ERROR", "retrieved_data": None}
    assert responds({"task_type": "retrieve", "status": "NOT_FOUND_ERROR"}, expected=missing)
    assert not responds({**missing, "retrieved_data": ["x"]}, expected=missing)
    mutate = {"task_type": "mutate", "status": "SUCCESS"}
    assert responds({**mutate, "retrieved_data": ["whatever"]}, expected=mutate)
    two = {**GOOD, "retrieved_data": ["a", "b"]}
    assert responds({**two, "retrieved_data": ["b", "a"]}, expected=two)
    assert not responds({**two, "retrieved_data": ["b", "a"]}, expected=two, ordered=True)


FORM = (("content-type", "application/x-www-form-urlencoded"),)
JSON = (("content-type", "application/json"),)


def asked(url: str = "http://h/add", method: str = "POST", **more: Any) -> Exchange:
    return Exchange(method, url, **{"status": 200, "asked": FORM, **more})


def holds(exchanges: list[Exchange], navigates: bool = False, **evaluator: Any) -> bool:
    expected = evaluator.pop("expected", {})
    wanted = {"url": "http://h/add", "http_method": "POST", **expected}
    return same_event({"expected": wanted, **evaluator}, exchanges, navigates=navigates)[0]


def test_the_last_request_of_a_kind_counts() -> None:
    good, bad = asked(posted="qty=1"), asked(posted="qty=2")
    expected = {"post_data": {"qty": 1}}
    assert holds([bad, good], expected=expected)
    assert not holds([good, bad], expected=expected)
    assert holds([good, bad], expected=expected, last_event_only=False)
    assert not holds([], expected=expected)
    assert not holds([asked(url="http://h/other", posted="qty=1")], expected=expected)
    assert not holds([asked(method="PUT", posted="qty=1")], expected=expected)
    assert not holds([asked(status=500, posted="qty=1")], expected=expected)
    assert holds([asked(status=302)], expected={"response_status": 302})
    assert holds([], should_not_exist=True)
    assert not holds([good], should_not_exist=True)


def test_alternatives_patterns_and_queries() -> None:
    urls = ["http://h/update/1", "^http://h/create/.*$"]
    assert holds([asked("http://h/create/7")], expected={"url": urls})
    assert not holds([asked("http://h/delete/7")], expected={"url": urls})
    get = {"url": "http://h/list?state=opened&label=a%20b", "http_method": "GET"}
    assert holds([asked("http://h/list?label=A+b&state=opened", "GET")], expected=get)
    more = [asked("http://h/list?label=a%20b&state=opened&page=2", "GET")]
    assert not holds(more, expected=get)
    assert holds(more, expected=get, ignored_query_params=["page"])
    assert holds(more, expected=get, ignored_query_params_patterns=["^pa"])
    given = {"url": "http://h/list", "http_method": "GET", "query_params": {"price": ["0-25"]}}
    assert holds([asked("http://h/list?price=0-25", "GET")], expected=given)
    assert not holds([asked("http://h/list?price=25-50", "GET")], expected=given)
    secret = base64.urlsafe_b64encode(b"from=1&to=2").decode().rstrip("=")
    hidden = {"url": "http://h/report", "http_method": "GET", "query_params": {"from": ["1"]}}
    request = [asked(f"http://h/report/{secret}/", "GET")]
    assert holds(request, expected=hidden, decode_base64_query=True, ignored_query_params=["to"])
    assert not holds(request, expected=hidden)


def test_where_a_navigation_ends() -> None:
    def page(path: str, **more: Any) -> Exchange:
        return asked(f"http://h/{path}", "GET", document=True, **more)

    expected = {"url": "http://h/b", "http_method": "GET"}
    assert holds([page("a"), page("b"), asked("http://h/data", "GET")], True, expected=expected)
    assert not holds([page("b"), page("a")], True, expected=expected)
    assert holds([page("b"), page("a")], expected=expected)
    assert holds([page("b"), page("logo.png")], True, expected=expected)


def test_what_is_sent_and_answered() -> None:
    note = json.dumps({"note": {"note": "lgtm", "id": 5}, "rows": '[{"new": 1, "at": "x"}]'})
    sent = [asked(asked=JSON, posted=note)]
    assert holds(sent, expected={"post_data": {"$.note.note": "LGTM"}})
    assert holds(sent, expected={"post_data": {"$['rows'][?(@.new == 1)].at": ["x"]}})
    assert not holds(sent, expected={"post_data": {"$.note.other": "x"}})
    reply = [asked(posted="reply_7%5Bcomment%5D=hi&form_key=z")]
    assert holds(reply, expected={"post_data": {r"$.^reply_\d+\[comment\]$": "hi"}})
    ignored: Any = {"ignored_post_data_params_patterns": ["^form_key$"]}
    assert not holds(reply, expected={"post_data": {"form_key": "z"}}, **ignored)
    assert holds(reply, expected={"post_data": {"qty": None}})
    assert not holds([asked()], expected={"post_data": {"qty": None}})
    schema = {"properties": {"price": {"type": "number", "format": "currency"}}}
    priced = [asked(posted="price=%2412.00")]
    assert holds(priced, expected={"post_data": {"price": 12}}, post_data_schema=schema)
    answer = asked(headers=(("Content-Type", "application/json"),), body=b'{"star_count": 53}')
    assert holds([answer], expected={"response_content": {"star_count": 53}})
    assert not holds([answer], expected={"response_content": {"star_count": 54}})
    cookie = asked(headers=(("Set-Cookie", "mage=Chair%20added; path=/\nother=1"),))
    assert holds([cookie], expected={"response_cookies": {"mage": "^.*chair.*$"}})
    assert not holds([cookie], expected={"response_cookies": {"mage": "table"}})


def test_headers() -> None:
    came = asked(asked=(("referer", "http://h/issues?state=opened"), ("cookie", "engine=bike")))
    assert holds([came], expected={"headers": {"referer": "http://h/issues/?state=opened"}})
    assert not holds([came], expected={"headers": {"referer": "http://h/issues/?state=closed"}})
    assert not holds([came], expected={"headers": {"referer": "http://h/other"}})
    assert holds([came], expected={"headers": {"Cookie": "^.*engine=bike.*$"}})
    assert not holds([came], expected={"headers": {"Cookie": "^(?!.*engine=bike).*$"}})
    assert not holds([asked()], expected={"headers": {"X-A": "1"}})


@pytest.mark.parametrize(
    ("content", "kind", "fields"),
    [
        ("a=1&a=2&b=", "application/x-www-form-urlencoded; charset=utf-8", {"a": "1", "b": ""}),
        ('{"a": [1]}', "application/json", {"a": [1]}),
        ("[1]", "application/json", {}),
        ("{", "application/json", {}),
        ("a=1", "text/plain", {}),
        (
            '--XX\r\nContent-Disposition: form-data; name="t"\r\n\r\nhi\r\n--XX--\r\n',
            "multipart/form-data; boundary=XX",
            {"t": "hi"},
        ),
        ("x", "multipart/form-data", {}),
    ],
)
def test_contents_are_read(content: str, kind: str, fields: dict[str, Any]) -> None:
    assert parsed(content, kind) == fields


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.a.b", 1),
        ("$.list[1].c", 3),
        ("$.list[*].c", [2, 3]),
        ("$.list[?(@.c == 3)].c", [3]),
        ("$.list[9].c", None),
        ("$.a.b.c", None),
        ("$.a!", None),
        ("^a|list$", [{"b": 1}, [{"c": 2}, {"c": 3}]]),
        ("^z$", None),
    ],
)
def test_paths(path: str, found: Any) -> None:
    assert at_path({"a": {"b": 1}, "list": [{"c": 2}, {"c": 3}]}, path) == found
