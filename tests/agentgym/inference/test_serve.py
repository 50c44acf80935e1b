"""The server as its clients see it: over real sockets, by OpenAI's own client and by hand."""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

import numpy as np
import openai
import pytest

from agentgym import cli
from agentgym.core import GenerationRequest, SamplingParams, StreamingBackend
from agentgym.errors import ConfigError, InferenceError, MissingDependencyError
from agentgym.inference import serve
from agentgym.inference.batching import BatchTicket
from agentgym.inference.engine import Engine
from agentgym.inference.hf import HFBackend
from agentgym.inference.remote import OpenAIBackend
from agentgym.inference.scripted import ScriptedBackend
from agentgym.inference.serve import ServeConfig, Server, make_uvicorn
from agentgym.models.tiny import tiny_model, tiny_tokenizer
from agentgym.types import Completion, FloatArray, Message

MODEL = "m"
TOKENIZER = tiny_tokenizer()


class FakeTicket(BatchTicket):
    """A ticket that knows the tokens to come."""

    def __init__(self, backend: Any, request: GenerationRequest, text: str) -> None:
        super().__init__(backend, request)
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        self.left = [*ids, TOKENIZER.eos_token_id]
        self.ids: list[int] = []

    def end(self, finish: Any) -> None:
        ids = np.array(self.ids, np.int32)
        text = TOKENIZER.decode(ids[:-1] if finish == "stop" else ids)
        logprobs, mass, entropy = (np.full(len(ids), x, np.float32) for x in (-0.5, 1.0, 0.25))
        self.on_tokens = None  # all told
        self.settle(Completion(str(text), ids, logprobs, mass, entropy, finish, 3))


class FakeStream:
    """A streaming backend that spells out a script, one token of every request per beat."""

    concurrency = 1

    def __init__(self, script: Callable[[GenerationRequest], str]) -> None:
        self.version = 3
        self.script = script
        self.beat_s = 0.001
        self.held = threading.Event()  # set: nothing moves
        self.requests: list[GenerationRequest] = []
        self.running: set[FakeTicket] = set()
        self.closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, *, on_tokens: Any = None) -> FakeTicket:
        if self.closed:
            raise InferenceError("closed")
        ticket = FakeTicket(self, request, self.script(request))
        ticket.on_tokens = on_tokens
        with self._lock:
            self.requests.append(request)
            self.running.add(ticket)
        return ticket

    def _beats(self) -> None:
        while not self.closed:
            time.sleep(self.beat_s)
            with self._lock:
                tickets = [] if self.held.is_set() else list(self.running)
                self.running = {ticket for ticket in self.running if not ticket.done}
            for ticket in tickets:
                self._advance(ticket)

    def _advance(self, ticket: FakeTicket) -> None:
        if ticket.done:
            return
        ticket.ids.append(ticket.left.pop(0))
        if ticket.on_tokens is not None:
            ticket.on_tokens(ticket.ids[-1:])
        if not ticket.left:
            ticket.end("stop")
        elif len(ticket.ids) >= ticket.request.sampling.max_tokens:
            ticket.end("length")

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return [ticket.result() for ticket in [self.submit(request) for request in requests]]

    def logprobs(self, sequences: Any, starts: Any) -> list[FloatArray]:
        return [
            -np.asarray(ids[start:], np.float32)
            for ids, start in zip(sequences, starts, strict=True)
        ]

    def load_weights(self, state: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        self.closed = True
        self._thread.join()


def spoken(request: GenerationRequest) -> str:
    """What the prompt says after the last newline but one, or the text of a completion."""
    text = str(TOKENIZER.decode(request.prompt_ids.tolist()))
    if "<|im_start|>" in text:
        text = text.split("<|im_start|>")[-2].split("\n", 1)[1].removesuffix("<|im_end|>\n")
    return f"you said {text}"


class Running:
    """A server in a thread of its own."""

    def __init__(self, backend: Any, **config: Any) -> None:
        self.server = Server(backend, TOKENIZER, ServeConfig(MODEL, **config), Bits())
        self.uvicorn = make_uvicorn(self.server)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.thread = threading.Thread(target=self.uvicorn.run, args=([self.socket],))
        self.thread.start()
        until(lambda: self.uvicorn.started)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.server.backend.close()

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, **options)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of one request; a bytes body goes as it is."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, data, headers or {})
            response = connection.getresponse()
            text = response.read()
        kind = response.headers["content-type"]
        return response.status, json.loads(text) if "json" in kind else text.decode()


