"""Tiny vision-language models: built without files, and what they see matters."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from agentgym.errors import ConfigError
from agentgym.models.tiny_vlm import TINY_VLMS, tiny_vlm

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", TINY_VLMS)
def test_it_is_tiny_and_sees(name: str) -> None:
    before = torch.get_rng_state()
    model, processor = tiny_vlm(name)
    assert torch.equal(before, torch.get_rng_state())
    assert 100_000 < sum(p.numel() for p in model.parameters()) < 200_000
    logits = []
    for pixels in (PIXELS, 255 - PIXELS):
        inputs = processor(
            images=[[Pillow.fromarray(pixels)]],
            text=[f"{processor.image_token} what?"],
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0, -1])
    assert logits[0].std() > 1
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", TINY_VLMS)
def test_the_seed_decides_the_weights(name: str) -> None:
    weights: list[Any] = [
        tiny_vlm(name, seed)[0].get_input_embeddings().weight for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="tiny-vlm-mrope"):
        tiny_vlm("huge-vlm")
