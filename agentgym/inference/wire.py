"""OpenAI's wire format: request bodies to `Call`s, completions to response bodies."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agentgym.chat import PictureReader, Tokenizer, chat_ids, encoded
from agentgym.core import GenerationRequest, SamplingParams
from agentgym.errors import AgentGymError, ConfigError, ImageError
from agentgym.inference.wire_pictures import (
    PictureLimits,
    check_count,
    read_content,
    read_picture,
)
from agentgym.seeding import derive
from agentgym.types import Completion, Image, IntArray, Message

Kind = Literal["chat", "completions"]

_COMMON = frozenset(
    "model n temperature top_p top_k max_tokens stop seed stream stream_options logprobs "
    "return_token_ids user metadata".split()
)
_KNOWN: Mapping[str, frozenset[str]] = {
    "chat": _COMMON | {"messages", "max_completion_tokens"},
    "completions": _COMMON | {"prompt", "prompt_logprobs", "images"},
    "embeddings": frozenset({"model", "input", "encoding_format", "user"}),
}
# Known to OpenAI and vLLM, not computed here: taken only with the value that changes nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
_ROLES = ("system", "developer", "user", "assistant", "tool")
_MAX_STOPS = 16
_SEED_RANGE = (0, 2**63 - 1)


class ApiError(AgentGymError):
    """A request that is refused or failed, as OpenAI's clients expect to be told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The response's body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server grants one request; all in tokens or counts."""

    max_tokens: int = 4096
    """Most tokens of an answer."""
    max_choices: int = 256
    """Most answers: prompts times n."""
    positions: int = 0
    """Positions of the model, prompt and answer together; 0 if not known."""
    vocabulary: int = 0
    """Ids are below this; 0 if not known."""
    pictures: PictureLimits | None = None
    """`None` for models that read no pictures."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as read: what to generate, and what to tell of it."""

    kind: Kind
    model: str
    requests: tuple[GenerationRequest, ...]
    """One per answer: n in a row for each prompt."""
    prompt_tokens: int
    """Tokens of all prompts, each counted once."""
    stream: bool = False
    include_usage: bool = False
    """In a stream: end with a chunk that has the token counts."""
    logprobs: bool = False
    token_ids: bool = False
    prompt_logprobs: bool = False


