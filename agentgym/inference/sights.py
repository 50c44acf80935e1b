"""Texts with pictures, as decoders take them: content-named keys, features in their slots.

In memory a text with pictures is known by its keys: its ids, with a number of the picture's own in
each slot. Two texts share a prefix exactly if ids and pictures agree, so pictures need no further
care where prefixes are kept, compared or copied.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from agentgym.core import WeightsChoice
from agentgym.errors import ConfigError
from agentgym.images import encode_image
from agentgym.models.modes import in_eval
from agentgym.models.vision import Features, Picture, Vision, axis_positions, tower
from agentgym.types import Image, IntArray

_BUDGET = 256 << 20
"""Bytes of features that are kept."""
_NUMBERED = 1 << 16
"""Pictures whose numbers are known. One that comes back later gets a new number, which only means
that prefixes with its old one are not found."""


class Sight:
    """A text that shows pictures."""

    def __init__(
        self,
        sights: "Sights",
        keys: IntArray,
        pictures: Sequence[Picture],
        slots: IntArray,
        positions: torch.Tensor | None,
    ) -> None:
        self._sights = sights
        self.keys = keys
        """(L,) ids, with negative numbers of the pictures in their slots."""
        self.pictures = tuple(pictures)
        self.slots = slots
        """(S,) ascending."""
        ends = np.cumsum([len(picture.slots) for picture in pictures])
        self._bounds = [0, *ends.tolist()]
        self.positions = positions
        """(3, L) where pictures have axes of their own."""
        self.shift = 0 if positions is None else int(positions.max()) + 1 - len(keys)
        """What the positions of all that follows the text are off by."""

    def between(
        self, start: int, stop: int, weights: WeightsChoice = "policy"
    ) -> tuple[IntArray, Features | None]:
        """What to put in the place of embeddings in a stretch of the text.

        Returns:
            (n,) positions, and their features; `None` if there are none.
        """
        first, last = np.searchsorted(self.slots, (start, stop)).tolist()
        if first >= last:
            return self.slots[:0], None
        rows: list[torch.Tensor] = []
        deep: list[tuple[torch.Tensor, ...]] = []
        for index, picture in enumerate(self.pictures):
            begin, end = self._bounds[index : index + 2]
            part = slice(max(first, begin) - begin, min(last, end) - begin)
            if part.start < part.stop:
                features = self._sights.features(picture, weights)
                rows.append(features.rows[part])
                deep.append(tuple(layer[part] for layer in features.deep))
        layers = tuple(torch.cat(layer) for layer in zip(*deep, strict=True))
        return self.slots[first:last], Features(torch.cat(rows), layers)

    def axes(self, start: int, stop: int) -> torch.Tensor | None:
        """(3, stop - start) positions of a stretch, which may go beyond the text."""
        if self.positions is None:
            return None
        length = self.positions.shape[1]
        inside = self.positions[:, start : min(stop, length)]
        beyond = torch.arange(max(start, length), max(stop, length)) + self.shift
        return torch.cat([inside, beyond.expand(3, -1)], dim=1)


class Sights:
    """Pictures of one model: their numbers, and a bounded memory of features.

    Args:
        model: a transformers vision-language model without adapters around it.
        vision: its processor's side.
        plain: switches adapters off, for ``weights="base"``; `None` if there are none.
        budget: bytes of features that are kept.
        gradient: the vision tower is trained: features have a gradient, and are good until
            `forget`.
    """

    def __init__(
        self,
        model: Any,
        vision: Vision,
        *,
        plain: Callable[[], AbstractContextManager[Any]] | None = None,
        budget: int = _BUDGET,
        gradient: bool = False,
    ) -> None:
        self.model = model
        self.vision = vision
        self.runs = 0
        """How often the vision tower was run."""
        self._plain = plain
        self._gradient = gradient
        self._budget = budget
        self._size = 0
        self._features: OrderedDict[tuple[str, str], Features] = OrderedDict()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._given = 0
        self._lock = threading.Lock()

    def see(self, ids: IntArray, images: Sequence[Image]) -> Sight:
        """Prepare a text. May be called from any thread; does not run the model.

        Raises:
            ImageError: a picture cannot be read, or the text has no place for it.
        """
        ids = np.asarray(ids)
        pictures = [self.vision.read(image) for image in images]
        slots = self.vision.slots(ids, pictures)
        keys = ids.astype(np.int32)  # a copy
        numbers = [self._number(picture.sha256) for picture in pictures]
        keys[slots] = np.repeat(numbers, [len(picture.slots) for picture in pictures])
        positions = axis_positions(self.model, self.vision, ids, pictures, slots)
        return Sight(self, keys, pictures, slots, positions)

    def features(self, picture: Picture, weights: WeightsChoice = "policy") -> Features:
        """A picture's features by the weights of now; computed once. In the model's own thread."""
        key = (picture.sha256, weights if self._plain is not None else "policy")
        found = self._features.get(key)
        if found is not None:
            self._features.move_to_end(key)
            return found
        if self._gradient:
            (found,) = tower(self.model, [picture])
        else:
            off = weights == "base" and self._plain is not None
            with self._plain() if off and self._plain else contextlib.nullcontext():
                with in_eval(self.model), torch.no_grad():
                    (found,) = tower(self.model, [picture])
        self.runs += 1
        self._features[key] = found
        self._size += _size(found)
        while self._size > self._budget and len(self._features) > 1:
            _, oldest = self._features.popitem(last=False)
            self._size -= _size(oldest)
        return found

    def forget(self) -> None:
        """Drop all features: the weights have changed."""
        self._features.clear()
        self._size = 0

    def _number(self, sha256: str) -> int:
        """A picture's negative number, which no other picture ever had."""
        with self._lock:
            if sha256 in self._numbers:
                self._numbers.move_to_end(sha256)
            else:
                self._given += 1
                self._numbers[sha256] = -self._given
                if len(self._numbers) > _NUMBERED:
                    self._numbers.popitem(last=False)
            return self._numbers[sha256]


