"""ArCHer: a critic of whole turns learned off-policy, and token-level policy gradients on it.

Source: Zhou et al. 2024, https://arxiv.org/abs/2402.19446, sections 3 and 4, algorithm 1.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agentgym import seeding
from agentgym.advantages import explained_variance, returns_to_go
from agentgym.config import variants
from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.diagnostics import calibration, calibration_error
from agentgym.errors import ConfigError, TrainingError
from agentgym.inference.hf import HFBackend
from agentgym.losses import Reduction
from agentgym.models.heads import TurnCritic, ValueCritic
from agentgym.replay import ReplayBuffer, Transition, transitions
from agentgym.rows import MicroBatch, Row
from agentgym.trainers.actor_critic import ActorCriticConfig, ActorCriticTrainer
from agentgym.trainers.policy_gradient import ADVANTAGE, REFERENCE, Variant
from agentgym.types import FloatArray, IntArray, Trajectory

logger = logging.getLogger(__name__)

DEFAULT_ACTION_TOKENS = 64


@variants(released={"summed_parts": 32, "warmup_updates": 20})
@dataclass(frozen=True)
class ArcherConfig(ActorCriticConfig):
    """How to learn a critic of turns and to follow it."""

    discount: float = 0.95
    """Per turn."""
    critic_steps: int = 50
    """Optimiser steps of the critic in one update."""
    critic_batch: int = 64
    """Transitions of one critic step."""
    target_rate: float = 0.1
    """How far the target critic follows at the end of an update's critic steps."""
    actor_steps: int = 3
    """Optimiser steps of the policy in one update, each on `batch_size` fresh actions."""
    warmup_updates: int = 0
    """First updates in which only the critic learns."""
    buffer_size: int = 100_000
    """Transitions kept."""
    max_action_tokens: int = 0
    """Longest fresh action; 0 takes the run's `sampling.max_tokens` (64 without a run)."""
    whiten_advantages: bool = False
    """Shift and scale the advantages of an actor step; off in the paper."""
    token_baseline: bool = False
    """Take off each token's advantage what a head on the policy's hidden states expects of it
    before the token is written (the paper's optional baseline)."""
    reduction: Reduction = "constant"
    """An action's log-probability is a sum over its tokens, as in the paper."""
    reduction_constant: float = 1.0
    """As of `PolicyGradientConfig`."""
    summed_parts: int = 1
    """Losses are the sum, not the mean, of those of so many equal parts of a batch. AdamW alone
    would not notice; `max_grad_norm` cuts so much earlier."""
    variant: Variant = "paper"
    """"released" sets `summed_parts` 32, its accumulation steps, and `warmup_updates` 20."""

    def __post_init__(self) -> None:
        ActorCriticConfig.__post_init__(self)
        for name in ("critic_steps", "critic_batch", "buffer_size", "summed_parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("actor_steps", "warmup_updates", "max_action_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not 0 < self.target_rate <= 1:
            raise ConfigError(f"target_rate must be in (0, 1], got {self.target_rate!r}")
        if self.clip_high or self.drop_below:
            raise ConfigError("ArCHer's actions are fresh: clip_* and drop_below stay 0")


class ArcherTrainer(ActorCriticTrainer):
    """Two levels: turns by temporal differences, tokens by policy gradients.

    An update puts the new episodes into the buffer, takes `critic_steps` on transitions drawn from
    all of it, and then `actor_steps`: the policy acts anew at states from the buffer, and what it
    writes is weighed by min Q - min V of the critic. Each head learns from its own target head.

    While the critic learns, the policy and the target critic stand still. So each transition has
    one fresh action and its targets are computed once an update, in large batches before the first
    step, however often it is drawn: the same expectation at a fraction of the cost.

    An episode that a limit cut is bootstrapped from the state that it led to. Where that is not on
    record its last turn is left out (`dropped_turns`). A state at which the policy cannot act (no
    room for a token) is used for Q alone and counted (`unanswered`).

    Differs: Q reads the action after its state in one text, where the released code reads the two
    apart; gradients are clipped apart for policy and critic; an action ends as in the run (its
    end token or stop text), not at any line break.

    Args:
        model: as for `PolicyGradientTrainer`.
        tokenizer: needed for the tokens that end an action.
        config: see `ArcherConfig`.
    """

    name = "archer"
    config_class: ClassVar[type[ArcherConfig]] = ArcherConfig
    reads_pictures = False
    config: ArcherConfig

    def __init__(self, model: Any, tokenizer: Any, config: ArcherConfig | None = None) -> None:
        super().__init__(model, tokenizer, config)
        self.critic = self._beside(TurnCritic, self.config.critic == "separate")
        self.target = self.critic.target()
        self.critic_optimiser = self._optimiser_of(self.critic)
        self.replay = ReplayBuffer(self.config.buffer_size)
        self._aims: dict[int, FloatArray] = {}
        """By place in the buffer, (4,): what the Q heads and the V heads aim at; NaN: nothing."""
        self._seen: dict[int, Tensor] = {}
        """Likewise, (2, D): the policy's features of a transition, if the critic reads these."""
        self.baseline: ValueCritic | None = None
        if self.config.token_baseline:
            self.baseline = self._beside(ValueCritic, False, "baseline")
            self.baseline_optimiser = self._optimiser_of(self.baseline)
        own = HFBackend(self.model, tokenizer)
        self._backend: Callable[[], InferenceBackend] = lambda: own
        self._sampling = SamplingParams(max_tokens=DEFAULT_ACTION_TOKENS)

    def act_with(self, backend: Callable[[], InferenceBackend], sampling: SamplingParams) -> None:
        """Take another backend for fresh actions than transformers' generation in this process.

        Args:
            backend: gives it, with the weights of this moment.
            sampling: how the run samples; actions end as there, but are drawn at temperature 1
                from all tokens.
        """
        self._backend = backend
        self._sampling = replace(sampling, temperature=1.0, top_p=1.0, top_k=0)

    # -- one update ---------------------------------------------------------------------------

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Put this iteration's episodes into the buffer. Changes no weight."""
        scored, counts = self._scored(trajectories)
        self._check_pictures(scored)
        found = [transitions(t, self.rewards_of(t)) for t in scored]
        added = sum(map(len, found))
        for by_turn in found:
            self.replay.add(list(by_turn.values()))
        counts |= {
            "trained_trajectories": len(scored) if added else 0,
            "dropped_turns": sum(len(t.turns) for t in scored) - added,
            "buffer": len(self.replay),
        }
        self._columns, self._sums, self._aims, self._seen = {}, {}, {}, {}
        self._told = self._foretold(scored, found)
        if self._told:
            said, came = self._told["v_predicted"], self._told["v_realised"]
            counts |= {
                "explained_variance": explained_variance(said, came) if np.ptp(came) else 0.0,
                "v_calibration_error": calibration_error(calibration(said, came)),
                "q_calibration_error": calibration_error(
                    calibration(self._told["q_predicted"], came)
                ),
            }
        self._begin([], counts)
        if not added:  # nothing new: the buffer alone would only be fitted further
            self._plan = []

    @torch.no_grad()
    def _foretold(
        self, scored: Sequence[Trajectory], found: Sequence[Mapping[int, Transition]]
    ) -> dict[str, FloatArray]:
        """What the critic says of new episodes that ended by themselves, and what came."""
        turns: list[Transition] = []
        came: list[float] = []
        for trajectory, by_turn in zip(scored, found, strict=True):
            if not trajectory.truncated:
                returns = returns_to_go(self.rewards_of(trajectory), self.config.discount)
                turns += by_turn.values()
                came += [float(returns[index]) for index in by_turn]
        if not turns:
            return {}
        said = self._features(self.critic, [t.state for t in turns], [t.action for t in turns])
        realised = np.array(came, np.float32)
        return {
            "v_predicted": self.critic.v(said[0]).mean(0).cpu().numpy(),
            "v_realised": realised,
            "q_predicted": self.critic.q(*said).mean(0).cpu().numpy(),
            "q_realised": realised,
        }

    def _make_plan(self) -> list[tuple[int, ...]]:
        """Critic steps without rows, then actor steps on rows that are made when they come."""
        if not len(self.replay):
            return []
        rows = tuple(range(self.config.batch_size))
        actor = 0 if self.updates <= self.config.warmup_updates else self.config.actor_steps
        return [()] * self.config.critic_steps + [rows] * actor

    def step(self) -> dict[str, float]:
        """One optimiser step, of the critic or of the policy."""
        if self.done:
            raise TrainingError("no step is left; call start(trajectories) first")
        if self._position < self.config.critic_steps:
            return self._critic_step()
        report = self._actor_step()
        self._rows, self._columns = [], {}
        return report

    # -- critic -------------------------------------------------------------------------------

    def _critic_step(self) -> dict[str, float]:
        if not self._aims:
            self._aim()
        drawn = self._draw("critic", self._position, self.config.critic_batch)
        batch = [self.replay[i] for i in drawn]
        aims = torch.from_numpy(np.stack([self._aims[i] for i in drawn], 1)).to(self.device)

        def loss(group: MicroBatch) -> Tensor:
            here = list(group)
            state, with_action = self._features_of([drawn[i] for i in here])
            q, v = self.critic.q(state, with_action), self.critic.v(state)
            q_error = aims[:2, here] - q
            v_error = torch.nan_to_num(aims[2:, here] - v)  # no gradient where there is no aim
            for name, values in (("q", q), ("v", v), ("td_error", q_error.abs())):
                self._sum(name, values.detach().mean(0).sum(), len(here))
            total: Tensor = q_error.square().sum() + self._value_loss(v_error).sum()
            return total * self.config.summed_parts / len(drawn)

        value, report = self._fit(
            self.critic_optimiser, [len(t.state) + len(t.action) for t in batch], loss
        )
        self._position += 1
        if self._position == self.config.critic_steps:
            self.target.follow(self.critic, self.config.target_rate)
            self._aims, self._seen = {}, {}
        return {
            "loss": value,
            "gradient_norm": report.gradient_norm,
            "learning_rate": self.config.critic_learning_rate,
            "skipped": float(report.skipped),
        }

    def _aim(self) -> None:
        """What the critic's steps of this update aim at, for each transition that they draw."""
        steps = range(self.config.critic_steps)
        drawn = sorted(
            {i for k in steps for i in self._draw("critic", k, self.config.critic_batch)}
        )

        def compute(places: Sequence[int]) -> list[FloatArray]:
            batch = [self.replay[drawn[p]] for p in places]
            keys = [("critic", drawn[p]) for p in places]
            with torch.no_grad():
                found = torch.cat([self._backed_up(batch), self._followed(batch, keys)])
            return list(found.cpu().numpy().T)

        self._aims = dict(zip(drawn, self._together(len(drawn), compute), strict=True))
        self._add("unanswered", float(sum(np.isnan(aim[2]) for aim in self._aims.values())))

    def _backed_up(self, batch: Sequence[Transition]) -> Tensor:
        """(2, B) reward plus the discounted target value of the next state, if there is one."""
        rewards = torch.tensor([t.reward for t in batch], device=self.device)
        found = rewards.float().repeat(2, 1)
        going = [i for i, t in enumerate(batch) if t.next_state is not None]
        if going:
            states = [s for i in going if (s := batch[i].next_state) is not None]
            ends = self._read(self.target, states, [(len(s) - 1,) for s in states])
            found[:, going] += self.config.discount * self.target.v(torch.cat(ends))
        return found

    def _followed(self, batch: Sequence[Transition], keys: Sequence[tuple[Any, ...]]) -> Tensor:
        """(2, B) target Q of fresh actions, which V aims at; NaN where the policy cannot act."""
        found = torch.full((2, len(batch)), torch.nan, device=self.device)
        fresh = self._act([t.state for t in batch], keys)
        there = [i for i, action in enumerate(fresh) if action is not None]
        if there:
            states = [batch[i].state for i in there]
            actions = [action for action in fresh if action is not None]
            found[:, there] = self.target.q(*self._features(self.target, states, actions))
        return found

    def _value_loss(self, errors: Tensor) -> Tensor:
        return errors.square()

    def _features_of(self, drawn: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, D) twice: the critic's features of stored transitions, before and after the action.

        Those of the policy are computed once an update: it stands still.
        """
        if self.critic.encoder is not None:
            batch = [self.replay[i] for i in drawn]
            return self._features(self.critic, [t.state for t in batch], [t.action for t in batch])
        if not self._seen:
            every = sorted(self._aims)
            batch = [self.replay[i] for i in every]
            found = self._features(self.critic, [t.state for t in batch], [t.action for t in batch])
            self._seen = dict(zip(every, torch.stack(found, 1), strict=True))
        before, after = torch.stack([self._seen[i] for i in drawn], 1)
        return before, after

    def _features(
        self, critic: TurnCritic, states: Sequence[IntArray], actions: Sequence[IntArray]
    ) -> tuple[Tensor, Tensor]:
        """(B, D) hidden states at the ends of the states, and at the ends of their actions."""
        texts = [np.concatenate([s, a]) for s, a in zip(states, actions, strict=True)]
        places = [(len(s) - 1, len(t) - 1) for s, t in zip(states, texts, strict=True)]
        before, after = torch.stack(self._read(critic, texts, places)).unbind(1)
        return before, after

    # -- actor --------------------------------------------------------------------------------

    def _loss(self, group: MicroBatch, counts: Mapping[str, int]) -> Tensor:
        return self.config.summed_parts * super()._loss(group, counts)

    def _actor_step(self) -> dict[str, float]:
        """One step on fresh actions at states of the buffer."""
        self._make_rows()
        self._plan[self._position] = tuple(range(len(self._rows)))
        if not self._rows:
            self._position += 1
            return {"loss": 0.0, "gradient_norm": 0.0, "learning_rate": 0.0, "skipped": 1.0}
        if self.config.kl_coefficient:
            self._columns[REFERENCE] = self._scored_by_reference()
        if self.baseline is None:
            return super().step()
        before = [np.flatnonzero(row.mask) - 1 for row in self._rows]
        states = self._read(
            self.baseline, [row.ids for row in self._rows], [b.tolist() for b in before]
        )
        wanted = [c[row.mask] for c, row in zip(self._columns[ADVANTAGE], self._rows, strict=True)]
        with torch.no_grad():
            expected = [self.baseline(s).cpu().numpy() for s in states]
        for column, row, values in zip(self._columns[ADVANTAGE], self._rows, expected, strict=True):
            column[row.mask] -= values
        report = super().step()
        self._fit_baseline(states, wanted)
        return report

    def _fit_baseline(self, states: Sequence[Tensor], wanted: Sequence[FloatArray]) -> None:
        """One step of the tokens' baseline towards the advantages of their turns."""
        baseline, tokens = self.baseline, sum(map(len, wanted))
        assert baseline is not None

        def loss(group: MicroBatch) -> Tensor:
            found = baseline(torch.cat([states[i] for i in group]))
            aims = torch.from_numpy(np.concatenate([wanted[i] for i in group])).to(self.device)
            return (found - aims).square().sum() / tokens  # type: ignore[no-any-return]

        self._fit(self.baseline_optimiser, [len(row) for row in self._rows], loss, "baseline")

    def _make_rows(self) -> None:
        """Fresh actions at states of the buffer, with their advantages."""
        drawn = self._draw("actor", self._position, self.config.batch_size)
        found = self._together(len(drawn), lambda places: self._acted(drawn, places))
        there = [(i, *each) for i, each in zip(drawn, found, strict=True) if each is not None]
        self._add("unanswered", float(len(drawn) - len(there)))
        advantages = np.array([advantage for *_, advantage in there], np.float32)
        if len(there):
            self._sum("advantage", torch.tensor(advantages.sum()), len(there))
            self._sum("advantage_size", torch.tensor(np.abs(advantages).sum()), len(there))
        self._remember(advantages)
        if self.config.whiten_advantages and len(there) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        self._take([(self.replay[i].state, action) for i, action, _ in there], advantages)

    def _remember(self, advantages: FloatArray) -> None:
        """Keep the advantages of an actor step for `tables`."""
        before = self._told.get("advantages", np.zeros(0, np.float32))
        self._told["advantages"] = np.concatenate([before, advantages.astype(np.float32)])

    def _take(self, texts: Sequence[tuple[IntArray, IntArray]], weights: FloatArray) -> None:
        """Make rows of states and actions, each with its weight in the gradient."""
        self._rows = [_row(state, action, i) for i, (state, action) in enumerate(texts)]
        self._columns = {
            ADVANTAGE: [
                np.where(row.mask, weight, 0.0).astype(np.float32)
                for row, weight in zip(self._rows, weights, strict=True)
            ]
        }

    def _acted(
        self, drawn: Sequence[int], places: Sequence[int]
    ) -> list[tuple[IntArray, float] | None]:
        """Fresh actions and their advantages; None where the policy cannot act."""
        states = [self.replay[drawn[p]].state for p in places]
        fresh = self._act(states, [("actor", self._position, p) for p in places])
        texts = [(s, a) for s, a in zip(states, fresh, strict=True) if a is not None]
        if not texts:
            return [None] * len(states)
        found = iter(self._advantages([s for s, _ in texts], [a for _, a in texts]))
        return [None if a is None else (a, next(found)) for a in fresh]

    @torch.no_grad()
    def _advantages(self, states: Sequence[IntArray], actions: Sequence[IntArray]) -> list[float]:
        """Lower of the Qs minus lower of the Vs, of each action."""
        before, after = self._features(self.critic, states, actions)
        found = self.critic.q(before, after).amin(0) - self.critic.v(before).amin(0)
        return [float(value) for value in found]

    def _act(
        self, states: Sequence[IntArray], keys: Sequence[tuple[Any, ...]]
    ) -> list[IntArray | None]:
        """What the policy writes at these states now; None where it cannot.

        Seeds depend on the update and the keys alone, so that a resumed run acts alike.
        """
        tokens = self.config.max_action_tokens or self._sampling.max_tokens
        sampling = replace(self._sampling, max_tokens=tokens)
        seeds = [seeding.derive(self.config.seed, "act", self.updates, *key) for key in keys]
        answers = self._backend().generate(
            [GenerationRequest(s, sampling, seed) for s, seed in zip(states, seeds, strict=True)]
        )
        known = [
            a.token_ids if a.token_ids is not None and len(a.token_ids) else None for a in answers
        ]
        if states and all(ids is None for ids in known):
            logger.warning(
                "the policy could act at none of %d states: %s", len(states), answers[0].error
            )
        return known

    def _draw(self, purpose: str, step: int, count: int) -> list[int]:
        """Places in the buffer that a step of this update works on."""
        rng = seeding.generator(self.config.seed, purpose, self.updates, step)
        return self.replay.draw(count, rng)

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of `ActorCriticTrainer`, with target, buffer, aims and the tokens' baseline."""
        own = {"baseline": self.baseline_optimiser.state_dict()} if self.baseline else {}
        return {
            **super().state_dict(),
            "target": {name: p.detach() for name, p in self.target.named_parameters()},
            "replay": self.replay.state_dict(),
            "aims": {
                "places": np.array(sorted(self._aims), np.int64),
                "values": np.array([self._aims[i] for i in sorted(self._aims)], np.float32),
            },
            **own,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        self.replay.load_state_dict(state["replay"])  # before the plan, which depends on it
        super().load_state_dict(state)
        aims = state["aims"]
        places = np.asarray(aims["places"]).tolist()
        self._aims = dict(zip(places, np.asarray(aims["values"], np.float32), strict=True))
        self._seen = {}
        if self.baseline is not None:
            self.baseline_optimiser.load_state_dict(state["baseline"])
        with torch.no_grad():
            for name, parameter in self.target.named_parameters():
                parameter.copy_(state["target"][name])


def _row(state: IntArray, action: IntArray, number: int) -> Row:
    length = len(state) + len(action)
    mask = np.arange(length) >= len(state)
    return Row(
        ids=np.concatenate([state, action]).astype(np.int32),
        mask=mask,
        logprobs=np.zeros(length, np.float32),
        turn_index=np.where(mask, 0, -1).astype(np.int32),
        weights_version=np.full(length, -1, np.int32),
        trajectory=number,
    )
