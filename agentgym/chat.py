"""Observations to exact token ids: the only place that knows chat templates.

A template is taken apart once into the pieces around the contents (`ChatFormat`). A conversation
then grows by concatenating ids: what the model sampled is never rendered or tokenised again, and
text from an environment can never become a control token of the template.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from agentgym.errors import ConfigError, ImageError
from agentgym.types import NO_TOKENS, Image, IntArray, Message, Observation


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


class PictureReader(Protocol):
    """What is used of a vision-language model's processor (`agentgym.models.vision.Vision`)."""

    image_token: str

    @property
    def chat_template(self) -> Any:
        """The model's; empty if it has none."""
        ...

    def ids(self, image: Image) -> list[int]:
        """Token ids that stand for a picture in a prompt."""
        ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        """Messages, whose contents are lists of parts, as text."""
        ...


class ChatFormat:
    """The constant pieces of a chat template, as ids.

    A conversation is ``head + system + opening + user + reply + answer + between + user + ...``.
    The pictures of a user message stand before its text.

    Args:
        tokenizer: with a chat template.
        vision: of a vision-language model, whose template is its own.

    Raises:
        ConfigError: there is no template, or its pieces change from turn to turn, so that prompts
            could not grow append-only; or it shows no pictures.
    """

    def __init__(self, tokenizer: Tokenizer, vision: PictureReader | None = None) -> None:
        self.tokenizer = tokenizer
        self.vision = vision
        self._pieces: dict[int, _Pieces] = {}
        plain = self._with(0)
        # The piece between an answer and the next message starts with the token that ends a turn.
        self.end_id = plain.between[0][0]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: control tokens written out in it stay text."""
        return _plain(self.tokenizer, text)

    def first(self, system: str, user: str, images: Sequence[Image] = ()) -> list[int]:
        """Ids of a whole context that ends where the model's first answer begins."""
        pieces = self._with(len(images))
        return [
            *pieces.head,
            *self.encode(system),
            *self._filled(pieces.opening, images),
            *self.encode(user),
            *pieces.reply,
        ]

    def following(
        self, answer: Sequence[int] | IntArray, user: str, images: Sequence[Image] = ()
    ) -> list[int]:
        """Ids between an answer and the next one. An answer cut by a limit is closed here."""
        pieces = self._with(len(images))
        closed = len(answer) > 0 and int(answer[-1]) == self.end_id
        between = self._filled(pieces.between, images)
        return [*(between[1:] if closed else between), *self.encode(user), *pieces.reply]

    def answer(self, text: str) -> IntArray:
        """(T,) ids of an answer that was not sampled (a demonstration), with its end token."""
        return np.array([*self.encode(text), self.end_id], dtype=np.int32)

    def _filled(self, piece: "_Piece", images: Sequence[Image]) -> list[int]:
        """A piece with the placeholders of its pictures."""
        ids = list(piece[0])
        for image, after in zip(images, piece[1:], strict=True):
            assert self.vision is not None
            ids += [*self.vision.ids(image), *after]
        return ids

    def _with(self, pictures: int) -> "_Pieces":
        """The pieces around user messages that begin with so many pictures."""
        if pictures not in self._pieces:
            self._pieces[pictures] = self._taken_apart(pictures)
        return self._pieces[pictures]

    def _taken_apart(self, pictures: int) -> "_Pieces":
        roles: tuple[Literal["system", "user", "assistant"], ...] = (
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        )
        shown = tuple((0, _NOBODY) for _ in range(pictures))
        messages = [Message(r, ".", shown if r == "user" else ()) for r in roles]
        pieces = list(_template_pieces(self.tokenizer, self.vision, messages))
        head, opening, reply, between, reply_again, between_again, end = pieces
        if (reply, between) != (reply_again, between_again) or end != reply:
            raise ConfigError("the chat template changes from turn to turn; choose another")
        counts = [len(piece) - 1 for piece in pieces]
        if counts != [0, pictures, 0, pictures, 0, pictures, 0]:
            raise ConfigError("the chat template does not show pictures where they stand")
        return _Pieces(head[0], opening, reply[0], between)


_Piece = tuple[list[int], ...]
"""Ids of a piece of a template, cut where pictures stand."""


@dataclass(frozen=True)
class _Pieces:
    head: list[int]
    opening: _Piece
    reply: list[int]
    between: _Piece


_NOBODY = Image("")
"""Stands for any picture while a template is taken apart."""


_ENCODING = threading.Lock()
"""Whether control tokens are split is a setting of the tokenizer, which transformers changes for a
call: two threads at once would each get the other's."""


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text that nobody may take for control tokens."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return encoded(tokenizer, text, add_special_tokens=False, split_special_tokens=True)


def encoded(tokenizer: Tokenizer, text: str, **options: Any) -> list[int]:
    """`tokenizer.encode`, whatever other threads encode meanwhile, and how."""
    with _ENCODING:
        return list(tokenizer.encode(text, **options))


