"""Random vision-language models of about 150,000 parameters, of two structures, without any file.

`tiny-vlm` is a SmolVLM (Idefics3): pictures are cut into tiles, features replace one token each,
positions are a text's. `tiny-vlm-mrope` is a Qwen2.5-VL: as many features as the picture is large,
and positions of three axes.
"""

import importlib
from typing import Any

import torch
import transformers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from agentgym.errors import ConfigError
from agentgym.models.tiny import SPECIAL_TOKENS, tiny_tokenizer
from agentgym.models.vision import stills_only

TINY_VLMS = ("tiny-vlm", "tiny-vlm-mrope")
"""Their names for `load_model`."""

_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
_TAGS = {
    "tiny-vlm": ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    "tiny-vlm-mrope": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
}
_SHOWN = {
    "tiny-vlm": "<image>",
    "tiny-vlm-mrope": "<|vision_start|><|image_pad|><|vision_end|>",
}
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'SHOWN' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML whose contents are lists of parts, as vision-language models have them."""


def tiny_vlm(
    name: str = "tiny-vlm",
    seed: int = 0,
    *,
    words: tuple[str, ...] = (),
    scale: float = 0.3,
    positions: int = 4096,
) -> tuple[PreTrainedModel, Any]:
    """Build a tiny vision-language model and its processor.

    Args:
        name: of `TINY_VLMS`.
        seed: of the weights; torch's own random state is left as it was.
        words: extra tokens beside the 256 bytes.
        scale: standard deviation of the weights; large enough that outputs differ.
        positions: longest sequence, in tokens.

    Returns:
        A float32 model on the CPU in eval mode, and a transformers processor with a chat template
        and the tokenizer of `tiny_tokenizer`.

    Raises:
        ConfigError: no such name.
    """
    if name not in TINY_VLMS:
        raise ConfigError(f"name must be one of {TINY_VLMS}, got {name!r}")
    tokenizer: Any = tiny_tokenizer(words)
    tags = [*_TAGS[name], *(_TILES if name == "tiny-vlm" else ())]
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL_TOKENS[1], *tags]})
    template = _TEMPLATE.replace("SHOWN", _SHOWN[name])
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "initializer_range": scale,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    build = _idefics3 if name == "tiny-vlm" else _qwen
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = build(text, tokenizer, template, scale)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.name_or_path = name
    return model.eval(), processor


def _image_processor(family: str, name: str) -> Any:
    """A family's image processor that needs Pillow alone; older transformers have no other."""
    try:
        module = importlib.import_module(
            f"transformers.models.{family}.image_processing_pil_{family}"
        )
    except ImportError:
        return getattr(transformers, name)
    return getattr(module, f"{name}Pil")


def _idefics3(text: dict[str, Any], tokenizer: Any, template: str, scale: float) -> tuple[Any, Any]:
    """Tiles of 32 x 32 pixels, each 4 tokens."""
    images = _image_processor("idefics3", "Idefics3ImageProcessor")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    processor: Any = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    untyped: Any = Idefics3Config
    config = untyped(
        text_config={"model_type": "llama", **text},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": scale,
        },
        image_token_id=processor.image_token_id,
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=scale,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _qwen(text: dict[str, Any], tokenizer: Any, template: str, scale: float) -> tuple[Any, Any]:
    """Patches of 8 x 8 pixels, four of them a token; at most 36 tokens a picture."""
    images = _image_processor("qwen2_vl", "Qwen2VLImageProcessor")(
        patch_size=8, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    )
    processor = stills_only(Qwen2_5_VLProcessor)(images, tokenizer, chat_template=template)
    ids = tokenizer.convert_tokens_to_ids
    untyped: Any = Qwen2_5_VLConfig
    config = untyped(
        text_config={
            **text,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depth": 2,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": text["hidden_size"],
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": scale,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor
