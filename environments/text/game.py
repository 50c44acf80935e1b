"""The base of games in pure Python: what a game says is its own, everything around it is here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from agentgym.actions import SYNTAXES, ActionCall, ActionSet, Reading
from agentgym.core import AgentEnv
from agentgym.errors import ConfigError, EpisodeOverError
from agentgym.spaces import ActionText, observation_space
from agentgym.types import ImageArray, Observation

SNAPSHOT = 1
"""Version of what `TextGame.snapshot` writes."""
_REMEMBERED = 10_000
"""Texts of a class and syntax whose form as an action, or whose meaning, is kept."""
_LONG = 100
# The same for all games of a class and syntax, of which there may be thousands: kept once.
_writings: dict[tuple[type, str], dict[str, str]] = {}
_meanings: dict[tuple[type, str], dict[str, tuple[Reading, dict[str, Any]]]] = {}
_lists: dict[tuple[type, str, str, Sequence[str]], list[str]] = {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What followed from one action."""

    text: str
    """What the agent sees next."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    """The game's own limit was reached; the limit of turns is Gymnasium's `TimeLimit`."""
    success: bool = False
    """Looked at only if `terminated`."""
    error: str = ""
    """Why the action was not carried out as written; empty if it was."""


class Choices:
    """Draws one of the actions that are possible now. Holds no game: spaces can be pickled."""

    def __init__(self, actions: Sequence[str]) -> None:
        self.actions = list(actions)

    def __call__(self, rng: np.random.Generator) -> str:
        """One of them."""
        return self.actions[int(rng.integers(len(self.actions)))]


class TextGame(AgentEnv):
    """A game of one player at a time, in pure Python.

    A game declares `actions` (one action with one text parameter, unless it wants more than the
    syntax "text") and says what happens: `begin`, `play`, and `save`/`load` for its state, which
    must be JSON and, with the generator, all that the future depends on. Randomness comes from
    ``self.np_random`` alone. Every game can be told apart by `mode`: "fixed" is the game as it was
    meant, "original" repeats the published one with its defects; each says what they are.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012
    modes: ClassVar[tuple[str, ...]] = ("fixed", "original")
    actions: ClassVar[Sequence[Any]] = ()
    image_size: ClassVar[tuple[int, int] | None] = None
    """(H, W) of `picture`, for games that have one."""

    def __init__(
        self,
        *,
        mode: str = "fixed",
        images: bool = False,
        action_syntax: str = "text",
        render_mode: str | None = None,
    ) -> None:
        if mode not in self.modes:
            raise ConfigError(f"mode must be one of {self.modes}, got {mode!r}")
        if action_syntax not in SYNTAXES:
            raise ConfigError(f"action_syntax must be one of {SYNTAXES}, got {action_syntax!r}")
        if images and self.image_size is None:
            raise ConfigError(f"{type(self).__name__} has no pictures; leave out images=True")
        self.mode = mode
        self.images = images
        self.render_mode = render_mode
        self.action_set = ActionSet(self.actions)
        self.action_syntax = action_syntax
        self.diagnostics: dict[str, Any] = {}
        self.observation_space = observation_space(image_size=self.image_size if images else None)
        kind = (type(self), action_syntax)
        self._written = _writings.setdefault(kind, {})
        self._readings = _meanings.setdefault(kind, {})
        self._choices = Choices([self.write("?")])
        self.action_space = ActionText(self.action_set, action_syntax, sampler=self._choices)
        self._texts: Sequence[str] = ()
        self._lines: list[str] = []
        self._goal = ""
        self._text = ""
        self._error = ""
        self._over = True

    # What a game says.

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw a new game from ``self.np_random``; returns the first text.

        Raises:
            ConfigError: an option is unknown or wrong.
        """
        raise NotImplementedError

    def goal(self) -> str:
        """The task in words, the same throughout an episode."""
        raise NotImplementedError

    def play(self, call: ActionCall) -> Outcome:
        """Carry out a call that could be read. Whatever is in it, nothing is raised for it."""
        raise NotImplementedError

    def unreadable(self, error: str) -> Outcome:
        """What follows from text that is no call; by default nothing, and the turn counts."""
        return Outcome(self._text, error=error)

    def save(self) -> Any:
        """The state of the game as JSON values, without the generator's."""
        raise NotImplementedError

    def load(self, state: Any) -> None:
        """Take a state that `save` returned."""
        raise NotImplementedError

    def admissible(self) -> Sequence[str] | None:
        """Texts that are possible now, in a fixed order; None if they cannot be listed.

        A game whose texts stay the same returns the same tuple again, which costs nothing.
        """
        return None

    def guesses(self) -> Sequence[str]:
        """Texts to draw random actions from where `admissible` is None."""
        return ["?"]

    def key(self) -> str:
        """A name of the state: equal for states with equal futures (but for chance)."""
        return json.dumps(self.save(), sort_keys=True, separators=(",", ":"))

    def expert(self) -> str:
        """The text of a good next action.

        Raises:
            NotImplementedError: there is no expert.
        """
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def facts(self) -> dict[str, Any]:
        """More for `info`, as JSON values; by default nothing."""
        return {}

    def picture(self) -> ImageArray:
        """(H, W, 3) uint8 of the state, for games with an `image_size`."""
        raise NotImplementedError

    # What every game does alike.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new game.

        Args:
            seed: everything that chance decides follows from it.
            options: of this one game, see the class.

        Raises:
            ConfigError: an option is unknown or wrong.
        """
        super().reset(seed=seed)
        self._over = True  # until the game has begun
        self._text, self._error = self.begin(options or {}), ""
        self._goal = self.goal()
        self._over = False
        return self._observation(), self._info()

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out what the model wrote.

        Raises:
            EpisodeOverError: before `reset` or after the end.
            EnvFailureError: another player failed.
        """
        if self._over:
            raise EpisodeOverError("the episode is over; call reset()")
        reading, read = self._read(action)
        if reading.call is None:
            outcome = self.unreadable(reading.error)
        else:
            outcome = self.play(reading.call)
        self._text, self._error = outcome.text, outcome.error
        self._over = outcome.terminated or outcome.truncated
        info = {**read, "action_error": outcome.error, **self._info()}
        if outcome.terminated:
            info["success"] = outcome.success
        reward = float(outcome.reward)
        return self._observation(), reward, outcome.terminated, outcome.truncated, info

    def snapshot(self) -> bytes:
        """The episode as it stands, with its chance to come."""
        state = {
            "snapshot": SNAPSHOT,
            "game": type(self).__name__,
            "mode": self.mode,
            "state": self.save(),
            "chance": self.np_random.bit_generator.state,
            "goal": self._goal,
            "text": self._text,
            "error": self._error,
            "over": self._over,
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def restore(self, snapshot: bytes) -> tuple[Observation, dict[str, Any]]:
        """Go on from a snapshot of the same game.

        Raises:
            ConfigError: these bytes are no snapshot of this game, or of one with another mode or
                goal; nothing has changed.
        """
        before = self.snapshot() if self._goal else b""
        try:
            return self._resume(json.loads(snapshot))
        except Exception as error:  # bytes from anywhere may break a game's `load` in any way
            if before:
                self._resume(json.loads(before))
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"these bytes are no snapshot: {error!r}") from error

    def _resume(self, state: Any) -> tuple[Observation, dict[str, Any]]:
        """Go on from the content of a snapshot."""
        mine = (SNAPSHOT, type(self).__name__, self.mode)
        if (state["snapshot"], state["game"], state["mode"]) != mine:
            raise ConfigError(
                f"a snapshot of {state['game']!r}, mode {state['mode']!r}, version "
                f"{state['snapshot']!r} was given to {mine[1]!r}, mode {mine[2]!r}, "
                f"version {mine[0]}; restore it into an environment made like the first"
            )
        shown = (state["goal"], state["text"], state["error"])
        if not all(type(text) is str for text in shown) or type(state["over"]) is not bool:
            raise TypeError(f"it shows {shown!r:.200}")
        self.load(state["state"])
        if (goal := self.goal()) != shown[0]:
            raise ConfigError(
                f"a snapshot of a game with the goal {shown[0]!r:.300} was given to one with "
                f"{goal!r:.300}; restore it into an environment made with the same arguments"
            )
        self.np_random.bit_generator.state = state["chance"]
        self._goal, self._text, self._error = shown
        self._over = state["over"]
        return self._observation(), self._info()

    @property
    def can_snapshot(self) -> bool:
        """True: every game in pure Python can."""
        return True

    @property
    def has_oracle(self) -> bool:
        """True if the game has an `expert`."""
        return type(self).expert is not TextGame.expert

    def oracle_action(self) -> str:
        """The expert's next action.

        Raises:
            NotImplementedError: see `has_oracle`.
            EpisodeOverError: before `reset` or after the end.
        """
        if self._over and self.has_oracle:
            raise EpisodeOverError("the episode is over; call reset()")
        return self.write(self.expert())

    def write(self, text: str) -> str:
        """An action's text as the model would write it; games with several actions override it."""
        written = self._written.get(text)
        if written is None:
            (name, spec), *_ = self.action_set.items()
            call = ActionCall(name, {spec.parameters[0].name: text})
            written = self.action_set.format(call, self.action_syntax)
            if len(self._written) < _REMEMBERED:
                self._written[text] = written
        return written

    def draw(self, count: int) -> int:
        """One of ``range(count)`` from the game's chance.

        An action space with the game's own seed draws the same stream, so that a plain
        ``integers(count)`` here would give its random guess of a hidden word away.
        """
        return int(self.np_random.integers(2**62)) % count

    def render(self) -> Any:
        """What the last observation showed."""
        return self._text or self._error

    def _read(self, action: object) -> tuple[Reading, dict[str, Any]]:
        """What an action's text means and the info about it; short texts are read but once."""
        known = self._readings.get(action) if isinstance(action, str) else None
        if known is None:
            reading = self.action_set.read(action, self.action_syntax)
            known = reading, reading.info()
            if isinstance(action, str) and len(action) < 100 and len(self._readings) < _REMEMBERED:
                self._readings[action] = known
        return known

    def _observation(self) -> Observation:
        observation = Observation(goal=self._goal, text=self._text, error=self._error)
        if self.images:
            observation["image"] = self.picture()
        return observation

    def _info(self) -> dict[str, Any]:
        info = {"state_key": self.key(), **self.facts()}
        if self._over:
            return info | {"admissible_actions": []}
        texts = admissible = self.admissible()
        if texts is None:
            texts = self.guesses()
        if texts is not self._texts or not isinstance(texts, tuple):
            self._texts, self._lines = texts, self._list(texts)
        if admissible is not None:
            info["admissible_actions"] = self._lines.copy()
        if texts:
            self._choices.actions = self._lines
        return info

    def _list(self, texts: Sequence[str]) -> list[str]:
        """The texts as actions; never changed. Long constant lists are shared."""
        if not isinstance(texts, tuple) or len(texts) < _LONG:
            return [self.write(text) for text in texts]
        kind = (type(self), self.mode, self.action_syntax, texts)
        if kind not in _lists:
            _lists[kind] = [self.write(text) for text in texts]
        return _lists[kind]