class Bits:
    """An embedder: the bits of a text's length."""

    name = "bits"
    dimension = 4

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return np.array([[len(t) >> k & 1 for k in range(4)] for t in texts], np.float32)


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running(FakeStream(spoken))
    yield running
    running.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def make(backend: Any = None, **config: Any) -> Running:
        started.append(Running(backend or FakeStream(spoken), **config))
        return started[-1]

    yield make
    for running in started:
        running.stop()


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def test_chat(running: Running) -> None:
    with running.client() as client:
        answer = client.chat.completions.create(**chat("hello", n=2), seed=5)
    assert [c.message.content for c in answer.choices] == ["you said hello"] * 2
    assert [c.finish_reason for c in answer.choices] == ["stop", "stop"]
    prompt = TOKENIZER.encode("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 2 * (len("you said hello") + 1)
    requests = running.server.backend.requests[-2:]  # type: ignore[attr-defined]
    assert requests[0].prompt_ids.tolist() == prompt
    assert requests[0].seed == 5
    assert requests[1].seed != 5, "each of n answers has a stream of its own"
    assert requests[0].messages == (Message("user", "hello"),)


def test_streamed_chat(running: Running) -> None:
    with running.client() as client:
        stream = client.chat.completions.create(
            **chat("héllo 🙂", n=2), stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    texts, ends = {0: "", 1: ""}, {}
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == {0: "you said héllo 🙂", 1: "you said héllo 🙂"}
    assert ends == {0: "stop", 1: "stop"}
    assert len(chunks) > 10, "it came in pieces"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2 * (len("you said héllo 🙂".encode()) + 1)


def test_completions_of_lists(running: Running) -> None:
    for prompt in (["ab", "c"], [[*b"xy"], [200]]):
        status, answer = running.ask(
            "/v1/completions", {"model": MODEL, "prompt": prompt, "n": 2, "max_tokens": 99}
        )
        assert status == 200, answer
        assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
        said = [c["text"] for c in answer["choices"]]
        assert said[0] == said[1] != said[2] == said[3]
    assert answer["usage"]["prompt_tokens"] == 3


def test_our_client_gets_back_exactly_what_the_backend_says(running: Running) -> None:
    client = OpenAIBackend(running.url, MODEL, mode="completions")
    prompt = np.array(TOKENIZER.encode("Hi"), np.int32)
    request = GenerationRequest(prompt, SamplingParams(max_tokens=200), seed=2**63 - 1)
    answer, again = client.generate([request, request])
    direct = running.server.backend.generate([request])[0]
    scores = client.logprobs([prompt, prompt], [1, 2])
    client.close()
    assert answer.text == direct.text == "you said Hi"
    for name in ("token_ids", "logprobs"):
        np.testing.assert_array_equal(getattr(answer, name), getattr(direct, name))
        np.testing.assert_array_equal(getattr(again, name), getattr(direct, name))
    assert running.server.backend.requests[-1].prompt_ids.tolist() == prompt.tolist()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(scores[0], -prompt[1:].astype(np.float32))
    assert len(scores[1]) == 0


def test_token_ids_and_logprobs_in_full(running: Running) -> None:
    body = {"model": MODEL, "prompt": "A", "return_token_ids": True, "logprobs": 0, "max_tokens": 3}
    _, answer = running.ask("/v1/completions", body)
    choice = answer["choices"][0]
    ids = TOKENIZER.encode("you", add_special_tokens=False)
    assert choice["token_ids"] == ids
    assert choice["prompt_token_ids"] == TOKENIZER.encode("A")
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] == {
        "tokens": ["y", "o", "u"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": None,
        "text_offset": [0, 1, 2],
    }
    assert (choice["kept_mass"], choice["entropy"]) == ([1.0] * 3, [0.25] * 3)
    assert answer["weights_version"] == 3


def test_streamed_token_ids_are_complete(running: Running) -> None:
    body = {"model": MODEL, "prompt": "A", "return_token_ids": True, "stream": True}
    _, text = running.ask("/v1/completions", {**body, "max_tokens": 50})
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    ids = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert ids == [*TOKENIZER.encode("you said A"), TOKENIZER.eos_token_id]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "you said A"


def test_embeddings(running: Running) -> None:
    with running.client() as client:  # asks for base64 by itself
        packed = client.embeddings.create(model="bits", input=["abc", "a"])
        plain = client.embeddings.create(model="bits", input="ab", encoding_format="float")
    assert [d.embedding for d in packed.data] == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert plain.data[0].embedding == [0, 1, 0, 0]


def test_models_health_and_metrics(running: Running) -> None:
    with running.client() as client:
        assert [card.id for card in client.models.list()] == [MODEL, "bits"]
        assert client.models.retrieve(MODEL).owned_by == "agentgym"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.models.retrieve("else")
    assert running.ask("/health") == (200, {"status": "ok", "weights_version": 3})
    running.ask("/v1/completions", {"model": MODEL, "prompt": "A", "max_tokens": 3})
    status, text = running.ask("/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert int(values['agentgym_requests_total{route="/v1/completions",status="200"}']) >= 1
    assert int(values["agentgym_prompt_tokens_total"]) >= 1
    assert int(values["agentgym_generation_tokens_total"]) >= 3
    assert values["agentgym_in_flight"] == "0"
    assert "else" not in text, "no label comes from a client"


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("completions", b"", "JSON"),
        ("completions", b"[" * 100_000, "deep"),
        ("completions", {"model": MODEL, "prompt": [10**30]}, "prompt"),
        ("completions", {"model": MODEL, "prompt": "x", "\ud800": 1}, "unrecognized"),
        ("chat/completions", {"model": MODEL, "messages": [3]}, "object"),
        ("embeddings", {"model": "bits", "input": {}}, "input"),
    ],
)
def test_a_bad_body_is_refused_in_openais_form(
    running: Running, path: str, body: Any, word: str
) -> None:
    status, answer = running.ask(f"/v1/{path}", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert word in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_wrong_model_path_and_method(running: Running) -> None:
    status, answer = running.ask("/v1/completions", {"model": "\ud800", "prompt": "x"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert running.ask("/v1/nothing")[0] == 404
    assert running.ask("/v1/nothing")[1]["error"]["type"] == "invalid_request_error"
    assert running.ask("/v1/completions")[0] == 405
    assert running.ask("/v1/embeddings", {"model": "bits", "input": [""]})[0] == 400
    assert running.ask("/v1/embeddings", {"model": MODEL, "input": "a"})[0] == 404


def test_body_limit(start: Callable[..., Running]) -> None:
    running = start(max_body=1000)
    big = json.dumps({"model": MODEL, "prompt": "x" * 2000}).encode()
    status, answer = running.ask("/v1/completions", big)
    assert (status, answer["error"]["type"]) == (413, "invalid_request_error")

    def chunks() -> Iterator[bytes]:
        yield from (big[begin : begin + 400] for begin in range(0, len(big), 400))

    with contextlib.closing(HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
        connection.request("POST", "/v1/completions", chunks(), encode_chunked=True)
        assert connection.getresponse().status == 413
    assert running.ask("/v1/completions", {"model": MODEL, "prompt": "x"})[0] == 200


def test_the_key(start: Callable[..., Running]) -> None:
    running = start(api_key="sésame")
    for key in (None, "", "Bearer", "Bearer sesame", "sésame", "Bearer sésamé"):
        headers = {} if key is None else {"Authorization": key.encode().decode("latin-1")}
        status, answer = running.ask("/v1/models", headers=headers)
        assert status == 401
        assert "sésame" not in json.dumps(answer)
        assert running.ask("/metrics", headers=headers)[0] == 401
    right = {"Authorization": "Bearer sésame".encode().decode("latin-1")}
    assert running.ask("/v1/models", headers=right)[0] == 200
    assert running.ask("/health")[0] == 200
    assert "sésame" not in repr(running.server.config)


def test_a_full_queue_sends_clients_away(start: Callable[..., Running]) -> None:
    backend = FakeStream(spoken)
    backend.held.set()
    running = start(backend, max_queue=2)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(running.ask("/v1/chat/completions", chat("a"))[0])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: running.server.in_flight == 2)
    with running.client() as client, pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**chat("b"))
    assert refused.value.response.headers["retry-after"] == "1"
    backend.held.clear()
    for thread in threads:
        thread.join(30)
    assert statuses == [200, 200]
    assert running.ask("/v1/chat/completions", chat("b"))[0] == 200


def test_clients_that_leave_stop_their_requests_alone(start: Callable[..., Running]) -> None:
    backend = FakeStream(lambda _: "word " * 10_000)
    running = start(backend)
    plain = HTTPConnection("127.0.0.1", running.port)
    plain.request("POST", "/v1/chat/completions", json.dumps(chat("a")))
    client = running.client()
    stream = client.chat.completions.create(**chat("b"), stream=True)
    other = client.chat.completions.create(**chat("c"), stream=True)
    next(iter(stream))
    until(lambda: len(backend.running) == 3)
    plain.close()
    stream.close()
    until(lambda: running.server.in_flight == 1)
    until(lambda: len(backend.running) == 1)
    reader = iter(other)
    for _ in range(50):
        next(reader)
    other.close()
    client.close()
    until(lambda: running.server.in_flight == 0)
    until(lambda: not backend.running)
    assert "agentgym_aborted_total 3" in running.ask("/metrics")[1]


def test_a_failed_answer_is_an_error(start: Callable[..., Running]) -> None:
    def script(request: GenerationRequest) -> str:
        raise ValueError("no script")

    running = start(ScriptedBackend(script, TOKENIZER))
    status, answer = running.ask("/v1/chat/completions", chat("a"))
    assert (status, answer["error"]["type"]) == (500, "server_error")
    status, text = running.ask("/v1/chat/completions", chat("a", stream=True))
    assert "server_error" in text
    assert "[DONE]" not in text
    with running.client() as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(**chat("a"), stream=True))


def test_a_crash_tells_clients_nothing(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    monkeypatch.setattr(running.server, "_check_model", lambda *_: 1 / 0)
    status, answer = running.ask("/v1/models/x")
    assert (status, answer["error"]["message"]) == (500, "internal error of the server")


def test_a_closed_backend_is_unavailable(start: Callable[..., Running]) -> None:
    backend = FakeStream(spoken)
    running = start(backend)
    backend.close()
    status, answer = running.ask("/v1/chat/completions", chat("a"))
    assert (status, answer["error"]["message"]) == (503, "closed")
    assert running.server.in_flight == 0


def test_time_is_limited(start: Callable[..., Running]) -> None:
    backend = FakeStream(spoken)
    backend.held.set()
    running = start(backend, timeout_s=0.05)
    assert running.ask("/v1/chat/completions", chat("a"))[0] == 504
    assert running.server.in_flight == 0


def test_a_stream_that_takes_too_long_is_cut() -> None:
    server = Server(FakeStream(spoken), TOKENIZER, ServeConfig(MODEL))
    body = json.dumps(chat("a", stream=True)).encode()
    received = iter([{"type": "http.request", "body": body}])
    sent: list[str] = []

    async def receive() -> Any:
        return next(received, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise TimeoutError  # as if time were up now

    scope = {"type": "http", "method": "POST", "headers": []}
    asyncio.run(serve._Endpoint(server, "chat")(scope, receive, send))
    assert sent == ["http.response.start", "http.response.body"], "too late for a status"
    assert server.in_flight == 0
    server.backend.close()


def test_a_plain_backend_is_batched(start: Callable[..., Running]) -> None:
    running = start(ScriptedBackend(["one", "two"], TOKENIZER))
    assert isinstance(running.server.backend, StreamingBackend)
    _, answer = running.ask("/v1/chat/completions", chat("a", n=2))
    assert [c["message"]["content"] for c in answer["choices"]] == ["one", "two"]
    status, text = running.ask("/v1/chat/completions", chat("a", stream=True))
    assert (status, '"one"' in text, "[DONE]" in text) == (200, True, True)


def test_stopping_waits_for_what_runs(start: Callable[..., Running]) -> None:
    running = Running(FakeStream(lambda _: "word " * 20))
    client = running.client()
    stream = client.chat.completions.create(**chat("a"), stream=True)
    reader = iter(stream)
    next(reader)
    running.uvicorn.should_exit = True
    text = "".join(chunk.choices[0].delta.content or "" for chunk in reader)
    client.close()
    assert text == "word " * 20
    running.stop()


def test_stopping_ends_what_runs_too_long() -> None:
    backend = FakeStream(spoken)
    backend.held.set()
    running = Running(backend, grace_s=1)
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(running.ask("/v1/chat/completions", chat("a")))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: running.server.in_flight == 1)
    running.stop()
    thread.join(30)
    assert len(results) == 1
    assert all(ticket.done for ticket in backend.running)


def test_many_connections_half_of_them_dropped(start: Callable[..., Running]) -> None:
    """No ticket, task or thread is left over, and the others get all of their text."""
    backend = FakeStream(lambda _: "some words to say " * 3)
    running = start(backend)
    threads = other_threads()
    texts: list[str] = []
    dropped: list[int] = []

    async def one(client: openai.AsyncOpenAI, index: int) -> None:
        stream = await client.chat.completions.create(**chat(str(index)), stream=True)
        text, chunks = "", 0
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            chunks += 1
            if index % 2 and chunks == 3:
                await stream.close()
                dropped.append(index)
                return
        texts.append(text)

    async def everyone() -> None:
        async with openai.AsyncOpenAI(base_url=running.url, api_key="none") as client:
            await asyncio.gather(*(one(client, index) for index in range(24)))

    asyncio.run(everyone())
    assert texts == ["some words to say " * 3] * 12
    assert len(dropped) == 12
    until(lambda: running.server.in_flight == 0)
    until(lambda: not backend.running)
    assert other_threads() == threads


def other_threads() -> int:
    """Threads beside the pool that tokenises, which asyncio keeps."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


def test_the_engine_behind_the_server_answers_as_without(start: Callable[..., Running]) -> None:
    """Half of the clients leave; the others get what transformers computes alone."""
    model, tokenizer = tiny_model()
    running = start(Engine(model, tokenizer, memory=1 << 26))
    asked = [
        GenerationRequest(
            np.array(TOKENIZER.encode(f"prompt {index}"), np.int32),
            SamplingParams(max_tokens=24, stop=("q",)),
            seed=index,
        )
        for index in range(12)
    ]
    alone = HFBackend(model, tokenizer).generate(asked)
    client = OpenAIBackend(running.url, MODEL, mode="completions", concurrency=12)

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=running.url, api_key="none") as leaving:
            for index in range(12):
                stream = await leaving.chat.completions.create(
                    **chat(str(index)), stream=True, max_tokens=2000
                )
                await anext(aiter(stream))
                await stream.close()

    thread = threading.Thread(target=lambda: asyncio.run(leave()))
    thread.start()
    answers = client.generate(asked)
    thread.join(60)
    client.close()
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.text == expected.text
        assert answer.finish_reason == expected.finish_reason
        np.testing.assert_array_equal(answer.token_ids, expected.token_ids)
        for name in ("logprobs", "kept_mass", "entropy"):
            np.testing.assert_allclose(
                getattr(answer, name), getattr(expected, name), rtol=1e-4, atol=1e-4
            )
    until(lambda: running.server.in_flight == 0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Server, str, int]]:
    """What `agentgym serve` would have run."""
    runs: list[tuple[Server, str, int]] = []
    monkeypatch.setattr(serve, "run", lambda *arguments: runs.append(arguments))
    return runs


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of the command line."""
    monkeypatch.setattr("sys.argv", ["agentgym", "serve", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("backend", ["engine", "hf"])
def test_the_command(served: list[Any], monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    arguments = ["--backend", backend, "--api-key-env", "A_KEY", "--port", "0", "--name", "mine"]
    assert command(monkeypatch, "tiny", *arguments, "--max-queue", "9", "--max-body", "99") == 0
    ((server, host, port),) = served
    assert (host, port) == ("127.0.0.1", 0)
    config = server.config
    assert (config.model, config.api_key) == ("mine", "secret")
    assert (config.max_queue, config.max_body, config.positions) == (9, 99, 2048)
    assert config.vocabulary == len(TOKENIZER)
    with pytest.raises(InferenceError, match="closed"):
        server.backend.submit(GenerationRequest(np.array([1], np.int32)))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--backend", "magic"], "magic"),
        (["--host", "0.0.0.0"], "--api-key"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--max-queue", "0"], "above 0"),
        (["--memory", "1", "--backend", "hf"], "--memory"),
        (["--memory", "1e-8"], "two pages"),
    ],
)
def test_wrong_options(
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    word: str,
) -> None:
    assert command(monkeypatch, "tiny", *arguments) == 2
    assert word in capsys.readouterr().err
    assert not served


def test_a_taken_port() -> None:
    server = Server(FakeStream(spoken), TOKENIZER, ServeConfig(MODEL))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="or --port"):
            serve.run(server, "127.0.0.1", taken.getsockname()[1])
    server.backend.close()


def test_a_signal_ends_the_server_and_not_the_process(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(FakeStream(spoken), TOKENIZER, ServeConfig(MODEL))
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        until(lambda: "serving" in caplog.text)
        port = int(caplog.text.split("127.0.0.1:")[1].split("/")[0])
        with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", "/health")  # answered once it runs
            assert connection.getresponse().status == 200
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    serve.run(server, "127.0.0.1", 0)
    thread.join(30)
    assert signal.getsignal(signal.SIGTERM) is before
    server.backend.close()


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "agentgym.inference.serve")
    with pytest.raises(MissingDependencyError, match=r"\[serve\]"):
        importlib.import_module("agentgym.inference.serve")
