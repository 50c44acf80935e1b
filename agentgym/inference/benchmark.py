"""The benchmark `inference`: episodes of many turns by the engine and by transformers' generate.

The baseline answers all episodes of a turn in one batch and reads every conversation from its
beginning at every turn, as a loop around `model.generate` does.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side
from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import MissingDependencyError
from agentgym.types import IntArray

_NOTE = (
    "Every episode begins with the same tokens; each turn adds an observation and samples an "
    "action of fixed length. Baseline: one batch of transformers' generate per turn, which reads "
    "the whole conversation again; one at a time does the same for a single episode. A search "
    "expands the kept nodes of a level into branches. Engines start empty in every repetition, "
    "on a GPU with their CUDA graphs captured. "
    "Peak memory is the growth of the process (or the accelerator) above the loaded model, copies "
    "of weights included; vLLM's is all that its processes hold, without an accelerator's. Of "
    "bound: the bytes of weights and of each conversation's own keys and values that every "
    "sampled token needs, at the bandwidth that copying reaches here, against the time that all "
    "took, reading of prompts included."
)

_OTHERS = 1 << 20
"""Seed of texts that no repetition has."""

Answer: TypeAlias = Callable[[Sequence[IntArray], int], list[IntArray]]
"""Prompts and a seed to the sampled tokens of each."""


@dataclass(frozen=True)
class Work:
    """How much a side does: episodes side by side, or a search tree."""

    episodes: int
    turns: int
    shared: int = 200
    observation: int = 40
    action: int = 24
    branches: int = 1
    """Above 1, every conversation is continued in so many ways and `episodes` are kept."""

    @property
    def tokens(self) -> int:
        """Tokens sampled in all."""
        return self.action * sum(self.rows(turn) for turn in range(self.turns))

    def rows(self, turn: int) -> int:
        """Conversations that are answered together in a turn."""
        return self.branches * (1 if turn == 0 and self.branches > 1 else self.episodes)

    def traffic(self, turns: int, weights: int, token: int) -> int:
        """Bytes that sampling must read at least, if every conversation reads its own.

        Args:
            turns: how many are played.
            weights: bytes of the model's weights, read once a step.
            token: bytes of one token's keys and values.
        """
        total = 0
        for turn in range(turns):
            length = self.shared + (turn + 1) * self.observation + turn * self.action
            context = self.action * length + self.action * (self.action - 1) // 2
            total += self.action * weights + self.rows(turn) * context * token
        return total


FULL = {
    "1 episode": Work(1, 6),
    "16 episodes": Work(16, 6),
    "64 episodes": Work(64, 6),
    "256 episodes": Work(256, 6),
    "search, depth 6, 4 branches": Work(4, 6, branches=4),
}
_GPU_ONLY = ("256 episodes",)
"""On a CPU the baseline takes a quarter of an hour for them."""
QUICK = {
    "2 episodes": Work(2, 2, shared=40, observation=5, action=4),
    "search, depth 2, 2 branches": Work(2, 2, shared=40, observation=5, action=4, branches=2),
}


def inference(options: BenchmarkOptions) -> Benchmark:
    """The engine, `HFBackend` and transformers' generate on conversations that grow.

    Raises:
        MissingDependencyError: torch or the embedded model is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch is not installed; run pip install -e '.[train]'")
    import torch

    from agentgym.models.load import DEFAULT_MODEL, load_model

    name = options.model or ("tiny" if options.quick else DEFAULT_MODEL)
    loaded = load_model(name, dtype=options.dtype)
    device = loaded.model.device
    works = QUICK if options.quick else FULL
    if device.type == "cpu" and not options.parts:
        works = {name: work for name, work in works.items() if name not in _GPU_ONLY}
    bandwidth = copy_bandwidth(device, 1 << 22 if options.quick else 1 << 28)
    return Benchmark(
        title=f"Inference with {loaded.name}",
        cases=[
            Case(name, partial(_sides, loaded, work, options.vllm)) for name, work in works.items()
        ],
        rates={
            "tokens_per_s": lambda m: m.counts["tokens"] / m.seconds,
            "peak_mib": lambda m: m.counts["peak_mib"] if "peak_mib" in m.counts else None,
            "bound_share": lambda m: m.counts["bytes"] / bandwidth / m.seconds,
        },
        columns={
            "case": "work",
            "side": "by",
            "tokens_per_s": "tokens/s",
            "tokens_per_s_ratio": "x",
            "bound_share": "of bound",
            "peak_mib": "peak MiB",
        },
        note=_NOTE,
        settings={
            "model": loaded.name,
            "dtype": str(loaded.model.dtype),
            "device": str(device),
            "copy_gb_per_s": bandwidth / 1e9,
            "threads": torch.get_num_threads(),
            "works": {name: vars(work) for name, work in works.items()},
        },
        repetitions=1 if options.quick else 2,
    )


