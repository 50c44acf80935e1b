"""Modules in evaluation mode for a while, and exactly as they were after."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def in_eval(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout, in a module that may be a trainer's."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
