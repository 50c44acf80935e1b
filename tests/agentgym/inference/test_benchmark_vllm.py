"""The process around vLLM, with a stand-in for vLLM itself."""

import os
import sys
from pathlib import Path

import pytest

from agentgym.inference.benchmark_vllm import VLLMProcess

STAND_IN = """
from types import SimpleNamespace
import os, time

class SamplingParams:
    def __init__(self, **how):
        self.how = how

class LLM:
    def __init__(self, model, **how):
        print("noise on stdout")
        if model == "bad":
            raise ValueError("no such model")
        self.how = how

    def generate(self, prompts, params, use_tqdm):
        if prompts[0]["prompt_token_ids"] == [13]:
            os._exit(3)
        if prompts[0]["prompt_token_ids"] == [14]:
            time.sleep(60)
        return [
            SimpleNamespace(outputs=[SimpleNamespace(
                token_ids=[sum(p["prompt_token_ids"]) + s.how["seed"]] * s.how["max_tokens"]
            )])
            for p, s in zip(prompts, params)
        ]
"""


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def start(model: str = "folder", deadline_s: float = 60.0) -> VLLMProcess:
    return VLLMProcess(
        sys.executable, model, dtype="bfloat16", max_positions=64, deadline_s=deadline_s
    )


def test_batches_are_answered_in_order() -> None:
    process = start()
    try:
        for _ in range(2):
            found = process.answer([[1, 2], [5]], new=3, temperature=0.0, seed=10)
            assert found == [[13] * 3, [16] * 3]  # 3 + 10, 5 + 11
        peak = process.peak_mib()
        assert peak is None or peak > 1
    finally:
        process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process._process.pid, 0)


def test_what_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        start("bad")
    with pytest.raises(RuntimeError, match="/nowhere/python"):
        VLLMProcess("/nowhere/python", "folder", dtype="auto", max_positions=9)


@pytest.mark.parametrize(("token", "word"), [(13, "has ended"), (14, "said nothing")])
def test_a_process_that_dies_or_hangs_is_told(token: int, word: str) -> None:
    process = start()
    process._deadline_s = 0.5 if token == 14 else 60.0
    try:
        with pytest.raises(RuntimeError, match=word):
            process.answer([[token]], new=1, temperature=0.0, seed=0)
    finally:
        process.close()
