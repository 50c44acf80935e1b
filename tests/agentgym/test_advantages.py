"""Returns, baselines and advantages, against values worked by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from agentgym.advantages import (
    anchored_advantages,
    explained_variance,
    gae,
    group_advantages,
    n_step_returns,
    permuted,
    returns_to_go,
    turn_advantages,
    two_level_gae,
    whiten,
)

SCORES = [1.0, 0.0, 0.0, 0.5]
NAN = float("nan")


def test_returns() -> None:
    assert_allclose(returns_to_go([1, 2, 3], 0.5), [1 + 1 + 0.75, 3.5, 3])
    assert_allclose(returns_to_go([1, 2], 0.5, bootstrap=4), [1 + 1 + 1, 2 + 2])
    assert len(returns_to_go([])) == 0
    with pytest.raises(ValueError, match="1-d"):
        returns_to_go([[1.0]])


def test_n_step_returns_lie_between_td_and_the_return() -> None:
    rewards, values, discount = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 0.5
    assert_allclose(n_step_returns(rewards, values, 1, discount), [1 + 10, 2 + 15, 3])
    assert_allclose(
        n_step_returns(rewards, values, 2, discount, bootstrap=8),
        [1 + 1 + 0.25 * 30, 2 + 1.5 + 0.25 * 8, 3 + 4],
    )
    everything = n_step_returns(rewards, values, 9, discount)
    assert_allclose(everything, returns_to_go(rewards, discount))
    with pytest.raises(ValueError, match="at least 1"):
        n_step_returns(rewards, values, 0, discount)


def test_gae() -> None:
    rewards, values = [1.0, 0.0, 2.0], [0.5, 1.0, 1.5]
    # errors with discount .9 and bootstrap 2: 1+.9-.5, 0+1.35-1, 2+1.8-1.5
    errors = [1.4, 0.35, 2.3]
    assert_allclose(gae(rewards, values, 0.9, 0.0, bootstrap=2), errors)
    assert_allclose(gae(rewards, values, 0.9, 0.5, 2)[0], 1.4 + 0.45 * (0.35 + 0.45 * 2.3))
    full = gae(rewards, values, 0.9, 1.0, 2)
    assert_allclose(full, returns_to_go(rewards, 0.9, 2) - np.array(values))


def test_only_a_cut_episode_is_bootstrapped() -> None:
    terminated, cut = gae([0.0], [0.5], 0.9, 1.0), gae([0.0], [0.5], 0.9, 1.0, bootstrap=1.0)
    assert_allclose([terminated[0], cut[0]], [-0.5, 0.4])


def test_two_level_gae() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    found = two_level_gae([0, 0, 0.5, 0, 0, 1], values, [2, 5], discount=0.95, trace=1.0)
    # last turn: 1 - 0.6 = 0.4; first turn: 0.5 + 0.95 * 0.6 - 0.3 + 0.95 * 0.4 = 1.15. Each is the
    # return 1.0 and 1.45 of its turn's tokens, less what each token was worth: 1.45 - 0.1, ...
    assert_allclose(found, [1.35, 1.25, 1.15, 0.6, 0.5, 0.4])


def test_turns_with_a_reward_of_zero_are_turns() -> None:
    found = two_level_gae([0.0] * 4, [0.1, 0.2, 0.3, 0.4], [1, 3], discount=1.0, trace=1.0)
    assert_allclose(found, [-0.1, -0.2, -0.3, -0.4])
    for ends in ([], [1], [3, 1], [0, 0, 3]):
        with pytest.raises(ValueError, match="ends"):
            two_level_gae([0.0] * 4, [0.0] * 4, ends, discount=1.0, trace=1.0)


def test_baselines() -> None:
    """Scores 1, 0, 0, 0.5: mean 0.375, squared distances .390625 + 2 * .140625 + .015625 = .6875.

    Against the others: 1 - 0.5 / 3, 0 - 1.5 / 3 (twice), 0.5 - 1 / 3. Deviations: of the sample
    sqrt(.6875 / 3) = .478714, of the population sqrt(.6875 / 4) = .414578.
    """
    assert_allclose(group_advantages(SCORES, "aaaa"), [0.83333, -0.5, -0.5, 0.16667], atol=1e-5)
    mean = group_advantages(SCORES, "aaaa", baseline="mean")
    assert_allclose(mean, [0.625, -0.375, -0.375, 0.125])
    for ddof, expected in (
        (1, [1.30558, -0.78335, -0.78335, 0.26112]),
        (0, [1.50755, -0.90453, -0.90453, 0.30151]),
    ):
        grpo = group_advantages(SCORES, "aaaa", baseline="mean", scale="std", ddof=ddof)
        assert_allclose(grpo, expected, atol=1e-5)
    assert_allclose(group_advantages(SCORES, "aaaa", baseline="none"), SCORES)


def test_leave_one_out_is_the_mean_scaled() -> None:
    loo = group_advantages(SCORES, "aaaa")
    mean = group_advantages(SCORES, "aaaa", baseline="mean")
    assert_allclose(loo, 4 / 3 * mean)
    assert_allclose(loo.sum(), 0, atol=1e-12)


def test_groups_are_apart_and_order_does_not_matter() -> None:
    scores, groups = np.array([1.0, 5.0, 0.0, 7.0, 2.0]), np.array(["a", "b", "a", "b", "a"])
    found = group_advantages(scores, list(groups))
    assert_allclose(found, [0.0, -2.0, -1.5, 2.0, 1.5])
    order = np.random.default_rng(0).permutation(5)
    assert_allclose(group_advantages(scores[order], list(groups[order])), found[order])


def test_equal_scores_and_groups_of_one() -> None:
    equal = group_advantages([1.0, 1.0], "aa", baseline="mean", scale="std")
    assert_allclose(equal, 0)
    assert_allclose(group_advantages([3.0], "a"), [0])
    assert_allclose(group_advantages([3.0], "a", singleton=None, scale="std"), [3])


def test_what_nobody_could_tell_is_not_zero() -> None:
    found = group_advantages([1.0, NAN, 0.0], "aaa")
    assert_allclose(found, [1.0, NAN, -1.0])
    assert np.isnan(group_advantages([NAN], "a")[0])


def test_scores_dealt_out_again_stay_in_their_group() -> None:
    scores, groups = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), list("ababab")
    drawn = [permuted(scores, groups, np.random.default_rng(seed)) for seed in range(40)]
    for found in drawn:
        assert sorted(found[::2]) == [1, 3, 5]
        assert sorted(found[1::2]) == [2, 4, 6]
    firsts = {float(found[0]) for found in drawn}
    assert firsts == {1.0, 3.0, 5.0}, "any of the group's scores can come to any episode"
    with pytest.raises(ValueError, match="6 scores and 2 groups"):
        permuted(scores, "ab", np.random.default_rng(0))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 groups"):
        group_advantages([1, 2], "a")
    with pytest.raises(ValueError, match="baseline"):
        group_advantages([1, 2], "aa", baseline="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        group_advantages([1, 2], "aa", scale="range")  # type: ignore[arg-type]


@pytest.mark.parametrize("go_on", [0.1, 0.5, 0.9])
def test_turn_baselines_do_not_reward_stopping(go_on: float) -> None:
    """Turn 1: stop with 0, or go on to a turn that pays 0.5. Going on is better by 0.5.

    The gradient of the expected return by the logit of going on is p (1 - p) / 2; its estimate
    is the mean of the advantage times (1 - p) or -p.
    """
    rng = np.random.default_rng(1)
    count = 4000
    going = rng.random(count) < go_on
    rewards = [[0.0, 0.5] if g else [0.0] for g in going]
    groups = np.arange(count) // 8
    found = turn_advantages(rewards, groups.tolist())
    estimate = np.mean(
        [a[0] * (1 - go_on if g else -go_on) for a, g in zip(found, going, strict=True)]
    )
    assert_allclose(estimate, go_on * (1 - go_on) / 2, rtol=0.25)
    naive = [0.5 - 0.5 if g else 0.0 for g in going]  # against those that are still running
    assert np.mean(naive) == 0


def test_turn_advantages_by_hand() -> None:
    found = turn_advantages([[0.0, 1.0], [0.0], [0.5, 0.0]], "aaa")
    assert_allclose(found[0], [1 - 0.25, 1 - 0.0])
    assert_allclose(found[1], [0 - 0.75])
    assert_allclose(found[2], [0.5 - 0.5, 0 - 0.5])
    assert_allclose(turn_advantages([[1.0, 2.0]], "a")[0], [0, 0])


def test_advantages_at_anchor_states() -> None:
    found = anchored_advantages(
        [[0, 0, 1], [0, 0, 0, 0], [0, 1]], "ggg", ["ABC", "ABBD", "AC"], discount=0.95
    )
    # returns at A: .9025, 0, .95; at B: .95, 0, 0; at C: 1, 1; D is met once
    assert_allclose(found[0], [0.285, 0.63333, 0], atol=1e-5)
    assert_allclose(found[1], [-0.6175, -0.31667, -0.31667, 0], atol=1e-5)
    assert_allclose(found[2], [0.3325, 0], atol=1e-5)


def test_states_without_a_name_or_of_another_group_are_not_compared() -> None:
    found = anchored_advantages([[1], [0], [3]], "aab", [["s"], [None], ["s"]], discount=1)
    assert_allclose(np.concatenate(found), 0)
    assert anchored_advantages([], [], [], discount=1) == []
    with pytest.raises(ValueError, match="2 turns and 1 states"):
        anchored_advantages([[0, 0]], "a", [["s"]], discount=1)


def test_whitening() -> None:
    found = whiten([1.0, 3.0, NAN])
    assert_allclose(found, [-1, 1, NAN])
    assert_allclose(whiten([2.0]), [2.0])
    assert_allclose(whiten([2.0, 2.0]), 0)


def test_explained_variance() -> None:
    assert explained_variance([1, 2, 3], [1, 2, 3]) == 1
    assert explained_variance([2, 2, 2], [1, 2, 3]) == 0
    assert explained_variance([3, 2, 1], [1, 2, 3]) == -3
    assert np.isnan(explained_variance([1, 2], [5, 5]))
