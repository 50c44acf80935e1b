"""PPO: clipped steps on advantages that a critic estimates, of turns or of tokens.

Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347; advantages by Schulman et al. 2016,
https://arxiv.org/abs/1506.02438.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agentgym import seeding
from agentgym.advantages import explained_variance, gae, whiten
from agentgym.errors import ConfigError, TrainingError
from agentgym.losses import clipped_value_loss
from agentgym.models.heads import ValueCritic, own_trunk, trunk, trunk_states
from agentgym.optim import MasterAdamW
from agentgym.rows import Row
from agentgym.trainers.policy_gradient import (
    ADVANTAGE,
    PolicyGradientConfig,
    PolicyGradientTrainer,
)
from agentgym.types import FloatArray, Trajectory

VALUE, TARGET = "value", "target"


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """How to learn with a critic beside the policy."""

    score: Literal["outcome", "return"] = "return"
    """Rewards of turns: the environment's, or the outcome at an episode's last turn."""
    level: Literal["turn", "token"] = "turn"
    """What the critic values and what an advantage belongs to."""
    discount: float = 1.0
    """Per turn or token, as `level` says."""
    trace: float = 0.95
    """Lambda of generalised advantage estimation, per turn or token."""
    critic: Literal["separate", "policy"] = "separate"
    """"separate": a transformer of the critic's own, begun as a copy of the policy's, is trained
    with the head. "policy": a head alone, on the policy's hidden states."""
    critic_hidden: int = 0
    """Width of the head's hidden layers; 0 takes the transformer's."""
    critic_learning_rate: float = 2e-5
    """Constant."""
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
        PolicyGradientConfig.__post_init__(self)
        if not 0 <= self.trace <= 1 or self.value_clip < 0 or self.critic_hidden < 0:
            raise ConfigError(
                "need trace in [0, 1], value_clip and critic_hidden not negative, got "
                f"{self.trace!r}, {self.value_clip!r} and {self.critic_hidden!r}"
            )
        if self.critic_learning_rate <= 0 or self.drop_below:
            raise ConfigError(
                "critic_learning_rate must be above 0 and drop_below 0, got "
                f"{self.critic_learning_rate!r} and {self.drop_below!r}"
            )


class PPOTrainer(PolicyGradientTrainer):
    """Every step trains the critic, then the policy, on the same rows.

    An episode that a limit cut is bootstrapped by the value of its last known state, the one
    before its last unit: what it led to is not on record. One process only.

    Args:
        model: as for `PolicyGradientTrainer`.
        tokenizer: likewise.
        config: see `PPOConfig`.
    """

    name = "ppo"
    config_class: ClassVar[type[PPOConfig]] = PPOConfig
    config: PPOConfig

    def __init__(self, model: Any, tokenizer: Any, config: PPOConfig | None = None) -> None:
        super().__init__(model, tokenizer, config)
        if self.accelerator.num_processes > 1:
            raise ConfigError("ppo trains in one process")
        width = int(self.model.get_input_embeddings().weight.shape[1])
        own = self.config.critic == "separate"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(self.config.seed, "critic"))
            self.critic = ValueCritic(
                own_trunk(self.model) if own else None, width, self.config.critic_hidden or width
            ).to(self.device)
        self.critic_optimiser = MasterAdamW(
            self.critic.named_parameters(), weight_decay=self.config.weight_decay
        )

    # -- one update ---------------------------------------------------------------------------

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Value the new episodes. Changes no weight."""
        scored, counts = self._scored(trajectories)
        rows = self._as_rows(scored)
        counts["trained_trajectories"] = len({row.trajectory for row in rows})
        self._columns = self._valued(rows, scored)
        if rows:
            old, targets = (_units(self._columns[name]) for name in (VALUE, TARGET))
            counts |= {
                "value": float(old.mean()),
                "return": float(targets.mean()),
                "explained_variance": explained_variance(old, targets) if np.ptp(targets) else 0.0,
            }
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
        with torch.no_grad():
            values = [v.cpu().numpy().astype(np.float64) for v in self._values(rows)]
        firsts = [self._firsts(row) for row in rows]
        advantages = [np.zeros(len(f)) for f in firsts]
        targets = [np.zeros(len(f)) for f in firsts]
        for number, trajectory in enumerate(scored):
            mine = [i for i, row in enumerate(rows) if row.trajectory == number]
            if not mine:
                continue
            rewards = np.concatenate([self._rewards(rows[i], firsts[i], trajectory) for i in mine])
            known = np.concatenate([values[i] for i in mine])
            bootstrap = float(known[-1]) if trajectory.truncated else 0.0
            found = gae(rewards, known, self.config.discount, self.config.trace, bootstrap)
            ends = np.cumsum([len(firsts[i]) for i in mine])[:-1]
            for i, own, goal in zip(
                mine, np.split(found, ends), np.split(found + known, ends), strict=True
            ):
                advantages[i], targets[i] = own, goal
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

    def _rewards(
        self, row: Row, firsts: np.ndarray[Any, Any], trajectory: Trajectory
    ) -> np.ndarray[Any, Any]:
        """(K,) what each unit of a row earned; a turn's reward goes to its last unit."""
        turns = row.turn_index[firsts]
        last_unit = np.append(np.diff(turns) != 0, True)
        earned = np.zeros(len(firsts))
        for place in np.flatnonzero(last_unit):
            index = int(turns[place])
            turn = trajectory.turns[index]
            if self.config.score == "return":
                earned[place] = turn.reward
            elif index == len(trajectory.turns) - 1:
                earned[place] = float(trajectory.outcome or 0.0)
            earned[place] -= self.config.invalid_penalty * (not turn.parsed)
        return earned

    def _values(self, rows: Sequence[Row]) -> list[Tensor]:
        """(K,) for each row: the critic's value before each unit."""
        own = self.critic.encoder is not None
        with torch.set_grad_enabled(own and torch.is_grad_enabled()):
            states = trunk_states(
                self.critic.encoder if self.critic.encoder is not None else trunk(self.model),
                [row.ids for row in rows],
                [(self._firsts(row) - 1).tolist() for row in rows],
                device=self.device,
                micro_batch_tokens=self.config.micro_batch_tokens,
            )
        return [self.critic(s) for s in states]

    def step(self) -> dict[str, float]:
        """One step of the critic and one of the policy, on the same rows."""
        if self.done:
            raise TrainingError("no step is left; call start(trajectories) first")
        value_loss = self._critic_step(self._plan[self._position])
        return {**super().step(), "value_loss": value_loss}

    def _critic_step(self, batch: Sequence[int]) -> float:
        rows = [self._rows[i] for i in batch]
        values = torch.cat(self._values(rows))
        old, targets = (
            self._tensor(_units([self._columns[name][i] for i in batch]).astype(np.float32))
            for name in (VALUE, TARGET)
        )
        loss = clipped_value_loss(values, old, targets, self.config.value_clip or None).mean()
        torch.autograd.backward(loss)
        value = float(loss.detach())
        self.critic_optimiser.collect()
        self.critic_optimiser.step(self.config.critic_learning_rate, self.config.max_grad_norm)
        self._sum("value_loss", torch.tensor(value), 1)
        return value

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of `PolicyGradientTrainer`, with the critic."""
        return {**super().state_dict(), "critic": self.critic_optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        super().load_state_dict(state)
        self.critic_optimiser.load_state_dict(state["critic"])


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
