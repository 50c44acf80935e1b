"""Progress: what the lines say, with a clock that the test turns."""

import io
import threading

import pytest
from rich.console import Console

from agentgym.progress import Bar, Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def plain(clock: Clock) -> tuple[Progress, io.StringIO]:
    """Progress as a log file gets it; its beats are given by hand."""
    text = io.StringIO()
    return Progress(Console(file=text, width=40), interval_s=1e6, clock=clock), text


def test_a_log_file_gets_plain_lines(clock: Clock) -> None:
    progress, text = plain(clock)
    with progress, progress.phase("collect", 40, "episodes") as bar:
        clock.now += 10
        bar.advance(5, success=0.25)
        progress.beat()
        clock.now += 60
        bar.advance(35, success=1 / 3)
    assert text.getvalue().splitlines() == [
        "collect: begins, 40 episodes",
        "collect: 5/40 episodes, 30/min, 1:10 left, success=0.25, 0:10 so far",
        "collect: done in 1:10, 40/40 episodes, 35/min, success=0.333",
    ]


def test_names_are_not_markup(clock: Clock) -> None:
    progress, text = plain(clock)
    with progress, progress.phase("[bold]x[/]", None, "") as bar:
        bar.advance(3)
    assert text.getvalue().splitlines()[0] == "[bold]x[/]: begins"
    assert "[bold]x[/]: done in 0:00, 3" in text.getvalue()


def test_a_phase_that_breaks_says_how_far_it_came(clock: Clock) -> None:
    progress, text = plain(clock)

    def train() -> None:
        with progress, progress.phase("train", 9, "steps") as bar:
            bar.advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert text.getvalue().splitlines()[-1].startswith("train: stopped in 0:00, 2/9 steps")


def test_the_beats_come_by_themselves(clock: Clock) -> None:
    """A thread writes them, also while a step takes long."""
    beaten = threading.Event()

    class Beaten(io.StringIO):
        def write(self, text: str) -> int:
            if "so far" in text:
                beaten.set()
            return super().write(text)

    progress = Progress(Console(file=Beaten()), interval_s=0.001, clock=clock)
    with progress, progress.phase("load", 1, "models"):
        assert beaten.wait(60)
    assert not any(t.name == "agentgym-progress" for t in threading.enumerate())


def test_the_rate_is_of_late_and_sinks_when_nothing_happens(clock: Clock) -> None:
    bar = Bar("b", 1000, "steps", 0, clock)
    assert bar.rate == 0
    for _ in range(200):
        clock.now += 1
        bar.advance(1)
    for _ in range(100):
        clock.now += 1
        bar.advance(3)
    assert bar.rate == pytest.approx(3, rel=0.05), "the slow beginning is forgotten"
    fast = bar.rate
    clock.now += 600
    assert bar.rate < fast / 5


def test_work_done_before_does_not_count_in_the_rate(clock: Clock) -> None:
    bar = Bar("b", 100, "steps", 50, clock)
    clock.now += 10
    bar.advance(10)
    assert bar.rate == 1.0
    assert bar.status() == "60/100 steps, 1/s, 0:40 left"


def test_as_a_callback(clock: Clock) -> None:
    bar = Bar("b", None, "tokens", 0, clock)
    clock.now += 2
    bar(4, 8, loss=0.123456)
    assert bar.status() == "4/8 tokens, 2/s, 0:02 left, loss=0.123"
    bar(8)
    assert bar.status() == "8/8 tokens, 4/s, loss=0.123"


def test_unknown_totals_and_units(clock: Clock) -> None:
    assert Bar("b", None, "", 0, clock).status() == "0"
    assert Bar("b", 0, "files", 0, clock).status() == "0/0 files"


def test_threads_lose_no_count(clock: Clock) -> None:
    bar = Bar("b", None, "", 0, clock)

    def advance() -> None:
        for _ in range(500):
            bar.advance()

    threads = [threading.Thread(target=advance) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bar.done == 2000


def test_a_terminal_gets_a_live_bar_and_a_line_at_the_end(clock: Clock) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with Progress(console, clock=clock) as progress, progress.phase("collect", 4, "tasks") as bar:
        clock.now += 2
        bar.advance(2, success=0.5)
        assert progress._live is not None
        progress._live.refresh()
        live = text.getvalue()
        assert "collect" in live
        assert "2/4 tasks, 1/s, 0:02 left, success=0.5" in live
        assert "━" in live
        bar.advance(2)
    assert "collect: done in 0:02, 4/4 tasks" in text.getvalue()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress, progress.phase("x", 1) as bar:
        bar.advance()
        progress.beat()
    assert capsys.readouterr() == ("", "")


def test_it_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress, progress.phase("x", 1):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("x: begins")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