@contextmanager
def _sides(loaded: Any, work: Work, vllm: str) -> Iterator[Mapping[str, Side]]:
    """Engine, baseline, one at a time, reference backend, vLLM."""
    from agentgym.inference.engine import Engine
    from agentgym.inference.hf import HFBackend

    generated = partial(_generated, loaded.model, work)
    single = Work(**{**vars(work), "episodes": 1, "branches": 1})
    sides: dict[str, Side] = {
        "engine": partial(_backend, loaded, work, Engine),
        "baseline": lambda repetition: _measure(loaded, work, repetition, generated),
    }
    if 1 < work.episodes <= 16:
        sides["one at a time"] = lambda repetition: _measure(loaded, single, repetition, generated)
        sides["HFBackend"] = partial(_backend, loaded, work, HFBackend)
    with ExitStack() as stack:
        if vllm:
            sides["vllm"] = stack.enter_context(_vllm(loaded, work, vllm))
        yield sides


@contextmanager
def _vllm(loaded: Any, work: Work, python: str) -> Iterator[Side]:
    """vLLM, which starts once and keeps what it has read from one repetition to the next.

    The repetitions' texts differ, so that only the warm-up's beginnings could be met again.
    """
    from agentgym.inference.benchmark_vllm import VLLMProcess
    from agentgym.models.load import save_model

    def side(repetition: int) -> Measurement:
        def answer(prompts: Sequence[IntArray], seed: int) -> list[IntArray]:
            found = process.answer(
                [prompt.tolist() for prompt in prompts],
                new=work.action,
                temperature=_temperature(work),
                seed=1000 * seed,
            )
            return [np.array(ids, np.int32) for ids in found]

        return _measure(loaded, work, repetition, answer, _Elsewhere(process.peak_mib))

    with TemporaryDirectory() as folder:
        save_model(loaded.model, loaded.tokenizer, Path(folder))
        process = VLLMProcess(
            python,
            folder,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            max_positions=work.shared + work.turns * (work.observation + work.action) + 64,
        )
        try:
            yield side
        finally:
            process.close()


def _backend(
    loaded: Any, work: Work, kind: Callable[..., InferenceBackend], repetition: int
) -> Measurement:
    """A repetition by a backend that starts empty, on a GPU with its graphs captured."""
    from agentgym.inference.engine import Engine
    from agentgym.inference.hf import HFBackend

    resident = _Memory(loaded.model.device)
    limits = {} if kind is HFBackend else {"memory": _memory(loaded.model, work)}
    backend = kind(loaded.model, loaded.tokenizer, eos_ids=(), **limits)
    try:

        def answer(prompts: Sequence[IntArray], seed: int) -> list[IntArray]:
            sampling = SamplingParams(_temperature(work), max_tokens=work.action)
            found = backend.generate(
                [
                    GenerationRequest(prompt, sampling, seed=1000 * seed + index)
                    for index, prompt in enumerate(prompts)
                ]
            )
            return [_tokens(completion) for completion in found]

        if loaded.model.device.type == "cuda":
            play(work, 1, _vocabulary(loaded), _OTHERS, answer)
            if isinstance(backend, Engine):
                backend.set_version(backend.version)  # forgets what it has read
        return _measure(loaded, work, repetition, answer, resident)
    finally:
        backend.close()


def _tokens(completion: Any) -> IntArray:
    if completion.error:
        raise RuntimeError(completion.error)
    ids: IntArray = completion.token_ids
    return ids


def _generated(model: Any, work: Work, prompts: Sequence[IntArray], seed: int) -> list[IntArray]:
    """Answers of one batch by transformers' own generate; all prompts have one length."""
    import torch

    ids = torch.tensor(np.stack(prompts), dtype=torch.long, device=model.device)
    torch.manual_seed(seed)
    sampled = (
        {"do_sample": True, "temperature": _temperature(work), "top_p": 1.0, "top_k": 0}
        if _temperature(work)
        else {"do_sample": False}
    )
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=work.action,
        min_new_tokens=work.action,
        pad_token_id=0,
        **sampled,
    )
    return list(out[:, ids.shape[1] :].cpu().numpy().astype(np.int32))


