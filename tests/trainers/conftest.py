"""Episodes that a tiny model can learn from."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from agentgym.types import EndReason, Source, Task, Trajectory, Turn

Episodes: TypeAlias = Callable[..., list[Trajectory]]
WORDS = range(40, 60)
"""Token ids that the episodes are made of."""
END = 2
"""Token that ends an action; also the tiny tokenizer's."""


@pytest.fixture
def episodes() -> Episodes:
    """A function that makes episodes of a copy task: the action repeats the prompt's last word."""

    def make(
        count: int,
        *,
        seed: int = 0,
        turns: int = 2,
        outcome: float | None = 1.0,
        source: Source = Source.POLICY,
        **fields: Any,
    ) -> list[Trajectory]:
        rng = np.random.default_rng(seed)
        made = []
        for number in range(count):
            parts = []
            for index in range(turns):
                words = rng.integers(WORDS.start, WORDS.stop, int(rng.integers(2, 9)))
                # All begin alike, as instructions do.
                head = np.arange(3, 35) if index == 0 else np.zeros(0, np.int64)
                parts.append(
                    Turn(
                        "page",
                        np.concatenate([head, words]).astype(np.int32),
                        index > 0,
                        np.array([words[-1], END], np.int32),
                        "text",
                    )
                )
            end = EndReason.ENV_ERROR if outcome is None else EndReason.SUCCESS
            task = Task("agentgym/copy-v0", 1000 * seed + number)
            made.append(
                Trajectory(
                    f"{seed}-{number}", task, tuple(parts), end, outcome, source=source, **fields
                )
            )
        return made

    return make
