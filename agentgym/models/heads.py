"""Critics: value heads on hidden states of a transformer, in pairs, with slow copies as targets."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentgym.losses import positions
from agentgym.rows import micro_batches
from agentgym.types import IntArray


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


class TurnCritic(nn.Module):
    """Twin Q and twin V of whole turns.

    A state is read up to its last token, a state with an action up to the action's last token.
    Q sees both hidden states, V the first.

    Args:
        encoder: a transformer without its output layer, trained with the heads; None if features
            come from elsewhere (`trunk_states` of the policy).
        width: of the hidden states.
        hidden: of the heads.
    """

    def __init__(self, encoder: nn.Module | None, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
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


class ValueCritic(nn.Module):
    """One value of a state.

    Args:
        encoder: as for `TurnCritic`.
        width: of the hidden states.
        hidden: of the head.
    """

    def __init__(self, encoder: nn.Module | None, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor) -> Tensor:
        """(K, D) features to (K,)."""
        return self.head(states)[:, 0]  # type: ignore[no-any-return]


def own_trunk(model: Any) -> nn.Module:
    """A copy of the policy's transformer, adapters merged, all of it trainable."""
    base = copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else model
    copied = copy.deepcopy(trunk(base))
    copied.requires_grad_(True)
    return copied.train(False)


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
    for group in micro_batches(range(len(lengths)), lengths, micro_batch_tokens):
        ids = torch.zeros(len(group), lengths[group[0]], dtype=torch.long)
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        for line, index in enumerate(group):
            ids[line, : lengths[index]] = torch.from_numpy(np.asarray(sequences[index]))
            attention[line, : lengths[index]] = True
        attention = attention.to(device)
        hidden = module(
            input_ids=ids.to(device),
            attention_mask=attention,
            position_ids=positions(attention),
            use_cache=False,
        ).last_hidden_state
        for line, index in enumerate(group):
            found[index] = hidden[line, list(places[index])].float()
    return found
