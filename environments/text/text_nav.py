"""agentgym/text_nav-v0: carry the stale food through a house into the fridge (LMRL-Gym)."""

from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from agentgym.actions import ActionCall
from agentgym.environments.text.commands import resolve
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError

EXITS: Mapping[str, Mapping[str, str]] = {
    "bedroom": {"south": "bathroom", "west": "living room"},
    "office": {"east": "bathroom", "north": "living room"},
    "bathroom": {"north": "bedroom", "west": "office"},
    "living room": {"east": "bedroom", "south": "office", "west": "dining room"},
    "kitchen": {"east": "dining room", "north": "garden", "west": "backyard"},
    "dining room": {"east": "living room", "west": "kitchen"},
    "garden": {"south": "kitchen"},
    "backyard": {"east": "kitchen"},
}
FURNITURE: Mapping[str, str] = {
    "bedroom": "table",
    "living room": "table",
    "dining room": "table",
    "office": "chest",
    "kitchen": "fridge",
}
"""What stands in the rooms; a chest and a fridge can be opened."""
FOOD = "stale food"
"""What the game is about."""
EDIBLE = (FOOD, "fresh food", "fruit")
THINGS: Mapping[str, str] = {
    FOOD: "living room",
    "fresh food": "living room",
    "bowl": "bedroom",
    "coffee cup": "dining room",
    "plate": "dining room",
    "utensils": "office",
    "fruit": "kitchen",
}
"""In or on the furniture of which room each thing is at first."""
OBJECTIVE = (
    "Your objective is to put the stale food on the table in the living room into the fridge in "
    "the kitchen."
)
_HELD = "hand"
_UNLISTED = ("examine", "look", "inventory")
# The published game's own descriptions: what is said, with something there, with nothing there.
_PUBLISHED = {
    "bedroom": (
        "Oh wow! Is that what I think it is? It is! It's a table.",
        "You see {} on the table.",
        "But oh no! there's nothing on this piece of junk.",
        "There are unguarded exits to the south and west.",
    ),
    "living room": (
        "You see a table.",
        "On the table you can make out {}.",
        "Unfortunately, there isn't a thing on it. Sometimes, just sometimes, TextWorld can just "
        "be the worst.",
        "There are unguarded exits to the east, south and west.",
    ),
    "dining room": (
        "You can make out a table. The table is normal.",
        "On the table you can see {}. There's something strange about this being here, but you "
        "can't put your finger on it.",
        "But oh no! there's nothing on this piece of trash. It would have been so cool if there "
        "was stuff on the table.",
        "There are unguarded exits to the east and west.",
    ),
    "office": (
        "You make out a chest.",
        "The chest contains {}.",
        "The chest is empty, what a horrible day!",
        "There are unguarded exits to the east and north.",
    ),
    "kitchen": (
        "You see {} fridge.",
        "The fridge contains {}.",
        "The fridge is empty, what a horrible day!",
        "There are unblocked exits to the east, north and west.",
    ),
    "bathroom": ("", "", "", "There are unblocked exits to the north and west."),
    "garden": ("", "", "", "There is an unguarded exit to the south."),
    "backyard": ("", "", "", "You need an unblocked exit? You should try going east."),
}
_EXAMINED = {
    "chest": ("The chest looks strong, and impossible to break.", "It is open.", "It is closed."),
    "fridge": (
        "The fridge looks strong, and impossible to crack.",
        "You can see inside it.",
        "You can't see inside it because the lid's in your way.",
    ),
}
_THINGS = {
    FOOD: "The stale food is expensive looking.",
    "fresh food": "The fresh food seems well matched to everything else here",
    "bowl": "The bowl appears to be well matched to everything else here",
    "coffee cup": "The coffee cup is well-used.",
    "plate": "The plate is modern.",
    "utensils": "The utensils seems well matched to everything else here",
    "fruit": "The fruit is modern.",
}
_TABLES = {
    "bedroom": "The table is unstable.",
    "living room": "The table is solidly built.",
    "dining room": "The table is shaky.",
}


def command(text: str) -> None:
    """One command, e.g. go west, take bowl from table, open fridge, insert fruit into fridge."""


def listed(names: Sequence[str]) -> str:
    """Things as the interpreter lists them.

    Example:
        >>> listed(["stale food", "utensils", "fruit"])
        'a stale food, an utensils and a fruit'
    """
    words = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    return words[-1] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@cache
