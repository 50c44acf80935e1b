"""Behaviour cloning: maximise the likelihood of the actions in given trajectories.

The smallest trainer, and the one to copy: a config, and a trainer whose `update` is `start` and
then `step` until `done`, so that a run can be cut between any two optimiser steps.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from agentgym import seeding
from agentgym.errors import ConfigError, TrainingError
from agentgym.inference.sights import Sights, check_embeddings, whole_inputs
from agentgym.losses import (
    Reduction,
    action_logprobs,
    negative_log_likelihood,
    packed_logprobs,
    token_weights,
)
from agentgym.models.load import save_model
from agentgym.models.packed import can_pack, packed_attention
from agentgym.models.vision import Vision
from agentgym.optim import MasterAdamW, Schedule, decay_factor, warmup_factor
from agentgym.packing import pack_rows, packed_batches
from agentgym.rows import (
    MicroBatch,
    Row,
    RowMode,
    as_rows,
    collate,
    micro_batches,
    pack,
    plan_epoch,
    unpack,
    untrainable_turns,
)
from agentgym.types import Trajectory, Turn

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bfloat16", "mixed"]


@dataclass(frozen=True)
class BehaviourCloningConfig:
    """How to clone."""

    learning_rate: float = 2e-4
    """Peak; about ten times higher for LoRA than for all weights."""
    epochs: int = 1
    """Passes over the rows of one update."""
    batch_size: int = 16
    """Rows of one optimiser step, over all processes."""
    micro_batch_tokens: int = 4096
    """Tokens that go through the model at once, padding included: memory, not the result."""
    warmup_steps: int = 0
    """Optimiser steps until the learning rate is reached, counted over the trainer's life."""
    schedule: Schedule = "constant"
    """How the learning rate falls over the steps of one update."""
    floor: float = 0.0
    """Share of the learning rate at which the schedule ends."""
    max_grad_norm: float = 1.0
    """Norm to which the gradient is clipped; 0 does not clip."""
    weight_decay: float = 0.0
    """Decoupled, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's moments."""
    lora_rank: int = 0
    """Rank of the adapters on all linear layers but the last; 0 trains all weights. A model that
    has adapters already keeps these and trains them alone."""
    lora_alpha: int = 32
    """Adapters are scaled by alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout before the adapters."""
    reduction: Reduction = "token_mean"
    """What counts the same: every action token, every row, or `constant`."""
    reduction_constant: float = 64.0
    """Tokens that a row is counted as if `reduction` is "constant"."""
    rows: RowMode = "fork"
    """One row for turns that extend each other, or one row a turn."""
    min_outcome: float = 0.0
    """Trajectories with a lower outcome are left out; 1 keeps successes only."""
    train_unscored: bool = False
    """Train also on trajectories without an outcome (recorded by hand, say)."""
    skip_unparsed: bool = True
    """Leave turns whose action did not parse as context only."""
    precision: Precision = "auto"
    """"auto" takes the model as it is loaded; "float32" and "bfloat16" convert it; "mixed" keeps
    float32 weights and computes in bfloat16. bfloat16 weights have float32 copies in the
    optimiser."""
    share_prefix: bool = True
    """What rows of a micro-batch begin with alike (instructions, the prompt of a group, earlier
    turns) goes through the model once: the same gradient up to rounding (dropout draws there
    once), for a fraction of the time. Models that cannot read packed rows (`models.packed`) get
    padded ones, which share nothing."""
    train_vision: bool = False
    """Train also what a vision-language model sees with; otherwise that stands still, and every
    picture is looked at once. With `lora_rank` adapters are put there too."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""
    max_bad_steps: int = 5
    """Steps in a row without a finite gradient after which training stops with an error."""
    seed: int = 0
    """Of the order of rows, the adapters' start and dropout."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_tokens", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("learning_rate", "lora_alpha", "reduction_constant"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in ("warmup_steps", "max_grad_norm", "weight_decay", "lora_rank"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not (0 <= self.floor <= 1 and 0 <= self.lora_dropout < 1):
            raise ConfigError(
                f"floor must be in [0, 1] and lora_dropout in [0, 1), got {self.floor!r} and "
                f"{self.lora_dropout!r}"
            )


