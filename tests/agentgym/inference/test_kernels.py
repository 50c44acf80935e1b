"""The kernels against plain torch; on an accelerator, or interpreted (TRITON_INTERPRET=1)."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
kernels: Any = pytest.importorskip("agentgym.inference.kernels")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
HEADS, PAGE = 2, 32


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def integers(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize(("group", "width"), [(1, 16), (3, 64), (4, 8), (5, 80), (20, 16)])
@pytest.mark.parametrize("news", [[1, 1, 1], [70, 1, 9], [33]])
def test_attention_over_pages(group: int, width: int, news: list[int]) -> None:
    pasts = [40, 5, 0][: len(news)]
    pages = [[3, 0, 7, 9], [5], [2]][: len(news)]
    memory = normal(2, 10, HEADS, PAGE, width)
    for row, past in enumerate(pasts):  # what is not written may be anything
        place = past + news[row]
        memory[:, pages[row][place // PAGE], :, place % PAGE :] = float("nan")
    queries = normal(sum(news), HEADS * group, width, seed=1)
    table = torch.zeros(len(news), 6, dtype=torch.int32, device=DEVICE)
    for row, own in enumerate(pages):
        table[row, : len(own)] = integers(own)
    step = kernels.tokens_in_block(group, many=max(news) > 1)
    blocks = [(row, first) for row, new in enumerate(news) for first in range(0, new, step)]
    starts = [sum(news[:row]) for row in range(len(news))]
    out = kernels.attention(
        queries,
        memory,
        table,
        (integers([b[0] for b in blocks]), integers([b[1] for b in blocks])),
        (integers(starts), integers(pasts), integers(news)),
        0.3,
    )
    for row, (start, past, new) in enumerate(zip(starts, pasts, news, strict=True)):
        keys, values = memory[:, pages[row]].transpose(1, 2).flatten(2, 3)[:, :, : past + new]
        visible = torch.ones(new, past + new, dtype=torch.bool, device=DEVICE).tril(past)
        expected = F.scaled_dot_product_attention(
            queries[start : start + new].transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=visible,
            scale=0.3,
            enable_gqa=True,
        )
        expected = expected[0].transpose(0, 1).reshape(new, -1)
        torch.testing.assert_close(out[start : start + new], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [16, 80])
def test_rotation_keeps_keys_and_values_in_their_places(width: int) -> None:
    heads = normal(3, 4 + 2 * HEADS, width)
    cos, sin = normal(3, width, seed=1), normal(3, width, seed=2)
    memory = torch.zeros(2, 4, HEADS, PAGE, width, device=DEVICE)
    slots = [5, 3 * PAGE + 31, PAGE]
    queries = kernels.rotate_and_keep(heads, cos, sin, memory, integers(slots))
    turned = torch.cat([-heads[..., width // 2 :], heads[..., : width // 2]], dim=-1)
    rotated = heads * cos[:, None] + turned * sin[:, None]
    torch.testing.assert_close(queries, rotated[:, :4])
    for token, slot in enumerate(slots):
        kept = memory[:, slot // PAGE, :, slot % PAGE]
        torch.testing.assert_close(kept[0], rotated[token, 4:6])
        torch.testing.assert_close(kept[1], heads[token, 6:])
        memory[:, slot // PAGE, :, slot % PAGE] = 0
    assert not memory.any()  # nothing else was touched


@pytest.mark.parametrize("size", [48, 576, 5000])
def test_norms_and_gates(size: int) -> None:
    x, weight = normal(5, size), normal(size, seed=1)
    torch.testing.assert_close(
        kernels.rms_norm(x, weight, 1e-5), F.rms_norm(x, (size,), weight, 1e-5)
    )
    both = normal(5, 2 * size, seed=2)
    left, right = both.chunk(2, dim=-1)
    torch.testing.assert_close(kernels.gate(both), F.silu(left) * right)
