"""TOML text that tomllib reads back to the same values."""

import datetime
import math
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.errors import ConfigError
from agentgym.toml import to_toml

SCALAR = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.text('"\n\r\\\t ')
    | st.dates()
    | st.times()
    | st.datetimes()
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(st.text(), VALUE, max_size=4)


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(DOCUMENT)
def test_anything_comes_back(document: dict[str, Any]) -> None:
    for inline in (False, True):
        assert tomllib.loads(to_toml(document, inline=inline)) == document


def test_it_reads_well() -> None:
    document = {
        "name": "demo",
        "empty": {},
        "rates": [1e-05, 1.0],
        "ids": [f"agentgym/miniwob.number-{i}-v0" for i in range(3)],
        "text": 'say "hi"\nand go',
        "train": {"lr": 0.1, "inner": {"deep": True}},
        "odd keys": {"a.b": 1},
        "outer": {"only": {"x": 1}},
    }
    expected = '''\
name = "demo"
empty = {}
rates = [1e-05, 1.0]
ids = [
    "agentgym/miniwob.number-0-v0",
    "agentgym/miniwob.number-1-v0",
    "agentgym/miniwob.number-2-v0",
]
text = """
say "hi"
and go"""

[train]
lr = 0.1

[train.inner]
deep = true

["odd keys"]
"a.b" = 1

[outer.only]
x = 1
'''
    assert to_toml(document) == expected
    assert tomllib.loads(expected) == document


def test_numbers_keep_their_kind() -> None:
    document = tomllib.loads(to_toml({"a": 1.0, "b": 1, "c": True, "d": math.inf, "e": 2**70}))
    assert [type(v) for v in document.values()] == [float, int, bool, float, int]
    assert document["e"] == 2**70
    assert math.isnan(tomllib.loads(to_toml({"x": float("nan")}))["x"])
    assert math.copysign(1, tomllib.loads(to_toml({"x": -0.0}))["x"]) == -1


def test_times_with_zones() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert tomllib.loads(to_toml({"t": moment})) == {"t": moment}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": {"b": [1, None]}}, r"a\.b\[1\] is None \(NoneType\), which TOML cannot say"),
        ({"a": {1, 2}}, r"a is \{1, 2\} \(set\)"),
        ({"a": {"b": "\ud800"}}, r"a\.b holds '\\ud800', which is no Unicode"),
        ({"a": [{1: 2}]}, "key 1 is no text"),
    ],
)
def test_what_toml_cannot_say(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_toml(document)
