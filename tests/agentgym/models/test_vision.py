"""Pictures as a model reads them: against the model's own processor and forward pass."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import agentgym.models.vision as module
from agentgym.chat import ChatFormat, chat_ids
from agentgym.errors import ConfigError, ImageError
from agentgym.images import decode_image, encode_image
from agentgym.models.tiny import tiny_tokenizer
from agentgym.models.tiny_vlm import TINY_VLMS, tiny_vlm
from agentgym.models.vision import Vision, axis_positions, tower
from agentgym.types import Image, Message


def noise(seed: int, height: int = 50, width: int = 70) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode_image(pixels)


FIRST, SECOND = noise(0), noise(1, 90, 40)
CHAT = (
    Message("system", "Look."),
    Message("user", "What is here?", ((0, FIRST),)),
    Message("assistant", "Noise."),
    Message("user", "And here ? Or there ?", ((9, SECOND), (20, FIRST))),
)


@pytest.fixture(params=TINY_VLMS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Vision]:
    model, processor = tiny_vlm(request.param)
    return model, Vision(processor)


def by_processor(vision: Vision) -> Any:
    """The chat as the processor itself prepares it."""
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part}
                for part in message.parts
            ],
        }
        for message in CHAT
    ]
    text = vision.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    pictures = [image for message in CHAT for _, image in message.images]
    opened = [Pillow.fromarray(decode_image(image.data or b"")) for image in pictures]
    return vision.processor(
        images=[opened], text=[text], add_special_tokens=False, return_tensors="pt"
    )


def test_prompt_ids_are_the_processors_own(pair: tuple[Any, Vision]) -> None:
    vision = pair[1]
    expected = by_processor(vision)["input_ids"][0].tolist()
    assert chat_ids(vision.tokenizer, CHAT, vision) == expected
    chat = ChatFormat(vision.tokenizer, vision)
    grown = chat.first("Look.", "What is here?", [FIRST])
    assert grown == expected[: len(grown)]


def test_features_in_their_slots_give_the_models_own_logits(pair: tuple[Any, Vision]) -> None:
    model, vision = pair
    inputs = by_processor(vision)
    ids = inputs["input_ids"][0].numpy()
    pictures = [vision.read(image) for image in (FIRST, SECOND, FIRST)]
    slots = vision.slots(ids, pictures)
    assert (ids[slots] == vision.image_token_id).all()
    assert len(slots) == (ids == vision.image_token_id).sum()
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(inputs["input_ids"]).clone()
        embedded[0, slots] = torch.cat([f.rows for f in tower(model, pictures)])
        positions = axis_positions(model, vision, ids, pictures, slots)
        found = model(
            inputs_embeds=embedded,
            position_ids=None if positions is None else positions[:, None],
        ).logits
        expected = model(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_sampled_placeholder_is_no_place_of_a_picture(pair: tuple[Any, Vision]) -> None:
    model, vision = pair
    stray = vision.image_token_id
    run = vision.ids(FIRST)
    ids = np.array([40, stray, 41, stray, 42, *run, 43, stray, 44, *vision.ids(SECOND)], np.int32)
    pictures = [vision.read(FIRST), vision.read(SECOND)]
    slots = vision.slots(ids, pictures)
    assert slots[0] >= 5
    assert 6 + len(run) not in slots
    positions = axis_positions(model, vision, ids, pictures, slots)
    if positions is not None:
        assert positions[:, :5].tolist() == [[0, 1, 2, 3, 4]] * 3


def test_pictures_that_touch_have_their_own_places(pair: tuple[Any, Vision]) -> None:
    vision = pair[1]
    ids = np.array([40, *vision.ids(FIRST), *vision.ids(SECOND), 41], np.int32)
    starts = vision.locate(ids, [vision.read(FIRST), vision.read(SECOND)])
    assert starts == [1, 1 + len(vision.ids(FIRST))]
    with pytest.raises(ImageError, match="no place for picture 1 of 1"):
        vision.locate(ids[1:-3], [vision.read(SECOND)])


def test_wrong_pictures_are_told(pair: tuple[Any, Vision]) -> None:
    vision = pair[1]
    ids = np.array([40, *vision.ids(FIRST)], np.int32)
    with pytest.raises(ImageError, match="no place for picture 2 of 2"):
        vision.slots(ids, [vision.read(FIRST), vision.read(FIRST)])
    with pytest.raises(ImageError, match="without its bytes"):
        vision.read(Image("ab"))
    with pytest.raises(ImageError, match="no PNG"):
        vision.read(Image("ab", b"no picture"))
    assert len(vision.slots(ids, [])) == 0


def test_text_never_becomes_a_placeholder(pair: tuple[Any, Vision]) -> None:
    vision = pair[1]
    ids = chat_ids(vision.tokenizer, [Message("user", vision.image_token)], vision)
    assert vision.image_token_id not in ids


def test_a_picture_is_prepared_once(
    pair: tuple[Any, Vision], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pair[1]
    calls: list[Image] = []
    processed = made._processed

    def counted(image: Image) -> Any:
        calls.append(image)
        return processed(image)

    monkeypatch.setattr(made, "_processed", counted)
    assert made.read(FIRST) is made.read(Image(FIRST.sha256))
    first = made.read(FIRST).inputs()
    assert len(calls) == 1
    # Pixels are kept within a budget, and made again when they are wanted again.
    monkeypatch.setattr(module, "_BUDGET", 1)
    made.read(SECOND)
    again = made.read(FIRST).inputs()
    assert len(calls) == 3
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_tokenizer_is_no_processor() -> None:
    with pytest.raises(ConfigError, match="no image processor"):
        Vision(tiny_tokenizer())
