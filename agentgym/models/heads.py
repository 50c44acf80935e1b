"""Critics: value heads on hidden states of a transformer, in pairs, with slow copies as targets.

A critic reads texts either with an encoder of its own, begun as a copy of the policy's transformer
and trained with the heads, or with the policy's, which its loss then leaves alone.
"""

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from agentgym.losses import positions
from agentgym.models.caches import given, returned
from agentgym.models.modes import in_eval
from agentgym.rows import micro_batches
from agentgym.types import IntArray

MIN_SAVED_TOKENS = 64
"""Fewer shared tokens are not worth a pass of their own."""


class Twin(nn.Module):
    """Two heads of the same shape that differ in their start only.

    Args:
        inputs: width of what they read.
        hidden: width of their two hidden layers.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(inputs, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 1),
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs) to (2, B)."""
        return torch.stack([head(features)[:, 0] for head in self.heads])


class Critic(nn.Module):
    """What critics share: how they are built beside a policy, and how they read.

    Args:
        encoder: a transformer without its output layer, trained with the heads; None if the
            policy's is read.
        width: of the hidden states.
        hidden: of the heads.
    """

    def __init__(self, encoder: nn.Module | None, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder

    @classmethod
    def beside(cls, policy: Any, *, own: bool, hidden: int = 0, seed: int = 0) -> Self:
        """A critic for a policy, on its device; torch's random state is left as it was.

        Args:
            policy: a causal language model, adapters allowed.
            own: give it an encoder of its own (`own_trunk`).
            hidden: width of the heads' hidden layers; 0 takes the transformer's.
            seed: of the heads' start.
        """
        embeddings = policy.get_input_embeddings().weight
        width = int(embeddings.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(own_trunk(policy) if own else None, width, hidden or width)
        return made.to(embeddings.device)

    def read(
        self,
        policy: Any,
        texts: Sequence[IntArray],
        places: Sequence[Sequence[int]],
        *,
        micro_batch_tokens: int = 8192,
        mixed: bool = False,
    ) -> list[Tensor]:
        """Features of texts: the encoder's or the policy's hidden states at given positions.

        Args:
            policy: read, without gradient and dropout, if there is no encoder.
            texts: (L,) ids of each.
            places: positions that are wanted of each text.
            micro_batch_tokens: tokens with padding that go through at once.
            mixed: compute in bfloat16.

        Returns:
            For each text, (K, D) float32.
        """
        own = self.encoder is not None
        module = self.encoder if self.encoder is not None else trunk(policy)
        device = next(module.parameters()).device
        with (
            torch.set_grad_enabled(own and torch.is_grad_enabled()),
            torch.autocast(device.type, torch.bfloat16, enabled=mixed),
            contextlib.nullcontext() if own else in_eval(policy),
        ):
            return trunk_states(
                module, texts, places, device=device, micro_batch_tokens=micro_batch_tokens
            )


class TurnCritic(Critic):
    """Twin Q and twin V of whole turns.

    A state is read up to its last token, a state with an action up to the action's last token.
    Q sees both hidden states, V the first.

    Args:
        encoder: as for `Critic`.
        width: of the hidden states.
        hidden: of the heads.
    """

    def __init__(self, encoder: nn.Module | None, width: int, hidden: int) -> None:
        super().__init__(encoder, width, hidden)
        self.q_heads = Twin(2 * width, hidden)
        self.v_heads = Twin(width, hidden)

    def q(self, state: Tensor, with_action: Tensor) -> Tensor:
        """(B, D) features before and after the action to (2, B)."""
        return self.q_heads(torch.cat([state, with_action], dim=1))  # type: ignore[no-any-return]

    def v(self, state: Tensor) -> Tensor:
        """(B, D) to (2, B)."""
        return self.v_heads(state)  # type: ignore[no-any-return]

    def target(self) -> "TurnCritic":
        """An equal copy without gradient."""
        made = copy.deepcopy(self)
        made.requires_grad_(False)
        return made

    @torch.no_grad()
    def follow(self, other: "TurnCritic", rate: float) -> None:
        """Move every weight towards another's: w + rate * (other - w)."""
        for own, theirs in zip(self.parameters(), other.parameters(), strict=True):
            own.lerp_(theirs.to(own.dtype), rate)


class ValueCritic(Critic):
    """One value of a state.

    Args:
        encoder: as for `Critic`.
        width: of the hidden states.
        hidden: of the head.
    """

    def __init__(self, encoder: nn.Module | None, width: int, hidden: int) -> None:
        super().__init__(encoder, width, hidden)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor) -> Tensor:
        """(K, D) features to (K,)."""
        return self.head(states)[:, 0]  # type: ignore[no-any-return]


def own_trunk(model: Any) -> nn.Module:
    """A copy of the policy's transformer, adapters merged, all of it trainable.

    It computes without dropout, but checkpoints activations if the policy does: that asks a layer
    whether it is training, and none of the modules inside the layer.
    """
    base = copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model
    copied = copy.deepcopy(trunk(base))
    copied.requires_grad_(True)
    copied.train(False)
    for module in copied.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))
    return copied


