import pytest
import torch
from torch import nn

from agentgym.errors import InferenceError, UnknownNameError
from agentgym.inference.weights import copy_weights


def test_a_subset_is_copied_and_converted() -> None:
    model = nn.Linear(2, 2)
    bias = model.bias.clone()
    copy_weights(model, {"weight": torch.full((2, 2), 3, dtype=torch.bfloat16)})
    assert model.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert torch.equal(model.bias, bias)


def test_nothing_changes_unless_everything_fits() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(UnknownNameError, match="weight"):
        copy_weights(model, {"weight": torch.zeros(2, 2), "wieght": torch.zeros(2, 2)})
    with pytest.raises(InferenceError, match=r"\(3,\)"):
        copy_weights(model, {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)})
    assert torch.equal(model.weight, before)
