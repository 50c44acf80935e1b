"""What the engine does with one text: sample what comes next, score its tokens, or read states."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from agentgym.core import WeightsChoice
from agentgym.errors import InferenceError
from agentgym.inference.answers import Answers, Row, failed
from agentgym.inference.attention import Span
from agentgym.inference.pages import Node
from agentgym.inference.sights import Sight
from agentgym.types import Completion, FloatArray, IntArray


class Job(ABC):
    """A text on its way through the scheduler."""

    layer: int | None = None
    """Whose hidden states it wants besides the last."""
    sight: Sight | None = None
    """Its pictures; `tokens` then are keys."""

    def __init__(self, tokens: Sequence[int], weights: WeightsChoice, need: int) -> None:
        """Begin with nothing computed.

        Args:
            tokens: the text so far.
            weights: that read it.
            need: first position whose hidden state is wanted; those before may come from memory.
        """
        self.tokens = list(tokens)
        self.weights = weights
        self.need = need
        self.arrival = 0
        self.computed = 0
        """Tokens whose keys and values are in memory."""
        self.trunk: tuple[Node, ...] = ()
        """Pages of the beginning that are read where they are."""
        self.trunk_pages: tuple[int, ...] = ()
        """The same as numbers."""
        self.pages: list[int] = []
        """What comes after the trunk: its own pages, and kept ones that are lent to it."""
        self.passed: tuple[Node, ...] = ()
        """Kept pages, pinned, that the text begins with."""
        self.loans: set[Node] = set()
        """Those among them that are lent to it."""
        self.awaited = False
        """Others wait for its beginning to be kept."""
        self.overtaken = 0
        self.started = False
        """It has results already, which must not mix with other weights'."""
        self.aborted = False
        self.future: Future[Any] = Future()
        self._key = b""

    @property
    def key(self) -> bytes:
        """Its tokens as big-endian 32-bit numbers: quicker to compare than a list."""
        if len(self._key) != 4 * len(self.tokens):
            self._key = np.array(self.tokens, ">i4").tobytes()
        return self._key

    def stand(self, trunk: tuple[Node, ...]) -> None:
        """Begin with these pages, which may have moved."""
        self.trunk = trunk
        self.trunk_pages = tuple(node.page for node in trunk)

    def borrow(self, node: Node) -> None:
        """Have a kept page among its own."""
        node.lent = True
        self.loans.add(node)

    def end_loans(self, nodes: Sequence[Node]) -> None:
        """No longer have these pages among its own."""
        for node in self.loans.intersection(nodes):
            node.lent = False
        self.loans.difference_update(nodes)

    def owned(self, pages: Sequence[int]) -> list[int]:
        """Those of its pages that are not lent to it."""
        lent = {node.page for node in self.loans}
        return [page for page in pages if page not in lent]

    def span(self, new: int) -> Span:
        """What it brings to a step of so many new tokens."""
        return Span(self.computed, new, self.trunk_pages, tuple(self.pages))

    @property
    def todo(self) -> int:
        """Tokens to compute before something can be done with the text."""
        return len(self.tokens) - self.computed

    def show(self, sight: Sight | None) -> None:
        """Show its pictures; before anything is computed."""
        if sight is not None:
            self.sight = sight
            self.tokens = sight.keys[: len(self.tokens)].tolist()

    @abstractmethod
    def fail(self, reason: str, version: int) -> None:
        """It cannot be answered."""

    def rewind(self) -> None:
        """Its memory was taken away; what it has come to is kept."""
        self.computed = 0


