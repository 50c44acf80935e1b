"""The base of games in which the agent finds out a secret by questions to an oracle."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError
from agentgym.players import Player, PlayerTurn
from agentgym.seeding import SEED_MAX, derive
from agentgym.types import Message

QUESTIONS = 20
MAX_WORDS = 40
MAX_CHARACTERS = 300


def question(text: str) -> None:
    """Ask one question, or name what you think it is."""


class QuestionGame(TextGame):
    """Questions, twenty by default, about one of a list of secrets.

    A game says what its secrets are (`noun`, `secrets`) and what follows from a line (`fixed` and
    `published`, one for each mode), by `counted` and `won`. What the answers so far leave of the
    secrets is kept as a set of bits, for the expert and for `key`: states in which the same is
    known have the same name.

    Args:
        oracle: who answers.
        mode: "fixed" or "original".
        questions: after which the game is lost.
        action_syntax: one of `actions.SYNTAXES`.
        render_mode: None or "ansi".
    """

    actions = (question,)
    noun = "secret"
    secrets: Sequence[str] = ()
    possible: Sequence[int] | None = None
    """Which of `secrets` the game draws from; None for all."""

    def __init__(
        self,
        oracle: Player,
        *,
        mode: str = "fixed",
        questions: int = QUESTIONS,
        action_syntax: str = "text",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(mode=mode, action_syntax=action_syntax, render_mode=render_mode)
        if questions < 1:
            raise ConfigError(f"questions must be at least 1, got {questions!r}")
        self.oracle = oracle
        self.questions = questions
        self.secret = 0
        self.asked = 0
        self.left = self._everything
        self._talk_seed = 0

    @property
    def _everything(self) -> int:
        if self.possible is None:
            return (1 << len(self.secrets)) - 1
        return sum(1 << index for index in self.possible)

    def begin(self, options: Mapping[str, Any]) -> str:
        """Choose the secret."""
        unknown = sorted(set(options) - {self.noun, "deterministic"})
        if unknown:
            raise ConfigError(f"unknown options {unknown}; known: {self.noun}, deterministic")
        possible = range(len(self.secrets)) if self.possible is None else self.possible
        drawn = possible[self.draw(len(possible))]
        self._talk_seed = int(self.np_random.integers(SEED_MAX))
        if self.noun in options:
            name = options[self.noun]
            names = [self.secrets[index] for index in possible]
            if name not in names:
                known = ", ".join(names)
                raise ConfigError(f"{self.noun} must be one of {known}, got {name!r}")
            drawn = list(self.secrets).index(name)
        elif options.get("deterministic"):
            drawn = possible[self.np_random_seed % len(possible)]
        self.secret, self.asked, self.left = drawn, 0, self._everything
        if self.mode == "original":
            return "Questions:\n"
        return f"Ask your first question. Questions left: {self.questions}."

    def fixed(self, text: str) -> Outcome:
        """What follows from a line."""
        raise NotImplementedError

    def published(self, text: str, error: str = "") -> Outcome:
        """What follows from a line by the released rules; `error` says why it is no call."""
        raise NotImplementedError

    def play(self, call: ActionCall) -> Outcome:
        """Answer a question, or judge a guess."""
        text = call.arguments["text"].strip()
        return self.published(text) if self.mode == "original" else self.fixed(text)

    def unreadable(self, error: str) -> Outcome:
        """An empty line, or no call: a question lost."""
        if self.mode == "original":
            return self.published("", error)
        return self.counted("That was no question.", error=error)

    def too_long(self, text: str) -> str:
        """What is wrong with the length of a line; empty if nothing is."""
        if len(text) <= MAX_CHARACTERS and len(text.split()) <= MAX_WORDS:
            return ""
        return f"A line has at most {MAX_WORDS} words and {MAX_CHARACTERS} characters."

    def turn(self, text: str, instructions: str) -> PlayerTurn:
        """What the oracle is asked: one question alone, with the secret in ``facts``."""
        return PlayerTurn(
            role="oracle",
            instructions=instructions,
            messages=(Message("user", text),),
            facts={self.noun: self.secrets[self.secret]},
            seed=derive(self._talk_seed, self.asked),
        )

    def counted(self, answer: str, error: str = "") -> Outcome:
        """A turn that did not win; the last one loses."""
        self.asked += 1
        if self.asked < self.questions:
            text = f"{answer} Questions left: {self.questions - self.asked}."
            return Outcome(text, -1.0, error=error)
        text = f"{answer} No questions are left. It was: {self.secrets[self.secret]}."
        return Outcome(text, -1.0, terminated=True, error=error)

    def won(self) -> Outcome:
        """A turn that named the secret."""
        self.asked += 1
        text = f"Yes, it is: {self.secrets[self.secret]}."
        return Outcome(text, 0.0, terminated=True, success=True)

    def save(self) -> Any:
        """The secret, the questions asked, what the answers leave, and the oracle's chance."""
        return {
            "secret": self.secret,
            "asked": self.asked,
            "left": f"{self.left:x}",
            "seed": self._talk_seed,
        }

    def load(self, state: Any) -> None:
        """The inverse of `save`."""
        secret = range(len(self.secrets))[state["secret"]]
        left, asked, seed = int(state["left"], 16), int(state["asked"]), int(state["seed"])
        self.secret, self.asked, self.left, self._talk_seed = secret, asked, left, seed

    def key(self) -> str:
        """The secret, the questions asked, and what the answers leave of all secrets."""
        return f"{self.secret}/{self.asked}/{self.left:x}"

    def facts(self) -> dict[str, Any]:
        """How many questions are left."""
        return {"questions_left": self.questions - self.asked}
