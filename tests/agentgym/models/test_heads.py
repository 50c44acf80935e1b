"""Critics."""

import numpy as np
import pytest
import torch

from agentgym.models.heads import TurnCritic, Twin, ValueCritic, own_trunk, trunk, trunk_states
from agentgym.models.tiny import tiny_model

CPU = torch.device("cpu")


def test_twins_differ_and_have_their_shapes() -> None:
    torch.manual_seed(0)
    critic = TurnCritic(None, width=6, hidden=8)
    state, after = torch.randn(5, 6), torch.randn(5, 6)
    q, v = critic.q(state, after), critic.v(state)
    assert q.shape == v.shape == (2, 5)
    assert not torch.allclose(q[0], q[1])
    assert not torch.equal(critic.q(state, state), q), "Q reads the action"
    assert Twin(3, 4)(torch.zeros(1, 3)).shape == (2, 1)


def test_a_target_begins_equal_and_follows_slowly() -> None:
    critic = TurnCritic(None, width=4, hidden=4)
    target = critic.target()
    for own, theirs in zip(target.parameters(), critic.parameters(), strict=True):
        assert torch.equal(own, theirs)
        assert not own.requires_grad
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(1.0)
    target.follow(critic, 0.1)
    for own, theirs in zip(target.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(theirs - own, torch.full_like(own, 0.9))


@pytest.mark.parametrize("tokens", [8, 1000])
def test_states_are_those_of_each_text_alone(tokens: int) -> None:
    model, _ = tiny_model(0)
    texts = [np.array(t, np.int32) for t in ([5, 6, 7], [8], [9, 10, 11, 12, 13])]
    places = [[0, 2], [0], [1, 4, 4]]
    with torch.no_grad():
        found = trunk_states(trunk(model), texts, places, device=CPU, micro_batch_tokens=tokens)
        for states, text, wanted in zip(found, texts, places, strict=True):
            ids = torch.from_numpy(text).long()[None]
            alone = model(ids, output_hidden_states=True).hidden_states[-1][0]
            torch.testing.assert_close(states, alone[wanted], rtol=1e-4, atol=1e-4)


def test_a_shared_beginning_is_read_once_with_the_same_states_and_gradient() -> None:
    """Against the texts one by one, which share nothing."""
    model, _ = tiny_model(0)
    head = list(range(3, 60))
    texts = [np.array([*head, *tail], np.int32) for tail in ([70, 71], [72, 73, 74], [75])]
    places = [[55, 58], [56], [57]]
    gradients, seen = [], []
    for tokens in (1000, 1):
        model.zero_grad()
        widths: list[int] = []
        hook = trunk(model).register_forward_pre_hook(
            lambda _, __, kwargs, widths=widths: widths.append(kwargs["input_ids"].shape[1]),
            with_kwargs=True,
        )
        found = trunk_states(trunk(model), texts, places, device=CPU, micro_batch_tokens=tokens)
        hook.remove()
        torch.autograd.backward(torch.cat(found).square().sum())
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
        seen.append((torch.cat(found).detach(), widths))
    assert seen[0][1] == [55, 5], "the beginning once, up to the first place that is wanted"
    assert seen[1][1] == [60, 59, 58]
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=1e-4, atol=1e-4)
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * scale)


def test_a_text_that_another_begins_with_is_read_inside_it() -> None:
    model, _ = tiny_model(0)
    texts = [np.array(t, np.int32) for t in ([5, 6], [5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8], [5])]
    places = [[1], [0, 3], [2], [3, 1], [0]]
    read: list[int] = []
    hook = trunk(model).register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    with torch.no_grad():
        found = trunk_states(trunk(model), texts, places, device=CPU)
        hook.remove()
        assert read == [2], "[5, 6, 7, 8] and [5, 6, 9] hold all the others"
        for states, text, wanted in zip(found, texts, places, strict=True):
            (alone,) = trunk_states(trunk(model), [text], [wanted], device=CPU)
            torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-4)


def test_an_own_trunk_checkpoints_without_dropout() -> None:
    model, _ = tiny_model(0)
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    own = own_trunk(model)
    training = [m for m in own.modules() if m.training]
    assert training
    assert all(getattr(m, "gradient_checkpointing", False) for m in training)
    assert not any(isinstance(m, torch.nn.Dropout) for m in training)


def test_a_critic_reads_the_policy_without_gradient_unless_it_has_its_own() -> None:
    model, _ = tiny_model(0)
    text = [np.array([3, 4, 5], np.int32)]
    lent = ValueCritic.beside(model, own=False, seed=1)
    own = ValueCritic.beside(model, own=True, hidden=8, seed=1)
    assert not lent.read(model, text, [[2]])[0].requires_grad
    assert own.read(model, text, [[2]])[0].requires_grad
    assert {p.shape[0] for p in own.head[0].parameters()} == {8}
    again = ValueCritic.beside(model, own=False, seed=1)
    for ours, theirs in zip(again.parameters(), lent.parameters(), strict=True):
        assert torch.equal(ours, theirs), "its start is its seed's"
    assert set(dict(lent.named_parameters())) == {
        n for n in dict(own.named_parameters()) if n.startswith("head")
    }


def test_gradient_reaches_the_trunk() -> None:
    model, _ = tiny_model(0)
    texts = [np.array([3, 4], np.int32), np.array([5, 6], np.int32)]
    first, _ = trunk_states(trunk(model), texts, [[1], [1]], device=CPU)
    torch.autograd.backward(first.sum())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
