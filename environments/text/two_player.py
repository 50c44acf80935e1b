"""The base of games for two: sides, whose turn it is, opponents, self-play."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from agentgym.actions import ActionCall
from agentgym.environments.text.alphabeta import Position
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError
from agentgym.players import Player, PlayerTurn, ask
from agentgym.types import Message

Engine = Callable[[Any, np.random.Generator], Any]
"""Chooses one of a position's moves."""
SELF = "self"
"""The opponent of self-play."""
ILLEGAL = -1.0
"""Reward of an action that is no possible move."""


def random_engine(position: Position, rng: np.random.Generator) -> Any:
    """Any possible move, each as likely."""
    moves = position.moves()
    return moves[int(rng.integers(2**62)) % len(moves)]


class TwoPlayerGame(TextGame):
    """A game of two sides that move in turn, both seeing everything.

    A game names its `roles` (who begins comes first) and its `opponents` (and by `engine` how they
    choose), and says what the start, the texts and the moves are: `start`, `read_position`,
    `write_position`, `describe`, and where a move's text is not the move itself, `find`, `name`
    and `legal`.

    The agent has one role and the opponent the other. An opponent is the name of one of
    `opponents`, or any `players.Player`: it is shown what the agent would be shown, answers with a
    move on its last line, and is asked again for what is no possible move; in the end that is an
    `EnvFailureError`, never the agent's win. With ``opponent="self"`` there is none: the agent
    makes the moves of both, and the observation is always that of the role whose turn it is.

    Every info holds ``role`` (whose turn it is) and ``rewards`` (of each role, for the last
    step). When the game has ended it holds ``outcomes``: 1 for a role that won, 0 if it lost, 0.5
    for a draw. The reward that `step` returns is that of the role that acted. `rollout.collect`
    makes one trajectory for each role out of these.

    Text that is no possible move (also an empty or over-long one, one for the other side's
    pieces) changes nothing, is told as the next observation's ``error``, costs `ILLEGAL`, and it
    is still the same role's turn.
    """

    roles: ClassVar[tuple[str, str]]
    opponents: ClassVar[Collection[str]] = ("random",)
    extra_options: ClassVar[tuple[str, ...]] = ("position",)

    def __init__(
        self, *, opponent: str | Player = "random", role: str | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.position: Any = None
        self.moved = ""
        """The other side's last move, as text."""
        self._opponent = self._checked_opponent(opponent)
        self._role = self._checked_role(self.roles[0] if role is None else role)
        self._made_with = self._opponent, self._role
        self._rewards = dict.fromkeys(self.roles, 0.0)
        self._outcomes: dict[str, float] | None = None
        self._seat = 0

    # What a game says.

    def start(self, options: Mapping[str, Any]) -> Any:
        """The first position."""
        raise NotImplementedError

    def read_position(self, saved: Any) -> Any:
        """The position that `write_position` wrote.

        Raises:
            ConfigError: it is none.
        """
        raise NotImplementedError

    def write_position(self) -> Any:
        """The position as JSON values."""
        raise NotImplementedError

    def describe(self) -> str:
        """The text for the role whose turn it is."""
        raise NotImplementedError

    def engine(self, name: str) -> Engine:
        """How one of the `opponents` chooses."""
        return random_engine

    def find(self, text: str) -> Any:
        """The possible move that a text means, or None."""
        return text if text in self.position.moves() else None

    def name(self, move: Any) -> str:
        """A possible move as text."""
        return str(move)

    def advance(self, move: Any) -> Any:
        """The position after a possible move of the game itself."""
        return self.position.after(move)

    def legal(self) -> Sequence[str]:
        """The texts of all possible moves."""
        return tuple(self.position.moves())

    # What all these games do alike.

    @property
    def role(self) -> str:
        """Whose turn it is."""
        return self.roles[self.position.turn]

    @property
    def opponent(self) -> str:
        """The opponent's name in this episode."""
        return self._opponent if isinstance(self._opponent, str) else self._opponent.name

    @property
    def self_play(self) -> bool:
        """True if the agent makes the moves of both sides."""
        return isinstance(self._opponent, str) and self._opponent == SELF

    def begin(self, options: Mapping[str, Any]) -> str:
        """Set up the game; where the opponent begins, it moves."""
        known = {"opponent", "role", *self.extra_options}
        if unknown := set(options) - known:
            raise ConfigError(f"options are {sorted(known)}, got {sorted(unknown)!r}")
        opponent, role = self._made_with
        self._opponent = self._checked_opponent(options.get("opponent", opponent))
        self._role = self._checked_role(options.get("role", role))
        seat = self.draw(2) if self._role == "random" else self.roles.index(self._role)
        self.position = self.start(options)
        if self.position.result() is not None:
            raise ConfigError("the game must not be over before it begins; give another position")
        self._seat, self.moved, self._outcomes = seat, "", None
        self._rewards = dict.fromkeys(self.roles, 0.0)
        if not self.self_play and self.position.turn != seat:
            self._reply()
            if self.position.result() is not None:
                raise ConfigError("the opponent wins with its first move; give another position")
        return self.describe()

    def play(self, call: ActionCall) -> Outcome:
        """Make the move, if it is possible, and have it answered."""
        text = next(iter(call.arguments.values()))
        move = self.find(text)
        if move is None:
            return self.unreadable(self.refusal(text))
        actor, before = self.position.turn, (self.position, self.moved)
        self.moved = self.name(move)
        self.position = self.advance(move)
        try:
            if not self.self_play and self.position.result() is None:
                self._reply()
        except Exception:
            self.position, self.moved = before
            raise
        return self._outcome(actor)

    def refusal(self, text: str) -> str:
        """What is told about text that is no possible move."""
        shown = " ".join(text.split())[:60]
        return f"{shown!r} is no possible move for {self.role}, e.g. {self.legal()[0]!r} is"

    def unreadable(self, error: str) -> Outcome:
        """No move: told and punished."""
        self._rewards = dict.fromkeys(self.roles, 0.0) | {self.role: ILLEGAL}
        return Outcome(self._text, ILLEGAL, error=error)

    def _outcome(self, actor: int) -> Outcome:
        result = self.position.result()
        if result is None:
            self._rewards = dict.fromkeys(self.roles, 0.0)
            return Outcome(self.describe())
        scores = (result, -result)
        self._rewards = dict(zip(self.roles, scores, strict=True))
        self._outcomes = {
            role: (score + 1) / 2 for role, score in zip(self.roles, scores, strict=True)
        }
        reward = self.final_reward(scores[actor], result)
        return Outcome(self.describe(), reward, terminated=True, success=scores[actor] > 0)

    def final_reward(self, own: float, first: float) -> float:
        """The reward of the last step.

        Args:
            own: result for the role that acted.
            first: result for the role that begins.
        """
        return own

    def _reply(self) -> None:
        """The opponent's move."""
        if isinstance(self._opponent, str):
            move = self.engine(self._opponent)(self.position, self.np_random)
        else:
            turn = PlayerTurn(
                role=self.role,
                instructions=(
                    f"{self.goal()}\nYou play {self.role}. "
                    "Answer with your move alone on the last line."
                ),
                messages=(Message("user", self.describe()),),
                facts={"position": self.write_position(), "moves": list(self.legal())},
                seed=self.draw(2**62),
            )
            move = ask(self._opponent, turn, self._last_line)
        self.moved = self.name(move)
        self.position = self.advance(move)

    def _last_line(self, text: str) -> Any:
        reading = self.action_set.read(text, "text")
        if reading.call is None:
            return None
        return self.find(next(iter(reading.call.arguments.values())))

    def save(self) -> Any:
        """Position, sides and what the last step brought."""
        return {
            "position": self.write_position(),
            "moved": self.moved,
            "opponent": self._opponent if isinstance(self._opponent, str) else None,
            "role": self._role,
            "seat": self._seat,
            "rewards": dict(self._rewards),
            "outcomes": self._outcomes,
        }

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        position = self.read_position(state["position"])
        opponent = state["opponent"]
        if opponent is None:
            opponent = self._made_with[0]
        self._opponent = self._checked_opponent(opponent)
        self._role = self._checked_role(state["role"])
        self.position, self.moved, self._seat = position, state["moved"], state["seat"]
        self._rewards, self._outcomes = dict(state["rewards"]), state["outcomes"]

    def admissible(self) -> Sequence[str]:
        """The possible moves."""
        return self.legal()

    def key(self) -> str:
        """The position, whose turn it is in it included."""
        return str(self.position.key())

    def facts(self) -> dict[str, Any]:
        """Whose turn it is, what each role got, and in the end who won."""
        facts: dict[str, Any] = {"role": self.role, "rewards": self._rewards}
        if self._outcomes is not None:
            facts["outcomes"] = self._outcomes
            if not self.self_play:
                facts["role"] = self.roles[self._seat]
        return facts

    def _checked_opponent(self, opponent: Any) -> str | Player:
        if isinstance(opponent, str):
            known = (*self.opponents, SELF)
            if opponent in known:
                return opponent
            raise ConfigError(f"opponent must be one of {known} or a Player, got {opponent!r}")
        if not isinstance(opponent, Player):
            raise ConfigError(f"an opponent is a name or a Player, got {opponent!r}")
        return opponent

    def _checked_role(self, role: Any) -> str:
        if role in (*self.roles, "random"):
            return str(role)
        raise ConfigError(f"role must be one of {(*self.roles, 'random')}, got {role!r}")
