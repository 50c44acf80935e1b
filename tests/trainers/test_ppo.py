"""PPO: advantages by hand from a critic that is known, of turns and of tokens."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.trainers.ppo import PPOConfig, PPOTrainer
from agentgym.types import EndReason, Task, Trajectory, Turn

QUICK: dict[str, Any] = {"learning_rate": 3e-3, "critic_learning_rate": 3e-3, "batch_size": 8}


def make(**settings: Any) -> PPOTrainer:
    return PPOTrainer(*tiny_model(0), PPOConfig(**{**QUICK, **settings}))


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.fixture
def episode() -> Trajectory:
    """Two turns in one row and a third whose context was rewritten."""
    turns = (
        Turn("a", ids(3, 4), False, ids(40, 2), "x", reward=0.0),
        Turn("b", ids(5), True, ids(41, 2), "y", reward=1.0),
        Turn("c", ids(6, 7), False, ids(42, 2), "z", reward=2.0),
    )
    return Trajectory("e", Task("agentgym/x-v0", 1), turns, EndReason.SUCCESS, 1.0)


def valued(trainer: PPOTrainer, values: list[list[float]], episode: Trajectory) -> Any:
    """The columns of an episode if the critic says these values, row by row."""
    trainer.__dict__["_values"] = lambda rows: [torch.tensor(v) for v in values]
    trainer.start([episode])
    return trainer._columns


def test_turns(episode: Trajectory) -> None:
    trainer = make(discount=0.5, trace=1.0, whiten_advantages=False)
    columns = valued(trainer, [[0.1, 0.2], [0.3]], episode)
    # returns: 0 + .5 (1 + .5 * 2) = 1, 2, 2; minus the values
    first, second = columns["advantage"]
    assert first[:6].tolist() == pytest.approx([0, 0, 0.9, 0.9, 0, 1.8])
    assert second.tolist() == pytest.approx([0, 0, 1.7, 1.7])
    for row, column in zip(trainer._rows, columns["target"], strict=True):
        assert np.isnan(column[~row.mask]).all()
    targets = [c[~np.isnan(c)].tolist() for c in columns["target"]]
    assert targets == [pytest.approx([1.0, 2.0]), pytest.approx([2.0])]


def test_tokens(episode: Trajectory) -> None:
    trainer = make(level="token", discount=1.0, trace=0.0, whiten_advantages=False)
    columns = valued(trainer, [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6]], episode)
    # one-step errors; rewards stand at the last token of each turn
    flat = np.concatenate(
        [c[r.mask] for r, c in zip(trainer._rows, columns["advantage"], strict=True)]
    )
    assert flat.tolist() == pytest.approx([0.1, 0.1, 0.1, 1 + 0.1, 0.1, 2 - 0.6], abs=1e-6)


def test_the_outcome_as_the_reward(episode: Trajectory) -> None:
    trainer = make(score="outcome", trace=1.0, whiten_advantages=False, invalid_penalty=0.25)
    turns = (dataclasses.replace(episode.turns[0], parsed=False), *episode.turns[1:])
    columns = valued(trainer, [[0.0, 0.0], [0.0]], dataclasses.replace(episode, turns=turns))
    targets = np.concatenate([c[~np.isnan(c)] for c in columns["target"]])
    assert targets.tolist() == pytest.approx([0.75, 1.0, 1.0])


def test_only_a_cut_episode_is_bootstrapped(episode: Trajectory) -> None:
    last = dataclasses.replace(episode.turns[2], truncated=True)
    cut = dataclasses.replace(
        episode, turns=(*episode.turns[:2], last), end=EndReason.TURN_LIMIT, outcome=0.0
    )
    for given, wanted in ((episode, 2.0), (cut, 2.0 + 0.5)):
        trainer = make(trace=0.0, whiten_advantages=False)
        columns = valued(trainer, [[0.1, 0.2], [0.5]], given)
        assert columns["target"][1][2] == pytest.approx(wanted)


def test_a_cut_episode_is_bootstrapped_from_where_it_led(episode: Trajectory) -> None:
    """The value of the context that would have come next; the last known one stands in for it."""
    trainer = make(trace=0.0, whiten_advantages=False)
    cut = dataclasses.replace(episode, end=EndReason.TOKEN_LIMIT, outcome=0.0)
    trainer.start([cut])
    assert trainer.metrics()["guessed_bootstraps"] == 1
    led = dataclasses.replace(cut, final_prompt_ids=ids(6, 7, 42, 2, 9))
    trainer.start([led])
    assert trainer.metrics()["guessed_bootstraps"] == 0
    with torch.no_grad():
        state = trainer._read(trainer.critic, [ids(6, 7, 42, 2, 9)], [[4]])
        value = float(trainer.critic(state[0]))
    assert trainer._columns["target"][1][2] == pytest.approx(2.0 + value, abs=1e-5)


def test_whitened_over_all_units(episode: Trajectory) -> None:
    trainer = make()
    columns = valued(trainer, [[0.1, 0.2], [0.3]], episode)
    rows = zip(trainer._rows, columns["advantage"], strict=True)
    units = np.concatenate([c[trainer._firsts(r)] for r, c in rows])
    assert (units.mean(), units.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize("critic", ["separate", "policy"])
@pytest.mark.parametrize("level", ["turn", "token"])
def test_the_critic_comes_to_explain_the_returns(critic: Any, level: Any, episodes: Any) -> None:
    lessons = [
        dataclasses.replace(
            t, turns=tuple(dataclasses.replace(turn, reward=float(i % 2)) for turn in t.turns)
        )
        for i, t in enumerate(episodes(8))
    ]
    trainer = make(critic=critic, level=level, epochs=10, learning_rate=1e-6, value_clip=0.0)
    first = trainer.update(lessons)
    for _ in range(3):
        last = trainer.update(lessons)
    assert last["critic_loss"] < 0.7 * first["critic_loss"]
    assert last["explained_variance"] > first["explained_variance"]


def test_settings_are_checked() -> None:
    for settings in ({"trace": 1.5}, {"value_clip": -1.0}, {"drop_below": 0.1}):
        with pytest.raises(ConfigError):
            PPOConfig(**settings)  # type: ignore[arg-type]
