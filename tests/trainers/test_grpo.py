"""GRPO and Dr. GRPO."""

import dataclasses
from typing import Any

import pytest

from agentgym.models.tiny import tiny_model
from agentgym.trainers.grpo import DrGRPOTrainer, GRPOTrainer


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        (GRPOTrainer, [1.30558, -0.78335, -0.78335, 0.26112]),
        (DrGRPOTrainer, [0.625, -0.375, -0.375, 0.125]),
    ],
)
def test_scores_in_their_group(trainer: Any, expected: list[float], episodes: Any) -> None:
    made = [
        dataclasses.replace(t, outcome=o, group_id="g")
        for t, o in zip(episodes(4), (1.0, 0.0, 0.0, 0.5), strict=True)
    ]
    found = trainer(*tiny_model(0)).advantages(made)
    assert [a[0] for a in found] == pytest.approx(expected, abs=1e-5)