class BehaviourCloningTrainer:
    """Clones the actions of trajectories.

    Only sampled tokens get gradient. Trajectories without an outcome (the environment broke) and
    those below `min_outcome` are left out; if nothing remains there is no update, and the metrics
    say so. A step whose gradient is not finite changes nothing and is counted.

    Under `accelerate launch` every process is given the same trajectories and works on its share
    of each step; gradients are summed in float32 and normalised by the whole step's counts, so the
    update does not depend on how many processes or micro-batches made it.

    Build it on the base model, with the same config, before `load_state_dict`: the state holds the
    trained weights and not the frozen ones.

    Args:
        model: a Hugging Face causal language model; adapters are added in place.
        tokenizer: saved with the model; its padding id is used if it has one.
        config: see `BehaviourCloningConfig`.
    """

    name = "behaviour_cloning"
    config_class: ClassVar[type[BehaviourCloningConfig]] = BehaviourCloningConfig
    reads_pictures: ClassVar[bool] = True
    """Whether all parts of the method do."""

    def __init__(
        self, model: Any, tokenizer: Any, config: BehaviourCloningConfig | None = None
    ) -> None:
        self.config = config or self.config_class()
        self.tokenizer = tokenizer
        self.accelerator = Accelerator()
        self.model = self._prepare(model)
        self.device = next(self.model.parameters()).device
        self._packs = can_pack(self.model)
        self.pad_id = int(getattr(tokenizer, "pad_token_id", None) or 0)
        self.optimiser = MasterAdamW(
            self.model.named_parameters(),
            weight_decay=self.config.weight_decay,
            betas=self.config.betas,
        )
        self.updates = 0
        """Updates begun."""
        self.steps = 0
        """Optimiser steps done over all updates, skipped ones included."""
        self._fresh_steps = 0  # since the optimiser's moments were empty: the warm-up counts these
        self._bad_steps = 0
        self._rows: list[Row] = []
        self._plan: list[tuple[int, ...]] = []
        self._position = 0
        self._totals: dict[str, float] = {}
        self._computed = 0  # tokens that went through the model
        self._vision: Vision | None = None
        self._sights: Sights | None = None

    def see_with(self, vision: Vision) -> None:
        """Show the pictures of prompts to a vision-language model.

        Args:
            vision: its processor's side; saved with the model.

        Raises:
            ConfigError: the model does more with pictures than put their features in the place of
                embeddings.
        """
        base = self.model.get_base_model() if self._has_adapters else self.model
        sights = Sights(base, vision, gradient=self.config.train_vision)
        check_embeddings(self.model, sights)
        sights.forget()
        sights.runs = 0
        self._vision, self._sights = vision, sights

    def _check_pictures(self, trajectories: Sequence[Trajectory]) -> None:
        """Pictures that were shown to the policy are never left out silently."""
        if not any(turn.prompt_images for t in trajectories for turn in t.turns):
            return
        if not self.reads_pictures:
            raise ConfigError(
                f"the critic of {self.name!r} reads no pictures yet; train by behaviour_cloning, "
                "filtered_bc or a policy-gradient method without a critic, or set "
                "context.screenshots=0"
            )
        if self._sights is None:
            raise ConfigError(
                "the episodes' prompts show pictures and this trainer has no processor for them; "
                "call see_with(loaded.vision)"
            )

    def _prepare(self, model: Any) -> Any:
        config = self.config
        if config.precision == "bfloat16":
            model = model.to(torch.bfloat16)
        elif config.precision in ("float32", "mixed"):
            model = model.to(torch.float32)
        if not config.train_vision and not hasattr(model, "peft_config"):
            text = _text_names(model)
            for name, parameter in model.named_parameters():
                if name not in text:
                    parameter.requires_grad_(False)
        if config.lora_rank and not hasattr(model, "peft_config"):
            model = self._with_adapters(model)
        if config.gradient_checkpointing:
            # the newer name, where transformers has it: the older one warns there
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
        if self.accelerator.num_processes > 1:  # alone, the model stays where it was loaded
            model = model.to(self.accelerator.device)
        return model

    def _with_adapters(self, model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            lora_dropout=self.config.lora_dropout,
            target_modules=self._adapted(model),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft asks transformers for an attribute that this deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            torch.manual_seed(seeding.derive(self.config.seed, "adapters"))
            return get_peft_model(model, adapters, autocast_adapter_dtype=False)

    def _adapted(self, model: Any) -> str | list[str]:
        """Which layers get adapters: of a vision-language model those of its text part."""
        if self.config.train_vision or not hasattr(model.config, "vision_config"):
            return "all-linear"
        head, decoder = model.get_output_embeddings(), set(model.get_decoder().modules())
        return [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module in decoder and module is not head
        ]

    # -- one update ---------------------------------------------------------------------------

    def update(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Train `epochs` passes over the trajectories; returns `metrics`."""
        self.start(trajectories)
        while not self.done:
            self.step()
        return self.metrics()

    def start(self, trajectories: Sequence[Trajectory]) -> None:
        """Begin an update: what to train on and in which order. Changes no weight."""
        chosen, counts = self._select(trajectories)
        rows = self._as_rows(chosen)
        counts["untrainable_turns"] = untrainable_turns(chosen)
        self._begin(rows, counts)

    def _select(
        self, trajectories: Sequence[Trajectory]
    ) -> tuple[list[Trajectory], dict[str, float]]:
        config = self.config
        scored = [t for t in trajectories if t.outcome is not None or config.train_unscored]
        chosen = [t for t in scored if t.outcome is None or t.outcome >= config.min_outcome]
        counts: dict[str, float] = {
            "trajectories": len(trajectories),
            "unscored": sum(t.outcome is None for t in trajectories),
            "trained_trajectories": len(chosen),
        }
        return chosen, counts

    def _as_rows(self, trajectories: Sequence[Trajectory]) -> list[Row]:
        self._check_pictures(trajectories)
        trainable = _parsed if self.config.skip_unparsed else None
        return as_rows(trajectories, self.config.rows, trainable=trainable, missing="skip")

    def _begin(self, rows: list[Row], counts: Mapping[str, float]) -> None:
        self.updates += 1  # before the plan, whose order depends on it
        self._rows, self._position = rows, 0
        self._plan = self._make_plan()
        self._totals = {
            "rows": float(len(rows)),
            "action_tokens": float(sum(row.action_tokens for row in rows)),
            **{name: float(value) for name, value in counts.items()},
        }
        if not self._plan:
            logger.warning("nothing to train on: %s", dict(counts))

    def _make_plan(self) -> list[tuple[int, ...]]:
        lengths = [len(row) for row in self._rows]
        plan: list[tuple[int, ...]] = []
        for epoch in range(self.config.epochs):
            rng = seeding.generator(self.config.seed, "order", self.updates, epoch)
            plan += plan_epoch(lengths, self.config.batch_size, rng)
        return plan

    @property
    def done(self) -> bool:
        """True if the current update has no step left (or none was begun)."""
        return self._position >= len(self._plan)

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the current update."""
        return len(self._plan)

    @property
    def position(self) -> int:
        """Steps of the current update that are done."""
        return self._position

    def metrics(self) -> dict[str, float]:
        """Of the current update so far: counts, and means over its steps."""
        totals = dict(self._totals)
        good = totals.pop("good_steps", 0.0)
        for name in ("loss", "gradient_norm"):
            value = totals.pop(f"sum_{name}", 0.0)
            if good:
                totals[name] = value / good
        return {"steps": 0.0, "skipped_steps": 0.0, **totals}

    # -- one step -----------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimiser step of the current update.

        Returns:
            ``loss`` (in the reduction's unit, before the step), ``gradient_norm`` (before
            clipping), ``learning_rate``, ``tokens`` (computed by this process) and
            ``skipped`` (0 or 1).

        Raises:
            TrainingError: no update is under way, or `max_bad_steps` in a row were not finite.
        """
        if self.done:
            raise TrainingError("no step is left; call start(trajectories) first")
        batch = self._plan[self._position]
        computed = self._computed
        with self._training_mode():
            loss = self._accumulate(batch)
        self._reduce(self.optimiser)
        learning_rate = self._learning_rate()
        report = self.optimiser.step(learning_rate, self.config.max_grad_norm)
        self._position += 1
        self.steps += 1
        self._fresh_steps += 1
        self._count(loss, report.gradient_norm, report.skipped)
        return {
            "loss": loss,
            "gradient_norm": report.gradient_norm,
            "learning_rate": learning_rate,
            "tokens": float(self._computed - computed),
            "skipped": float(report.skipped),
        }

    def _reduce(self, optimiser: MasterAdamW) -> None:
        """Sum gradients over processes."""
        if self.accelerator.num_processes > 1:
            for gradient in optimiser.gradients():
                gradient.copy_(self.accelerator.reduce(gradient, reduction="sum"))

    def _learning_rate(self) -> float:
        config = self.config
        return (
            config.learning_rate
            * warmup_factor(self._fresh_steps, config.warmup_steps)
            * decay_factor(self._position, len(self._plan), config.schedule, config.floor)
        )

    def _accumulate(self, batch: Sequence[int]) -> float:
        """Gradients of this process's share of a step; the whole step's loss."""
        counts = {
            "total_tokens": sum(self._rows[i].action_tokens for i in batch),
            "total_rows": len(batch),
        }
        total = torch.zeros((), device=self.device)
        here = self.accelerator.process_index, self.accelerator.num_processes
        for group in self._micro_batches(batch, *here):
            self.optimiser.collect()  # of the micro-batch before; the last one's can stay
            loss = self._loss(group, counts)
            torch.autograd.backward(loss)
            total += loss.detach()
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        return float(total)

    def _micro_batches(
        self, indices: Sequence[int], part: int = 0, parts: int = 1
    ) -> list[MicroBatch]:
        """One of `parts` shares of some rows, as it goes through the model."""
        limit = self.config.micro_batch_tokens
        if self._packs:
            return packed_batches(
                self._rows, indices, limit, share=self.config.share_prefix, part=part, parts=parts
            )
        lengths = [len(row) for row in self._rows]
        ordered = sorted(indices, key=lambda i: (-lengths[i], i))
        return micro_batches(ordered[part::parts], lengths, limit)

    def _logprobs(self, group: MicroBatch) -> tuple[Tensor, Tensor]:
        """(M,) log-probabilities of a micro-batch's action tokens, and its mask (B, L)."""
        rows = [self._rows[i] for i in group]
        batch = collate(rows, self.pad_id)
        mask = self._tensor(batch.mask)
        mixed = self.config.precision == "mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            if self._packs:
                pack = pack_rows(rows, share=self.config.share_prefix)
                self._computed += len(pack)
                return packed_logprobs(self.model, pack), mask
            self._computed += batch.ids.size
            ids, attention = self._tensor(batch.ids).long(), self._tensor(batch.attention)
            inputs = self._shown(rows, ids)
            return action_logprobs(self.model, ids, attention, mask, inputs=inputs), mask

    def _shown(self, rows: Sequence[Row], ids: Tensor) -> dict[str, Tensor] | None:
        """What goes into the model for rows with pictures; `None` if there are none."""
        if self._sights is None or not any(row.images for row in rows):
            return None
        if self.config.train_vision:
            self._sights.forget()  # of the micro-batch before
        sights = [
            self._sights.see(row.ids, [image for _, image in row.images]) if row.images else None
            for row in rows
        ]
        return whole_inputs(self.model, ids, sights)

    def _loss(self, group: MicroBatch, counts: Mapping[str, int]) -> Tensor:
        logprobs, mask = self._logprobs(group)
        weights = token_weights(
            mask, self.config.reduction, **counts, constant=self.config.reduction_constant
        )
        return negative_log_likelihood(logprobs, weights)

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _count(self, loss: float, norm: float, skipped: bool) -> None:
        self._totals["steps"] = self._totals.get("steps", 0.0) + 1.0
        if not skipped:
            self._bad_steps = 0
            self._totals.setdefault("first_loss", loss)
            self._totals["last_loss"] = loss
            for name, value in (
                ("good_steps", 1.0),
                ("sum_loss", loss),
                ("sum_gradient_norm", norm),
            ):
                self._totals[name] = self._totals.get(name, 0.0) + value
            return
        self._bad_steps += 1
        self._totals["skipped_steps"] = self._totals.get("skipped_steps", 0.0) + 1.0
        logger.warning("step %d skipped: loss %g, gradient norm %g", self.steps, loss, norm)
        if self._bad_steps >= self.config.max_bad_steps:
            raise TrainingError(
                f"{self._bad_steps} optimiser steps in a row had a gradient that is not finite "
                f"(last loss {loss!r}); lower learning_rate ({self.config.learning_rate!r}) or set "
                "precision='float32', and look for weights that are already not finite"
            )

    @contextlib.contextmanager
    def _training_mode(self) -> Iterator[None]:
        """Dropout on, from a stream that depends on the step alone; then all as it was."""
        device = self.device
        was_training = self.model.training
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(
                seeding.derive(
                    self.config.seed, "dropout", self.steps, self.accelerator.process_index
                )
            )
            self.model.train()
            try:
                # Gradient checkpointing reads packs in the backward pass too.
                with packed_attention(self.model) if self._packs else contextlib.nullcontext():
                    yield
            finally:
                self.model.train(was_training)

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments, rows and position: nested dictionaries of tensors, arrays and JSON.

        The tensors are the living ones: write or copy them before the next step.
        """
        return {
            "optimiser": self.optimiser.state_dict(),
            "rows": pack([] if self.done else self._rows),
            "position": 0 if self.done else self._position,
            "planned_steps": 0 if self.done else len(self._plan),
            "totals": dict(self._totals),
            "updates": self.updates,
            "steps": self.steps,
            "fresh_steps": self._fresh_steps,
            "bad_steps": self._bad_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, inside an update too; the next `step` is the next one.

        Raises:
            TrainingError: the config would cut the rest of the update differently.
            ValueError: the model has other trainable parameters.
        """
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates, self.steps = int(state["updates"]), int(state["steps"])
        self._fresh_steps, self._bad_steps = int(state["fresh_steps"]), int(state["bad_steps"])
        self._rows = unpack(state["rows"])
        # an update that is over has no plan, whatever could be planned now
        self._plan = self._make_plan() if state["planned_steps"] else []
        if len(self._plan) != state["planned_steps"]:
            raise TrainingError(
                f"the saved update has {state['planned_steps']} steps, this config makes "
                f"{len(self._plan)} of its rows; go on with the epochs and batch_size that it had"
            )
        self._position = int(state["position"])
        self._totals = {name: float(value) for name, value in state["totals"].items()}

    @property
    def _has_adapters(self) -> bool:
        return hasattr(self.model, "peft_config")

    def weights(self) -> dict[str, Tensor]:
        """The trained tensors under the base model's names, adapters merged: for a backend."""
        if not self._has_adapters:
            return {name: p.detach() for name, p in self.optimiser.parameters.items()}
        merged: dict[str, Tensor] = {}
        for name, module in self.model.get_base_model().named_modules():
            if hasattr(module, "get_delta_weight"):
                base = module.get_base_layer().weight.detach()
                delta = module.get_delta_weight("default").detach()
                merged[f"{name}.weight"] = (base.float() + delta.float()).to(base.dtype)
        return merged

    def save_model(self, folder: Path) -> None:
        """Write model (adapters merged) and tokenizer so that `load_model` reads them."""
        if self.accelerator.is_main_process:
            model = self.model
            if self._has_adapters:
                model = copy.deepcopy(model).merge_and_unload()
            save_model(model, self.tokenizer, folder, self._vision)


def _text_names(model: Any) -> set[str]:
    """Parameters that are trained unless `train_vision`: all but a vision-language model's eyes."""
    names = [name for name, _ in model.named_parameters()]
    if not hasattr(getattr(model, "config", None), "vision_config"):
        return set(names)
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(p) for part in parts for p in part.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in kept}


def _parsed(turn: Turn) -> bool:
    return turn.parsed
