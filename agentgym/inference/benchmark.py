"""The benchmark `inference`: episodes of many turns by the engine and by transformers' generate.

The baseline answers all episodes of a turn in one batch and reads every conversation from its
beginning at every turn, as a loop around `model.generate` does.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
    "expands the kept nodes of a level into branches. Engines start empty in every repetition. "
    "Peak memory is the growth of the process (or the accelerator) above the loaded model, copies "
    "of weights included."
)

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
        first = self.branches if self.branches > 1 else self.episodes
        return self.action * (first + (self.turns - 1) * self.episodes * self.branches)


FULL = {
    "16 episodes": Work(16, 6),
    "64 episodes": Work(64, 6),
    "search, depth 6, 4 branches": Work(4, 6, branches=4),
}
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

    loaded = load_model(options.model or ("tiny" if options.quick else DEFAULT_MODEL))
    works = QUICK if options.quick else FULL
    return Benchmark(
        title=f"Inference with {loaded.name}",
        cases=[Case(name, partial(_sides, loaded, work)) for name, work in works.items()],
        rates={
            "tokens_per_s": lambda m: m.counts["tokens"] / m.seconds,
            "peak_mib": lambda m: m.counts["peak_mib"] if "peak_mib" in m.counts else None,
        },
        columns={
            "case": "work",
            "side": "by",
            "tokens_per_s": "tokens/s",
            "tokens_per_s_ratio": "x",
            "peak_mib": "peak MiB",
        },
        note=_NOTE,
        settings={
            "model": loaded.name,
            "dtype": str(loaded.model.dtype),
            "device": str(loaded.model.device),
            "threads": torch.get_num_threads(),
            "works": {name: vars(work) for name, work in works.items()},
        },
        repetitions=1 if options.quick else 2,
    )


@contextmanager
def _sides(loaded: Any, work: Work) -> Iterator[Mapping[str, Side]]:
    """Engine, baseline, one at a time, reference backend."""
    from agentgym.inference.engine import Engine
    from agentgym.inference.hf import HFBackend

    generated = partial(_generated, loaded.model, work)
    single = Work(**{**vars(work), "episodes": 1, "branches": 1})
    yield {
        "engine": partial(_backend, loaded, work, Engine),
        "baseline": lambda repetition: _measure(loaded, work, repetition, generated),
        "one at a time": lambda repetition: _measure(loaded, single, repetition, generated),
        "HFBackend": partial(_backend, loaded, work, HFBackend),
    }


def _backend(
    loaded: Any, work: Work, kind: Callable[..., InferenceBackend], repetition: int
) -> Measurement:
    """A repetition by a backend that starts empty."""
    resident = _Memory(loaded.model.device)
    backend = kind(loaded.model, loaded.tokenizer, eos_ids=())
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
    loaded: Any, work: Work, repetition: int, answer: Answer, resident: "_Memory | None" = None
) -> Measurement:
    """Play the turns of a repetition; the warm-up plays one."""
    resident = resident or _Memory(loaded.model.device)
    vocabulary = int(loaded.model.get_input_embeddings().weight.shape[0])
    turns = work.turns if repetition else 1
    started = perf_counter()
    sampled = play(work, turns, vocabulary, repetition, answer)
    seconds = perf_counter() - started
    peak = resident.peak_mib()
    return Measurement(
        seconds=seconds,
        counts={"tokens": sampled, **({} if peak is None else {"peak_mib": peak})},
        outcome=[turns, work.action],
    )


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
