"""A fake vLLM for what we ask of it; with which real one it was checked, the class tells."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import ConfigError, InferenceError, MissingDependencyError, UnknownNameError
from agentgym.inference import vllm
from agentgym.inference.vllm import VLLMBackend, checkpoint_shapes


class FakeLLM:
    """Answers with the prompt's last id plus 1, plus 2, ..."""

    def __init__(self, model: str, **arguments: Any) -> None:
        if arguments.get("broken"):
            raise RuntimeError("no kernel\nlong story")
        self.arguments = {"model": model, **arguments}
        self.calls: list[tuple[list[Any], list[Any]]] = []
        self.loaded: list[dict[str, torch.Tensor]] = []
        self.prefix_resets = 0
        self.fault: Exception | None = None
        self.stopped = 0
        hf_config = SimpleNamespace(tie_word_embeddings=True)
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=10, get_vocab_size=lambda: 100, hf_config=hf_config
            ),
            engine_core=SimpleNamespace(shutdown=self.stop),
        )

    def stop(self) -> None:
        self.stopped += 1

    def get_tokenizer(self) -> str:
        return "tokenizer"

    def generate(self, prompts: Any, params: Any, *, use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        self.calls.append((prompts, params))
        if self.fault:
            raise self.fault
        return [self.answer(p["prompt_token_ids"], q) for p, q in zip(prompts, params, strict=True)]

    def answer(self, prompt: list[int], params: Any) -> Any:
        ids = [prompt[-1] + 1 + k for k in range(params.max_tokens)]
        told = [None, *({t: SimpleNamespace(logprob=-t / 10)} for t in prompt[1:])]
        return SimpleNamespace(
            prompt_logprobs=told if getattr(params, "prompt_logprobs", None) == 0 else None,
            outputs=[
                SimpleNamespace(
                    text=f"{len(ids)} tokens",
                    token_ids=ids,
                    logprobs=[{t: SimpleNamespace(logprob=-0.5)} for t in ids],
                    finish_reason="length",
                )
            ],
        )

    def collective_rpc(self, method: str, *, kwargs: Any) -> None:
        assert method == "reload_weights"
        if self.fault:
            raise self.fault
        self.loaded.append(load_file(Path(kwargs["weights_path"]) / "model.safetensors"))

    def reset_prefix_cache(self) -> None:
        self.prefix_resets += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in two files."""
    path = tmp_path / "model"
    path.mkdir()
    save_file({"q.weight": torch.ones(2, 3)}, path / "a.safetensors", {"format": "pt"})
    save_file({"k.weight": torch.zeros(4)}, path / "b.safetensors")
    return path


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[VLLMBackend, Any]]:
    module = types.ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)

    def build(model: str = str(folder), **options: Any) -> tuple[VLLMBackend, Any]:
        backend = VLLMBackend(model, **options)
        return backend, backend._llm

    return build


Make = Callable[..., tuple[VLLMBackend, Any]]


def request(*ids: int, seed: int = 0, **params: Any) -> GenerationRequest:
    return GenerationRequest(np.array(ids, np.int32), SamplingParams(**params), seed)


def test_how_vllm_is_started(make: Make, folder: Path) -> None:
    backend, llm = make(max_positions=64, max_batch=8, engine_args={"tensor_parallel_size": 2})
    assert isinstance(backend, InferenceBackend)
    assert llm.arguments == {
        "model": str(folder),
        "dtype": "auto",
        "max_model_len": 64,
        "max_num_seqs": 8,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "tensor_parallel_size": 2,
    }
    assert (backend.max_positions, backend.vocabulary, backend.tokenizer) == (10, 100, "tokenizer")
    backend.close()


def test_requests_and_answers(make: Make) -> None:
    backend, llm = make()
    asked = request(
        5, 6, seed=2**62, temperature=0.7, top_p=0.9, top_k=3, max_tokens=2, stop=("x",)
    )
    answer, longest = backend.generate([asked, request(*range(9), max_tokens=50)])
    assert answer.token_ids is not None
    assert answer.logprobs is not None
    assert (answer.text, answer.finish_reason) == ("2 tokens", "length")
    assert answer.token_ids.tolist() == [7, 8]
    assert answer.token_ids.dtype == np.int32
    assert answer.logprobs.tolist() == [-0.5, -0.5]
    prompts, params = llm.calls[0]
    assert prompts[0] == {"prompt_token_ids": [5, 6]}
    assert vars(params[0]) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 3,
        "max_tokens": 2,
        "stop": ["x"],
        "seed": 2**62,
        "logprobs": 0,
        "skip_special_tokens": False,
    }
    assert longest.token_ids is not None
    assert len(longest.token_ids) == 1, "nine of ten positions are taken"
    backend.close()


def test_a_bad_request_fails_alone_and_never_reaches_vllm(make: Make) -> None:
    backend, llm = make()
    bad = [request(), request(100), request(-1), request(*range(10)), request(1, top_p=0.0)]
    answers = backend.generate([request(1, max_tokens=1), *bad, request(2, max_tokens=1)])
    assert [a.finish_reason for a in answers] == ["length", *["error"] * 5, "length"]
    assert "0..99" in answers[2].error
    assert "10 positions" in answers[4].error
    assert len(llm.calls[0][0]) == 2
    assert backend.generate([bad[0]])[0].finish_reason == "error"
    assert len(llm.calls) == 1
    backend.close()


def test_logprobs(make: Make) -> None:
    backend, _ = make()
    ids = np.array([5, 6, 7], np.int32)
    values = backend.logprobs([ids, ids], [1, 3])
    np.testing.assert_allclose(values[0], [-0.6, -0.7], atol=1e-6)
    assert values[1].shape == (0,)
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match="sequence 0: start"):
            backend.logprobs([ids], [wrong])
    with pytest.raises(ConfigError, match="sequence 0: ids"):
        backend.logprobs([np.array([100], np.int32)], [1])
    backend.close()


def test_a_subset_of_weights_is_completed(make: Make) -> None:
    # vLLM packs q, k and v: a reload of some of them alone would spoil the others.
    backend, llm = make()
    backend.load_weights({"q.weight": torch.full((2, 3), 2.0)}, 1)
    backend.load_weights({"k.weight": torch.full((4,), 3.0)}, 2)
    assert [sorted(state) for state in llm.loaded] == [["k.weight", "q.weight"]] * 2
    assert llm.loaded[0]["k.weight"].tolist() == [0] * 4
    assert llm.loaded[1]["q.weight"].tolist() == [[2] * 3] * 2, "as loaded before"
    assert llm.loaded[1]["k.weight"].tolist() == [3] * 4
    assert llm.prefix_resets == 2
    backend.load_weights({}, 3)
    assert (len(llm.loaded), backend.version) == (2, 3)
    assert backend.generate([request(1, max_tokens=1)])[0].weights_version == 3
    base = GenerationRequest(np.array([1], np.int32), weights="base")
    assert "base model" in backend.generate([base])[0].error
    backend.close()


def test_tied_and_shared_tensors(make: Make, folder: Path) -> None:
    backend, llm = make()
    shared = torch.ones(2, 3, requires_grad=True)
    backend.load_weights({"q.weight": shared, "lm_head.weight": shared}, 1)
    assert sorted(llm.loaded[0]) == ["k.weight", "q.weight"], "tied: not in the checkpoint"
    backend.close()


def test_wrong_weights_change_nothing(make: Make, folder: Path) -> None:
    backend, llm = make()
    with pytest.raises(UnknownNameError, match=r"Did you mean 'q\.weight'"):
        backend.load_weights({"qq.weight": torch.ones(2, 3)}, 1)
    with pytest.raises(InferenceError, match=r"\(3,\).*\(2, 3\)"):
        backend.load_weights({"q.weight": torch.ones(3)}, 1)
    assert llm.loaded == []
    llm.fault = RuntimeError("worker died")
    with pytest.raises(InferenceError, match="worker died"):
        backend.load_weights({"q.weight": torch.ones(2, 3)}, 1)
    assert backend.version == 0
    backend.close()
    assert checkpoint_shapes(folder) == {"q.weight": (2, 3), "k.weight": (4,)}


def test_a_dead_engine_is_an_error_of_all(make: Make) -> None:
    backend, llm = make()
    llm.fault = ValueError("dead")
    with pytest.raises(InferenceError, match="ValueError: dead"):
        backend.generate([request(1)])
    backend.close()


def test_closing(make: Make) -> None:
    backend, llm = make()
    scratch = backend._folder
    backend.close()
    backend.close()
    assert llm.stopped == 1
    assert not scratch.exists()
    for call in (
        lambda: backend.generate([request(1)]),
        lambda: backend.load_weights({}, 1),
        lambda: backend.logprobs([np.array([1, 2], np.int32)], [1]),
    ):
        with pytest.raises(InferenceError, match="closed"):
            call()


def test_what_cannot_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no kernel$"):
        make(engine_args={"broken": True})
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_network)
    with pytest.raises(ConfigError, match="'no/such' cannot be fetched: offline"):
        make("no/such")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match=r"\[vllm\]"):
        make()


def _no_network(*_: Any, **__: Any) -> str:
    raise OSError("offline")


def test_a_gguf_file_is_written_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(model: Any, tokenizer: Any, where: Path) -> None:
        where.mkdir()
        save_file({"w": torch.ones(1)}, where / "model.safetensors")

    loaded = SimpleNamespace(model=None, tokenizer=None)
    monkeypatch.setattr(vllm, "load_model", lambda name, device: loaded)
    monkeypatch.setattr(vllm, "save_model", save)
    backend, llm = make("some.gguf")
    assert checkpoint_shapes(Path(llm.arguments["model"])) == {"w": (1,)}
    backend.load_weights({"w": torch.zeros(1)}, 1)
    assert llm.loaded[0]["w"].tolist() == [0]
    backend.close()
