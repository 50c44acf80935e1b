"""Games that train one skill each: from an idea to a sketch, and from a sketch to a TextWorld game.

The way from ideas to games is that of STARLING (Basavatia et al. 2024,
https://arxiv.org/abs/2406.05872), which lets GPT-3 fill in JSON that becomes Inform 7 source.
Differs: skills are made of TextWorld's own verbs (go, open, take, put, insert, eat), so that every
game has a checked solution, a plan from any state and exact admissible commands; and where no
language model is at hand, a grammar writes the sketches.

A sketch is a JSON object::

    {"idea": "boil water",
     "rooms": ["kitchen", "pantry"],
     "exits": [["kitchen", "north", "pantry", "glass door"]],
     "places": {"stove": ["supporter", "kitchen"], "crate": ["container", "pantry", "closed"]},
     "items": {"kettle": "crate", "candle": "kitchen"},
     "food": [],
     "start": "kitchen",
     "steps": [["kettle", "on", "stove"]]}

An exit is two-way; its door, which is closed at first, may be left out. Each step is worth a point
and the game is won when all have been taken, in any order.
"""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.errors import ConfigError
from agentgym.players import Player, PlayerTurn, ask
from agentgym.seeding import derive
from agentgym.types import Message

DATA: Mapping[str, Any] = json.loads((Path(__file__).parent / "skills.json").read_text("utf-8"))
IDEAS: tuple[str, ...] = tuple(entry["idea"] for entry in DATA["ideas"])
"""What the grammar knows how to sketch."""
MAX_SKETCH = 8000
"""Characters of a sketch's JSON."""
MAX_STEPS, MAX_ROOMS, MAX_THINGS, MAX_COMMANDS = 8, 8, 24, 40
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_OFFSET = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
_NAME = re.compile(r"[a-z]+( [a-z]+){0,3}")
# Words of TextWorld's commands and of Inform's parser, which no name may hold.
_RESERVED = frozenset(
    "go take put insert open close eat drop look examine inventory unlock lock into on in from "
    "with and then the a an all it me north south east west up down".split()
)
INSTRUCTIONS = (
    "You design small text adventures that train a skill. Answer with one JSON object and nothing "
    "else. Its keys: idea (text); rooms (list of names); exits (list of [room, direction, room], "
    "direction is north, south, east or west); places (name to [container, room, open or closed] "
    "or [supporter, room]: what things can be put into or on); items (name to the room or place "
    "where it is at first); food (list of the items that can be eaten); start (room of the "
    "player); steps (list of [item, in, container], [item, on, supporter], [container, open] or "
    "[food, eaten]: what must come true, none of which is true at first). Names are lower-case "
    "English words, at most four, all different, and no name is part of another. At most 8 rooms "
    "and 8 steps. Example: "
)


