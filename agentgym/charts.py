"""Charts as plain geometry: numbers to positions, ticks and paths that a template draws as SVG."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 360
HEIGHT = 228
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 16, 44
MAX_POINTS = 240
"""Of one line; longer ones are thinned by averaging neighbours."""


@dataclass(frozen=True)
class Series:
    """Values over steps, as measured."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Rate:
    """A share with its interval, at a named place on the axis."""

    label: str
    value: float
    low: float
    high: float
    kind: str = "sampled"
    """A style: "evaluation" or "sampled"."""
    note: str = ""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A path and how to draw it."""

    name: str
    path: str
    style: str


@dataclass(frozen=True)
class Whisker:
    """A vertical interval with its value."""

    x: float
    y: float
    low: float
    high: float
    style: str


@dataclass(frozen=True)
class Chart:
    """Everything that a template needs to draw one chart; positions in SVG user units."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    whiskers: Sequence[Whisker] = ()
    marks: Sequence[Tick] = ()
    """Vertical rules with a label: where a phase begins."""
    points: Sequence[tuple[float, float, str]] = ()
    """(x, y, what to say there), for the pointer and the keyboard."""
    width: int = WIDTH
    height: int = HEIGHT
    area: tuple[int, int, int, int] = field(
        default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), repr=False
    )
    """Left, top, right, bottom of the drawing area."""

    @property
    def points_json(self) -> str:
        """The points as JSON, for the page's script."""
        return json.dumps([[round(x, 1), round(y, 1), text] for x, y, text in self.points])


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart | None:
    """Lines over steps; points that are no finite numbers are left out.

    Args:
        series: drawn in this order.
        title: of the chart.
        x_label: of the axis, with its unit.
        y_label: of the axis, with its unit.
        percent: values are shares: drawn on 0 to 100 %.
        marks: (step, label) of vertical rules.

    Returns:
        The chart, or `None` if there is nothing to draw.
    """
    clean = [_thin(_finite(s)) for s in series]
    clean = [s for s in clean if s.x]
    if not clean:
        return None
    xs = [x for s in clean for x in s.x]
    ys = [y for s in clean for y in s.y]
    x_axis = _Axis.around(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    bottom, top = HEIGHT - BOTTOM, TOP
    if percent:
        y_axis = _Axis(0.0, 1.0, bottom, top)
        y_ticks = [Tick(y_axis(v), f"{v:.0%}") for v in (0, 0.25, 0.5, 0.75, 1)]
    else:
        low = 0.0 if _near_zero(ys) else min(ys)
        y_axis = _Axis.around(low, max(ys), bottom, top).rounded(4)
        y_ticks = [Tick(y_axis(v), number(v)) for v in y_axis.ticks(4)]
    lines: list[Line] = []
    points: list[tuple[float, float, str]] = []
    for s in clean:
        smooth = _smooth(s.y) if len(s.y) >= 40 else None
        lines.append(Line(s.name, _path(s.x, s.y, x_axis, y_axis), "faint" if smooth else "main"))
        if smooth:
            lines.append(Line(s.name, _path(s.x, smooth, x_axis, y_axis), "main"))
        for x, y in zip(s.x, s.y, strict=True):
            value = f"{y:.1%}" if percent else number(y, 4)
            points.append((x_axis(x), y_axis(y), f"{s.name}: {value} at {number(x)}"))
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(x_axis(v), number(v)) for v in x_axis.ticks(5) if min(xs) <= v <= max(xs)],
        y_ticks=y_ticks,
        lines=lines,
        marks=[Tick(x_axis(x), label) for x, label in marks if min(xs) <= x <= max(xs)],
        points=sorted(points),
    )


def rate_chart(rates: Sequence[Rate], *, title: str, x_label: str, y_label: str) -> Chart | None:
    """Shares with their intervals, evenly spaced in the order given; `None` if there are none."""
    if not rates:
        return None
    y_axis = _Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - RIGHT - LEFT) / len(rates)
    whiskers = []
    points = []
    ticks = []
    every = math.ceil(len(rates) / 8)
    for i, rate in enumerate(rates):
        x = LEFT + width * (i + 0.5)
        whiskers.append(
            Whisker(x, y_axis(rate.value), y_axis(rate.low), y_axis(rate.high), rate.kind)
        )
        said = f"{rate.label}: {rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})"
        points.append((x, y_axis(rate.value), f"{said}{', ' if rate.note else ''}{rate.note}"))
        if i % every == 0 or i == len(rates) - 1:
            ticks.append(Tick(x, rate.label))
    line = " ".join(f"{'M' if i == 0 else 'L'}{w.x:.1f} {w.y:.1f}" for i, w in enumerate(whiskers))
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=ticks,
        y_ticks=[Tick(y_axis(v), f"{v:.0%}") for v in (0, 0.25, 0.5, 0.75, 1)],
        lines=[Line("", line, "thin")],
        whiskers=whiskers,
        points=points,
    )


def number(value: float, digits: int = 3) -> str:
    """A number for people: few digits, thousands set apart.

    Example:
        >>> number(0.123456), number(12345.0), number(0.00015), number(3.0)
        ('0.123', '12,345', '1.5e-4', '3')
    """
    if not math.isfinite(value):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):g}"


@dataclass(frozen=True)
class _Axis:
    """Values to positions, linearly."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, low: float, high: float, start: float, end: float) -> "_Axis":
        """An axis whose ends are values seen; a single value lies in its middle."""
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        return cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def rounded(self, about: int) -> "_Axis":
        """The same axis, out to the next ticks."""
        step = self._step(about)
        low = math.floor(self.low / step + 1e-9) * step
        high = math.ceil(self.high / step - 1e-9) * step
        return _Axis(low, high, self.start, self.end)

    def ticks(self, about: int) -> list[float]:
        """Round values within the axis, about so many."""
        step = self._step(about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]

    def _step(self, about: int) -> float:
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _finite(series: Series) -> Series:
    pairs = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    return Series(series.name, [x for x, _ in pairs], [y for _, y in pairs])


def _thin(series: Series) -> Series:
    """At most `MAX_POINTS` points: means of equally many neighbours."""
    size = math.ceil(len(series.x) / MAX_POINTS)
    if size <= 1:
        return series
    starts = range(0, len(series.x), size)
    return Series(
        series.name,
        [sum(part) / len(part) for part in (series.x[i : i + size] for i in starts)],
        [sum(part) / len(part) for part in (series.y[i : i + size] for i in starts)],
    )


def _smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """Centred running mean."""
    half = window // 2
    parts = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def _near_zero(values: Sequence[float]) -> bool:
    """True if an axis that starts at 0 shows the values well."""
    return min(values) >= 0 and min(values) < 0.5 * max(values)


def _path(xs: Sequence[float], ys: Sequence[float], x_axis: _Axis, y_axis: _Axis) -> str:
    if len(xs) == 1:  # a dot: a line of length 0 with round ends
        return f"M{x_axis(xs[0]):.1f} {y_axis(ys[0]):.1f} h0.01"
    return " ".join(
        f"{'M' if i == 0 else 'L'}{x_axis(x):.1f} {y_axis(y):.1f}"
        for i, (x, y) in enumerate(zip(xs, ys, strict=True))
    )
