"""The benchmark `train`: GRPO steps by this project, by TRL, and by a plain loop."""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import agentgym
from agentgym import paths
from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side
from agentgym.errors import ConfigError, MissingDependencyError, TrainingError

WORKER = Path(__file__).with_name("benchmark_worker.py")
DEADLINE_S = 600.0
"""For a side to load its model, and for each step."""
_NOTE = (
    "A step samples answers to a few prompts, scores them and makes one update: the same prompts, "
    "as many new tokens, the clipped loss over all of them, AdamW on float32 weights with bfloat16 "
    "compute where the hardware has it, no gradient checkpointing. Each side runs in a process of "
    "its own. Peak memory is of a step: of the whole process, libraries included, on a CPU, and "
    "what is allocated on an accelerator. Steps per CPU minute are by the time that processors "
    "worked for the process, which other work on the machine hardly changes. transformers: batched "
    "generate, then one pass with all logits."
)
_WITHOUT_TRL = "TRL was left out: --trl names a Python interpreter that has it."
_WORDS = (
    "the a red blue old small tall open book house tree cat dog river stone door garden road runs "
    "walks looks waits under over near behind and then but while because"
).split()


@dataclass(frozen=True)
class Work:
    """What a step is."""

    prompts: int
    answers: int
    """To each prompt: the group."""
    words: int
    """Of a prompt, about one token each."""
    new_tokens: int


QUICK = {"2 x 2, 20 + 4": Work(2, 2, 20, 4)}
ON_CPU = {
    "2 prompts x 4 answers, 200 + 32 tokens": Work(2, 4, 200, 32),
    "2 prompts x 8 answers, 60 + 60 tokens": Work(2, 8, 60, 60),
}
ON_GPU = {
    "8 prompts x 8 answers, 500 + 64 tokens": Work(8, 8, 500, 64),
    "8 prompts x 8 answers, 100 + 200 tokens": Work(8, 8, 100, 200),
}


def train(options: BenchmarkOptions) -> Benchmark:
    """GRPO steps.

    Raises:
        ConfigError: there is no such interpreter for TRL.
        MissingDependencyError: torch or the embedded model is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch is not installed; run pip install -e '.[train]'")
    import torch

    from agentgym.models.load import DEFAULT_MODEL, resolve_device, resolve_dtype

    if options.trl and shutil.which(options.trl) is None:
        raise ConfigError(
            f"--trl {options.trl!r} cannot be run; give the Python of an environment with TRL, "
            "such as venv/bin/python"
        )
    if options.dtype == "float16":
        raise ConfigError("bench train computes in bfloat16 or float32; leave out --dtype float16")
    name = options.model or ("tiny" if options.quick else DEFAULT_MODEL)
    device = resolve_device("auto")
    mixed = "bfloat16" in str(resolve_dtype(options.dtype, device))
    repetitions = 1 if options.quick else 3
    works = QUICK if options.quick else (ON_GPU if device.type == "cuda" else ON_CPU)
    common = {"device": str(device), "compute": "bfloat16" if mixed else "float32"}
    return Benchmark(
        title=f"GRPO steps with {name}",
        cases=[
            Case(
                label,
                partial(_sides, name, work, common, options.trl, repetitions),
                baseline="TRL" if options.trl else "transformers",
            )
            for label, work in works.items()
        ],
        rates={
            "steps_per_min": lambda m: 60 * m.counts["steps"] / m.seconds,
            "steps_per_cpu_min": lambda m: 60_000 * m.counts["steps"] / m.counts["cpu_ms"],
            "peak_mib": lambda m: m.counts["peak_mib"],
        },
        columns={
            "case": "step",
            "side": "by",
            "steps_per_min": "steps/min",
            "steps_per_min_ratio": "x",
            "steps_per_cpu_min": "steps/CPU min",
            "steps_per_cpu_min_ratio": "x",
            "peak_mib": "peak MiB",
            "peak_mib_ratio": "x",
            "generation_share": "generation",
        },
        note=_NOTE if options.trl else f"{_NOTE}\n{_WITHOUT_TRL}",
        settings={
            "model": name,
            **common,
            "threads": torch.get_num_threads(),
            "works": {label: vars(work) for label, work in works.items()},
        },
        repetitions=repetitions,
    )


@contextmanager
def _sides(
    name: str, work: Work, common: Mapping[str, Any], trl: str, repetitions: int
) -> Iterator[Mapping[str, Side]]:
    """A process for each side, with the model in a folder that all can read."""
    from agentgym.models.load import load_model, save_model

    sides = {"agentgym": ("agentgym", sys.executable), "transformers": ("plain", sys.executable)}
    if trl:
        sides["TRL"] = ("trl", trl)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        loaded = load_model(name, device="cpu")
        save_model(loaded.model, loaded.tokenizer, folder)
        del loaded
        settings = {
            **common,
            "model": folder,
            "prompts": prompts_of(work, repetitions + 1),
            "prompts_per_step": work.prompts,
            "group_size": work.answers,
            "new_tokens": work.new_tokens,
        }
        opened = {
            label: stack.enter_context(Worker(python, {**settings, "side": side}))
            for label, (side, python) in sides.items()
        }
        yield {label: partial(_measure, worker) for label, worker in opened.items()}


def prompts_of(work: Work, steps: int) -> list[str]:
    """Different prompts for each step, the same at every call."""
    rng = random.Random(0)
    return [" ".join(rng.choices(_WORDS, k=work.words)) for _ in range(steps * work.prompts)]


def _measure(worker: "Worker", repetition: int) -> Measurement:
    told = worker.ask(repetition)
    shares = {"generation": told["generate_s"] / told["seconds"]} if "generate_s" in told else {}
    return Measurement(
        seconds=told["seconds"],
        counts={kind: told[kind] for kind in ("steps", "action_tokens", "cpu_ms", "peak_mib")},
        shares=shares,
        outcome=[told["prompt_tokens"], told["action_tokens"]],
    )


class Worker:
    """A side in its process; see `benchmark_worker`. Use it as a context."""

    def __init__(
        self,
        python: str,
        settings: Mapping[str, Any],
        *,
        script: Path = WORKER,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start the process.

        Args:
            python: interpreter that runs it.
            settings: what it is told first.
            script: what it runs.
            deadline_s: for each answer.
        """
        self._name, self._deadline = str(settings["side"]), deadline_s
        self._said = tempfile.TemporaryFile("w+")
        places = [str(Path(agentgym.__file__).parent.parent)]
        if python == sys.executable and (more := paths.variable("PYTHONPATH")):
            places.append(more)  # where this process has its packages from; not another Python
        # -P: the script's folder is no place to import from.
        self._process = subprocess.Popen(
            [python, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=paths.environment(PYTHONPATH=os.pathsep.join(places), HF_HUB_OFFLINE="1"),
        )
        self._settings: Mapping[str, Any] | None = settings

    def ask(self, step: int) -> dict[str, Any]:
        """Make a step.

        Raises:
            TrainingError: the process ended, or took too long.
        """
        if self._settings is not None:
            self._exchange(json.dumps(self._settings))
            self._settings = None
        return self._exchange(str(step))

    def _exchange(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self._deadline, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if answer:
            told: dict[str, Any] = json.loads(answer)
            return told
        if late:
            raise TrainingError(f"{self._name!r} took longer than {self._deadline:g} s for a step")
        self._process.wait()
        self._said.seek(0)
        last = next((x for x in reversed(self._said.read().splitlines()) if x.strip()), "")
        raise TrainingError(f"{self._name!r} ended early: {last or 'it said nothing'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
