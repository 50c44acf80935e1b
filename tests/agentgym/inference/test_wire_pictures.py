"""Pictures over HTTP: parts of messages, limits, and a whole server with a tiny model."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image as Pillow

from agentgym.chat import chat_ids
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import ImageError
from agentgym.images import data_url, encode_image
from agentgym.inference import wire_pictures
from agentgym.inference.engine import Engine
from agentgym.inference.hf import HFBackend
from agentgym.inference.remote import OpenAIBackend
from agentgym.inference.serve import ServeConfig, Server, make_uvicorn
from agentgym.inference.wire import ApiError, Limits, read_call
from agentgym.inference.wire_pictures import PictureLimits, read_content, write_message
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.tiny import tiny_tokenizer
from agentgym.models.tiny_vlm import TINY_VLMS
from agentgym.types import Image, Message

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
A, B = encode_image(PIXELS), encode_image(255 - PIXELS)
LIMITS = PictureLimits(count=2)
CHAT = (Message("system", "Look."), Message("user", "This or that?", ((0, A), (8, B))))


def test_content_comes_back_as_it_was_written() -> None:
    for message in (*CHAT, Message("user", "", ((0, A),)), Message("user", "end", ((3, A),))):
        written = write_message(message)
        found = read_content(written["content"], LIMITS)
        assert found is not None
        assert Message(message.role, *found) == message
    assert write_message(CHAT[0]) == {"role": "system", "content": "Look."}
    assert read_content([{"type": "image_url", "image_url": data_url(A)}], LIMITS) == (
        "",
        ((0, A),),
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        ["text"],
        [{"type": "text"}],
        [{"type": "audio", "text": "x"}],
        [{"type": "image_url"}],
        [{"type": "image_url", "image_url": {}}],
        [{"type": "image_url", "image_url": {"url": 3}}],
        [{"type": "text", "image_url": data_url(A)}],
    ],
)
def test_other_contents_are_no_content(content: Any) -> None:
    assert read_content(content, LIMITS) is None


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_refused_pictures_say_why() -> None:
    with pytest.raises(ImageError, match="nothing is fetched"):
        read_content([part("http://169.254.169.254/x.png")], LIMITS)
    with pytest.raises(ImageError, match="reads no pictures"):
        read_content([part(data_url(A))], None)
    with pytest.raises(ImageError, match=r"more than 3499 pixels"):
        read_content([part(data_url(A))], PictureLimits(pixels=3499))
    with pytest.raises(ImageError, match="more than 100 bytes"):
        read_content([part(data_url(A))], PictureLimits(file_bytes=100))


def test_too_many_pictures_are_not_even_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []
    read = wire_pictures.read_picture

    def counted(url: str, allowed: PictureLimits) -> Image:
        unpacked.append(url)
        return read(url, allowed)

    monkeypatch.setattr(wire_pictures, "read_picture", counted)
    parts = [part(data_url(A))]
    messages = [{"role": "user", "content": parts}] * 2 + [{"role": "user", "content": parts * 9}]
    body = {"model": "m", "messages": messages}
    with pytest.raises(ApiError, match="3 pictures or more, at most 2") as refused:
        read_call("chat", body, tiny_tokenizer(), Limits(pictures=LIMITS))
    assert refused.value.status == 400
    assert len(unpacked) == 2
    images = {"model": "m", "prompt": [1], "images": [data_url(A)] * 3}
    with pytest.raises(ApiError, match="3 pictures or more, at most 2"):
        read_call("completions", images, tiny_tokenizer(), Limits(pictures=LIMITS))
    for wrong in ("x", [3]):
        with pytest.raises(ApiError, match="a list of data: URLs"):
            read_call(
                "completions",
                {**images, "images": wrong},
                tiny_tokenizer(),
                Limits(pictures=LIMITS),
            )


class Running:
    """A server with a vision-language model, in a thread of its own."""

    def __init__(self, backend: Any, loaded: LoadedModel) -> None:
        config = ServeConfig("seer", pictures=PictureLimits(count=3))
        self.server = Server(backend, loaded.tokenizer, config, None, loaded.vision)
        self.uvicorn = make_uvicorn(self.server)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        self.thread = threading.Thread(target=self.uvicorn.run, args=([listening],))
        self.thread.start()
        end = time.monotonic() + 30
        while not self.uvicorn.started:
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        self.server.backend.close()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module", params=TINY_VLMS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.param, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def running(loaded: LoadedModel) -> Iterator[Running]:
    running = Running(Engine(loaded), loaded)
    yield running
    running.stop()


def request_of(loaded: LoadedModel) -> GenerationRequest:
    ids = np.array(chat_ids(loaded.tokenizer, CHAT, loaded.vision), np.int32)
    return GenerationRequest(ids, SamplingParams(0.0, max_tokens=8), 1, CHAT, images=(A, B))


def test_both_modes_answer_as_the_engine_does(running: Running, loaded: LoadedModel) -> None:
    request = request_of(loaded)
    with Engine(loaded) as engine:
        (expected,) = engine.generate([request])
        (other,) = engine.generate([replace(request, images=(B, A))])
    for mode in ("chat", "completions"):
        backend = OpenAIBackend(running.url, "seer", mode=mode, token_ids=True)
        shown = replace(request, images=(B, A), messages=())
        (answer,) = backend.generate([request])
        assert answer.error == ""
        assert answer.token_ids is not None
        assert answer.token_ids.tolist() == expected.token_ids.tolist()  # type: ignore[union-attr]
        np.testing.assert_allclose(answer.logprobs, expected.logprobs, atol=1e-4)  # type: ignore[arg-type]
        if mode == "completions":
            (answer,) = backend.generate([shown])
            assert answer.token_ids.tolist() == other.token_ids.tolist()  # type: ignore[union-attr]
        backend.close()


def test_openais_own_client_sends_any_format(running: Running, loaded: LoadedModel) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(PIXELS).save(buffer, "WEBP", lossless=True)
    url = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    client = running.client()
    texts = []
    for each in (url, data_url(A), data_url(B)):
        content: Any = [{"type": "text", "text": "See: "}, part(each)]
        answer = client.chat.completions.create(
            model="seer",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=8,
        )
        texts.append(answer.choices[0].message.content)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part("https://example.org/x.png")], "nothing is fetched"),
        ([part("data:image/png;base64,AAAA")], "no PNG"),
        ([part(data_url(A))] * 4, "at most 3"),
    ],
)
def test_refused_pictures_are_the_clients_fault(running: Running, parts: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        running.client().chat.completions.create(
            model="seer", messages=[{"role": "user", "content": parts}]
        )


def test_a_batched_backend_serves_pictures_and_their_scores(loaded: LoadedModel) -> None:
    running = Running(HFBackend(loaded), loaded)
    try:
        ids = request_of(loaded).prompt_ids
        answer = running.client().completions.create(
            model="seer",
            prompt=ids.tolist(),
            max_tokens=1,
            extra_body={"images": [data_url(A), data_url(B)], "prompt_logprobs": 0},
        )
        told = answer.choices[0].prompt_logprobs  # type: ignore[attr-defined]
        found = [
            entry[str(token)]["logprob"] for entry, token in zip(told[1:], ids[1:], strict=True)
        ]
        (expected,) = HFBackend(loaded).logprobs([ids], [1], images=[(A, B)])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    finally:
        running.stop()


def test_a_server_that_ignores_pictures_is_no_answer(
    running: Running, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OpenAIBackend(running.url, "seer", mode="completions", max_retries=0)
    monkeypatch.setattr("agentgym.inference.remote.data_url", lambda image: "x")
    request = request_of(loaded)
    (answer,) = backend.generate([request])
    assert "data: URL" in answer.error
    monkeypatch.setattr(
        "agentgym.inference.remote._written", lambda write, values: []
    )  # as if the server had dropped them
    (answer,) = backend.generate([request])
    assert "does not read pictures beside ids" in answer.error
    backend.close()
    chat = OpenAIBackend(running.url, "seer", mode="chat")
    monkeypatch.undo()
    gone = replace(request, messages=(Message("user", "x", ((0, Image("ab")),)),))
    assert "without its bytes" in chat.generate([gone])[0].error
    chat.close()
