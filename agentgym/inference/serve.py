"""An OpenAI-compatible server over any backend: `agentgym serve`.

Routes: /v1/chat/completions, /v1/completions (text or ids), /v1/embeddings, /v1/models, /health,
/metrics. Requests of all connections share one streaming backend, which batches them. Nothing in
a request is ever executed: it is text, ids and numbers, and templates are the model's own.
"""

import asyncio
import base64
import copy
import hashlib
import hmac
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentgym import paths
from agentgym.chat import PictureReader
from agentgym.core import InferenceBackend, Ticket
from agentgym.errors import AgentGymError, ConfigError, InferenceError, MissingDependencyError
from agentgym.inference import wire
from agentgym.inference.batching import streaming
from agentgym.inference.embed import Embedder, SentenceEmbedder
from agentgym.inference.monitor import Monitor
from agentgym.inference.wire import ApiError, Call, Replies, TextStream
from agentgym.inference.wire_pictures import PictureLimits
from agentgym.registry import BACKENDS
from agentgym.types import Completion

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as missing:
    raise MissingDependencyError(
        "starlette and uvicorn are not installed; run pip install -e '.[serve]'"
    ) from missing

T = TypeVar("T")
log = logging.getLogger(__name__)

_TICK_S = 0.005
"""How often finished tickets are looked for; a ticket has no way to call back."""
_BODY_S = 30.0
"""Longest time that a client may take to send its body."""
_LINGER_S = 1.0
"""How long the rest of a refused body is read."""
_CLOSE = {"Connection": "close"}
_OPEN = frozenset({"/health"})
"""Paths that need no key."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What a server is called and what it grants."""

    model: str
    """Name of the model in requests."""
    api_key: str = field(default="", repr=False)
    """If set, requests must carry it: ``Authorization: Bearer ...``."""
    max_body: int = 4 << 20
    """Largest body of a request, in bytes."""
    max_queue: int = 256
    """Most answers in the making or waiting; beyond it clients are told to come back (429)."""
    max_tokens: int = 4096
    """Most tokens of an answer."""
    pictures: PictureLimits = field(default_factory=PictureLimits)
    """For models that read pictures."""
    positions: int = 0
    """Longest sequence of the model, in tokens; 0 leaves longer prompts to the backend."""
    vocabulary: int = 0
    """Token ids are below this; 0 leaves others to the backend."""
    timeout_s: float = 600.0
    """Longest time of one request, its answer's transport included."""
    grace_s: int = 10
    """How long running requests may go on once the server is told to stop."""

    def __post_init__(self) -> None:
        low = min(self.max_body, self.max_queue, self.max_tokens, self.timeout_s, self.grace_s)
        if not self.model or low <= 0:
            raise ConfigError(f"the model needs a name and all limits must be above 0, got {self}")


class _Job:
    """One answer in the making, as the event loop sees it."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.ticket: Ticket
        self.ids: list[int] = []
        """Sampled so far."""
        self.finished = False
        self._changed = changed
        self._loop = asyncio.get_running_loop()

    def on_tokens(self, ids: Sequence[int]) -> None:
        """Called in the backend's thread."""
        self._loop.call_soon_threadsafe(self._take, list(ids))

    def finish(self) -> None:
        """The ticket is done."""
        self.finished = True
        self._changed.set()

    def _take(self, ids: list[int]) -> None:
        self.ids += ids
        self._changed.set()


