"""What every backend with a model in this process does with a request: check, record, finish."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, get_args

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgym.core import GenerationRequest, SamplingParams, WeightsChoice
from agentgym.inference import sampling
from agentgym.types import Completion, FinishReason, IntArray

NOT_FINITE = "the model's logits are not finite; check its weights and dtype"


@dataclass(slots=True)
class Row:
    """One request while it is answered."""

    prompt: IntArray
    params: SamplingParams
    limit: int
    """Most tokens that may be sampled."""
    noise: sampling.Noise
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str = ""


class Answers:
    """Checks requests against a model's limits and turns sampled tokens into completions."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        eos_ids: Collection[int] | None = None,
        *,
        sees: bool = False,
    ) -> None:
        """Read the limits off a model.

        Args:
            model: without adapters around it.
            tokenizer: needed for texts and stop strings.
            eos_ids: ids that end an answer; by default those of the model and the tokenizer.
            sees: requests may have pictures.
        """
        untyped: Any = model
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(_eos_ids(untyped, tokenizer) if eos_ids is None else eos_ids)
        self.vocabulary = int(untyped.get_input_embeddings().weight.shape[0])
        config = untyped.config.get_text_config()
        self.max_positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        self.sees = sees

    def problem(self, request: GenerationRequest) -> str:
        """Why a request cannot be answered; empty if it can."""
        params = request.sampling
        if reason := self.id_problem(request.prompt_ids) or sampling.problem(params):
            return reason
        if len(request.prompt_ids) >= self.max_positions:
            return (
                f"the prompt has {len(request.prompt_ids)} tokens and the model "
                f"{self.max_positions} positions; shorten the prompt"
            )
        if not isinstance(request.seed, Integral) or request.seed < 0:
            return f"seed must be an integer of at least 0, got {request.seed!r}"
        if params.stop and self.tokenizer is None:
            return "stop strings need a tokenizer; give the backend one"
        if request.images and not self.sees:
            return (
                "this model reads no pictures; load a vision-language model by name, or give its "
                "vision= to the backend"
            )
        if request.weights not in get_args(WeightsChoice):
            return f"weights must be one of {get_args(WeightsChoice)}, got {request.weights!r}"
        return ""

    def id_problem(self, ids: IntArray) -> str:
        """What is wrong with token ids; empty if nothing is."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            return f"ids must be a non-empty 1-d integer array, got {ids.dtype} {ids.shape}"
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            return f"ids must be in 0..{self.vocabulary - 1}, got {ids.min()}..{ids.max()}"
        return ""

    def limit(self, request: GenerationRequest) -> int:
        """How many tokens may be sampled: as asked, and as the model has positions for."""
        return min(request.sampling.max_tokens, self.max_positions - len(request.prompt_ids))

    def row(self, request: GenerationRequest) -> Row:
        """A checked request at its beginning."""
        return Row(
            prompt=np.asarray(request.prompt_ids),
            params=request.sampling,
            limit=self.limit(request),
            noise=sampling.Noise(request.seed),
        )

    def sample(self, rows: Sequence[Row], logits: Any) -> sampling.Sample:
        """Choose a token for each row by (B, V) logits, each by its own parameters and stream.

        The tokens are appended, and rows that end with them have their `Row.finish` set.
        """
        uniform = [row.noise[len(row.ids)] if row.params.temperature > 0 else 0.0 for row in rows]
        sampled = sampling.sample(
            logits, [row.params for row in rows], torch.tensor(uniform, dtype=torch.float64)
        )
        for row, (token, logprob, kept_mass, entropy, ok) in zip(rows, sampled.rows(), strict=True):
            if not ok:
                row.finish = "error"
                row.error = NOT_FINITE
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.kept_mass.append(kept_mass)
            row.entropy.append(entropy)
            if token in self.eos_ids or self.stopped(row):
                row.finish = "stop"
            elif len(row.ids) >= row.limit:
                row.finish = "length"
        return sampled

    def stopped(self, row: Row) -> bool:
        """True if the last token completed a stop string."""
        if not row.params.stop:
            return False
        # Every token holds a byte at least, so the tail holds any stop string that ends here; the
        # margin is for characters cut at its beginning.
        tail = max(len(stop.encode()) for stop in row.params.stop) + 8
        if not any(stop in self.text(row.ids[-tail:]) for stop in row.params.stop):
            return False
        return len(row.ids) <= tail or any(stop in self.text(row.ids) for stop in row.params.stop)

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, special tokens included; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def completion(self, row: Row, version: int) -> Completion:
        """What a row came to; one that has not finished counts as aborted."""
        if row.finish == "error":
            return failed(row.error, version)
        ended = row.finish == "stop" and row.ids[-1] in self.eos_ids
        text = self.text(row.ids[:-1] if ended else row.ids)
        cuts = [text.find(stop) for stop in row.params.stop]
        return Completion(
            text=text[: min((cut for cut in cuts if cut >= 0), default=len(text))],
            token_ids=np.array(row.ids, np.int32),
            logprobs=np.array(row.logprobs, np.float32),
            kept_mass=np.array(row.kept_mass, np.float32),
            entropy=np.array(row.entropy, np.float32),
            finish_reason=row.finish or "abort",
            weights_version=version,
        )


def failed(reason: str, version: int) -> Completion:
    """The answer to a request that could not be answered."""
    return Completion(
        text="", token_ids=None, finish_reason="error", weights_version=version, error=reason
    )


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """Ids that end an answer, by the model's generation configuration and the tokenizer."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = set(named if isinstance(named, list) else [named])
    if tokenizer is not None:
        ids.add(tokenizer.eos_token_id)
    return {int(token) for token in ids if token is not None}
