"""Returns, baselines and advantages: pure functions on numpy arrays that know no trajectory.

What changes results is an argument with a name: what a baseline averages over (trajectories or
turns), whether it leaves the own value out, by which deviation it divides, what a group of one
gets, and whether a cut episode is bootstrapped.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Baseline: TypeAlias = Literal["none", "mean", "leave_one_out"]
Scale: TypeAlias = Literal["none", "std"]


def returns_to_go(rewards: npt.ArrayLike, discount: float = 1.0, bootstrap: float = 0.0) -> Array:
    """Discounted return from each turn on: G_t = r_t + discount * G_{t+1}.

    Args:
        rewards: (N,) of the turns.
        discount: per turn, in [0, 1].
        bootstrap: value of the state after the last turn; 0 if the episode terminated.

    Returns:
        (N,).

    Example:
        >>> returns_to_go([0.0, 0.0, 1.0], 0.5).tolist()
        [0.25, 0.5, 1.0]
    """
    values = _array(rewards)
    found = np.empty_like(values)
    later = bootstrap
    for turn in range(len(values) - 1, -1, -1):
        later = found[turn] = values[turn] + discount * later
    return found


def n_step_returns(
    rewards: npt.ArrayLike, values: npt.ArrayLike, n: int, discount: float, bootstrap: float = 0.0
) -> Array:
    """Return of the next n turns, and the value of the state after them.

    Args:
        rewards: (N,).
        values: (N,) of the states before each turn.
        n: turns, at least 1.
        discount: per turn.
        bootstrap: value of the state after the last turn; 0 if the episode terminated.

    Returns:
        (N,).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rewards, known = _array(rewards), np.append(_array(values), bootstrap)
    count = len(rewards)
    found = np.empty(count)
    for turn in range(count):
        end = min(turn + n, count)
        weights = discount ** np.arange(end - turn)
        found[turn] = weights @ rewards[turn:end] + discount ** (end - turn) * known[end]
    return found


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    discount: float,
    trace: float,
    bootstrap: float = 0.0,
) -> Array:
    """Generalised advantage estimation over turns (or any steps).

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16.

    Args:
        rewards: (N,).
        values: (N,) of the states before each step.
        discount: gamma, per step.
        trace: lambda; 0 is one-step TD, 1 is the return minus the value.
        bootstrap: value of the state after the last step; 0 if the episode terminated.

    Returns:
        (N,) advantages; with the values added they are the critic's targets.
    """
    rewards, values = _array(rewards), _array(values)
    errors = rewards + discount * np.append(values[1:], bootstrap) - values
    return returns_to_go(errors, discount * trace)


def two_level_gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    ends: Sequence[int],
    *,
    discount: float,
    trace: float,
    token_discount: float = 1.0,
    token_trace: float = 1.0,
    bootstrap: float = 0.0,
) -> Array:
    """Advantages of tokens: over turns first, then over the tokens inside each turn.

    A turn's value is that of its last token. The advantage that the turn gets among turns is what
    its last token aims at, and inside the turn it flows back over the tokens. Turns are told by
    `ends`, never by a reward that differs from 0.

    Source: Wang et al. 2025 (RAGEN), https://arxiv.org/abs/2504.20073, appendix on bi-level GAE.

    Args:
        rewards: (L,) of tokens; a turn's reward stands at its last token.
        values: (L,) of tokens.
        ends: positions of the last token of each turn, ascending; the last is L - 1.
        discount: per turn.
        trace: lambda over turns.
        token_discount: per token inside a turn.
        token_trace: lambda over tokens.
        bootstrap: value of the state after the last turn.

    Returns:
        (L,).
    """
    rewards, values = _array(rewards), _array(values)
    places = np.asarray(ends, dtype=np.int64)
    if len(places) == 0 or places[-1] != len(rewards) - 1 or (np.diff(places) <= 0).any():
        raise ValueError(f"ends must ascend to {len(rewards) - 1}, got {list(ends)!r}")
    turns = gae(rewards[places], values[places], discount, trace, bootstrap)
    found = np.empty_like(rewards)
    begin = 0
    for end, advantage in zip(places.tolist(), turns.tolist(), strict=True):
        inside = slice(begin, end + 1)
        target = rewards[inside].copy()
        target[-1] = advantage + values[end]  # the token's return as the turns see it
        found[inside] = gae(target, values[inside], token_discount, token_trace)
        begin = end + 1
    return found


