"""agentgym/points24-v0: write a formula of four playing cards that makes 24 (gym_cards, GTR)."""

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from agentgym.actions import ActionCall, Reading
from agentgym.environments.text.arithmetic import FormulaError, evaluate
from agentgym.environments.text.cards import RANKS, SIZE, SUITS, draw_table
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.environments.text.points24_solver import (
    OPERATORS,
    Hand,
    Prefix,
    can_make,
    can_reach,
    next_token,
    solution,
    tokens_after,
    without,
    write_on,
)
from agentgym.errors import ConfigError
from agentgym.types import ImageArray

MAX_TOKENS = 20
"""A longer formula ends the published game at the next action."""
_MAX_DEALS = 1000
_KEY = '"action":'
_QUOTED = re.compile(r'"action"\s*:\s*"([^"\n]*)"')


def press(text: str) -> None:
    """Write one card's number (1 to 10) or one of + - * / ( ) = behind the formula."""


class Position(NamedTuple):
    """A hand and a formula half written, and what follows from them."""

    prefix: Prefix | None
    """None if the formula is no formula's beginning."""
    rest: Hand
    """The numbers left."""
    legal: tuple[str, ...]
    """What keeps it a formula."""
    solvable: bool


@lru_cache(4096)
def look(target: int, hand: Hand, formula: str, lenient: bool) -> Position:
    """The position of a formula, its tokens apart.

    Args:
        target: what it is to make.
        hand: the numbers, sorted.
        formula: e.g. ``8 / ( 3``.
        lenient: idle brackets are allowed.
    """
    before, _, token = formula.rpartition(" ")
    if not token:
        return _position(target, Prefix(), hand)
    position = look(target, hand, before, lenient)
    rest = without(position.rest, token)
    if position.prefix is None:
        return position._replace(rest=rest)
    after = write_on(position.prefix, token, lenient=lenient)
    if after is None:
        return Position(None, rest, (), False)
    return _position(target, after, rest)


def _position(target: int, prefix: Prefix, rest: Hand) -> Position:
    solvable = can_reach(target, prefix, rest)
    return Position(prefix, rest, tuple(tokens_after(prefix, rest)), solvable)


