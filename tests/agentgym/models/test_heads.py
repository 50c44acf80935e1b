"""Critics."""

import numpy as np
import pytest
import torch

from agentgym.models.heads import TurnCritic, Twin, trunk, trunk_states
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


def test_gradient_reaches_the_trunk() -> None:
    model, _ = tiny_model(0)
    texts = [np.array([3, 4], np.int32), np.array([5, 6], np.int32)]
    first, _ = trunk_states(trunk(model), texts, [[1], [1]], device=CPU)
    torch.autograd.backward(first.sum())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
