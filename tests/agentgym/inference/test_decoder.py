from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from agentgym.errors import ConfigError
from agentgym.inference.attention import Plan, Span, in_order
from agentgym.inference.decoder import (
    Decoder,
    FusedDecoder,
    TransformersDecoder,
    make_decoder,
)
from agentgym.models.modes import in_eval
from agentgym.models.tiny import tiny_model

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def build(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    if kind == "mistral":
        options.setdefault("sliding_window", None)
    config = AutoConfig.for_model(kind, **(SIZES | options))
    auto: Any = AutoModelForCausalLM
    return auto.from_config(config, dtype=torch.float32).train(False)


def compare(decoder: Decoder, model: Any, *, adapted: bool = True) -> None:
    """Three texts, packed, in chunks and single tokens, against each one's own forward pass."""
    texts = [
        torch.randint(0, 50, (n,), generator=torch.Generator().manual_seed(n)) for n in (70, 9)
    ]
    pages = [(0, 1, 2), (4,)]
    pool = decoder.pool(5)
    done = [0, 0]
    with torch.inference_mode():
        whole = [model(text[None], output_hidden_states=True) for text in texts]
        for new in ((40, 4), (1, 1), (1, 2), (28, 1), (0, 1)):
            rows = [row for row in (0, 1) if new[row]]
            spans = [Span(done[row], new[row], (), pages[row]) for row in rows]
            order = in_order(spans)
            plan = Plan([spans[i] for i in order], pool)
            parts = [texts[rows[i]][done[rows[i]] :][: new[rows[i]]] for i in order]
            hidden, kept = decoder.hidden(torch.cat(parts), plan, adapted=adapted, layers=(0, 1, 2))
            logits = decoder.logits(hidden)
            start = 0
            for i in order:
                row, count = rows[i], new[rows[i]]
                where, then = slice(start, start + count), slice(done[row], done[row] + count)
                torch.testing.assert_close(
                    logits[where], whole[row].logits[0, then], atol=2e-4, rtol=1e-4
                )
                for layer, states in kept.items():
                    torch.testing.assert_close(
                        states[where],
                        whole[row].hidden_states[layer][0, then],
                        atol=1e-4,
                        rtol=1e-4,
                    )
                start += count
                done[row] += count


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("llama", {"num_key_value_heads": 4}),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_both_paths_equal_transformers(kind: str, options: dict[str, Any], fused: bool) -> None:
    model = build(kind, **options)
    decoder = make_decoder(model, fused=fused)
    assert type(decoder) is (FusedDecoder if fused else TransformersDecoder)
    compare(decoder, model)


@pytest.mark.parametrize("kind", ["gpt2", "olmo2", "starcoder2", "gemma", "phi", "opt"])
def test_other_decoders_run_through_their_own_forward_pass(kind: str) -> None:
    options = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "num_key_value_heads": 4},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_key_value_heads": 4},
        "phi": {"num_key_value_heads": 4},
    }
    model = build(kind, **options.get(kind, {}))
    compare(make_decoder(model), model)
    assert model.config._attn_implementation == "sdpa"  # the model is as it was


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("mistral", {"sliding_window": 4}, "sliding"),
        ("gemma2", {}, "sliding"),
        ("mamba", {"state_size": 4}, "Engine cannot serve"),
        ("stablelm", {}, "exchanged"),
        ("bloom", {"n_layer": 2, "n_head": 4}, "exchanged"),
    ],
)
def test_what_pages_do_not_describe_is_refused(
    kind: str, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        make_decoder(build(kind, **options))
    assert "HFBackend" in str(error.value)


def test_a_model_that_computes_otherwise_is_refused() -> None:
    model = build("llama")
    model.lm_head.forward = lambda x: torch.zeros(*x.shape[:-1], 50)
    original = model.forward
    model.forward = lambda **how: _with_noise(original(**how))
    with pytest.raises(ConfigError, match="differ"):
        make_decoder(model, fused=False)


def _with_noise(out: Any) -> Any:
    out.logits = out.logits + 1
    return out


def test_the_fused_path_says_why_not() -> None:
    with pytest.raises(ConfigError, match="gpt2"):
        make_decoder(build("gpt2", n_embd=32, n_layer=2, n_head=4), fused=True)
    with pytest.raises(ConfigError, match="gelu"):
        make_decoder(build("llama", hidden_act="gelu"), fused=True)
    compare(make_decoder(build("llama", hidden_act="gelu")), build("llama", hidden_act="gelu"))


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
@pytest.mark.parametrize("fused", [True, False])
def test_adapters_on_and_off(fused: bool) -> None:
    config = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(build("llama"), config)
    model.train()  # a trainer's: dropout and the like are off during a step only
    decoder = make_decoder(model, fused=fused)
    with in_eval(model):
        compare(decoder, model)
        with model.disable_adapter():
            compare(decoder, model, adapted=False)
    assert all(module.training for module in model.modules())


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
def test_dora_goes_through_the_models_own_layers() -> None:
    config = LoraConfig(r=3, target_modules=["q_proj"], use_dora=True, init_lora_weights=False)
    model: Any = get_peft_model(build("llama"), config).train(False)
    decoder = make_decoder(model)
    assert type(decoder) is TransformersDecoder
    compare(decoder, model)


def test_new_weights_after_a_refresh() -> None:
    model = build("llama")
    decoder = make_decoder(model)
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    decoder.refresh()
    compare(decoder, model)


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_on_an_accelerator(fused: bool) -> None:
    model = tiny_model()[0].to(torch.accelerator.current_accelerator())  # type: ignore[arg-type]
    decoder = make_decoder(model, fused=fused)
    pool = decoder.pool(2)
    ids = torch.arange(3, 12, device=model.device)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0, -1]
        decoder.hidden(ids[:8], decoder.plan([Span(0, 8, (), (1,))], pool))
        hidden, _ = decoder.hidden(ids[8:], decoder.plan([Span(8, 1, (), (1,))], pool))
        logits = decoder.logits(hidden)[0]
    torch.testing.assert_close(logits, expected, atol=1e-2, rtol=1e-2)
