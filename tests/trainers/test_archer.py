"""ArCHer: the critic's targets by hand, and a policy that follows it."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentgym.core import SamplingParams
from agentgym.errors import ConfigError
from agentgym.models.tiny import tiny_model
from agentgym.replay import Transition
from agentgym.trainers.archer import ArcherConfig, ArcherTrainer
from agentgym.types import Completion, EndReason, Source, Task, Trajectory, Turn

QUICK: dict[str, Any] = {
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "batch_size": 8,
    "critic_steps": 3,
    "critic_batch": 8,
    "actor_steps": 1,
    "max_action_tokens": 2,
    "micro_batch_tokens": 512,
}


def make(**settings: Any) -> ArcherTrainer:
    return ArcherTrainer(*tiny_model(0), ArcherConfig(**{**QUICK, **settings}))


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def lessons(count: int = 8, **changes: Any) -> list[Trajectory]:
    made = []
    for i in range(count):
        turns = (
            Turn("s", ids(3, 4, 5), False, ids(40 + i % 2, 2), "a", reward=0.0),
            Turn("t", ids(6), True, ids(50, 2), "b", reward=float(i % 2)),
        )
        task = Task("agentgym/x-v0", i)
        made.append(
            dataclasses.replace(Trajectory(f"e{i}", task, turns, EndReason.SUCCESS, 1.0), **changes)
        )
    return made


def test_targets_are_each_heads_own() -> None:
    trainer = make(discount=0.95)

    class Fixed:
        def v(self, features: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[-3.0], [-4.0]]).expand(2, len(features))

    trainer.target = Fixed()
    trainer.__dict__["_read"] = lambda critic, texts, places: [torch.zeros(1, 4)] * len(texts)
    going = Transition(ids(3), ids(4), -1.0, ids(5))
    over = Transition(ids(3), ids(4), -1.0, None)
    found = trainer._backed_up([going, over])
    # each head -1 + 0.95 * its own -3 or -4, no minimum over heads; at the end -1 alone
    torch.testing.assert_close(found, torch.tensor([[-3.85, -1.0], [-4.8, -1.0]]))


def test_the_target_begins_synced_and_follows_once_an_update() -> None:
    trainer = make(target_rate=0.5, critic_steps=2, actor_steps=0)
    began = [p.clone() for p in trainer.target.parameters()]
    for own, theirs in zip(trainer.critic.parameters(), began, strict=True):
        assert torch.equal(own, theirs)
    trainer.start(lessons())
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(began, trainer.target.parameters(), strict=True))
    trainer.step()
    half = zip(began, trainer.critic.parameters(), trainer.target.parameters(), strict=True)
    for old, new, target in half:
        torch.testing.assert_close(target, (old + new.detach()) / 2, rtol=1e-5, atol=1e-6)


def test_summed_parts_weigh_in_both_losses() -> None:
    """The same batches, once as means and once as the sum of four parts' means."""
    norms = []
    for parts in (1, 4):
        trainer = make(summed_parts=parts, critic_steps=1, max_grad_norm=1e9)
        trainer.start(lessons())
        norms.append([trainer.step()["gradient_norm"] for _ in range(2)])
    (critic, actor), (summed_critic, summed_actor) = norms
    assert min(critic, actor) > 0
    assert summed_critic == pytest.approx(4 * critic, rel=1e-4)
    # AdamW made the same critic step of both, up to its epsilon
    assert summed_actor == pytest.approx(4 * actor, rel=0.02)
    with pytest.raises(ConfigError, match="summed_parts"):
        make(summed_parts=0)


