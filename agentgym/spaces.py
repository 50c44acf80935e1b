"""Gymnasium spaces for free text, action text, chat and tool calls.

Gymnasium's own `Text` cannot hold arbitrary Unicode (see its charset); these can. They batch to
tuples, so they work in `SyncVectorEnv`, and in `AsyncVectorEnv` with ``shared_memory=False``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np

from agentgym.actions import ActionSet
from agentgym.errors import ActionParseError, ConfigError
from agentgym.types import Observation

Sampler = Callable[[np.random.Generator], str]
_WORDS = ("", "a", "look", "héllo wörld", "two\nlines", "日本語", "🙂", 'say "hi"')


class Unicode(gym.Space[str]):
    """Any text that UTF-8 can encode, up to a length.

    Args:
        max_length: in characters.
        min_length: in characters.
        sampler: draws a text; by default one of a few awkward strings.
        seed: of the space's own generator.

    Example:
        >>> space = Unicode(max_length=5)
        >>> "héé" in space, "toolong" in space, 3 in space
        (True, False, False)
    """

    def __init__(
        self,
        max_length: int = 100_000,
        *,
        min_length: int = 0,
        sampler: Sampler | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if not 0 <= min_length <= max_length:
            raise ConfigError(
                f"need 0 <= min_length <= max_length, got {min_length} and {max_length}"
            )
        self.max_length = max_length
        self.min_length = min_length
        self.sampler = sampler
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed-size array form."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A random text of the space; masks do not apply."""
        if mask is not None or probability is not None:
            raise ConfigError("text spaces take no mask; use info['admissible_actions']")
        draw = self.sampler or (lambda rng: _WORDS[int(rng.integers(len(_WORDS)))])
        text = draw(self.np_random)[: self.max_length]
        return text.ljust(self.min_length, ".")

    def contains(self, x: Any) -> bool:
        """True for `str` of a fitting length without lone surrogates."""
        if not isinstance(x, str) or not self.min_length <= len(x) <= self.max_length:
            return False
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Text is JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """The inverse of `to_jsonable`."""
        return [str(s) for s in sample_n]

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is type(self)
            and isinstance(other, Unicode)
            and (self.max_length, self.min_length) == (other.max_length, other.min_length)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.max_length, self.min_length))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_length={self.max_length})"


class ActionText(Unicode):
    """Model text that an environment reads as an action; samples are well-formed calls.

    Whatever the model writes is in the space (up to `max_length`): what does not parse is told to
    the agent, not refused.

    Args:
        actions: the environment's actions.
        syntax: how samples are written.
        sampler: draws a call that makes sense now (for example on an element that is there).
        max_length: in characters.
        seed: of the space's own generator.
    """

    def __init__(
        self,
        actions: ActionSet,
        syntax: str = "python",
        *,
        sampler: Sampler | None = None,
        max_length: int = 100_000,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.actions = actions
        self.syntax = syntax
        super().__init__(max_length, sampler=sampler or self._random_call, seed=seed)

    def _random_call(self, rng: np.random.Generator) -> str:
        return self.actions.format(self.actions.sample(rng), self.syntax)


class ChatMessages(gym.Space[tuple[dict[str, str], ...]]):
    """A chat: tuples of ``{"role": ..., "content": ...}``.

    Args:
        max_messages: of one chat.
        max_length: characters of one message.
        seed: of the space's own generator.
    """

    ROLES = ("system", "user", "assistant", "tool")

    def __init__(
        self,
        max_messages: int = 1000,
        max_length: int = 100_000,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.max_messages = max_messages
        self.content = Unicode(max_length)
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a chat has no fixed-size array form."""
        return False

    def sample(
        self, mask: Any | None = None, probability: Any | None = None
    ) -> tuple[dict[str, str], ...]:
        """A chat of up to three short messages."""
        count = int(self.np_random.integers(min(3, self.max_messages) + 1))
        return tuple(
            {
                "role": self.ROLES[int(self.np_random.integers(len(self.ROLES)))],
                "content": _WORDS[int(self.np_random.integers(len(_WORDS)))][
                    : self.content.max_length
                ],
            }
            for _ in range(count)
        )

    def contains(self, x: Any) -> bool:
        """True for a tuple of messages with a known role and a text each."""
        return (
            isinstance(x, tuple)
            and len(x) <= self.max_messages
            and all(
                isinstance(m, dict)
                and set(m) == {"role", "content"}
                and m["role"] in self.ROLES
                and m["content"] in self.content
                for m in x
            )
        )

    def to_jsonable(self, sample_n: Iterable[tuple[dict[str, str], ...]]) -> list[Any]:
        """Lists instead of tuples."""
        return [[dict(m) for m in chat] for chat in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[tuple[dict[str, str], ...]]:
        """The inverse of `to_jsonable`."""
        return [tuple(dict(m) for m in chat) for chat in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatMessages) and (self.max_messages, self.content) == (
            other.max_messages,
            other.content,
        )

    def __hash__(self) -> int:
        return hash((type(self), self.max_messages, self.content))


class ToolCall(gym.Space[dict[str, Any]]):
    """A structured call ``{"name": ..., "arguments": {...}}`` that an `ActionSet` accepts.

    Args:
        actions: what may be called.
        seed: of the space's own generator.
    """

    def __init__(self, actions: ActionSet, seed: int | np.random.Generator | None = None) -> None:
        self.actions = actions
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a call has no fixed-size array form."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> dict[str, Any]:
        """A random call of the right types."""
        call = self.actions.sample(self.np_random)
        return {"name": call.name, "arguments": dict(call.arguments)}

    def contains(self, x: Any) -> bool:
        """True if the action exists and takes these arguments, already of the declared types."""
        if not isinstance(x, Mapping) or set(x) != {"name", "arguments"}:
            return False
        name, arguments = x["name"], x["arguments"]
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            return False
        if name not in self.actions:
            return False
        try:
            bound = self.actions[name].bind((), arguments)
        except ActionParseError:
            return False
        return all(type(bound[k]) is type(v) for k, v in arguments.items())

    def to_jsonable(self, sample_n: Iterable[dict[str, Any]]) -> list[Any]:
        """Calls are JSON already."""
        return [dict(s) for s in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[dict[str, Any]]:
        """The inverse of `to_jsonable`."""
        return [dict(s) for s in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolCall) and dict(self.actions) == dict(other.actions)

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.actions)))


def observation_space(
    *, max_length: int = 100_000, image_size: tuple[int, int] | None = None
) -> gym.Space[Observation]:
    """The space of `types.Observation`, a `gymnasium.spaces.Dict`.

    Args:
        max_length: characters of each text.
        image_size: (H, W) if the observation carries an image.
    """
    parts: dict[str, gym.Space[Any]] = {
        name: Unicode(max_length) for name in ("goal", "text", "error")
    }
    if image_size is not None:
        parts["image"] = gym.spaces.Box(0, 255, (*image_size, 3), np.uint8)
    return cast(gym.Space[Observation], gym.spaces.Dict(parts))