def _template_pieces(
    tokenizer: Tokenizer, vision: PictureReader | None, messages: Sequence[Message]
) -> Iterator[_Piece]:
    """What a template writes around the texts of messages.

    Yields:
        The piece before each text of each message (a message of pictures alone has one empty
        text), then the piece after the last one.

    Raises:
        ConfigError: no template, or one that refuses, drops or rewrites these messages.
    """
    source: Any = tokenizer if vision is None else vision
    if not getattr(source, "chat_template", None):
        raise ConfigError(
            "the model has no chat template; use an instruction-tuned one or set "
            "tokenizer.chat_template"
        )
    conversation: list[dict[str, Any]] = []
    roles: list[str] = []  # of each mark
    for message in messages:
        parts: list[dict[str, str]] = []
        for part in _texts_between(message):
            if isinstance(part, Image):
                parts.append({"type": "image"})
            else:
                parts.append({"type": "text", "text": _mark(len(roles))})
                roles.append(message.role)
        if vision is None and message.images:
            raise ConfigError("this model reads no pictures; use a vision-language model")
        content = parts if vision is not None else parts[0]["text"]
        conversation.append({"role": message.role, "content": content})
    try:
        text: str = source.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template raises what it likes, jinja2 its own kinds
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConfigError(f"the chat template refuses these messages: {reason:.200}") from error

    def cut(piece: str) -> _Piece:
        parts = [piece] if vision is None else piece.split(vision.image_token)
        return tuple(encoded(tokenizer, part, add_special_tokens=False) for part in parts)

    for index, role in enumerate(roles):
        piece, found, text = text.partition(_mark(index))
        if not found:
            raise ConfigError(
                f"the chat template drops or rewrites the {role} message; choose another"
            )
        yield cut(piece)
    yield cut(text)


def _texts_between(message: Message) -> Iterable[str | Image]:
    """A message's parts; without any text an empty one, which marks its place."""
    parts = message.parts
    return parts if any(isinstance(part, str) for part in parts) else (*parts, "")


def _mark(index: int) -> str:
    return f"\u2063mark{index}\u2063"


@dataclass(frozen=True)
class ContextConfig:
    """How much of an episode the model sees."""

    history: Literal["all", "window"] = "all"
    """"all": the prompt grows append-only. "window": each turn sees a fresh context of the last
    `window` observations, and (`recall`) earlier actions as a list."""
    window: int = 1
    """Observations in a windowed context, the current one included."""
    recall: bool = True
    """List the actions before the window; off where an observation says all that matters."""
    max_tokens: int = 4096
    """Budget of a context, the answer to come included."""
    screenshots: int | None = None
    """How many of the newest pictures are shown; `None` shows those of all observations that are
    shown, 0 none. A picture costs its placeholder tokens. With a limit, contexts are rewritten as
    soon as a picture leaves, so that they no longer grow append-only."""
    overflow: Literal["end", "drop"] = "end"
    """When the context would exceed the budget: end the episode (`TOKEN_LIMIT`), or begin a new
    context without the oldest turns."""
    instructions: str = (
        "You act step by step to reach the goal. "
        "Write one short line of thought, then one action on the last line. Actions:"
    )
    """Put before the list of actions in the system message."""
    describe: bool = True
    """List the environment's actions in the system message, and the goal in the first user message;
    off for a model that learns one environment from scratch, to which text that is always the same
    tells nothing."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.max_tokens < 1:
            raise ConfigError(
                f"window and max_tokens must be at least 1, got {self.window}, {self.max_tokens}"
            )
        if self.screenshots is not None and self.screenshots < 0:
            raise ConfigError(f"screenshots must not be negative, got {self.screenshots}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The context of one turn."""

    ids: IntArray
    """(P,) what is new since the turn before if `extends`, else everything."""
    extends: bool
    context: IntArray
    """(P',) the whole context."""
    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    """Pictures in `ids`, in order."""
    context_images: tuple[Image, ...]
    """Pictures in `context`, in order."""
    fits: bool
    """False if the budget is exceeded and nothing more can be dropped."""


