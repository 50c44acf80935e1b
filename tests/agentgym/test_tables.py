"""What the command line prints."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from agentgym import tables


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(tables, "out", Console(file=text, width=120))
    return text


def rate(mean: float, low: float, high: float) -> Any:
    return SimpleNamespace(mean=mean, low=low, high=high)


def test_square_brackets_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.plain("[red]click [12]"))
    assert console.file.getvalue() == "[red]click [12]\n"  # type: ignore[attr-defined]


def test_an_evaluation(printed: io.StringIO) -> None:
    task = {"successes": 3, "episodes": 4, "low": 0.3, "high": 0.95, "unscored": 1}
    none = {"successes": 0, "episodes": 0, "low": 0.0, "high": 1.0, "unscored": 2}
    tasks = {"agentgym/a-v0": task | {"mean_turns": 2.5}, "other/b-v0": none | {"mean_turns": 0.0}}
    tables.show_evaluation({"tasks": tasks, "mean": 0.75, "low": 0.3, "high": 0.95}, False)
    words = printed.getvalue()
    assert "75%" in words
    assert "30% to 95%" in words
    assert "agentgym/" not in words
    assert "other/b-v0" in words


def test_an_evaluation_without_scores_says_why(printed: io.StringIO) -> None:
    errors = {"InferenceError: no [model]": 9, "b": 3, "c": 2, "d": 1, "e": 1}
    nothing = {"tasks": {}, "mean": None, "low": None, "high": float("nan"), "errors": errors}
    tables.show_evaluation(nothing, False)
    words = printed.getvalue()
    assert "9 unscored: InferenceError: no [model]" in words
    assert "and 2 more reasons" in words
    assert "nan" not in words
    assert "1 unscored" not in words


def test_a_comparison(printed: io.StringIO) -> None:
    first = SimpleNamespace(
        name="filtered_bc",
        before=rate(0.1, 0.0, 0.2),
        final=rate(0.4, 0.3, 0.5),
        gain=None,
        difference=None,
        at_budget=rate(0.5, 0.4, 0.6),
        area=rate(0.2, 0.1, 0.3),
        reward=None,
    )
    tables.show_comparison(SimpleNamespace(arms=[first]))
    assert "10% 0%..20%" in printed.getvalue()
    assert "40% 30%..50%" in printed.getvalue()


def test_a_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "case": "maze",
        "side": "ours",
        "steps_per_s": 12345.6,
        "wait_share": 0.25,
        "ratio": None,
    }
    columns = {name: name for name in row}
    tables.show_benchmark(
        SimpleNamespace(title="Speed", columns=columns, rows=[row, row], note="[a note]")
    )
    words = capsys.readouterr().out
    assert words.count("maze") == 1, "a case is named once"
    assert words.count("12,346") == 2
    assert "[a note]" in words


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("x", None, "-"),
        ("x", "a[b]", r"a\[b]"),
        ("wait_share", 0.256, "26%"),
        ("rate", 1234.5, "1,234"),
        ("rate", 12.345, "12.3"),
    ],
)
def test_cells(key: str, value: Any, shown: str) -> None:
    assert tables._cell(key, value) == shown