class Server:
    """The endpoints over one backend; `app` is the ASGI application.

    Args:
        backend: a plain one gets a batching queue of its own.
        tokenizer: of its model; copied, because tokenizers are not safe to share between threads.
        config: names and limits.
        embedder: for /v1/embeddings.
        vision: of the model, if it reads pictures.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        tokenizer: Any,
        config: ServeConfig,
        embedder: Embedder | None = None,
        vision: PictureReader | None = None,
    ) -> None:
        self.config = config
        self.backend = streaming(backend)
        self.embedder = embedder
        self._encoder = copy.deepcopy(tokenizer)
        self._encoding = threading.Lock()
        self._vision = vision
        self._decoder = copy.deepcopy(tokenizer)  # used on the event loop only
        self._limits = wire.Limits(
            max_tokens=config.max_tokens,
            max_choices=config.max_queue,
            positions=config.positions,
            vocabulary=config.vocabulary,
            pictures=None if vision is None else config.pictures,
        )
        self._jobs: set[_Job] = set()
        self._admitted = 0
        self._some = asyncio.Event()
        self._created = int(time.time())
        self._measure()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", _Endpoint(self, "chat"), methods=["POST"]),
                Route("/v1/completions", _Endpoint(self, "completions"), methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._models),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ],
            middleware=[Middleware(_Guard, server=self)],
            exception_handlers={
                ApiError: _refused,
                HTTPException: _no_route,
                Exception: _crashed,
            },
            lifespan=self._lifespan,
        )

    @property
    def in_flight(self) -> int:
        """Answers in the making or waiting."""
        return self._admitted

    def _measure(self) -> None:
        monitor = self.monitor = Monitor("agentgym")
        self.requests_total = monitor.counter(
            "requests_total", "Requests by route and status.", "route", "status"
        )
        self._prompt_tokens = monitor.counter("prompt_tokens_total", "Tokens of prompts.")
        self._sampled_tokens = monitor.counter("generation_tokens_total", "Sampled tokens.")
        self._aborted = monitor.counter(
            "aborted_total", "Answers given up: the client left, or time was up."
        )
        monitor.gauge("in_flight", "Answers waiting or in the making.", lambda: self._admitted)
        monitor.gauge("weights_version", "Of the model.", lambda: self.backend.version)
        self.seconds = monitor.histogram("request_seconds", "Whole requests.")
        self._first_token = monitor.histogram("first_token_seconds", "Until a stream's first text.")

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            for job in self._jobs:
                job.ticket.abort()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self) -> None:
        """Wake the jobs whose tickets are done."""
        while True:
            if not self._jobs:
                self._some.clear()
                await self._some.wait()
            for job in self._jobs:
                if not job.finished and job.ticket.done:
                    job.finish()
            await asyncio.sleep(_TICK_S)

    @asynccontextmanager
    async def generation(self, call: Call, changed: asyncio.Event) -> AsyncIterator[list[_Job]]:
        """Submit all answers of a call; whatever is unfinished at the end is aborted.

        Raises:
            ApiError: the queue is full (429) or the backend is closed (503).
        """
        count = len(call.requests)
        if self._admitted + count > self.config.max_queue:
            raise ApiError(
                429,
                f"the queue is full ({self._admitted} of {self.config.max_queue}); try again",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self._admitted += count
        jobs: list[_Job] = []
        try:
            for request in call.requests:
                job = _Job(changed)
                job.ticket = self.backend.submit(request, on_tokens=job.on_tokens)
                jobs.append(job)
            self._jobs.update(jobs)
            self._some.set()
            self._prompt_tokens.add(call.prompt_tokens)
            yield jobs
        except InferenceError as error:
            raise ApiError(503, str(error), headers={"Retry-After": "1"}) from error
        finally:
            for job in jobs:
                if not job.ticket.done:
                    job.ticket.abort()
                    self._aborted.add()
                self._sampled_tokens.add(len(job.ids))
            self._jobs.difference_update(jobs)
            self._admitted -= count

    async def read(self, request: Request, kind: wire.Kind) -> Call:
        """The call in a request's body; texts are tokenised in a thread of their own."""
        body = await self._body(request)
        call = await asyncio.to_thread(self._parse, kind, body)
        self._check_model(call.model, self.config.model)
        return call

    def _parse(self, kind: wire.Kind, body: bytes) -> Call:
        fields = wire.read_json(body)
        return wire.read_call(
            kind, fields, self._encoder, self._limits, vision=self._vision, alone=self._encoding
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, control tokens included. On the event loop only."""
        return str(
            self._decoder.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    async def answers(self, jobs: Sequence[_Job], changed: asyncio.Event) -> list[Completion]:
        """All answers, waited for.

        Raises:
            ApiError: one could not be computed.
        """
        while not all(job.finished for job in jobs):
            changed.clear()
            await changed.wait()
        return [_good(job) for job in jobs]

    async def prompt_logprobs(self, call: Call) -> list[Any]:
        """For each answer its prompt's log-probabilities, in vLLM's form."""
        if not call.prompt_logprobs:
            return []
        prompts = [request.prompt_ids for request in call.requests]
        images = [request.images for request in call.requests]
        untyped: Any = self.backend  # only those that read pictures know the argument
        shown = {"images": images} if any(images) else {}
        try:
            scores = await asyncio.to_thread(untyped.logprobs, prompts, [1] * len(prompts), **shown)
        except AgentGymError as error:
            raise ApiError(500, str(error)) from error
        return [
            [None, *({str(t): {"logprob": float(v)}} for t, v in zip(ids[1:], told, strict=True))]
            for ids, told in zip(prompts, scores, strict=True)
        ]

    async def events(
        self, call: Call, jobs: Sequence[_Job], changed: asyncio.Event
    ) -> AsyncIterator[str]:
        """A stream's server-sent events."""
        begun = time.perf_counter()
        replies = Replies(call, self.decode)
        texts = [TextStream(self.decode, r.sampling.stop) for r in call.requests]
        told = [0] * len(jobs)
        answers: dict[int, Completion] = {}
        if call.kind == "chat":
            for index in range(len(jobs)):
                yield _event(replies.opening(index))
        while len(answers) < len(jobs):
            changed.clear()
            for index, job in enumerate(jobs):
                if index in answers:
                    continue
                new, told[index] = job.ids[told[index] :], len(job.ids)
                if job.finished:
                    try:
                        answer = answers[index] = _good(job)
                    except ApiError as error:  # too late for a status; no [DONE] follows
                        yield _event(error.body())
                        return
                    text = texts[index].rest(answer.text)
                    yield _event(replies.chunk(index, text, new, answer.finish_reason))
                elif new and ((text := texts[index].add(new)) or call.token_ids):
                    if begun:
                        self._first_token.observe(time.perf_counter() - begun)
                        begun = 0.0
                    yield _event(replies.chunk(index, text, new))
            if len(answers) < len(jobs):
                await changed.wait()
        if call.include_usage:
            yield _event(replies.usage_chunk([answers[index] for index in range(len(jobs))]))
        yield "data: [DONE]\n\n"

    async def _embeddings(self, request: Request) -> Response:
        if self.embedder is None:
            raise ApiError(404, "this server has no embedding model; start it with --embedder")
        body = await self._body(request)
        model, texts, packed = await asyncio.to_thread(
            lambda: wire.read_embeddings(wire.read_json(body))
        )
        self._check_model(model, self.embedder.name)
        vectors = await asyncio.to_thread(self.embedder.embed, texts)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if packed
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        # Differs: OpenAI counts tokens, which only the embedder's own tokenizer knows.
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return _json({"object": "list", "model": model, "data": data, "usage": usage})

    async def _models(self, request: Request) -> Response:
        names = [self.config.model, *([self.embedder.name] if self.embedder else [])]
        cards = [
            {"id": name, "object": "model", "created": self._created, "owned_by": "agentgym"}
            for name in names
        ]
        if self._limits.positions:
            cards[0]["max_model_len"] = self._limits.positions
        if "name" not in request.path_params:
            return _json({"object": "list", "data": cards})
        asked = request.path_params["name"]
        self._check_model(asked, *names)
        return _json(cards[names.index(asked)])

    async def _health(self, _: Request) -> Response:
        return _json({"status": "ok", "weights_version": self.backend.version})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.monitor.text(), media_type="text/plain; version=0.0.4")

    def _check_model(self, asked: str, *names: str) -> None:
        if asked not in names:
            raise ApiError(
                404,
                f"the model {asked!r:.200} does not exist; here is {', '.join(map(repr, names))}",
                param="model",
                code="model_not_found",
            )

    async def _body(self, request: Request) -> bytes:
        """The body, if it is neither too large nor too slow.

        What is too large is read for a moment longer, and thrown away: a connection that is closed
        on a client which still sends may lose the answer.
        """
        limit = self.config.max_body
        too_large = int(request.headers.get("content-length", 0)) > limit
        body = bytearray()
        try:
            async with asyncio.timeout(_LINGER_S if too_large else _BODY_S) as end:
                async for chunk in request.stream():
                    if not too_large:
                        body += chunk
                        if len(body) > limit:
                            too_large = True
                            end.reschedule(asyncio.get_running_loop().time() + _LINGER_S)
        except TimeoutError:
            if not too_large:
                raise ApiError(408, f"no body within {_BODY_S:g} s", headers=_CLOSE) from None
        if too_large:
            raise ApiError(413, f"the body exceeds {limit} bytes", headers=_CLOSE)
        return bytes(body)


