import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from agentgym.core import GenerationRequest, InferenceBackend, StreamingBackend, Ticket
from agentgym.errors import ConfigError, InferenceError
from agentgym.inference.batching import BatchingBackend, streaming
from agentgym.inference.scripted import ScriptedBackend
from agentgym.types import Completion, FloatArray


class Gated:
    """A plain backend that echoes ids once its gate is open, and notes its batches."""

    def __init__(self, concurrency: int = 1) -> None:
        self.version = 5
        self.concurrency = concurrency
        self.gate = threading.Event()
        self.batches: list[list[int]] = []
        self.fault: Exception | None = None
        self.closed = 0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.batches.append([int(request.prompt_ids[0]) for request in requests])
        assert self.gate.wait(20)
        if self.fault is not None:
            raise self.fault
        return [Completion("x", r.prompt_ids, weights_version=5) for r in requests]

    def logprobs(self, sequences: Any, starts: Any) -> list[FloatArray]:
        return [np.zeros(len(s) - k, np.float32) for s, k in zip(sequences, starts, strict=True)]

    def load_weights(self, state: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        self.closed += 1
        self.gate.set()


@pytest.fixture
def wrap() -> Iterator[Callable[..., BatchingBackend]]:
    made: list[BatchingBackend] = []

    def make(backend: InferenceBackend, **options: Any) -> BatchingBackend:
        made.append(BatchingBackend(backend, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def request(number: int) -> GenerationRequest:
    return GenerationRequest(np.array([number, 7], np.int32))


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_waits_is_one_batch(wrap: Callable[..., BatchingBackend]) -> None:
    inner = Gated()
    backend = wrap(inner, max_batch=3)
    assert isinstance(backend, StreamingBackend)
    tickets: list[Ticket] = [backend.submit(request(0))]
    until(lambda: inner.batches)
    tickets += [backend.submit(request(number)) for number in range(1, 6)]
    assert backend.waiting == 5
    assert not tickets[0].done
    with pytest.raises(TimeoutError):
        tickets[0].result(0.001)
    inner.gate.set()
    answers = [ticket.result(20) for ticket in tickets]
    assert inner.batches == [[0], [1, 2, 3], [4, 5]]
    assert [int(a.token_ids[0]) for a in answers if a.token_ids is not None] == list(range(6))
    assert all(ticket.done for ticket in tickets)


def test_tokens_are_told_before_the_end(wrap: Callable[..., BatchingBackend]) -> None:
    inner = Gated()
    inner.gate.set()
    backend = wrap(inner)
    told: list[Any] = []
    done_when_told: list[bool] = []
    held = threading.Event()
    ticket: list[Ticket] = []

    def on_tokens(ids: Sequence[int]) -> None:
        held.wait(20)
        told.append(list(ids))
        done_when_told.append(ticket[0].done)

    ticket.append(backend.submit(request(4), on_tokens=on_tokens))
    held.set()
    ticket[0].result(20)
    assert (told, done_when_told) == ([[4, 7]], [False])

    def broken(_: Sequence[int]) -> None:
        raise KeyError("mine")

    both = [backend.submit(request(1), on_tokens=broken), backend.submit(request(2))]
    answers = [ticket.result(20) for ticket in both]
    assert "KeyError('mine')" in answers[0].error
    assert answers[1].error == ""


def test_an_aborted_request_that_waits_is_never_computed(
    wrap: Callable[..., BatchingBackend],
) -> None:
    inner = Gated()
    backend = wrap(inner)
    running = backend.submit(request(0))
    until(lambda: inner.batches)
    waiting, last = backend.submit(request(1)), backend.submit(request(2))
    waiting.abort()
    running.abort()
    for ticket in (waiting, running):
        answer = ticket.result(0)
        assert (answer.finish_reason, answer.weights_version) == ("abort", 5)
    inner.gate.set()
    assert last.result(20).text == "x"
    assert inner.batches == [[0], [2]]
    last.abort()
    assert last.result(0).text == "x", "what is complete stays"


@pytest.mark.parametrize("fault", [InferenceError("gone"), ValueError("a bug")])
def test_a_failed_batch_is_told_and_the_next_goes_on(
    wrap: Callable[..., BatchingBackend], fault: Exception
) -> None:
    inner = Gated()
    inner.gate.set()
    inner.fault = fault
    backend = wrap(inner)
    answers = backend.generate([request(0), request(1)])
    assert all(answer.finish_reason == "error" for answer in answers)
    assert str(fault) in answers[0].error
    inner.fault = None
    assert backend.generate([request(2)])[0].text == "x"


def test_too_few_answers_are_an_error(
    wrap: Callable[..., BatchingBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Gated()
    monkeypatch.setattr(inner, "generate", lambda _: [])
    assert "0 answers to 1" in wrap(inner).generate([request(0)])[0].error


def test_a_backend_of_many_calls_gets_single_requests(
    wrap: Callable[..., BatchingBackend],
) -> None:
    inner = Gated(concurrency=3)
    backend = wrap(inner)
    tickets = [backend.submit(request(number)) for number in range(5)]
    until(lambda: len(inner.batches) == 3)
    inner.gate.set()
    for ticket in tickets:
        ticket.result(20)
    assert sorted(inner.batches) == [[0], [1], [2], [3], [4]]


def test_the_rest_is_passed_on(wrap: Callable[..., BatchingBackend]) -> None:
    inner = Gated()
    backend = wrap(inner)
    assert backend.version == 5
    backend.load_weights({}, 6)
    assert backend.version == 6
    assert backend.logprobs([np.array([1, 2, 3], np.int32)], [1])[0].tolist() == [0, 0]


def test_closing_ends_everything(wrap: Callable[..., BatchingBackend]) -> None:
    inner = Gated()
    backend = wrap(inner)
    tickets = [backend.submit(request(0))]
    until(lambda: inner.batches)
    tickets.append(backend.submit(request(1)))
    backend.close()
    assert [ticket.result(20).finish_reason for ticket in tickets] == ["abort", "abort"]
    assert inner.closed == 1
    with pytest.raises(InferenceError, match="closed"):
        backend.submit(request(2))
    for thread in backend._threads:
        thread.join(20)
        assert not thread.is_alive()


def test_streaming_wraps_only_what_needs_it() -> None:
    plain = ScriptedBackend(["a"])
    wrapped = streaming(plain)
    assert isinstance(wrapped, BatchingBackend)
    assert streaming(wrapped) is wrapped
    wrapped.close()
    with pytest.raises(ConfigError, match="max_batch"):
        BatchingBackend(plain, max_batch=0)
