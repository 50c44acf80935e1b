"""Bodies in, bodies out. That bad ones are refused over HTTP, test_serve.py shows."""

import random
from typing import Any

import numpy as np
import pytest

from agentgym.core import GenerationRequest, SamplingParams
from agentgym.inference.wire import (
    ApiError,
    Call,
    Limits,
    Replies,
    TextStream,
    read_call,
    read_embeddings,
    read_json,
)
from agentgym.models.tiny import tiny_tokenizer
from agentgym.types import Completion, Message

TOKENIZER = tiny_tokenizer()


def decode(ids: Any) -> str:
    return str(
        TOKENIZER.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def completions(**fields: Any) -> Call:
    return read_call("completions", {"model": "m", "prompt": "x", **fields}, TOKENIZER)


def test_defaults_are_openais() -> None:
    call = completions()
    (request,) = call.requests
    assert request.sampling == SamplingParams(max_tokens=16)
    assert request.prompt_ids.tolist() == TOKENIZER.encode("x")
    assert request.prompt_ids.dtype == np.int32
    flags = (call.stream, call.include_usage, call.logprobs, call.token_ids, call.prompt_logprobs)
    assert flags == (False,) * 5
    assert completions().requests[0].seed != request.seed, "an unseeded request draws its seed"
    chat = read_call(
        "chat",
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        TOKENIZER,
        Limits(max_tokens=77),
    )
    assert chat.requests[0].sampling.max_tokens == 77, "a chat's answer ends by itself"


def test_every_field_is_read() -> None:
    call = completions(
        n=2,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        max_tokens=8,
        stop="a",
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
        return_token_ids=True,
        user="me",
    )
    assert [request.sampling for request in call.requests] == [
        SamplingParams(0.5, 0.9, 7, 8, ("a",))
    ] * 2
    assert call.requests[0].seed == 3
    assert call.requests[1].seed == completions(n=2, seed=3).requests[1].seed != 3
    assert (call.stream, call.include_usage, call.token_ids) == (True, True, True)
    call = completions(top_k=-1, logprobs=0, prompt_logprobs=0, stop=["a", "b"], seed=None)
    assert call.requests[0].sampling.top_k == 0, "vLLM's -1 is off"
    assert call.requests[0].sampling.stop == ("a", "b")
    assert (call.logprobs, call.prompt_logprobs) == (True, True)


def test_prompts_of_every_form() -> None:
    def ids(prompt: Any) -> list[list[int]]:
        return [request.prompt_ids.tolist() for request in completions(prompt=prompt).requests]

    assert ids("ab") == [TOKENIZER.encode("ab")]
    assert ids(["ab", "c"]) == [TOKENIZER.encode("ab"), TOKENIZER.encode("c")]
    assert ids([5, 6]) == [[5, 6]]
    assert ids([[5, 6], [7]]) == [[5, 6], [7]]
    assert ids(["a", [7]]) == [TOKENIZER.encode("a"), [7]]


def test_messages_of_every_form() -> None:
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "name": "x"},
        {"role": "user", "content": ""},
    ]
    call = read_call("chat", {"model": "m", "messages": messages}, TOKENIZER)
    assert call.requests[0].messages == (
        Message("system", "S"),
        Message("user", "ab"),
        Message("assistant", "c"),
        Message("user", ""),
    )
    text = TOKENIZER.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in call.requests[0].messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert call.requests[0].prompt_ids.tolist() == TOKENIZER.encode(text)


def test_limits() -> None:
    limits = Limits(max_tokens=5, max_choices=3, positions=4, vocabulary=10)
    for fields, code in (
        ({"max_tokens": 6}, None),
        ({"n": 4}, None),
        ({"prompt": [[1], [2]], "n": 2}, None),
        ({"prompt": [1, 2, 3, 4]}, "context_length_exceeded"),
        ({"prompt": [10]}, None),
    ):
        body = {"model": "m", "prompt": [1], "max_tokens": 5, **fields}
        with pytest.raises(ApiError) as refused:
            read_call("completions", body, TOKENIZER, limits)
        assert (refused.value.status, refused.value.code) == (400, code)
    good = {"model": "m", "prompt": [[1, 2, 9]] * 3, "max_tokens": 5}
    assert len(read_call("completions", good, TOKENIZER, limits).requests) == 3


