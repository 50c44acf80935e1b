"""Pictures as a vision-language model reads them: placeholders, features and their positions.

A prompt holds, for each picture, the placeholder ids that the model's own processor writes, and a
picture's features take the place of those ids' embeddings. Which places these are is never guessed
from the ids alone: a picture's whole run of placeholders is looked for, so that a placeholder
token that a model happens to sample stays a plain token.
"""

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from agentgym.errors import ConfigError, ImageError
from agentgym.images import decode_image
from agentgym.types import Image, IntArray

_KNOWN = 4096
"""Pictures whose placeholders are remembered, with their files."""
_BUDGET = 256 << 20
"""Bytes of pixels that are kept for the vision tower: one picture in tiles can be 50 MB."""
_MARKS = frozenset({"mm_token_type_ids", "token_type_ids"})
_TEXT_INPUTS = frozenset({"input_ids", "attention_mask", *_MARKS})


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture, prepared."""

    sha256: str
    """Of the PNG file: its identity."""
    ids: IntArray
    """(K,) token ids that stand for it in a prompt, tags of tiles and the like included."""
    slots: IntArray
    """(S,) which of `ids` its features replace."""
    grid: torch.Tensor | None
    """(1, 3) patches in time, height and width, where the model's positions depend on them."""
    marks: tuple[str, ...]
    """Names of inputs of the model's own forward pass that mark the slots."""
    image: Image
    """The file."""
    vision: "Vision"
    """Whose it is."""

    def inputs(self) -> Mapping[str, torch.Tensor]:
        """What the model's ``get_image_features`` takes."""
        return self.vision.pixels(self.image)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a vision tower makes of one picture."""

    rows: torch.Tensor
    """(S, d) in the place of the slots' embeddings."""
    deep: tuple[torch.Tensor, ...] = ()
    """(S, d) each: added to the hidden states after the first layers, in models that do so."""