def read_json(body: bytes) -> dict[str, Any]:
    """A request's body as an object.

    Raises:
        ApiError: no JSON, not an object, nested too deeply, or with numbers that JSON lacks.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    try:
        value = json.loads(body, parse_constant=refuse)
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except ValueError as error:  # also UnicodeDecodeError and integers of thousands of digits
        raise ApiError(400, f"the body is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, got {_shown(value)}")
    return value


def read_call(
    kind: Kind,
    body: Mapping[str, Any],
    tokenizer: Tokenizer,
    limits: Limits | None = None,
    *,
    vision: PictureReader | None = None,
    alone: AbstractContextManager[Any] | None = None,
) -> Call:
    """Check a body and turn its prompts into ids.

    Args:
        kind: which endpoint it came to.
        body: as of `read_json`. `None` counts as left out.
        tokenizer: of the served model.
        limits: what is granted.
        vision: of the served model, if it reads pictures.
        alone: held while the tokenizer is used, but not while pictures are unpacked.

    Raises:
        ApiError: a field is unknown, of the wrong type, out of range, or not offered here.
    """
    limits = limits or Limits()
    alone = alone or nullcontext()
    fields = _Fields(kind, body)
    model = fields.text("model")
    stream = fields.flag("stream")
    include_usage = fields.stream_options(stream)
    if kind == "chat":
        messages = fields.messages(limits.pictures)
        images = tuple(image for message in messages for _, image in message.images)
        with alone:
            prompts = [_chat_ids(tokenizer, messages, vision)]
        logprobs = fields.flag("logprobs")
        default = limits.max_tokens
    else:
        messages = ()
        images = fields.images(limits.pictures)
        with alone:
            prompts = fields.prompts(tokenizer)
        logprobs = fields.sampled_logprob("logprobs")
        default = 16
    prompt_logprobs = fields.sampled_logprob("prompt_logprobs")
    if stream and (logprobs or prompt_logprobs):
        raise ApiError(400, "log-probabilities are told without stream only", param="logprobs")
    _check_prompts(prompts, limits)
    n = fields.integer("n", 1, 1, limits.max_choices)
    if n * len(prompts) > limits.max_choices:
        raise ApiError(
            400, f"{len(prompts)} prompts times n={n} exceed {limits.max_choices}", param="n"
        )
    sampling = fields.sampling(default, limits)
    seed = fields.integer("seed", secrets.randbits(63), *_SEED_RANGE)
    requests = [
        GenerationRequest(
            ids.astype(np.int32),
            sampling,
            derive(seed, "choice", index) if index else seed,
            messages,
            images=images,
        )
        for index, ids in enumerate(ids for ids in prompts for _ in range(n))
    ]
    return Call(
        kind,
        model,
        tuple(requests),
        sum(len(ids) for ids in prompts),
        stream,
        include_usage,
        logprobs,
        fields.flag("return_token_ids"),
        prompt_logprobs,
    )


def read_embeddings(body: Mapping[str, Any]) -> tuple[str, list[str], bool]:
    """Check the body of an embeddings request.

    Returns:
        The model's name, the texts, and whether vectors go back as base64 of little-endian
        float32, which OpenAI's own client asks for.

    Raises:
        ApiError: a field is unknown, of the wrong type, or not offered here.
    """
    fields = _Fields("embeddings", body)
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    good = isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts)
    if not good:
        raise ApiError(400, "input must be a text or a list of texts, none empty", param="input")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise ApiError(400, "encoding_format must be float or base64", param="encoding_format")
    return fields.text("model"), list(texts or ()), encoding == "base64"


class _Fields:
    """Typed access to a body; every wrong value is a 400 that names its field."""

    def __init__(self, kind: str, body: Mapping[str, Any]) -> None:
        self._body = {name: value for name, value in body.items() if value is not None}
        for name, value in self._body.items():
            if name in _KNOWN[kind]:
                continue
            if name not in _NEUTRAL:
                raise ApiError(400, f"unrecognized request argument: {name!r:.100}", param=name)
            same = [v for v in _NEUTRAL[name] if v == value]
            if not same or any(isinstance(value, bool) != isinstance(v, bool) for v in same):
                raise ApiError(
                    400, f"{name}={_shown(value)} is not offered here; leave it out", param=name
                )

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self._body.get(name)
        if not isinstance(value, str) or not value:
            raise self._wrong(name, "a non-empty string")
        return value

    def flag(self, name: str) -> bool:
        """A boolean, False by default."""
        value = self._body.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """An integer in a closed range."""
        value = self._body.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"an integer in {low}..{high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number in a closed range."""
        value = self._body.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        if not low <= value <= high:
            raise self._wrong(name, f"in {low}..{high}")
        return float(value)

    def sampled_logprob(self, name: str) -> bool:
        """True if the chosen tokens' log-probabilities are asked for: the only ones told."""
        if name not in self._body:
            return False
        self.integer(name, 0, 0, 0)
        return True

    def stream_options(self, stream: bool) -> bool:
        """``include_usage``."""
        options = self._body.get("stream_options", {})
        if not isinstance(options, dict) or not set(options) <= {"include_usage"}:
            raise self._wrong("stream_options", 'like {"include_usage": true}')
        if options and not stream:
            raise ApiError(400, "stream_options need stream=true", param="stream_options")
        return options.get("include_usage") is True

    def sampling(self, default_tokens: int, limits: Limits) -> SamplingParams:
        """How to sample."""
        tokens = "max_completion_tokens" if "max_completion_tokens" in self._body else "max_tokens"
        top_k = self.integer("top_k", 0, -1, 2**31 - 1)
        top_p = self.number("top_p", 1.0, 0.0, 1.0)
        if top_p == 0.0:
            raise self._wrong("top_p", "above 0 and at most 1")
        return SamplingParams(
            temperature=self.number("temperature", 1.0, 0.0, 100.0),
            top_p=top_p,
            top_k=max(0, top_k),  # vLLM's -1 switches it off too
            max_tokens=self.integer(tokens, default_tokens, 1, limits.max_tokens),
            stop=self._stop(),
        )

    def _stop(self) -> tuple[str, ...]:
        value = self._body.get("stop", [])
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
            raise self._wrong("stop", f"a string or a list of at most {_MAX_STOPS}")
        for stop in stops:
            if not isinstance(stop, str) or not stop or not _is_clean(stop):
                raise self._wrong("stop", "a list of non-empty strings without lone surrogates")
        return tuple(stops)

    def prompts(self, tokenizer: Tokenizer) -> list[IntArray]:
        """Text, ids, or a list of texts or of ids: as ids."""
        value = self._body.get("prompt")
        if isinstance(value, str) or _is_ids(value):
            value = [value]
        if not isinstance(value, list) or not value:
            raise self._wrong("prompt", "a text, a list of ids, or a non-empty list of these")
        prompts: list[IntArray] = []
        for item in value:
            if isinstance(item, str):
                prompts.append(np.array(encoded(tokenizer, _clean(item)), np.int64))
            elif _is_ids(item):
                prompts.append(np.array(item, np.int64))
            else:
                raise self._wrong("prompt", "a text, a list of ids, or a non-empty list of these")
        return prompts

    def messages(self, pictures: PictureLimits | None) -> tuple[Message, ...]:
        """The chat so far."""
        value = self._body.get("messages")
        if not isinstance(value, list) or not value:
            raise self._wrong("messages", "a non-empty list")
        found: list[Message] = []
        count = 0
        for index, item in enumerate(value):
            found.append(_message(index, item, pictures, count))
            count += len(found[-1].images)
        return tuple(found)

    def images(self, pictures: PictureLimits | None) -> tuple[Image, ...]:
        """Pictures that each prompt of ids has placeholders of: a field of our own."""
        value = self._body.get("images", [])
        if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
            raise self._wrong("images", "a list of data: URLs")
        try:
            check_count(len(value), pictures)
            return tuple(read_picture(url, pictures or PictureLimits()) for url in value)
        except ImageError as error:
            raise ApiError(400, str(error), param="images") from error

    def _wrong(self, name: str, wanted: str) -> ApiError:
        got = _shown(self._body[name]) if name in self._body else "nothing"
        return ApiError(400, f"{name} must be {wanted}, got {got}", param=name)


