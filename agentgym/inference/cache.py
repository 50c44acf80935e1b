"""Rows of a batch that share a prefix, grow in place and leave when they are done."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from agentgym.inference.sights import Shown, Sight, axes_of, embedded
from agentgym.models.caches import given, returned
from agentgym.models.vision import Vision
from agentgym.types import IntArray

_GROWTH = 128
"""Tokens of room that a full buffer gains."""
_SHORTEST_PREFIX = 8
"""Common prefixes below this many tokens are not worth a forward pass of their own."""

# Decoders with rotary positions, causal masks and a plain output layer, for which a mask and
# position ids describe padding completely. Each is compared with unpadded rows in the tests.
_PADDABLE = frozenset(
    {
        "gemma",
        "llama",
        "mistral",
        "olmo2",
        "qwen2",
        "qwen3",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
# The same inside of vision-language models.
_PADDABLE_INSIDE = frozenset({"qwen2_5_vl_text", "qwen2_vl_text"})
# Vision-language models that put features in the place of embeddings and do no more with pictures.
_EMBEDDING = frozenset({"idefics3", "llava", "qwen2_5_vl", "qwen2_vl", "smolvlm"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


class RowLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its base is half typed
    """Keys and values of one layer in buffers with room to grow.

    `DynamicLayer` copies everything at each token; this copies the new token only.
    """

    is_croppable = False
    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = 0
        self._keys = torch.empty(0)
        self._values = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, S, D) keys and values; returns all so far, as views."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._allocate(key_states, value_states, max(self.room, end))
        elif end > self._keys.shape[2]:
            old_keys, old_values = self.keys, self.values
            self._allocate(old_keys, old_values, max(self.room, end + _GROWTH))
            self._keys[:, :, :start] = old_keys
            self._values[:, :, :start] = old_values
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def expand(self, rows: int) -> None:
        """Give every one of `rows` rows a copy of the only row's keys and values."""
        keys, values, length = self.keys, self.values, self.get_seq_length()
        self._allocate(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), self.room)
        self._keys[:, :, :length] = keys
        self._values[:, :, :length] = values
        self._show(length)

    def move(self, sources: torch.Tensor, targets: torch.Tensor, rows: int) -> None:
        """Copy rows `sources` over rows `targets`, then drop all rows from `rows` on."""
        if len(sources):
            self.keys[targets] = self.keys[sources]
            self.values[targets] = self.values[sources]
        length = self.get_seq_length()
        self._keys, self._values = self._keys[:rows], self._values[:rows]
        self._show(length)

    def _allocate(self, keys: torch.Tensor, values: torch.Tensor, room: int) -> None:
        rows, heads, _, width = keys.shape
        self._keys = keys.new_empty((rows, heads, room, width))
        self._values = values.new_empty((*values.shape[:2], room, values.shape[3]))

    def _show(self, length: int) -> None:
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]


