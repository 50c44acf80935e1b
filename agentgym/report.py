"""A run folder as one page: what was learned, how, and a few episodes step by step.

The page is a single file without network: styles, script and pictures are inside, and its content
policy forbids everything else. All text of a run is foreign (web pages wrote it, a model wrote it),
so the template escapes all of it. Whatever is missing (a run in progress, no pictures, episodes
without a score) is said in a sentence.
"""

import base64
import hashlib
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from agentgym import __version__, durable
from agentgym.charts import Chart, Rate, Series, line_chart, rate_chart
from agentgym.diagnostics_view import alarm_notes, diagnostic_charts
from agentgym.episode_view import EpisodeView, choose_episodes, phase_label, short_name
from agentgym.errors import UnknownNameError
from agentgym.run_folder import AFTER, BEFORE, NOTHING, RunFolder, Tally, mean_over_tasks

PAGE = "report.html"
MAX_CHARTS = 8
_NOT_CURVES = frozenset(
    "step time time_s phase iteration seconds success success_low success_high episodes unscored "
    "broken_attempts turns action_tokens epoch position nonfinite".split()
)
"""Numbers of metrics.jsonl that the tables and the first chart show, or that only count."""


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, finished or not.

    Args:
        run: the folder, with any of ``recipe.toml``, ``metrics.jsonl``, ``summary.json`` and
            ``trajectories/``.

    Returns:
        The page's path.

    Raises:
        ConfigError: the folder is not there, or holds none of these.
        StoreError: the page cannot be written.
    """
    read = RunFolder.read(run)
    durable.write_bytes(run / PAGE, _render(read, _report(read)))
    return run / PAGE


def episode_html(run: Path, episode: str) -> str:
    """A page with one episode: every turn, all text, all pictures.

    Args:
        run: the folder.
        episode: the trajectory's id.

    Raises:
        ConfigError: the folder holds no run.
        UnknownNameError: no episode of that id is stored; the nearest ones are suggested.
    """
    read = RunFolder.read(run, wanted=episode)
    if read.wanted is None:
        raise UnknownNameError("episode", episode, read.ids)
    read.pictures.left = 10**9
    view = EpisodeView.of(read.wanted, read.pictures, run=run, whole=True)
    facts = [("Run", read.name), ("Model", read.model), ("Recipe", read.recipe_name)]
    values = {"alone": True, "name": view.id, "facts": facts, "episodes": [view]}
    return _render(read, values).decode()


def _report(run: RunFolder) -> dict[str, Any]:
    """Everything that the template shows of a whole run."""
    before, after = run.mean("before"), run.mean("after")
    curves, more = _charts(run)
    chosen = choose_episodes(
        run.evaluated.get(BEFORE, []),
        run.evaluated.get(AFTER, []),
        run.samples.values(),
    )
    total = len(run.ids)
    return {
        "alone": False,
        "name": run.name,
        "before": _shown(before),
        "after": _shown(after),
        "sentence": _sentence(before, after, len(run.by_task("after") or run.by_task("before"))),
        "notes": [*_status(run, after), *alarm_notes(run.rows, run.recipe_text), *run.notes],
        "facts": _facts(run),
        "tasks": _tasks(run, before, after),
        "charts": curves,
        "more_metrics": more,
        "diagnostics": diagnostic_charts(run.rows),
        "phases": _phases(run),
        "episodes": [
            EpisodeView.of(t, run.pictures, run=run.folder, anchor=f"episode-{i}")
            for i, t in enumerate(chosen, start=1)
        ],
        "episodes_sentence": (
            f"{len(chosen)} of {total:,} episodes. For each task a failure before training and a "
            "success after it, on the same seed where there is one; then others."
            if run.evaluated
            else f"{len(chosen)} of {total:,} episodes."
        ),
        "recipe": run.recipe_text,
        "commands": _commands(run),
    }


def _status(run: RunFolder, after: Rate | None) -> list[str]:
    if run.summary.get("finished") or (after and "finished" not in run.summary):
        return []
    last = run.summary.get("phase") or (run.rows[-1].get("phase") if run.rows else None)
    where = f" It is at: {phase_label(str(last)).lower()}." if last else ""
    return [f"This run is not finished.{where} The page shows what is there so far."]


def _sentence(before: Rate | None, after: Rate | None, tasks: int) -> str:
    over = f"over {tasks} task{'' if tasks == 1 else 's'}"
    if before and after:
        points = round(100 * after.value) - round(100 * before.value)
        verb = "rose" if points > 0 else "fell" if points < 0 else "did not change"
        apart = before.high < after.low or after.high < before.low
        by = f" by {abs(points)} point{'' if abs(points) == 1 else 's'}" if points else ""
        return (
            f"Mean success {over} {verb}{by}; the intervals "
            f"{'do not overlap' if apart else 'overlap'}."
        )
    if before:
        return f"Mean success {over}. There is no evaluation after training yet."
    if after:
        return f"Mean success {over}. There is no evaluation before training."
    return "No evaluation has been finished yet."


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    seconds = sum(run.seconds.values())
    turns = sum(t.turns for phase in run.tallies.values() for t in phase.values())
    return [
        ("Model", run.model),
        ("Recipe", run.recipe_name),
        ("Time", _duration(seconds) if seconds else "not known yet"),
        ("Episodes", f"{len(run.ids):,} with {turns:,} turns"),
        ("Machine", str(run.summary.get("machine", "unknown"))),
        ("Trained with", f"agentgym {run.summary.get('version', 'unknown')}"),
    ]


def _shown(rate: Rate | None) -> dict[str, Any] | None:
    """A rate and how it reads."""
    if rate is None:
        return None
    interval = f"{rate.low:.0%} to {rate.high:.0%}"
    return {
        "value": rate.value,
        "low": rate.low,
        "high": rate.high,
        "text": f"{rate.value:.0%}",
        "interval": interval,
        "label": f"{rate.value:.0%}, interval {interval}",
    }


def _tasks(run: RunFolder, before: Rate | None, after: Rate | None) -> list[dict[str, Any]]:
    """The rows of the table by task, all tasks together first."""
    first, last = run.by_task("before"), run.by_task("after")
    names = sorted({*first, *last})
    rows = [_task(short_name(n), n, first.get(n), last.get(n)) for n in names]
    if len(names) > 1:
        total = _task(
            f"All {len(names)} tasks",
            "mean over tasks",
            Tally.sum(first.values()),
            Tally.sum(last.values()),
            (before, after),
        )
        rows.insert(0, {**total, "total": True})
    return rows


def _task(
    name: str,
    full: str,
    before: Tally | None,
    after: Tally | None,
    rates: tuple[Rate | None, Rate | None] | None = None,
) -> dict[str, Any]:
    rows = []
    first, last = rates or (before.rate if before else None, after.rate if after else None)
    for which, tally, rate in (("before", before, first), ("after", after, last)):
        if tally is None or not tally.episodes:
            continue
        rows.append(
            {
                "which": which,
                "rate": _shown(rate),
                "scored": len(tally.outcomes),
                "unscored": tally.unscored,
                "turns": tally.mean_turns,
                "invalid": tally.invalid_share,
                "ends": tally.said_ends,
            }
        )
    change = round(100 * last.value) - round(100 * first.value) if first and last else None
    return {"name": name, "full": full, "rows": rows, "change": change, "total": False}


def _phases(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of the table by phase: those of the summary and those of the store, merged."""
    seconds = run.seconds
    longest = max(seconds.values(), default=0.0)
    rows = []
    for phase in [*seconds, *(p for p in run.tallies if p not in seconds)]:
        tally = Tally.sum(run.tallies.get(phase, {}).values())
        won, scored = sum(tally.outcomes), len(tally.outcomes)
        rows.append(
            {
                "name": phase_label(phase),
                "episodes": f"{tally.episodes:,}" if tally.episodes else NOTHING,
                "success": f"{won / scored:.0%}" if scored else NOTHING,
                "unscored": tally.unscored if tally.episodes else NOTHING,
                "turns": tally.mean_turns,
                "invalid": tally.invalid_share,
                "time": _duration(seconds[phase]) if phase in seconds else NOTHING,
                "length": seconds.get(phase, 0.0) / longest if longest else 0.0,
            }
        )
    return rows


