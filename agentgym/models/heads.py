"""Critics: value heads on hidden states of a transformer, in pairs, with slow copies as targets."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agentgym.losses import positions


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


def trunk(model: Any) -> nn.Module:
    """The transformer below a language model's output layer; adapters stay in it."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    found: nn.Module = getattr(base, base.base_model_prefix)
    return found


def trunk_states(
    module: nn.Module,
    sequences: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    *,
    device: torch.device,
    micro_batch_tokens: int = 8192,
) -> list[Tensor]:
    """Hidden states of a trunk's last layer at given positions.

    Args:
        module: of `trunk`.
        sequences: ids of each text, at least one token.
        places: for each, the positions that are wanted; all texts want equally many.
        device: where the module is.
        micro_batch_tokens: tokens with padding that go through at once.

    Returns:
        For each place, (B, D) float32, with gradient if it is on.
    """
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    parts: list[Tensor] = []
    begin = 0
    while begin < len(order):
        width = len(sequences[order[begin]])
        group = order[begin : begin + max(1, micro_batch_tokens // width)]
        begin += len(group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        attention = torch.zeros(len(group), width, dtype=torch.bool)
        for line, index in enumerate(group):
            length = len(sequences[index])
            ids[line, :length] = torch.as_tensor(sequences[index])
            attention[line, :length] = True
        attention = attention.to(device)
        hidden = module(
            input_ids=ids.to(device),
            attention_mask=attention,
            position_ids=positions(attention),
            use_cache=False,
        ).last_hidden_state
        wanted = torch.tensor([list(places[i]) for i in group], device=device)
        rows = torch.arange(len(group), device=device)[:, None]
        parts.append(hidden[rows, wanted].float())  # (b, K, D)
    states = torch.cat(parts)
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=device)
    return list(states[back].unbind(1))
