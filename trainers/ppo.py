"""PPO: clipped steps on advantages that a critic estimates, of turns or of tokens.

Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347; advantages by Schulman et al. 2016,
https://arxiv.org/abs/1506.02438.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agentgym.advantages import explained_variance, gae, returns_to_go, whiten
from agentgym.diagnostics import calibration_error
from agentgym.errors import ConfigError, TrainingError
from agentgym.losses import clipped_value_loss
from agentgym.models.heads import ValueCritic
from agentgym.rows import MicroBatch, Row
from agentgym.trainers.actor_critic import ActorCriticConfig, ActorCriticTrainer
from agentgym.trainers.policy_gradient import ADVANTAGE
from agentgym.types import FloatArray, Trajectory

VALUE, TARGET = "value", "target"


@dataclass(frozen=True)
class PPOConfig(ActorCriticConfig):
    """How to learn with a critic beside the policy."""

    level: Literal["turn", "token"] = "turn"
    """What the critic values and what an advantage belongs to."""
    discount: float = 1.0
    """Per turn or token, as `level` says."""
    trace: float = 0.95
    """Lambda of generalised advantage estimation, per turn or token."""
    value_clip: float = 0.2
    """How far a value may move within an update before its loss stops it; 0 does not clip."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of an update to mean 0 and deviation 1."""
    epochs: int = 2
    """Passes over the rows of one update."""
    clip_low: float = 0.2
    """As of `PolicyGradientConfig`."""
    clip_high: float = 0.2
    """As of `PolicyGradientConfig`."""

    def __post_init__(self) -> None:
        ActorCriticConfig.__post_init__(self)
        if not 0 <= self.trace <= 1 or self.value_clip < 0 or self.drop_below:
            raise ConfigError(
                "need trace in [0, 1], value_clip not negative and drop_below 0, got "
                f"{self.trace!r}, {self.value_clip!r} and {self.drop_below!r}"
            )


