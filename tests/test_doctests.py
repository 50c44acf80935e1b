"""The examples in all docstrings run and print what they say."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import agentgym

# Triton comes with torch for GPUs only.
_BY_TRITON = {"agentgym.inference.kernels", "agentgym.inference.paged"}
_LEFT_OUT = set() if importlib.util.find_spec("triton") else _BY_TRITON
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(agentgym.__path__, "agentgym.")
    if not module.name.endswith("__main__") and module.name not in _LEFT_OUT
)


def test_the_families_are_walked() -> None:
    assert {"agentgym.registry", "agentgym.rewards.success"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
