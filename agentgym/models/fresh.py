"""A small Llama from scratch, with a tokenizer learned from the texts that it will read."""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentgym.errors import ConfigError

FRESH_MODEL = "new"
"""What it is called in recipes: a run makes it and keeps it in its folder."""

SPECIAL_TOKENS = ("<|pad|>", "<|system|>", "<|user|>", "<|agent|>", "<|end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'system': '<|system|>', 'user': '<|user|>', 'assistant': '<|agent|>'}[message['role']] }}"
    "{{ message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|agent|>' }}{% endif %}"
)
"""Two control tokens a message, append-only."""

WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
"""What is learned as tokens lies inside a word; digits, signs and line ends stand alone."""


def fresh_model(
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocabulary: int = 512,
    layers: int = 2,
    width: int = 128,
    heads: int = 4,
    positions: int = 2048,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build a model and its tokenizer, without any file or download.

    Args:
        texts: what the tokenizer learns from, see `fresh_tokenizer`.
        seed: of the weights; torch's own random state is left as it was.
        vocabulary: tokens at most.
        layers: of the transformer.
        width: of its hidden states; the layers between are twice as wide.
        heads: of attention.
        positions: longest sequence, in tokens.

    Returns:
        A float32 Llama (tied embeddings) on the CPU in eval mode, and its tokenizer.

    Raises:
        ConfigError: a size that cannot be.
    """
    if min(layers, heads, positions) < 1 or width < 1 or width % (2 * heads):
        raise ConfigError(
            "layers, heads and positions must be at least 1 and width a multiple of twice the "
            f"heads, got {layers!r}, {heads!r}, {positions!r} and {width!r}"
        )
    tokenizer = fresh_tokenizer(texts, vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        initializer_range=0.5 * width**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.name_or_path = FRESH_MODEL
    return model.train(False), tokenizer


def fresh_tokenizer(texts: Iterable[str], vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Byte-level pair encoding of the words in some texts; any text survives it.

    Args:
        texts: what to learn from; neither how often one stands there nor their order matters.
        vocabulary: tokens at most: control tokens and the 256 bytes, then what repeats most.

    Raises:
        ConfigError: there is no room for the bytes.
    """
    least = len(SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary < least:
        raise ConfigError(f"vocabulary must be at least {least}, got {vocabulary!r}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    pad, *others, end = SPECIAL_TOKENS
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
