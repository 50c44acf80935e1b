"""agentgym/textworld.<game>-v0: games of the real TextWorld engine, made from a seed."""

import copy
import difflib
import hashlib
import importlib.util
import json
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agentgym.actions import SYNTAXES, ActionCall, ActionSet, Reading
from agentgym.core import AgentEnv
from agentgym.environments.text.commands import resolve, words_of
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
SNAPSHOT = 1
"""Version of what `TextWorldEnv.snapshot` writes."""
GAMES = 64
"""Different games whose files' contents a process keeps in memory."""
POINTS = 128
"""Moments of games that a process keeps in memory, so that going back to them is quick."""
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


@dataclass(frozen=True, slots=True)
class _Point:
    """A moment of a game, of which nothing is ever changed."""

    machine: Any
    """The interpreter's memory, registers and chance."""
    progression: Any
    """TextWorld's own account of the world."""
    state: Any
    """What TextWorld told last."""
    key: str


_points: OrderedDict[tuple[Path, tuple[str, ...]], _Point] = OrderedDict()
"""By game and the commands that lead there: a game is nothing but its commands' doing."""
_keeping = threading.Lock()


def _keep(file: Path, commands: Sequence[str], point: _Point) -> None:
    with _keeping:
        _points[file, tuple(commands)] = point
        while len(_points) > POINTS:
            _points.popitem(last=False)


class _Engine:
    """TextWorld playing one game. Only commands it lists as admissible ever change the game."""

    def __init__(self, file: Path, *, policy: bool = False) -> None:
        import jericho
        import textworld
        from textworld.envs import TWInform7
        from textworld.envs.zmachine.jericho import JerichoEnv

        wanted = ("admissible_commands", "description", "inventory", "won", "lost")
        with _engine_at_work(f"start {file}"), _loading:
            # TextWorld has this warning switched off on import; tests switch all of them on again.
            warnings.simplefilter("ignore", jericho.UnsupportedGameWarning)
            infos = textworld.EnvInfos(**dict.fromkeys(wanted, True), policy_commands=policy)
            machine = JerichoEnv(infos)
            # As `textworld.start` does it, but engines of one game share what its file tells
            # (megabytes, never changed): TextWorld reads the file only where this is not set.
            machine._game = _told(file.with_suffix(".json"), file.stat().st_mtime_ns)
            self._game = TWInform7()(machine)
            self._game.load(str(file))
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
        facts = "\n".join(sorted(map(_written, self.state["_facts"])))
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

    def point(self) -> _Point:
        """This moment, to `go_to` later or in another engine of the same game."""
        with _engine_at_work("be copied"):
            machine = self._game.unwrapped._jericho.get_state()
            progression = _apart(self._game._game_progression)
        return _Point(machine, progression, self.state, self.key)

    def go_to(self, point: _Point) -> None:
        """Go on from there."""
        with _engine_at_work("go back"):
            self._game.unwrapped._jericho.set_state(point.machine)
            layer = self._game
            while layer is not None:  # each layer of TextWorld's keeps the last state
                layer.state = point.state
                if "_game_progression" in vars(layer):
                    layer._game_progression = _apart(point.progression)
                layer = vars(layer).get("_wrapped_env")
        self.state = point.state

    def close(self) -> None:
        """Free the interpreter's memory."""
        self._game.close()


@lru_cache(maxsize=GAMES)
def _told(file: Path, changed: int) -> Any:
    """TextWorld's `Game` of a file, as it is since `changed` (nanoseconds)."""
    import textworld

    return textworld.Game.load(str(file))


@lru_cache(maxsize=100_000)
def _written(fact: Any) -> str:
    """A fact of TextWorld's as text; writing it anew each time is slow."""
    return str(fact)


