"""New weights for a model in this process: all names and shapes are checked before any changes."""

from collections.abc import Mapping
from typing import Any

import torch

from agentgym.errors import InferenceError, UnknownNameError


def copy_weights(model: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Copy tensors into a model in place.

    Args:
        model: changed only if everything fits.
        state: names as in the model's `state_dict`; a subset is allowed. Other dtypes and devices
            are converted.

    Raises:
        InferenceError: a shape differs.
        UnknownNameError: a name is not the model's.
    """
    own = model.state_dict()
    for name, tensor in state.items():
        if name not in own:
            raise UnknownNameError("weight", name, own)
        if own[name].shape != tensor.shape:
            raise InferenceError(
                f"weight {name!r} has shape {tuple(tensor.shape)}, the model's has "
                f"{tuple(own[name].shape)}; load weights of the same architecture"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
