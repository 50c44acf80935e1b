"""The report's diagnostics: curves over iterations, tables of the last update, alarms in words."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from agentgym import config
from agentgym.charts import Chart, Series, line_chart
from agentgym.diagnostics import AlarmsConfig, Row, all_alarms
from agentgym.errors import ConfigError

_CURVES: tuple[tuple[str, str, str], ...] = (
    ("entropy", "Entropy of the sampled tokens", "Nats per token"),
    ("update_policy_kl", "Divergence from the policy that sampled", "Nats per token"),
    ("update_reference_kl", "Divergence from the start", "Nats per token"),
    ("update_clip_share", "Tokens whose ratio is clipped", "Share"),
    ("update_explained_variance", "Explained variance of the critic", "1 is perfect"),
    ("update_v_calibration_error", "V against what came", "Mean distance"),
    ("update_q_calibration_error", "Q against what came", "Mean distance"),
    ("dead_group_share", "Groups of equal scores", "Share"),
    ("unparsed_share", "Turns that did not parse", "Share"),
    ("failed_share", "Turns that could not be carried out", "Share"),
    ("repeated_action_share", "Turns that repeat the action before", "Share"),
    ("repeated_ngram_share", "Repeated n-grams in answers", "Share"),
    ("turns_per_episode", "Turns of an episode", "Mean"),
    ("tokens_per_turn", "Tokens of a turn", "Mean"),
)
"""Number of an iteration, title of its chart, label of its axis."""


def diagnostic_charts(rows: Sequence[Row]) -> list[Chart]:
    """Charts of the numbers that two iterations or more have, then the last update's tables."""
    iterations = [{**row, **_ratios(row)} for row in rows if _of_iteration(row)]
    made = [_curve(iterations, *curve) for curve in _CURVES]
    having = (row["tables"] for row in reversed(iterations) if row.get("tables"))
    tables: dict[str, Any] = next(having, {})
    made += [_histogram(tables.get("advantages"))]
    made += [_calibration(tables.get(f"{name}_calibration"), name.upper()) for name in ("v", "q")]
    return [chart for chart in made if chart is not None]


def alarm_notes(rows: Sequence[Row], recipe: str) -> list[str]:
    """One sentence for each rule that a run has broken: how often, and what was said last.

    Args:
        rows: of the run's metrics.
        recipe: its recipe's text, which may set `AlarmsConfig`.
    """
    found: dict[str, list[Any]] = {}
    for alarm in all_alarms(rows, _rules(recipe)):
        found.setdefault(alarm.rule, []).append(alarm)
    notes = []
    for rule, several in found.items():
        times = "once" if len(several) == 1 else f"{len(several)} times"
        last = several[-1]
        name = rule.replace("_", " ")
        notes.append(f"Alarm, {name}, {times}, last in {last.phase}: {last.message}.")
    return notes


def _rules(recipe: str) -> AlarmsConfig:
    try:
        return config.load(AlarmsConfig, tomllib.loads(recipe).get("alarms", {}))
    except (ConfigError, tomllib.TOMLDecodeError):  # a damaged recipe has a note of its own
        return AlarmsConfig()


def _of_iteration(row: Row) -> bool:
    return bool(row.get("iteration")) and "seconds" in row and "eval" not in str(row.get("phase"))


def _ratios(row: Row) -> dict[str, float]:
    if row.get("update_groups"):  # groups of one compare nothing
        return {"dead_group_share": row.get("update_dead_group_share", 0.0)}
    turns, episodes = row.get("turns"), row.get("episodes")
    if not turns or not episodes:
        return {}
    return {
        "turns_per_episode": turns / episodes,
        "tokens_per_turn": float(row.get("action_tokens", 0.0)) / turns,
    }


def _curve(rows: Sequence[Row], name: str, title: str, label: str) -> Chart | None:
    having = [row for row in rows if isinstance(row.get(name), int | float)]
    if len(having) < 2:
        return None
    xs, ys = [float(row["iteration"]) for row in having], [float(row[name]) for row in having]
    return line_chart(
        [Series(title, xs, ys)],
        title=title,
        x_label="iteration",
        y_label=label,
        percent=label == "Share",
    )


def _histogram(table: Mapping[str, Sequence[float]] | None) -> Chart | None:
    """Steps over the bins of a `diagnostics.histogram`."""
    if not table or not table["counts"]:
        return None
    edges, counts = table["edges"], table["counts"]
    xs = [x for left, right in itertools.pairwise(edges) for x in (left, right)]
    return line_chart(
        [Series("advantages", xs, [y for count in counts for y in (count, count)])],
        title="Advantages of the last update",
        x_label="advantage",
        y_label="How many",
    )


def _calibration(table: Sequence[Sequence[float]] | None, name: str) -> Chart | None:
    """What a critic said against what came, with the diagonal that would be perfect."""
    if not table or len(table) < 2:
        return None
    said, came = [row[1] for row in table], [row[2] for row in table]
    ends = [min(said), max(said)]
    return line_chart(
        [Series("perfect", ends, ends), Series(name, said, came)],
        title=f"{name} against returns, last update",
        x_label="what the critic said",
        y_label="What came, mean of a bin",
    )