@dataclass(frozen=True)
class Sketch:
    """A game before it is built; see the module. Sound once `check` has passed."""

    idea: str
    rooms: tuple[str, ...]
    exits: tuple[tuple[str, ...], ...]
    places: Mapping[str, tuple[str, ...]]
    items: Mapping[str, str]
    food: tuple[str, ...]
    start: str
    steps: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, text: str) -> "Sketch":
        """The sketch that a JSON text holds, checked.

        Raises:
            ConfigError: it is no sketch, or one of a game that cannot be won as it says.
        """
        if len(text) > MAX_SKETCH:
            raise ConfigError(f"a sketch has at most {MAX_SKETCH} characters, got {len(text)}")
        try:
            data = json.loads(text)
            sketch = cls(
                idea=_a_text(data["idea"]),
                rooms=tuple(map(_a_text, _a_list(data["rooms"]))),
                exits=tuple(tuple(map(_a_text, _a_list(row))) for row in _a_list(data["exits"])),
                places={k: tuple(map(_a_text, _a_list(v))) for k, v in data["places"].items()},
                items={k: _a_text(v) for k, v in data["items"].items()},
                food=tuple(map(_a_text, _a_list(data.get("food", [])))),
                start=_a_text(data["start"]),
                steps=tuple(tuple(map(_a_text, _a_list(row))) for row in _a_list(data["steps"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"this is no sketch of a game: {error!r}") from error
        sketch.check()
        return sketch

    def write(self) -> str:
        """The JSON text that `read` reads back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def check(self) -> None:
        """Refuse what cannot be built, or not be won.

        Raises:
            ConfigError: the first thing that is wrong.
        """
        self._check_names()
        self._check_map()
        for thing, where in self.items.items():
            _need(where in self.rooms or where in self.places, f"{thing} is in {where!r}, nowhere")
        _need(set(self.food) <= set(self.items), f"food {self.food} must be items")
        _need(1 <= len(self.steps) <= MAX_STEPS, f"steps must be 1 to {MAX_STEPS}")
        _need(len(set(self.steps)) == len(self.steps), "a step stands twice")
        for step in self.steps:
            self._check_step(step)
        self.walkthrough()

    def _check_names(self) -> None:
        names = [*self.rooms, *self.places, *self.items, *(row[3] for row in self._doors())]
        _need(len(names) <= MAX_THINGS + MAX_ROOMS, f"at most {MAX_THINGS} things, please")
        _need(0 < len(self.idea) <= 80 and self.idea.isprintable(), f"the idea is {self.idea!r}")
        for name in names:
            fine = _NAME.fullmatch(name) and len(name) <= 30
            _need(bool(fine), f"names are one to four lower-case words, got {name[:40]!r}")
            _need(not _RESERVED & set(name.split()), f"{name!r} holds a word of the commands")
        for one in names:
            for other in names:
                inside = one is not other and set(one.split()) <= set(other.split())
                _need(not inside, f"the names {one!r} and {other!r} cannot be told apart")
        _need(len(set(names)) == len(names), "a name stands twice")

    def _check_map(self) -> None:
        _need(1 <= len(self.rooms) <= MAX_ROOMS, f"rooms must be 1 to {MAX_ROOMS}")
        _need(self.start in self.rooms, f"the start {self.start!r} is no room")
        used: set[tuple[str, str]] = set()
        for row in self.exits:
            _need(len(row) in (3, 4) and row[1] in _OPPOSITE, f"an exit is {list(row)}")
            _need(row[0] in self.rooms and row[2] in self.rooms, f"exit {list(row)}: no such room")
            _need(row[0] != row[2], f"exit {list(row)} leads back to its room")
            ways = {(row[0], row[1]), (row[2], _OPPOSITE[row[1]])}
            _need(not used & ways, f"exit {list(row)}: the direction is taken")
            used |= ways
        for room in self.rooms:
            _need(self._way(self.start, room) is not None, f"there is no way to {room!r}")
        for name, kind in self.places.items():
            container = len(kind) == 3 and kind[0] == "container" and kind[2] in ("open", "closed")
            _need(container or kind[:-1] == ("supporter",), f"{name} is {list(kind)}")
            _need(kind[1] in self.rooms, f"{name} is in {kind[1]!r}, which is no room")

    def _check_step(self, step: tuple[str, ...]) -> None:
        kind = {"in": "container", "on": "supporter"}
        match step:
            case (item, ("in" | "on") as how, place):
                fits = self.places.get(place, ("",))[0] == kind[how]
                _need(item in self.items and fits, f"step {list(step)}: no such item or place")
            case (place, "open"):
                fits = self.places.get(place, ("",))[0] == "container"
                _need(fits, f"step {list(step)}: no such container")
            case (item, "eaten"):
                _need(item in self.food, f"step {list(step)}: no such food")
            case _:
                raise ConfigError(f"a sketch's step cannot be {list(step)}")

    def _doors(self) -> list[tuple[str, ...]]:
        return [row for row in self.exits if len(row) == 4]

    def _way(self, start: str, goal: str) -> list[tuple[str, str, str]] | None:
        """A shortest way: (direction, door or "", room) for each move; None if there is none."""
        edges: dict[str, list[tuple[str, str, str]]] = {room: [] for room in self.rooms}
        for row in self.exits:
            door = row[3] if len(row) == 4 else ""
            edges[row[0]].append((row[1], door, row[2]))
            edges[row[2]].append((_OPPOSITE[row[1]], door, row[0]))
        ways: dict[str, list[tuple[str, str, str]]] = {start: []}
        queue = deque([start])
        while queue:
            room = queue.popleft()
            for move in edges[room]:
                if move[2] not in ways:
                    ways[move[2]] = [*ways[room], move]
                    queue.append(move[2])
        return ways.get(goal)

    def walkthrough(self) -> list[str]:
        """Commands that take the steps in their order.

        Raises:
            ConfigError: a step comes true before its turn, or can no longer.
        """
        return _Walk(self).commands

    def objective(self) -> str:
        """The task in words, with every step."""
        shapes = {"in": "put the {} into the {}", "on": "put the {} on the {}"}
        parts = []
        for step in self.steps:
            if len(step) == 3:
                parts.append(shapes[step[1]].format(step[0], step[2]))
            else:
                parts.append(f"{'open' if step[1] == 'open' else 'eat'} the {step[0]}")
        return f"Your task is to {self.idea}. To do so, {', then '.join(parts)}."


class _Walk:
    """Takes a sketch's steps one by one, as a player would."""

    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch
        self.room = sketch.start
        self.where = dict(sketch.items)
        self.open = {name for name, kind in sketch.places.items() if kind[-1] == "open"}
        self.commands: list[str] = []
        self.came_true: list[tuple[str, ...]] = []
        self._look()
        for number, step in enumerate(sketch.steps):
            _need(step not in self.came_true, f"step {list(step)} comes true before its turn")
            self._take(step)
            done = sketch.steps[: number + 1]
            _need(set(self.came_true) == set(done), f"step {list(step)} takes others along")
        _need(len(self.commands) <= MAX_COMMANDS, f"it takes {len(self.commands)} commands")

    def _take(self, step: tuple[str, ...]) -> None:
        item, how = step[0], step[1]
        if how == "open":
            self._reach(item)
            self._open(item)
            return
        self._fetch(item)
        if how == "eaten":
            self._do(f"eat {item}")
            self.where[item] = "eaten"
        else:
            place = step[2]
            self._reach(place)
            if how == "in":
                self._open(place)
            self._do(f"insert {item} into {place}" if how == "in" else f"put {item} on {place}")
            self.where[item] = place
        self._look()

    def _fetch(self, item: str) -> None:
        place = self.where[item]
        _need(place != "eaten", f"the {item} has been eaten before its step")
        if place == "carried":
            return
        self._reach(place)
        if place in self.sketch.rooms:
            self._do(f"take {item}")
        else:
            if self.sketch.places[place][0] == "container":
                self._open(place)
            self._do(f"take {item} from {place}")
        self.where[item] = "carried"

    def _reach(self, place: str) -> None:
        goal = self.sketch.places[place][1] if place in self.sketch.places else place
        for direction, door, room in self.sketch._way(self.room, goal) or ():
            if door:
                self._open(door)
            self._do(f"go {direction}")
            self.room = room

    def _open(self, name: str) -> None:
        if name not in self.open:
            self._do(f"open {name}")
            self.open.add(name)
            self._look()

    def _do(self, command: str) -> None:
        self.commands.append(command)

    def _look(self) -> None:
        """Note what has come true: a step stays taken."""
        for step in self.sketch.steps:
            if len(step) == 3:
                true = self.where[step[0]] == step[2]
            elif step[1] == "open":
                true = step[0] in self.open
            else:
                true = self.where[step[0]] == "eaten"
            if true and step not in self.came_true:
                self.came_true.append(step)


def _need(fine: bool, why: str) -> None:
    if not fine:
        raise ConfigError(f"a sketch cannot be built: {why}")


def _a_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value


def _a_list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list")
    return value


def sketch_by_grammar(idea: str, seed: int) -> Sketch:
    """A sketch of one of `IDEAS`: the seed decides rooms, doors, where things are, and clutter.

    Args:
        idea: one of `IDEAS`; empty for one that the seed chooses.
        seed: equal seeds give equal sketches.

    Raises:
        ConfigError: no such idea.
    """
    if idea and idea not in IDEAS:
        raise ConfigError(f"idea must be one of {', '.join(map(repr, IDEAS))}, got {idea!r}")
    rng = np.random.default_rng(derive(seed, "skill"))
    entry = DATA["ideas"][IDEAS.index(idea) if idea else int(rng.integers(len(IDEAS)))]
    for _ in range(100):
        sketch = _draw(entry, rng)
        try:
            sketch.check()
        except ConfigError:  # a thing lies where it should go, or the way is too long
            continue
        return sketch
    raise ConfigError(f"the grammar finds no game for {entry['idea']!r}")  # pragma: no cover


def _draw(entry: Mapping[str, Any], rng: np.random.Generator) -> Sketch:
    others = [room for room in DATA["rooms"] if room != entry["room"]]
    count = int(rng.integers(1, 4))
    rooms = [entry["room"], *(others[i] for i in rng.permutation(len(others))[:count])]
    places: dict[str, tuple[str, ...]] = {}
    steps = [tuple(step) for step in entry["steps"]]
    for room in rooms:
        own = entry["places"] if room == entry["room"] else {}
        for name, kind in {**own, **DATA["rooms"][room]}.items():
            if kind == "supporter":
                places[name] = (kind, room)
            else:
                closed = (name, "open") in steps or rng.random() < 0.7
                places[name] = (kind, room, "closed" if closed else "open")
    wanted = list(dict.fromkeys(step[0] for step in steps if step[1] != "open"))
    clutter = [DATA["clutter"][i] for i in rng.permutation(len(DATA["clutter"]))]
    spots = [*rooms, *places]
    items = {
        name: spots[int(rng.integers(len(spots)))]
        for name in [*wanted, *clutter[: int(rng.integers(1, 4))]]
    }
    return Sketch(
        idea=entry["idea"],
        rooms=tuple(rooms),
        exits=_lay_out(rooms, rng),
        places=places,
        items=items,
        food=tuple(entry.get("food", ())),
        start=rooms[int(rng.integers(len(rooms)))],
        steps=tuple(steps),
    )


def _lay_out(rooms: Sequence[str], rng: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """Rooms on a grid, each beside one before it; some of the ways have a door."""
    cells = {(0, 0): rooms[0]}
    exits = []
    doors = [DATA["doors"][i] for i in rng.permutation(len(DATA["doors"]))]
    for room in rooms[1:]:
        free = [
            (cell, direction, (cell[0] + dx, cell[1] + dy))
            for cell in cells
            for direction, (dx, dy) in _OFFSET.items()
            if (cell[0] + dx, cell[1] + dy) not in cells
        ]
        cell, direction, new = free[int(rng.integers(len(free)))]
        door = [doors.pop()] if rng.random() < 0.25 else []
        exits.append((cells[cell], direction, room, *door))
        cells[new] = room
    return tuple(exits)


def sketch_by_player(idea: str, player: Player, seed: int) -> Sketch:
    """A sketch that a language model writes.

    Args:
        idea: any skill in a few words.
        player: who writes.
        seed: of the answer's chance.

    Raises:
        EnvFailureError: none of a few answers was a sketch that can be built and won.
    """
    example = sketch_by_grammar(IDEAS[0], 0)
    turn = PlayerTurn(
        role="designer",
        instructions=INSTRUCTIONS + example.write(),
        messages=(Message("user", f"The skill to train: {idea}"),),
        facts={"idea": idea},
        seed=seed,
    )

    def read(text: str) -> Sketch | None:
        start, end = text.find("{"), text.rfind("}")
        try:
            return Sketch.read(text[start : end + 1])
        except ConfigError:
            return None

    return ask(player, turn, read)


def build(sketch: Sketch, options: Any) -> Any:
    """TextWorld's game of a sketch, with its walkthrough, made by TextWorld's own `GameMaker`.

    Args:
        sketch: a checked one.
        options: TextWorld's `GameOptions`; its seeds decide the wording.
    """
    from textworld.generator.game import Event, Quest
    from textworld.generator.maker import GameMaker

    maker = GameMaker(options)
    rooms = {name: maker.new_room(name) for name in sketch.rooms}
    for row in sketch.exits:
        one, other = rooms[row[0]], rooms[row[2]]
        path = maker.connect(one.exits[row[1]], other.exits[_OPPOSITE[row[1]]])
        if len(row) == 4:
            maker.new_door(path, name=row[3]).add_property("closed")
    things = dict(rooms)
    for name, kind in sketch.places.items():
        things[name] = maker.new("c" if kind[0] == "container" else "s", name=name)
        if kind[0] == "container":
            things[name].add_property(kind[2])
        rooms[kind[1]].add(things[name])
    for name, where in sketch.items.items():
        things[name] = maker.new("f" if name in sketch.food else "o", name=name)
        if name in sketch.food:
            things[name].add_property("edible")
        things[where].add(things[name])
    maker.set_player(rooms[sketch.start])
    for step in sketch.steps:
        fact = maker.new_fact(step[1], *(things[name] for name in step[::2]))
        maker.quests.append(Quest(win_events=[Event(conditions={fact})], reward=1))
    commands = sketch.walkthrough()
    _plan(maker.build(), maker.quests, commands)
    game = maker.build()
    game.objective = sketch.objective()
    game.metadata["walkthrough"] = commands
    game.metadata["idea"] = sketch.idea
    return game


def _plan(game: Any, quests: Sequence[Any], commands: Sequence[str]) -> None:
    """Tell each quest the actions that lead to it, of which TextWorld makes its plans.

    `GameMaker.set_walkthrough` does the same, but compiles the game for it.
    """
    from textworld.generator.game import GameProgression
    from textworld.generator.inform7 import Inform7Game

    progression, inform7 = GameProgression(game), Inform7Game(game)
    actions: list[Any] = []
    for number, command in enumerate(commands, start=1):
        valid = progression.valid_actions
        texts = inform7.gen_commands_from_actions(valid)
        if command not in texts:
            raise ValueError(f"{command!r} cannot be done; there are {sorted(texts)}")
        before = [part.completed for part in progression.quest_progressions]
        actions.append(valid[texts.index(command)])
        progression.update(actions[-1])
        for quest, was, part in zip(quests, before, progression.quest_progressions, strict=True):
            if part.completed and not was:
                quest.win_events[0].actions = tuple(actions)
                quest.win_events[0].commands = tuple(commands[:number])
