"""What policy-gradient methods share: advantages on the right tokens, and a loss that learns."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.errors import ConfigError
from agentgym.losses import action_logprobs
from agentgym.models.tiny import tiny_model
from agentgym.rows import collate
from agentgym.trainers.policy_gradient import PolicyGradientConfig, PolicyGradientTrainer
from agentgym.types import Source, Trajectory

QUICK: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 8, "micro_batch_tokens": 256}


def make(**settings: Any) -> PolicyGradientTrainer:
    return PolicyGradientTrainer(*tiny_model(0), PolicyGradientConfig(**{**QUICK, **settings}))


def group(episodes: Any, outcomes: list[float | None], name: str = "g", **kwargs: Any) -> Any:
    made = episodes(len(outcomes), **kwargs)
    return [
        dataclasses.replace(t, group_id=name, outcome=o, id=f"{name}{i}")
        for i, (t, o) in enumerate(zip(made, outcomes, strict=True))
    ]


def probabilities(trainer: PolicyGradientTrainer, lessons: list[Trajectory]) -> list[float]:
    """Mean log-probability of each episode's action tokens now."""
    rows = trainer._as_rows(lessons)
    batch = collate(rows)
    parts = [torch.from_numpy(a) for a in (batch.ids, batch.attention, batch.mask)]
    with torch.no_grad():
        flat = action_logprobs(trainer.model, parts[0].long(), parts[1], parts[2])
    return [float(p.mean()) for p in torch.split(flat, parts[2].sum(1).tolist())]


def test_what_was_better_becomes_likelier_and_what_was_worse_less_likely(episodes: Any) -> None:
    trainer = make()
    lessons = group(episodes, [1.0, 0.0, 1.0, 0.0])
    before = probabilities(trainer, lessons)
    metrics = trainer.update(lessons)
    after = probabilities(trainer, lessons)
    better = [b > a for a, b in zip(before, after, strict=True)]
    assert better == [True, False, True, False]
    assert metrics["groups"] == 1
    assert metrics["dead_group_share"] == 0
    assert metrics["advantage_mean"] == pytest.approx(0)
    assert metrics["score"] == 0.5


def test_an_advantage_lies_on_its_turns_tokens_and_nowhere_else(episodes: Any) -> None:
    class ByTurn(PolicyGradientTrainer):
        def advantages(self, trajectories: Any) -> Any:
            return [np.array([1.0, -2.0]) for _ in trajectories]

    trainer = ByTurn(*tiny_model(0), PolicyGradientConfig(**QUICK))
    trainer.start(group(episodes, [1.0, 0.0]))
    for row, column in zip(trainer._rows, trainer._columns["advantage"], strict=True):
        assert set(column[~row.mask]) == {0.0}
        for index, value in ((0, 1.0), (1, -2.0)):
            assert set(column[row.mask & (row.turn_index == index)]) == {value}


