"""ArCHer: a critic of whole turns learned off-policy, and token-level policy gradients on it.

Source: Zhou et al. 2024, https://arxiv.org/abs/2402.19446, sections 3 and 4, algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from agentgym import seeding
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ConfigError, TrainingError
from agentgym.inference.hf import HFBackend
from agentgym.losses import Reduction
from agentgym.models.heads import TurnCritic, own_trunk, trunk, trunk_states
from agentgym.optim import MasterAdamW
from agentgym.replay import ReplayBuffer, Transition, transitions
from agentgym.rows import Row
from agentgym.trainers.policy_gradient import (
    ADVANTAGE,
    PolicyGradientConfig,
    PolicyGradientTrainer,
)
from agentgym.types import Completion, IntArray, Trajectory


@dataclass(frozen=True)
class ArcherConfig(PolicyGradientConfig):
    """How to learn a critic of turns and to follow it."""

    score: Literal["outcome", "return"] = "return"
    """Rewards of turns: the environment's, or the outcome at an episode's last turn."""
    discount: float = 0.95
    """Per turn."""
    critic: Literal["separate", "policy"] = "separate"
    """"separate": a transformer of the critic's own, begun as a copy of the policy's, is trained
    with the heads. "policy": heads alone, on the policy's hidden states, which cost no memory."""
    critic_hidden: int = 0
    """Width of the heads' hidden layers; 0 takes the transformer's."""
    critic_learning_rate: float = 2e-5
    """Constant."""
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
    max_action_tokens: int = 64
    """Longest fresh action."""
    whiten_advantages: bool = False
    """Shift and scale the advantages of an actor step; off in the paper."""
    reduction: Reduction = "constant"
    """An action's log-probability is a sum over its tokens, as in the paper."""
    reduction_constant: float = 1.0
    """As of `PolicyGradientConfig`."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        for name in ("critic_steps", "critic_batch", "buffer_size", "max_action_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("critic_hidden", "actor_steps", "warmup_updates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if self.critic_learning_rate <= 0 or not 0 < self.target_rate <= 1:
            raise ConfigError(
                "critic_learning_rate must be above 0 and target_rate in (0, 1], got "
                f"{self.critic_learning_rate!r} and {self.target_rate!r}"
            )
        if self.clip_high or self.kl_coefficient:
            raise ConfigError("ArCHer's actions are fresh: clip_* and kl_coefficient stay 0")


class ArcherTrainer(PolicyGradientTrainer):
    """Two levels: turns by temporal differences, tokens by policy gradients.

    An update puts the new episodes into the buffer, takes `critic_steps` on transitions drawn from
    all of it, and then `actor_steps`: the policy acts anew at states from the buffer, and what it
    writes is weighed by min Q - min V of the critic. Each head learns from its own target head.

    Differs: Q reads the action after its state in one text, where the released code reads the two
    apart; gradients are means and not sums over accumulation; an action ends with the model's own
    end token, not at a line break. The last turn of an episode that a limit cut is left out, for
    want of a next state (`dropped_turns`). One process only.

    Args:
        model: as for `PolicyGradientTrainer`.
        tokenizer: needed for the tokens that end an action.
        config: see `ArcherConfig`.
    """

    name = "archer"
    config_class: ClassVar[type[ArcherConfig]] = ArcherConfig
    config: ArcherConfig

    def __init__(self, model: Any, tokenizer: Any, config: ArcherConfig | None = None) -> None:
        super().__init__(model, tokenizer, config)
        if self.accelerator.num_processes > 1:
            raise ConfigError("archer trains in one process")
        own = self.config.critic == "separate"
        width = int(self.model.get_input_embeddings().weight.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(self.config.seed, "critic"))
            self.critic = TurnCritic(
                own_trunk(self.model) if own else None, width, self.config.critic_hidden or width
            ).to(self.device)
        self.target = self.critic.target()
        self.critic_optimiser = MasterAdamW(
            self.critic.named_parameters(), weight_decay=self.config.weight_decay
        )
        self.replay = ReplayBuffer(self.config.buffer_size)
        self._actor = HFBackend(self.model, tokenizer)

    # -- one update ---------------------------------------------------------------------------

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Put this iteration's episodes into the buffer. Changes no weight."""
        scored, counts = self._scored(trajectories)
        dropped = added = 0
        for trajectory in scored:
            found, left_out = transitions(
                trajectory, self.config.score, self.config.invalid_penalty
            )
            self.replay.add(found)
            added, dropped = added + len(found), dropped + left_out
        counts |= {
            "trained_trajectories": len(scored) if added else 0,
            "dropped_turns": dropped,
            "buffer": len(self.replay),
        }
        self._columns, self._sums = {}, {}
        self._begin([], counts)
        if not added:  # nothing new: the buffer alone would only be fitted further
            self._plan = []

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
        self._make_rows()
        report = super().step()
        self._rows, self._columns = [], {}
        return report

    # -- critic -------------------------------------------------------------------------------

    def _critic_step(self) -> dict[str, float]:
        batch = self._draw(self.config.critic_batch, "critic")
        fresh = self._act([t.state for t in batch])
        rewards = torch.tensor([t.reward for t in batch], device=self.device)
        with torch.no_grad():
            wanted_q = self._backed_up(rewards, batch)
            before, after = self._features(self.target, [t.state for t in batch], fresh)
            wanted_v = self.target.q(before, after)  # (2, B): each head's own
        state, with_action = self._features(
            self.critic, [t.state for t in batch], [t.action for t in batch]
        )
        q, v = self.critic.q(state, with_action), self.critic.v(state)
        loss = (q - wanted_q).square().mean(1).sum() + (v - wanted_v).square().mean(1).sum()
        torch.autograd.backward(loss)
        value = float(loss.detach())
        self.critic_optimiser.collect()
        report = self.critic_optimiser.step(
            self.config.critic_learning_rate, self.config.max_grad_norm
        )
        self._position += 1
        self._totals["critic_steps"] = self._totals.get("critic_steps", 0.0) + 1.0
        self._bad_steps = self._bad_steps + 1 if report.skipped else 0
        if self._bad_steps >= self.config.max_bad_steps:
            raise TrainingError(
                f"{self._bad_steps} critic steps in a row had a gradient that is not finite (last "
                f"loss {value!r}); lower critic_learning_rate or scale the rewards down"
            )
        if self._position == self.config.critic_steps:
            self.target.follow(self.critic, self.config.target_rate)
        for name, values in (
            ("critic_loss", torch.tensor([value])),
            ("q", q.detach().mean(0)),
            ("v", v.detach().mean(0)),
            ("td_error", (wanted_q - q.detach()).abs().mean(0)),
        ):
            self._sum(name, values.sum(), len(values))
        return {
            "loss": value,
            "gradient_norm": report.gradient_norm,
            "learning_rate": self.config.critic_learning_rate,
            "skipped": float(report.skipped),
        }

    def _backed_up(self, rewards: Tensor, batch: Sequence[Transition]) -> Tensor:
        """(2, B) reward plus the discounted target value of the next state, if there is one."""
        found = rewards.repeat(2, 1)
        going = [i for i, t in enumerate(batch) if t.next_state is not None]
        if going:
            states = [s for i in going if (s := batch[i].next_state) is not None]
            values = self.target.v(self._states(self.target, states))
            found[:, going] += self.config.discount * values
        return found

    def _features(
        self, critic: TurnCritic, states: Sequence[IntArray], actions: Sequence[IntArray]
    ) -> tuple[Tensor, Tensor]:
        """(B, D) hidden states at the ends of the states, and at the ends of their actions."""
        texts = [np.concatenate([s, a]) for s, a in zip(states, actions, strict=True)]
        places = [(len(s) - 1, len(t) - 1) for s, t in zip(states, texts, strict=True)]
        before, after = torch.stack(self._read(critic, texts, places)).unbind(1)
        return before, after

    def _states(self, critic: TurnCritic, states: Sequence[IntArray]) -> Tensor:
        return torch.cat(self._read(critic, states, [(len(s) - 1,) for s in states]))

    def _read(
        self, critic: TurnCritic, texts: Sequence[IntArray], places: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        own = critic.encoder is not None
        module: nn.Module = critic.encoder if critic.encoder is not None else trunk(self.model)
        with torch.set_grad_enabled(own and torch.is_grad_enabled()):
            return trunk_states(
                module,
                texts,
                places,
                device=self.device,
                micro_batch_tokens=self.config.micro_batch_tokens,
            )

    # -- actor --------------------------------------------------------------------------------

    def _make_rows(self) -> None:
        """Fresh actions at states of the buffer, with their advantages."""
        batch = self._draw(self.config.batch_size, "actor")
        states = [t.state for t in batch]
        actions = self._act(states)
        with torch.no_grad():
            before, after = self._features(self.critic, states, actions)
            advantage = self.critic.q(before, after).amin(0) - self.critic.v(before).amin(0)
        self._sum("advantage", advantage.sum(), len(advantage))
        self._sum("advantage_size", advantage.abs().sum(), len(advantage))
        if self.config.whiten_advantages and len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        self._rows = [_row(s, a, i) for i, (s, a) in enumerate(zip(states, actions, strict=True))]
        self._columns = {
            ADVANTAGE: [
                np.where(row.mask, float(value), 0.0).astype(np.float32)
                for row, value in zip(self._rows, advantage, strict=True)
            ]
        }

    def _act(self, states: Sequence[IntArray]) -> list[IntArray]:
        """What the policy writes at these states now; a state without room keeps its last token.

        Seeds depend on the update and the step alone, so that a resumed run acts alike.
        """
        sampling = SamplingParams(temperature=1.0, max_tokens=self.config.max_action_tokens)
        seeds = [
            seeding.derive(self.config.seed, "act", self.updates, self._position, i)
            for i in range(len(states))
        ]
        answers = self._actor.generate(
            [GenerationRequest(s, sampling, seed) for s, seed in zip(states, seeds, strict=True)]
        )
        return [_tokens(answer) for answer in answers]

    def _draw(self, count: int, purpose: str) -> list[Transition]:
        rng = seeding.generator(self.config.seed, purpose, self.updates, self._position)
        return self.replay.sample(count, rng)

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of `PolicyGradientTrainer`, with critic, target and buffer."""
        return {
            **super().state_dict(),
            "critic": self.critic_optimiser.state_dict(),
            "target": {name: p.detach() for name, p in self.target.named_parameters()},
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        self.replay.load_state_dict(state["replay"])  # before the plan, which depends on it
        super().load_state_dict(state)
        self.critic_optimiser.load_state_dict(state["critic"])
        with torch.no_grad():
            for name, parameter in self.target.named_parameters():
                parameter.copy_(state["target"][name])


def _tokens(answer: Completion) -> IntArray:
    if answer.token_ids is None or not len(answer.token_ids):
        raise TrainingError(f"the policy could not act at a state of the buffer: {answer.error}")
    return answer.token_ids


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
