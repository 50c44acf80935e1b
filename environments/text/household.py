"""agentgym/household-v0: everyday tasks in a room, by ALFWorld's commands and words."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.environments.text.household_rooms import (
    APPLIANCES,
    NEEDS,
    SPLITS,
    TASKS,
    Game,
    house,
    kind,
    make_game,
)
from agentgym.errors import ConfigError

NOTHING = "Nothing happens."
HELP = """
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
CLEAN, HOT, COOL, SLICED, ON = (1 << bit for bit in range(5))
_DONE_BY = {"clean": CLEAN, "heat": HOT, "cool": COOL}
_KNIVES = ("knife", "butterknife")
_HAND = 255  # the place of the object that is carried
_AWAY = -1  # the agent's place before it has gone anywhere

Command = tuple[str, int, int]
"""Verb, object or receptacle, and the receptacle or tool (-1 if there is none)."""


def command(text: str) -> None:
    """Give one command, e.g. go to desk 1, open drawer 2, take mug 1 from desk 1, examine mug 1."""


def listed(names: Sequence[str]) -> str:
    """Names as ALFWorld lists them.

    Example:
        >>> listed([]), listed(["apple 1"]), listed(["mug 1", "pen 2"])
        ('nothing', 'a apple 1', 'a mug 1, and a pen 2')
    """
    if len(names) < 2:
        return f"a {names[0]}" if names else "nothing"
    return ", ".join(f"a {name}" for name in names[:-1]) + f", and a {names[-1]}"