def _charts(run: RunFolder) -> tuple[list[Chart], list[str]]:
    """Success by phase, then the loss and what else was measured; and the names left out."""
    rates = []
    for phase, tallies in run.tallies.items():
        rate = mean_over_tasks(tallies.values())
        if phase in (BEFORE, AFTER):
            rate = run.mean(phase.removeprefix("eval-"))
        if rate is not None and phase in run.policy_phases:
            evaluation = phase.startswith("eval-")
            label = phase.removeprefix("eval-").removeprefix("iteration-")
            note = "evaluation" if evaluation else "training episodes, sampled"
            kind = "evaluation" if evaluation else "sampled"
            rates.append(Rate(label, rate.value, rate.low, rate.high, kind, note))
    made = [
        rate_chart(
            rates,
            title="Success by phase",
            x_label="iteration",
            y_label="Mean over tasks with 95% interval; filled: evaluation, open: training",
        )
    ]
    names = {name: None for row in run.rows for name, v in row.items() if _is_curve(name, v)}
    ordered = sorted(names, key=lambda name: ("loss" not in name, not _is_share(name)))
    made += [_curve(run.rows, name) for name in ordered]
    charts = [chart for chart in made if chart is not None]
    return charts[:MAX_CHARTS], [chart.title for chart in charts[MAX_CHARTS:]]