def _temperature(work: Work) -> float:
    """Branches of one conversation must differ, so they are sampled; episodes are greedy."""
    return 1.0 if work.branches > 1 else 0.0


def _measure(
    loaded: Any,
    work: Work,
    repetition: int,
    answer: Answer,
    resident: "_Memory | _Elsewhere | None" = None,
) -> Measurement:
    """Play the turns of a repetition; the warm-up plays one."""
    resident = resident or _Memory(loaded.model.device)
    turns = work.turns if repetition else 1
    started = perf_counter()
    sampled = play(work, turns, _vocabulary(loaded), repetition, answer)
    seconds = perf_counter() - started
    peak = resident.peak_mib()
    return Measurement(
        seconds=seconds,
        counts={
            "tokens": sampled,
            "bytes": work.traffic(turns, _weight_bytes(loaded.model), _token_bytes(loaded.model)),
            **({} if peak is None else {"peak_mib": peak}),
        },
        outcome=[turns, work.action],
    )


def _vocabulary(loaded: Any) -> int:
    return int(loaded.model.get_input_embeddings().weight.shape[0])


def play(work: Work, turns: int, vocabulary: int, seed: int, answer: Answer) -> int:
    """Let conversations grow turn by turn.

    Args:
        work: how many, how long.
        turns: how many are played.
        vocabulary: ids of observations are drawn from the upper part below it.
        seed: of the observations.
        answer: samples the actions.

    Returns:
        Tokens sampled.
    """
    stream = np.random.default_rng(seed)

    def text(length: int) -> IntArray:
        return stream.integers(vocabulary // 10, vocabulary, length).astype(np.int32)

    search = work.branches > 1
    nodes = [text(work.shared)] * (1 if search else work.episodes)
    sampled = 0
    for turn in range(turns):
        nodes = [np.concatenate([node, text(work.observation)]) for node in nodes]
        prompts = [node for node in nodes for _ in range(work.branches)]
        actions = answer(prompts, seed + turn)
        sampled += sum(len(action) for action in actions)
        grown = [np.concatenate(pair) for pair in zip(prompts, actions, strict=True)]
        # No judge is part of the work: kept are branches of different nodes.
        nodes = grown[:: max(1, len(grown) // work.episodes)][: work.episodes]
    return sampled


def _weight_bytes(model: Any) -> int:
    """Of all weights that a step reads; rows of the embedding are nothing beside them."""
    own = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    embedding = model.get_input_embeddings().weight
    if model.get_output_embeddings().weight.data_ptr() != embedding.data_ptr():
        own.pop(embedding.data_ptr())
    return sum(own.values())


def _token_bytes(model: Any) -> int:
    """Of the keys and values of one token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def _memory(model: Any, work: Work) -> int:
    """Bytes for keys and values: what all conversations take in the end, four times.

    Running texts and what is kept of them both have room; only what is written takes memory on a
    CPU.
    """
    longest = work.shared + work.turns * (work.observation + work.action) + 64
    return 4 * work.episodes * work.branches * longest * _token_bytes(model)


def copy_bandwidth(device: Any, size: int) -> float:
    """Bytes per second that are read and written when so many bytes are copied, at best."""
    import torch

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, perf_counter() - started)
    return 2 * size / best


@dataclass(frozen=True)
class _Elsewhere:
    """Memory of another process, model included."""

    peak_mib: Callable[[], int | None]


class _Memory:
    """Growth of memory from now on, on Linux or CUDA."""

    def __init__(self, device: Any) -> None:
        self._cuda = device if device.type == "cuda" else None
        if self._cuda is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before: int | None = torch.cuda.memory_allocated(self._cuda) >> 10
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        except OSError:
            self._before = None
        else:
            self._before = _status_kib("VmRSS")

    def peak_mib(self) -> int | None:
        """Highest growth since the beginning, at least 1 so that ratios exist.

        `None` where the system does not tell.
        """
        if self._cuda is not None:
            import torch

            peak: int | None = torch.cuda.max_memory_allocated(self._cuda) >> 10
        else:
            peak = _status_kib("VmHWM")
        if peak is None or self._before is None:
            return None
        return max(1, (peak - self._before) >> 10)


def _status_kib(name: str) -> int | None:
    """A number of KiB that Linux tells about this process."""
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
