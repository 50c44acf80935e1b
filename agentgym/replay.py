"""Transitions of turns, and the buffer that off-policy methods draw them from; numpy only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentgym.advantages import Array
from agentgym.rows import as_rows
from agentgym.types import EndReason, IntArray, Trajectory

_TERMINAL = (EndReason.SUCCESS, EndReason.FAILURE, EndReason.UNJUDGED)


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """One turn: where it began, what was written, what it earned, where it led."""

    state: IntArray
    """(P,) all tokens before the action."""
    action: IntArray
    """(T,) sampled tokens."""
    reward: float
    next_state: IntArray | None
    """(P',) all tokens before the next action; None if the episode terminated."""


def transitions(trajectory: Trajectory, rewards: Sequence[float] | Array) -> dict[int, Transition]:
    """The turns of an episode.

    If a limit cut the episode, its last turn leads to `Trajectory.final_prompt_ids`, so that it is
    bootstrapped and not taken for an end. Where that is not on record the turn is left out, as are
    turns without tokens.

    Args:
        trajectory: the episode, scored.
        rewards: (N,) what each turn earns.

    Returns:
        Transitions by the index of their turn, in order.
    """
    rows = {
        int(row.turn_index[row.mask][0]): row
        for row in as_rows([trajectory], "per_turn", missing="skip")
    }
    found = {}
    for index in range(len(trajectory.turns)):
        last = index == len(trajectory.turns) - 1
        row, following = rows.get(index), rows.get(index + 1)
        after = None
        if following is not None:
            after = following.ids[: int(np.flatnonzero(following.mask)[0])]
        elif last and trajectory.end not in _TERMINAL:
            after = trajectory.final_prompt_ids
        ended = last and trajectory.end in _TERMINAL
        if row is None or (after is None and not ended):
            continue
        start = int(np.flatnonzero(row.mask)[0])
        found[index] = Transition(row.ids[:start], row.ids[start:], float(rewards[index]), after)
    return found


class ReplayBuffer:
    """The last transitions, drawn evenly.

    Args:
        size: how many are kept; the oldest go first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[Transition] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Transition:
        return self._kept[index]

    def __iter__(self) -> Iterator[Transition]:
        return iter(self._kept)

    def add(self, transitions: Sequence[Transition]) -> None:
        """Put them behind the others."""
        self._kept = [*self._kept, *transitions][-self.size :]

    def clear(self) -> None:
        """Forget all."""
        self._kept = []

    def draw(self, count: int, rng: np.random.Generator) -> list[int]:
        """Places of so many of them, with replacement."""
        return [int(i) for i in rng.integers(len(self._kept), size=count)]

    def state_dict(self) -> dict[str, Any]:
        """As a few flat arrays."""
        none = np.zeros(0, np.int32)
        parts: dict[str, list[IntArray]] = {
            "state": [t.state for t in self._kept],
            "action": [t.action for t in self._kept],
            "next_state": [none if t.next_state is None else t.next_state for t in self._kept],
        }
        return {
            "reward": np.array([t.reward for t in self._kept], np.float64),
            "terminated": np.array([t.next_state is None for t in self._kept], np.uint8),
            **{f"{name}_lengths": _lengths(arrays) for name, arrays in parts.items()},
            **{name: _flat(arrays) for name, arrays in parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` made; arrays may also be tensors."""
        columns = {
            name: np.split(
                np.asarray(state[name], np.int32),
                np.cumsum(np.asarray(state[f"{name}_lengths"]))[:-1],
            )
            for name in ("state", "action", "next_state")
        }
        rewards = np.asarray(state["reward"]).tolist()
        ended = np.asarray(state["terminated"]).astype(bool).tolist()
        self.clear()
        for i, reward in enumerate(rewards):
            after = None if ended[i] else columns["next_state"][i]
            self._kept.append(Transition(columns["state"][i], columns["action"][i], reward, after))


def _lengths(arrays: Sequence[IntArray]) -> Any:
    return np.array([len(array) for array in arrays], np.int64)


def _flat(arrays: Sequence[IntArray]) -> Any:
    return np.concatenate(arrays).astype(np.int32) if arrays else np.zeros(0, np.int32)
