"""Generation by any server that speaks the OpenAI protocol: hosted models, vLLM, SGLang."""

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from agentgym import paths
from agentgym.core import GenerationRequest
from agentgym.errors import ConfigError, InferenceError, MissingDependencyError
from agentgym.types import Completion, FinishReason, FloatArray, IntArray

T = TypeVar("T")

Mode = Literal["chat", "completions"]

_FINISH: dict[str | None, FinishReason] = {"length": "length", "content_filter": "abort"}
_RETRIED_STATUS = frozenset({408, 409, 429})
_LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class Usage:
    """What a backend has asked for since it was made."""

    requests: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class OpenAIBackend:
    """An `InferenceBackend` over HTTP.

    In ``chat`` mode the request's messages are sent and text comes back. In ``completions`` mode
    the exact prompt ids are sent, and servers that can (vLLM, SGLang) return the sampled ids and
    log-probabilities; what a server does not tell is `None`, so such answers can be judged and
    replayed as text but not trained on by token.

    Rate limits, server errors, lost connections, time-outs and unreadable answers are tried again
    with exponential, jittered waits; then that request alone fails.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        mode: Mode = "chat",
        api_key_env: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        backoff_s: float = 0.5,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect lazily: nothing is sent before the first request.

        Args:
            base_url: up to and including ``/v1``.
            model: the server's name for the model.
            mode: ``chat`` or ``completions``.
            api_key_env: name of the environment variable with the key; `None` for servers
                without one.
            concurrency: most requests in flight, over all calls.
            timeout_s: longest silence of the server within one attempt.
            max_retries: further attempts after the first.
            backoff_s: wait before the first retry, doubled each time, at most a minute. A
                server's ``Retry-After`` is followed up to the same limit.
            extra_body: further fields of every request, e.g. ``{"min_p": 0.05}``.

        Raises:
            ConfigError: a value is out of range, or the key's variable is empty.
            MissingDependencyError: the package openai is not installed.
        """
        if mode not in ("chat", "completions"):
            raise ConfigError(f"mode must be 'chat' or 'completions', got {mode!r}")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {base_url!r}")
        if concurrency < 1 or max_retries < 0 or timeout_s <= 0 or backoff_s < 0:
            raise ConfigError(
                "concurrency must be at least 1, timeout_s above 0, max_retries and backoff_s at "
                f"least 0, got {concurrency}, {timeout_s}, {max_retries}, {backoff_s}"
            )
        key = paths.variable(api_key_env) if api_key_env else "none"
        if not key:
            raise ConfigError(f"environment variable {api_key_env!r} is empty; put the key there")
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError(
                "openai is not installed; run pip install -e '.[openai]'"
            ) from error
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout_s, max_retries=0
        )
        self.model = model
        self.mode: Mode = mode
        self.version = 0
        self.concurrency = concurrency
        self.usage = Usage()
        self._base_url = base_url
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._extra_body = dict(extra_body or {})
        self._jitter = random.Random()  # not the global stream, which a run may have seeded
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._workers = ThreadPoolExecutor(concurrency, thread_name_prefix="openai")

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the backend is closed.
        """
        return self._map(self._answer, requests)

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Log-probabilities of given tokens, by vLLM's ``prompt_logprobs``.

        Raises:
            InferenceError: chat mode, a server that does not tell them, or one that failed.
        """
        if self.mode != "completions":
            raise InferenceError("chat servers do not score given tokens; use mode='completions'")
        return self._map(lambda pair: self._score(*pair), list(zip(sequences, starts, strict=True)))

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Refuse: the protocol has no way to send weights.

        Raises:
            InferenceError: always.
        """
        raise InferenceError(
            f"{self._base_url} serves its own weights and cannot take new ones; "
            "train with the 'hf' backend"
        )

    def close(self) -> None:
        """Stop waiting for answers; may be called twice."""
        self._closing.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _map(self, call: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Call all on the workers; results in order."""
        try:
            futures = [self._workers.submit(call, item) for item in items]
        except RuntimeError as error:
            raise InferenceError("the backend is closed; make a new OpenAIBackend") from error
        return [future.result() for future in futures]

    def _answer(self, request: GenerationRequest) -> Completion:
        self._count(requests=1)
        try:
            if self.mode == "chat":
                return self._attempt(lambda: self._chat(request))
            return self._attempt(lambda: self._complete(request))
        except InferenceError as error:
            self._count(failed=1)
            return Completion(
                text="",
                token_ids=None,
                finish_reason="error",
                weights_version=self.version,
                error=str(error),
            )

    def _chat(self, request: GenerationRequest) -> Completion:
        if not request.messages:
            raise InferenceError("the request has no messages; use mode='completions' for ids")
        messages: Any = [{"role": m.role, "content": m.content} for m in request.messages]
        answer = self._client.chat.completions.create(messages=messages, **self._fields(request))
        choice, message = answer.choices[0], answer.choices[0].message
        return self._completion(answer, choice, message.content or message.refusal or "", None)

    def _complete(self, request: GenerationRequest) -> Completion:
        fields = self._fields(request)
        fields["extra_body"] = {"return_token_ids": True, **fields["extra_body"]}
        answer = self._client.completions.create(
            prompt=[int(token) for token in request.prompt_ids], logprobs=0, **fields
        )
        choice = answer.choices[0]
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else None
        return self._completion(answer, choice, choice.text, logprobs)

    def _fields(self, request: GenerationRequest) -> dict[str, Any]:
        """What both kinds of request have in common."""
        params = request.sampling
        extra = {"top_k": params.top_k} if params.top_k else {}
        return {
            "model": self.model,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "stop": list(params.stop) or None,
            "seed": request.seed,
            "extra_body": {**extra, **self._extra_body},
        }

    def _completion(
        self, answer: Any, choice: Any, text: str, logprobs: Sequence[float | None] | None
    ) -> Completion:
        """Read an answer; ids and log-probabilities only if told and of one length."""
        if answer.usage:
            self._count(
                prompt_tokens=answer.usage.prompt_tokens,
                completion_tokens=answer.usage.completion_tokens,
            )
        # Not a field of the protocol: vLLM and SGLang add it when asked.
        told = getattr(choice, "token_ids", None)
        ids = None if told is None else np.array(told, np.int32)
        whole = ids is not None and logprobs is not None and len(logprobs) == len(ids)
        return Completion(
            text=text,
            token_ids=ids,
            logprobs=np.array(logprobs, np.float32) if whole else None,
            finish_reason=_FINISH.get(choice.finish_reason, "stop"),
            weights_version=self.version,
        )

    def _score(self, ids: IntArray, start: int) -> FloatArray:
        """Log-probabilities of one sequence's tokens from `start` on."""
        if not 1 <= start <= len(ids):
            raise ConfigError(f"start must be in 1..{len(ids)}, got {start}")
        answer = self._attempt(
            lambda: self._client.completions.create(
                model=self.model,
                prompt=[int(token) for token in ids],
                max_tokens=1,
                temperature=0.0,
                extra_body={"prompt_logprobs": 0, **self._extra_body},
            )
        )
        told = getattr(answer.choices[0], "prompt_logprobs", None)
        if told is None:
            raise InferenceError(f"{self._base_url} does not score given tokens; vLLM does")
        pairs = zip(told[start:], ids[start:], strict=True)
        return np.array([entry[str(token)]["logprob"] for entry, token in pairs], np.float32)

    def _attempt(self, call: Callable[[], T]) -> T:
        """Call until it succeeds, cannot succeed, or the retries are used up.

        Raises:
            InferenceError: it did not succeed; says how often it was tried.
        """
        for attempt in range(self._max_retries + 1):
            if attempt:
                self._count(retries=1)
            try:
                return call()
            except InferenceError:
                raise
            except self._openai.APIStatusError as error:
                retried = error.status_code in _RETRIED_STATUS or error.status_code >= 500
                reason, asked = _one_line(error), error.response.headers.get("retry-after")
            except self._openai.OpenAIError as error:  # connection lost, time-out
                retried, reason, asked = True, _one_line(error), None
            except (ValueError, AttributeError, LookupError, TypeError) as error:
                retried, asked = True, None
                reason = f"the answer cannot be read ({_one_line(error)})"
            if not retried or attempt == self._max_retries:
                break
            if self._closing.wait(self._wait_s(attempt, asked)):
                raise InferenceError("the backend was closed")
        raise InferenceError(f"{self._base_url} after {attempt + 1} attempts: {reason}")

    def _wait_s(self, attempt: int, asked: str | None) -> float:
        """Seconds before the next attempt: what the server asked for, else doubling with jitter."""
        try:
            wait = float(asked) if asked else 0.0
        except ValueError:  # the header's other form is a date
            wait = 0.0
        # Jitter keeps many waiting requests from coming back at the same moment.
        own = self._backoff_s * float(2**attempt) * self._jitter.uniform(0.75, 1.25)
        return min(max(wait, own), _LONGEST_WAIT_S)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self.usage, name, getattr(self.usage, name) + (amount or 0))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    cause = f" ({error.__cause__!r})" if error.__cause__ else ""
    return f"{type(error).__name__}: {text}{cause}"[:500]