class _Endpoint:
    """An ASGI application for one kind of generation.

    Not a plain endpoint function: the answers' tickets must live exactly as long as the response
    is sent, and be aborted if the client leaves before its first byte.
    """

    def __init__(self, server: Server, kind: wire.Kind) -> None:
        self._server = server
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._server.config.timeout_s):
                await self._answer(Request(scope, receive), scope, receive, watched)
        except ClientDisconnect:
            log.debug("a client left while it sent its request")
        except TimeoutError:
            seconds = self._server.config.timeout_s
            if not begun:
                raise ApiError(504, f"not answered within {seconds:g} s") from None
            log.warning("a stream was cut off after %g s", seconds)  # uvicorn closes the connection

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        call = await server.read(request, self._kind)
        changed = asyncio.Event()
        async with server.generation(call, changed) as jobs:
            if call.stream:
                events = server.events(call, jobs, changed)
                headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
                response: Response = StreamingResponse(
                    events, media_type="text/event-stream", headers=headers
                )
                await response(scope, receive, send)
                return
            answers = await _unless_gone(receive, server.answers(jobs, changed))
            if answers is None:
                return
            scores = await server.prompt_logprobs(call)
            response = _json(Replies(call, server.decode).whole(answers, scores))
            await response(scope, receive, send)