def test_a_model_without_template_refuses_chats() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(ApiError, match="no chat template"):
        read_call("chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}, bare)
    picky = tiny_tokenizer()
    picky.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ApiError, match="roles must alternate"):
        read_call("chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}, picky)


def test_error_bodies() -> None:
    for status, kind in ((400, "invalid_request"), (429, "rate_limit"), (503, "server")):
        error = ApiError(status, "why", param="p", code="c")
        assert error.body() == {
            "error": {"message": "why", "type": f"{kind}_error", "param": "p", "code": "c"}
        }


def test_embedding_bodies() -> None:
    assert read_embeddings({"model": "e", "input": "a"}) == ("e", ["a"], False)
    body = {"model": "e", "input": ["a", "b"], "encoding_format": "base64"}
    assert read_embeddings(body) == ("e", ["a", "b"], True)
    for wrong in ({"input": []}, {"input": [1]}, {"encoding_format": "x"}, {"dimensions": 3}):
        with pytest.raises(ApiError):
            read_embeddings({"model": "e", "input": "a", **wrong})


def test_json_is_read_strictly() -> None:
    assert read_json(b'{"a": 1}') == {"a": 1}
    for wrong in (b"[1]", b"{", b'{"a": Infinity}', b"\x80", b"[" * 99999):
        with pytest.raises(ApiError) as refused:
            read_json(wrong)
        assert refused.value.status == 400


def test_replies_of_a_completion() -> None:
    requests = (GenerationRequest(np.array([1, 2], np.int32)),) * 2
    call = Call("completions", "m", requests, prompt_tokens=2, logprobs=True, token_ids=True)
    ids = np.array(TOKENIZER.encode("hé"), np.int32)  # one byte, two bytes
    scores = np.array([-1.0, -2.0, -3.0], np.float32)
    answers = [
        Completion("hé", ids, scores, weights_version=4),
        Completion("", None, finish_reason="length", weights_version=3),
    ]
    body = Replies(call, decode).whole(answers, [[None, {"2": {"logprob": -1.0}}]])
    first, second = body["choices"]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert body["weights_version"] == 3, "the oldest that answered"
    assert first["token_ids"] == ids.tolist()
    assert first["prompt_token_ids"] == [1, 2]
    assert first["prompt_logprobs"] == [None, {"2": {"logprob": -1.0}}]
    assert first["logprobs"]["tokens"] == ["h", "\ufffd", "\ufffd"]
    assert first["logprobs"]["text_offset"] == [0, 1, 2]
    assert (second["token_ids"], second["logprobs"]) == (None, None)


def test_streamed_text_adds_up() -> None:
    stop = ("STOP", "xyz")
    letters = ["a", "é", "日", "🙂", " ", "\n", "STOP", "ST", "x", "xy"]
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice(letters) for _ in range(draw.randint(1, 20)))
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        for size in range(1, len(ids)):  # a backend stops at the token that completes a stop
            if any(s in decode(ids[:size]) for s in stop):
                ids = ids[:size]
                break
        else:
            ids.append(TOKENIZER.eos_token_id)
        whole = decode([token for token in ids if token != TOKENIZER.eos_token_id])
        whole = whole[: min((c for s in stop if (c := whole.find(s)) >= 0), default=len(whole))]
        stream, told, begin = TextStream(decode, stop), "", 0
        while begin < len(ids):
            size = draw.randint(1, 3)
            told += stream.add(ids[begin : begin + size])
            begin += size
            assert whole.startswith(told), "nothing is told that is not in the answer"
        assert told + stream.rest(whole) == whole


def test_streamed_text_comes_early() -> None:
    stream = TextStream(decode, ("END",))
    parts = [stream.add([token]) for token in TOKENIZER.encode("héE.")]
    assert parts == ["", "h", "", "é", ""], "one token late; E may begin END"
    assert stream.add([TOKENIZER.eos_token_id]) == "E."
