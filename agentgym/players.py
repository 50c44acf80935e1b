"""The others in an environment: opponents, oracles, buyers. Scripted, or a language model.

An environment asks through `ask` and never knows who answers. What an environment's player fails
to answer is the environment's failure: the episode is masked and begun again, never a reward.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from agentgym.chat import ChatFormat, Tokenizer
from agentgym.core import GenerationRequest, InferenceBackend, SamplingParams
from agentgym.errors import AgentGymError, ConfigError, EnvFailureError
from agentgym.seeding import derive
from agentgym.types import Message

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
        attempts: how often an answer without meaning is asked for again, with another seed.

    Raises:
        EnvFailureError: no answer, or none with a meaning.
    """
    text = ""
    for attempt in range(attempts):
        seed = derive(turn.seed, "attempt", attempt) if attempt else turn.seed
        try:
            text = player.answer(replace(turn, seed=seed))
        except (ConfigError, EnvFailureError):
            raise
        except (AgentGymError, OSError) as error:
            raise EnvFailureError(f"{player.name} as {turn.role} failed: {error}") from error
        meaning = read(text)
        if meaning is not None:
            return meaning
    raise EnvFailureError(
        f"{player.name} as {turn.role} gave no usable answer in {attempts} attempts; "
        f"the last was {text[:100]!r}"
    )


class LanguagePlayer:
    """A language model as a player.

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

    def __deepcopy__(self, memo: dict[int, Any]) -> "LanguagePlayer":
        """Itself: `gymnasium.make` copies arguments, and a model must not be copied."""
        return self

    def answer(self, turn: PlayerTurn) -> str:
        """One sampled answer.

        Raises:
            InferenceError: the backend could not answer.
            EnvFailureError: the backend could not answer this request.
        """
        messages = (Message("system", turn.instructions), *turn.messages)
        ids = np.zeros(0, np.int32) if self.format is None else self._ids(turn)
        request = GenerationRequest(ids, self.sampling, turn.seed, messages)
        completion = self.backend.generate([request])[0]
        if completion.finish_reason in ("error", "abort"):
            raise EnvFailureError(f"{self.name} as {turn.role} failed: {completion.error}")
        return completion.text.strip()

    def _ids(self, turn: PlayerTurn) -> Any:
        """The talk as ids. Messages of one side in a row are joined."""
        assert self.format is not None
        users: list[str] = [""]
        answers: list[str] = []
        for message in turn.messages:
            if message.role == "assistant":
                answers.append(message.content)
                users.append("")
            else:
                users[-1] = f"{users[-1]}\n{message.content}".strip()
        ids = self.format.first(turn.instructions, users[0])
        for said, reply in zip(answers, users[1:], strict=True):
            spoken = self.format.answer(said)
            ids = [*ids, *spoken.tolist(), *self.format.following(spoken, reply)]
        return np.asarray(ids, np.int32)