def _apart(progression: Any) -> Any:
    """A copy that can be played on. TextWorld's own `copy` looks for all actions again."""
    apart = copy.copy(progression)
    apart.state = progression.state.copy()
    return apart


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
    one can be meant (see `commands.resolve`). Anything else changes nothing: the engine's own
    answer to it is the next observation's ``error``, and the turn counts. The interpreter's own
    commands (quit, restart, save, restore, undo, script, ...) never reach the engine.

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
        self._playing: Mapping[str, Any] = settings
        self._seed = 0
        self._file: Path | None = None
        self._engine: _Engine | None = None
        self._adviser: _Engine | None = None
        self._advised: list[str] = []
        self._done: list[str] = []
        self._goal = ""
        self._screen = ""
        self._error = ""

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
        self._start(playing, seed % 2**32)
        assert self._engine is not None
        self._goal = self._task(self._engine)
        return self._observe("", ""), self._info(self._engine)

    def _start(self, playing: Mapping[str, Any], seed: int) -> None:
        """Make the game if need be, and start it."""
        began = time.perf_counter()
        self._file = game_file(GameSpec(self.game, playing, seed), self.make_timeout_s)
        made = time.perf_counter()
        self._engine = _Engine(self._file)
        self.diagnostics = {"make_s": made - began, "start_s": time.perf_counter() - made}
        self._playing, self._seed, self._done = playing, seed, []

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
        words = words_of(text)
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
        self._error = error
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
        if self.goal_kind == "brief" and self.game == "skill":
            return f"Your task is to {engine.state['extra.idea']}."
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
        if self._advised != self._done[: len(self._advised)]:  # the episode went back
            self._dismiss()
        if self._adviser is None:
            self._adviser = _Engine(self._file, policy=True)
        for text in self._done[len(self._advised) :]:
            self._adviser.step(text)
        self._advised = list(self._done)
        return next(iter(self._adviser.state.policy_commands or []), "")

    def render(self) -> Any:
        """What the last observation showed."""
        return self._screen

    @property
    def can_snapshot(self) -> bool:
        """True."""
        return True

    def snapshot(self) -> bytes:
        """The game, and the commands that lead from its start to here.

        Anything else would have to trust bytes with an interpreter's memory. What the last
        `POINTS` snapshots of this process lead to is kept in memory besides, so that going back
        there takes a millisecond and not a replay (some milliseconds a command).

        Raises:
            EpisodeOverError: before `reset`.
        """
        if self._engine is None or self._file is None:
            raise EpisodeOverError("there is no episode to take a snapshot of; call reset()")
        _keep(self._file, self._done, point := self._engine.point())
        state = {
            "snapshot": SNAPSHOT,
            "game": self.game,
            "settings": self._playing,
            "seed": self._seed,
            "commands": self._done,
            "state_key": point.key,
            "text": self._screen,
            "error": self._error,
            "chance": self.np_random.bit_generator.state,
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def restore(self, snapshot: bytes) -> tuple[Observation, dict[str, Any]]:
        """Go on from a snapshot of the same kind of game.

        Raises:
            ConfigError: these bytes are no snapshot of this kind of game; nothing has changed.
            EnvFailureError: the game could not be made or started.
        """
        try:
            state = json.loads(snapshot)
            if (state["snapshot"], state["game"]) != (SNAPSHOT, self.game):
                raise ConfigError(
                    f"a snapshot of {state['game']!r}, version {state['snapshot']!r}, was given "
                    f"to {self.game!r}, version {SNAPSHOT}; restore it into its own kind of game"
                )
            spec = GameSpec(self.game, complete(self.game, state["settings"]), state["seed"])
            done = state["commands"]
            text, error, key = state["text"], state["error"], state["state_key"]
            values = (text, error, key, *done)
            texts = isinstance(done, list) and all(type(value) is str for value in values)
            if not texts or type(spec.seed) is not int or not 0 <= spec.seed < 2**32:
                raise ValueError("its values have other types than those of a snapshot")
            chance = np.random.default_rng(0)
            chance.bit_generator.state = state["chance"]
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            raise ConfigError(f"these bytes are no snapshot: {problem!r}") from problem
        file = game_file(spec, self.make_timeout_s)
        engine = self._engine_at(file, done, key)
        if engine is not self._engine:
            self.close()
        self._engine, self._file, self._seed = engine, file, spec.seed
        self._playing, self._done, self.np_random = spec.settings, done, chance
        self._goal, self._screen, self._error = self._task(engine), text, error
        return Observation(goal=self._goal, text=text, error=error), self._info(engine)

    def _engine_at(self, file: Path, done: Sequence[str], key: str) -> _Engine:
        """An engine to which these commands have been given; ours if that is possible."""
        with _keeping:
            point = _points.get((file, tuple(done)))
        if point is not None and point.key == key:
            engine = self._engine if self._engine is not None and self._file == file else None
            engine = engine or _Engine(file)
            engine.go_to(point)
            return engine
        engine = _Engine(file)
        for number, text in enumerate(done, start=1):
            if text not in engine.commands:
                engine.close()
                raise ConfigError(
                    f"this snapshot does not belong to the game: its command {number}, "
                    f"{text[:60]!r}, cannot be given there"
                )
            engine.step(text)
        if engine.key != key:
            engine.close()
            raise ConfigError("this snapshot does not belong to the game: it leads elsewhere")
        return engine

    def _dismiss(self) -> None:
        """Free the second engine."""
        if self._adviser is not None:
            self._adviser.close()
        self._adviser, self._advised = None, []

    def close(self) -> None:
        """Free both engines; may be called twice. `reset` starts anew."""
        self._dismiss()
        if self._engine is not None:
            self._engine.close()
            self._engine = None