def trunk(model: Any) -> nn.Module:
    """The transformer below a language model's output layer; adapters stay in it."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    found: nn.Module = getattr(base, base.base_model_prefix)
    return found


def trunk_states(
    module: nn.Module,
    sequences: Sequence[IntArray],
    places: Sequence[Sequence[int]],
    *,
    device: torch.device,
    micro_batch_tokens: int = 8192,
) -> list[Tensor]:
    """Hidden states of a trunk's last layer at given positions.

    Nothing is computed twice that need not be, with or without gradient: a text that another one
    begins with (an earlier turn of the same episode) is read inside it, and what all texts of a
    micro-batch begin with (the same instructions) goes through once, unless activations are
    checkpointed.

    Args:
        module: of `trunk`.
        sequences: (L,) ids of each text, at least one token.
        places: positions that are wanted of each text.
        device: where the module is.
        micro_batch_tokens: tokens with padding that go through at once.

    Returns:
        For each text, (K, D) float32, with gradient if it is on.
    """
    found: list[Tensor] = [torch.zeros(0)] * len(sequences)
    lengths = [len(ids) for ids in sequences]
    inside = _containers(sequences)
    wanted: dict[int, dict[int, int]] = {whole: {} for whole in inside}  # place to its number
    for index, whole in enumerate(inside):
        for place in places[index]:
            wanted[whole].setdefault(place, len(wanted[whole]))
    states: dict[int, Tensor] = {}
    for group in micro_batches(sorted(wanted), lengths, micro_batch_tokens):
        ids = torch.zeros(len(group), lengths[group[0]], dtype=torch.long)
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        for line, index in enumerate(group):
            ids[line, : lengths[index]] = torch.from_numpy(np.asarray(sequences[index]))
            attention[line, : lengths[index]] = True
        prefix = _prefix_length(module, ids, min(min(wanted[i], default=0) for i in group))
        ids, attention = ids.to(device), attention.to(device)
        hidden = _hidden(module, ids, attention, prefix)
        for line, index in enumerate(group):
            states[index] = hidden[line, [place - prefix for place in wanted[index]]].float()
    for index, whole in enumerate(inside):
        found[index] = states[whole][[wanted[whole][place] for place in places[index]]]
    return found


def _containers(sequences: Sequence[IntArray]) -> list[int]:
    """For each text, one that begins with it and that no other begins with; maybe itself."""
    keys = [np.asarray(ids).astype(">i4").tobytes() for ids in sequences]
    found = list(range(len(keys)))
    whole = -1
    for index in sorted(found, key=lambda i: keys[i], reverse=True):
        # in this order whatever begins with a text stands right before it
        if whole < 0 or not keys[whole].startswith(keys[index]):
            whole = index
        found[index] = whole
    return found


def _prefix_length(module: nn.Module, ids: Tensor, most: int) -> int:
    """How many first columns to compute once; padding is not equal to every row's tokens."""
    if len(ids) < 2 or any(getattr(m, "gradient_checkpointing", False) for m in module.modules()):
        return 0
    differing = (ids != ids[:1]).any(0).nonzero()
    common = min(most, int(differing[0]) if len(differing) else ids.shape[1] - 1)
    return common if common * (len(ids) - 1) >= MIN_SAVED_TOKENS else 0


def _hidden(module: nn.Module, ids: Tensor, attention: Tensor, prefix: int) -> Tensor:
    """(B, L - prefix, D) last hidden states behind a prefix that all rows share."""
    arguments: dict[str, Any] = {"use_cache": False}
    skipped = 0
    if prefix:
        cache = returned(module(input_ids=ids[:1, :prefix], use_cache=True))
        if hasattr(cache, "batch_repeat_interleave"):
            cache.batch_repeat_interleave(len(ids))
            arguments, skipped = given(cache), prefix
    output = module(
        input_ids=ids[:, skipped:],
        attention_mask=attention,
        position_ids=positions(attention)[:, skipped:],
        **arguments,
    )
    hidden: Tensor = output.last_hidden_state[:, prefix - skipped :]
    return hidden
