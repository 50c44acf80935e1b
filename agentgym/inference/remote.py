"""Generation by any server that speaks the OpenAI protocol: hosted models, vLLM, SGLang, ours."""

import asyncio
import concurrent.futures
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import numpy as np

from agentgym import paths
from agentgym.core import GenerationRequest
from agentgym.errors import ConfigError, ImageError, InferenceError, MissingDependencyError
from agentgym.images import data_url
from agentgym.inference.wire_pictures import write_message
from agentgym.types import Completion, FinishReason, FloatArray, IntArray

S = TypeVar("S")
T = TypeVar("T")

Mode = Literal["chat", "completions"]

_FINISH: dict[str | None, FinishReason] = {
    "length": "length",
    "content_filter": "abort",
    "abort": "abort",
}
_RETRIED_STATUS = frozenset({408, 409, 429})
_LONGEST_WAIT_S = 60.0
_CHECK_S = 5.0
_IDS = ""
"""Stands for a prompt of ids, which goes by `extra_body`: the client looks at each element of its
own arguments in Python, 10 ms for a prompt of 1000 ids."""


@dataclass(slots=True)
class Usage:
    """What a backend has asked for since it was made. Failed attempts cost what they told."""

    requests: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that the server had in its prefix cache."""
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency."""

    prompt: float = 0.0
    completion: float = 0.0
    cached: float | None = None
    """Of a prompt's cached tokens; `None`: as the others."""

    def cost(self, usage: Usage) -> float:
        """Of all that was used.

        Example:
            >>> used = Usage(prompt_tokens=3_000_000, cached_tokens=1_000_000)
            >>> Prices(prompt=2.0, cached=0.5).cost(used), Prices(prompt=2.0).cost(used)
            (4.5, 6.0)
        """
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        total = fresh * self.prompt + usage.cached_tokens * cached
        return (total + usage.completion_tokens * self.completion) / 1e6


