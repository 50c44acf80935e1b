"""ReMax."""

import dataclasses
from typing import Any

import pytest

from agentgym.models.tiny import tiny_model
from agentgym.trainers.remax import ReMaxTrainer


def test_scores_are_compared_with_the_greedy_episodes(episodes: Any) -> None:
    sampled = [
        dataclasses.replace(t, outcome=o) for t, o in zip(episodes(4), (1, 0, 1, 1), strict=True)
    ]
    greedy = [
        dataclasses.replace(t, outcome=o, metadata={"greedy": True})
        for t, o in zip(episodes(3), (0.0, 1.0, None), strict=True)
    ]
    trainer = ReMaxTrainer(*tiny_model(0))
    trainer.start([*sampled, *greedy])
    columns = zip(trainer._rows, trainer._columns["advantage"], strict=True)
    assert [float(column[row.mask][0]) for row, column in columns] == [1.0, -1.0]
    metrics = trainer.metrics()
    assert metrics["without_baseline"] == 2, "its greedy episode broke, or there is none"
    assert metrics["trained_trajectories"] == 2
    assert metrics["score"] == pytest.approx(0.5)