class Vision:
    """The processor's side of a vision-language model. Safe to use from several threads.

    Args:
        processor: a transformers processor with an image processor, a tokenizer and an image token.

    Raises:
        ConfigError: it has none of these.
    """

    def __init__(self, processor: Any) -> None:
        token = getattr(processor, "image_token", None)
        if not isinstance(token, str) or not hasattr(processor, "image_processor"):
            raise ConfigError(
                f"{type(processor).__name__} has no image processor or no image token; pictures "
                "need a processor as of Idefics3, SmolVLM, Qwen2-VL, Qwen2.5-VL or LLaVA"
            )
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer
        self.image_token = token
        self.image_token_id = int(self.tokenizer.convert_tokens_to_ids(token))
        self._tiles = hasattr(processor, "fake_image_token")  # Idefics3 and its kin
        self._known: OrderedDict[str, Picture] = OrderedDict()
        self._pixels: OrderedDict[str, Mapping[str, torch.Tensor]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # Tokenizers are not safe to share between threads, so pictures are read with a copy.
        self._reader = copy.copy(processor)
        self._reader.tokenizer = copy.deepcopy(processor.tokenizer)
        self._reading = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Vision":
        return self  # it holds a lock, and threads may share it

    @property
    def chat_template(self) -> Any:
        """The processor's, else its tokenizer's."""
        own = getattr(self.processor, "chat_template", None)
        return own or getattr(self.tokenizer, "chat_template", None)

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        """Messages, whose contents are lists of parts, as text."""
        text = self.tokenizer.apply_chat_template(
            conversation, chat_template=self.chat_template, **kwargs
        )
        return str(text)

    def ids(self, image: Image) -> list[int]:
        """Token ids that stand for a picture in a prompt.

        Raises:
            ImageError: see `read`.
        """
        return [int(token) for token in self.read(image).ids]

    def read(self, image: Image) -> Picture:
        """A picture, prepared by the model's own processor.

        Raises:
            ImageError: it comes without its bytes, is no picture, or the processor refuses it.
        """
        with self._lock:
            found = self._known.get(image.sha256)
            if found is not None:
                self._known.move_to_end(image.sha256)
                return found
        out = self._processed(image)
        ids = out["input_ids"][0].numpy().astype(np.int32)
        slots = np.flatnonzero(ids == self.image_token_id).astype(np.int32)
        marks = tuple(name for name in out if name in _MARKS)
        picture = Picture(image.sha256, ids, slots, out.get("image_grid_thw"), marks, image, self)
        with self._lock:
            self._known[image.sha256] = picture
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return picture

    def pixels(self, image: Image) -> Mapping[str, torch.Tensor]:
        """A picture's inputs of the vision tower; made again if they are no longer kept.

        Raises:
            ImageError: see `read`.
        """
        with self._lock:
            if image.sha256 in self._pixels:
                self._pixels.move_to_end(image.sha256)
                return self._pixels[image.sha256]
        out = self._processed(image)
        return {name: value for name, value in out.items() if name not in _TEXT_INPUTS}

    def _processed(self, image: Image) -> Mapping[str, torch.Tensor]:
        """What the processor makes of a picture, whose pixels are kept."""
        from PIL import Image as Pillow

        if image.data is None:
            raise ImageError(f"picture {image.sha256!r} comes without its bytes; load them first")
        pixels = decode_image(image.data)
        try:
            with self._reading:
                out: dict[str, torch.Tensor] = self._reader(
                    images=[[Pillow.fromarray(pixels)]],
                    text=[self.image_token],
                    add_special_tokens=False,
                    return_tensors="pt",
                )
        except Exception as error:  # processors raise what they like
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ImageError(
                f"the model's processor refuses a picture of {pixels.shape[1]} x "
                f"{pixels.shape[0]} pixels: {reason:.200}"
            ) from error
        inputs = {name: value for name, value in out.items() if name not in _TEXT_INPUTS}
        with self._lock:
            if image.sha256 not in self._pixels:
                self._pixels[image.sha256] = inputs
                self._size += _size(inputs)
            while self._size > _BUDGET and len(self._pixels) > 1:
                self._size -= _size(self._pixels.popitem(last=False)[1])
        return out

    def locate(self, ids: IntArray, pictures: Sequence[Picture]) -> list[int]:
        """Where the placeholders of pictures begin in a prompt, in order.

        Raises:
            ImageError: the prompt does not hold the placeholders of each, in this order.
        """
        ids = np.asarray(ids)
        starts: list[int] = []
        begin = 0
        for number, picture in enumerate(pictures):
            after = pictures[number + 1].ids if number + 1 < len(pictures) else None
            found = self._find(ids, picture.ids, begin, after)
            if found is None:
                raise ImageError(
                    f"the prompt has no place for picture {number + 1} of {len(pictures)}: its "
                    f"{len(picture.ids)} placeholder ids are not there; make prompts by `chat`"
                )
            starts.append(found)
            begin = found + len(picture.ids)
        return starts

    def _find(self, ids: IntArray, run: IntArray, begin: int, after: IntArray | None) -> int | None:
        """Where a picture's whole run of placeholders stands first in ``ids[begin:]``.

        A run of placeholders alone is no part of a longer one, unless another picture's run
        touches it.
        """
        token, last = self.image_token_id, len(ids) - len(run)
        if last < begin:
            return None
        for start in (np.flatnonzero(ids[begin : last + 1] == run[0]) + begin).tolist():
            end = start + len(run)
            if not np.array_equal(ids[start:end], run):
                continue
            if start > begin and run[0] == token == ids[start - 1]:
                continue
            if end < len(ids) and run[-1] == token == ids[end]:
                touching = after is not None and np.array_equal(ids[end : end + len(after)], after)
                if not touching:
                    continue
            return int(start)
        return None

    def slots(self, ids: IntArray, pictures: Sequence[Picture]) -> IntArray:
        """(S,) positions in a prompt that the features of its pictures take, in order."""
        starts = self.locate(ids, pictures)
        parts = [p.slots + start for p, start in zip(pictures, starts, strict=True)]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    def whole(
        self,
        texts: Sequence[IntArray],
        pictures: Sequence[Sequence[Picture]],
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Arguments of the model's own forward pass for texts of one length with their pictures.

        Args:
            texts: each (L,) ids, whose placeholder tokens are all places of pictures.
            pictures: for each text, in order.
            device: of the model.
        """
        ids = torch.stack([torch.as_tensor(text, dtype=torch.long) for text in texts])
        inputs: dict[str, Any] = {"input_ids": ids}
        everything = [picture for row in pictures for picture in row]
        read = [picture.inputs() for picture in everything]
        for name in read[0] if read else ():
            inputs[name] = self._joined([one[name] for one in read])
        for name in everything[0].marks if everything else ():
            inputs[name] = (ids == self.image_token_id).long()
        return {name: value.to(device) for name, value in inputs.items()}

    def _joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Inputs of several pictures as one tensor, smaller pictures padded with zeros."""
        if len(parts) > 1 and parts[0].ndim > 3:
            sizes = [max(part.shape[axis] for part in parts) for axis in (-2, -1)]
            parts = [
                F.pad(p, (0, sizes[1] - p.shape[-1], 0, sizes[0] - p.shape[-2])) for p in parts
            ]
        # Where a picture has several tiles, the first axis is the text's and the second theirs.
        return torch.cat(list(parts), dim=1 if self._tiles else 0)


def tower(model: Any, pictures: Sequence[Picture]) -> list[Features]:
    """Run a model's vision tower, with gradient if it is switched on.

    Args:
        model: a transformers vision-language model without adapters around it.
        pictures: prepared by its own processor.

    Returns:
        For each, its features.
    """
    found = []
    for picture in pictures:
        inputs = {name: value.to(model.device) for name, value in picture.inputs().items()}
        out = model.get_image_features(**inputs)
        rows = _flat(getattr(out, "pooler_output", out))
        if len(rows) != len(picture.slots):
            raise ImageError(
                f"the vision tower gives {len(rows)} features for {len(picture.slots)} places"
            )
        deep = tuple(_flat(part) for part in getattr(out, "deepstack_features", None) or ())
        found.append(Features(rows, deep))
    return found


def _size(inputs: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in inputs.values())


def _flat(value: Any) -> torch.Tensor:
    """(S, d) of one picture's features, whatever they are nested in."""
    if isinstance(value, list | tuple):
        value = torch.cat([_flat(part) for part in value])
    tensor: torch.Tensor = value
    return tensor.reshape(-1, tensor.shape[-1])


def axis_positions(
    model: Any, vision: Vision, ids: IntArray, pictures: Sequence[Picture], slots: IntArray
) -> torch.Tensor | None:
    """Positions on three axes, for models whose pictures have them (M-RoPE).

    Args:
        model: as for `tower`.
        vision: its processor's side.
        ids: (L,) a text.
        pictures: that it shows.
        slots: (S,) where they stand; see `Vision.slots`.

    Returns:
        (3, L) on the CPU, by the model's own rule; `None` for models whose positions are a
        text's. What follows the text goes on from the highest position.
    """
    rule = getattr(getattr(model, "model", None), "get_rope_index", None)
    grids = [picture.grid for picture in pictures if picture.grid is not None]
    if rule is None or not grids:
        return None
    # A placeholder that was sampled is no place of a picture, and the rule must not take it so.
    plain = np.asarray(ids).copy()
    plain[plain == vision.image_token_id] = 0
    plain[slots] = vision.image_token_id
    tokens = torch.as_tensor(plain[None], dtype=torch.long)
    arguments: dict[str, Any] = {
        "mm_token_type_ids": (tokens == vision.image_token_id).int(),
        "image_grid_thw": torch.cat(grids),
    }
    known = inspect.signature(rule).parameters
    found, _ = rule(tokens, **{name: v for name, v in arguments.items() if name in known})
    positions: torch.Tensor = found[-3:, 0]
    return positions


def stills_only(processor_class: Any) -> Any:
    """A processor's class without its video side, which needs torchvision even for pictures."""

    def __init__(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        **kwargs: Any,
    ) -> None:
        processor_class.__init__(
            self, image_processor, tokenizer, None, chat_template=chat_template, **kwargs
        )

    # transformers reads a processor's parts off the arguments of its class; the name is saved.
    return type(processor_class.__name__, (processor_class,), {"__init__": __init__})
