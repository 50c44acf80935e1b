from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from agentgym.inference import linear
from agentgym.inference.linear import FusedLinear, can_fuse


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)
        self.b = nn.Linear(6, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.a(x), self.b(x)], dim=-1)


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    how: dict[str, Any] = {"r": 2, "target_modules": ["a", "b"], "init_lora_weights": False}
    config = LoraConfig(**how | options)
    return get_peft_model(Two(), config)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_side_by_side(
    dtype: torch.dtype, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(linear, "can_pack", lambda weight: False)
    torch.manual_seed(0)
    two = Two().to(dtype)
    with torch.inference_mode():
        fused = FusedLinear([two.a, two.b])
        for rows in (1, 5, 70):
            x, residual = torch.randn(rows, 6, dtype=dtype), torch.randn(rows, 7, dtype=dtype)
            torch.testing.assert_close(fused(x), two(x))
            torch.testing.assert_close(fused(x, residual), two(x) + residual, atol=0.05, rtol=0.02)
        two.a.weight.mul_(2)
        fused.refresh()
        torch.testing.assert_close(fused(x), two(x))
    assert not fused.adapted


@pytest.mark.parametrize("targets", [["a", "b"], ["b"]])
def test_adapters_beside_the_matrix(targets: list[str]) -> None:
    model = adapted(target_modules=targets, lora_alpha=5)
    inner = model.get_base_model()
    x = torch.randn(5, 6)
    with torch.inference_mode():
        fused = FusedLinear([inner.a, inner.b])
        assert fused.adapted
        torch.testing.assert_close(fused(x, adapted=True), inner(x))
        with model.disable_adapter():
            torch.testing.assert_close(fused(x), inner(x))


def test_what_can_be_fused() -> None:
    assert can_fuse(nn.Linear(2, 2))
    assert not can_fuse(nn.LayerNorm(2))
    assert can_fuse(adapted().get_base_model().a)
    assert not can_fuse(adapted(use_dora=True).get_base_model().a)
    with_bias = adapted(target_modules=["a"], lora_bias=True)
    assert not can_fuse(with_bias.get_base_model().a)
    merged = adapted()
    merged.merge_adapter()
    assert not can_fuse(merged.get_base_model().a)
