"""Observations to exact token ids: the only place that knows chat templates.

A template is taken apart once into the pieces around the contents (`ChatFormat`). A conversation
then grows by concatenating ids: what the model sampled is never rendered or tokenised again, and
text from an environment can never become a control token of the template.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from agentgym.errors import ConfigError
from agentgym.types import NO_TOKENS, IntArray, Message, Observation


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any
    eos_token_id: int | None

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        """Text to ids."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any:
        """Messages to text."""
        ...


_MARKS = tuple(f"\u2063mark{c}\u2063" for c in "ABCDEF")


class ChatFormat:
    """The constant pieces of a chat template, as ids.

    A conversation is ``head + system + opening + user + reply + answer + between + user + ...``.

    Args:
        tokenizer: with a chat template.

    Raises:
        ConfigError: there is no template, or its pieces change from turn to turn, so that prompts
            could not grow append-only.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the tokenizer has no chat template; use an instruction-tuned model or set "
                "tokenizer.chat_template"
            )
        roles = ("system", "user", "assistant", "user", "assistant", "user")
        text: str = tokenizer.apply_chat_template(
            [{"role": r, "content": m} for r, m in zip(roles, _MARKS, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        pieces = []
        for mark in _MARKS:
            piece, found, text = text.partition(mark)
            if not found:
                raise ConfigError("the chat template drops or rewrites messages; choose another")
            pieces.append(piece)
        head, opening, reply, between, reply_again, between_again = pieces
        if (reply, between) != (reply_again, between_again) or text != reply:
            raise ConfigError("the chat template changes from turn to turn; choose another")
        self._head = self._special(head)
        self._opening = self._special(opening)
        self._reply = self._special(reply)
        self._between = self._special(between)
        # The piece between an answer and the next message starts with the token that ends a turn.
        self.end_id = self._between[0]

    def _special(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: control tokens written out in it stay text."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return list(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )

    def first(self, system: str, user: str) -> list[int]:
        """Ids of a whole context that ends where the model's first answer begins."""
        return [*self._head, *self.encode(system), *self._opening, *self.encode(user), *self._reply]

    def following(self, answer: Sequence[int] | IntArray, user: str) -> list[int]:
        """Ids between an answer and the next one. An answer cut by a limit is closed here."""
        closed = len(answer) > 0 and int(answer[-1]) == self.end_id
        between = self._between[1:] if closed else self._between
        return [*between, *self.encode(user), *self._reply]

    def answer(self, text: str) -> IntArray:
        """(T,) ids of an answer that was not sampled (a demonstration), with its end token."""
        return np.array([*self.encode(text), self.end_id], dtype=np.int32)