def way(start: str, end: str) -> str:
    """The first direction of a shortest way between two rooms."""
    first = {start: ""}
    queue = deque([start])
    while end not in first:
        room = queue.popleft()
        for direction, there in EXITS[room].items():
            if there not in first:
                first[there] = first[room] or direction
                queue.append(there)
    return first[end]


class TextNavEnv(TextGame):
    r"""A house of eight rooms: put the stale food into the fridge and close it.

    ## Description
    Text-Nav of LMRL-Gym (Abdulhai et al. 2023, arXiv:2311.18232), which is one game of TextWorld
    (Côté et al. 2018, arXiv:1806.11532), on an engine of our own with the same rooms, things,
    commands and answers. With ``observe="partial"`` the agent is not told which room it is in.

    ## Action Space
    One action, ``command(text)``: ``go north``, ``take X``, ``take X from Y``, ``drop X``,
    ``put X on table``, ``insert X into fridge``, ``open Y``, ``close Y``, ``eat X``; also
    ``examine X``, ``look`` and ``inventory``, which are possible, but not listed. A text counts as
    the command that only can be meant (see `commands.resolve`). Anything else (empty and over-long
    too) changes nothing, is told as ``error``, and the turn counts.

    ## Observation Space
    ``text``: the answer to the command or the room, then the inventory if ``observe="full"``, then
    ``Admissible commands: ...``.

    ## Rewards
    1 when the stale food is in the closed fridge, otherwise 0.

    ## Starting State
    Any of the rooms, each as likely. ``reset(options=...)`` takes ``room``.

    ## Episode End
    Terminated when the food is in the closed fridge, which is the success, or eaten.
    `text_nav-v0` is truncated after 15 turns, the length of the published episodes.

    ## Arguments
    * `observe`: "full" or "partial";
    * `mode`: "fixed" or "original". In "original" rooms are described in the published game's own
      words, chatty as TextWorld's grammar made them, and what is not possible is answered in the
      text as the interpreter does; the words for the room itself, which only the full observation
      has, are not published: TextWorld's plainest are used, and empty lines are not kept. In
      "fixed" descriptions are plain. The published environment itself cannot be run (`true` for
      `True`), drew the start from Python's global `random`, and in full observation spent a turn
      of the game on each look at the inventory; none of this is repeated.

    ``info`` holds `room`, and `inventory`.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [command]

    def __init__(self, observe: str = "full", **common: Any) -> None:
        if observe not in ("full", "partial"):
            raise ConfigError(f"observe must be 'full' or 'partial', got {observe!r}")
        super().__init__(**common)
        self.observe = observe

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw the room to start in."""
        if unknown := set(options) - {"room"}:
            raise ConfigError(f"the only option is 'room', got {sorted(unknown)!r}")
        rooms = list(EXITS)
        room = options.get("room", rooms[0])
        if not options:
            room = rooms[int(self.np_random.integers(len(rooms)))]
        elif room not in rooms:
            raise ConfigError(f"room must be one of {rooms}, got {room!r}")
        inside = {place: [t for t, at in THINGS.items() if at == place] for place in FURNITURE}
        self._take(room, {**inside, _HELD: [], **{f"floor of {r}": [] for r in rooms}}, [], 0)
        return self._show(self._room())

    def _take(self, room: str, inside: dict[str, list[str]], opened: list[str], turns: int) -> None:
        """Set the state."""
        self.room, self.inside, self.opened, self.turns = room, inside, opened, turns
        self._changed()

    def _changed(self) -> None:
        self._commands = self._possible()
        self._listed = tuple(c for c in self._commands if not c.startswith(_UNLISTED))

    def goal(self) -> str:
        """The published objective."""
        return OBJECTIVE

    def play(self, call: ActionCall) -> Outcome:
        """Carry out a command, if it is possible now."""
        text = call.arguments["text"]
        chosen = text if text in self._commands else resolve(text, list(self._commands))
        if not chosen:
            return self._refuse(text)
        self.turns += 1
        said = self._do(*self._commands[chosen])
        won = FOOD in self.inside["kitchen"] and "fridge" not in self.opened
        if won or not any(FOOD in things for things in self.inside.values()):
            return Outcome(self._ending(said, won), float(won), terminated=True, success=won)
        return Outcome(self._show(said))

    def unreadable(self, error: str) -> Outcome:
        """Text that is no call does nothing."""
        return Outcome(self._text, error=error)

    def _refuse(self, text: str) -> Outcome:
        first, _, rest = " ".join(text.lower().split()).partition(" ")
        if first == "go" or first in ("north", "south", "east", "west"):
            reason = "You can't go that way."
            self.turns += 1  # the interpreter counts what it understood
        elif first == "eat" and f"examine {rest}" in self._commands and rest in EDIBLE:
            reason = f"You need to take the {rest} first."
            self.turns += 1
        elif first in ("take", "drop", "put", "insert", "open", "close", "eat", "examine"):
            reason = "You can't see any such thing."
        else:
            reason = "That's not a verb I recognise."
        shown = self._show(reason) if self.mode == "original" else self._text
        return Outcome(shown, error=f"{reason} ({text[:60]!r})")

    def _ending(self, said: str, won: bool) -> str:
        """The last text of a game."""
        if self.mode == "fixed":
            return f"{said} {'You have won.' if won else 'The game is lost.'}"
        turns = self.turns + won  # the interpreter counts a victory itself
        score = "Your score has just gone up by one point.\n\n" if won else ""
        title = "The End" if won else "You lost!"
        return (
            f"{said}\n\n{score}*** {title} ***\n\n"
            f"You scored {int(won)} out of a possible 1, in {turns} turns."
        )

    # What is possible and what it does.

    def _possible(self) -> dict[str, tuple[str, str, str]]:
        """Every command that is possible now, sorted as TextWorld does: verb, thing, place."""
        room, found = self.room, dict[str, tuple[str, str, str]]()
        floor, furniture = f"floor of {room}", FURNITURE.get(room, "")
        for direction, there in EXITS[room].items():
            found[f"go {direction}"] = ("go", there, "")
        if furniture:
            found[f"examine {furniture}"] = ("examine", furniture, "")
        if furniture in ("chest", "fridge"):
            verb = "close" if furniture in self.opened else "open"
            found[f"{verb} {furniture}"] = (verb, furniture, "")
        within = self._within()
        for thing in self.inside[floor]:
            found[f"take {thing}"] = ("take", thing, floor)
            found[f"examine {thing}"] = ("examine", thing, "")
        for thing in within or ():
            found[f"take {thing} from {furniture}"] = ("take", thing, room)
            found[f"examine {thing}"] = ("examine", thing, "")
        for thing in self.inside[_HELD]:
            found[f"drop {thing}"] = ("drop", thing, floor)
            found[f"examine {thing}"] = ("examine", thing, "")
            if thing in EDIBLE:
                found[f"eat {thing}"] = ("eat", thing, "")
            if furniture == "table":
                found[f"put {thing} on table"] = ("put", thing, room)
            elif within is not None:
                found[f"insert {thing} into {furniture}"] = ("insert", thing, room)
        found["inventory"] = ("inventory", "", "")
        found["look"] = ("look", "", "")
        return dict(sorted(found.items()))

    def _within(self) -> list[str] | None:
        """What is in or on the furniture here; None if there is none or it is closed."""
        furniture = FURNITURE.get(self.room)
        if furniture is None or (furniture != "table" and furniture not in self.opened):
            return None
        return self.inside[self.room]

    def _do(self, verb: str, what: str, place: str) -> str:
        """Carry out a possible command; returns what is said."""
        if verb == "look":
            return self._room()
        if verb == "inventory":
            return self._inventory()
        if verb == "examine":
            return self._examine(what)
        said = self._change(verb, what, place)
        self._changed()
        return self._room() if verb == "go" else said

    def _change(self, verb: str, what: str, place: str) -> str:
        held, furniture = self.inside[_HELD], FURNITURE.get(self.room)
        if verb == "go":
            self.room = what
            return ""
        if verb == "close":
            self.opened = [name for name in self.opened if name != what]
            return f"You close the {what}."
        if verb == "open":
            self.opened = [*self.opened, what]
            there = self.inside[self.room]
            return f"You open the {what}{f', revealing {listed(there)}' if there else ''}."
        if verb == "take":
            self.inside[place].remove(what)
            held.insert(0, what)  # the interpreter lists what came last first
            if place == self.room:
                return f"You take the {what} from the {furniture}."
            return f"You pick up the {what} from the ground."
        held.remove(what)
        if verb == "eat":
            return f"You eat the {what}. Not bad."
        self.inside[place].insert(0, what)
        if verb == "drop":
            return f"You drop the {what} on the ground."
        return f"You put the {what} {'on' if verb == 'put' else 'into'} the {furniture}."

    def _examine(self, what: str) -> str:
        if what == "table":
            said = [_TABLES[self.room]]
        elif what in _EXAMINED:
            look, is_open, is_closed = _EXAMINED[what]
            said = [look, is_open if what in self.opened else is_closed]
        else:
            return _THINGS[what]
        if there := self._within():
            where = "On the table" if what == "table" else f"In the {what}"
            said.append(f"{where} {'is' if len(there) == 1 else 'are'} {listed(there)}.")
        return " ".join(said)

    # What is said.

    def _room(self) -> str:
        """The room and what can be seen in it."""
        there, floor = self._within(), self.inside[f"floor of {self.room}"]
        if self.mode == "fixed":
            return self._plain(there, floor)
        head, full, empty, exits = _PUBLISHED[self.room]
        said = [f"You find yourself in {listed([self.room])}."] if self.observe == "full" else []
        if head:
            said.append(head.format("an opened" if "fridge" in self.opened else "a closed"))
        if there is not None:
            said.append(full.format(listed(there)) if there else empty)
        parts = [" ".join(said), exits]
        if floor:
            parts.append(f"There is {listed(floor)} on the floor.")
        return "\n\n".join(part for part in parts if part)

    def _plain(self, there: list[str] | None, floor: list[str]) -> str:
        said = [f"You are in the {self.room}."] if self.observe == "full" else []
        furniture = FURNITURE.get(self.room)
        if furniture == "table":
            said.append(f"There is {listed(there) if there else 'nothing'} on a table.")
        elif furniture and there is not None:
            said.append(
                f"There is an open {furniture} with {listed(there) if there else 'nothing'} in it."
            )
        elif furniture:
            said.append(f"There is a closed {furniture}.")
        if floor:
            said.append(f"There is {listed(floor)} on the floor.")
        return f"{' '.join(said)} Exits: {', '.join(EXITS[self.room])}.".strip()

    def _inventory(self) -> str:
        held = self.inside[_HELD]
        return f"You are carrying: {listed(held)}." if held else "You are carrying nothing."

    def _show(self, said: str) -> str:
        parts = [said]
        if self.observe == "full":
            parts.append(self._inventory())
        if self.mode == "original":
            parts.append("")
        end = "\n" if self.mode == "original" else ""
        return "\n".join([*parts, f"Admissible commands: {', '.join(self._listed)}{end}"])

    # What every game has.

    def save(self) -> Any:
        """Room, things, what is open, turns."""
        return {
            "room": self.room,
            "inside": self.inside,
            "opened": self.opened,
            "turns": self.turns,
        }

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        inside = {str(k): [str(thing) for thing in v] for k, v in state["inside"].items()}
        there = [thing for things in inside.values() for thing in things]
        room, opened = str(state["room"]), [str(name) for name in state["opened"]]
        places = {*FURNITURE, _HELD, *(f"floor of {name}" for name in EXITS)}
        known = room in EXITS and set(opened) <= {"chest", "fridge"} and set(inside) == places
        if not known or set(there) - set(THINGS) or len(set(there)) != len(there):
            raise ConfigError("the snapshot's house is not this one")
        self._take(room, inside, opened, int(state["turns"]))

    def admissible(self) -> tuple[str, ...]:
        """What the observation lists."""
        return self._listed

    def key(self) -> str:
        """The room, where everything is, what is open."""
        things = ";".join(
            f"{place}:{','.join(sorted(inside))}" for place, inside in self.inside.items() if inside
        )
        return f"{self.room}|{','.join(sorted(self.opened))}|{things}"

    def facts(self) -> dict[str, Any]:
        """Where the agent is and what it carries, also if it is not told."""
        return {"room": self.room, "inventory": list(self.inside[_HELD])}

    def expert(self) -> str:
        """The next command on a shortest way, from any state."""
        place = next(place for place, things in self.inside.items() if FOOD in things)
        on_floor = place.startswith("floor of ")
        room = "kitchen" if place == _HELD else place.removeprefix("floor of ")
        if room != self.room:
            return f"go {way(self.room, room)}"
        furniture = FURNITURE.get(room, "")
        if on_floor:
            return f"take {FOOD}"
        if furniture != "table" and furniture not in self.opened:
            return f"open {furniture}"
        if place == _HELD:
            return f"insert {FOOD} into fridge"
        return "close fridge" if room == "kitchen" else f"take {FOOD} from {furniture}"
