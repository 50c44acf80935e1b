"""Counters, gauges and histograms in Prometheus' text format, for a server's /metrics."""

import bisect
import math
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

M = TypeVar("M", bound="Counter | Gauge | Histogram")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of a histogram of durations."""


class Monitor:
    """A set of metrics. May be used from any thread.

    Example:
        >>> monitor = Monitor("demo")
        >>> seen = monitor.counter("seen_total", "Things seen.", "colour")
        >>> seen.add(2, "red")
        >>> print(monitor.text(), end="")
        # HELP demo_seen_total Things seen.
        # TYPE demo_seen_total counter
        demo_seen_total{colour="red"} 2
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._metrics: list[Counter | Gauge | Histogram] = []

    def counter(self, name: str, text: str, *labels: str) -> "Counter":
        """A number that only grows, one for each combination of label values."""
        return self._added(Counter(f"{self._prefix}_{name}", text, labels))

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> "Gauge":
        """A number that is asked for when the metrics are read."""
        return self._added(Gauge(f"{self._prefix}_{name}", text, value))

    def histogram(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> "Histogram":
        """Counts of observed values up to each bound."""
        return self._added(Histogram(f"{self._prefix}_{name}", text, bounds))

    def text(self) -> str:
        """All metrics in Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        for metric in self._metrics:
            lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"

    def _added(self, metric: M) -> M:
        self._metrics.append(metric)
        return metric


class Counter:
    """A number that only grows; see `Monitor.counter`."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self._labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, *values: str) -> None:
        """Add to the number of these label values."""
        assert len(values) == len(self._labels), f"{self.name} has labels {self._labels}"
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def lines(self) -> list[str]:
        """One line per combination of label values."""
        with self._lock:
            items = sorted(self._values.items())
        shown = []
        for values, number in items:
            pairs = ",".join(
                f'{label}="{_escaped(value)}"'
                for label, value in zip(self._labels, values, strict=True)
            )
            shown.append(f"{self.name}{f'{{{pairs}}}' if pairs else ''} {_number(number)}")
        return shown


class Gauge:
    """A number that is asked for; see `Monitor.gauge`."""

    kind = "gauge"

    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self.name, self.text, self._value = name, text, value

    def lines(self) -> list[str]:
        """One line."""
        return [f"{self.name} {_number(self._value())}"]


class Histogram:
    """Counts up to bounds; see `Monitor.histogram`."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self._bounds = name, text, (*sorted(bounds), math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        """One line per bound, each counting all values up to it, then sum and count."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        shown, reached = [], 0
        for bound, count in zip(self._bounds, counts, strict=True):
            reached += count
            shown.append(f'{self.name}_bucket{{le="{_number(bound)}"}} {reached}')
        return [*shown, f"{self.name}_sum {_number(total)}", f"{self.name}_count {reached}"]


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