class Rows(ABC):
    """A batch of growing sequences in a model: first `prefill`, then `step` after `step`."""

    @abstractmethod
    def prefill(
        self, prompts: Sequence[IntArray], new_tokens: int, sights: Sequence[Sight | None] = ()
    ) -> torch.Tensor:
        """Read the prompts.

        Args:
            prompts: (B,) arrays of ids.
            new_tokens: how many steps will follow at most.
            sights: (B,) the prompts' pictures; empty if there are none.

        Returns:
            (B, V) logits of the next token.
        """

    @abstractmethod
    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append one token, (B,), to each row; returns (B, V) logits of the next."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these.

        Args:
            rows: indices to keep, ascending.

        Returns:
            For each remaining row, the index it had before.
        """


class PaddedRows(Rows):
    """Rows of any lengths: a common prefix read once, the rest padded on the left.

    Columns of the cache are ``prefix | padding and own prompt | new tokens``. A row's padding is
    masked and takes no position, so a row sees what it would see alone.
    """

    def __init__(self, model: PreTrainedModel, *, share_prefix: bool = True) -> None:
        untyped: Any = model
        self._decoder: Any = untyped.get_decoder()
        self._head: Any = untyped.get_output_embeddings()
        self._embed: Any = untyped.get_input_embeddings()
        self._additive = self._decoder.config._attn_implementation == "eager"
        self._dtype = model.dtype
        self._device = model.device
        self._share_prefix = share_prefix
        self._cache: Any = Cache(layer_class_to_replicate=RowLayer)
        self._visible = torch.empty(0)  # (B, 1, 1, columns) bool; unused if nothing is padded
        self._padded = False
        self._positions = torch.empty(0)  # (B, 1) of the last token
        self._columns = 0

    def prefill(
        self, prompts: Sequence[IntArray], new_tokens: int, sights: Sequence[Sight | None] = ()
    ) -> torch.Tensor:
        """Read the prompts; see `Rows.prefill`."""
        sights = sights or [None] * len(prompts)
        keys = [p if s is None else s.keys for p, s in zip(prompts, sights, strict=True)]
        prefix = common_prefix(keys) if self._share_prefix else 0
        longest = max(len(prompt) for prompt in prompts)
        room = longest + min(new_tokens, _GROWTH)
        self._cache.layers.extend(RowLayer() for _ in self._decoder.layers)
        for layer in self._cache.layers:
            layer.room = room
        if prefix:
            first = torch.as_tensor(prompts[0][None, :prefix], dtype=torch.long)
            places = torch.arange(prefix)[None]
            self._run(first, None, None, [(sights[0], 0, prefix, 0)], places)
            for layer in self._cache.layers:
                layer.expand(len(prompts))
        own = longest - prefix
        pads = torch.tensor([longest - len(prompt) for prompt in prompts])
        ids = torch.zeros((len(prompts), own), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, int(pads[row]) :] = torch.as_tensor(prompt[prefix:], dtype=torch.long)
        column = torch.arange(own)
        real = column >= pads[:, None]  # (B, own)
        self._padded = bool(pads.any())
        self._columns = longest
        self._visible = torch.ones((len(prompts), 1, 1, longest + new_tokens), dtype=torch.bool)
        self._visible[:, 0, 0, prefix:longest] = real
        mask = None
        if prefix or self._padded:
            # Padding sees itself, else its softmax is over nothing and NaN spreads.
            causal = (column <= column[:, None]) & real[:, None] | torch.eye(own, dtype=torch.bool)
            shared = torch.ones((len(prompts), own, prefix), dtype=torch.bool)
            mask = torch.cat([shared, causal], dim=-1)[:, None]
        positions = (prefix + column - pads[:, None]).clamp_min(prefix)
        shown: list[Shown] = [
            (sight, prefix, len(prompt), int(pad))
            for sight, prompt, pad in zip(sights, prompts, pads, strict=True)
        ]
        self._visible = self._visible.to(self._device)
        shifts = torch.tensor([[0 if sight is None else sight.shift] for sight in sights])
        self._positions = (positions[:, -1:] + shifts).to(self._device)
        return self._logits(self._run(ids, mask, positions, shown, positions))

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append one token to each row; see `Rows.step`."""
        self._columns += 1
        self._positions = self._positions + 1
        mask = self._visible[..., : self._columns] if self._padded else None
        return self._logits(self._run(token_ids[:, None], mask, self._positions))

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; see `Rows.keep`. The last rows fill the gaps."""
        count, kept = len(rows), set(rows)
        order = list(range(count))
        gaps = [row for row in range(count) if row not in kept]
        for gap, source in zip(gaps, (row for row in rows if row >= count), strict=True):
            order[gap] = source
        targets = torch.tensor(gaps, dtype=torch.long, device=self._device)
        index = torch.tensor(order, dtype=torch.long, device=self._device)
        for layer in self._cache.layers:
            layer.move(index[targets], targets, count)
        self._visible = self._visible[index]
        self._positions = self._positions[index]
        return order

    def _run(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        shown: Sequence[Shown] = (),
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states (B, S, D) of new tokens.

        Args:
            ids: (B, S).
            mask: (B, 1, S, columns) bool.
            positions: (B, S).
            shown: the rows' pictures.
            places: (B, S) positions in the texts, to begin axes with.
        """
        if mask is not None:
            mask = mask.to(self._device)
            if self._additive:
                lowest = torch.finfo(self._dtype).min
                mask = torch.where(mask, 0.0, lowest).to(self._dtype)
        ids = ids.to(self._device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if any(sight is not None for sight, *_ in shown):
            inputs = {"inputs_embeds": embedded(self._embed(ids), shown)}
            assert places is not None
            positions = axes_of(places, shown, positions)
        hidden: torch.Tensor = self._decoder(
            **inputs,
            attention_mask=mask,
            position_ids=None if positions is None else positions.to(self._device),
            **given(self._cache),
        ).last_hidden_state
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden[:, -1])
        return logits


class EqualRows(Rows):
    """Rows of one length in any causal model, through nothing but its own forward and cache.

    Args:
        model: any.
        vision: for prompts with pictures, all of whose placeholder tokens must be places of
            pictures here.
    """

    def __init__(self, model: PreTrainedModel, vision: Vision | None = None) -> None:
        self._model: Any = model
        self._vision = vision
        self._cache: Any = DynamicCache(config=model.config)
        if hasattr(getattr(model, "model", None), "rope_deltas"):
            self._model.model.rope_deltas = None  # of another prompt

    def prefill(
        self, prompts: Sequence[IntArray], new_tokens: int, sights: Sequence[Sight | None] = ()
    ) -> torch.Tensor:
        """Read the prompts, all of one length; see `Rows.prefill`."""
        if self._vision is not None and any(sights):
            pictures = [() if sight is None else sight.pictures for sight in sights]
            return self._forward(**self._vision.whole(prompts, pictures, self._model.device))
        ids = [torch.as_tensor(prompt, dtype=torch.long) for prompt in prompts]
        return self._run(torch.stack(ids))

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append one token to each row; see `Rows.step`."""
        return self._run(token_ids[:, None])

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; see `Rows.keep`."""
        self._cache.batch_select_indices(torch.tensor(rows, device=self._model.device))
        return list(rows)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        return self._forward(input_ids=ids.to(self._model.device))

    def _forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        out = self._model(**inputs, **given(self._cache))
        self._cache = returned(out)
        logits: torch.Tensor = out.logits[:, -1]
        return logits


def can_pad(model: PreTrainedModel) -> bool:
    """True if `PaddedRows` is exact for this model; `EqualRows` is exact for every one."""
    whole: Any = model.config
    config: Any = whole.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in _PADDABLE | _PADDABLE_INSIDE
        and (config is whole or whole.model_type in _EMBEDDING)
        and config._attn_implementation in ("sdpa", "eager")
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and rope.get("rope_type", "default") in _STATIC_ROPE
    )


def common_prefix(prompts: Sequence[IntArray]) -> int:
    """Tokens that all prompts begin with, short of the last token of the shortest; 0 if few."""
    if len(prompts) < 2:
        return 0
    length = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        differs = (prompts[0][:length] != prompt[:length]).nonzero()[0]
        if len(differs):
            length = int(differs[0])
    return length if length >= _SHORTEST_PREFIX else 0
