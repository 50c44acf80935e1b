"""Any backend as a streaming one: requests of many threads are put together into batches."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentgym.core import GenerationRequest, InferenceBackend, StreamingBackend
from agentgym.errors import ConfigError, InferenceError
from agentgym.types import Completion, FloatArray, IntArray

log = logging.getLogger(__name__)

OnTokens = Callable[[Sequence[int]], None]


class BatchTicket:
    """A request in a `BatchingBackend`: a `Ticket`."""

    def __init__(self, backend: "BatchingBackend", request: GenerationRequest) -> None:
        self.request = request
        self.on_tokens: OnTokens | None = None
        self._backend = backend
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._answer: Completion | None = None

    @property
    def done(self) -> bool:
        """True if `result` returns at once."""
        return self._ready.is_set()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer; see `Ticket.result`.

        Raises:
            TimeoutError: not answered yet; the request goes on.
        """
        if not self._ready.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        assert self._answer is not None
        return self._answer

    def abort(self) -> None:
        """Give the request up: at once if it waits; what a batch computes of it is thrown away."""
        version = self._backend.version
        self.settle(Completion("", None, finish_reason="abort", weights_version=version))

    def settle(self, answer: Completion) -> None:
        """Give the answer, once."""
        with self._lock:
            if self._ready.is_set():
                return
            if answer.token_ids is not None and self.on_tokens is not None:
                try:
                    self.on_tokens([int(token) for token in answer.token_ids])
                except Exception as error:  # ends this request alone
                    version = answer.weights_version
                    answer = failed(f"on_tokens raised {error!r}", version)
            self._answer = answer
            self._ready.set()


class BatchingBackend:
    """A `StreamingBackend` around a plain one.

    Requests wait in a queue. Whenever the backend is free, all that wait, up to `max_batch`, are
    one `generate` call. A backend that takes several calls at a time (`concurrency` above 1, such
    as a remote one) gets single requests from as many threads, at most `max_batch`. Tokens come
    all at once at the end.

    Closing it closes the backend inside.
    """

    concurrency = 1

    def __init__(self, backend: InferenceBackend, *, max_batch: int = 64) -> None:
        """Start the threads.

        Args:
            backend: used by nobody else while this is open.
            max_batch: most requests of one call.

        Raises:
            ConfigError: `max_batch` is below 1.
        """
        if max_batch < 1:
            raise ConfigError(f"max_batch must be at least 1, got {max_batch}")
        self.backend = backend
        self.version = backend.version
        self._max_batch = max_batch if backend.concurrency == 1 else 1
        self._waiting: deque[BatchTicket] = deque()
        self._running: set[BatchTicket] = set()
        self._changed = threading.Condition()
        self._alone = threading.Lock()  # held by whoever uses a backend that takes one call
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batching-{index}", daemon=True)
            for index in range(min(backend.concurrency, max_batch))
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, request: GenerationRequest, *, on_tokens: OnTokens | None = None
    ) -> BatchTicket:
        """Queue a request; see `StreamingBackend.submit`.

        Raises:
            InferenceError: the backend is closed.
        """
        ticket = BatchTicket(self, request)
        ticket.on_tokens = on_tokens
        with self._changed:
            if self._closed:
                raise InferenceError("the backend is closed; make a new one")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the backend is closed.
        """
        tickets = [self.submit(request) for request in requests]
        return [ticket.result() for ticket in tickets]

    def logprobs(
        self, sequences: Sequence[IntArray], starts: Sequence[int], **options: Any
    ) -> list[FloatArray]:
        """Log-probabilities of given tokens, between two batches.

        Args:
            sequences: each (L,) ids.
            starts: for each, the first position to score (at least 1).
            options: of the backend inside, such as ``images``.
        """
        if self.backend.concurrency > 1:
            return self.backend.logprobs(sequences, starts, **options)
        with self._alone:
            return self.backend.logprobs(sequences, starts, **options)

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """New weights, between two batches."""
        with self._alone:
            self.backend.load_weights(state, version)
            self.version = self.backend.version

    def close(self) -> None:
        """Abort what waits and runs, and close the backend inside; may be called twice."""
        with self._changed:
            self._closed = True
            left = [*self._waiting, *self._running]
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in left:
            ticket.abort()
        self.backend.close()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def _work(self) -> None:
        while batch := self._next():
            try:
                answers = self._answered(batch)
                for ticket, answer in zip(batch, answers, strict=True):
                    ticket.settle(answer)
            finally:
                with self._changed:
                    self._running.difference_update(batch)

    def _next(self) -> list[BatchTicket]:
        """The next batch, waited for; empty once closed."""
        with self._changed:
            while True:
                while self._waiting and self._waiting[0].done:  # aborted while it waited
                    self._waiting.popleft()
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            batch: list[BatchTicket] = []
            while self._waiting and len(batch) < self._max_batch:
                ticket = self._waiting.popleft()
                if not ticket.done:
                    batch.append(ticket)
            self._running.update(batch)
            return batch

    def _answered(self, batch: Sequence[BatchTicket]) -> list[Completion]:
        requests = [ticket.request for ticket in batch]
        try:
            if self.backend.concurrency > 1:
                answers = self.backend.generate(requests)
            else:
                with self._alone:
                    answers = self.backend.generate(requests)
            self.version = self.backend.version
            if len(answers) == len(requests):
                return answers
            reason = f"the backend gave {len(answers)} answers to {len(requests)} requests"
        except Exception as error:  # whatever it is, these requests have failed and others go on
            if not isinstance(error, InferenceError):
                log.exception("a batch of %d failed", len(batch))
            reason = f"{type(error).__name__}: {str(error)[:500]}"
        return [failed(reason, self.version) for _ in batch]


def failed(reason: str, version: int) -> Completion:
    """The answer to a request that could not be answered."""
    return Completion("", None, finish_reason="error", weights_version=version, error=reason)


def streaming(backend: InferenceBackend, *, max_batch: int = 64) -> StreamingBackend:
    """The backend itself if it streams, else a `BatchingBackend` around it."""
    if isinstance(backend, StreamingBackend):
        return backend
    return BatchingBackend(backend, max_batch=max_batch)
