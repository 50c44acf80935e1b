"""What a practitioner looks at besides the score: calibration, histograms, and alarms for collapse.

Pure functions on numbers and on rows of metrics. Every alarm is a rule with a threshold in
`AlarmsConfig`; it is judged on the rows of a run alone, so that a resumed run, and the report of a
finished one, say the same.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from agentgym.errors import ConfigError
from agentgym.types import Trajectory, Turn

Row: TypeAlias = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""


# -- numbers ----------------------------------------------------------------------------------


def calibration(
    predicted: npt.ArrayLike, realised: npt.ArrayLike, bins: int = 10
) -> list[list[float]]:
    """What a critic said against what came, in bins of equally many predictions.

    Args:
        predicted: (n,) values.
        realised: (n,) returns that followed.
        bins: at most so many.

    Returns:
        For each bin, lowest predictions first: how many, their mean, the mean of what came.

    Example:
        >>> calibration([0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 1.0], bins=2)
        [[2.0, 0.0, 0.25], [2.0, 1.0, 1.0]]
    """
    said, came = np.asarray(predicted, np.float64), np.asarray(realised, np.float64)
    if said.shape != came.shape or said.ndim != 1:
        raise ValueError(f"need two equal 1-d arrays, got shapes {said.shape} and {came.shape}")
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, max(1, len(said)))) if len(part)]
    return [[float(len(p)), float(said[p].mean()), float(came[p].mean())] for p in parts]


def calibration_error(table: Sequence[Sequence[float]]) -> float:
    """Mean distance between what was said and what came, over the predictions of a `calibration`.

    Example:
        >>> calibration_error([[2.0, 0.0, 0.25], [2.0, 1.0, 1.0]])
        0.125
    """
    total = sum(count for count, _, _ in table)
    if not total:
        return 0.0
    return sum(count * abs(said - came) for count, said, came in table) / total


def histogram(values: npt.ArrayLike, bins: int = 16) -> dict[str, list[float]]:
    """Counts of values between their least and greatest.

    Returns:
        ``edges`` (bins + 1,) and ``counts`` (bins,); both empty without a finite value.

    Example:
        >>> histogram([0.0, 0.1, 1.0], bins=2)
        {'edges': [0.0, 0.5, 1.0], 'counts': [2.0, 1.0]}
    """
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if not len(array):
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(array, bins)
    return {"edges": edges.tolist(), "counts": counts.astype(float).tolist()}


def repeated_ngrams(ids: Sequence[Hashable], length: int = 4) -> float:
    """Share of a text's n-grams that stand in it before; 0 if it is shorter than two of them.

    Example:
        >>> repeated_ngrams("abababab", 2), repeated_ngrams("abcdefgh", 2)
        (0.7142857142857143, 0.0)
    """
    grams = [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(ids) >= 2 * length else 0.0


def repetition(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How much a policy repeats itself.

    Returns:
        ``repeated_action_share``: of all turns after an episode's first, those whose action is the
        one before; ``repeated_ngram_share``: the mean of `repeated_ngrams` over answers.
    """
    pairs = [
        _said(before) == _said(after)
        for t in trajectories
        for before, after in zip(t.turns, t.turns[1:], strict=False)
    ]
    answers = [
        repeated_ngrams(turn.action_ids.tolist())
        for t in trajectories
        for turn in t.turns
        if turn.action_ids is not None
    ]
    return {
        "repeated_action_share": sum(pairs) / len(pairs) if pairs else 0.0,
        "repeated_ngram_share": sum(answers) / len(answers) if answers else 0.0,
    }


def _said(turn: Turn) -> str:
    return turn.action or turn.text


