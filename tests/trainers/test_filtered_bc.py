import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.rows import as_rows
from agentgym.trainers.filtered_bc import (
    EpisodePool,
    FilteredBCConfig,
    FilteredBCTrainer,
    best,
    capped,
    episode_key,
    unique,
)
from agentgym.types import Source, Task, Trajectory

QUICK = FilteredBCConfig(learning_rate=1e-3, batch_size=4)


def make(**settings: Any) -> FilteredBCTrainer:
    return FilteredBCTrainer(*tiny_model(0), dataclasses.replace(QUICK, **settings))


def scored(episodes: Any, *outcomes: float | None) -> list[Trajectory]:
    return [
        dataclasses.replace(t, outcome=outcome)
        for t, outcome in zip(episodes(len(outcomes)), outcomes, strict=True)
    ]


def outcomes(trajectories: list[Trajectory]) -> list[float | None]:
    return [t.outcome for t in trajectories]


def test_success_rule(episodes: Any) -> None:
    data = scored(episodes, 1.0, 0.9, None, 0.0, 1.0)
    assert outcomes(best(data, [], QUICK)) == [1.0, 1.0]


def test_quantile_rule_by_hand(episodes: Any) -> None:
    """Of 0, 0.25, 0.5, 0.75, 1 the 0.6 quantile is 0.25 * 0.6 * 4 = 0.6."""
    data = scored(episodes, 0.0, 0.25, None, 0.5, 0.75, 1.0)
    config = dataclasses.replace(QUICK, rule="quantile", quantile=0.6)
    history = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert outcomes(best(data, history, config)) == [0.75, 1.0]
    strict = dataclasses.replace(config, min_outcome=0.8)
    assert outcomes(best(data, history, strict)) == [1.0]
    # Better episodes seen earlier raise the bar.
    assert outcomes(best(data, [*history, *[1.0] * 5], config)) == [1.0]


def test_quantile_rule_does_not_keep_everything_when_successes_are_rare(episodes: Any) -> None:
    """5 % successes: the 0.9 quantile is 0, which every episode reaches."""
    values = [1.0] + [0.0] * 19
    config = dataclasses.replace(QUICK, rule="quantile", quantile=0.9)
    assert np.quantile(values, 0.9) == 0.0
    assert outcomes(best(scored(episodes, *values), values, config)) == [1.0]
    failures, successes = [0.0] * 4, [1.0] * 4
    assert best(scored(episodes, *failures), failures, config) == []
    assert len(best(scored(episodes, *successes), successes, config)) == 4
    assert best(scored(episodes, None), [], config) == []


def test_quantile_of_rewards(episodes: Any) -> None:
    data = []
    for number, trajectory in enumerate(episodes(4, outcome=0.0)):
        turns = tuple(dataclasses.replace(t, reward=float(number)) for t in trajectory.turns)
        data.append(dataclasses.replace(trajectory, turns=turns))
    config = dataclasses.replace(QUICK, rule="quantile", quantile=0.5, score="reward")
    kept = best(data, [t.reward for t in data], config)  # 0, 2, 4, 6: the median is 3
    assert [t.reward for t in kept] == [4.0, 6.0]


def test_equal_episodes_are_kept_once(episodes: Any) -> None:
    first, second = episodes(2)
    again = dataclasses.replace(first, id="again")
    elsewhere = dataclasses.replace(first, task=Task("agentgym/copy-v0", 77))
    assert [t.id for t in unique([first, second, again])] == [first.id, second.id]
    assert len(unique([first, elsewhere])) == 2, "another task"
    # Token boundaries count: [1, 2] then [3] is not [1] then [2, 3].
    turns = [
        dataclasses.replace(t, action_ids=np.array(a))
        for t, a in zip(first.turns, ([1, 2], [3]), strict=True)
    ]
    moved = [
        dataclasses.replace(t, action_ids=np.array(a))
        for t, a in zip(first.turns, ([1], [2, 3]), strict=True)
    ]
    keys = {episode_key(dataclasses.replace(first, turns=tuple(t))) for t in (turns, moved)}
    assert len(keys) == 2


def test_caps_keep_the_shortest(episodes: Any) -> None:
    task, other = Task("a", 1), Task("b", 1)
    lengths = (3, 1, 2, 1)
    mine = [
        dataclasses.replace(episodes(1, turns=n)[0], id=f"a{i}", task=task)
        for i, n in enumerate(lengths)
    ]
    theirs = [dataclasses.replace(episodes(1)[0], id="b", task=other)]

    def kept(**caps: Any) -> list[str]:
        return [t.id for t in capped([*mine, *theirs], dataclasses.replace(QUICK, **caps))]

    assert kept() == ["a0", "a1", "a2", "a3", "b"]
    assert kept(max_per_task=1) == ["a1", "b"]
    assert kept(max_per_task=3) == ["a1", "a2", "a3", "b"]
    assert kept(max_per_env=2) == ["a1", "a3", "b"]
    assert kept(max_per_task=3, max_per_env=2) == ["a1", "a3", "b"]