def group_advantages(
    scores: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    baseline: Baseline = "leave_one_out",
    scale: Scale = "none",
    ddof: int = 1,
    epsilon: float = 1e-6,
    singleton: float | None = 0.0,
) -> Array:
    """Scores compared inside their group.

    ===============  ======================================  ====================================
    baseline         advantage                               published as
    ===============  ======================================  ====================================
    `leave_one_out`  R_i - mean of the others                RLOO (Ahmadian et al. 2024,
                                                             arXiv:2402.14740), LOOP
    `mean`           R_i - mean of all                       GRPO with ``scale="std"`` (Shao et
                                                             al. 2024, arXiv:2402.03300, eq. 21),
                                                             Dr. GRPO without
    `none`           R_i                                     REINFORCE
    ===============  ======================================  ====================================

    Scores that are NaN (nobody could tell) are left out of every average and stay NaN.

    Args:
        scores: (n,); the unit (trajectories or turns) is the caller's.
        groups: (n,) equal for those that are compared.
        baseline: see the table.
        scale: "std" divides by the group's standard deviation plus `epsilon`.
        ddof: 1 for the sample's deviation, 0 for the population's; 1 as in most released code.
        epsilon: keeps a group of equal scores at 0.
        singleton: what a group of one gets; None keeps its score as it is, as some released
            code does. Not applied to the baseline "none".

    Returns:
        (n,).

    Example:
        >>> group_advantages([1.0, 0.0, 0.0, 0.5], "aaaa").round(3).tolist()
        [0.833, -0.5, -0.5, 0.167]
    """
    values = _array(scores)
    if len(groups) != len(values):
        raise ValueError(f"got {len(values)} scores and {len(groups)} groups")
    found = np.full_like(values, np.nan)
    for places in _places(groups, ~np.isnan(values)):
        own = values[places]
        count = len(own)
        if baseline == "none":
            advantage = own.copy()
        elif count == 1:
            advantage = own if singleton is None else np.array([singleton])
            found[places] = advantage
            continue
        elif baseline == "mean":
            advantage = own - own.mean()
        elif baseline == "leave_one_out":
            advantage = own - (own.sum() - own) / (count - 1)
        else:
            raise ValueError(f"baseline must be none, mean or leave_one_out, got {baseline!r}")
        if scale == "std":
            deviation = own.std(ddof=ddof) if count > ddof else 0.0
            advantage = advantage / (deviation + epsilon)
        elif scale != "none":
            raise ValueError(f"scale must be none or std, got {scale!r}")
        found[places] = advantage
    return found


def permuted(scores: npt.ArrayLike, groups: Sequence[Hashable], rng: np.random.Generator) -> Array:
    """Scores dealt out again by chance inside their group: what a control is trained on.

    Args:
        scores: (n,).
        groups: (n,) equal for those that trade.
        rng: chance.

    Returns:
        (n,) in each group the same scores, in another order.

    Raises:
        ValueError: the lengths differ.
    """
    values = _array(scores)
    if len(groups) != len(values):
        raise ValueError(f"got {len(values)} scores and {len(groups)} groups")
    found = values.copy()
    for places in _places(groups, np.ones(len(values), bool)):
        found[places] = rng.permutation(values[places])
    return found