def _message(index: int, item: Any, pictures: PictureLimits | None, already: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(item, dict):
        raise ApiError(400, f"{where} must be an object, got {_shown(item)}", param="messages")
    if not set(item) <= {"role", "content", "name", "tool_call_id", "refusal"}:
        raise ApiError(400, f"{where} has fields that are not offered here", param="messages")
    role = item.get("role")
    if role not in _ROLES:
        raise ApiError(
            400, f"{where}.role must be one of {_ROLES}, got {_shown(role)}", param="messages"
        )
    try:
        content = read_content(item.get("content"), pictures, already)
    except ImageError as error:
        raise ApiError(400, f"{where}: {error}", param="messages") from error
    if content is None:
        raise ApiError(
            400,
            f"{where}.content must be text or a list of text parts and image_url parts",
            param="messages",
        )
    return Message("system" if role == "developer" else role, *content)


def _chat_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], vision: PictureReader | None
) -> IntArray:
    try:
        return np.array(chat_ids(tokenizer, messages, vision), np.int64)
    except (ConfigError, ImageError) as error:
        raise ApiError(400, str(error), param="messages") from error


def _check_prompts(prompts: Sequence[IntArray], limits: Limits) -> None:
    for ids in prompts:
        if not len(ids):
            raise ApiError(400, "the prompt is empty", param="prompt")
        highest = limits.vocabulary or 2**31
        if ids.min() < 0 or ids.max() >= highest:
            raise ApiError(
                400,
                f"ids must be in 0..{highest - 1}, got {ids.min()}..{ids.max()}",
                param="prompt",
            )
        if limits.positions and len(ids) >= limits.positions:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and the model {limits.positions} positions; "
                "shorten the prompt",
                param="prompt",
                code="context_length_exceeded",
            )