def _size(features: Features) -> int:
    return sum(part.numel() * part.element_size() for part in (features.rows, *features.deep))


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """What pictures change in a step of packed tokens."""

    where: torch.Tensor
    """(n,) tokens whose embeddings are replaced."""
    features: Features | None
    """(n, d) by what."""
    positions: torch.Tensor | None
    """(3, T) of all tokens, if any row has axes."""

    def onto(self, embedded: torch.Tensor) -> torch.Tensor:
        """(T, d) embeddings with the features in their places."""
        if self.features is None:
            return embedded
        rows = self.features.rows.to(embedded.dtype)
        return embedded.clone().index_copy_(0, self.where, rows)

    def deepen(self, hidden: torch.Tensor, layer: int) -> torch.Tensor:
        """(T, d) hidden states after a layer, with what pictures add there."""
        if self.features is None or layer >= len(self.features.deep):
            return hidden
        rows = self.features.deep[layer].to(hidden.dtype)
        return hidden.index_add(0, self.where, rows)


def overlay(
    rows: Sequence[tuple[Sight | None, int, int, WeightsChoice]], device: torch.device
) -> Overlay | None:
    """What the pictures of a step's rows change.

    Args:
        rows: for each its sight, the first new position and how many are new, in packed order.
        device: of the model.

    Returns:
        `None` if nothing changes: no slot is new and positions are a text's.
    """
    where: list[torch.Tensor] = []
    found: list[Features] = []
    axes = [sight.axes(past, past + new) if sight else None for sight, past, new, _ in rows]
    start = 0
    for sight, past, new, weights in rows:
        if sight is not None:
            places, features = sight.between(past, past + new, weights)
            if features is not None:
                where.append(torch.as_tensor(places, dtype=torch.long) + (start - past))
                found.append(features)
        start += new
    positions = None
    if any(part is not None for part in axes):
        parts = [
            torch.arange(past, past + new).expand(3, -1) if part is None else part
            for part, (_, past, new, _) in zip(axes, rows, strict=True)
        ]
        positions = torch.cat(parts, dim=1).to(device)
    if not found:
        nowhere = torch.zeros(0, dtype=torch.long, device=device)
        return None if positions is None else Overlay(nowhere, None, positions)
    deep = zip(*(features.deep for features in found), strict=True)
    merged = Features(
        torch.cat([features.rows for features in found]),
        tuple(torch.cat(layer) for layer in deep),
    )
    return Overlay(torch.cat(where).to(device), merged, positions)


