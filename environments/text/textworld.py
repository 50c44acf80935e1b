"""agentgym/textworld.<game>-v0: games of the real TextWorld engine, made from a seed."""

import difflib
import hashlib
import importlib.util
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agentgym.actions import SYNTAXES, ActionCall, ActionSet, Reading
from agentgym.core import AgentEnv
from agentgym.environments.text.games import GameSpec, complete, game_file
from agentgym.errors import (
    ConfigError,
    EnvFailureError,
    EpisodeOverError,
    MissingDependencyError,
)
from agentgym.spaces import ActionText, observation_space
from agentgym.types import Observation

GoalKind = Literal["detailed", "brief"]
MAX_COMMAND = 100
"""Characters; the engine reads no more than twice as many."""
_DIRECTIONS = {"n": "north", "s": "south", "e": "east", "w": "west"}
_SYNONYMS = {
    **{short: f"go {long}" for short, long in _DIRECTIONS.items()},
    **{long: f"go {long}" for long in _DIRECTIONS.values()},
    **dict.fromkeys(("walk", "run"), "go"),
    **dict.fromkeys(("get", "pick up"), "take"),
    **dict.fromkeys(("put down", "discard"), "drop"),
    **dict.fromkeys(("look at", "x", "read", "check", "describe"), "examine"),
    **{"shut": "close", "l": "look", "i": "inventory", "inv": "inventory"},
}
_ARTICLES = {"the", "a", "an", "some"}
_STRANGE = re.compile(r"[^\w '-]", re.ASCII)
_TAGGED = re.compile(r"<(description|inventory|score|moves)>.*?</\1>", re.DOTALL)
_EVENT = re.compile(r"\[[^\]]*\]\n?")
_DONE = " - succeeded]"
_STATUS = re.compile(r">?[ \t]{20,}-= .*|Would you like to RESTART.*", re.DOTALL)

_loading = threading.Lock()  # TextWorld's parsers of game files are shared and keep state


def command(text: str) -> None:
    """Give the game one command, e.g. go north, open chest, take key from chest, inventory."""