def test_equal_scores_teach_nothing_and_say_so(episodes: Any) -> None:
    trainer = make()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    lessons = group(episodes, [1.0, 1.0]) + group(episodes, [0.0, 0.0], "h")
    metrics = trainer.update(lessons)
    assert metrics["steps"] == 0
    assert metrics["dead_group_share"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_what_the_environment_broke_is_in_no_baseline(episodes: Any) -> None:
    trainer = make()
    trainer.start(group(episodes, [1.0, None, 0.0]))
    advantages = {
        float(c[r.mask][0])
        for r, c in zip(trainer._rows, trainer._columns["advantage"], strict=True)
    }
    assert advantages == {1.0, -1.0}  # against 0.5, the broken one as 0 would be in it
    assert trainer.metrics()["unscored"] == 1


def test_demonstrations_are_passed_over(episodes: Any) -> None:
    trainer = make()
    trainer.start(group(episodes, [1.0, 0.0], source=Source.EXPERT))
    assert trainer.done
    assert trainer.metrics()["trained_trajectories"] == 0


def test_scores(episodes: Any) -> None:
    (episode,) = group(episodes, [1.0])
    turns = [
        dataclasses.replace(t, reward=r) for t, r in zip(episode.turns, (1.0, 3.0), strict=True)
    ]
    turns[1] = dataclasses.replace(turns[1], parsed=False)
    episode = dataclasses.replace(episode, turns=tuple(turns))
    assert make(invalid_penalty=0.25).score_of(episode) == 0.75
    assert make(score="return", discount=0.5).score_of(episode) == 2.5


def test_small_advantages_become_context(episodes: Any) -> None:
    class ByTurn(PolicyGradientTrainer):
        def advantages(self, trajectories: Any) -> Any:
            return [np.array([1.0, 0.005]), np.array([0.0, 0.0])]

    trainer = ByTurn(*tiny_model(0), PolicyGradientConfig(**QUICK, drop_below=0.01))
    trainer.start(group(episodes, [1.0, 0.0]))
    (row,) = trainer._rows
    assert set(row.turn_index[row.mask]) == {0}
    assert (
        len(row) == len(trainer._columns["advantage"][0]) == int(np.flatnonzero(row.mask)[-1]) + 1
    )
    while not trainer.done:
        trainer.step()


def test_old_probabilities_as_sampled_or_computed_again(episodes: Any) -> None:
    lessons = group(episodes, [1.0, 0.0])
    told = [
        dataclasses.replace(
            t,
            turns=tuple(
                dataclasses.replace(turn, logprobs=np.full(2, -0.5, np.float32)) for turn in t.turns
            ),
        )
        for t in lessons
    ]
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    for old, given, sampled in (
        ("auto", told, True),
        ("auto", lessons, False),
        ("recomputed", told, False),
        ("sampled", told, True),
    ):
        trainer = make(**clip, old_logprobs=old)
        trainer.start(given)
        for row, column in zip(trainer._rows, trainer._columns["old"], strict=True):
            assert (set(column[row.mask]) == {-0.5}) is sampled
            assert not column[~row.mask].any()
    recomputed = make(**clip)
    recomputed.start(lessons)
    means = [
        float(c[r.mask].mean())
        for r, c in zip(recomputed._rows, recomputed._columns["old"], strict=True)
    ]
    assert means == pytest.approx(probabilities(recomputed, lessons), abs=1e-5)
    with pytest.raises(ConfigError, match="recomputed"):
        make(**clip, old_logprobs="sampled").start(lessons)


def test_clipping_and_moving_are_told(episodes: Any) -> None:
    trainer = make(clip_low=0.05, clip_high=0.05, epochs=6)
    metrics = trainer.update(group(episodes, [1.0, 0.0, 1.0, 0.0]))
    assert 0 < metrics["clip_share"] <= 1
    assert metrics["policy_kl"] > 0
    first = make(clip_low=0.05, clip_high=0.05)
    metrics = first.update(group(episodes, [1.0, 0.0, 1.0, 0.0]))
    assert metrics["clip_share"] == 0
    assert metrics["policy_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_is_where_training_began(lora_rank: int, episodes: Any) -> None:
    trainer = make(kl_coefficient=0.1, lora_rank=lora_rank, learning_rate=1e-2)
    lessons = group(episodes, [1.0, 0.0])
    began = probabilities(trainer, lessons)
    first = trainer.update(lessons)
    assert first["reference_kl"] == pytest.approx(0, abs=1e-6)
    now = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.start(lessons)
    assert all(torch.equal(a, b) for a, b in zip(now, trainer.model.parameters(), strict=True))
    columns = trainer._columns["reference"]
    means = [float(c[r.mask].mean()) for r, c in zip(trainer._rows, columns, strict=True)]
    assert means == pytest.approx(began, abs=1e-4)
    trainer.step()
    assert trainer.metrics()["reference_kl"] > 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_reference_takes_no_more_memory_than_its_weights(precision: str, episodes: Any) -> None:
    trainer: Any = make(kl_coefficient=0.1, precision=precision)
    lessons = group(episodes, [1.0, 0.0, 1.0, 0.0])
    trainer.start(lessons)
    first = {name: w.clone() for name, w in trainer._first.items()}
    assert {w.dtype for w in first.values()} == {p.dtype for p in trainer.model.parameters()}
    trainer.step()
    now = {name: p.detach().clone() for name, p in trainer.optimiser.parameters.items()}
    assert any(not torch.equal(w, now[name]) for name, w in first.items())
    trainer.start(lessons)  # scores by the reference, and goes back
    assert all(torch.equal(w, trainer._first[name]) for name, w in first.items())
    assert all(torch.equal(p, now[name]) for name, p in trainer.optimiser.parameters.items())


def test_the_reference_pulls_back(episodes: Any) -> None:
    lessons = group(episodes, [1.0, 0.0])
    moved = []
    for coefficient in (0.01, 100.0):
        trainer = make(kl_coefficient=coefficient, epochs=10)
        began = probabilities(trainer, lessons)
        trainer.update(lessons)
        after = probabilities(trainer, lessons)
        moved.append(max(abs(a - b) for a, b in zip(began, after, strict=True)))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("tokens", [64, 100_000])
def test_the_update_does_not_depend_on_micro_batches(tokens: int, episodes: Any) -> None:
    lessons = group(episodes, [1.0, 0.0, 0.0, 1.0])
    clip = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.1, "ratio": "turn"}
    whole, cut = make(**clip), make(**clip, micro_batch_tokens=tokens)
    whole.update(lessons)
    cut.update(lessons)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_settings_are_checked() -> None:
    for settings in (
        {"clip_low": 0.2},
        {"clip_low": 1.0, "clip_high": 0.2},
        {"discount": -0.1},
        {"kl_coefficient": -1.0},
        {"epochs": 0},
    ):
        with pytest.raises(ConfigError):
            PolicyGradientConfig(**settings)
    assert math.isnan(PolicyGradientConfig(singleton=math.nan).singleton)
