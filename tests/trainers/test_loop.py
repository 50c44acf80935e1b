"""LOOP."""

import dataclasses
from typing import Any

import pytest

from agentgym.models.tiny import tiny_model
from agentgym.trainers.loop import LOOPConfig, LOOPTrainer


def test_two_passes_on_what_differs_from_its_group(episodes: Any) -> None:
    outcomes = {"g": (1.0, 0.0), "h": (0.5, 0.5)}
    made = [
        dataclasses.replace(t, outcome=o, group_id=name)
        for name, group in outcomes.items()
        for t, o in zip(episodes(2), group, strict=True)
    ]
    trainer = LOOPTrainer(*tiny_model(0), LOOPConfig(batch_size=1, learning_rate=1e-3))
    metrics = trainer.update(made)
    assert metrics["rows"] == 2, "the group of equal scores is passed over"
    assert metrics["steps"] == 4, "two rows, one a step, twice"
    assert metrics["dead_group_share"] == 0.5
    assert metrics["policy_kl"] > 0
    assert metrics["score"] == pytest.approx(0.5)


def test_the_control_sees_the_same_scores_on_other_episodes(episodes: Any) -> None:
    outcomes = (1.0, 0.0, 0.0, 0.0)
    made = [
        dataclasses.replace(t, outcome=o, group_id="g")
        for t, o in zip(episodes(4), outcomes, strict=True)
    ]

    def advantages(**settings: Any) -> list[float]:
        trainer = LOOPTrainer(*tiny_model(0), LOOPConfig(**settings))
        return [float(a[0]) for a in trainer.advantages(made)]

    assert advantages() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    controls = [advantages(permute_scores=True, seed=seed) for seed in range(12)]
    assert all(sorted(c) == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 1]) for c in controls)
    assert len({c.index(max(c)) for c in controls}) > 1, "by chance, not by place"
    again = advantages(permute_scores=True, seed=3)
    assert again == controls[3], "the same after a resume"
