"""Progress of long work: phase, bar, rate, time left and the last numbers, on stderr.

On a terminal the lines are alive; elsewhere (CI logs, files) each running phase writes one plain
line about every ten seconds, and every phase one when it begins and one when it ends.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID
from rich.progress import Progress as Live
from rich.text import Text

WINDOW_S = 60.0
"""Rates are taken over about so many seconds."""


class Bar:
    """One phase of work. Safe to advance from any thread."""

    def __init__(
        self, name: str, total: int | None, unit: str, done: int, clock: Callable[[], float]
    ) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.numbers: dict[str, float] = {}
        self._clock = clock
        self._started = clock()
        self._samples = deque([(self._started, done)])
        self._guard = threading.Lock()

    def advance(self, count: int = 1, **numbers: float) -> None:
        """Count finished units, and show some numbers."""
        with self._guard:
            self._set(self.done + count, numbers)

    def __call__(self, done: int, total: int | None = None, **numbers: float) -> None:
        """Say how many units are done by now: a callback ``on_progress(done, total, **numbers)``.

        Args:
            done: units finished.
            total: of all units, if it has changed.
            numbers: shown until they are given again.
        """
        with self._guard:
            self.total = self.total if total is None else total
            self._set(done, numbers)

    def _set(self, done: int, numbers: Mapping[str, float]) -> None:
        now = self._clock()
        self.done = done
        self.numbers.update(numbers)
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Units per second lately; 0 before the first one."""
        with self._guard:
            (start, before), (end, after) = self._samples[0], self._samples[-1]
            # With nothing finished lately the rate sinks, instead of standing still.
            seconds = max(end, self._clock() - WINDOW_S) - start
        return (after - before) / seconds if seconds > 0 and after > before else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self._started

    def status(self) -> str:
        """How far it is, in one line."""
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of}{self.unit and ' ' + self.unit}"]
        rate = self.rate
        if rate:
            parts.append(f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.3g}/min")
            if self.total is not None and self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        parts += [f"{name}={value:.3g}" for name, value in self.numbers.items()]
        return ", ".join(parts)


class Progress:
    """Shows phases of work; a context manager.

    Args:
        console: where; stderr by default.
        quiet: show nothing.
        interval_s: seconds between plain lines where there is no terminal.
        clock: monotonic seconds.

    Example:
        >>> with Progress(quiet=True) as progress, progress.phase("collect", 2, "episodes") as bar:
        ...     bar.advance(success=0.5)
        ...     bar.status().split(",")[0]
        '1/2 episodes'
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self._interval_s, self._clock = interval_s, clock
        self._bars: list[Bar] = []
        self._stop = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        if self.console.is_terminal and not self.console.quiet:
            self._live = Live(
                _NameColumn(), BarColumn(), _StatusColumn(), console=self.console, transient=True
            )

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        elif not self.console.quiet:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._beats, name="agentgym-progress", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, unit: str = "", *, done: int = 0
    ) -> Iterator[Bar]:
        """Show one phase while the block runs; phases may overlap.

        Args:
            name: of the phase.
            total: units of work; `None` if nobody knows.
            unit: its plural, such as "episodes".
            done: units finished earlier (a resumed phase); they do not count in the rate.
        """
        bar = Bar(name, total, unit, done, self._clock)
        task: TaskID | None = None
        if self._live is not None:
            task = self._live.add_task(name, total=total, completed=done, bar=bar)
        else:
            self._line(f"{name}: begins" + (f", {total} {unit}".rstrip() if total else ""))
        self._bars.append(bar)
        end = "stopped"
        try:
            yield bar
            end = "done"
        finally:
            self._bars.remove(bar)
            if self._live is not None and task is not None:
                self._live.remove_task(task)
            self._line(f"{name}: {end} in {duration(bar.elapsed_s)}, {bar.status()}")

    def beat(self) -> None:
        """Write one plain line for each running phase."""
        for bar in list(self._bars):
            self._line(f"{bar.name}: {bar.status()}, {duration(bar.elapsed_s)} so far")

    def _beats(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.beat()

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _NameColumn(ProgressColumn):
    """Also carries the counts into Rich's bar: they are read when it is drawn."""

    max_refresh = None

    def render(self, task: Task) -> Text:
        bar: Bar = task.fields["bar"]
        task.completed, task.total = bar.done, bar.total
        return Text(bar.name)


class _StatusColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        bar: Bar = task.fields["bar"]
        return Text(bar.status())


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``.

    Example:
        >>> duration(65.2), duration(3661)
        ('1:05', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
