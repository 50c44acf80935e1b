import json
import math
import re

import pytest

from agentgym.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Rate,
    Series,
    line_chart,
    number,
    rate_chart,
)


def line(xs: list[float], ys: list[float], *, percent: bool = False) -> Chart | None:
    return line_chart(
        [Series("loss", xs, ys)], title="Loss", x_label="step", y_label="nats", percent=percent
    )


def drawn(chart: Chart | None) -> list[tuple[float, float]]:
    """The corners of the first line."""
    assert chart is not None
    return [
        (float(x), float(y))
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", chart.lines[0].path)
    ]


def test_the_ends_of_a_line_lie_on_the_ends_of_the_axes() -> None:
    chart = line([0, 10], [0, 4])  # 4 is a tick, so the axis ends there
    assert drawn(chart) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["0", "2", "4", "6", "8", "10"]
    assert [tick.label for tick in chart.y_ticks] == ["0", "1", "2", "3", "4"]


def test_an_axis_begins_at_zero_only_where_that_shows_the_values() -> None:
    near, far = line([0, 1], [1.0, 4.0]), line([0, 1], [100.0, 101.0])
    assert near is not None
    assert far is not None
    assert near.y_ticks[0].label == "0"
    assert far.y_ticks[0].label == "100"


def test_shares_are_drawn_on_the_whole_scale() -> None:
    chart = line([0, 1], [0.5, 1.0], percent=True)
    assert drawn(chart)[0][1] == (TOP + HEIGHT - BOTTOM) / 2
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert chart.points[0][2] == "loss: 50.0% at 0"


def test_what_is_no_number_is_left_out() -> None:
    assert len(drawn(line([0, 1, 2, 3], [1.0, math.nan, math.inf, 2.0]))) == 2
    assert line([0, 1], [math.nan, math.nan]) is None
    assert line([], []) is None


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9, 1e12])
def test_a_constant_and_a_single_value_lie_in_the_middle(value: float) -> None:
    for chart in (line([1, 2], [value, value]), line([5], [value])):
        assert chart is not None
        assert all(TOP <= y <= HEIGHT - BOTTOM for _, y in drawn(chart))
        assert all(TOP <= tick.at <= HEIGHT - BOTTOM for tick in chart.y_ticks)
        assert all(math.isfinite(x) for x, _ in drawn(chart))


def test_long_lines_are_thinned_without_losing_their_mean() -> None:
    values = [float(i % 7) for i in range(10_000)]
    chart = line([float(i) for i in range(10_000)], values)
    assert chart is not None
    assert 2 <= len(chart.points) <= MAX_POINTS
    assert len(chart.points_json) < 30_000
    assert json.loads(chart.points_json)[0][2].startswith("loss: ")


def test_a_noisy_line_gets_a_smooth_one_over_it() -> None:
    chart = line([float(i) for i in range(50)], [float(i % 2) for i in range(50)])
    assert chart is not None
    assert [drawn_line.style for drawn_line in chart.lines] == ["faint", "main"]


def test_rates_stand_side_by_side_with_their_intervals() -> None:
    rates = [Rate("before", 0.0, 0.0, 0.25, "evaluation"), Rate("1", 0.5, 0.25, 1.0, note="soft")]
    chart = rate_chart(rates, title="Success", x_label="iteration", y_label="share")
    assert chart is not None
    bottom, height = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    first, second = chart.whiskers
    assert (first.y, first.low, first.high) == (bottom, bottom, bottom - height / 4)
    assert (second.y, second.high) == (bottom - height / 2, TOP)
    assert second.x - first.x == (WIDTH - LEFT - RIGHT) / 2
    assert chart.points[1][2] == "1: 50% (25% to 100%), soft"
    assert rate_chart([], title="", x_label="", y_label="") is None


def test_many_rates_keep_few_labels() -> None:
    rates = [Rate(str(i), 0.5, 0.4, 0.6) for i in range(100)]
    chart = rate_chart(rates, title="", x_label="", y_label="")
    assert chart is not None
    assert len(chart.x_ticks) <= 10
    assert (chart.x_ticks[0].label, chart.x_ticks[-1].label) == ("0", "99")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1 / 3, "0.333"),
        (-12.0, "-12"),
        (999.4, "999"),
        (123456.7, "123,457"),
        (5e-5, "5e-5"),
        (-1.23e-10, "-1.23e-10"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text
