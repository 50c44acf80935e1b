"""Success rates and their uncertainty: intervals, means over tasks, pass@k. Pure numpy."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.floating]


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a success rate; sensible for few trials and at 0 or 1.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; discussed by Brown, Cai
    and DasGupta 2001, https://doi.org/10.1214/ss/1009213286.

    Args:
        successes: of the trials.
        n: trials; 0 gives (0, 1).
        confidence: in (0, 1).

    Raises:
        ValueError: successes are not between 0 and n, or the confidence is not in (0, 1).

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> f"{low:.4f} {high:.4f}"
        '0.4902 0.9433'
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes!r} of {n!r}")
    z = NormalDist().inv_cdf(0.5 + _check_confidence(confidence) / 2)
    if n == 0:
        return Interval(0.0, 1.0)
    rate = successes / n
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the formula is exact but its rounding is not.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def bootstrap_interval(
    values: Values,
    seed: int = 0,
    *,
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None,
    confidence: float = 0.95,
    samples: int = 10_000,
) -> Interval:
    """Percentile bootstrap interval of a statistic.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.

    Args:
        values: (n,) observations, at least one. Equal ones give an interval of no width.
        seed: of the resampling.
        statistic: (samples, n) -> (samples,), over the last axis; the mean by default.
        confidence: in (0, 1).
        samples: bootstrap resamples.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = _check_values(values)
    rng = np.random.default_rng(seed)
    return _percentiles(_resampled(array, rng, samples, statistic or _mean), confidence)


def stratified_bootstrap_interval(
    groups: Sequence[Values],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    samples: int = 10_000,
) -> Interval:
    """Interval of the mean over tasks of each task's mean, resampling within each task.

    Source: Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.1 (stratified
    bootstrap).

    The tasks are taken as given, not as a sample of tasks. A task whose outcomes are all equal adds
    no width, so the interval is too narrow if most tasks are at 0 or at 1; `mean_interval` has no
    such blind spot.

    Args:
        groups: for each task its (n,) outcomes, at least one each.
        seed: of the resampling.
        confidence: in (0, 1).
        samples: bootstrap resamples.

    Raises:
        ValueError: no groups, an empty one, or a value that is not finite.
    """
    if not groups:
        raise ValueError("groups must hold the outcomes of at least one task, got none")
    rng = np.random.default_rng(seed)
    total = np.zeros(samples)
    for group in groups:
        total += _resampled(_check_values(group), rng, samples)
    return _percentiles(total / len(groups), confidence)


def nested_bootstrap_interval(
    groups: Sequence[Values],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    samples: int = 10_000,
) -> Interval:
    """Interval of the mean over groups of each group's mean, resampling groups and then inside.

    Where `stratified_bootstrap_interval` takes the groups as given, here they are a sample
    themselves: runs of which there could be more, each measured by a sample of episodes.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (both
    stages with replacement).

    Args:
        groups: for each run the (n,) values of its episodes, at least one each.
        seed: of the resampling.
        confidence: in (0, 1).
        samples: bootstrap resamples.

    Raises:
        ValueError: no groups, an empty one, or a value that is not finite.
    """
    if not groups:
        raise ValueError("groups must hold the values of at least one run, got none")
    arrays = [_check_values(group) for group in groups]
    rng = np.random.default_rng(seed)
    total = np.zeros(samples)
    for _ in arrays:
        chosen = rng.integers(len(arrays), size=samples)
        for index, array in enumerate(arrays):
            places = np.flatnonzero(chosen == index)
            total[places] += _resampled(array, rng, len(places))
    return _percentiles(total / len(arrays), confidence)


def mean_interval(
    counts: Sequence[tuple[int, int]], *, confidence: float = 0.95
) -> tuple[float, Interval]:
    """Mean over tasks of their success rates, with an interval made of Wilson's.

    Source: Zou and Donner 2008, https://doi.org/10.1002/sim.3095 (limits of a sum from each
    term's own limits), here with weights 1/K.

    Args:
        counts: (successes, trials) of each task; trials at least 1.
        confidence: in (0, 1).

    Returns:
        The mean and its interval.

    Raises:
        ValueError: no tasks, or a task without trials.

    Example:
        >>> mean, (low, high) = mean_interval([(0, 12), (12, 12)])
        >>> f"{mean:.2f} {low:.4f} {high:.4f}"
        '0.50 0.3788 0.6212'
    """
    if not counts or any(n < 1 for _, n in counts):
        raise ValueError(f"every task needs at least one trial, got {list(counts)!r}")
    rates = np.array([successes / n for successes, n in counts])
    ends = np.array([wilson_interval(successes, n, confidence) for successes, n in counts])
    mean = float(rates.mean())
    below = math.sqrt(float(((rates - ends[:, 0]) ** 2).sum())) / len(counts)
    above = math.sqrt(float(((ends[:, 1] - rates) ** 2).sum())) / len(counts)
    return mean, Interval(mean - below, mean + above)


def difference_interval(
    first: tuple[float, Interval], second: tuple[float, Interval]
) -> tuple[float, Interval]:
    """How much larger the first of two independent estimates is.

    Source: Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I,
    method 10; for any two estimates with intervals by Zou and Donner 2008.

    Args:
        first: estimate and interval, as `mean_interval` gives them.
        second: the same, of the same confidence.

    Returns:
        The difference and its interval.
    """
    (a, a_ends), (b, b_ends) = first, second
    difference = a - b
    below = math.hypot(a - a_ends.low, b_ends.high - b)
    above = math.hypot(a_ends.high - a, b - b_ends.low)
    return difference, Interval(difference - below, difference + above)


def pass_at_k(n: int, successes: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k tries succeeds.

    Source: Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1.

    Args:
        n: tries made, at least k.
        successes: of the tries.
        k: tries allowed, at least 1.

    Raises:
        ValueError: k or the successes are out of range.

    Example:
        >>> pass_at_k(5, 2, 2)  # 1 - C(3, 2) / C(5, 2)
        0.7
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and n, got k={k!r} and n={n!r}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes!r} of {n!r}")
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)


def _mean(draws: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    means: npt.NDArray[np.float64] = draws.mean(axis=-1)
    return means


def _resampled(
    array: npt.NDArray[np.float64],
    rng: np.random.Generator,
    samples: int,
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = _mean,
) -> npt.NDArray[np.float64]:
    """(samples,) a statistic of as many resamples of (n,) values.

    They are drawn by the batch, so that no batch holds more than some millions of values.
    """
    n = len(array)
    size = max(1, 4_000_000 // n)
    counts = [min(size, samples - start) for start in range(0, samples, size)]
    draws = [statistic(array[rng.integers(n, size=(count, n))]) for count in counts]
    return np.concatenate([np.zeros(0), *draws])


def _percentiles(draws: npt.NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - _check_confidence(confidence)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    return confidence


def _check_values(values: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values must be one or more finite numbers, got {array!r}")
    return array