class Generation(Job):
    """Samples until the answer ends."""

    def __init__(
        self,
        row: Row,
        answers: Answers,
        weights: WeightsChoice,
        on_tokens: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        super().__init__(row.prompt.tolist(), weights, len(row.prompt) - 1)
        self.row = row
        self._answers = answers
        self._on_tokens = on_tokens

    def sampled(self) -> None:
        """The row has a new token, or has ended by an error."""
        if self.row.finish != "error":
            self.started = True
            self.tokens.append(self.row.ids[-1])
            if self._on_tokens is not None:
                try:
                    self._on_tokens(self.row.ids[-1:])
                except Exception as error:  # the caller's own code; the others go on
                    self.row.finish = "error"
                    self.row.error = f"on_tokens failed: {type(error).__name__}: {error}"

    def finish(self, version: int) -> None:
        """Hand over the answer."""
        self.future.set_result(self._answers.completion(self.row, version))

    def fail(self, reason: str, version: int) -> None:
        """Hand over the reason."""
        self.future.set_result(failed(reason, version))

    def rewind(self) -> None:
        """Go back to the beginning with all tokens sampled so far."""
        self.computed = 0
        self.need = len(self.tokens) - 1


class Reading(Job):
    """Reads a text once. Subclasses take what they need of it, chunk by chunk.

    What has been taken is no longer needed (`need` moves on), so that a step that is computed
    again hands nothing out twice.
    """

    @abstractmethod
    def result(self) -> Any:
        """What it came to, once all is read."""

    def fail(self, reason: str, version: int) -> None:
        """Raise the reason where the result is waited for."""
        self.future.set_exception(InferenceError(reason))


class Scoring(Reading):
    """A reading that takes log-probabilities of what comes next."""

    @abstractmethod
    def take(self, logprobs: torch.Tensor, position: int) -> None:
        """(n, V) nats of what follows positions `position`, `position` + 1, ..."""


class TokenScores(Scoring):
    """Log-probabilities of a text's own tokens from `start` on."""

    def __init__(self, tokens: IntArray, start: int, weights: WeightsChoice) -> None:
        self._text = [int(token) for token in tokens]
        super().__init__(self._text[:-1], weights, start - 1)
        self._parts: list[FloatArray] = []

    def take(self, logprobs: torch.Tensor, position: int) -> None:
        """Pick the tokens that do follow."""
        self.started = True
        self.need = position + len(logprobs)
        follow = self._text[position + 1 : position + 1 + len(logprobs)]
        index = torch.tensor(follow, device=logprobs.device)
        self._parts.append(logprobs.gather(1, index[:, None])[:, 0].cpu().numpy())

    def result(self) -> FloatArray:
        """(L - start,) nats."""
        return np.concatenate(self._parts)


class NextScores(Scoring):
    """Log of the probability that the next token is one of a set, for several sets."""

    def __init__(
        self, tokens: IntArray, sets: Sequence[Sequence[int]], weights: WeightsChoice
    ) -> None:
        super().__init__(tokens.tolist(), weights, len(tokens) - 1)
        self._sets = sets
        self._result: list[float] = []

    def take(self, logprobs: torch.Tensor, position: int) -> None:
        """Add up each set."""
        self.started = True
        self.need = position + len(logprobs)
        self._result = [float(logprobs[-1, list(ids)].logsumexp(0)) for ids in self._sets]

    def result(self) -> list[float]:
        """Nats of each set."""
        return self._result


class States(Reading):
    """Hidden states of a layer from position `need` on."""

    def __init__(self, tokens: IntArray, layer: int, need: int, weights: WeightsChoice) -> None:
        super().__init__(tokens.tolist(), weights, need)
        self.layer = layer
        self._parts: list[torch.Tensor] = []

    def take(self, states: torch.Tensor) -> None:
        """(n, d) states of the next positions."""
        self.started = True
        self.need += len(states)
        self._parts.append(states.float().cpu())

    def result(self) -> FloatArray:
        """(L - need, d) float32."""
        array: FloatArray = torch.cat(self._parts).numpy()
        return array


class JobTicket:
    """A `core.Ticket` for a generation."""

    def __init__(self, job: Generation, wake: Callable[[], None]) -> None:
        self._job = job
        self._wake = wake

    @property
    def done(self) -> bool:
        """True if `result` returns at once."""
        return self._job.future.done()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer; see `core.Ticket.result`."""
        completion: Completion = self._job.future.result(timeout)
        return completion

    def abort(self) -> None:
        """Stop answering."""
        self._job.aborted = True
        self._wake()


class DoneTicket:
    """A `core.Ticket` for a request that was answered at once."""

    done = True

    def __init__(self, completion: Completion) -> None:
        self._completion = completion

    def result(self, timeout: float | None = None) -> Completion:
        """The answer."""
        return self._completion

    def abort(self) -> None:
        """Too late."""