def _is_ids(value: Any) -> bool:
    """True for a non-empty list of integers that fit 64 bits."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and abs(token) < 2**62 for token in value)
    )


def _clean(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_clean(text: str) -> bool:
    return _clean(text) == text


def _shown(value: Any) -> str:
    """A value for an error message: a container by its kind, as it may be nested deeply."""
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.100}"


class Replies:
    """Builds the bodies that answer one call.

    Args:
        call: what was asked.
        decode: ids to text, control tokens included.
    """

    def __init__(self, call: Call, decode: Callable[[Sequence[int]], str]) -> None:
        self.call = call
        self._decode = decode
        self._chat = call.kind == "chat"
        name = "chat.completion" if self._chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": call.model,
        }
        self._object = name
        self._chunk_object = f"{name}.chunk" if self._chat else name

    def whole(
        self, answers: Sequence[Completion], prompt_logprobs: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """The body of a call without stream.

        Beside OpenAI's and vLLM's fields it tells ``weights_version`` and, with the token ids,
        ``kept_mass`` and ``entropy``, so that `OpenAIBackend` gets what an in-process backend says.
        """
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        for choice, told in zip(choices, prompt_logprobs, strict=False):
            choice["prompt_logprobs"] = told
        body = {
            **self._head,
            "object": self._object,
            "choices": choices,
            "usage": self.usage(answers),
            "weights_version": min(answer.weights_version for answer in answers),
        }
        if images := self.call.requests[0].images:
            body["pictures"] = len(images)  # so that a client knows that they were read
        if self._chat and self.call.token_ids:
            body["prompt_token_ids"] = self.call.requests[0].prompt_ids.tolist()
        return body

    def usage(self, answers: Sequence[Completion]) -> dict[str, int]:
        """Token counts."""
        sampled = sum(0 if a.token_ids is None else len(a.token_ids) for a in answers)
        return {
            "prompt_tokens": self.call.prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": self.call.prompt_tokens + sampled,
        }

    def chunk(
        self, index: int, text: str, ids: Sequence[int], finish: str | None = None
    ) -> dict[str, Any]:
        """A piece of a stream: what is new of one answer."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
        if self._chat:
            choice["delta"] = {"content": text} if text or finish is None else {}
        else:
            choice["text"] = text
        if self.call.token_ids:
            choice["token_ids"] = list(ids)
        return {**self._head, "object": self._chunk_object, "choices": [choice]}

    def opening(self, index: int) -> dict[str, Any]:
        """The first piece of a chat's stream: who speaks."""
        choice = {
            "index": index,
            "finish_reason": None,
            "logprobs": None,
            "delta": {"role": "assistant", "content": ""},
        }
        return {**self._head, "object": self._chunk_object, "choices": [choice]}

    def usage_chunk(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The last piece of a stream, if asked for."""
        usage = self.usage(answers)
        return {**self._head, "object": self._chunk_object, "choices": [], "usage": usage}

    def _choice(self, index: int, answer: Completion) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": answer.finish_reason,
            "stop_reason": None,
            "logprobs": self._logprobs(answer) if self.call.logprobs else None,
        }
        if self._chat:
            choice["message"] = {"role": "assistant", "content": answer.text, "refusal": None}
        else:
            choice["text"] = answer.text
        if self.call.token_ids:
            choice["token_ids"] = _listed(answer.token_ids)
            choice["kept_mass"] = _listed(answer.kept_mass)
            choice["entropy"] = _listed(answer.entropy)
            if not self._chat:
                choice["prompt_token_ids"] = self.call.requests[index].prompt_ids.tolist()
        return choice

    def _logprobs(self, answer: Completion) -> dict[str, Any] | None:
        if answer.token_ids is None or answer.logprobs is None:
            return None
        tokens = [self._decode([int(token)]) for token in answer.token_ids]
        values = answer.logprobs.tolist()
        if self._chat:
            content = [
                {
                    "token": token,
                    "logprob": value,
                    "bytes": list(token.encode("utf-8", "replace")),
                    "top_logprobs": [],
                }
                for token, value in zip(tokens, values, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = np.cumsum([0, *(len(token) for token in tokens[:-1])]).tolist() if tokens else []
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": None,
            "text_offset": offsets,
        }


def _listed(values: Any) -> list[Any] | None:
    return None if values is None else values.tolist()


class TextStream:
    """Sampled ids to text as they come, such that the parts add up to `Completion.text`.

    The newest token is held back (it may be the end token), and so is what may become a stop
    string or is half a character.

    Args:
        decode: ids to text.
        stop: strings that end the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        # Decoding from a token that was read before keeps spaces that depend on the token to the
        # left, and looks at a few tokens only.
        self._context = self._read = 0
        self._held = ""
        self._told = 0

    def add(self, ids: Sequence[int]) -> str:
        """Take new ids; returns the text that has become certain."""
        self._ids.extend(ids)
        end = len(self._ids) - 1
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context : end]) if end > self._read else before
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._held += now[len(before) :]
            self._context, self._read = self._read, end
        certain = self._certain()
        text, self._held = self._held[:certain], self._held[certain:]
        self._told += len(text)
        return text

    def rest(self, text: str) -> str:
        """What of the whole answer's text has not been told yet."""
        return text[self._told :]

    def _certain(self) -> int:
        """How many held characters cannot be part of a stop string."""
        cut = len(self._held)
        for stop in self._stop:
            found = self._held.find(stop)
            if found >= 0:
                cut = min(cut, found)
            for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
                if self._held.endswith(stop[:size]):
                    cut = min(cut, len(self._held) - size)
                    break
        return cut
