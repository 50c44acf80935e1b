"""Matrix products of a frozen model: layers side by side, packed for the CPU, with adapters."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_PACKED = (torch.float32, torch.bfloat16)


class FusedLinear:
    """Linear layers of one input, side by side, as one matrix product.

    On a CPU the weights are reordered once into oneDNN's own layout; for few rows that is about
    twice as fast as a plain product, which reorders them at every call.

    LoRA adapters of `peft` stay beside the matrix, so that one copy of it serves with and without
    them: y = W x + s B (A x).
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Take a copy of the weights.

        Args:
            layers: `torch.nn.Linear`, or `peft`'s LoRA layers around them (see `can_fuse`).
        """
        self._layers = list(layers)
        self.adapted = any(_adapter(layer) for layer in layers)
        """True if a layer has an adapter."""
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self._down: torch.Tensor | None = None
        self._up: torch.Tensor | None = None
        self.refresh()

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What it computes with."""
        parts = (self._weight, self._bias, self._down, self._up)
        return [part for part in parts if part is not None]

    def refresh(self) -> None:
        """Copy the weights again, which have changed in place.

        Copies keep their place in memory where they can, as CUDA graphs know it.
        """
        plain: list[Any] = [getattr(layer, "base_layer", layer) for layer in self._layers]
        weight = torch.cat([layer.weight.detach() for layer in plain])
        biases = [layer.bias for layer in plain]
        if any(bias is not None for bias in biases):
            parts = zip(plain, biases, strict=True)
            bias = torch.cat(
                [
                    layer.weight.new_zeros(len(layer.weight)) if b is None else b
                    for layer, b in parts
                ]
            )
            self._bias = _put(self._bias, bias.detach())
        self._packed = can_pack(weight)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self._weight = _put(self._weight, weight)
        if self.adapted:
            self._refresh_adapters(weight)

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, *, adapted: bool = False
    ) -> torch.Tensor:
        """(T, out) of (T, in), plus `residual`; with the adapters if `adapted`.

        On a GPU the result may take the place of `residual`.
        """
        assert self._weight is not None
        out: torch.Tensor
        if self._packed and residual is not None:
            out = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self._weight, self._bias, "add"
            )
        elif self._packed:
            out = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        elif residual is not None and self._bias is None and x.is_cuda:
            out = residual.addmm_(x, self._weight.t())
        else:
            out = F.linear(x, self._weight, self._bias)
            if residual is not None:
                out += residual
        if adapted and self._down is not None and self._up is not None:
            out += F.linear(F.linear(x, self._down), self._up)
        return out

    def _refresh_adapters(self, weight: torch.Tensor) -> None:
        """One pair of matrices for all layers: A below each other, s B on a block diagonal."""
        downs, ups = [], []
        for layer in self._layers:
            plain: Any = getattr(layer, "base_layer", layer)
            rows = plain.weight.shape[0]
            if (found := _adapter(layer)) is None:
                ups.append(weight.new_zeros((rows, 0)))
                continue
            down, up, scaling = found
            downs.append(down.detach().to(weight.dtype))
            ups.append(up.detach().to(weight.dtype) * scaling)
        self._down = _put(self._down, torch.cat(downs))
        self._up = _put(self._up, torch.block_diag(*ups))  # type: ignore[no-untyped-call]


def _put(before: torch.Tensor | None, now: torch.Tensor) -> torch.Tensor:
    """New values, in the place of the old ones if they fit."""
    if before is None or (before.shape, before.dtype, before.device) != (
        now.shape,
        now.dtype,
        now.device,
    ):
        return now
    return before.copy_(now)


def can_pack(weight: torch.Tensor) -> bool:
    """True if oneDNN can keep this weight in a layout of its own."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in _PACKED
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def can_fuse(layer: nn.Module) -> bool:
    """True for a plain linear layer, and for one with a plain LoRA adapter."""
    if type(layer) is nn.Linear:
        return True
    untyped: Any = layer
    return (
        type(getattr(layer, "base_layer", None)) is nn.Linear
        and type(layer).__module__ == "peft.tuners.lora.layer"
        and not untyped.merged
        and not untyped.disable_adapters
        and len(untyped.active_adapters) == 1
        and not getattr(untyped, "lora_variant", {})
        and not any(getattr(untyped, "lora_bias", {}).values())
    )


def _adapter(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """(r, in), (out, r) and the scaling of a layer's active adapter; `None` if it has none."""
    untyped: Any = layer
    if not hasattr(layer, "lora_A"):
        return None
    name = untyped.active_adapters[0]
    if name not in untyped.lora_A:
        return None
    return (
        untyped.lora_A[name].weight,
        untyped.lora_B[name].weight,
        float(untyped.scaling[name]),
    )