@pytest.mark.parametrize("part", ["q", "v"])
@pytest.mark.parametrize("above", [True, False])
def test_each_head_moves_towards_what_it_aims_at(part: str, above: bool) -> None:
    """Far above raises both heads, far below lowers them; the other part aims where it is."""
    trainer = make(critic_steps=1, critic_batch=8, critic_learning_rate=1e-3)
    trainer.start(lessons())
    here = trainer._draw("critic", 0, 8)
    heads = slice(0, 2) if part == "q" else slice(2, 4)

    def said() -> torch.Tensor:
        with torch.no_grad():
            state, both = trainer._features_of(here)
            return torch.cat([trainer.critic.q(state, both), trainer.critic.v(state)])

    before = said()
    for place, own in zip(here, before.T.numpy(), strict=True):
        trainer._aims[place] = own.copy()
        trainer._aims[place][heads] += 5.0 if above else -5.0
    trainer.step()
    moved = (said() - before).mean(1)[heads]
    assert (moved > 0).tolist() == [above, above]


@pytest.mark.parametrize("critic", ["separate", "policy"])
def test_critic_steps_change_the_critic_alone_and_actor_steps_the_policy(critic: Any) -> None:
    trainer = make(critic=critic)
    policy = [p.detach().clone() for p in trainer.model.parameters()]
    heads = [p.detach().clone() for p in trainer.critic.parameters()]
    trainer.start(lessons())
    assert trainer.planned_steps == 4
    for _ in range(3):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(policy, trainer.model.parameters(), strict=True))
    now = [p.detach().clone() for p in trainer.critic.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(heads, now, strict=True))
    trainer.step()
    assert trainer.done
    assert all(torch.equal(a, b) for a, b in zip(now, trainer.critic.parameters(), strict=True))
    moved = zip(policy, trainer.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_the_policy_follows_the_critic() -> None:
    """A critic that likes one token: the policy writes it more often."""
    trainer = make(actor_steps=8, critic_steps=1, max_action_tokens=1, learning_rate=1e-2)
    liked = 77

    def features(critic: Any, states: Any, actions: Any) -> Any:
        likes = torch.tensor([[float(a[0] == liked)] for a in actions])
        return torch.zeros(len(states), 1), likes

    class Likes:
        encoder = None

        def q(self, state: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            return 10 * after[:, 0].expand(2, -1)

        def v(self, state: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2, len(state))

    def probability() -> float:
        with torch.no_grad():
            logits = trainer.model(torch.tensor([[3, 4, 5]])).logits[0, -1]
        return float(logits.softmax(-1)[liked])

    trainer.start(lessons())
    trainer.step()  # the critic's, as it is
    trainer.__dict__["_features"] = features
    trainer.critic = Likes()
    # Actions that contain the liked token, so that its advantage is seen at all.
    trainer.__dict__["_act"] = lambda states, keys: [ids(liked if i % 2 else 78) for i in range(8)]
    before = probability()
    while not trainer.done:
        trainer.step()
    assert probability() > 2 * before


def test_warm_up_is_the_critics_alone() -> None:
    trainer = make(warmup_updates=1)
    first, second = trainer.update(lessons()), trainer.update(lessons())
    assert (first["critic_steps"], first["steps"]) == (3, 0)
    assert (second["critic_steps"], second["steps"]) == (3, 1)


def test_what_is_left_out_is_counted() -> None:
    trainer = make()
    cut = lessons(2, end=EndReason.TURN_LIMIT, outcome=0.0)
    broken = lessons(1, end=EndReason.ENV_ERROR, outcome=None)
    shown = lessons(1, source=Source.EXPERT)
    trainer.start([*cut, *broken, *shown])
    metrics = trainer.metrics()
    assert metrics["buffer"] == 2
    assert metrics["dropped_turns"] == 2
    assert metrics["unscored"] == 1
    assert metrics["trained_trajectories"] == 2


def test_nothing_new_is_no_update_even_with_a_full_buffer() -> None:
    trainer = make()
    trainer.update(lessons())
    assert trainer.update([])["trained_trajectories"] == 0
    assert trainer.done
    resumed = make()
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.done
    assert len(resumed.replay) == len(trainer.replay) == 16


def test_settings_are_checked() -> None:
    for settings in (
        {"critic_steps": 0},
        {"target_rate": 0.0},
        {"clip_low": 0.2, "clip_high": 0.2},
        {"drop_below": 0.1},
        {"warmup_updates": -1},
    ):
        with pytest.raises(ConfigError):
            ArcherConfig(**settings)


class Counting:
    """A backend that counts what it is asked; states that begin with 9 have no answer."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generate(self, requests: Any) -> list[Completion]:
        self.asked += requests
        return [
            Completion("", None, error="no room")
            if r.prompt_ids[0] == 9
            else Completion("x", ids(50, 2))
            for r in requests
        ]


def test_every_transition_has_one_fresh_action_an_update() -> None:
    trainer, backend = make(critic_steps=20, actor_steps=2), Counting()
    sampling = SamplingParams(temperature=0.3, top_p=0.9, max_tokens=7, stop=("\n",))
    trainer.act_with(lambda: backend, sampling)  # type: ignore[arg-type, return-value]
    trainer.update(lessons(2))
    assert len(trainer.replay) == 4
    assert len(backend.asked) == 4 + 2 * 8, "not 20 steps of 8; the actor acts anew in each step"
    assert len({r.seed for r in backend.asked}) == len(backend.asked)
    for request in backend.asked:  # as the run samples, but from the policy's own distribution
        assert request.sampling == SamplingParams(max_tokens=2, stop=("\n",))
    assert replace(trainer.config, max_action_tokens=0).max_action_tokens == 0


def test_states_without_an_answer_teach_q_alone_and_are_counted() -> None:
    stuck = lessons(2, turns=(Turn("s", ids(9, 4), False, ids(40, 2), "a", reward=1.0),))
    trainer, backend = make(critic_steps=2), Counting()
    trainer.act_with(lambda: backend, SamplingParams())  # type: ignore[arg-type, return-value]
    heads = [p.detach().clone() for p in trainer.critic.v_heads.parameters()]
    metrics = trainer.update(stuck)
    assert metrics["unanswered"] == 2 + 8, "two transitions, and eight of an actor step"
    assert metrics["q"] != 0
    now = trainer.critic.v_heads.parameters()
    assert all(torch.equal(a, b) for a, b in zip(heads, now, strict=True)), "no aim, no gradient"
    assert metrics["steps"] == 0, "an actor step without actions changes nothing"


def test_a_baseline_of_tokens_takes_the_mean_off() -> None:
    """With a critic that says 3 everywhere the baseline comes to say 3, and nothing is left."""
    trainer = make(token_baseline=True, critic_steps=1, actor_steps=60, learning_rate=1e-7)
    trainer.__dict__["_advantages"] = lambda states, actions: [3.0] * len(states)
    trainer.start(lessons())
    first = trainer.baseline
    assert first is not None
    while not trainer.done:
        trainer.step()
    metrics = trainer.metrics()
    assert metrics["baseline_steps"] == 60
    assert metrics["advantage"] == pytest.approx(3.0), "the turn's advantage is reported"
    assert metrics["baseline_loss"] < 0.6 * 9.0
    trainer.start(lessons())
    trainer.step()
    trainer._make_rows()
    with torch.no_grad():
        states = trainer._read(first, [trainer._rows[0].ids], [[2]])
        found = first(states[0])
    assert float(found) == pytest.approx(3.0, abs=0.7)


def test_kl_pulls_back_to_the_beginning() -> None:
    """With no advantage at all the divergence is all that moves the policy."""
    moved = make(kl_coefficient=5.0, critic_steps=1, actor_steps=10, max_action_tokens=1)
    moved.__dict__["_advantages"] = lambda states, actions: [0.0] * len(states)
    with torch.no_grad():
        for weight in moved.model.parameters():
            weight.add_(
                0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            )
    trained = moved.update(lessons())
    assert trained["reference_kl"] > 0
    assert moved.update(lessons())["reference_kl"] < trained["reference_kl"]