Shown: TypeAlias = tuple[Sight | None, int, int, int]
"""A padded row: its pictures, the stretch of its text in the batch, and the columns of padding
before it."""


def embedded(tokens: torch.Tensor, shown: Sequence[Shown]) -> torch.Tensor:
    """(B, S, d) embeddings of padded rows with features in the slots of pictures."""
    tokens = tokens.clone()
    for row, (sight, start, stop, pad) in enumerate(shown):
        if sight is not None:
            places, features = sight.between(start, stop)
            if features is not None:
                if features.deep:
                    raise ConfigError("this model adds pictures to its hidden states too")
                columns = torch.as_tensor(places, dtype=torch.long, device=tokens.device)
                tokens[row, columns - start + pad] = features.rows.to(tokens.dtype)
    return tokens


def axes_of(
    places: torch.Tensor, shown: Sequence[Shown], positions: torch.Tensor | None
) -> torch.Tensor | None:
    """Positions of padded rows.

    Args:
        places: (B, S) positions of rows without axes.
        shown: the rows.
        positions: what to return if no row has axes.

    Returns:
        (3, B, S) if one has.
    """
    found = None
    for row, (sight, start, stop, pad) in enumerate(shown):
        axes = None if sight is None else sight.axes(start, stop)
        if axes is not None:
            found = places.expand(3, -1, -1).clone() if found is None else found
            found[:, row, pad : pad + stop - start] = axes.to(found.device)
    return positions if found is None else found


def whole_inputs(
    model: Any, ids: torch.Tensor, sights: Sequence[Sight | None]
) -> dict[str, torch.Tensor]:
    """What goes into a model for whole texts, padded on the right.

    Args:
        model: a causal language model, adapters allowed.
        ids: (B, L).
        sights: (B,) their pictures.

    Returns:
        ``input_ids``, or ``inputs_embeds`` and, where pictures have axes, ``position_ids``.

    Raises:
        ConfigError: the model adds pictures to its hidden states too.
    """
    if not any(sights):
        return {"input_ids": ids}
    shown: list[Shown] = [(s, 0, 0 if s is None else len(s.keys), 0) for s in sights]
    inputs = {"inputs_embeds": embedded(model.get_input_embeddings()(ids), shown)}
    places = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    positions = axes_of(places, shown, None)
    return inputs if positions is None else {**inputs, "position_ids": positions}


def check_embeddings(model: Any, sights: Sights) -> None:
    """Compare `whole_inputs` with a model's own forward pass on a text with a picture.

    Args:
        model: a vision-language model, adapters allowed.
        sights: of it.

    Raises:
        ConfigError: they differ: the model does more with pictures than put their features in the
            place of embeddings.
    """
    ids, image = example(sights.vision)
    with torch.no_grad(), in_eval(model):
        sight = sights.see(ids, (image,))
        inputs = sights.vision.whole([ids], [sight.pictures], model.device)
        expected = model(**inputs, use_cache=False).logits[0, -1].float()
        tokens = torch.as_tensor(ids[None], dtype=torch.long, device=model.device)
        found = model(**whole_inputs(model, tokens, [sight]), use_cache=False).logits[0, -1]
    if not close(found.float(), expected, model.dtype):
        raise ConfigError(
            f"{model.config.model_type!r} does more with pictures than put their features in the "
            "place of embeddings, and cannot be trained with pictures here"
        )


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """True if logits are equal up to rounding."""
    limit = 1e-3 if dtype == torch.float32 else 0.1
    return bool((found - expected).abs().max() <= limit * expected.abs().max().clamp_min(1.0))


def example(vision: Vision) -> tuple[IntArray, Image]:
    """A short text with a picture of noise: (L,) ids and the picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image = encode_image(pixels)
    ids = [5, 3, *vision.ids(image), 7, 11, 2]
    return np.array(ids, np.int32), image
