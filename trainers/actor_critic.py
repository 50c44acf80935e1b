"""What policy gradients with a critic share: its settings, its optimiser, its steps.

`ppo` fits one value a state, `archer` twin values of states and turns. The critic itself is in
`agentgym.models.heads`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from accelerate.utils import gather_object
from torch import Tensor

from agentgym import seeding
from agentgym.errors import ConfigError, TrainingError
from agentgym.models.heads import Critic
from agentgym.optim import MasterAdamW, StepReport
from agentgym.rows import MicroBatch, micro_batches
from agentgym.trainers.policy_gradient import PolicyGradientConfig, PolicyGradientTrainer
from agentgym.types import IntArray

Found = TypeVar("Found")
C = TypeVar("C", bound=Critic)


@dataclass(frozen=True)
class ActorCriticConfig(PolicyGradientConfig):
    """How to learn with a critic beside the policy."""

    score: Literal["outcome", "return"] = "return"
    """Rewards of turns: the environment's, or the outcome at an episode's last turn."""
    critic: Literal["separate", "policy"] = "separate"
    """"separate": a transformer of the critic's own, begun as a copy of the policy's, is trained
    with the heads. "policy": heads alone, on the policy's hidden states, which cost no memory."""
    critic_hidden: int = 0
    """Width of the heads' hidden layers; 0 takes the transformer's."""
    critic_learning_rate: float = 2e-5
    """Constant."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        if self.critic_learning_rate <= 0 or self.critic_hidden < 0:
            raise ConfigError(
                "critic_learning_rate must be above 0 and critic_hidden not negative, got "
                f"{self.critic_learning_rate!r} and {self.critic_hidden!r}"
            )


class ActorCriticTrainer(PolicyGradientTrainer):
    """A policy and a critic, each with its optimiser.

    The critic's steps are cut into micro-batches and over processes as the policy's are, and a
    step whose gradient is not finite changes nothing and is counted (`skipped_critic_steps`).

    Args:
        model: as for `PolicyGradientTrainer`.
        tokenizer: likewise.
        config: see `ActorCriticConfig`.
    """

    config_class: ClassVar[type[ActorCriticConfig]] = ActorCriticConfig
    config: ActorCriticConfig
    critic: Any
    critic_optimiser: MasterAdamW
    _bad_critic_steps = 0

    def _beside(self, kind: type[C], own: bool, purpose: str = "critic") -> C:
        """A critic for the policy, as the config says."""
        seed = seeding.derive(self.config.seed, purpose)
        return kind.beside(self.model, own=own, hidden=self.config.critic_hidden, seed=seed)

    def _optimiser_of(self, critic: Critic) -> MasterAdamW:
        return MasterAdamW(critic.named_parameters(), weight_decay=self.config.weight_decay)

    def _read(
        self, critic: Critic, texts: Sequence[IntArray], places: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """(K, D) for each text: the features that the critic's heads see."""
        return critic.read(
            self.model,
            texts,
            places,
            micro_batch_tokens=self.config.micro_batch_tokens,
            mixed=self.config.precision == "mixed",
        )

    def _fit(
        self,
        optimiser: MasterAdamW,
        lengths: Sequence[int],
        loss: Callable[[MicroBatch], Tensor],
        name: str = "critic",
    ) -> tuple[float, StepReport]:
        """One step of a critic.

        Args:
            optimiser: the critic's.
            lengths: tokens of each text of the step.
            loss: the part of the step's loss that some of the texts make; parts are summed.
            name: what the metrics call it.

        Returns:
            The loss of the whole step, and what the step did.

        Raises:
            TrainingError: `max_bad_steps` in a row were not finite.
        """
        accelerator = self.accelerator
        ordered = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        share = ordered[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros((), device=self.device)
        for group in micro_batches(share, lengths, self.config.micro_batch_tokens):
            optimiser.collect()  # of the micro-batch before; the last one's can stay
            part = loss(group)
            torch.autograd.backward(part)
            total += part.detach()
        self._reduce(optimiser)
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total, reduction="sum")
        report = optimiser.step(self.config.critic_learning_rate, self.config.max_grad_norm)
        self._count_critic_step(float(total), report, name)
        return float(total), report

    def _count_critic_step(self, loss: float, report: StepReport, name: str) -> None:
        self._add(f"{name}_steps", 1.0)
        self._bad_critic_steps = self._bad_critic_steps + 1 if report.skipped else 0
        if not report.skipped:
            self._sum(f"{name}_loss", torch.tensor(loss), 1)
            return
        self._add(f"skipped_{name}_steps", 1.0)
        if self._bad_critic_steps >= self.config.max_bad_steps:
            raise TrainingError(
                f"{self._bad_critic_steps} {name} steps in a row had a gradient that is not finite "
                f"(last loss {loss!r}); lower critic_learning_rate or scale the rewards down"
            )

    def _add(self, name: str, value: float) -> None:
        self._totals[name] = self._totals.get(name, 0.0) + value

    def _together(
        self, count: int, compute: Callable[[Sequence[int]], Sequence[Found]]
    ) -> list[Found]:
        """What `compute` finds of so many things, each process doing its share of them."""
        processes = self.accelerator.num_processes
        if processes == 1:
            return list(compute(range(count)))
        mine = range(self.accelerator.process_index, count, processes)
        parts = gather_object(list(zip(mine, compute(mine), strict=True)))
        return [value for _, value in sorted(parts, key=lambda part: part[0])]

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of `PolicyGradientTrainer`, with the critic."""
        return {
            **super().state_dict(),
            "critic": self.critic_optimiser.state_dict(),
            "bad_critic_steps": self._bad_critic_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too."""
        super().load_state_dict(state)
        self.critic_optimiser.load_state_dict(state["critic"])
        self._bad_critic_steps = int(state["bad_critic_steps"])
