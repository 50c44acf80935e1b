import torch

from agentgym.models.tiny import tiny_model


def test_any_text_survives_the_tokenizer() -> None:
    _, tokenizer = tiny_model(words=("north", "click"))
    for text in ["", "a  b\n\tc", "héllo 😀 \x00", "go north, click('a1')<|im_end|>"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode("north")) == 1
    assert len(tiny_model()[1].encode("north")) == 5


def test_the_chat_template_grows_by_appending() -> None:
    _, tokenizer = tiny_model()
    chat = [{"role": "user", "content": "hi"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    chat += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert str(tokenizer.apply_chat_template(chat, tokenize=False)).startswith(f"{prompt}yes")
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|im_end|>"


def test_the_seed_decides_the_weights_and_nothing_else_changes() -> None:
    before = torch.get_rng_state()
    first, second, other = tiny_model(1)[0], tiny_model(1)[0], tiny_model(2)[0]
    assert torch.equal(before, torch.get_rng_state())
    weights = [model.model.embed_tokens.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_it_is_tiny_and_its_outputs_differ() -> None:
    model, tokenizer = tiny_model()
    assert 50_000 < sum(p.numel() for p in model.parameters()) < 150_000
    assert model.model.embed_tokens.weight is model.lm_head.weight
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer.encode("hello")])).logits
    assert logits.std() > 1