@dataclass(frozen=True)
class ContextConfig:
    """How much of an episode the model sees."""

    history: Literal["all", "window"] = "all"
    """"all": the prompt grows append-only. "window": each turn sees a fresh context of the last
    `window` observations, and earlier actions as a list."""
    window: int = 1
    """Observations in a windowed context, the current one included."""
    max_tokens: int = 4096
    """Budget of a context, the answer to come included."""
    overflow: Literal["end", "drop"] = "end"
    """When the context would exceed the budget: end the episode (`TOKEN_LIMIT`), or begin a new
    context without the oldest turns."""
    instructions: str = (
        "You act step by step to reach the goal. "
        "Write one short line of thought, then one action on the last line. Actions:"
    )
    """Put before the list of actions in the system message."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_tokens < 1:
            raise ConfigError(
                f"window and max_tokens must be at least 1, got {self.window}, {self.max_tokens}"
            )


@dataclass(frozen=True, slots=True)
class Prompt:
    """The context of one turn."""

    ids: IntArray
    """(P,) what is new since the turn before if `extends`, else everything."""
    extends: bool
    context: IntArray
    """(P',) the whole context."""
    messages: tuple[Message, ...]
    fits: bool
    """False if the budget is exceeded and nothing more can be dropped."""


@dataclass
class _Exchange:
    observation: str
    user: str
    answer: str = ""
    answer_ids: IntArray | None = None


@dataclass
class Conversation:
    """One episode's chat. Alternate `observe`, `prompt` and `reply`.

    Args:
        format: pieces of the template; `None` for servers that only take messages.
        system: the system message.
        config: how much history is shown.
        reserve: tokens kept free for the answer.
    """

    format: ChatFormat | None
    system: str
    config: ContextConfig = field(default_factory=ContextConfig)
    reserve: int = 0
    _turns: list[_Exchange] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _dropped: int = 0
    _goal: str = ""

    def observe(self, observation: Observation) -> None:
        """Add what the environment shows."""
        self._goal = observation["goal"]
        error = f"Error: {observation['error']}\n" if observation["error"] else ""
        shown = f"{error}{observation['text']}"
        self._turns.append(_Exchange(shown, shown))

    def reply(self, text: str, ids: IntArray | None) -> None:
        """Add what the agent answered; `ids` as sampled, if known."""
        turn = self._turns[-1]
        turn.answer = text
        if ids is None and self.format is not None:
            ids = self.format.answer(text)
        turn.answer_ids = ids

    def prompt(self) -> Prompt:
        """The context for the next answer."""
        if self.config.history == "window":
            return self._rewritten(first=max(0, len(self._turns) - self.config.window))
        if self.format is None:
            return self._rewritten(first=0)
        previous = self._turns[-2] if len(self._turns) > 1 else None
        if previous is None:
            return self._rewritten(first=0)
        assert previous.answer_ids is not None, "reply() comes before the next prompt()"
        new = self.format.following(previous.answer_ids, self._turns[-1].user)
        context = [*self._ids, *(int(i) for i in previous.answer_ids), *new]
        if len(context) + self.reserve > self.config.max_tokens:
            if self.config.overflow == "drop":
                return self._rewritten(first=self._dropped + 1)
            return self._made(new, True, context, self._messages(self._dropped), fits=False)
        self._ids = context
        return self._made(new, True, context, self._messages(self._dropped))

    def _rewritten(self, first: int) -> Prompt:
        """A fresh context from turn `first` on; older turns go as far as the budget asks."""
        while True:
            messages = self._messages(first)
            if self.format is None:
                return self._made([], False, [], messages)
            ids = self.format.first(self.system, messages[1].content)
            for before, turn in zip(self._turns[first:-1], self._turns[first + 1 :], strict=True):
                assert before.answer_ids is not None
                ids += [int(i) for i in before.answer_ids]
                ids += self.format.following(before.answer_ids, turn.user)
            fits = len(ids) + self.reserve <= self.config.max_tokens
            may_drop = self.config.history == "window" or self.config.overflow == "drop"
            if fits or not may_drop or first >= len(self._turns) - 1:
                self._ids, self._dropped = ids, first
                return self._made(ids, False, ids, messages, fits)
            first += 1

    def _messages(self, first: int) -> tuple[Message, ...]:
        """The chat from turn `first` on; its first user message recalls the goal and the past."""
        done = [_last_line(t.answer) for t in self._turns[:first]]
        past = f"Done: {'; '.join(done)}\n" if done else ""
        messages = [Message("system", self.system)]
        for i, turn in enumerate(self._turns[first:]):
            opening = f"Goal: {self._goal}\n{past}" if i == 0 else ""
            messages.append(Message("user", f"{opening}{turn.user}"))
            if first + i < len(self._turns) - 1:
                messages.append(Message("assistant", turn.answer))
        return tuple(messages)

    @staticmethod
    def _made(
        new: list[int],
        extends: bool,
        context: list[int],
        messages: tuple[Message, ...],
        fits: bool = True,
    ) -> Prompt:
        ids = np.array(new, dtype=np.int32) if new else NO_TOKENS
        whole = np.array(context, dtype=np.int32) if context else NO_TOKENS
        return Prompt(ids, extends, whole, messages, fits)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "(nothing)"


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of any chat that the template takes, up to where the next answer begins.

    As in `ChatFormat`, the template's pieces and the contents are encoded apart, so that no
    content can become a control token.

    Args:
        tokenizer: with a chat template.
        messages: roles in any order that the template allows.

    Raises:
        ConfigError: no template, or one that refuses, drops or rewrites these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the model has no chat template; use an instruction-tuned one")
    marks = [f"\u2063mark{index}\u2063" for index in range(len(messages))]
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": m.role, "content": mark} for m, mark in zip(messages, marks, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # a template raises what it likes, jinja2 its own kinds
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConfigError(f"the chat template refuses these messages: {reason:.200}") from error
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        piece, found, text = text.partition(mark)
        if not found:
            raise ConfigError(f"the chat template drops or reorders a {message.role!r} message")
        ids += tokenizer.encode(piece, add_special_tokens=False)
        content = message.content.encode("utf-8", "replace").decode("utf-8")
        ids += tokenizer.encode(content, add_special_tokens=False, split_special_tokens=True)
    return [*ids, *tokenizer.encode(text, add_special_tokens=False)]
