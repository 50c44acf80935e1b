"""agentgym/maze-v0: find the goal of a small maze by written moves (LMRL-Gym, NLRL)."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError

Cell = tuple[int, int]
"""(row, column), counted from the upper left corner."""

LAYOUTS: Mapping[str, tuple[tuple[str, ...], Cell]] = {
    "double_t": (
        (
            "1111111111111",
            "1000001000001",
            "1110111110111",
            "1110111110111",
            "1110111110111",
            "1110000000111",
            "1111110111111",
            "1111110111111",
            "1111110111111",
            "1111111111111",
        ),
        (8, 6),
    ),
    "umaze": (("11111", "10001", "10101", "10101", "11111"), (3, 3)),
    "medium": (
        (
            "11111111",
            "10010001",
            "10010101",
            "11000011",
            "11101001",
            "10000101",
            "10010001",
            "11111111",
        ),
        (6, 6),
    ),
    "large": (
        (
            "111111111",
            "100000101",
            "101010101",
            "100010001",
            "101110111",
            "100000001",
            "111011101",
            "100010001",
            "101011111",
            "101010001",
            "100000101",
            "111111111",
        ),
        (9, 7),
    ),
}
"""Walls (1) and goal of each layout. The goals of "medium" and "large" are those of D4RL; LMRL-Gym
draws the two mazes but sets a goal only for the first two layouts."""
MOVES: Mapping[str, Cell] = {
    "move left": (0, -1),
    "move right": (0, 1),
    "move up": (-1, 0),
    "move down": (1, 0),
}
REWARDS: Mapping[str, tuple[float, float, float]] = {
    "standard": (0.0, -4.0, -1.0),
    "illegal_penalty": (1.0, -1.0, 0.0),
    "diff_scale": (1.0, -100.0, -1.0),
}
"""For the step that reaches the goal, for text that is no move, for any other step."""
MAX_STEPS = 100
_BESIDE = (
    ("to your right", 0, 1),
    ("to your left", 0, -1),
    ("above you", -1, 0),
    ("below you", 1, 0),
)
_MAX_SIDE = 99


def move(text: str) -> None:
    """Walk one cell: move left, move right, move up or move down."""


@dataclass(frozen=True)
class Maze:
    """A maze with its goal, and what follows from them, computed once."""

    walls: tuple[str, ...]
    goal: Cell
    steps: Mapping[Cell, int]
    """From each cell that can reach it, the length of a shortest way to the goal."""
    best: Mapping[Cell, str]
    """For each of these cells but the goal, the first move of a shortest way."""
    beside: Mapping[Cell, str]
    """The sentence about the walls beside each free cell."""

    def after(self, cell: Cell, text: str) -> Cell:
        """Where a move leads: the same cell if a wall is in the way."""
        down, right = MOVES[text]
        there = cell[0] + down, cell[1] + right
        return there if there in self.beside else cell


@cache
def make_maze(walls: tuple[str, ...], goal: Cell) -> Maze:
    """The maze of these walls.

    Raises:
        ConfigError: the goal is no free cell.
    """
    free = [
        (row, column)
        for row, line in enumerate(walls)
        for column, wall in enumerate(line)
        if wall == "0"
    ]
    if goal not in free:
        raise ConfigError(f"the goal must be a free cell of the maze, got {list(goal)!r}")
    steps, best, queue = {goal: 0}, {}, deque([goal])
    while queue:
        row, column = queue.popleft()
        for text, (down, right) in MOVES.items():
            before = row - down, column - right
            if before not in steps and walls[before[0]][before[1]] == "0":
                steps[before] = steps[row, column] + 1
                best[before] = text
                queue.append(before)
    return Maze(walls, goal, steps, best, {cell: _beside(walls, *cell) for cell in free})


def _beside(walls: tuple[str, ...], row: int, column: int) -> str:
    where = [name for name, down, right in _BESIDE if walls[row + down][column + right] == "1"]
    if not where:
        return "There are no walls near you."
    if len(where) == 1:
        return f"There is a wall {where[0]}."
    return f"There are walls {', '.join(where)}."


def carve(rng: np.random.Generator, width: int, height: int, loops: float) -> tuple[str, ...]:
    """A random maze in which every free cell can be reached from every other.

    Corridors are dug by a depth-first walk, which leaves exactly one way between any two cells;
    then a share of the walls between corridors is taken out, which makes detours.

    Args:
        rng: the source of chance.
        width: in cells, walls included; odd.
        height: likewise.
        loops: probability of each inner wall to be taken out, in [0, 1].
    """
    grid = [["1"] * width for _ in range(height)]
    way = [(1, 1)]
    grid[1][1] = "0"
    while way:
        row, column = way[-1]
        ahead = [
            (down, right)
            for down, right in MOVES.values()
            if 0 < row + 2 * down < height
            and 0 < column + 2 * right < width
            and grid[row + 2 * down][column + 2 * right] == "1"
        ]
        if not ahead:
            way.pop()
            continue
        down, right = ahead[int(rng.integers(len(ahead)))]
        grid[row + down][column + right] = grid[row + 2 * down][column + 2 * right] = "0"
        way.append((row + 2 * down, column + 2 * right))
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            between = (row + column) % 2 == 1 and grid[row][column] == "1"
            if between and rng.random() < loops:
                grid[row][column] = "0"
    return tuple("".join(line) for line in grid)


def _digits(cell: Cell) -> str:
    """Digits stand apart, so that every tokeniser sees them one by one."""
    return ", ".join(" ".join(str(number)) for number in cell)


class MazeEnv(TextGame):
    r"""A maze on a grid: walk to the goal.

    ## Description
    The maze of LMRL-Gym (Abdulhai et al. 2023, arXiv:2311.18232, section 4), which NLRL (Feng et
    al. 2024, arXiv:2411.14251) uses too. With ``observe="full"`` the agent is told where it and
    the goal are; with ``"partial"`` only which walls are beside it, so that it must remember.
    NLRL's maze is ``layout="double_t"`` or ``"medium"`` with ``observe="full"``; its list of the
    moves so far is ``last_k``, or the policy's own history of the episode.

    ## Action Space
    One action, ``move(text)``: `move left`, `move right`, `move up` or `move down`; in mode
    "fixed" in any case and spacing, and the word "move" may be missing. A move into a wall leaves
    the agent where it is. Any other text (also an empty or over-long one) does so too, is told as
    the next observation's ``error`` and has a reward of its own.

    ## Observation Space
    ``text`` is ``The goal is at position 8, 6. Your current position is at position 1, 2. There
    are walls above you, below you.`` (row, then column, digits apart), in mode "original" with a
    line break at its end; with ``observe="partial"`` only the sentence about the walls. At the goal
    it is ``Success``. ``last_k`` is how many of the last texts, observations and moves in turn,
    stand there one below the other.

    ## Rewards
    ========================  =====  ============  =====
    `reward`                  goal   no move       else
    ========================  =====  ============  =====
    standard (LMRL-Gym)       0      -4            -1
    illegal_penalty           1      -1            0
    diff_scale                1      -100          -1
    ========================  =====  ============  =====

    ## Starting State
    A free cell other than the goal, each as likely. ``reset(options=...)`` takes ``init_position``
    and ``goal``, each [row, column]. The walls of the layout "random" come from the seed, as does
    its goal; there is always a way.

    ## Episode End
    Terminated at the goal, which is the success. `maze-v0` is truncated after 100 steps.

    ## Arguments
    * `layout`: "double_t" (LMRL-Gym's benchmark), "umaze", "medium", "large" or "random";
    * `observe`: "full" or "partial";
    * `reward`: "standard", "illegal_penalty" or "diff_scale";
    * `last_k`: texts shown at once, at least 1; LMRL-Gym sets 1 or, for "partial", 40;
    * `width`, `height`, `loops`: of the layout "random", see `carve`;
    * `mode`: "fixed" or "original", LMRL-Gym's, which differs so:
      the action is compared letter by letter; after the 100th step, whatever the agent does is
      answered by ``Failure``, -1 and termination (fixed: truncated after the 100th step); a text
      that is no move erases what `last_k` would still show (fixed: kept). Both modes draw from the
      environment's own generator; the published one drew from Python's global `random`, so that
      equal seeds began unequal games. Its random mazes may be closed; ours are not.

    ``info`` holds `position` and `goal` ([row, column]) and `distance` (steps left).

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [move]

    def __init__(
        self,
        layout: str = "double_t",
        *,
        observe: str = "full",
        reward: str = "standard",
        last_k: int = 1,
        width: int = 11,
        height: int = 11,
        loops: float = 0.1,
        **common: Any,
    ) -> None:
        for name, value, known in (
            ("layout", layout, (*LAYOUTS, "random")),
            ("observe", observe, ("full", "partial")),
            ("reward", reward, tuple(REWARDS)),
        ):
            if value not in known:
                raise ConfigError(f"{name} must be one of {known}, got {value!r}")
        if last_k < 1:
            raise ConfigError(f"last_k must be at least 1, got {last_k!r}")
        if not all(5 <= n <= _MAX_SIDE and n % 2 for n in (width, height)) or not 0 <= loops <= 1:
            raise ConfigError(
                f"need odd width and height from 5 to {_MAX_SIDE} and loops in [0, 1], "
                f"got {width!r}, {height!r} and {loops!r}"
            )
        super().__init__(**common)
        self.layout, self.observe, self.last_k = layout, observe, last_k
        self.width, self.height, self.loops = width, height, loops
        self._rewards = REWARDS[reward]
        self._end = "\n" if self.mode == "original" else ""
        self._legal = tuple(MOVES)
        self._goal_text = ""

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw the maze, if it is random, and the start."""
        if unknown := set(options) - {"goal", "init_position"}:
            raise ConfigError(f"options are 'goal' and 'init_position', got {sorted(unknown)!r}")
        if self.layout == "random":
            walls = carve(self.np_random, self.width, self.height, self.loops)
            free = [(r, c) for r, line in enumerate(walls) for c, w in enumerate(line) if w == "0"]
            goal = free[int(self.np_random.integers(len(free)))]
            make = make_maze.__wrapped__  # each seen once: nothing to keep
        else:
            walls, goal = LAYOUTS[self.layout]
            make = make_maze
        if "goal" in options:
            goal = _cell("goal", options["goal"])
        self.maze = make(walls, goal)
        starts = [cell for cell in self.maze.beside if cell != goal]
        if "init_position" in options:
            self.position = _cell("init_position", options["init_position"])
            if self.position not in starts:
                raise ConfigError(
                    f"init_position must be a free cell other than the goal {list(goal)}, "
                    f"got {options['init_position']!r}"
                )
        else:
            self.position = starts[int(self.np_random.integers(len(starts)))]
        self.steps = 0
        self._setting()
        self.shown = [self._describe()]
        return self.shown[0]

    def goal(self) -> str:
        """What to do."""
        return "Walk through the maze to the goal in as few moves as possible."

    def play(self, call: ActionCall) -> Outcome:
        """Walk, if the text is a move."""
        text = call.arguments["text"]
        if self.mode == "fixed":
            text = " ".join(text.lower().split())
            text = text if text.startswith("move ") else f"move {text}"
        if text in MOVES:
            return self._walk(text)
        return self._refuse(f"No such move: {text[:60]!r}. Moves: {', '.join(MOVES)}")

    def unreadable(self, error: str) -> Outcome:
        """Text that is no call is no move either."""
        return self._refuse(error)

    def _walk(self, text: str) -> Outcome:
        if self._late():
            return self._failure("")
        at_goal, _, otherwise = self._rewards
        self.position = self.maze.after(self.position, text)
        self.steps += 1
        if self.position == self.maze.goal:
            return Outcome(f"Success{self._end}", at_goal, terminated=True, success=True)
        return Outcome(self._show(text), otherwise)

    def _refuse(self, error: str) -> Outcome:
        if self._late():
            return self._failure(error)
        self.steps += 1
        if self.mode == "original":
            self.shown = []
            return Outcome(self._show(), self._rewards[1], error=error)
        return Outcome(self._show("(no move)"), self._rewards[1], error=error)

    def _late(self) -> bool:
        """True where the published game has no step left and says so one step later."""
        return self.mode == "original" and self.steps >= MAX_STEPS

    def _failure(self, error: str) -> Outcome:
        return Outcome(f"Failure{self._end}", -1.0, terminated=True, error=error)

    def _describe(self) -> str:
        walls = self.maze.beside[self.position]
        if self.observe == "partial":
            return walls + self._end
        here = _digits(self.position)
        return f"{self._goal_text} Your current position is at position {here}. {walls}{self._end}"

    def _show(self, *said: str) -> str:
        """The last texts, the newest observation among them."""
        now = self._describe()
        if self.last_k == 1:
            return now
        said = tuple(text + self._end for text in said)
        self.shown = [*self.shown, *said, now][-self.last_k :]
        return ("" if self._end else "\n").join(self.shown)

    def _setting(self) -> None:
        self._goal_text = f"The goal is at position {_digits(self.maze.goal)}."
        self._goal_info = list(self.maze.goal)
        self._walls_key = f"#{'/'.join(self.maze.walls)}" if self.layout == "random" else ""

    def save(self) -> Any:
        """Maze, place, steps and what is shown."""
        return {
            "walls": self.maze.walls,
            "goal": self.maze.goal,
            "position": self.position,
            "steps": self.steps,
            "shown": self.shown,
        }

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        maze = make_maze.__wrapped__(tuple(state["walls"]), _cell("goal", state["goal"]))
        self.position, self.steps = _cell("position", state["position"]), int(state["steps"])
        self.maze, self.shown = maze, [str(text) for text in state["shown"]]
        self._setting()

    def admissible(self) -> Sequence[str]:
        """The four moves, also those into walls."""
        return self._legal

    def key(self) -> str:
        """Place and goal; in mode "original" the step too, and the walls if they are random."""
        (row, column), (to_row, to_column) = self.position, self.maze.goal
        key = f"{row},{column}>{to_row},{to_column}"
        if self.mode == "original":
            key = f"{key}@{self.steps}"
        return key + self._walls_key

    def facts(self) -> dict[str, Any]:
        """Where the agent and the goal are and how far it is."""
        return {
            "position": list(self.position),
            "goal": self._goal_info,
            "distance": self.maze.steps[self.position],
        }

    def expert(self) -> str:
        """The first move of a shortest way."""
        return self.maze.best[self.position]


def _cell(name: str, value: Any) -> Cell:
    """A cell as options and snapshots write it."""
    try:
        row, column = (int(number) for number in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be [row, column], got {value!r}") from error
    return row, column
