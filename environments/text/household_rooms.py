"""Rooms, things and tasks of the household: everything a game begins with, made from its number."""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from agentgym.errors import ConfigError

T = TypeVar("T")

TASKS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six types of ALFRED's tasks, by their published names."""
SPLITS = {"train": 3553, "valid_seen": 140, "valid_unseen": 134}
"""How many games each split has, as in ALFWorld."""
LAYOUTS = 30
"""Layouts of each kind of room; the last of them are held out."""
UNSEEN_LAYOUTS = 4
_UNSEEN_PAIRS = 0.15
_ROOMS = {
    "look_at_obj_in_light": ("bedroom", "livingroom"),
    "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
}
NEEDS = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
"""What a task wants done with its object."""
APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""Where it is done."""
_TEMPLATES = {
    "pick_and_place_simple": ("put a {0} in {1}", "put some {0} on {1}"),
    "look_at_obj_in_light": ("look at {0} under the {1}", "examine the {0} with the {1}"),
    "pick_clean_then_place_in_recep": (
        "put a clean {0} in {1}",
        "clean some {0} and put it in {1}",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {0} in {1}", "heat some {0} and put it in {1}"),
    "pick_cool_then_place_in_recep": ("put a cool {0} in {1}", "cool some {0} and put it in {1}"),
    "pick_two_obj_and_place": ("put two {0} in {1}", "find two {0} and put them in {1}"),
}


class Kind(NamedTuple):
    """A kind of object."""

    rooms: frozenset[str]
    can: frozenset[str]
    """Of clean, heat, cool, slice, use."""
    goes: frozenset[str]
    """The kinds of receptacles that it is found in and may be put into."""

    @property
    def portable(self) -> bool:
        """False for lamps."""
        return "use" not in self.can


class House(NamedTuple):
    """What there is: `household.json`."""

    rooms: dict[str, dict[str, tuple[int, int]]]
    """For each kind of room, how many receptacles of each kind, from and to."""
    openable: frozenset[str]
    kinds: dict[str, Kind]


class Game(NamedTuple):
    """What one game begins with."""

    split: str
    number: int
    room: str
    layout: int
    task: str
    thing: str
    """The kind of object that the task is about."""
    target: str
    """The kind of receptacle it belongs in, or of lamp."""
    wording: str
    """The task in words."""
    receptacles: tuple[str, ...]
    """Names, e.g. "drawer 2", in the order in which they are listed."""
    objects: tuple[str, ...]
    """Names, e.g. "mug 1"."""
    places: tuple[int, ...]
    """For each object the index of its receptacle."""


def kind(name: str) -> str:
    """The kind of a receptacle or object, e.g. of "drawer 2"."""
    return name.partition(" ")[0]


@cache
def house() -> House:
    """The data file, read once."""
    text = Path(__file__).with_name("household.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    kinds = {
        name: Kind(*(frozenset(entry[part]) for part in ("rooms", "can", "goes")))
        for name, entry in data["objects"].items()
    }
    rooms = {
        room: {name: (low, high) for name, (low, high) in counts.items()}
        for room, counts in data["rooms"].items()
    }
    return House(rooms, frozenset(data["openable"]), kinds)


@cache
def layouts(room: str) -> tuple[dict[str, int], ...]:
    """How many receptacles of each kind stand in each layout of a room; no two are equal."""
    rng = np.random.default_rng([sorted(house().rooms).index(room), LAYOUTS])
    made: list[dict[str, int]] = []
    while len(made) < LAYOUTS:
        counts = {
            name: int(rng.integers(low, high + 1))
            for name, (low, high) in house().rooms[room].items()
        }
        counts = {name: count for name, count in counts.items() if count}
        if counts not in made:
            made.append(counts)
    return tuple(made)


@cache
def pairs(task: str, unseen: bool) -> frozenset[tuple[str, str]]:
    """(object, target) kinds of a task: those of training, or those that are held out."""
    things = sorted(house().kinds.items())
    found = []
    for name, entry in things:
        if not entry.portable or not {NEEDS.get(task)} - {None} <= entry.can:
            continue
        if task == "look_at_obj_in_light":
            found += [(name, lamp) for lamp, other in things if not other.portable]
        else:
            appliance = APPLIANCES.get(NEEDS.get(task, ""))
            found += [(name, target) for target in sorted(entry.goes - {appliance})]
    order = np.random.default_rng([TASKS.index(task), len(found)]).permutation(len(found))
    cut = max(1, int(len(found) * _UNSEEN_PAIRS))
    chosen = order[:cut] if unseen else order[cut:]
    return frozenset(found[i] for i in chosen.tolist())


@cache
def _choices(task: str, room: str, layout: int, unseen: bool) -> tuple[tuple[str, str], ...]:
    """The pairs of a task that can be played in a layout, sorted."""
    there = set(layouts(room)[layout])
    kinds = house().kinds
    need = APPLIANCES.get(NEEDS.get(task, ""))
    if need is not None and need not in there:
        return ()
    return tuple(
        sorted(
            (thing, target)
            for thing, target in pairs(task, unseen)
            if room in kinds[thing].rooms
            and kinds[thing].goes & there - {target}
            and (target in there or (target in kinds and _lamp_fits(target, room, there)))
        )
    )


def _lamp_fits(lamp: str, room: str, there: set[str]) -> bool:
    entry = house().kinds[lamp]
    return room in entry.rooms and bool(entry.goes & there)


class _Chance:
    """Many small draws from one large one: a generator's single draws are slow."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._drawn: list[float] = []

    def number(self) -> float:
        if not self._drawn:
            self._drawn = self._rng.random(256).tolist()
        return self._drawn.pop()

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.number() * len(items))]

    def shuffle(self, items: list[T]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = int(self.number() * (last + 1))
            items[last], items[other] = items[other], items[last]


@lru_cache(512)
def make_game(split: str, number: int) -> Game:
    """The game of this number; its task is ``TASKS[number % 6]``.

    Training and seen validation share layouts and (object, target) pairs but no game; the layouts
    and the pairs of unseen validation occur in neither.

    Raises:
        ConfigError: there is no such game.
    """
    if split not in SPLITS or not 0 <= number < SPLITS[split]:
        raise ConfigError(f"no game {number!r} in split {split!r}; splits have {SPLITS}")
    chance = _Chance(list(SPLITS).index(split), number)
    task, unseen = TASKS[number % len(TASKS)], split == "valid_unseen"
    known = LAYOUTS - UNSEEN_LAYOUTS
    which = range(known, LAYOUTS) if unseen else range(known)
    choices: tuple[tuple[str, str], ...] = ()
    while not choices:
        room = chance.pick(_ROOMS.get(task, tuple(house().rooms)))
        layout = chance.pick(which)
        choices = _choices(task, room, layout, unseen)
    thing, target = chance.pick(choices)
    receptacles = [
        f"{name} {i}" for name, count in layouts(room)[layout].items() for i in range(1, count + 1)
    ]
    chance.shuffle(receptacles)
    objects, places = _furnish(chance, room, task, thing, target, receptacles)
    words = chance.pick(_TEMPLATES[task]).format(thing, target)
    return Game(
        split,
        number,
        room,
        layout,
        task,
        thing,
        target,
        words,
        tuple(receptacles),
        tuple(objects),
        tuple(places),
    )


def _furnish(
    chance: _Chance, room: str, task: str, thing: str, target: str, receptacles: list[str]
) -> tuple[list[str], list[int]]:
    """Objects and where they are: the task's own, so that it is not done yet, and others.

    They are in the order in which ALFWorld lists them: by kind, the highest number first.
    """
    by_kind = defaultdict(list)
    for index, name in enumerate(receptacles):
        by_kind[kind(name)].append(index)
    objects, places = list[str](), list[int]()
    for name, entry in sorted(house().kinds.items()):
        if room not in entry.rooms:
            continue
        homes = [i for place, found in by_kind.items() if place in entry.goes for i in found]
        if name == thing:
            homes = [i for i in homes if kind(receptacles[i]) != target]
            count = chance.pick((2, 3) if task == "pick_two_obj_and_place" else (1, 1, 2, 3))
        elif name == target:
            count = 1
        else:
            count = chance.pick((0, 1, 1, 2) if entry.portable else (0, 0, 1))
        for i in range(count if homes else 0, 0, -1):
            objects.append(f"{name} {i}")
            places.append(chance.pick(homes))
    return objects, places