def _is_curve(name: str, value: Any) -> bool:
    return (
        name not in _NOT_CURVES
        and not name.startswith(("update_", "alarm_"))
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_share(name: str) -> bool:
    return name.endswith(("_share", "accuracy", "success", "_fraction"))


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> Chart | None:
    """One measured number over the run; `None` if it was measured once."""
    having = [row for row in rows if _is_curve(name, row.get(name))]
    if len(having) < 2:
        return None
    steps = [float(row.get("step", i)) for i, row in enumerate(having)]
    ordered = all(a < b for a, b in itertools.pairwise(steps))
    xs = steps if ordered else [float(i) for i in range(1, len(having) + 1)]
    starts = [
        (xs[i], phase_label(str(row.get("phase", ""))))
        for i, row in enumerate(having)
        if not i or row.get("phase") != having[i - 1].get("phase")
    ]
    values = [float(row[name]) for row in having]
    title = name.replace("_", " ").replace("/", ": ")
    return line_chart(
        [Series(name, xs, values)],
        title=title[0].upper() + title[1:],
        x_label="step" if ordered else "measurement",
        y_label=_unit(name),
        percent=_is_share(name) and all(0 <= v <= 1 for v in values),
        marks=starts,
    )


def _unit(name: str) -> str:
    """What the axis says, from the name of the number."""
    if _is_share(name):
        return "Share"
    for ending, unit in (
        ("per_s", "Per second"),
        ("_s", "Seconds"),
        ("loss", "Nats per token"),
        ("entropy", "Nats per token"),
        ("grad_norm", "Norm of the gradient"),
        ("lr", "Step size"),
        ("learning_rate", "Step size"),
        ("tokens", "Tokens"),
    ):
        if name.endswith(ending):
            return unit
    return "Value"


def _commands(run: RunFolder) -> list[tuple[str, str]]:
    folder = str(run.folder)
    recipe = str(run.folder / "recipe.toml")
    again = f"{folder.rstrip('/')}-again"
    commands = [
        ("The same run, in another folder", ["train", recipe, "--out", again]),
        ("Go on with this run if it was stopped", ["train", recipe, "--out", folder, "--resume"]),
        ("Write this page again", ["report", folder]),
    ]
    return [(label, shlex.join(["agentgym", *words])) for label, words in commands]


def _duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> _duration(4.24), _duration(61), _duration(7384)
        ('4.2 s', '1 min 01 s', '2 h 03 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _csp_hash(script: str) -> str:
    """The source expression by which a content policy allows exactly this script."""
    digest = hashlib.sha256(str(script).encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _render(run: RunFolder, values: Mapping[str, Any]) -> bytes:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
    )
    environment.filters["csp_hash"] = _csp_hash
    source = files("agentgym").joinpath("report.html.jinja").read_text("utf-8")
    page = environment.from_string(source).render(
        title=f"{values['name']} · agentgym",
        pictures=run.pictures,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )
    return page.encode("utf-8", errors="replace")  # a model can write lone surrogates