class Points24Env(TextGame):
    """The 24 game: four cards, one formula of all of them, written token by token.

    ## Description
    Points24 of gym_cards (RL4VLM, Zhai et al. 2024, arXiv:2405.10292), the card game on which GTR
    (Wei et al. 2025, arXiv:2503.08525) trains with a corrector of thoughts. Jack, queen and king
    count 10, an ace 1.

    ## Action Space
    One action, ``press(text)``: a number of the hand that is not used up, or one of
    ``+ - * / ( ) =``. A JSON object with the key "action" is read too, over several lines, as the
    published prompt asks for. What would make the formula none (two numbers in a row, brackets
    around a single number, an operator for which no number is left, "=" in a bracket), and any
    other text (empty or over-long too), is refused: -1, the reason is told, nothing changes.

    ## Observation Space
    ``text`` tells cards, numbers and the formula so far; ``describe=False`` leaves all of it to
    the picture. With ``images=True`` a picture, (300, 300, 3) uint8: the cards and the formula.

    ## Rewards
    10 for "=" behind a formula of all four cards that makes 24, -1 for any other "=", -1 for what
    is refused, otherwise 0.

    ## Starting State
    Four cards of independent rank and suit; only hands with a solution. ``reset(options=...)``
    takes ``cards``, e.g. ["H3", "S3", "D8", "C8"] (suits H S D C, ranks A 2..9 T J Q K).

    ## Episode End
    Terminated by "=", which is the success if it earns 10. `points24-v0` is truncated after 30
    turns; twelve tokens and "=" write any formula.

    ## Arguments
    * `target`: what to make;
    * `face_cards_as_ten`: False makes them 11, 12, 13, with as many more actions;
    * `solvable_only`: only hands with a solution; by default in mode "fixed";
    * `describe`: False (with images) keeps the text from telling what is in the picture;
    * `mode`: "fixed" or "original", gym_cards', which differs so: all hands are dealt, of which
      73.1 % (566 of the 715 different ones) have a solution; text is read by looking for action
      strings behind ``"action":`` (in the last character if that is missing), and unless exactly
      one occurs a random action is taken; all operators may stand anywhere, so that cards 1, 2, 1,
      2 make ``12+12`` and ``**`` and ``//`` work; a number that is not in the hand writes a space,
      -1; a formula of more than 20 tokens is truncated at the next action, -1; the value is worked
      out in floating point, so that ``8/(3-8/3)`` is wrong. The published game draws from Python's
      global `random`; both modes draw from the environment's own generator.

    ``info`` holds the ground truth for a corrector of thoughts: `cards`, `numbers`, `formula`,
    `solution` (of the hand, "" if none) and `is_solvable_from_here`, exact whatever the mode. An
    agent never sees it.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [press]
    image_size: ClassVar = SIZE

    def __init__(
        self,
        *,
        target: int = 24,
        face_cards_as_ten: bool = True,
        solvable_only: bool | None = None,
        describe: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 1 <= target <= 10_000:
            raise ConfigError(f"target must be from 1 to 10000, got {target!r}")
        if not describe and not self.images:
            raise ConfigError("describe=False leaves nothing to see without images=True")
        self.target, self.describe = target, describe
        self.highest = 10 if face_cards_as_ten else len(RANKS)
        self.solvable_only = self.mode == "fixed" if solvable_only is None else solvable_only
        self._whole = ""
        self.all_actions = (*map(str, range(1, self.highest + 1)), *OPERATORS)

    def begin(self, options: Mapping[str, Any]) -> str:
        """Deal."""
        if unknown := set(options) - {"cards"}:
            raise ConfigError(f"the only option is 'cards', got {sorted(unknown)!r}")
        self._take(_cards(options["cards"]) if options else self._deal(), [])
        return self._show()

    def _deal(self) -> tuple[str, ...]:
        for _ in range(_MAX_DEALS):
            cards = self._draw()
            if not self.solvable_only or self._solvable(cards):
                return cards
        raise ConfigError(f"no hand of {_MAX_DEALS} makes {self.target}; choose another target")

    def _draw(self) -> tuple[str, ...]:
        ranks = self.np_random.integers(len(RANKS), size=4).tolist()
        suits = self.np_random.integers(len(SUITS), size=4).tolist()
        return tuple(
            list(SUITS)[suit] + RANKS[rank] for suit, rank in zip(suits, ranks, strict=True)
        )

    def _solvable(self, cards: tuple[str, ...]) -> bool:
        return can_make((self.target, 1), tuple(sorted(map(self._number, cards))))

    def _number(self, card: str) -> int:
        return min(RANKS.index(card[1:]) + 1, self.highest)

    def _take(self, cards: tuple[str, ...], formula: list[str]) -> None:
        """Set the state; what follows from the hand is worked out once."""
        self.cards = cards
        self.numbers = [self._number(card) for card in cards]
        self.hand: Hand = tuple(sorted(self.numbers))
        self.solution = solution(self.target, self.hand)
        self._head = f"Cards: {', '.join(cards)}\nNumbers: {', '.join(map(str, self.numbers))}\n"
        self._write(formula)

    def _write(self, formula: list[str]) -> None:
        self.formula = formula
        tokens = " ".join(token for token in formula if token != " ")
        self.position = look(self.target, self.hand, tokens, self.mode == "original")

    def _show(self) -> str:
        if not self.describe:
            return "Cards and formula are in the picture."
        return f"{self._head}Formula: {' '.join(self.formula)}"

    def goal(self) -> str:
        """What to do."""
        return (
            f"Write a formula of the four cards, each used once, that makes {self.target}; then "
            f"write =. J, Q and K are {'10' if self.highest == 10 else '11, 12 and 13'}, A is 1."
        )

    def _read(self, action: object) -> tuple[Reading, dict[str, Any]]:
        """Find the action in JSON, which may be written over several lines."""
        if isinstance(action, str):
            self._whole = action  # the original looks at all of it
            found = _QUOTED.search(action, max(action.rfind('"action"'), 0))
            if found and self.mode == "fixed":
                call = ActionCall("press", {"text": found[1]})
                written = self.action_set.format(call, self.action_syntax)
                action = f"{action[: found.start()]}\n{written}"
        return super()._read(action)

    def play(self, call: ActionCall) -> Outcome:
        """Write one token."""
        text = call.arguments["text"]
        if self.mode == "original":
            whole = self._whole if self.action_syntax == "text" else f"{_KEY} {text}"
            return self._press_as_published(*self._project(whole))
        token = "".join(text.split())
        if token in self.position.legal:
            return self._press(token)
        if token not in self.all_actions:
            reason = f"No such action: {text[:60]!r}"
        else:
            reason = f"{token} cannot stand here"
        legal = " ".join(self.position.legal)
        return Outcome(self._text, -1.0, error=f"{reason}. Possible now: {legal}")

    def unreadable(self, error: str) -> Outcome:
        """Text that is no call: refused, or in the original a random action."""
        if self.mode == "original":
            return self._press_as_published(self._any(), error)
        return Outcome(self._text, -1.0, error=error)

    def _press(self, token: str) -> Outcome:
        if token != "=":
            self._write([*self.formula, token])
            return Outcome(self._show())
        prefix, rest = self.position.prefix, self.position.rest
        won = not rest and prefix is not None and prefix.value == self.target
        return Outcome(self._show(), 10.0 if won else -1.0, terminated=True, success=won)

    def _press_as_published(self, token: str, error: str) -> Outcome:
        if len(self.formula) > MAX_TOKENS:
            return Outcome(self._show(), -1.0, truncated=True, error=error)
        if token.isdigit() and int(token) not in self.position.rest:
            self._write([*self.formula, " "])
            return Outcome(self._show(), -1.0, error=error or f"{token} is not in the hand")
        if token != "=":
            self._write([*self.formula, token])
            return Outcome(self._show(), error=error)
        try:
            value = evaluate("".join(self.formula), python=True)[0]
        except FormulaError:
            value = Fraction(-1)
        won = value == self.target and not self.position.rest
        return Outcome(
            self._show(), 10.0 if won else -1.0, terminated=True, success=won, error=error
        )

    def _project(self, text: str) -> tuple[str, str]:
        """The action that the published reader takes from a text, and what is wrong with it."""
        text = text.lower()
        found = text.find(_KEY)
        error = "" if found >= 0 else f"No {_KEY} in the text; its last character was read"
        text = text[found:]  # not found is -1: the last character
        actions = set()
        if "10" in text:
            actions.add("10")
            text = text.replace("10", "")
        actions |= {action for action in self.all_actions if action in text}
        if len(actions) == 1:
            return actions.pop(), error
        return self._any(), f"{len(actions)} actions in the text; a random one was taken"

    def _any(self) -> str:
        return self.all_actions[int(self.np_random.integers(len(self.all_actions)))]

    def save(self) -> Any:
        """Cards and formula."""
        return {"cards": self.cards, "formula": self.formula}

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        cards, formula = _cards(state["cards"]), [str(token) for token in state["formula"]]
        if unknown := set(formula) - {*self.all_actions, " "}:
            raise ConfigError(f"no tokens of a formula: {sorted(unknown)!r}")
        self._take(cards, formula)

    def admissible(self) -> tuple[str, ...]:
        """What keeps the formula one; in the original all actions."""
        return self.all_actions if self.mode == "original" else self.position.legal

    def key(self) -> str:
        """Cards and formula."""
        return f"{' '.join(self.cards)}:{' '.join(self.formula)}"

    def facts(self) -> dict[str, Any]:
        """The ground truth."""
        return {
            "cards": list(self.cards),
            "numbers": self.numbers,
            "formula": "".join(self.formula),
            "solution": self.solution,
            "is_solvable_from_here": self.position.solvable,
        }

    def expert(self) -> str:
        """The next token of a solution; "=" to end a game that has none any more."""
        prefix, rest = self.position.prefix, self.position.rest
        token = next_token(self.target, prefix, rest) if prefix is not None else ""
        return token or ("=" if self.mode == "original" else self.position.legal[-1])

    def write(self, text: str) -> str:
        """As the published reader wants it in mode "original"."""
        if self.mode == "original" and self.action_syntax == "text":
            return json.dumps({"action": text})
        return super().write(text)

    def picture(self) -> ImageArray:
        """The cards and the formula."""
        return draw_table(self.cards, " ".join(self.formula))


def _cards(value: Any) -> tuple[str, ...]:
    """Cards as options and snapshots write them."""
    cards = tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    if len(cards) != 4 or any(c[:1] not in SUITS or c[1:] not in RANKS for c in cards):
        raise ConfigError(f"cards must be four like 'H3', 'ST' or 'DK', got {value!r}")
    return cards