class OpenAIBackend:
    """An `InferenceBackend` over HTTP.

    In ``completions`` mode the exact prompt ids are sent, and servers that can (vLLM, SGLang since
    July 2026, `agentgym serve`) return the sampled ids by their field ``return_token_ids`` with
    log-probabilities. In ``chat`` mode the request's messages are sent, pictures as ``image_url``
    parts with ``data:`` URLs; with ``token_ids=True``
    the same servers return ids there too. What a server does not tell is `None`, so such answers
    can be judged and replayed as text but not trained on by token.

    Rate limits, server errors, lost connections, time-outs and unreadable answers are tried again
    with exponential, jittered waits; then, or when its deadline is over, that request alone fails.
    A server that asks for patience (429 or 503 with ``Retry-After``) gets it from all requests.

    vLLM takes defaults for what is not sent from the model's ``generation_config.json``; start it
    with ``--generation-config vllm`` so that top-k and penalties stay off. Checked against vLLM
    0.32.
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
        deadline_s: float = 600.0,
        max_retries: int = 4,
        backoff_s: float = 0.5,
        token_ids: bool | None = None,
        prices: Prices | None = None,
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
            deadline_s: longest time of one request from its first attempt on, waits and further
                attempts included; also ends an answer that trickles without end.
            max_retries: further attempts after the first.
            backoff_s: wait before the first retry, doubled each time, at most a minute. A
                server's ``Retry-After`` is followed up to the same limit.
            token_ids: ask for ids; by default in ``completions`` mode. Hosted models refuse it.
            prices: for `accounting`.
            extra_body: further fields of every request, e.g. ``{"min_p": 0.05}``.

        Raises:
            ConfigError: a value is out of range, or the key's variable is empty.
            MissingDependencyError: the package openai is not installed.
        """
        if mode not in ("chat", "completions"):
            raise ConfigError(f"mode must be 'chat' or 'completions', got {mode!r}")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {base_url!r}")
        if concurrency < 1 or max_retries < 0 or backoff_s < 0:
            raise ConfigError(
                "concurrency must be at least 1, max_retries and backoff_s at least 0, "
                f"got {concurrency}, {max_retries}, {backoff_s}"
            )
        if timeout_s <= 0 or deadline_s <= 0:
            raise ConfigError(
                f"timeout_s and deadline_s must be above 0, got {timeout_s}, {deadline_s}"
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
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key, timeout=timeout_s, max_retries=0
        )
        self.model = model
        self.mode: Mode = mode
        self.version = 0
        self.concurrency = concurrency
        self.usage = Usage()
        self.prices = prices or Prices()
        self._base_url = base_url
        self._deadline_s = deadline_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._token_ids = mode == "completions" if token_ids is None else token_ids
        self._extra_body = dict(extra_body or {})
        self._jitter = random.Random()  # not the global stream, which a run may have seeded
        self._loop = _Loop("openai")
        self._free = asyncio.Semaphore(concurrency)
        self._patient_until = 0.0  # nobody asks before this moment of `time.monotonic`

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the backend is closed.
        """
        return self._loop.run([self._answer(request) for request in requests])

    def logprobs(self, sequences: Sequence[IntArray], starts: Sequence[int]) -> list[FloatArray]:
        """Log-probabilities of given tokens, by vLLM's ``prompt_logprobs``.

        Raises:
            ConfigError: a start is out of range.
            InferenceError: chat mode, a server that does not tell them, or one that failed.
        """
        if self.mode != "completions":
            raise InferenceError("chat servers do not score given tokens; use mode='completions'")
        pairs = list(zip(sequences, starts, strict=True))
        for ids, start in pairs:
            if not 1 <= start <= len(ids):
                raise ConfigError(f"start must be in 1..{len(ids)}, got {start}")
        return self._loop.run([self._score(ids, start) for ids, start in pairs])

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Refuse: the protocol has no way to send weights.

        Raises:
            InferenceError: always.
        """
        raise InferenceError(
            f"{self._base_url} serves its own weights and cannot take new ones; "
            "train with the 'engine', 'hf' or 'vllm' backend"
        )

    def close(self) -> None:
        """Give up all requests; may be called twice."""
        self._loop.close(self._client.close)

    def check(self) -> None:
        """Ask the server for its models: is it there, and does it know ours?

        Raises:
            InferenceError: no answer within 5 seconds, a refusal, or another model.
        """

        async def names() -> list[str]:
            try:
                page = await self._client.models.list(timeout=_CHECK_S)
                return [card.id for card in page.data]
            except (self._openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
                raise InferenceError(f"{self._base_url} is not well: {_one_line(error)}") from error

        known = self._loop.run([names()])[0]
        if self.model not in known:
            raise InferenceError(f"{self._base_url} serves {known}, not {self.model!r}")

    def accounting(self) -> dict[str, float]:
        """Requests, tokens and ``cost`` so far, as plain numbers for logs."""
        return {**asdict(self.usage), "cost": self.prices.cost(self.usage)}

    async def _answer(self, request: GenerationRequest) -> Completion:
        self.usage.requests += 1
        ask = self._chat if self.mode == "chat" else self._complete
        try:
            return await self._attempt(lambda: ask(request))
        except InferenceError as error:
            self.usage.failed += 1
            return Completion(
                text="",
                token_ids=None,
                finish_reason="error",
                weights_version=self.version,
                error=str(error),
            )

    async def _chat(self, request: GenerationRequest) -> Completion:
        if not request.messages:
            raise InferenceError("the request has no messages; use mode='completions' for ids")
        messages: Any = _written(write_message, request.messages)
        fields = self._fields(request)
        if self._token_ids:
            fields["logprobs"] = True
        answer = await self._client.chat.completions.create(messages=messages, **fields)
        choice, message = answer.choices[0], answer.choices[0].message
        told = choice.logprobs.content if choice.logprobs else None
        logprobs = None if told is None else [entry.logprob for entry in told]
        return self._completion(answer, choice, message.content or message.refusal or "", logprobs)

    async def _complete(self, request: GenerationRequest) -> Completion:
        prompt = request.prompt_ids.tolist()
        fields = self._fields(request)
        fields["extra_body"] = {"prompt": prompt, **fields["extra_body"]}
        if request.images:
            fields["extra_body"]["images"] = _written(data_url, request.images)
        answer = await self._client.completions.create(prompt=_IDS, logprobs=0, **fields)
        choice = answer.choices[0]
        seen = getattr(choice, "prompt_token_ids", None)
        if seen is not None and list(seen) != prompt:
            raise InferenceError(
                f"{self._base_url} answered another prompt: it read {len(seen)} ids instead of "
                f"{len(prompt)}; switch its truncation and added tokens off"
            )
        if request.images and getattr(answer, "pictures", 0) != len(request.images):
            raise InferenceError(
                f"{self._base_url} does not read pictures beside ids; `agentgym serve` with a "
                "vision-language model does, others take them in mode='chat'"
            )
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else None
        return self._completion(answer, choice, choice.text, logprobs)

    def _fields(self, request: GenerationRequest) -> dict[str, Any]:
        """What both kinds of request have in common."""
        params = request.sampling
        extra: dict[str, Any] = {"top_k": params.top_k} if params.top_k else {}
        if self._token_ids:
            extra["return_token_ids"] = True
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
        """Read an answer; what belongs to tokens only if told for each of them."""
        if answer.usage:
            details = getattr(answer.usage, "prompt_tokens_details", None)
            self.usage.prompt_tokens += answer.usage.prompt_tokens or 0
            self.usage.cached_tokens += getattr(details, "cached_tokens", None) or 0
            self.usage.completion_tokens += answer.usage.completion_tokens or 0
        # None of these are fields of the protocol: vLLM, SGLang and `agentgym serve` add them.
        told = getattr(choice, "token_ids", None)
        if told is None:
            told = getattr(choice, "response_token_ids", None)
        ids = None if told is None else np.array(told, np.int32)
        if ids is not None and ids.ndim != 1:
            raise ValueError(f"token ids must be a list of integers, got {told!r:.100}")
        version = getattr(answer, "weights_version", None)
        self.version = version if isinstance(version, int) else self.version
        return Completion(
            text=text,
            token_ids=ids,
            logprobs=_per_token(ids, logprobs),
            kept_mass=_per_token(ids, getattr(choice, "kept_mass", None)),
            entropy=_per_token(ids, getattr(choice, "entropy", None)),
            finish_reason=_FINISH.get(choice.finish_reason, "stop"),
            weights_version=self.version,
        )

    async def _score(self, ids: IntArray, start: int) -> FloatArray:
        """Log-probabilities of one sequence's tokens from `start` on."""
        answer = await self._attempt(
            lambda: self._client.completions.create(
                model=self.model,
                prompt=_IDS,
                max_tokens=1,
                temperature=0.0,
                extra_body={"prompt": ids.tolist(), "prompt_logprobs": 0, **self._extra_body},
            )
        )
        told = getattr(answer.choices[0], "prompt_logprobs", None)
        if told is None:
            raise InferenceError(f"{self._base_url} does not score given tokens; vLLM does")
        try:
            pairs = zip(told[start:], ids[start:], strict=True)
            return np.array([entry[str(token)]["logprob"] for entry, token in pairs], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise InferenceError(
                f"{self._base_url} scored other tokens ({_one_line(error)})"
            ) from error

    async def _attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it succeeds, cannot succeed, or retries or time are used up.

        Raises:
            InferenceError: it did not succeed; says how often it was tried.
        """
        attempts, reason = 0, "it was waiting for its turn"
        await self._free.acquire()
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    await asyncio.sleep(self._patient_until - time.monotonic())
                    attempts += 1
                    try:
                        return await call()
                    except InferenceError:
                        raise
                    except self._openai.APIStatusError as error:
                        retried = error.status_code in _RETRIED_STATUS or error.status_code >= 500
                        reason, asked = _one_line(error), error.response.headers.get("retry-after")
                    except self._openai.OpenAIError as error:  # connection lost, time-out
                        retried, reason, asked = True, _one_line(error), None
                    except (
                        ValueError,
                        AttributeError,
                        LookupError,
                        TypeError,
                        OverflowError,
                    ) as error:
                        retried, asked = True, None
                        reason = f"the answer cannot be read ({_one_line(error)})"
                    if not retried or attempts > self._max_retries:
                        break
                    self.usage.retries += 1
                    wait = self._wait_s(attempts - 1, asked)
                    if asked:
                        self._patient_until = max(self._patient_until, time.monotonic() + wait)
                    await asyncio.sleep(wait)
        except TimeoutError:
            reason = f"no answer within {self._deadline_s:g} s; the last problem: {reason}"
        finally:
            self._free.release()
        raise InferenceError(f"{self._base_url} after {attempts} attempts: {reason}")

    def _wait_s(self, attempt: int, asked: str | None) -> float:
        """Seconds before the next attempt: what the server asked for, else doubling with jitter."""
        # Jitter keeps many waiting requests from coming back at the same moment.
        own = self._backoff_s * 2.0 ** min(attempt, 30) * self._jitter.uniform(0.75, 1.25)
        return min(max(_seconds(asked), own), _LONGEST_WAIT_S)


class _Loop:
    """An event loop in a thread of its own, for callers that have none."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all at the same time; results in order. The first exception ends them all.

        Raises:
            InferenceError: the loop is closed, or was while they ran.
        """
        with self._lock:
            if self._closed:
                _discard(work)
                raise InferenceError("the backend is closed; make a new OpenAIBackend")
            future = asyncio.run_coroutine_threadsafe(self._all(work), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InferenceError("the backend was closed") from None
        finally:
            future.cancel()  # if this thread was interrupted

    async def _all(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel everything, run one coroutine more, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True

        async def end() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await last()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _written(write: Callable[[S], T], values: Iterable[S]) -> list[T]:
    """Messages or pictures as they are sent.

    Raises:
        InferenceError: a picture comes without its bytes.
    """
    try:
        return [write(value) for value in values]
    except ImageError as error:
        raise InferenceError(str(error)) from error


def _discard(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    for coroutine in work:
        coroutine.close()


def _per_token(ids: IntArray | None, values: Sequence[float | None] | None) -> FloatArray | None:
    """Values as an array if there is one for each id."""
    if ids is None or values is None or len(values) != len(ids) or None in values:
        return None
    return np.array(values, np.float32)


def _seconds(asked: str | None) -> float:
    """A ``Retry-After`` header, a number of seconds or a date, as seconds from now."""
    if not asked:
        return 0.0
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    cause = f" ({error.__cause__!r})" if error.__cause__ else ""
    return f"{type(error).__name__}: {text}{cause}"[:500]