def _places(groups: Sequence[Hashable], known: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Positions of the members of each group, in order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for place, (group, told) in enumerate(zip(groups, known, strict=True)):
        if told:
            members.setdefault(group, []).append(place)
    return list(members.values())


def turn_advantages(
    rewards: Sequence[npt.ArrayLike], groups: Sequence[Hashable], discount: float = 1.0
) -> list[Array]:
    """Return from each turn on, minus what the others of the group have from that turn on.

    An episode that has ended counts with 0 at every later turn. Averaging only over those still
    running would be biased where the policy decides when to stop: whoever goes on would be compared
    with others who go on, and stopping would never be held against anybody.

    Args:
        rewards: of each trajectory, (N_i,) by turn.
        groups: of each trajectory.
        discount: per turn.

    Returns:
        For each trajectory (N_i,); 0 in a group of one.
    """
    togo = [returns_to_go(r, discount) for r in rewards]
    found = [np.zeros_like(g) for g in togo]
    for places in _places(groups, np.ones(len(togo), bool)):
        if len(places) == 1:
            continue
        table = np.zeros((len(places), max(len(togo[p]) for p in places)))
        for line, place in zip(table, places, strict=True):
            line[: len(togo[place])] = togo[place]
        others = (table.sum(0) - table) / (len(places) - 1)
        for line, place in zip(table - others, places, strict=True):
            found[place] = line[: len(togo[place])]
    return found


def anchored_advantages(
    rewards: Sequence[npt.ArrayLike],
    groups: Sequence[Hashable],
    states: Sequence[Sequence[Hashable | None]],
    *,
    discount: float,
    scale: Scale = "none",
    ddof: int = 1,
) -> list[Array]:
    """Return from each turn on, compared over all turns of the group at the same state.

    Source: Feng et al. 2025 (GiGPO), https://arxiv.org/abs/2505.10978, equations 6 to 8. States
    are the environment's own names; a turn without one, and a state met once, gets 0.

    Args:
        rewards: of each trajectory, (N_i,) by turn.
        groups: of each trajectory.
        states: of each trajectory, a name of the state before each turn, or None.
        discount: per turn.
        scale: as for `group_advantages`.
        ddof: likewise.

    Returns:
        For each trajectory (N_i,).
    """
    togo = [returns_to_go(r, discount) for r in rewards]
    keys: list[Hashable] = []
    for number, (group, names, found) in enumerate(zip(groups, states, togo, strict=True)):
        if len(names) != len(found):
            raise ValueError(f"trajectory {number} has {len(found)} turns and {len(names)} states")
        # a turn without a name is alone in its group
        keys += [(group, n) if n is not None else (number, t, None) for t, n in enumerate(names)]
    flat = np.concatenate(togo) if togo else np.zeros(0)
    compared = group_advantages(flat, keys, baseline="mean", scale=scale, ddof=ddof)
    return np.split(compared, np.cumsum([len(g) for g in togo])[:-1]) if togo else []


def entropy_modulated(
    advantages: Sequence[npt.ArrayLike],
    entropies: Sequence[npt.ArrayLike],
    *,
    sharpness: float = 1.0,
    future_sharpness: float = 1.0,
    future_weight: float = 0.1,
) -> list[Array]:
    """Advantages weighed by how sure each turn was, plus a bonus for leading to a sure turn.

    With entropies h scaled to [0, 1] over all turns: A_t exp(-k h_t) / mean exp(-k h), plus
    zeta exp(-k' h_{t+1}) except at last turns, minus the mean of it all.

    Source: Wang et al. 2025 (EMPG), https://arxiv.org/abs/2509.09265, equations 5 to 8.

    Args:
        advantages: of each trajectory, (N_i,) by turn.
        entropies: likewise, nats; NaN where nobody told: such a turn weighs 1 and gives no bonus.
        sharpness: k.
        future_sharpness: k'.
        future_weight: zeta.

    Returns:
        For each trajectory (N_i,), of mean 0 over all turns.
    """
    if not advantages:
        return []
    flat = np.concatenate([_array(a) for a in advantages])
    told = [_array(h) for h in entropies]
    every = np.concatenate(told)
    known = ~np.isnan(every)
    low, high = (every[known].min(), every[known].max()) if known.any() else (0.0, 0.0)
    scaled = [(h - low) / (high - low + 1e-8) for h in told]
    weights = np.exp(-sharpness * np.concatenate(scaled))
    weights = np.where(known, weights / (weights[known].mean() if known.any() else 1.0), 1.0)
    after = [np.append(np.exp(-future_sharpness * h[1:]), 0.0)[: len(h)] for h in scaled]
    bonus = np.nan_to_num(np.concatenate(after))
    found = flat * weights + future_weight * bonus
    return list(np.split(found - found.mean(), np.cumsum([len(h) for h in told])[:-1]))


def whiten(values: npt.ArrayLike, epsilon: float = 1e-8) -> Array:
    """Mean 0 and deviation 1 over all that are not NaN; fewer than two stay as they are."""
    array = _array(values)
    if np.count_nonzero(~np.isnan(array)) < 2:
        return array.copy()
    whitened: Array = (array - np.nanmean(array)) / (np.nanstd(array) + epsilon)
    return whitened


def explained_variance(values: npt.ArrayLike, returns: npt.ArrayLike) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a constant one.

    NaN if the returns do not vary.
    """
    values, returns = _array(values), _array(returns)
    spread = returns.var() if len(returns) else 0.0
    return float(1.0 - (returns - values).var() / spread) if spread > 0 else float("nan")


def _array(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"need a 1-d array, got shape {array.shape}")
    return array
