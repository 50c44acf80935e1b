"""Intervals against published or hand-worked values."""

import itertools
import math

import numpy as np
import pytest

from agentgym.stats import (
    Interval,
    bootstrap_interval,
    difference_interval,
    mean_interval,
    nested_bootstrap_interval,
    pass_at_k,
    stratified_bootstrap_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998 (two-sided intervals for the single proportion), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends() -> None:
    # At 0 of n the upper end is z^2 / (n + z^2), at n of n the mirror of it.
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + z2), 1.0))
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_is_symmetric_and_grows_with_confidence() -> None:
    for successes in range(8):
        low, high = wilson_interval(successes, 7)
        assert wilson_interval(7 - successes, 7) == pytest.approx((1 - high, 1 - low))
        wide = wilson_interval(successes, 7, confidence=0.99)
        assert wide.low <= low
        assert high <= wide.high


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        wilson_interval(1, 2, confidence)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        bootstrap_interval([1.0], confidence=confidence)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / math.sqrt(len(values))
    interval = bootstrap_interval(values, seed=1)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_by_hand() -> None:
    """Of (0, 1) the mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: both 5 % tails are the ends."""
    assert bootstrap_interval([0.0, 1.0], confidence=0.9) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_bootstrap_of_another_statistic() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    interval = bootstrap_interval(values, statistic=lambda draws: np.median(draws, axis=-1))
    assert interval.low >= 1.0
    assert interval.high in values


def test_bootstrap_repeats_by_seed() -> None:
    values = np.linspace(0, 1, 11)
    assert bootstrap_interval(values, 3) == bootstrap_interval(values, 3)
    assert bootstrap_interval(values, 3) != bootstrap_interval(values, 4)


def test_bootstrap_in_chunks_covers_all_samples() -> None:
    """A million values make chunks of four resamples."""
    values = np.zeros(1_000_000)
    assert bootstrap_interval(values, samples=9) == (0.0, 0.0)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")], [[1.0]]])
def test_bootstrap_refuses_what_is_no_sample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        bootstrap_interval(values)
    with pytest.raises(ValueError, match="finite numbers"):
        stratified_bootstrap_interval([[1.0], values])


def test_nested_resamples_groups_and_their_values() -> None:
    # Groups that differ but have no spread inside: as wide as a bootstrap of their means.
    apart = nested_bootstrap_interval([[0.0] * 9, [1.0] * 9], samples=20_000)
    assert apart == (0.0, 1.0), "each group alone is drawn a quarter of the time"
    # Equal groups with spread inside: the variance of a mean of 2 x 50 coins, with the variance
    # that drawing whole groups adds when they happen to be equal: none.
    coin = [0.0, 1.0] * 25
    low, high = nested_bootstrap_interval([coin, coin], samples=20_000)
    half = 1.96 * math.sqrt(0.25 / 100)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.015)
    assert nested_bootstrap_interval([coin]) == pytest.approx(bootstrap_interval(coin), abs=0.02)
    with pytest.raises(ValueError, match="at least one run"):
        nested_bootstrap_interval([])
    with pytest.raises(ValueError, match="finite"):
        nested_bootstrap_interval([coin, [math.nan]])


def test_stratified_resamples_within_each_task() -> None:
    """Tasks at 0 and at 1 alone have no spread; pooling their outcomes would."""
    assert stratified_bootstrap_interval([[0.0] * 5, [1.0] * 5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one task"):
        stratified_bootstrap_interval([])


def test_stratified_has_the_right_width() -> None:
    """The variance of a mean over K tasks is the mean of p(1-p)/n, once more by K."""
    groups = [[1.0] * 20 + [0.0] * 20, [1.0] * 10 + [0.0] * 30]
    sd = math.sqrt(0.5 * 0.5 / 40 + 0.25 * 0.75 / 40) / 2
    low, high = stratified_bootstrap_interval(groups, seed=0, samples=20_000)
    assert (low, high) == pytest.approx((0.375 - 1.96 * sd, 0.375 + 1.96 * sd), abs=0.01)
    weighed_by_size = [[1.0], [0.0] * 99]
    assert stratified_bootstrap_interval(weighed_by_size) == (0.5, 0.5)


def test_mean_interval_of_one_task_is_wilsons() -> None:
    mean, interval = mean_interval([(7, 10)])
    assert mean == 0.7
    assert interval == pytest.approx(wilson_interval(7, 10))


def test_mean_interval_by_hand() -> None:
    """Wilson of 0/12 is (0, 0.24249), of 12/12 its mirror; halves of the root of the squares."""
    mean, interval = mean_interval([(0, 12), (12, 12)])
    assert mean == 0.5
    half = math.sqrt(0.0**2 + 0.242494**2) / 2
    assert interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)


def test_mean_interval_covers() -> None:
    """Over many draws the 95 % interval holds the true mean about as often as it says."""
    rng = np.random.default_rng(0)
    rates = np.array([0.05, 0.5, 0.8, 1.0])
    draws = rng.binomial(12, rates, size=(2000, 4))
    inside = 0
    for row in draws:
        _, (low, high) = mean_interval([(int(s), 12) for s in row])
        inside += low <= rates.mean() <= high
    assert 0.93 <= inside / len(draws) <= 0.99


def test_mean_interval_refuses_empty_tasks() -> None:
    for counts in ([], [(0, 0)]):
        with pytest.raises(ValueError, match="at least one trial"):
            mean_interval(counts)


def test_difference_as_published() -> None:
    """Newcombe 1998 (difference between independent proportions), table II, method 10."""
    first = (56 / 70, wilson_interval(56, 70))
    second = (48 / 80, wilson_interval(48, 80))
    difference, interval = difference_interval(first, second)
    assert difference == pytest.approx(0.2)
    assert interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_difference_of_exact_numbers_has_no_width() -> None:
    exact = difference_interval((0.75, Interval(0.75, 0.75)), (0.25, Interval(0.25, 0.25)))
    assert exact == (0.5, (0.5, 0.5))


@pytest.mark.parametrize(("n", "successes"), [(5, 0), (5, 2), (6, 6), (4, 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n: int, successes: int) -> None:
    tries = [True] * successes + [False] * (n - successes)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(tries, k))
        share = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k(n, successes, k) == pytest.approx(share)


def test_pass_at_k_for_many_tries() -> None:
    assert pass_at_k(10_000, 100, 1) == pytest.approx(0.01)
    assert 0 < pass_at_k(10_000, 1, 5_000) < 1


@pytest.mark.parametrize(("n", "successes", "k"), [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses(n: int, successes: int, k: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        pass_at_k(n, successes, k)
