"""What the command line prints: its consoles and tables."""

import json
import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

out = Console()
err = Console(stderr=True)
_REASONS = 3
"""Most reasons that are told of unscored episodes."""


def plain(text: str) -> str:
    """Text that Rich prints as it is."""
    return text.replace("[", r"\[")


def wide() -> Console:
    """Where wide tables go: without a terminal Rich assumes 80 columns, too few for them."""
    return out if out.is_terminal else Console(width=150)


def whole(header: str) -> Column:
    """A column that is never cut: names that a reader wants to copy."""
    return Column(header, no_wrap=True)


def show_evaluation(evaluation: dict[str, Any], as_json: bool, title: str = "") -> None:
    """Success by task with intervals, of `Evaluation.to_json`."""
    if as_json:
        out.print_json(json.dumps(evaluation))
        return
    table = Table(
        whole("task"), "success", "95 % interval", "episodes", "unscored", "turns", title=title
    )
    for name, r in evaluation["tasks"].items():
        table.add_row(
            name.removeprefix("agentgym/"),
            _rate(r["successes"] / r["episodes"] if r["episodes"] else None),
            f"{r['low']:.0%} to {r['high']:.0%}",
            str(r["episodes"]),
            str(r["unscored"]),
            f"{r['mean_turns']:.1f}",
        )
    table.add_section()
    table.add_row(
        "mean over tasks",
        _rate(evaluation["mean"]),
        f"{_rate(evaluation['low'])} to {_rate(evaluation['high'])}",
        *[""] * 3,
    )
    out.print(table)
    errors = evaluation.get("errors", {})
    for reason, count in [*errors.items()][:_REASONS]:
        out.print(f"{count} unscored: {plain(reason)}", highlight=False)
    if len(errors) > _REASONS:
        out.print(f"and {len(errors) - _REASONS} more reasons")


def _rate(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.0%}"


def show_replay(report: Any) -> None:
    """How a replay went, of `recording.Report`."""
    out.print(
        f"{report.env_id}: {report.episodes} episodes, {report.steps} equal steps"
        f"{', recording cut short' if report.cut else ''}",
        highlight=False,
    )
    d = report.divergence
    if d is None:
        out.print("[green]equal to the end[/]")
        return
    where = f"step {d.step}" if d.step else "the start"
    out.print(f"[red]differs[/] in episode {d.episode} at {where}: {d.what}", highlight=False)
    out.print(
        plain(d.change or f"recorded {d.recorded!r}\nreplayed {d.replayed!r}"), highlight=False
    )
    for request in report.unanswered[:10]:
        out.print(f"not in the recording: {plain(request)}", highlight=False)


def show_dataset(reports: Any, as_json: bool, title: str) -> None:
    """What a dataset holds, of each quality."""
    import dataclasses

    if as_json:
        out.print_json(json.dumps({n: dataclasses.asdict(r) for n, r in reports.items()}))
        return
    table = Table("quality", "episodes", "success", "unscored", "return", "turns", title=title)
    for name, r in reports.items():
        scored = r.episodes - r.unscored
        table.add_row(
            name,
            str(r.episodes),
            f"{r.successes / scored:.0%}" if scored else "-",
            str(r.unscored),
            f"{r.mean_return:.2f}",
            f"{r.mean_turns:.1f}",
        )
    out.print(table)


def show_validation(found: Any, skipped: dict[str, str]) -> None:
    """How scripted experts, random and meaningless actions fare."""
    table = Table(whole("environment"), "oracle", "random", "hostile", "sound", box=box.SIMPLE_HEAD)
    for one in found:
        cells = []
        for agent in ("oracle", "random", "hostile"):
            r = one.rates.get(agent)
            shown = f"{r.successes}/{r.episodes} ({r.low:.0%} to {r.high:.0%})" if r else "-"
            cells.append(shown)
        sound = "[green]yes[/]" if one.sound else "[bold red]no[/]"
        table.add_row(one.env_id.removeprefix("agentgym/"), *cells, sound)
    wide().print(table)
    for one in found:
        for problem in one.problems:
            out.print(f"[red]{one.env_id}[/]: {plain(problem)}", highlight=False)
    for env_id, why in skipped.items():
        out.print(f"{env_id} was left out: {plain(why)}", highlight=False)


def show_benchmark(result: Any) -> None:
    """A `bench.BenchmarkResult`."""
    table = Table(title=result.title, box=box.SIMPLE_HEAD)
    for key, header in result.columns.items():
        words = key in ("case", "side")
        table.add_column(header, justify="left" if words else "right", no_wrap=words)
    last = None
    for row in result.rows:
        shown = {**row, "case": row["case"] if row["case"] != last else ""}
        table.add_row(*(_cell(key, shown.get(key)) for key in result.columns))
        last = row["case"]
    wide().print(table)
    wide().print(plain(result.note), highlight=False, style="dim")


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return plain(str(value))
    if key.endswith("_share"):
        return f"{value:.0%}"
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def show_comparison(result: Any) -> None:
    """A `compare.Comparison`."""
    table = Table(
        whole("method"),
        "before",
        "after",
        "gain",
        "against the first",
        "training, end",
        "training, mean",
        "return",
    )
    for arm in result.arms:
        parts = (arm.before, arm.final, arm.gain, arm.difference, arm.at_budget, arm.area)
        cells = ["-" if e is None else f"{e.mean:.0%} {e.low:.0%}..{e.high:.0%}" for e in parts]
        returned = "-" if arm.reward is None else f"{arm.reward.mean:.2f}"
        table.add_row(plain(arm.name), *cells, returned)
    out.print(table)