# -- alarms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlarmsConfig:
    """When a run is in trouble. 0 switches a rule off."""

    entropy: float = 0.1
    """The policy's entropy per token is below this share of that of the first iteration."""
    repetition: float = 0.5
    """More than this share of turns repeats the action before, or of n-grams stands in the same
    answer before."""
    invalid: float = 0.5
    """More than this share of turns did not parse or could not be carried out."""
    dead_groups: int = 3
    """So many iterations in a row, all groups had equal scores."""
    stop_after: int = 5
    """So many updates in a row found nothing to learn from: the run stops with an error."""

    def __post_init__(self) -> None:
        for name in ("entropy", "repetition", "invalid"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        for name in ("dead_groups", "stop_after"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")


EPISODE_RULES = ("entropy", "repetition", "invalid")
UPDATE_RULES = ("dead_groups", "bad_steps", "nothing_to_learn")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One rule that a row broke."""

    rule: str
    """One of `EPISODE_RULES` or `UPDATE_RULES`."""
    phase: str
    message: str


def alarms(rows: Sequence[Row], config: AlarmsConfig) -> list[Alarm]:
    """The rules that the last row breaks, given the rows before it.

    Args:
        rows: of a run's metrics, in order; rows of single steps and evaluations are passed over.
        config: the rules.
    """
    collected, updates = _iterations(rows)
    last = rows[-1] if rows else {}
    if collected and collected[-1] is last:
        found = _of_episodes(collected, config)
    elif updates and updates[-1] is last:
        found = _of_updates(updates, config)
    else:
        return []
    phase = str(last.get("phase", ""))
    return [Alarm(rule, phase, message) for rule, message in found]


def alarm_counters(rows: Sequence[Row], found: Sequence[Alarm]) -> dict[str, float]:
    """How often each rule that the last row can break was broken, up to and with it.

    Args:
        rows: of a run's metrics, in order; earlier ones hold their own counters.
        found: the `alarms` of the last row.

    Returns:
        ``alarm_<rule>``; nothing for rows that no rule is about.
    """
    *earlier, last = rows
    rules = EPISODE_RULES if _is_collection(last) else UPDATE_RULES if _is_update(last) else ()
    counters = {}
    for rule in rules:
        name = f"alarm_{rule}"
        before = next((_number(row, name) for row in reversed(earlier) if name in row), 0.0)
        counters[name] = before + sum(alarm.rule == rule for alarm in found)
    return counters


def all_alarms(rows: Sequence[Row], config: AlarmsConfig) -> list[Alarm]:
    """Those of every row of a run, in order."""
    kept = [row for row in rows if _is_collection(row) or _is_update(row)]
    return [alarm for i in range(len(kept)) for alarm in alarms(kept[: i + 1], config)]


def nothing_learned(rows: Sequence[Row]) -> int:
    """How many updates of iterations, the last ones, found nothing to learn from."""
    _, updates = _iterations(rows)
    idle = 0
    for row in reversed(updates):
        if _steps(row):
            break
        idle += 1
    return idle


def _iterations(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    return [r for r in rows if _is_collection(r)], [r for r in rows if _is_update(r)]


def _is_collection(row: Row) -> bool:
    return bool(row.get("iteration")) and str(row.get("phase")).startswith("iteration-")


def _is_update(row: Row) -> bool:
    return bool(row.get("iteration")) and "update_steps" in row


def _steps(row: Row) -> float:
    return _number(row, "update_steps") + _number(row, "update_critic_steps")


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _of_episodes(rows: Sequence[Row], config: AlarmsConfig) -> list[tuple[str, str]]:
    row = rows[-1]
    found = []
    known = [_number(r, "entropy") for r in rows if r.get("entropy") is not None]
    if len(known) > 1 and row.get("entropy") is not None and known[-1] < config.entropy * known[0]:
        found.append(
            (
                "entropy",
                f"entropy fell to {known[-1]:.2g} nats a token, {known[-1] / known[0]:.0%} of its "
                "start: the policy hardly explores; lower the learning rate or raise the "
                "sampling temperature",
            )
        )
    if config.repetition:
        for name, what in (
            ("repeated_action_share", "of turns repeat the action before"),
            ("repeated_ngram_share", "of n-grams stand in the same answer before"),
        ):
            if _number(row, name) > config.repetition:
                found.append(("repetition", f"{_number(row, name):.0%} {what}"))
    unparsed, failed = _number(row, "unparsed_share"), _number(row, "failed_share")
    if config.invalid and unparsed + failed > config.invalid:
        found.append(
            (
                "invalid",
                f"{unparsed:.0%} of turns did not parse and {failed:.0%} could not be carried out",
            )
        )
    return found


def _of_updates(rows: Sequence[Row], config: AlarmsConfig) -> list[tuple[str, str]]:
    row = rows[-1]
    found = []
    last = rows[-config.dead_groups :] if config.dead_groups else []
    if (
        0 < len(last) == config.dead_groups
        and all(_number(r, "update_groups") > 0 for r in last)
        and all(_number(r, "update_dead_group_share") >= 1.0 for r in last)
    ):
        found.append(
            (
                "dead_groups",
                f"in {config.dead_groups} iterations in a row every group had equal scores: tasks "
                "are too easy or too hard, or group_size is 1",
            )
        )
    bad = sum(_number(row, name) for name in row if name.startswith("update_skipped_"))
    if bad:
        found.append(("bad_steps", f"{bad:.0f} steps had a gradient that is not finite"))
    if not _steps(row):
        idle = nothing_learned(rows)
        again = f", {idle} times in a row" if idle > 1 else ""
        found.append(("nothing_to_learn", f"the update found nothing to learn from{again}"))
    return found
