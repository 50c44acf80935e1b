import builtins
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import ConfigError, InferenceError, MissingDependencyError
from agentgym.inference.remote import OpenAIBackend, Prices, _seconds
from agentgym.types import Message

Reply = dict[str, Any] | int | str | tuple[int, dict[str, str]]
"""A body, a status, a fault, or a status with headers."""


class FakeServer:
    """An OpenAI-compatible server on this machine whose replies the test decides."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda _, body: chat("fine")
        self.release = threading.Event()
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    count = len(fake.bodies)
                    fake.bodies.append({"path": self.path, **body})
                    fake.headers.append({k.lower(): v for k, v in self.headers.items()})
                    fake.in_flight += 1
                    fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
                try:
                    self.send(fake.reply(count, body))
                finally:
                    with fake._lock:
                        fake.in_flight -= 1

            def send(self, reply: Reply) -> None:
                if reply == "hang":
                    fake.release.wait(20)
                    reply = 500
                if reply == "trickle":  # an answer that never ends and never pauses for long
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    while not fake.release.wait(0.01):
                        try:
                            self.wfile.write(b" ")
                        except OSError:
                            return
                    return
                if reply == "drop":
                    self.close_connection = True
                    return
                status = reply if isinstance(reply, int) else 200
                headers: dict[str, str] = {}
                if isinstance(reply, tuple):
                    status, headers = reply
                text = reply if isinstance(reply, str) else json.dumps(reply)
                if status != 200:
                    text = json.dumps({"error": {"message": f"status {status}"}})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def chat(text: str | None, **choice: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                **choice,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def completion(text: str, **choice: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "text_completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "text": text, "finish_reason": "length", **choice}],
    }


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def connect(server: FakeServer) -> Iterator[Callable[..., OpenAIBackend]]:
    made: list[OpenAIBackend] = []

    def make(**options: Any) -> OpenAIBackend:
        made.append(OpenAIBackend(server.url, "m", **({"backoff_s": 0.001} | options)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def request(text: str = "hi", **params: Any) -> GenerationRequest:
    return GenerationRequest(
        np.array([5, 6], np.int32),
        SamplingParams(**params),
        seed=2**62,
        messages=(Message("system", "S"), Message("user", text)),
    )


def test_chat_sends_messages_and_reads_text(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    backend = connect(extra_body={"min_p": 0.05})
    assert isinstance(backend, InferenceBackend)
    how: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 8,
        "stop": ("\n",),
    }
    answer = backend.generate([request(**how)])[0]
    assert (answer.text, answer.finish_reason, answer.error) == ("fine", "stop", "")
    assert answer.token_ids is None
    assert answer.logprobs is None
    assert server.bodies == [
        {
            "path": "/v1/chat/completions",
            "model": "m",
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 8,
            "stop": ["\n"],
            "seed": 2**62,
            "top_k": 5,
            "min_p": 0.05,
        }
    ]
    assert (backend.usage.prompt_tokens, backend.usage.completion_tokens) == (7, 2)


def test_fields_that_change_nothing_are_not_sent(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    connect().generate([request()])
    assert "top_k" not in server.bodies[0]  # hosted models refuse what they do not know
    assert server.bodies[0].get("stop") is None


@pytest.mark.parametrize(
    ("told", "reason"),
    [("length", "length"), ("content_filter", "abort"), ("tool_calls", "stop"), ("stop", "stop")],
)
def test_finish_reasons(
    server: FakeServer, connect: Callable[..., OpenAIBackend], told: str, reason: str
) -> None:
    server.reply = lambda *_: chat(None, finish_reason=told)
    answer = connect().generate([request()])[0]
    assert (answer.text, answer.finish_reason) == ("", reason)


def test_completions_send_ids_and_read_what_is_told(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    server.reply = lambda *_: completion(
        "ab", token_ids=[8, 9], logprobs={"token_logprobs": [-0.5, -1.5]}
    )
    answer = connect(mode="completions").generate([request()])[0]
    assert server.bodies[0]["path"] == "/v1/completions"
    assert server.bodies[0]["prompt"] == [5, 6]
    assert server.bodies[0]["return_token_ids"] is True
    assert (answer.text, answer.finish_reason) == ("ab", "length")
    assert answer.token_ids is not None
    assert answer.logprobs is not None
    assert answer.token_ids.tolist() == [8, 9]
    assert answer.logprobs.tolist() == [-0.5, -1.5]
    assert answer.token_ids.dtype == np.int32
    assert answer.logprobs.dtype == np.float32


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        ({}, None),
        ({"logprobs": {"token_logprobs": [-0.5]}}, None),
        ({"token_ids": [8, 9]}, [8, 9]),
        ({"token_ids": [8, 9], "logprobs": {"token_logprobs": [-0.5]}}, [8, 9]),
    ],
)
def test_what_the_server_does_not_tell_is_none(
    server: FakeServer,
    connect: Callable[..., OpenAIBackend],
    choice: dict[str, Any],
    ids: list[int] | None,
) -> None:
    server.reply = lambda *_: completion("ab", **choice)
    answer = connect(mode="completions").generate([request()])[0]
    assert answer.text == "ab"
    assert answer.logprobs is None
    assert (None if answer.token_ids is None else answer.token_ids.tolist()) == ids


@pytest.mark.parametrize("fault", [500, 503, 429, 408, "drop", "no json{", "{}", "[]", "hang"])
def test_a_passing_fault_is_tried_again(
    server: FakeServer, connect: Callable[..., OpenAIBackend], fault: Any
) -> None:
    server.reply = lambda count, _: fault if count < 2 else chat("at last")
    backend = connect(timeout_s=1.0 if fault == "hang" else 20)
    answer = backend.generate([request()])[0]
    assert (answer.text, answer.error) == ("at last", "")
    assert (backend.usage.requests, backend.usage.retries, backend.usage.failed) == (1, 2, 0)


@pytest.mark.parametrize("fault", [500, 429, "drop", "no json{", "hang"])
def test_a_lasting_fault_fails_that_request_alone(
    server: FakeServer, connect: Callable[..., OpenAIBackend], fault: Any
) -> None:
    server.reply = lambda _, body: (
        fault if body["messages"][1]["content"] == "bad" else chat("fine")
    )
    backend = connect(max_retries=1, timeout_s=1.0 if fault == "hang" else 20)
    answers = backend.generate([request("a"), request("bad"), request("b")])
    assert [a.text for a in answers] == ["fine", "", "fine"]
    assert answers[1].finish_reason == "error"
    assert "after 2 attempts" in answers[1].error
    assert server.url in answers[1].error
    assert "\n" not in answers[1].error
    assert (backend.usage.requests, backend.usage.retries, backend.usage.failed) == (3, 1, 1)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(
    server: FakeServer, connect: Callable[..., OpenAIBackend], status: int
) -> None:
    server.reply = lambda *_: status
    answer = connect().generate([request()])[0]
    assert "after 1 attempts" in answer.error
    assert str(status) in answer.error
    assert len(server.bodies) == 1


def test_no_server_at_all(server: FakeServer) -> None:
    backend = OpenAIBackend("http://127.0.0.1:9/v1", "m", max_retries=1, backoff_s=0.001)
    answer = backend.generate([request()])[0]
    backend.close()
    assert "127.0.0.1:9" in answer.error
    assert "APIConnectionError" in answer.error


def test_waits_double_and_follow_the_server(connect: Callable[..., OpenAIBackend]) -> None:
    backend = connect(backoff_s=1.0)
    for attempt, middle in enumerate([1, 2, 4, 8]):
        assert 0.75 * middle <= backend._wait_s(attempt, None) <= 1.25 * middle
    assert backend._wait_s(0, "7") == 7
    assert backend._wait_s(0, "Wed, 21 Oct 2026 07:28:00 GMT") <= 1.25
    assert backend._wait_s(0, "86400") == backend._wait_s(30, None) == backend._wait_s(9999, None)
    assert backend._wait_s(9999, None) == 60


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_patience_gets_it_from_all(
    server: FakeServer, connect: Callable[..., OpenAIBackend], status: int
) -> None:
    times: list[float] = []

    def reply(count: int, _: Any) -> Reply:
        times.append(time.monotonic())
        return (status, {"Retry-After": "0.3"}) if count == 0 else chat("fine")

    server.reply = reply
    backend = connect(concurrency=1)
    answers = backend.generate([request(), request()])
    assert [answer.text for answer in answers] == ["fine", "fine"]
    assert times[1] - times[0] >= 0.3
    assert backend._patient_until >= times[0] + 0.3, "other requests wait as well"


def test_seconds_of_retry_after() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < _seconds(soon) <= 30
    assert _seconds("Sat, 01 Jan 2000 00:00:00") == 0, "a date without a zone, in the past"
    assert [_seconds(word) for word in (None, "", "soon", "-3", "nan", "2.5")] == [0] * 5 + [2.5]


@pytest.mark.parametrize("fault", ["trickle", "hang", 500])
def test_a_deadline_ends_what_retries_do_not(
    server: FakeServer, connect: Callable[..., OpenAIBackend], fault: Any
) -> None:
    server.reply = lambda *_: fault
    backend = connect(deadline_s=0.3, max_retries=10**6, backoff_s=0.01)
    answer = backend.generate([request()])[0]
    assert answer.finish_reason == "error"
    assert "no answer within 0.3 s" in answer.error
    assert backend.usage.failed == 1


def test_chat_with_token_ids(server: FakeServer, connect: Callable[..., OpenAIBackend]) -> None:
    told = {"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    for field in ("token_ids", "response_token_ids"):
        server.reply = lambda *_, field=field: chat("a", logprobs=told, **{field: [8]})
        answer = connect(token_ids=True).generate([request()])[0]
        assert answer.token_ids is not None
        assert answer.logprobs is not None
        assert (answer.token_ids.tolist(), answer.logprobs.tolist()) == ([8], [-0.5])
    assert server.bodies[-1]["return_token_ids"] is True
    assert server.bodies[-1]["logprobs"] is True


def test_another_prompt_than_ours_is_an_error(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    server.reply = lambda *_: completion("x", token_ids=[1], prompt_token_ids=[0, 5, 6])
    answer = connect(mode="completions").generate([request()])[0]
    assert "another prompt" in answer.error
    server.reply = lambda *_: completion("x", token_ids=[1], prompt_token_ids=[5, 6])
    assert connect(mode="completions").generate([request()])[0].text == "x"


@pytest.mark.parametrize("ids", [["a"], [[1]], [2**40], {"a": 1}])
def test_ids_that_are_none_are_no_answer(
    server: FakeServer, connect: Callable[..., OpenAIBackend], ids: Any
) -> None:
    server.reply = lambda *_: completion("x", token_ids=ids, logprobs={"token_logprobs": [-1]})
    answer = connect(mode="completions", max_retries=0).generate([request()])[0]
    assert answer.finish_reason == "error"


def test_what_our_own_server_adds(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    extra = {"token_ids": [8, 9], "kept_mass": [1.0, 0.5], "entropy": [0.1]}
    server.reply = lambda *_: {**completion("x", **extra), "weights_version": 7}
    backend = connect(mode="completions")
    answer = backend.generate([request()])[0]
    assert answer.kept_mass is not None
    assert answer.kept_mass.tolist() == [1.0, 0.5]
    assert answer.entropy is None, "one value for two tokens says nothing"
    assert (answer.weights_version, backend.version) == (7, 7)


def test_accounting(server: FakeServer, connect: Callable[..., OpenAIBackend]) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    server.reply = lambda count, _: 500 if count == 0 else {**chat("x"), "usage": usage}
    backend = connect(prices=Prices(prompt=3.0, completion=15.0, cached=0.3), concurrency=1)
    backend.generate([request(), request()])
    # Per request: 600 fresh at 3, 400 cached at 0.3, 50 sampled at 15 per million: 0.00267.
    assert backend.accounting() == {
        "requests": 2,
        "failed": 0,
        "retries": 1,
        "prompt_tokens": 2000,
        "cached_tokens": 800,
        "completion_tokens": 100,
        "cost": pytest.approx(2 * 0.00267),
    }


def test_requests_run_side_by_side_up_to_the_limit(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    barrier = threading.Barrier(3)

    def together(_: int, body: dict[str, Any]) -> Reply:
        barrier.wait(20)  # passes only if three are here at once
        time.sleep(0.01)
        return chat(body["messages"][1]["content"])

    server.reply = together
    backend = connect(concurrency=3)
    answers = backend.generate([request(str(i)) for i in range(9)])
    assert [a.text for a in answers] == [str(i) for i in range(9)]
    assert server.most_in_flight == 3
    assert backend.usage.prompt_tokens == 63


def test_logprobs_by_prompt_logprobs(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    told = [None, *({str(t): {"logprob": -t / 10}, "999": {"logprob": 0}} for t in (6, 7, 8))]
    server.reply = lambda *_: completion("x", prompt_logprobs=told)
    ids = np.array([5, 6, 7, 8], np.int32)
    values = connect(mode="completions").logprobs([ids], [2])[0]
    np.testing.assert_allclose(values, [-0.7, -0.8], atol=1e-6)
    server.reply = lambda *_: completion("x")
    with pytest.raises(InferenceError, match="does not score"):
        connect(mode="completions").logprobs([ids], [2])
    with pytest.raises(InferenceError, match="completions"):
        connect().logprobs([ids], [2])
    with pytest.raises(ConfigError, match="start"):
        connect(mode="completions").logprobs([ids], [0])


def test_weights_cannot_be_sent(connect: Callable[..., OpenAIBackend]) -> None:
    with pytest.raises(InferenceError, match="'hf'"):
        connect().load_weights({}, 1)


def test_a_request_without_messages_fails_alone(connect: Callable[..., OpenAIBackend]) -> None:
    bare = GenerationRequest(np.array([1], np.int32))
    answers = connect().generate([bare, request()])
    assert "no messages" in answers[0].error
    assert answers[1].text == "fine"


def test_a_closed_backend_says_so_and_stops_retrying(
    server: FakeServer, connect: Callable[..., OpenAIBackend]
) -> None:
    backend = connect(backoff_s=30.0)
    server.reply = lambda *_: 500
    results: list[Any] = []

    def ask() -> None:
        try:
            backend.generate([request()])
        except InferenceError as error:
            results.append(str(error))

    worker = threading.Thread(target=ask)
    worker.start()
    while not server.bodies:
        time.sleep(0.005)
    backend.close()
    backend.close()
    worker.join(20)
    assert results == ["the backend was closed"]
    with pytest.raises(InferenceError, match="closed"):
        backend.generate([request()])


def test_the_key_comes_from_the_named_variable(
    server: FakeServer, connect: Callable[..., OpenAIBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")  # must not go to a server it is not for
    connect(api_key_env="A_KEY").generate([request()])
    connect().generate([request()])
    assert [h["authorization"] for h in server.headers] == ["Bearer secret", "Bearer none"]
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match="A_KEY"):
        connect(api_key_env="A_KEY")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "telepathy"}, "mode"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_wrong_options(
    connect: Callable[..., OpenAIBackend], options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        connect(**options)
    with pytest.raises(ConfigError, match="base_url"):
        OpenAIBackend("localhost:8000", "m")


def test_without_the_package(
    connect: Callable[..., OpenAIBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install -e"):
        connect()
