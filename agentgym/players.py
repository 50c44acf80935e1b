"""The others in an environment: opponents, oracles, buyers. Scripted, or a language model.

An environment asks through `ask` and never knows who answers. What an environment's player fails
to answer is the environment's failure: the episode is masked and begun again, never a reward.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from agentgym.chat import ChatFormat, Tokenizer
from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.seeding import derive
from agentgym.types import NO_TOKENS, IntArray, Message, Role

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlayerTurn:
    """What a player is asked."""

    role: str
    """Who answers, e.g. "black", "oracle", "buyer"."""
    instructions: str
    """Who the player is and in what form to answer: the system message of a language model."""
    messages: tuple[Message, ...]
    """The talk so far as the player sees it: its own words are the assistant's, and the last
    message is the one to answer."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The state, as JSON values, for players that compute their answer."""
    seed: int = 0
    """Of the answer's own chance: an equal turn with an equal seed has an equal answer."""


@runtime_checkable
class Player(Protocol):
    """Answers turns. Keeps no memory of its own: a turn tells everything."""

    name: str

    def answer(self, turn: PlayerTurn) -> str:
        """The answer's text."""
        ...


def ask(player: Player, turn: PlayerTurn, read: Callable[[str], T | None], attempts: int = 3) -> T:
    """What a player answers, as the environment reads it.

    Args:
        player: who is asked.
        turn: what.
        read: the answer's meaning, or None if it has none.
        attempts: how often to ask at most, each time with another seed.

    Raises:
        EnvFailureError: no answer, or none with a meaning.
        ConfigError: the player is not set up to answer at all, or `attempts` is not positive.
    """
    if attempts < 1:
        raise ConfigError(f"attempts must be at least 1, got {attempts}")
    text = ""
    for attempt in range(attempts):
        asked = turn
        if attempt:
            asked = replace(turn, seed=derive(turn.seed, "attempt", attempt))
        try:
            text = player.answer(asked)
        except (ConfigError, EnvFailureError):
            raise
        except Exception as error:  # whatever breaks in there is not the agent's doing
            raise EnvFailureError(f"{player.name} as {turn.role} failed: {error!r}") from error
        if not isinstance(text, str):
            kind = type(text).__name__
            raise EnvFailureError(f"{player.name} as {turn.role} answered with {kind}, not text")
        meaning = read(text)
        if meaning is not None:
            return meaning
    raise EnvFailureError(
        f"{player.name} as {turn.role} gave no usable answer in {attempts} attempts; "
        f"the last was {text[:100]!r}"
    )


class LanguagePlayer:
    """A language model as a player. May be shared by environments in any number of threads.

    Args:
        backend: where it runs; may be shared by any number of environments.
        tokenizer: of the backend's model; None for servers that take messages.
        sampling: how it answers.
        name: for errors.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        tokenizer: Tokenizer | None = None,
        *,
        sampling: SamplingParams | None = None,
        name: str = "language model",
    ) -> None:
        self.backend = backend
        self.format = None if tokenizer is None else ChatFormat(tokenizer)
        self.sampling = sampling or SamplingParams(temperature=0.7, max_tokens=64)
        self.name = name
        self._free = threading.BoundedSemaphore(max(1, backend.concurrency))

    def __deepcopy__(self, memo: dict[int, Any]) -> "LanguagePlayer":
        """Itself: `gymnasium.make` copies arguments, and a model must not be copied."""
        return self

    def answer(self, turn: PlayerTurn) -> str:
        """One sampled answer.

        Raises:
            InferenceError: the backend could not answer.
            EnvFailureError: the backend could not answer this request.
            ConfigError: the last message is the player's own, or pictures cannot be shown.
        """
        talk = _alternating(turn)
        if self.format is not None and any(message.images for message in talk):
            raise ConfigError(f"{self.name} reads ids, which hold no pictures; leave out tokenizer")
        messages = (Message("system", turn.instructions), *talk)
        ids = NO_TOKENS if self.format is None else self._ids(self.format, turn.instructions, talk)
        request = GenerationRequest(ids, self.sampling, turn.seed, messages)
        with self._free:
            completion = self.backend.generate([request])[0]
        if completion.finish_reason in ("error", "abort"):
            raise EnvFailureError(f"{self.name} as {turn.role} failed: {completion.error}")
        return completion.text.strip()

    @staticmethod
    def _ids(format: ChatFormat, instructions: str, talk: Sequence[Message]) -> IntArray:
        """(P,) the talk as the model's template writes it, up to where the answer begins."""
        ids = format.first(instructions, talk[0].content)
        for said, reply in zip(talk[1::2], talk[2::2], strict=True):
            spoken = format.answer(said.content)
            ids += [*spoken.tolist(), *format.following(spoken, reply.content)]
        return np.asarray(ids, np.int32)


def _alternating(turn: PlayerTurn) -> list[Message]:
    """The talk as user, assistant, ..., user: chat templates and servers take no other order.

    Messages of one side in a row are joined by newlines; talk that the player itself began has an
    empty message before.
    """
    talk: list[Message] = []
    for message in turn.messages:
        role: Role = "assistant" if message.role == "assistant" else "user"
        if talk and talk[-1].role == role:
            before = talk[-1]
            start = len(before.content) + 1
            images = tuple((start + place, image) for place, image in message.images)
            joined = f"{before.content}\n{message.content}"
            talk[-1] = Message(role, joined, before.images + images)
        else:
            talk.append(Message(role, message.content, message.images))
    if not talk or talk[-1].role == "assistant":
        raise ConfigError(f"{turn.role} has nothing to answer: the last message must be another's")
    return talk if talk[0].role == "user" else [Message("user", ""), *talk]
