"""Modules in evaluation mode for a while."""

import pytest
from torch import nn

from agentgym.models.modes import in_eval


def test_every_part_is_put_back_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    model[1].train(False)
    before = [module.training for module in model.modules()]
    assert True in before
    assert False in before

    def fail() -> None:
        with in_eval(model):
            assert not any(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in model.modules()] == before
