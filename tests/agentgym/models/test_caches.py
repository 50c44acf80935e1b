"""Caches under the name that this transformers has for them."""

import torch

from agentgym.models.caches import given, returned
from agentgym.models.tiny import tiny_model


def test_a_cache_goes_out_and_in() -> None:
    """Warnings are errors here: the name is the one that transformers wants."""
    model, _ = tiny_model(0)
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        cache = returned(model(input_ids=ids[:, :6], use_cache=True))
        rest = model(input_ids=ids[:, 6:], **given(cache)).logits
    torch.testing.assert_close(rest, whole[:, 6:], rtol=1e-4, atol=1e-4)
    assert returned(object()) is None