class _Guard:
    """Middleware: checks the key, counts requests, measures their time."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        key = server.config.api_key
        self._digest = hashlib.sha256(f"Bearer {key}".encode()).digest() if key else b""
        self._routes = {route.path for route in server.app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 499  # nginx's number for a client that left before it was answered

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._digest and scope["path"] not in _OPEN and not self._known(scope):
                await _refused(None, ApiError(401, "wrong or missing API key"))(
                    scope, receive, watched
                )
                return
            await self._app(scope, receive, watched)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._server.requests_total.add(1, route, str(status))
            self._server.seconds.observe(time.perf_counter() - begun)

    def _known(self, scope: Scope) -> bool:
        """True if the request carries the key. Digests, so that the time tells nothing of it."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = hashlib.sha256(headers.get(b"authorization", b"")).digest()
        return hmac.compare_digest(given, self._digest)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work comes to; `None`, and the work cancelled, if the client leaves before."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _good(job: _Job) -> Completion:
    """The answer of a finished job.

    Raises:
        ApiError: it failed, or was aborted because the server stops.
    """
    answer = job.ticket.result(0)
    if answer.finish_reason == "error":
        raise ApiError(500, answer.error)
    if answer.finish_reason == "abort":
        raise ApiError(503, "the server is stopping", headers={"Retry-After": "5"})
    return answer


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII only: what a client sent may come back in it, lone surrogates included.
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, headers, "application/json")


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n"