class PPOTrainer(ActorCriticTrainer):
    """Every step trains the critic, then the policy, on the same rows.

    An episode that a limit cut is bootstrapped by the value of the state that it led to. Where
    that is not on record, the value of the last known state, the one before the last unit, stands
    in for it (`guessed_bootstraps`).

    Args:
        model: as for `PolicyGradientTrainer`.
        tokenizer: likewise.
        config: see `PPOConfig`.
    """

    name = "ppo"
    config_class: ClassVar[type[PPOConfig]] = PPOConfig
    reads_pictures = False
    config: PPOConfig

    def __init__(self, model: Any, tokenizer: Any, config: PPOConfig | None = None) -> None:
        super().__init__(model, tokenizer, config)
        self.critic = self._beside(ValueCritic, self.config.critic == "separate")
        self.critic_optimiser = self._optimiser_of(self.critic)

    # -- one update ---------------------------------------------------------------------------

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Value the new episodes. Changes no weight."""
        scored, counts = self._scored(trajectories)
        rows = self._as_rows(scored)
        counts["trained_trajectories"] = len({row.trajectory for row in rows})
        self._told = {}
        self._columns = self._valued(rows, scored)
        if rows:
            old, targets = (_units(self._columns[name]) for name in (VALUE, TARGET))
            counts |= {
                "value": float(old.mean()),
                "return": float(targets.mean()),
                "explained_variance": explained_variance(old, targets) if np.ptp(targets) else 0.0,
                "guessed_bootstraps": sum(
                    t.truncated and t.final_prompt_ids is None for t in scored
                ),
            }
            if table := self.tables().get("v_calibration"):
                counts["v_calibration_error"] = calibration_error(table)
        self._sums = {}
        self._begin(rows, counts)
        if rows:
            self._remember_policies()

    def _valued(
        self, rows: Sequence[Row], scored: Sequence[Trajectory]
    ) -> dict[str, list[FloatArray]]:
        """Advantages of tokens; values and targets at the first token of each unit, else NaN."""
        if not rows:
            return {ADVANTAGE: []}
        values = self._together(len(rows), lambda places: self._known([rows[i] for i in places]))
        after = self._values_after(scored)
        firsts = [self._firsts(row) for row in rows]
        advantages = [np.zeros(len(f)) for f in firsts]
        targets = [np.zeros(len(f)) for f in firsts]
        foretold: list[tuple[Any, Any]] = []
        for number, trajectory in enumerate(scored):
            mine = [i for i, row in enumerate(rows) if row.trajectory == number]
            if not mine:
                continue
            by_turn = self.rewards_of(trajectory)
            rewards = np.concatenate([self._earned(rows[i], firsts[i], by_turn) for i in mine])
            known = np.concatenate([values[i] for i in mine])
            bootstrap = after.get(number, float(known[-1])) if trajectory.truncated else 0.0
            found = gae(rewards, known, self.config.discount, self.config.trace, bootstrap)
            if not trajectory.truncated:
                foretold.append((known, returns_to_go(rewards, self.config.discount)))
            ends = np.cumsum([len(firsts[i]) for i in mine])[:-1]
            for i, own, goal in zip(
                mine, np.split(found, ends), np.split(found + known, ends), strict=True
            ):
                advantages[i], targets[i] = own, goal
        if foretold:
            for place, name in enumerate(("v_predicted", "v_realised")):
                parts = [pair[place] for pair in foretold]
                self._told[name] = np.concatenate(parts).astype(np.float32)
        self._told["advantages"] = np.concatenate(advantages).astype(np.float32)
        if self.config.whiten_advantages:
            flat = whiten(np.concatenate(advantages))
            advantages = np.split(flat, np.cumsum([len(a) for a in advantages])[:-1])
        return {
            ADVANTAGE: [_held(*each) for each in zip(rows, firsts, advantages, strict=True)],
            VALUE: [_placed(*each) for each in zip(rows, firsts, values, strict=True)],
            TARGET: [_placed(*each) for each in zip(rows, firsts, targets, strict=True)],
        }

    def _firsts(self, row: Row) -> np.ndarray[Any, Any]:
        """(K,) positions of the first token of each unit of a row."""
        places = np.flatnonzero(row.mask)
        if self.config.level == "token":
            return places
        turns = row.turn_index[places]
        firsts: np.ndarray[Any, Any] = places[np.diff(turns, prepend=-1) != 0]
        return firsts

    def _earned(
        self, row: Row, firsts: np.ndarray[Any, Any], rewards: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """(K,) what each unit of a row earned; a turn's reward goes to its last unit."""
        turns = row.turn_index[firsts]
        last_unit = np.append(np.diff(turns) != 0, True)
        return np.where(last_unit, rewards[turns], 0.0)

    def _values(self, rows: Sequence[Row]) -> list[Tensor]:
        """(K,) for each row: the critic's value before each unit."""
        places = [(self._firsts(row) - 1).tolist() for row in rows]
        return [self.critic(s) for s in self._read(self.critic, [row.ids for row in rows], places)]

    @torch.no_grad()
    def _known(self, rows: Sequence[Row]) -> list[np.ndarray[Any, Any]]:
        """As `_values`, as numbers."""
        return [values.cpu().numpy().astype(np.float64) for values in self._values(rows)]

    @torch.no_grad()
    def _values_after(self, scored: Sequence[Trajectory]) -> dict[int, float]:
        """By number, the value of the state that a cut episode led to, where it is on record."""
        cut = [
            (number, ids)
            for number, trajectory in enumerate(scored)
            if trajectory.truncated and (ids := trajectory.final_prompt_ids) is not None
        ]
        states = self._read(
            self.critic, [ids for _, ids in cut], [(len(ids) - 1,) for _, ids in cut]
        )
        return {number: float(self.critic(s)) for (number, _), s in zip(cut, states, strict=True)}

    def step(self) -> dict[str, float]:
        """One step of the critic and one of the policy, on the same rows."""
        if self.done:
            raise TrainingError("no step is left; call start(trajectories) first")
        critic_loss = self._critic_step(self._plan[self._position])
        return {**super().step(), "critic_loss": critic_loss}

    def _critic_step(self, batch: Sequence[int]) -> float:
        units = sum(len(self._firsts(self._rows[i])) for i in batch)

        def loss(group: MicroBatch) -> Tensor:
            chosen = [batch[i] for i in group]
            values = torch.cat(self._values([self._rows[i] for i in chosen]))
            old, targets = (
                self._tensor(_units([self._columns[name][i] for i in chosen]).astype(np.float32))
                for name in (VALUE, TARGET)
            )
            clip = self.config.value_clip or None
            return clipped_value_loss(values, old, targets, clip).sum() / units

        value, _ = self._fit(self.critic_optimiser, [len(self._rows[i]) for i in batch], loss)
        return value


def _held(row: Row, firsts: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> FloatArray:
    """(L,) each unit's value on all of its tokens; 0 off the mask."""
    unit = np.searchsorted(firsts, np.arange(len(row)), side="right") - 1
    return np.where(row.mask, values[np.maximum(unit, 0)], 0.0).astype(np.float32)


def _placed(row: Row, firsts: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> FloatArray:
    """(L,) each unit's value at its first token, NaN elsewhere."""
    found = np.full(len(row), np.nan, np.float32)
    found[firsts] = values
    return found


def _units(columns: Sequence[FloatArray]) -> np.ndarray[Any, Any]:
    """All values of `_placed` columns, in order."""
    flat = np.concatenate(columns).astype(np.float64)
    return flat[~np.isnan(flat)]
