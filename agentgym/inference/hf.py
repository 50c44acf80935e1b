"""Batched generation by a transformers model in this process."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgym.core import GenerationRequest
from agentgym.errors import ConfigError, ImageError, InferenceError
from agentgym.inference.answers import Answers, Row, failed
from agentgym.inference.cache import EqualRows, PaddedRows, Rows, can_pad
from agentgym.inference.sights import Sight, Sights, whole_inputs
from agentgym.inference.weights import copy_weights
from agentgym.models.load import LoadedModel, load_model
from agentgym.models.modes import in_eval
from agentgym.models.vision import Vision
from agentgym.types import Completion, FloatArray, Image, IntArray

log = logging.getLogger(__name__)

_SCORED_AT_ONCE = 512
"""Positions whose logits `logprobs` holds at a time; each takes V floats."""


class HFBackend:
    """An `InferenceBackend` over a transformers causal language model.

    Requests are sorted by length and answered in chunks under one lock: a prefix common to a chunk
    is read once, rows are padded on the left, and a finished row leaves the batch. A request's
    sample depends on its own seed and logits only, so apart from rounding it does not matter which
    requests are answered together. Models whose padding a mask cannot describe (sliding windows,
    recurrent layers) are batched by equal length instead.

    The model may be the very object that a trainer updates: then nothing need be copied, only
    `set_version` called. Dropout is off during a call and put back after.
    """

    concurrency = 1

    def __init__(
        self,
        model: PreTrainedModel | LoadedModel | str = "smollm2-135m",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_batch: int = 64,
        token_budget: int = 16384,
        eos_ids: Sequence[int] | None = None,
        share_prefix: bool = True,
        vision: Vision | None = None,
    ) -> None:
        """Wrap a model, or load one by name.

        Args:
            model: a model, or a name for `load_model`. LoRA models of `peft` work as they are.
            tokenizer: needed for texts and stop strings; comes with a name.
            dtype: for a name, see `load_model`.
            device: for a name, see `load_model`.
            max_batch: most rows in a chunk.
            token_budget: most tokens in a chunk, padding and tokens to come included; a request
                above it is answered alone.
            eos_ids: ids that end an answer; by default those of the model and the tokenizer.
            share_prefix: read a common prefix once.
            vision: how the model reads pictures; comes with a name.

        Raises:
            ConfigError: the model cannot be loaded, or a limit is below 1.
        """
        if max_batch < 1 or token_budget < 1:
            raise ConfigError(
                f"max_batch and token_budget must be at least 1, got {max_batch}, {token_budget}"
            )
        if isinstance(model, str):
            model = load_model(model, dtype=dtype, device=device)
        if isinstance(model, LoadedModel):
            tokenizer = tokenizer or model.tokenizer
            vision = vision or model.vision
            model = model.model
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.token_budget = token_budget
        self.share_prefix = share_prefix
        self.version = 0
        self._lock = threading.RLock()
        self._closed = False
        # The layers of a LoRA are inside the base, whose own forward therefore applies them.
        base: Any = model
        self._base = base.get_base_model() if hasattr(model, "peft_config") else base
        self._pads = can_pad(self._base)
        self._vision = vision
        self._sights = None if vision is None else Sights(self._base, vision)
        self.answers = Answers(self._base, tokenizer, eos_ids, sees=vision is not None)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer all requests, in order; see `InferenceBackend.generate`.

        Raises:
            InferenceError: the backend is closed.
        """
        answers: list[Completion | None] = [None] * len(requests)
        sights: dict[int, Sight | None] = {}
        for index, request in enumerate(requests):
            try:
                reason = self._problem(request)
                sights[index] = None if reason else self._seen(request.prompt_ids, request.images)
            except ImageError as error:
                reason = str(error)
            if reason:
                answers[index] = failed(reason, self.version)
                sights.pop(index, None)
        with self._serving():
            for chunk in self._chunks(requests, sights):
                rows = [(requests[index], sights[index]) for index in chunk]
                for index, answer in zip(chunk, self._answer(rows), strict=True):
                    answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def logprobs(
        self,
        sequences: Sequence[IntArray],
        starts: Sequence[int],
        *,
        images: Sequence[Sequence[Image]] = (),
    ) -> list[FloatArray]:
        """Log-probabilities of given tokens; see `InferenceBackend.logprobs`.

        Args:
            sequences: each (L,) ids.
            starts: for each, the first position to score (at least 1).
            images: for each, the pictures that it has placeholders of; empty if none has any.

        Raises:
            ConfigError: a sequence or start is out of range, or a picture cannot be shown.
            InferenceError: the backend is closed.
        """
        if len(sequences) != len(starts):
            raise ConfigError(f"got {len(sequences)} sequences and {len(starts)} starts")
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            reason = self.answers.id_problem(ids)
            if not reason and not 1 <= start <= len(ids):
                reason = f"start must be in 1..{len(ids)}, got {start}"
            if reason:
                raise ConfigError(f"sequence {index}: {reason}")
        if images and len(images) != len(sequences):
            raise ConfigError(f"got {len(sequences)} sequences and pictures of {len(images)}")
        try:
            sights = [self._seen(*each) for each in zip(sequences, images or (), strict=False)]
        except ImageError as error:
            raise ConfigError(str(error)) from error
        sights = sights or [None] * len(sequences)
        results: list[FloatArray] = [np.zeros(0, np.float32)] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        with self._serving():
            lengths = dict(enumerate(map(len, sequences)))
            alone = not self._pads and any(sights)
            for chunk in _packed(order, lengths, 1 if alone else self.max_batch, self.token_budget):
                scored = self._score(
                    [sequences[i] for i in chunk],
                    [starts[i] for i in chunk],
                    [sights[i] for i in chunk],
                )
                for index, values in zip(chunk, scored, strict=True):
                    results[index] = values
        return results

    def load_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Copy tensors into the model in place; all names and shapes are checked first.

        Args:
            state: names as in the model's `state_dict`; a subset is allowed.
            version: what answers carry from now on.

        Raises:
            InferenceError: a shape differs, or the backend is closed.
            UnknownNameError: a name is not the model's.
        """
        with self._lock, torch.no_grad():
            self._check_open()
            copy_weights(self.model, state)
            self.set_version(version)

    def set_version(self, version: int) -> None:
        """Say that the model object has been updated in place."""
        with self._lock:
            self.version = version
            if self._sights is not None:
                self._sights.forget()

    def close(self) -> None:
        """Let go of the model; may be called twice."""
        with self._lock:
            self._closed = True
            self.model = self._base = None  # type: ignore[assignment]

    @property
    def _limits(self) -> tuple[int, int]:
        return self.max_batch, self.token_budget

    def _check_open(self) -> None:
        if self._closed:
            raise InferenceError("the backend is closed; make a new HFBackend")

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Alone on the model, without gradients and dropout."""
        with self._lock, torch.inference_mode():
            self._check_open()
            with in_eval(self.model):
                yield

    def _seen(self, ids: IntArray, images: Sequence[Image]) -> Sight | None:
        """A text with its pictures.

        Raises:
            ImageError: it cannot be shown.
        """
        if not images:
            return None
        if self._sights is None:
            raise ImageError("this model reads no pictures; load a vision-language model")
        return self._sights.see(ids, images)

    def _problem(self, request: GenerationRequest) -> str:
        """Why a request cannot be answered; empty if it can."""
        if request.weights == "base" and self.model is not self._base:
            return "HFBackend keeps the adapters on; for weights 'base' use Engine"
        return self.answers.problem(request)

    def _chunks(
        self, requests: Sequence[GenerationRequest], good: Mapping[int, Sight | None]
    ) -> Iterator[list[int]]:
        """Indices to answer together: of similar length, of equal length if need be.

        Where pictures need the model's own forward pass, they are answered alone.
        """
        prompts = {index: len(requests[index].prompt_ids) for index in good}
        totals = {index: prompts[index] + self.answers.limit(requests[index]) for index in good}
        order = sorted(good, key=lambda index: (prompts[index], totals[index]))
        if self._pads:
            yield from _packed(order, totals, *self._limits)
        else:
            yield from ([index] for index in order if good[index] is not None)
            order = [index for index in order if good[index] is None]
            for length in sorted({prompts[index] for index in order}):
                equal = [index for index in order if prompts[index] == length]
                yield from _packed(equal, totals, *self._limits)

    def _answer(
        self, requests: Sequence[tuple[GenerationRequest, Sight | None]]
    ) -> list[Completion]:
        """Answer one chunk; if it cannot be computed, its halves."""
        try:
            return [self.answers.completion(row, self.version) for row in self._decode(requests)]
        # Out of memory above all; torch has no narrower class.
        except (RuntimeError, ImageError) as error:
            if len(requests) == 1:
                return [failed(f"{type(error).__name__}: {str(error)[:500]}", self.version)]
            log.warning("a chunk of %d failed (%s); trying its halves", len(requests), error)
        if self._base.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(requests) // 2
        return self._answer(requests[:half]) + self._answer(requests[half:])

    def _decode(self, requests: Sequence[tuple[GenerationRequest, Sight | None]]) -> list[Row]:
        """Sample until every row is finished."""
        everyone = [self.answers.row(request) for request, _ in requests]
        sights = [sight for _, sight in requests]
        batch: Rows = (
            PaddedRows(self._base, share_prefix=self.share_prefix)
            if self._pads
            else EqualRows(self._base, self._vision)
        )
        rows = list(everyone)
        limit = max(row.limit for row in rows)
        logits = batch.prefill([row.prompt for row in rows], limit, sights)
        while True:
            tokens = self.answers.sample(rows, logits).token_ids
            going = [index for index, row in enumerate(rows) if row.finish is None]
            if not going:
                return everyone
            if len(going) < len(rows):
                order = batch.keep(going)
                rows = [rows[index] for index in order]
                tokens = tokens[order]
            logits = batch.step(tokens)

    def _score(
        self,
        sequences: Sequence[IntArray],
        starts: Sequence[int],
        sights: Sequence[Sight | None],
    ) -> list[FloatArray]:
        """`logprobs` of one chunk, padded on the right: causal rows never see their padding."""
        ids = torch.zeros((len(sequences), max(map(len, sequences))), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
        ids = ids.to(self._base.device)
        counts = [len(s) - start for s, start in zip(sequences, starts, strict=True)]
        where = [
            (row, position - 1)
            for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True))
            for position in range(start, len(sequence))
        ]
        if not where:
            return [np.zeros(0, np.float32) for _ in sequences]
        index = torch.tensor(where, device=ids.device)
        if self._pads:
            inputs = whole_inputs(self._base, ids, sights)
            hidden = self._base.get_decoder()(**inputs, use_cache=False).last_hidden_state
            states, head = hidden[index[:, 0], index[:, 1]], self._base.get_output_embeddings()
        else:
            inputs = {"input_ids": ids}
            if self._vision is not None and sights[0] is not None:
                pictures = [sights[0].pictures]
                inputs = self._vision.whole(sequences, pictures, ids.device)
            logits = self._base(**inputs, use_cache=False).logits
            states, head = logits[index[:, 0], index[:, 1]], torch.nn.Identity()
        targets = ids[index[:, 0], index[:, 1] + 1]
        values = torch.cat(
            [
                torch.log_softmax(head(part).float(), dim=-1).gather(-1, target[:, None])[:, 0]
                for part, target in zip(
                    torch.split(states, _SCORED_AT_ONCE),
                    torch.split(targets, _SCORED_AT_ONCE),
                    strict=True,
                )
            ]
        )
        ends = np.cumsum(counts)[:-1]
        return list(np.split(values.cpu().numpy(), ends))


def _packed(
    order: Sequence[int], lengths: Mapping[int, int], max_batch: int, token_budget: int
) -> Iterator[list[int]]:
    """Cut `order` into runs of at most `max_batch` rows and `token_budget` padded tokens."""
    run: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if run and (len(run) >= max_batch or longest * (len(run) + 1) > token_budget):
            yield run
            run, longest = [], lengths[index]
        run.append(index)
    if run:
        yield run
