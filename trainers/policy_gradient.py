"""What policy-gradient methods share: an advantage for every turn, and a clipped token loss.

A method is a file with a config of defaults and one function, `PolicyGradientTrainer.advantages`;
`rloo` is the shortest. Rows, micro-batches, processes, optimiser and resume are those of
`behaviour_cloning`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agentgym.advantages import Array, Baseline, Scale, group_advantages
from agentgym.diagnostics import calibration, histogram
from agentgym.errors import ConfigError
from agentgym.losses import (
    Divergence,
    clipped_policy_gradient,
    divergence,
    policy_gradient,
    token_weights,
)
from agentgym.models.modes import in_eval
from agentgym.rows import MicroBatch, Row, untrainable_turns
from agentgym.trainers.behaviour_cloning import BehaviourCloningConfig, BehaviourCloningTrainer
from agentgym.types import FloatArray, Source, Trajectory

Ratio = Literal["token", "turn", "episode"]
Variant = Literal["paper", "released"]
"""Whose defaults a config has where a paper and its authors' code differ (`config.variants`)."""
OLD, REFERENCE, ADVANTAGE = "old", "reference", "advantage"
_UNITS = {"turn": 1, "episode": 0}


@dataclass(frozen=True)
class PolicyGradientConfig(BehaviourCloningConfig):
    """How to follow the gradient of the expected score."""

    learning_rate: float = 1e-5
    """Peak; about ten times higher for LoRA than for all weights."""
    score: Literal["outcome", "return"] = "outcome"
    """What an episode is worth: its outcome, or the sum of its rewards."""
    discount: float = 1.0
    """Per turn, of the rewards."""
    invalid_penalty: float = 0.0
    """Taken from an episode's score for each turn whose action did not parse."""
    baseline: Baseline = "leave_one_out"
    """What an episode's score is compared with, inside its group (episodes of the same task)."""
    scale: Scale = "none"
    """Whether advantages are divided by their group's standard deviation."""
    ddof: Literal[0, 1] = 1
    """1 takes the sample's deviation, 0 the population's; papers do not say, code differs."""
    singleton: float = 0.0
    """Advantage in a group of one; NaN keeps the score as it is."""
    clip_low: float = 0.0
    """Ratio to the sampling policy below which the gradient ends, as 1 - clip_low; with
    `clip_high` 0 the loss is REINFORCE's, without a ratio."""
    clip_high: float = 0.0
    """Likewise above, as 1 + clip_high."""
    reciprocal_clip: bool = False
    """The lower end is 1 / (1 + clip_low) instead (LOOP)."""
    ratio: Ratio = "token"
    """What shares one ratio: a token, or the product over a turn or an episode's row."""
    kl_coefficient: float = 0.0
    """Weight of the divergence from the model that training began with, in the loss."""
    kl_estimator: Divergence = "k3"
    """See `losses.divergence`."""
    drop_below: float = 0.0
    """Turns whose advantage is not above this in size are context only; 0 keeps all."""
    old_logprobs: Literal["auto", "sampled", "recomputed"] = "auto"
    """Of the policy that sampled: as the backend told, or computed again by this model at the
    start of the update; "auto" takes the backend's if it told all."""
    skip_unparsed: bool = False
    """Leave turns whose action did not parse as context only. Here they are the agent's too."""

    def __post_init__(self) -> None:
        BehaviourCloningConfig.__post_init__(self)
        for name in ("clip_low", "clip_high", "kl_coefficient", "drop_below", "invalid_penalty"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if bool(self.clip_low) != bool(self.clip_high) or self.clip_low >= 1:
            raise ConfigError(
                "clip_low (below 1) and clip_high are both 0 or both above, got "
                f"{self.clip_low!r} and {self.clip_high!r}"
            )
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount must be in [0, 1], got {self.discount!r}")


class PolicyGradientTrainer(BehaviourCloningTrainer):
    """Raises the probability of what went better than its group, and lowers the rest.

    Only the policy's own scored episodes count: demonstrations are passed over, and episodes that
    the environment broke are in no baseline. A group of equal scores teaches nothing; if all are,
    there is no update, and the metrics say so.

    Args:
        model: as for `BehaviourCloningTrainer`. As it is now it is the reference of
            `kl_coefficient`, as a copy of the trained weights: with adapters these alone.
        tokenizer: likewise.
        config: see `PolicyGradientConfig`.
    """

    name = "policy_gradient"
    config_class: ClassVar[type[PolicyGradientConfig]] = PolicyGradientConfig
    config: PolicyGradientConfig
    sources: ClassVar[frozenset[Source]] = frozenset({Source.POLICY})
    """Whose episodes count; the others are passed over."""

    def __init__(
        self, model: Any, tokenizer: Any, config: PolicyGradientConfig | None = None
    ) -> None:
        super().__init__(model, tokenizer, config)
        self._columns: dict[str, list[FloatArray]] = {}
        """By name, for each row (L,): what the loss needs of every token beside the row's own."""
        self._sums: dict[str, float] = {}
        self._told: dict[str, FloatArray] = {}
        """By name, what `tables` are made of."""
        self._first: dict[str, Tensor] | None = None
        if self.config.kl_coefficient:
            # As the model has them: float32 copies would say no more.
            trained = self.optimiser.parameters.items()
            self._first = {name: p.detach().clone() for name, p in trained}

    # -- what a method says -------------------------------------------------------------------

    def advantages(self, trajectories: Sequence[Trajectory]) -> list[Array]:
        """How much better each turn was than what it is compared with.

        Args:
            trajectories: the policy's own, all scored.

        Returns:
            For each trajectory (N,), by turn. Here the same for all turns of an episode: its score
            compared inside its group.
        """
        compared = self.compared([self.score_of(t) for t in trajectories], trajectories)
        return [
            np.full(len(t.turns), advantage)
            for t, advantage in zip(trajectories, compared, strict=True)
        ]

    def score_of(self, trajectory: Trajectory) -> float:
        """What an episode is worth, penalties taken off."""
        if self.config.score == "return":
            weights = self.config.discount ** np.arange(len(trajectory.turns))
            worth = float(weights @ np.array([turn.reward for turn in trajectory.turns]))
        else:
            assert trajectory.outcome is not None
            worth = float(trajectory.outcome)
        return worth - self.config.invalid_penalty * sum(not t.parsed for t in trajectory.turns)

    def rewards_of(self, trajectory: Trajectory) -> Array:
        """(N,) what each turn earns: the environment's rewards, or the outcome at the last turn.

        Penalties for actions that did not parse are taken off.
        """
        turns = trajectory.turns
        if self.config.score == "return":
            rewards = np.array([turn.reward for turn in turns], np.float64)
        else:
            rewards = np.zeros(len(turns))
            rewards[-1] = float(trajectory.outcome or 0.0)
        return rewards - self.config.invalid_penalty * np.array([not t.parsed for t in turns])

    def compared(self, scores: Sequence[float], trajectories: Sequence[Trajectory]) -> Array:
        """Scores against their groups, as the config says."""
        config = self.config
        return group_advantages(
            np.asarray(scores, np.float64),
            self.groups_of(trajectories),
            baseline=config.baseline,
            scale=config.scale,
            ddof=config.ddof,
            singleton=None if math.isnan(config.singleton) else config.singleton,
        )

    @staticmethod
    def groups_of(trajectories: Sequence[Trajectory]) -> list[str]:
        """(n,) names of the groups that episodes are in: those of the same task."""
        return [t.group_id or t.task.id for t in trajectories]

    # -- one update ---------------------------------------------------------------------------

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Begin an update on this iteration's episodes. Changes no weight."""
        scored, counts = self._scored(trajectories)
        rows = self._as_rows(scored)
        by_turn = self.advantages(scored) if scored else []
        columns = [_spread(row, by_turn[row.trajectory]) for row in rows]
        flat = np.concatenate(by_turn) if by_turn else np.zeros(1)
        counts |= {"advantage_mean": float(flat.mean()), "advantage_std": float(flat.std())}
        self._told = {"advantages": flat.astype(np.float32)} if by_turn else {}
        if self.config.drop_below:
            kept = [
                _without_small(*each, self.config.drop_below)
                for each in zip(rows, columns, strict=True)
            ]
            pairs = [pair for pair in kept if pair is not None]
            rows, columns = [p[0] for p in pairs], [p[1] for p in pairs]
        if not any(np.any(column) for column in columns):
            rows, columns = [], []  # equal scores everywhere: nothing to learn
        counts["trained_trajectories"] = len({row.trajectory for row in rows})
        self._columns = {ADVANTAGE: columns}
        self._sums = {}
        self._begin(rows, counts)
        if rows:
            self._remember_policies()

    def _scored(
        self, trajectories: Sequence[Trajectory]
    ) -> tuple[list[Trajectory], dict[str, float]]:
        """The policy's own episodes with an outcome, and how many went where."""
        own = [t for t in trajectories if t.source in self.sources and t.turns]
        scored = [t for t in own if t.outcome is not None]
        return scored, self._counts(scored) | {
            "trajectories": len(trajectories),
            "unscored": sum(t.outcome is None for t in trajectories),
            "untrainable_turns": untrainable_turns(scored),
        }

    def _counts(self, scored: Sequence[Trajectory]) -> dict[str, float]:
        """What a practitioner wants to know of the episodes, before any step."""
        groups: dict[str, list[float]] = {}
        for name, trajectory in zip(self.groups_of(scored), scored, strict=True):
            groups.setdefault(name, []).append(self.score_of(trajectory))
        compared = [scores for scores in groups.values() if len(scores) > 1]
        dead = sum(len(set(scores)) == 1 for scores in compared)
        turns = [turn for t in scored for turn in t.turns]
        return {
            "groups": len(compared),
            "single_groups": len(groups) - len(compared),
            "dead_group_share": dead / len(compared) if compared else 0.0,
            "turns": len(turns),
            "invalid_share": sum(not t.parsed for t in turns) / len(turns) if turns else 0.0,
            "score": float(np.mean([self.score_of(t) for t in scored])) if scored else 0.0,
        }

    def _remember_policies(self) -> None:
        """Log-probabilities of every row under the policies that the loss compares with."""
        config = self.config
        if config.clip_high:
            told = all(row.has_logprobs for row in self._rows)
            if config.old_logprobs == "sampled" and not told:
                raise ConfigError(
                    "old_logprobs='sampled', but the backend told no log-probabilities for some "
                    "rows; set it to 'recomputed'"
                )
            if config.old_logprobs == "recomputed" or not told:
                self._columns[OLD] = self._scored_now()
            else:
                self._columns[OLD] = [row.logprobs for row in self._rows]
        if config.kl_coefficient:
            self._columns[REFERENCE] = self._scored_by_reference()

    def _scored_by_reference(self) -> list[FloatArray]:
        self._exchange()
        try:
            return self._scored_now()
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Let the model and the reference trade weights; nothing is copied."""
        assert self._first is not None
        for name, parameter in self.optimiser.parameters.items():
            self._first[name], parameter.data = parameter.data, self._first[name]

    def _scored_now(self) -> list[FloatArray]:
        """(L,) for each row: log-probabilities of its action tokens, without dropout."""
        found = [np.zeros(len(row), np.float32) for row in self._rows]
        with torch.no_grad(), in_eval(self.model):
            for group in self._micro_batches(range(len(found))):
                values, mask = self._logprobs(group)
                ends = np.cumsum(mask.sum(1).cpu().numpy())[:-1]
                for index, part in zip(group, np.split(values.cpu().numpy(), ends), strict=True):
                    found[index][self._rows[index].mask] = part
        return found

    def _loss(self, group: MicroBatch, counts: Mapping[str, int]) -> Tensor:
        config = self.config
        logprobs, mask = self._logprobs(group)
        weights = token_weights(
            mask, config.reduction, **counts, constant=config.reduction_constant
        )
        advantages = self._column(ADVANTAGE, group)
        self._sum("surprise", -(logprobs.detach()).sum(), len(logprobs))
        if config.clip_high:
            old = self._column(OLD, group)
            loss, clipped = clipped_policy_gradient(
                logprobs,
                old,
                advantages,
                weights,
                low=config.clip_low,
                high=config.clip_high,
                reciprocal=config.reciprocal_clip,
                units=self._units(group),
            )
            moved = divergence(old, logprobs.detach())  # sampled by the old policy
            self._sum("clip_share", clipped.sum(), len(clipped))
            self._sum("policy_kl", moved.sum(), len(moved))
        else:
            loss = policy_gradient(logprobs, advantages, weights)
        if config.kl_coefficient:
            apart = divergence(logprobs, self._column(REFERENCE, group), config.kl_estimator)
            loss = loss + config.kl_coefficient * (weights * apart).sum()
            self._sum("reference_kl", apart.detach().sum(), len(apart))
        return loss

    def _column(self, name: str, group: MicroBatch) -> Tensor:
        """(M,) of a micro-batch's action tokens, in row-major order."""
        column = self._columns[name]
        parts = [column[i][self._rows[i].mask] for i in group]
        return self._tensor(np.concatenate(parts).astype(np.float32))

    def _units(self, group: MicroBatch) -> Tensor | None:
        """(M,) which tokens share a ratio."""
        if self.config.ratio == "token":
            return None
        by_turn = _UNITS[self.config.ratio]
        parts = []
        for place, index in enumerate(group):
            row = self._rows[index]
            turns = row.turn_index[row.mask].astype(np.int64)
            parts.append(place * 1_000_000 + turns * by_turn)
        return self._tensor(np.concatenate(parts))

    def _sum(self, name: str, value: Tensor, count: int) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._sums[f"{name}/count"] = self._sums.get(f"{name}/count", 0.0) + count

    def metrics(self) -> dict[str, float]:
        """Of the update so far; means over tokens are of this process's share.

        ``surprise`` is the mean of -log p over the sampled tokens (an estimate of the policy's
        entropy), ``policy_kl`` how far the policy has moved from the one that sampled,
        ``clip_share`` where clipping took the gradient away.
        """
        means = {
            name: value / max(1.0, self._sums[f"{name}/count"])
            for name, value in self._sums.items()
            if not name.endswith("/count")
        }
        return {**super().metrics(), **means}

    def tables(self) -> dict[str, Any]:
        """Of the update so far, as JSON: a histogram of advantages, and how a critic is calibrated.

        Returns:
            ``advantages`` (`diagnostics.histogram`, of turns), and with a critic ``v_calibration``
            and ``q_calibration`` (`diagnostics.calibration`).
        """
        found: dict[str, Any] = {}
        for name, values in self._told.items():
            if name.endswith("_predicted"):
                kind = name.removesuffix("_predicted")
                found[f"{kind}_calibration"] = calibration(values, self._told[f"{kind}_realised"])
            elif not name.endswith("_realised"):
                found[name] = histogram(values)
        return found

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of `BehaviourCloningTrainer`, with advantages, old and reference log-probabilities."""
        columns = {} if self.done else self._columns
        return {
            **super().state_dict(),
            "columns": {
                name: np.concatenate(column).astype(np.float32)
                for name, column in columns.items()
                if column
            },
            "sums": dict(self._sums),
            "values": dict(self._told),
            "first": self._first,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        super().load_state_dict(state)
        ends = np.cumsum([len(row) for row in self._rows])[:-1]
        self._columns = {
            name: np.split(np.asarray(flat, np.float32), ends)
            for name, flat in state["columns"].items()
        }
        self._sums = {name: float(value) for name, value in state["sums"].items()}
        self._told = {n: np.asarray(v, np.float32) for n, v in state["values"].items()}
        if self._first is not None:
            first = state["first"] or self._first
            self._first = {name: first[name].to(w) for name, w in self._first.items()}


def _spread(row: Row, by_turn: Array) -> FloatArray:
    """(L,) the advantage of each token's turn; 0 off the mask."""
    return np.where(row.mask, by_turn[row.turn_index], 0.0).astype(np.float32)


def _without_small(
    row: Row, advantages: FloatArray, threshold: float
) -> tuple[Row, FloatArray] | None:
    """The row with the turns of small advantage as context; None if nothing is left."""
    mask = row.mask & (np.abs(advantages) > threshold)
    if not mask.any():
        return None
    end = int(np.flatnonzero(mask)[-1]) + 1
    columns = {
        name: getattr(row, name)[:end]
        for name in ("ids", "logprobs", "turn_index", "weights_version")
    }
    shown = row.images_until(end)
    return replace(row, mask=mask[:end], images=shown, **columns), advantages[:end]