class HouseholdEnv(TextGame):
    r"""A household: find things, clean, heat, cool or light them, and put them where they belong.

    ## Description
    The game of ALFWorld (Shridhar et al. 2021, arXiv:2010.03768), which is ALFRED's in words, on an
    engine of our own with the same commands and answers, so that policies carry over. Its scenes
    are not ALFRED's: rooms (kitchen, living room, bedroom, bathroom) are generated, 30 layouts of
    each, and a game is a number in a split.

    ## Action Space
    One action, ``command(text)``: ``go to R``, ``open R``, ``close R``, ``take O from R``,
    ``move O to R``, ``clean O with R``, ``heat O with R``, ``cool O with R``, ``use O``,
    ``slice O with K``, ``examine X``, ``inventory``, ``look``, ``help``; also the older
    ``put O in/on R``. One object can be carried. What is possible now is in
    ``info["admissible_actions"]``; mode "fixed" does not mind case and spacing. Anything else
    (impossible, unknown, empty or over-long) is answered by ``Nothing happens.``, in ``error`` with
    the reason, changes nothing, and the turn counts.

    ## Observation Space
    ``text``: what one sees after the command, e.g. ``You arrive at desk 1. On the desk 1, you see
    a mug 1, and a pen 2.``; at first the list of receptacles and the task.

    ## Rewards
    1 when the task is done, otherwise 0.

    ## Starting State
    A game of the split, in the middle of the room, nothing in hand, everything closed.
    ``reset(options=...)`` takes ``game``, its number.

    ## Episode End
    Terminated when the task is done, which is the success. `household-v0` is truncated after 50
    turns.

    ## Arguments
    * `split`: "train" (3553 games), "valid_seen" (140) or "valid_unseen" (134, in layouts and with
      pairs of object and receptacle kinds that training has not);
    * `tasks`: some of `household_rooms.TASKS`, by default all six;
    * `wording`: "move", or "put" for the commands and answers of ALFWorld before version 0.4
      (``put mug 1 in/on desk 1``);
    * `mode`: "fixed" or "original", the published rules, which differ so: a lamp once used counts
      as lit for ever and is never told to be turned off (fixed: ``use`` switches it on and off, and
      it must be on); things in a closed receptacle can be sliced; commands are compared letter by
      letter.

    ``info`` holds `task_type`, `room`, `game` and `split`.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [command]

    def __init__(
        self,
        *,
        split: str = "train",
        tasks: Sequence[str] = TASKS,
        wording: str = "move",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value, known in (
            ("split", split, tuple(SPLITS)),
            ("wording", wording, ("move", "put")),
        ):
            if value not in known:
                raise ConfigError(f"{name} must be one of {known}, got {value!r}")
        if isinstance(tasks, str) or not tasks or set(tasks) - set(TASKS):
            raise ConfigError(f"tasks must be some of {TASKS}, got {tasks!r}")
        self.split, self.wording = split, wording
        self.tasks = tuple(task for task in TASKS if task in tasks)

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw a game, or take that of the options."""
        if unknown := set(options) - {"game"}:
            raise ConfigError(f"the only option is 'game', got {sorted(unknown)!r}")
        number = options.get("game")
        if number is None:
            first = TASKS.index(self.tasks[int(self.np_random.integers(len(self.tasks)))])
            numbers = range(first, SPLITS[self.split], len(TASKS))
            number = numbers[int(self.np_random.integers(len(numbers)))]
        elif type(number) is not int:
            raise ConfigError(f"game must be a number, got {number!r}")
        self._furnish(make_game(self.split, number))
        task = f"Your task is to: {self.game.wording}."
        return f"-= Welcome to TextWorld, ALFRED! =-\n\n{self._look()}\n\n{task}"

    def _furnish(self, game: Game) -> None:
        """The start of a game, and what is the same throughout it."""
        self.game = game
        self.at, self.hand = _AWAY, -1
        self.open = [False] * len(game.receptacles)
        self.places = list(game.places)
        self.flags = [0] * len(game.objects)
        self._kinds = [kind(name) for name in game.objects]
        self._sorts = [kind(name) for name in game.receptacles]
        self._openable = [sort in house().openable for sort in self._sorts]
        self._can = [house().kinds[name].can for name in self._kinds]
        self._going: dict[int, dict[str, Command]] = {}
        self._legal: dict[str, Command] | None = None
        self._texts_now: tuple[str, ...] = ()

    def goal(self) -> str:
        """The task in words."""
        return f"Your task is to: {self.game.wording}."

    def play(self, call: ActionCall) -> Outcome:
        """Carry out a command, if it is possible now."""
        text = call.arguments["text"]
        legal = self._possible()
        chosen = legal.get(text)
        if chosen is None and self.mode == "fixed":
            chosen = legal.get(" ".join(text.lower().split()))
        if chosen is None and text[:4].lower() == "put " and self.wording == "move":
            what, _, where = text[4:].partition(" in/on ")
            chosen = legal.get(f"move {what} to {where}")
        if chosen is None:
            return Outcome(NOTHING, error=f"{NOTHING} Not possible here and now: {text[:60]!r}")
        said = self._do(*chosen)
        done = self._done()
        return Outcome(said, float(done), terminated=done, success=done)

    def unreadable(self, error: str) -> Outcome:
        """Text that is no call does nothing."""
        return Outcome(NOTHING, error=error)

    # What is possible and what it does.

    def _possible(self) -> dict[str, Command]:
        """Every command that is possible now, worked out once a turn."""
        if self._legal is None:
            legal = self._going.get(self.at)
            if legal is None:
                legal = {
                    f"go to {name}": ("go", i, -1)
                    for i, name in enumerate(self.game.receptacles)
                    if i != self.at
                }
                self._going[self.at] = legal
            legal = legal.copy()
            if self.at != _AWAY:
                self._add_here(legal)
            if self.hand >= 0:
                legal[f"examine {self.game.objects[self.hand]}"] = ("examine", self.hand, -1)
            legal["inventory"] = ("inventory", -1, -1)
            legal["look"] = ("look", -1, -1)
            legal["help"] = ("help", -1, -1)
            self._legal, self._texts_now = legal, tuple(legal)
        return self._legal

    def _add_here(self, legal: dict[str, Command]) -> None:
        """What can be done at a receptacle."""
        at, hand, names = self.at, self.hand, self.game.objects
        here, sort = self.game.receptacles[at], self._sorts[at]
        if self._openable[at]:
            verb = "close" if self.open[at] else "open"
            legal[f"{verb} {here}"] = (verb, at, -1)
        seen = self._seen()
        if hand < 0:
            for i in seen:
                if "use" not in self._can[i]:
                    legal[f"take {names[i]} from {here}"] = ("take", i, at)
        else:
            held, can = names[hand], self._can[hand]
            if self._reachable() and sort in house().kinds[self._kinds[hand]].goes:
                move = f"move {held} to {here}" if self.wording == "move" else ""
                legal[move or f"put {held} in/on {here}"] = ("move", hand, at)
            for verb, appliance in APPLIANCES.items():
                if sort == appliance and verb in can:
                    legal[f"{verb} {held} with {here}"] = (verb, hand, at)
            if self._kinds[hand] in _KNIVES:
                within = self._inside(at) if self.mode == "original" else seen
                for i in within:
                    if "slice" in self._can[i] and not self.flags[i] & SLICED:
                        legal[f"slice {names[i]} with {held}"] = ("slice", i, hand)
        for i in seen:
            if "use" in self._can[i]:
                legal[f"use {names[i]}"] = ("use", i, -1)
        legal[f"examine {here}"] = ("see", at, -1)
        for i in seen:
            legal[f"examine {names[i]}"] = ("examine", i, -1)

    def _reachable(self) -> bool:
        """True if the receptacle here is open, or cannot be closed."""
        return self.open[self.at] or not self._openable[self.at]

    def _inside(self, receptacle: int) -> list[int]:
        return [i for i, place in enumerate(self.places) if place == receptacle]

    def _seen(self) -> list[int]:
        return self._inside(self.at) if self._reachable() else []

    def _do(self, verb: str, what: int, other: int) -> str:
        """Carry out a possible command; returns what is seen then."""
        if verb in ("see", "examine", "inventory", "look", "help"):
            return self._tell(verb, what)
        self._legal = None
        if verb in ("go", "open", "close"):
            name = self.game.receptacles[what]
            if verb == "go":
                self.at = what
                return f"You arrive at {name}. {self._tell('see', what)}"
            self.open[what] = verb == "open"
            return f"You {verb} the {name}." + (
                f" {self._tell('see', what)}" if verb == "open" else ""
            )
        name = self.game.objects[what]
        if verb == "use":
            on = self.mode == "original" or not self.flags[what] & ON
            self.flags[what] = self.flags[what] | ON if on else self.flags[what] & ~ON
            return f"You turn {'on' if on else 'off'} the {name}."
        if verb == "slice":
            self.flags[what] |= SLICED
            return f"You sliced the {name} with the {self.game.objects[other]}."
        where = self.game.receptacles[other]
        if verb == "take":
            self.places[what], self.hand = _HAND, what
            return f"You pick up the {name} from the {where}."
        if verb == "move":
            self.places[what], self.hand = other, -1
            if self.wording == "put":
                return f"You put the {name} in/on the {where}."
            return f"You move the {name} to the {where}."
        if verb == "heat":
            self.flags[what] &= ~COOL
        elif verb == "cool":
            self.flags[what] &= ~HOT
        self.flags[what] |= _DONE_BY[verb]
        return f"You {verb} the {name} using the {where}."

    def _tell(self, verb: str, what: int) -> str:
        """What is seen without changing anything."""
        if verb == "see":
            name = self.game.receptacles[what]
            if self._openable[what] and not self.open[what]:
                return f"The {name} is closed."
            things = listed([self.game.objects[i] for i in self._inside(what)])
            if self._openable[what]:
                return f"The {name} is open. In it, you see {things}."
            return f"On the {name}, you see {things}."
        if verb == "inventory":
            if self.hand < 0:
                return "You are not carrying anything."
            return f"You are carrying: a {self.game.objects[self.hand]}."
        if verb == "look":
            return self._look()
        return HELP if verb == "help" else self._describe(what)

    def _look(self) -> str:
        if self.at != _AWAY:
            return (
                f"You are facing the {self.game.receptacles[self.at]}. Next to it, you see nothing."
            )
        return (
            "You are in the middle of a room. Looking quickly around you, "
            f"you see {listed(self.game.receptacles)}."
        )

    def _describe(self, what: int) -> str:
        name, flags = self.game.objects[what], self.flags[what]
        clean, hot, cool, sliced = (flags & flag for flag in (CLEAN, HOT, COOL, SLICED))
        if clean and (hot or cool):
            words = "hot and clean" if hot else "cool and clean"
        elif sliced and cool:
            words = "cool"
        else:
            words = "hot" if hot else "clean" if clean else "cold" if cool else ""
        if sliced:
            return f"This is a {f'{words} ' if words else ''}sliced {name}."
        if words:
            return f"This is a {words} {name}."
        if "use" in self._can[what]:
            return f"This {name} is {'on' if flags & ON else 'off'}."
        return f"There's nothing special about {name}."

    # The task.

    def _done(self) -> bool:
        """True if the task is done."""
        game = self.game
        if game.task == "look_at_obj_in_light":
            if self.hand < 0 or self._kinds[self.hand] != game.thing:
                return False
            return any(self.flags[i] & ON and self.places[i] == self.at for i in self._lamps())
        wanted = 2 if game.task == "pick_two_obj_and_place" else 1
        return max(self._delivered().values(), default=0) >= wanted

    def _lamps(self) -> list[int]:
        """The lamps of the task's kind."""
        return [i for i, name in enumerate(self._kinds) if name == self.game.target]

    def _things(self) -> list[int]:
        """The objects of the task's kind."""
        return [i for i, name in enumerate(self._kinds) if name == self.game.thing]

    def _ready(self, thing: int) -> bool:
        """True if what the task wants done with the object is done."""
        need = NEEDS.get(self.game.task)
        return need is None or bool(self.flags[thing] & _DONE_BY[need])

    def _delivered(self) -> dict[int, int]:
        """For each receptacle of the target's kind that has any, how many things it has."""
        found: dict[int, int] = {}
        for thing in self._things():
            place = self.places[thing]
            if place != _HAND and self._sorts[place] == self.game.target and self._ready(thing):
                found[place] = found.get(place, 0) + 1
        return found

    # What every game has.

    def save(self) -> Any:
        """The game's number and what has changed in it."""
        return {
            "split": self.game.split,
            "number": self.game.number,
            "at": self.at,
            "hand": self.hand,
            "open": self.open,
            "places": self.places,
            "flags": self.flags,
        }

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        game = make_game(str(state["split"]), int(state["number"]))
        changed = [[int(n) for n in state[name]] for name in ("open", "places", "flags")]
        receptacles, objects = len(game.receptacles), len(game.objects)
        if [len(part) for part in changed] != [receptacles, objects, objects]:
            raise ConfigError("the snapshot's rooms are not those of this version")
        at, hand = int(state["at"]), int(state["hand"])
        carried = [i for i, place in enumerate(changed[1]) if place == _HAND]
        placed = all(0 <= place < receptacles or place == _HAND for place in changed[1])
        if not placed or not -1 <= at < receptacles or carried != [hand] * (hand >= 0):
            raise ConfigError("the snapshot's places are not in its room")
        self._furnish(game)
        self.at, self.hand = at, hand
        self.open, self.places, self.flags = [bool(n) for n in changed[0]], changed[1], changed[2]

    def admissible(self) -> tuple[str, ...]:
        """Every command that is possible now."""
        self._possible()
        return self._texts_now

    def write(self, text: str) -> str:
        """Commands are one line as they are; there are too many of them to remember."""
        return text if self.action_syntax == "text" else super().write(text)

    def key(self) -> str:
        """The game, where the agent and all things are, what is open and done."""
        state = bytes([self.at + 1, self.hand + 1, *self.open, *self.places, *self.flags])
        return f"{self.game.split}/{self.game.number}:{state.hex()}"

    def facts(self) -> dict[str, Any]:
        """Which game it is."""
        return {
            "task_type": self.game.task,
            "room": self.game.room,
            "game": self.game.number,
            "split": self.game.split,
        }

    def expert(self) -> str:
        """The next command on a short way, from any state; the expert knows where things are."""
        things, held = self._things(), self.hand
        if self.game.task == "look_at_obj_in_light":
            if held not in things:
                return self._fetch(things)
            lamp = self._lamps()[0]
            return self._go(self.places[lamp]) or f"use {self.game.objects[lamp]}"
        delivered = self._delivered()
        targets = [i for i, sort in enumerate(self._sorts) if sort == self.game.target]
        target = max(targets, key=lambda i: (delivered.get(i, 0), i == self.at, -i))
        if held not in things:
            return self._fetch(
                [i for i in things if self.places[i] != target or not self._ready(i)]
            )
        if not self._ready(held):
            verb = NEEDS[self.game.task]
            appliance = self._sorts.index(APPLIANCES[verb])
            tool = self.game.receptacles[appliance]
            return self._go(appliance) or f"{verb} {self.game.objects[held]} with {tool}"
        return self._put(target)

    def _go(self, receptacle: int) -> str:
        """The way there, or "" if the agent is there."""
        return "" if self.at == receptacle else f"go to {self.game.receptacles[receptacle]}"

    def _reach(self, receptacle: int) -> str:
        """The way into a receptacle, or "" if it is open before the agent."""
        if way := self._go(receptacle):
            return way
        return "" if self._reachable() else f"open {self.game.receptacles[receptacle]}"

    def _fetch(self, things: list[int]) -> str:
        """Take the nearest of the things; lay down what is in hand before."""
        if self.hand >= 0:
            goes = house().kinds[self._kinds[self.hand]].goes
            fitting = [i for i, sort in enumerate(self._sorts) if sort in goes]
            return self._put(min(fitting, key=lambda i: (i != self.at, self._openable[i], i)))
        thing = min(things, key=lambda i: (self.places[i] != self.at, not self._ready(i), i))
        place = self.places[thing]
        what, where = self.game.objects[thing], self.game.receptacles[place]
        return self._reach(place) or f"take {what} from {where}"

    def _put(self, receptacle: int) -> str:
        """Lay down what is in hand."""
        what, where = self.game.objects[self.hand], self.game.receptacles[receptacle]
        put = f"move {what} to {where}" if self.wording == "move" else f"put {what} in/on {where}"
        return self._reach(receptacle) or put
