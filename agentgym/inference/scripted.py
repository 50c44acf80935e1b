"""Given answers instead of a model: for tests, examples and debugging an environment."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agentgym.core import GenerationRequest
from agentgym.errors import ConfigError, InferenceError
from agentgym.types import Completion, FloatArray, IntArray

Script = Sequence[str] | Callable[[GenerationRequest], str]


class ScriptedBackend:
    """An `InferenceBackend` that replays a script.

    Example:
        >>> backend = ScriptedBackend(["click('a1')", "done()"])
        >>> request = GenerationRequest(np.array([1], np.int32))
        >>> [backend.generate([request])[0].text for _ in range(3)]
        ["click('a1')", 'done()', "click('a1')"]
    """

    concurrency = 1

    def __init__(self, script: Script, tokenizer: Any = None, *, repeat: bool = True) -> None:
        """Take the script.

        Args:
            script: answers in the order of the requests, or a function from request to answer. A
                function's exception makes that request alone fail.
            tokenizer: a transformers tokenizer; with it, answers carry their ids followed by the
                end token, each with log-probability 0 (the script is certain).
            repeat: begin again after the last answer; otherwise further requests fail.

        Raises:
            ConfigError: the script is empty or a single string.
        """
        if isinstance(script, str) or not (callable(script) or len(script)):
            raise ConfigError(f"script must be a non-empty list of answers, got {script!r}")
        self.version = 0
        self.requests: list[GenerationRequest] = []
        """Every request so far, for tests to look at."""
        self._script = script
        self._tokenizer = tokenizer
        self._repeat = repeat
        self._next = 0
        self._lock = threading.Lock()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer from the script; see `InferenceBackend.generate`."""
        with self._lock:
            return [self._answer(request) for request in requests]

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Zeros: a script is certain of its tokens."""
        return [
            np.zeros(len(sequence) - start, np.float32)
            for sequence, start in zip(sequences, starts, strict=True)
        ]

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Take the version; there are no weights."""
        self.version = version

    def close(self) -> None:
        """Nothing to free."""

    def _answer(self, request: GenerationRequest) -> Completion:
        self.requests.append(request)
        try:
            text = self._script(request) if callable(self._script) else self._line()
        except Exception as error:  # whatever a script raises is that request's failure
            return Completion(
                text="",
                token_ids=None,
                finish_reason="error",
                weights_version=self.version,
                error=f"the script failed: {error!r}",
            )
        ids = self._ids(text)
        zeros = None if ids is None else np.zeros(len(ids), np.float32)
        return Completion(
            text=text,
            token_ids=ids,
            logprobs=zeros,
            kept_mass=None if zeros is None else np.ones_like(zeros),
            entropy=zeros,
            weights_version=self.version,
        )

    def _line(self) -> str:
        assert not callable(self._script)
        if self._next >= len(self._script) and not self._repeat:
            raise InferenceError(f"the script ended after {len(self._script)} answers")
        self._next += 1
        return self._script[(self._next - 1) % len(self._script)]

    def _ids(self, text: str) -> IntArray | None:
        if self._tokenizer is None:
            return None
        ids = list(self._tokenizer.encode(text, add_special_tokens=False))
        if self._tokenizer.eos_token_id is not None:
            ids.append(self._tokenizer.eos_token_id)
        return np.array(ids, np.int32)
