"""Batched inference for agents of many turns: continuous batching, kept prefixes, exact records."""

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgym.core import GenerationRequest, Ticket, WeightsChoice
from agentgym.errors import ConfigError, ImageError
from agentgym.inference.answers import Answers, failed
from agentgym.inference.decoder import check_pictures, make_decoder
from agentgym.inference.jobs import (
    DoneTicket,
    Generation,
    JobTicket,
    NextScores,
    Reading,
    States,
    TokenScores,
)
from agentgym.inference.loop import Loop
from agentgym.inference.pages import PAGE, bytes_per_page
from agentgym.inference.scheduler import Scheduler
from agentgym.inference.sights import Sight, Sights
from agentgym.inference.weights import copy_weights
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.vision import Vision
from agentgym.types import Completion, FloatArray, Image, IntArray

_DEFAULT_MEMORY = 4 << 30


class Engine:
    """A `core.StreamingBackend` over a transformers decoder in this process.

    Requests from any number of threads are answered together, token by token: they join and leave
    the batch as they come and end. Keys and values lie in pages of a fixed budget. What has been
    read stays there as long as there is room, so that the next turn of an episode, or another
    episode with the same beginning, only computes what is new.

    Answers are those of `HFBackend`, up to rounding: a request's sample depends on its seed and
    logits only, not on its company, on what was in memory, or on having been interrupted.

    Weights change between answers: `load_weights` and `set_version` let the running requests end
    first, those that wait get the new weights, and everything kept from the old ones is dropped.
    A completion's ``weights_version`` therefore holds for all of its tokens.

    The weights that compute are copies in a faster layout (see `decoder.FusedDecoder`) where the
    architecture is known, else the model itself. With LoRA adapters one copy serves both requests
    for ``weights="policy"`` and for ``"base"``.
    """

    concurrency = 1024

    def __init__(
        self,
        model: PreTrainedModel | LoadedModel | str = "smollm2-135m",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        memory: int | None = None,
        max_batch: int | None = None,
        chunk: int | None = None,
        eos_ids: Sequence[int] | None = None,
        reuse: bool = True,
        fused: bool | None = None,
        max_waiting: int = 1 << 16,
        vision: Vision | None = None,
    ) -> None:
        """Wrap a model, or load one by name.

        Args:
            model: a model, or a name for `load_model`. LoRA models of `peft` work as they are.
            tokenizer: needed for texts and stop strings; comes with a name.
            dtype: for a name, see `load_model`.
            device: for a name, see `load_model`.
            memory: bytes for keys and values. By default a quarter of the machine's memory but
                at most 4 GiB; on an accelerator three tenths of what is free, so that a trainer or
                other runs have room.
            max_batch: most texts in a step; by default 64, on a GPU 256.
            chunk: most tokens of prompts in a step; long prompts are read in so many steps, while
                other texts go on. By default 1024, on a GPU 8192.
            eos_ids: ids that end an answer; by default those of the model and the tokenizer.
            reuse: keep prefixes.
            fused: insist on the fused forward pass (True) or on transformers' own (False).
            max_waiting: most unfinished requests; `submit` refuses more, `generate` waits.
            vision: how the model reads pictures; comes with a name.

        Raises:
            ConfigError: the model cannot be loaded or served, or a limit is too small.
        """
        if isinstance(model, str):
            model = load_model(model, dtype=dtype, device=device)
        if isinstance(model, LoadedModel):
            tokenizer = tokenizer or model.tokenizer
            vision = vision or model.vision
            model = model.model
        gpu = model.device.type == "cuda"
        max_batch = max_batch if max_batch is not None else (256 if gpu else 64)
        chunk = chunk if chunk is not None else (8192 if gpu else 1024)
        if min(max_batch, max_waiting) < 1 or chunk < PAGE:
            raise ConfigError(
                f"max_batch and max_waiting must be at least 1 and chunk at least {PAGE}, got "
                f"{max_batch}, {max_waiting} and {chunk}"
            )
        untyped: Any = model
        self.tokenizer = tokenizer
        self.version = 0
        self._model: Any = untyped
        self._adapters = hasattr(untyped, "get_base_model")
        with torch.inference_mode():
            self._decoder = make_decoder(untyped, fused=fused)
            self._sights = None if vision is None else self._looking(vision)
            self._answers = Answers(
                self._decoder.model, tokenizer, eos_ids, sees=vision is not None
            )
            pages = self._pages(memory, max_batch)
            self._scheduler = Scheduler(
                self._decoder,
                self._answers,
                self._decoder.pool(pages),
                max_batch=max_batch,
                chunk=chunk,
                reuse=reuse,
            )
        self._loop = Loop(self._scheduler, max_waiting, self._decoder.model.device)
        self._finalizer = weakref.finalize(self, self._loop.stop, "the engine is gone")

    @property
    def counters(self) -> dict[str, int]:
        """Since the beginning: steps, tokens computed, tokens reused, texts preempted, pictures."""
        pictures = 0 if self._sights is None else self._sights.runs
        return {**self._scheduler.counters, "pictures": pictures}

    def submit(
        self,
        request: GenerationRequest,
        *,
        on_tokens: Callable[[Sequence[int]], None] | None = None,
    ) -> Ticket:
        """Queue a request and return at once; see `core.StreamingBackend.submit`.

        Raises:
            InferenceError: the engine is closed, or too many requests are waiting.
        """
        return self._submit(self._prepared(request), on_tokens, block=False)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the engine is closed, or fails meanwhile.
        """
        prepared = [self._prepared(request) for request in requests]
        with self._loop.together():
            tickets = [self._submit(each, None, block=True) for each in prepared]
        return [ticket.result() for ticket in tickets]

    def logprobs(
        self,
        sequences: Sequence[IntArray],
        starts: Sequence[int],
        *,
        weights: WeightsChoice = "policy",
        images: Sequence[Sequence[Image]] = (),
    ) -> list[FloatArray]:
        """Log-probabilities of given tokens; see `InferenceBackend.logprobs`.

        Args:
            sequences: each (L,) ids.
            starts: for each, the first position to score (at least 1).
            weights: see `GenerationRequest.weights`.
            images: for each, the pictures that it has placeholders of; empty if none has any.

        Raises:
            ConfigError: a sequence or start is out of range, or a picture cannot be shown.
            InferenceError: the engine is closed, or a sequence cannot be computed.
        """
        if len(sequences) != len(starts):
            raise ConfigError(f"got {len(sequences)} sequences and {len(starts)} starts")
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            self._check(ids, f"sequence {index}")
            if not 1 <= start <= len(ids):
                raise ConfigError(f"sequence {index}: start must be in 1..{len(ids)}, got {start}")
        empty: FloatArray = np.zeros(0, np.float32)
        jobs = [
            TokenScores(ids, start, self._kind(weights)) if start < len(ids) else None
            for ids, start in zip(sequences, starts, strict=True)
        ]
        for job, sight in zip(jobs, self._seen(sequences, images), strict=True):
            if job is not None:
                job.show(sight)
        found = iter(self._read([job for job in jobs if job is not None]))
        return [empty if job is None else next(found) for job in jobs]

    def choices(
        self,
        prompt_ids: IntArray,
        candidates: Sequence[IntArray],
        *,
        weights: WeightsChoice = "policy",
        images: Sequence[Image] = (),
    ) -> FloatArray:
        """How likely each of some continuations is; the prompt is computed once.

        Args:
            prompt_ids: (P,)
            candidates: each (T,) ids, at least one.
            weights: see `GenerationRequest.weights`.
            images: that the prompt has placeholders of.

        Returns:
            (N,) nats: log-probability of all of a candidate's tokens.

        Raises:
            ConfigError: ids are out of range, a candidate is empty, or a picture cannot be shown.
            InferenceError: see `logprobs`.
        """
        self._check(prompt_ids, "the prompt")
        for index, candidate in enumerate(candidates):
            self._check(candidate, f"candidate {index}")
        texts = [np.concatenate([prompt_ids, candidate]) for candidate in candidates]
        starts = [len(prompt_ids)] * len(texts)
        shown = [images] * len(texts)
        scores = self.logprobs(texts, starts, weights=weights, images=shown)
        return np.array([values.sum(dtype=np.float64) for values in scores], np.float32)

    def yes_no(
        self,
        prompt_ids: IntArray,
        yes_ids: Sequence[int],
        no_ids: Sequence[int],
        *,
        weights: WeightsChoice = "policy",
        images: Sequence[Image] = (),
    ) -> float:
        """Probability of yes rather than no as the next token, by one forward pass.

        Args:
            prompt_ids: (P,)
            yes_ids: tokens that mean yes.
            no_ids: tokens that mean no.
            weights: see `GenerationRequest.weights`.
            images: that the prompt has placeholders of.

        Returns:
            P(yes) / (P(yes) + P(no)).

        Raises:
            ConfigError: ids are out of range or missing, or a picture cannot be shown.
            InferenceError: see `logprobs`.
        """
        self._check(prompt_ids, "the prompt")
        for name, ids in (("yes_ids", yes_ids), ("no_ids", no_ids)):
            self._check(np.array(ids), name)
        job = NextScores(prompt_ids, [yes_ids, no_ids], self._kind(weights))
        job.show(*self._seen([prompt_ids], [images]))
        ((yes, no),) = self._read([job])
        return float(np.exp(yes - np.logaddexp(yes, no)))

    def features(
        self,
        sequences: Sequence[IntArray],
        layer: int = -1,
        *,
        weights: WeightsChoice = "policy",
        images: Sequence[Sequence[Image]] = (),
    ) -> list[FloatArray]:
        """Hidden states of a layer, numbered as in transformers' ``hidden_states``.

        Args:
            sequences: each (L,) ids.
            layer: 0 is the embedding, -1 the last one, normalised.
            weights: see `GenerationRequest.weights`.
            images: see `logprobs`.

        Returns:
            For each, (L, d) float32.

        Raises:
            ConfigError: ids or the layer are out of range.
            InferenceError: see `logprobs`.
        """
        return self._states(sequences, layer, [0] * len(sequences), weights, images)

    def embed(
        self,
        sequences: Sequence[IntArray],
        pooling: Literal["mean", "last"] = "mean",
        *,
        layer: int = -1,
        weights: WeightsChoice = "policy",
        images: Sequence[Sequence[Image]] = (),
    ) -> FloatArray:
        """One vector for each text.

        Args:
            sequences: each (L,) ids.
            pooling: the mean over all tokens, or the last token, which can reuse prefixes.
            layer: see `features`.
            weights: see `GenerationRequest.weights`.
            images: see `logprobs`.

        Returns:
            (N, d) float32.

        Raises:
            ConfigError: an argument is out of range.
            InferenceError: see `logprobs`.
        """
        if pooling not in ("mean", "last"):
            raise ConfigError(f"pooling must be 'mean' or 'last', got {pooling!r}")
        needs = [len(ids) - 1 if pooling == "last" else 0 for ids in sequences]
        states = self._states(sequences, layer, needs, weights, images)
        config: Any = self._decoder.model.config
        width = config.get_text_config().hidden_size
        return np.array([s.mean(axis=0) for s in states], np.float32).reshape(len(states), width)

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Copy tensors into the model in place, once the running requests have ended.

        Args:
            state: names as in the model's `state_dict`; a subset is allowed.
            version: what answers carry from now on.

        Raises:
            InferenceError: a shape differs, or the engine is closed. Nothing has changed.
            UnknownNameError: a name is not the model's. Nothing has changed.
        """

        def change() -> None:
            copy_weights(self._model, state)
            self._changed(version)

        self._loop.alone(change)

    def set_version(self, version: int) -> None:
        """Say that the model object has been updated in place; see `load_weights`.

        The fused forward pass copies the weights here; without it, requests that run while the
        model changes see the change at once, so change it while none are running.

        Raises:
            InferenceError: the engine is closed.
        """
        self._loop.alone(lambda: self._changed(version))

    def close(self) -> None:
        """End everything that is unfinished and free the memory; may be called twice."""
        self._loop.stop("the engine is closed; make a new one")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _changed(self, version: int) -> None:
        self._decoder.refresh()
        self._scheduler.forget()
        if self._sights is not None:
            self._sights.forget()
        self._scheduler.version = self.version = version

    def _prepared(self, request: GenerationRequest) -> tuple[GenerationRequest, Sight | None, str]:
        """A request with its pictures, and why it cannot be answered."""
        reason = self._answers.problem(request)
        if not reason and len(request.prompt_ids) >= self._scheduler.capacity:
            reason = (
                f"the prompt has {len(request.prompt_ids)} tokens and memory holds "
                f"{self._scheduler.capacity}; shorten the prompt or raise memory="
            )
        sight = None
        if not reason and request.images:
            try:
                (sight,) = self._seen([request.prompt_ids], [request.images])
            except ConfigError as error:
                reason = str(error)
        return request, sight, reason

    def _submit(
        self,
        prepared: tuple[GenerationRequest, Sight | None, str],
        on_tokens: Callable[[Sequence[int]], None] | None,
        *,
        block: bool,
    ) -> Ticket:
        request, sight, reason = prepared
        if reason:
            self._loop.check()
            return DoneTicket(failed(reason, self.version))
        row = self._answers.row(request)
        row.limit = min(row.limit, self._scheduler.capacity - len(row.prompt))
        job = Generation(row, self._answers, self._kind(request.weights), on_tokens)
        job.show(sight)
        self._loop.submit(job, block=block)
        return JobTicket(job, self._loop.wake)

    def _looking(self, vision: Vision) -> Sights:
        """Pictures of this model, once they are known to be exact."""
        plain = self._model.disable_adapter if self._adapters else None
        sights = Sights(self._decoder.model, vision, plain=plain)
        check_pictures(self._decoder, sights)
        sights.forget()
        sights.runs = 0
        return sights

    def _seen(
        self, texts: Sequence[IntArray], images: Sequence[Sequence[Image]]
    ) -> list[Sight | None]:
        """Texts with their pictures.

        Raises:
            ConfigError: one cannot be shown.
        """
        if not any(images):
            return [None] * len(texts)
        if self._sights is None:
            raise ConfigError("this model reads no pictures; load a vision-language model")
        if len(images) != len(texts):
            raise ConfigError(f"got {len(texts)} texts and pictures of {len(images)}")
        try:
            return [
                self._sights.see(ids, shown) if shown else None
                for ids, shown in zip(texts, images, strict=True)
            ]
        except ImageError as error:
            raise ConfigError(str(error)) from error

    def _states(
        self,
        sequences: Sequence[IntArray],
        layer: int,
        needs: Sequence[int],
        weights: WeightsChoice,
        images: Sequence[Sequence[Image]],
    ) -> list[FloatArray]:
        layers = self._decoder.layers
        if not -layers - 1 <= layer <= layers:
            raise ConfigError(f"layer must be in {-layers - 1}..{layers}, got {layer}")
        for index, ids in enumerate(sequences):
            self._check(ids, f"sequence {index}")
        kind = self._kind(weights)
        jobs = [
            States(ids, layer % (layers + 1), need, kind)
            for ids, need in zip(sequences, needs, strict=True)
        ]
        for job, sight in zip(jobs, self._seen(sequences, images), strict=True):
            job.show(sight)
        return self._read(jobs)

    def _read(self, jobs: Sequence[Reading]) -> list[Any]:
        for job in jobs:
            self._loop.submit(job, block=True)
        return [job.future.result() for job in jobs]

    def _check(self, ids: IntArray, what: str) -> None:
        reason = self._answers.id_problem(ids)
        longest = min(self._answers.max_positions, self._scheduler.capacity - 1)
        if not reason and len(ids) > longest:
            reason = f"{len(ids)} tokens are more than the {longest} that fit"
        if reason:
            raise ConfigError(f"{what}: {reason}")

    def _kind(self, weights: WeightsChoice) -> WeightsChoice:
        """Without adapters both kinds are the same, and share what is kept."""
        if weights not in get_args(WeightsChoice):
            raise ConfigError(f"weights must be one of {get_args(WeightsChoice)}, got {weights!r}")
        return weights if self._adapters else "policy"

    def _pages(self, memory: int | None, max_batch: int) -> int:
        """How many pages there are to be."""
        decoder = self._decoder
        size = bytes_per_page(decoder.layers, decoder.heads, decoder.width, decoder.model.dtype)
        if memory is None:
            memory = _memory_of(decoder.model.device)
        if memory < 2 * size:
            raise ConfigError(f"memory must hold two pages of {size} bytes, got {memory}")
        most = 16 * max_batch * (min(self._answers.max_positions, 1 << 16) // PAGE + 1)
        return min(memory // size, most)


def _memory_of(device: torch.device) -> int:
    """Bytes that keys and values may take by default."""
    if device.type == "cuda":
        return int(0.3 * torch.cuda.mem_get_info(device)[0])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine // 4, _DEFAULT_MEMORY)