def _refused(_: Request | None, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), error.status, error.headers)


def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = ApiError(error.status_code, error.detail).body()
    return _json(body, error.status_code, error.headers)


def _crashed(_: Request, error: Exception) -> Response:
    # What went wrong is in the server's log, where Starlette's caller writes it; not for clients.
    return _json(ApiError(500, "internal error of the server").body(), 500)


def make_uvicorn(server: Server) -> uvicorn.Server:
    """A uvicorn server for given sockets; it ends after SIGINT or SIGTERM and the time of grace."""
    return uvicorn.Server(
        uvicorn.Config(
            server.app,
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,  # longer than clients keep them: no request meets a closing one
            timeout_graceful_shutdown=server.config.grace_s,
            limit_concurrency=4 * server.config.max_queue + 64,  # connections, idle ones included
        )
    )


def serve(
    model: str,
    *,
    backend: str = "engine",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str = "",
    api_key_env: str | None = None,
    name: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    embedder: str | None = None,
    max_body: int = 4 << 20,
    max_queue: int = 256,
    memory: float = 0.0,
) -> None:
    """Load a model and serve it until SIGINT or SIGTERM: the body of `agentgym serve`.

    Args:
        model: as for `agentgym.models.load.load_model`.
        backend: ``engine`` (answers join a running batch) or ``hf`` (one batch after another).
        host: address to listen at; others than this machine's own need a key.
        port: 0 takes any free one.
        api_key: see `ServeConfig.api_key`.
        api_key_env: name of an environment variable with the key, which no process list shows.
        name: of the model in requests; by default `model` as given.
        dtype: see `load_model`.
        device: see `load_model`.
        embedder: see `SentenceEmbedder`; `None` serves no embeddings.
        max_body: see `ServeConfig`.
        max_queue: see `ServeConfig`.
        memory: GiB for the engine's keys and values; 0 leaves it to the engine.

    Raises:
        ConfigError: an option is wrong, the port is taken, or the model cannot be loaded.
    """
    from agentgym.models.load import load_model

    if backend not in ("engine", "hf"):
        raise ConfigError(f"--backend must be engine or hf, got {backend!r}")
    if memory < 0 or (memory and backend != "engine"):
        raise ConfigError(f"--memory is of the engine, in GiB above 0, got {memory!r}")
    if api_key_env:
        api_key = api_key or paths.variable(api_key_env) or ""
        if not api_key:
            raise ConfigError(f"environment variable {api_key_env!r} is empty; put the key there")
    if host not in ("127.0.0.1", "::1", "localhost") and not api_key:
        raise ConfigError(f"--host {host} is open to others: give --api-key or --api-key-env")
    loaded = load_model(model, dtype=dtype, device=device)
    untyped: Any = loaded.model
    positions = getattr(untyped.config.get_text_config(), "max_position_embeddings", 0)
    config = ServeConfig(
        name or model,
        api_key,
        max_body=max_body,
        max_queue=max_queue,
        positions=int(positions or 0),
        vocabulary=int(untyped.get_input_embeddings().weight.shape[0]),
    )
    vectors = None if embedder is None else SentenceEmbedder(embedder, device=device)
    options = {"memory": int(memory * (1 << 30))} if memory else {}
    engine = BACKENDS.get(backend)(loaded, **options)
    server = Server(engine, loaded.tokenizer, config, vectors, loaded.vision)
    try:
        run(server, host, port)
    finally:
        server.backend.close()


def run(server: Server, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port} ({error}); choose another --host or --port"
        ) from error
    log.warning("serving %r at http://%s:%d/v1", server.config.model, *listening.getsockname()[:2])
    # Once it has shut down, uvicorn sends itself the signal again: without a handler, SIGTERM would
    # end the process before the backend is closed.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        make_uvicorn(server).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
