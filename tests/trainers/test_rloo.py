"""RLOO."""

import dataclasses
from typing import Any

import pytest

from agentgym.models.tiny import tiny_model
from agentgym.trainers.rloo import RLOOTrainer


def test_each_is_compared_with_the_others(episodes: Any) -> None:
    made = [
        dataclasses.replace(t, outcome=o, group_id="g")
        for t, o in zip(episodes(4), (1.0, 0.0, 0.0, 0.5), strict=True)
    ]
    found = RLOOTrainer(*tiny_model(0)).advantages(made)
    assert [a[0] for a in found] == pytest.approx([0.83333, -0.5, -0.5, 0.16667], abs=1e-5)
    assert all(len(a) == 2 for a in found)
