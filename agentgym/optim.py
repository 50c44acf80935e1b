"""The optimiser: AdamW on float32 weights, learning-rate schedules, clipping, bad steps skipped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Share of the learning rate at a step (from 0) that rises linearly to 1.

    Example:
        >>> [warmup_factor(step, 4) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def decay_factor(step: int, total_steps: int, schedule: Schedule, floor: float = 0.0) -> float:
    """Share of the learning rate at a step (from 0), falling from 1 towards `floor`.

    Args:
        step: in [0, total_steps).
        total_steps: after which the floor would be reached.
        schedule: its shape.
        floor: in [0, 1].

    Raises:
        ValueError: unknown schedule.

    Example:
        >>> [decay_factor(step, 4, "linear") for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]
    """
    done = min(1.0, step / max(1, total_steps))
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return floor + (1 - floor) * (1 - done)
    if schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    raise ValueError(f"schedule must be 'constant', 'linear' or 'cosine', got {schedule!r}")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step did."""

    gradient_norm: float
    """Before clipping; not finite if the step was skipped."""
    skipped: bool
    """True if the gradient was not finite, so that no weight changed."""


CHUNK_WEIGHTS = 1 << 24
"""Weights that are updated together; more take more memory, fewer more calls."""


def _chunks(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in order, so many together that their weights are about `CHUNK_WEIGHTS`."""
    chunks: list[list[str]] = []
    room = 0
    for name, weight in weights.items():
        if not chunks or weight.numel() > room:
            chunks.append([])
            room = CHUNK_WEIGHTS
        chunks[-1].append(name)
        room -= weight.numel()
    return chunks


class MasterAdamW:
    """AdamW that keeps float32 copies of weights and gradients of lower precision.

    A bfloat16 weight has 8 bits of mantissa: an update below 1/256 of it is lost, which is most of
    them at learning rates for fine-tuning. So the model computes in bfloat16 throughout while
    `collect` adds its gradients to float32 ones and `step` rounds the updated float32 weights
    back. float32 weights are used as they are and cost nothing extra. If a step has one backward
    pass only, its gradients stay in the model's type, and become float32 a few at a time.

    Weight decay applies to matrices only, not to biases, gains and other vectors.

    Args:
        parameters: names and parameters; those that need no gradient are left out.
        weight_decay: decoupled, per step and unit of learning rate.
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.

    Raises:
        ValueError: nothing is trainable.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = {name: p for name, p in parameters if p.requires_grad}
        if not self.parameters:
            raise ValueError("the model has no trainable parameter")
        self.masters = {
            name: p
            if p.dtype == torch.float32
            else nn.Parameter(p.detach().to(torch.float32, copy=True))
            for name, p in self.parameters.items()
        }
        self._betas, self._epsilon = betas, epsilon
        self._weight_decay = weight_decay
        self._chunks = _chunks(self.masters)
        self._adamw = self._make()

    def _make(self) -> torch.optim.AdamW:
        masters = list(self.masters.values())
        groups = [
            {"params": [p for p in masters if p.ndim >= 2], "weight_decay": self._weight_decay},
            {"params": [p for p in masters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=self._betas,
            eps=self._epsilon,
            fused=True,
        )

    def collect(self) -> None:
        """Add the gradients of the last backward pass to float32 ones.

        Call it before another backward pass of the same step.
        """
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is parameter or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The float32 gradients of all parameters, in order; zeros where there was none."""
        self.collect()
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self.masters.values() if master.grad is not None]

    def step(self, learning_rate: float, max_norm: float = 0.0) -> StepReport:
        """Clip, update, round back and clear the gradients.

        Args:
            learning_rate: of this step.
            max_norm: the whole gradient is scaled down to this norm; 0 does not clip.

        Returns:
            The norm, and whether the step was skipped because it is not finite.
        """
        chunks = self._chunks
        if any(master.grad is not None for master in self.masters.values()):
            self.collect()  # gradients of one pass beside those of others
            chunks = [list(self.masters)]
        norm = self._norm()
        finite = math.isfinite(norm)
        if finite:
            scale = min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate
            for names in chunks:
                self._step_some(names, scale)
        for tensor in (*self.masters.values(), *self.parameters.values()):
            tensor.grad = None
        return StepReport(norm, skipped=not finite)

    def _norm(self) -> float:
        """Of all gradients together, in float32."""
        # Either a weight or its copy has the gradient; they may be the same.
        given = [
            self.parameters[name].grad if master.grad is None else master.grad
            for name, master in self.masters.items()
        ]
        found = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in given if g is not None]
        return float(torch.stack(found).norm()) if found else 0.0

    @torch.no_grad()
    def _step_some(self, names: Sequence[str], scale: float) -> None:
        """Update some of the weights; only these have float32 gradients meanwhile."""
        for name in names:
            master, parameter = self.masters[name], self.parameters[name]
            if master.grad is None:
                given, parameter.grad = parameter.grad, None
                master.grad = torch.zeros_like(master) if given is None else given.float()
            if scale < 1.0:
                master.grad *= scale
        self._adamw.step()  # leaves those without gradient alone
        for name in names:
            master, parameter = self.masters[name], self.parameters[name]
            master.grad = None
            if master is not parameter:
                parameter.copy_(master)

    @torch.no_grad()
    def _write_back(self) -> None:
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter:
                parameter.copy_(master)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights and forget the moments."""
        for name, master in self.masters.items():
            master.copy_(weights[name])
        self._write_back()
        self._adamw = self._make()

    def weights(self) -> dict[str, Tensor]:
        """The float32 weights by name; not copies."""
        return {name: master.detach() for name, master in self.masters.items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments by name, in float32; not copies."""
        moments: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}, "step": {}}
        for name, master in self.masters.items():
            for key, values in moments.items():
                if master in self._adamw.state:
                    values[name] = self._adamw.state[master][key]
        return {"weights": self.weights(), **moments}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; everything is copied.

        Raises:
            ValueError: the state is of a model with other parameters.
        """
        theirs, ours = set(state["weights"]), set(self.masters)
        if theirs != ours:
            odd = sorted(theirs ^ ours)
            raise ValueError(
                f"the saved optimiser has other parameters than the model ({len(odd)} differ, e.g. "
                f"{odd[0]!r}); build the trainer with the model and config that were saved"
            )
        self.set_weights(state["weights"])
        for name, master in self.masters.items():
            if name in state["exp_avg"]:
                self._adamw.state[master] = {
                    "step": state["step"][name].detach().clone().float(),
                    "exp_avg": state["exp_avg"][name].detach().to(master.device, copy=True),
                    "exp_avg_sq": state["exp_avg_sq"][name].detach().to(master.device, copy=True),
                }