def test_pool_forgets_the_oldest_and_comes_back(episodes: Any) -> None:
    pool = EpisodePool(2)
    for number, trajectory in enumerate(episodes(3)):
        pool.add(str(number), as_rows([trajectory]))
    pool.add("2", [])
    assert pool.state_dict()["keys"] == ["1", "2"]
    again = EpisodePool(2)
    again.load_state_dict(pool.state_dict())
    assert [[r.ids.tolist() for r in rows] for rows in again.all()] == [
        [r.ids.tolist() for r in rows] for rows in pool.all()
    ]
    rng = np.random.default_rng(0)
    assert len(pool.sample(5, rng)) == 2
    assert EpisodePool(2).sample(3, rng) == []


def test_an_update_trains_on_what_passes(episodes: Any) -> None:
    good, bad = episodes(3), episodes(4, seed=1, outcome=0.0)
    broken, twin = episodes(1, seed=2, outcome=None), dataclasses.replace(good[0], id="twin")
    trainer = make()
    metrics = trainer.update([*bad, *good, *broken, twin])
    expected = {
        "trajectories": 9, "unscored": 1, "successes": 4, "passed": 4, "duplicates": 1,
        "over_cap": 0, "trained_trajectories": 3, "replayed": 0, "pool": 3, "rows": 3, "steps": 1,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == expected
    # It is the very update that cloning the three makes.
    alone = make()
    alone.update(good)
    for ours, theirs in zip(trainer.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_deduplication_every_success_counts(episodes: Any) -> None:
    (good,) = episodes(1)
    twins = [good, dataclasses.replace(good, id="twin")]
    assert make(deduplicate=False).update(twins)["rows"] == 2
    assert make().update(twins)["rows"] == 1


def test_earlier_episodes_and_demonstrations_are_mixed_in(episodes: Any) -> None:
    """4 new ones are half of 8; a quarter each, 2, is replayed and demonstrated."""
    trainer = make(replay_share=0.25, demonstration_share=0.25)
    shown = episodes(6, seed=9, source=Source.EXPERT)
    first = trainer.update([*episodes(4), *shown])
    assert (first["trajectories"], first["replayed"], first["demonstrated"]) == (4, 0, 2)
    assert first["rows"] == 6
    second = trainer.update(episodes(4, seed=1))
    assert (second["replayed"], second["demonstrated"], second["rows"]) == (2, 2, 8)
    assert second["pool"] == 8
    assert len({row.trajectory for row in trainer._rows}) == 8


def test_demonstrations_alone_are_remembered_and_not_trained_on(episodes: Any) -> None:
    trainer = make(demonstration_share=0.5)
    bad = episodes(2, seed=5, source=Source.EXPERT, outcome=None)
    metrics = trainer.update([*episodes(3, source=Source.EXPERT), *bad])
    assert (metrics["steps"], metrics["rows"]) == (0.0, 0.0)
    assert len(trainer.demonstrations) == 3, "unscored ones are not"
    assert trainer.update(episodes(3, seed=1))["demonstrated"] == 3


def test_without_new_successes_there_is_no_update(episodes: Any) -> None:
    trainer = make(replay_share=0.5)
    trainer.update(episodes(4))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert trainer.update(episodes(4, seed=1, outcome=0.0))["steps"] == 0.0
    after = trainer.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_restart_from_base_trains_on_all_that_was_kept(episodes: Any) -> None:
    trainer = make(restart="base", warmup_steps=2)
    trainer.update(episodes(4))
    metrics = trainer.update(episodes(2, seed=1))
    assert (metrics["trained_trajectories"], metrics["replayed"], metrics["rows"]) == (2, 4, 6)
    # Another trainer that begins its second update at the base, too, with other first episodes.
    fresh = make(restart="base", warmup_steps=2)
    base = {name: tensor.clone() for name, tensor in fresh.optimiser.weights().items()}
    fresh.update(episodes(4))
    fresh.start(episodes(2, seed=1))
    fresh.optimiser.set_weights(base)
    rate = fresh.step()["learning_rate"]
    assert rate == pytest.approx(0.5e-3), "the warm-up begins anew"
    while not fresh.done:
        fresh.step()
    for ours, theirs in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_base_is_kept_across_a_resume(episodes: Any) -> None:
    """Even if the resumed trainer was made on other weights."""
    straight = make(restart="base")
    straight.update(episodes(4))
    other = FilteredBCTrainer(*tiny_model(1), dataclasses.replace(QUICK, restart="base"))
    other.load_state_dict(straight.state_dict())
    for trainer in (straight, other):
        trainer.update(episodes(4, seed=1))
    for ours, theirs in zip(straight.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantile": 1.5}, "quantile must be in"),
        ({"replay_share": 0.5, "demonstration_share": 0.5}, "sum below 1"),
        ({"max_per_task": -1}, "must not be negative"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FilteredBCConfig(**settings)
