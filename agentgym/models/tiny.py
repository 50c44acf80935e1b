"""A random Llama of about 100,000 parameters with a byte tokenizer: for tests and smoke runs."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TINY_MODEL = "tiny"
"""Its name for `load_model` (which builds it with seed 0 and no extra words)."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, append-only: a longer conversation begins with the text of a shorter one."""


def tiny_model(
    seed: int = 0, words: tuple[str, ...] = (), *, scale: float = 0.3, positions: int = 2048
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build a tiny model and its tokenizer, without any file or download.

    Args:
        seed: of the weights; torch's own random state is left as it was.
        words: extra tokens beside the 256 bytes, such as the actions of a toy environment.
        scale: standard deviation of the weights; large enough that outputs differ.
        positions: longest sequence, in tokens.

    Returns:
        A float32 Llama (2 layers, grouped-query attention, tied embeddings) on the CPU in eval
        mode, and a tokenizer that turns any text to ids and back without loss, with a chat
        template, ``<|im_end|>`` as end token and ``<|endoftext|>`` as padding.
    """
    tokenizer = tiny_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=scale,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.name_or_path = TINY_MODEL
    return model.train(False), tokenizer


def tiny_tokenizer(words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML's special tokens and `words` as tokens of their own."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens(list(words))
    fast.chat_template = CHAT_TEMPLATE
    return fast