@dataclass
class _Exchange:
    observation: str
    user: str
    image: Image | None = None
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

    def observe(self, observation: Observation, image: Image | None = None) -> None:
        """Add what the environment shows; the picture counts for models that read pictures."""
        self._goal = observation["goal"]
        error = f"Error: {observation['error']}\n" if observation["error"] else ""
        shown = f"{error}{observation['text']}"
        blind = self.format is not None and self.format.vision is None
        self._turns.append(_Exchange(shown, shown, None if blind else image))

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
        count = len(self._turns) - 1
        shown = max(self._hidden(count), self._dropped)
        leaving = self._turns[shown : min(self._hidden(count + 1), count)]
        if any(turn.image is not None for turn in leaving):
            return self._rewritten(first=self._dropped)
        images = self._shown(len(self._turns) - 1)
        new = self.format.following(previous.answer_ids, self._turns[-1].user, images)
        context = [*self._ids, *(int(i) for i in previous.answer_ids), *new]
        fits = len(context) + self.reserve <= self.config.max_tokens
        if not fits and self.config.overflow == "drop":
            return self._rewritten(first=self._dropped + 1)
        if fits:
            self._ids = context
        return self._made(new, True, context, self._messages(self._dropped), images, fits)

    def _hidden(self, turns: int) -> int:
        """Of the first `turns` turns, how many must not show their pictures any more."""
        limit = self.config.screenshots
        if limit is None:
            return 0
        shown = [i for i, turn in enumerate(self._turns[:turns]) if turn.image is not None]
        return shown[-limit] if 0 < limit <= len(shown) else 0 if limit else turns

    def _shown(self, index: int) -> tuple[Image, ...]:
        """The pictures of one turn, as the model sees it now."""
        image = self._turns[index].image
        visible = image is not None and index >= self._hidden(len(self._turns))
        return (image,) if image is not None and visible else ()

    def open_context(self) -> IntArray | None:
        """(P,) the whole context of an answer that is not to come, since a limit ended the episode.

        `None` without a tokenizer, if it exceeds the budget by itself, or with a picture that
        cannot be read.
        """
        try:
            context = self.prompt().context
        except ImageError:
            return None
        return context if 0 < len(context) <= self.config.max_tokens else None

    def _rewritten(self, first: int) -> Prompt:
        """A fresh context from turn `first` on; older turns go as far as the budget asks."""
        while True:
            messages = self._messages(first)
            if self.format is None:
                return self._made([], False, [], messages)
            ids = self.format.first(self.system, messages[1].content, self._shown(first))
            for index in range(first + 1, len(self._turns)):
                before = self._turns[index - 1].answer_ids
                assert before is not None
                ids += [int(i) for i in before]
                ids += self.format.following(before, self._turns[index].user, self._shown(index))
            fits = len(ids) + self.reserve <= self.config.max_tokens
            may_drop = self.config.history == "window" or self.config.overflow == "drop"
            if fits or not may_drop or first >= len(self._turns) - 1:
                self._ids, self._dropped = ids, first
                images = tuple(i for m in messages for _, i in m.images)
                return self._made(ids, False, ids, messages, images, fits)
            first += 1

    def _messages(self, first: int) -> tuple[Message, ...]:
        """The chat from turn `first` on; its first user message recalls the goal and the past."""
        done = [_last_line(t.answer) for t in self._turns[:first]]
        past = f"Done: {'; '.join(done)}\n" if done and self.config.recall else ""
        messages = [Message("system", self.system)]
        for index, turn in enumerate(self._turns[first:], start=first):
            goal = f"Goal: {self._goal}\n" if self.config.describe else ""
            opening = goal + past if index == first else ""
            pictures = tuple((0, image) for image in self._shown(index))
            messages.append(Message("user", f"{opening}{turn.user}", pictures))
            if index < len(self._turns) - 1:
                messages.append(Message("assistant", turn.answer))
        return tuple(messages)

    @staticmethod
    def _made(
        new: list[int],
        extends: bool,
        context: list[int],
        messages: tuple[Message, ...],
        images: tuple[Image, ...] = (),
        fits: bool = True,
    ) -> Prompt:
        ids = np.array(new, dtype=np.int32) if new else NO_TOKENS
        whole = np.array(context, dtype=np.int32) if context else NO_TOKENS
        everything = tuple(image for message in messages for _, image in message.images)
        return Prompt(ids, extends, whole, messages, images, everything, fits)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "(nothing)"


def chat_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], vision: PictureReader | None = None
) -> list[int]:
    """Ids of any chat that the template takes, up to where the next answer begins.

    As in `ChatFormat`, the template's pieces and the contents are encoded apart, so that no
    content can become a control token.

    Args:
        tokenizer: with a chat template.
        messages: roles in any order that the template allows, pictures anywhere in them.
        vision: of a vision-language model, whose template is its own.

    Raises:
        ConfigError: no template, or one that refuses, drops or rewrites these messages.
        ImageError: a picture cannot be read.
    """
    pieces = _template_pieces(tokenizer, vision, messages)
    images = (image for message in messages for _, image in message.images)
    ids: list[int] = []

    def fill(piece: _Piece) -> None:
        ids.extend(piece[0])
        for after in piece[1:]:
            image = next(images, None)
            if image is None or vision is None:
                raise ConfigError("the chat template shows more pictures than the messages have")
            ids.extend([*vision.ids(image), *after])

    for message in messages:
        for part in _texts_between(message):
            if isinstance(part, str):
                fill(next(pieces))
                ids.extend(_plain(tokenizer, part))
    fill(next(pieces))
    if next(images, None) is not None:
        raise ConfigError("the chat template drops a picture; choose another")
    return ids
