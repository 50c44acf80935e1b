"""Values by type; the expected results are those of ``webarena-verified`` 1.2.3."""

from typing import Any

import pytest

from agentgym.environments.web.webarena.values import (
    address,
    day,
    markdown,
    money,
    number,
    same,
    same_address,
    same_base,
    same_query,
    seconds,
    text,
)


@pytest.mark.parametrize(
    ("expected", "actual", "schema", "equal"),
    [
        ("Quest Lumaflex\u2122 Band", " quest lumaflex band", {"type": "string"}, True),
        ("abc", '"abc."', {"type": "string"}, True),
        ("abc", "abcd", {"type": "string"}, False),
        ("", "", {"type": "string"}, True),
        ("x", "", {"type": "string"}, False),
        ("^\\d+ left$", "7 LEFT", {"type": "string"}, True),
        ("^[$", "[", {"type": "string"}, False),
        (["one", "two"], "TWO", {"type": "string"}, True),
        ([10, 17], 17, {"type": "number"}, True),
        (7, "seven", {"type": "number"}, True),
        (1000, "1,000", {"type": "number"}, True),
        (7, "many", {"type": "number"}, False),
        (True, "yes", {"type": "boolean"}, True),
        (True, "maybe", {"type": "boolean"}, False),
        (12.5, "$12.55", {"format": "currency"}, True),
        (12.5, "12.70 USD", {"format": "currency"}, False),
        (1234.5, "1.234,50 \u20ac", {"format": "currency"}, True),
        ("March 2, 2022", "2022-03-02", {"format": "date"}, True),
        ("03/02/2022", "2 Mar 2022", {"format": "date"}, True),
        ("03/02/2022", "soon", {"format": "date"}, False),
        ("January", 1, {"format": "month"}, True),
        ("January", "Jan 2023", {"format": "month"}, True),
        ("January", 13, {"format": "month"}, False),
        ("2h 5min", "2 hours 7 minutes", {"format": "duration"}, True),
        ("2h", "2h 30min", {"format": "duration"}, False),
        ("5 min", "300", {"format": "duration"}, False),
        ("1.5 km", "1510 m", {"format": "distance"}, True),
        ("1.5 km", "2 km", {"format": "distance"}, False),
        ([40.4406, -79.9959], {"lat": "40.4406", "lon": -79.9959}, {"format": "coordinates"}, True),
        ([40.4406, -79.9959], "40.4416, -79.9959", {"format": "coordinates"}, False),
        ("Hilton Pittsburgh", "Pittsburgh Hilton", {"format": "location-name"}, True),
        ("Hilton Pittsburgh", "Marriott", {"format": "location-name"}, False),
        ("1,2", "2, 1", {"format": "string_list"}, True),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', {"format": "json"}, True),
        ("* a\r\n", "-  a".replace("  ", " "), {"format": "markdown"}, True),
        ("http://a.com/b?x=1", "http://a.com:80/b/?x=1", {"format": "url"}, True),
        (None, "", {"type": "null"}, True),
        (None, "x", None, False),
    ],
)
def test_what_is_equal(expected: Any, actual: Any, schema: Any, equal: bool) -> None:
    assert same(expected, actual, schema) is equal


def test_lists_and_objects() -> None:
    texts = {"type": "array", "items": {"type": "string"}}
    assert same(["a", "b"], ["B", "A"], texts)
    assert not same(["a", "b"], ["b", "a"], texts, ordered=True)
    assert same(["a", "b"], ["a", "b"], texts, ordered=True)
    assert not same(["a", "a"], ["a", "b"], texts)
    assert not same(["a"], ["a", "a"], texts)
    assert same(["a"], "a", texts)
    assert same([1, 2], "[2, 1]", {"type": "array", "items": {"type": "number"}})
    assert same([["a", "b"]], ["b"], texts)  # an element with alternatives
    prices = {"type": "object", "properties": {"min": {"format": "currency"}}}
    rows = {"type": "array", "items": prices}
    assert same([{"min": 5, "name": "x"}], [{"min": "$5.00", "name": "X", "more": 1}], rows)
    assert not same([{"min": 5}], [{"name": "x"}], rows)
    assert same({"a": 1}, '{"a": "1"}')
    assert not same({"a": 1}, "no object")


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ("http://h/a", "http://H:80/a/", True),
        ("http://h/a", "http://h/A", True),
        ("http://h/a", "http://h/ab", False),
        ("http://h/caf%C3%A9", "http://h/caf\u00e9", True),
        ("^http://h/f/.*/edit$", "http://h/f/books/edit?x=1", True),
        ("^http://h/f/.*/edit$", "http://h/f/books", False),
        ("^($", "(", False),
        ("http://[", "http://h", False),
    ],
)
def test_addresses_but_for_their_query(expected: str, actual: str, equal: bool) -> None:
    assert same_base(expected, actual) is equal


def test_queries() -> None:
    assert same_query({"a": ["X"], "b": ""}, {"a": "x"})
    assert not same_query({"a": "1"}, {"a": "1", "b": "2"})
    assert same_query({"a": "1"}, {"a": "1", "b": "2"}, lambda name: name == "b")
    assert same_query({"state": "^(opened|)$"}, {})
    assert not same_query({"state": "^(opened|)$"}, {"state": "closed"})
    dates = {"properties": {"from": {"items": {"format": "date"}}}}
    assert same_query({"from": ["02/1/2023"]}, {"from": "2023-02-01"}, schema=dates)
    assert address("http://h/?b=2&b=1&c=")[1] == {"b": "1", "c": ""}
    assert same_address("^http://h/.*$", "http://h/x?y=1")
    assert not same_address("http://h/x", "http://h/x?y=1")


def test_the_readers() -> None:
    assert text("Buffalo\u2013Niagara \ufb01 123-4567") == "buffalo niagara fi 123-4567"
    assert (money("-$1,234.50"), money("EUR 12"), money(3)) == (-1234.5, 12.0, 3.0)
    assert number(" 1 000 ") == 1000.0
    assert day("Sunday, March 5th, 2023").isoformat() == "2023-03-05"
    assert day("2023-03-05T10:00:00").isoformat() == "2023-03-05"
    assert (seconds("1:02:03"), seconds("1:30"), seconds("1:30 hours")) == (3723, 90, 5400)
    assert markdown("#   Title  \n\n\n\n+ a\n[ b\n c](d)") == "# Title\n\n- a\n[b c](d)"
    for read, wrong in ((money, "free"), (day, ""), (seconds, "x 5 min"), (number, "")):
        with pytest.raises(ValueError, match=r"no |could not"):
            read(wrong)