@contextmanager
def _engine_at_work(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever breaks in there is not the agent's doing
        raise EnvFailureError(f"TextWorld failed to {what}: {error!r}") from error


def _tidy(text: str) -> str:
    """Text of the engine without tags, status line and empty lines."""
    text = _STATUS.sub("", _EVENT.sub("", _TAGGED.sub("", text)))
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


class _Engine:
    """TextWorld playing one game. Only commands it lists as admissible ever change the game."""

    def __init__(self, file: Path, *, policy: bool = False) -> None:
        import jericho
        import textworld

        wanted = ("admissible_commands", "description", "inventory", "won", "lost")
        with _engine_at_work(f"start {file}"), _loading:
            # TextWorld has this warning switched off on import; tests switch all of them on again.
            warnings.simplefilter("ignore", jericho.UnsupportedGameWarning)
            infos = textworld.EnvInfos(**dict.fromkeys(wanted, True), policy_commands=policy)
            self._game = textworld.start(str(file), infos)
            self._game.seed(1)
            self.state = self._game.reset()

    @property
    def commands(self) -> list[str]:
        """What can be done now, sorted; nothing once the game is over."""
        return [] if self.state.done else list(self.state.admissible_commands)

    @property
    def verbs(self) -> list[str]:
        """The verbs of this game's commands, sorted."""
        return sorted({template.split()[0] for template in self.state.command_templates})

    @property
    def walkthrough(self) -> list[str]:
        """Commands that win from the start."""
        return list(self.state["extra.walkthrough"])

    @property
    def over(self) -> bool:
        """True if the game is won or lost."""
        return bool(self.state.done)

    @property
    def key(self) -> str:
        """Name of the state of the world: equal for equal facts and score, and only for those."""
        facts = "\n".join(sorted(map(str, self.state["_facts"])))
        text = f"{facts}\n{self.state.score}/{self.state.max_score}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def step(self, text: str) -> tuple[str, bool]:
        """The answer to an admissible command, and whether it was carried out."""
        with _engine_at_work(f"carry out {text!r}"):
            self.state, _, _ = self._game.step(text)
        return _tidy(self.state.feedback), _DONE in _TAGGED.sub("", self.state.raw)

    def probe(self, text: str) -> tuple[str, bool]:
        """What `step` would return. The game is as before."""
        machine = self._game.unwrapped._jericho
        with _engine_at_work(f"try {text!r}"):
            before = machine.get_state()
            answer = machine.step(text)[0]
            machine.set_state(before)
        return _tidy(answer), _DONE in _TAGGED.sub("", answer)

    def close(self) -> None:
        """Free the interpreter's memory."""
        self._game.close()


def resolve(text: str, admissible: Sequence[str]) -> str:
    """The admissible command that was meant, or "" if there is none or more than one.

    Case, articles, the synonyms that the engine knows and left out words do not matter, as long as
    only one command fits: so does the engine's parser read, but TextWorld loses track of the state
    after a command that it has not listed in just these words.

    Example:
        >>> resolve("Get the key", ["go east", "take old key from chest"])
        'take old key from chest'
        >>> resolve("take key", ["take old key", "take new key"])
        ''
    """
    words = _words(text)
    for candidates in (
        [c for c in admissible if c.lower().split() == words],
        [c for c in admissible if _without_articles(c.lower().split()) == words],
        [c for c in admissible if len(words) > 1 and _abbreviates(words, c.lower().split())],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return ""


def _words(text: str) -> list[str]:
    words = text.lower().split()
    for length in (2, 1):
        known = _SYNONYMS.get(" ".join(words[:length]))
        if known is not None:
            words = [*known.split(), *words[length:]]
            break
    if words[:1] == ["go"]:
        words = [_DIRECTIONS.get(word, word) for word in words]
    if words[:1] == ["put"] and {"in", "into", "inside"} & set(words):
        words = ["insert", *("into" if w in ("in", "inside") else w for w in words[1:])]
    return _without_articles(words)


def _without_articles(words: list[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _abbreviates(words: list[str], full: list[str]) -> bool:
    """True if both begin alike and `full` has all the words, in their order."""
    rest = iter(full)
    return words[:1] == full[:1] and all(word in rest for word in words)


class _AdmissibleSampler:
    """Draws what can be done now. Holds no engine, so that the space can be copied and pickled."""

    def __init__(self, fallback: str) -> None:
        self.actions = [fallback]

    def __call__(self, rng: np.random.Generator) -> str:
        return self.actions[int(rng.integers(len(self.actions)))]


class TextWorldEnv(AgentEnv):
    """A text adventure: find, carry, open, cook and eat things by written commands.

    ## Description
    One seed is one game: the world, its texts and the quest come from the kind of game, its
    settings and the seed, the same as ``tw-make`` makes them. A game is made on its first reset
    (seconds: it is compiled) and kept in the cache; after that a reset takes milliseconds.

    ## Action Space
    One action, ``command(text)``; in the default syntax "text" the last line of what the model
    writes is the command. A command counts as one of ``info["admissible_actions"]`` if only that
    one can be meant (see `resolve`). Anything else changes nothing: the engine's own answer to it
    is the next observation's ``error``, and the turn counts. The interpreter's own commands (quit,
    restart, save, restore, undo, script, ...) never reach the engine.

    ## Observation Space
    ``goal`` is what the engine says at the start; ``text`` is its answer to the command, with
    `describe` followed by the room and the inventory, so that no history is needed to act.

    ## Rewards
    The increase of the engine's score divided by the greatest score: a won game sums to 1.

    ## Starting State
    The player's place in a new game. ``reset(options=...)`` takes settings for one episode.

    ## Episode End
    Terminated when the game is won (``info["success"]`` is true) or lost.

    ## Arguments
    * `game`: a name of `games.KINDS`;
    * `describe`: show room and inventory at every turn;
    * `goal`: "detailed" is the engine's text, for most games every step of the way; "brief" says
      what to reach, not how;
    * `action_syntax`: one of `actions.SYNTAXES`;
    * `make_timeout_s`: seconds that making a game may take;
    * all others: settings of the game, see `games.KINDS`.

    ## Version History
    * v0: first.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        game: str = "coin_collector",
        *,
        describe: bool = True,
        goal: GoalKind = "detailed",
        action_syntax: str = "text",
        render_mode: str | None = None,
        make_timeout_s: float = 600.0,
        **settings: Any,
    ) -> None:
        if goal not in get_args(GoalKind):
            raise ConfigError(f"goal must be one of {get_args(GoalKind)}, got {goal!r}")
        if action_syntax not in SYNTAXES:
            raise ConfigError(f"action_syntax must be one of {SYNTAXES}, got {action_syntax!r}")
        complete(game, settings)
        if importlib.util.find_spec("textworld") is None:
            raise MissingDependencyError("textworld is not installed; run pip install -e '.[text]'")
        self.game = game
        self.describe = describe
        self.goal_kind = goal
        self.render_mode = render_mode
        self.make_timeout_s = make_timeout_s
        self.action_set = ActionSet([command])
        self.action_syntax = action_syntax
        self.observation_space = observation_space()
        self.diagnostics: dict[str, Any] = {}
        self._sampler = _AdmissibleSampler(self._write("look"))
        self.action_space = ActionText(self.action_set, action_syntax, sampler=self._sampler)
        self._settings = settings
        self._playing: dict[str, Any] = settings
        self._file: Path | None = None
        self._engine: _Engine | None = None
        self._adviser: _Engine | None = None
        self._advised = 0
        self._done: list[str] = []
        self._goal = ""
        self._screen = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the game of this seed.

        Args:
            seed: the game's own, modulo 2**32; without it, the next of the environment's stream.
            options: settings of the game for this episode, over those of the constructor.

        Raises:
            ConfigError: an option is no setting of the game, or no such game can be made.
            EnvFailureError: the game could not be made or started.
        """
        super().reset(seed=seed)
        playing = complete(self.game, self._settings | (options or {}))
        self.close()
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        began = time.perf_counter()
        self._file = game_file(GameSpec(self.game, playing, seed % 2**32), self.make_timeout_s)
        made = time.perf_counter()
        self._engine = _Engine(self._file)
        self.diagnostics = {"make_s": made - began, "start_s": time.perf_counter() - made}
        self._playing = playing
        self._done = []
        self._goal = self._task(self._engine)
        return self._observe("", ""), self._info(self._engine)

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Give the game the command in `action`.

        Raises:
            EpisodeOverError: before `reset` or after the end.
            EnvFailureError: the engine broke.
        """
        engine = self._running()
        reading = self._read(action, engine)
        info = reading.info()
        answer, error, reward = "", reading.error, 0.0
        if reading.call is not None:
            text = reading.call.arguments["text"]
            if text in engine.commands:
                before = engine.state.score
                answer, carried_out = engine.step(text)
                error = "" if carried_out else answer
                reward = (engine.state.score - before) / engine.state.max_score
                self._done.append(text)
            else:
                error = self._refuse(text, engine)
        info |= {"action_error": error, **self._info(engine)}
        if engine.over:
            info["success"] = bool(engine.state.won)
        return self._observe(answer, error), reward, engine.over, False, info

    def _running(self) -> _Engine:
        if self._engine is None or self._engine.over:
            raise EpisodeOverError("the episode is over; call reset()")
        return self._engine

    def _read(self, action: str, engine: _Engine) -> Reading:
        """What the model wrote, as an admissible command if one is meant."""
        reading = self.action_set.read(action, self.action_syntax)
        if reading.call is None:
            return reading
        text = " ".join(reading.call.arguments["text"].split()).strip(" .!?")
        meant = resolve(text, engine.commands)
        several = "then" in text.lower().split()
        malformed = not text or several or len(text) > MAX_COMMAND or _STRANGE.search(text)
        if malformed and not meant:
            error = (
                f"A command is one short line of plain words, such as {engine.commands[0]!r}; "
                f"got {text[:60]!r}"
            )
            return Reading(None, reading.thought, error)
        return Reading(ActionCall("command", {"text": meant or text}), reading.thought)

    def _refuse(self, text: str, engine: _Engine) -> str:
        """Why a command that is not admissible was not carried out."""
        words = _words(text)
        if not words or words[0] not in engine.verbs:
            verbs = ", ".join(engine.verbs)
            return f"{text.split()[0]!r} is not a verb of this game. Verbs: {verbs}"
        answer, carried_out = engine.probe(text)
        if answer and not carried_out:
            return answer
        near = difflib.get_close_matches(" ".join(words), engine.commands, n=1, cutoff=0.4)
        hint = f"such as {near[0]!r}" if near else "about one thing, with its full name"
        return f"{text!r} was not carried out. Give one command {hint}"

    def _observe(self, answer: str, error: str) -> Observation:
        engine = self._engine
        parts = [] if error else [answer]
        if engine is not None and not engine.over and (self.describe or not self._done):
            for part in (_tidy(engine.state.description), _tidy(engine.state.inventory)):
                if part not in answer or error:
                    parts.append(part)
        self._screen = "\n".join(part for part in parts if part) or error
        return Observation(goal=self._goal, text=self._screen, error=error)

    def _info(self, engine: _Engine) -> dict[str, Any]:
        actions = [self._write(text) for text in engine.commands]
        self._sampler.actions = actions or self._sampler.actions
        return {
            "admissible_actions": actions,
            "state_key": engine.key,
            "score": int(engine.state.score),
            "max_score": int(engine.state.max_score),
        }

    def _task(self, engine: _Engine) -> str:
        told = _tidy(engine.state.objective)
        if self.goal_kind == "brief" and self.game != "cooking":  # whose own text is brief
            return f"Reach the point where you can do this: {engine.walkthrough[-1]}."
        return told

    def _write(self, text: str) -> str:
        """A command as the model would write it."""
        return self.action_set.format(ActionCall("command", {"text": text}), self.action_syntax)

    @property
    def has_oracle(self) -> bool:
        """True but for cooking with `drop`, for which TextWorld keeps no plan."""
        return not complete(self.game, self._playing).get("drop", False)

    def oracle_action(self) -> str:
        """TextWorld's plan from here on, after detours too; "look" if the game cannot be won.

        In the cooking game it reads the recipe before it follows it.

        Raises:
            NotImplementedError: see `has_oracle`.
            EpisodeOverError: before `reset` or after the end.
        """
        engine = self._running()
        if not self.has_oracle:
            raise NotImplementedError(f"the {self.game} game with drop has no oracle")
        return self._write(self._read_first(engine) or self._plan() or "look")

    def _read_first(self, engine: _Engine) -> str:
        """The next command towards reading the recipe, which the plan would do without."""
        reading = "examine cookbook"
        if self.game != "cooking" or reading in self._done:
            return ""
        walkthrough = [c for c in engine.walkthrough if c != "inventory"]
        on_the_way = walkthrough[: walkthrough.index(reading)]
        position = len(self._done)
        if self._done == on_the_way[:position] and position < len(on_the_way):
            return on_the_way[position]
        return reading if reading in engine.commands else ""

    def _plan(self) -> str:
        """First command of the plan of a second engine, which is played to the same point.

        Keeping a plan costs several times as much as playing, so the first engine keeps none.
        """
        assert self._file is not None
        if self._adviser is None:
            self._adviser, self._advised = _Engine(self._file, policy=True), 0
        for text in self._done[self._advised :]:
            self._adviser.step(text)
        self._advised = len(self._done)
        return next(iter(self._adviser.state.policy_commands or []), "")

    def render(self) -> Any:
        """What the last observation showed."""
        return self._screen

    def close(self) -> None:
        """Free both engines; may be called twice. `reset` starts anew."""
        for engine in (self._engine, self._adviser):
            if engine is not None:
                engine.close()
        self._engine = self._adviser = None
