"""agentgym/countdown-v0: make a target number of given numbers (Stream of Search, TinyZero)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

from agentgym.actions import ActionCall
from agentgym.environments.text.arithmetic import FormulaError, evaluate
from agentgym.environments.text.countdown_search import (
    MAX_NUMBERS,
    OPERATORS,
    Operation,
    combine,
    count_solutions,
    judge_equation,
    questions,
    read_operation,
    solve,
    split_targets,
    write_solution,
)
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError

_ANSWER = re.compile(r"<answer>(.*?)</answer>")
_PUBLISHED_CHARACTERS = re.compile(r"[\d+\-*/().\s]+")
_MAX_DRAWS = 10_000
_SPLITS = ("train", "held_out", "all")


def calculate(text: str) -> None:
    """An operation on two of the numbers, e.g. 3 * 8, or where asked for it the whole equation."""


class CountdownEnv(TextGame):
    r"""Countdown: reach a target number by arithmetic on given numbers.

    ## Description
    The game of Stream of Search (Gandhi et al. 2024, arXiv:2404.03683), which TinyZero and RAGEN
    made a task of reinforcement learning. With ``style="steps"`` the agent combines two numbers a
    turn; with ``"answer"`` it writes one equation. Searches written as text are judged by
    `countdown_search.score_trace`.

    ## Action Space
    One action, ``calculate(text)``. In "steps" the text is an operation on two of the numbers at
    hand: ``a + b``, ``a * b``, ``a - b`` if a is not smaller, ``a / b`` if that is whole; with
    ``= c`` behind it, c must be right. Anything else (empty or over-long text too) changes nothing,
    is told as ``error``, and the turn counts. In "answer" the text is a formula, with or without
    ``= target`` and ``<answer>`` tags; whatever the text, it is the answer and ends the game.

    ## Observation Space
    ``text``, in "steps", is the target and the numbers left (``Target: 24. Numbers: 3, 8, 1.``).
    In mode "original" it is the last lines of a trace in Stream of Search's words:
    ``Current State: 24:[3, 8, 1], Operations: []``.

    ## Rewards
    1 for reaching the target, otherwise 0.

    ## Starting State
    Drawn as published: a target of the split, then numbers from 1 to `max_target` - 1, again and
    again until there is a solution (`min_solutions` and `max_solutions` bound how many sequences
    of operations are one). ``reset(options=...)`` takes ``target`` and ``numbers``, solvable or
    not; this is how fixed lists of problems are played.

    ## Episode End
    In "steps" terminated at the target (all numbers used, if `use_all`), which is the success, or
    when one other number is left. In "answer" after the first turn.

    ## Arguments
    * `style`: "steps" or "answer";
    * `start_size`: how many numbers, 2 to 6;
    * `min_target`, `max_target`: both included;
    * `use_all`: all numbers must be used (Stream of Search, TinyZero); otherwise some;
    * `ops`: of ``+-*/``, which may be used;
    * `split`: "train", "held_out" (a tenth of all targets, for seed 4 and 10..100 the very ones
      of the paper's data) or "all";
    * `min_solutions`, `max_solutions`: difficulty; the fewer solutions, the harder;
    * `mode`: "fixed" or "original". In "original" an answer is judged as TinyZero's published
      reward does: it must stand in ``<answer>`` tags, holds no "=", is worked out in floating
      point to within 1e-5, ``**``, ``//`` and decimals pass (1.5 uses a 1 and a 5), and one that
      is wrong still gets 0.1. In "fixed" it is worked out exactly, only `ops` are allowed and
      nothing but the target is rewarded.

    ``info`` holds `target`, `numbers`, `solution` (operations that reach the target from here, or
    null) and `solvable`: for teachers, an agent never sees it.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [calculate]

    def __init__(
        self,
        style: str = "steps",
        *,
        start_size: int = 4,
        min_target: int = 10,
        max_target: int = 100,
        use_all: bool = True,
        ops: str = OPERATORS,
        split: str = "train",
        min_solutions: int = 1,
        max_solutions: int | None = None,
        **common: Any,
    ) -> None:
        for name, value, known in (
            ("style", style, ("steps", "answer")),
            ("split", split, _SPLITS),
        ):
            if value not in known:
                raise ConfigError(f"{name} must be one of {known}, got {value!r}")
        if not 2 <= start_size <= MAX_NUMBERS:
            raise ConfigError(f"start_size must be from 2 to {MAX_NUMBERS}, got {start_size!r}")
        if not ops or set(ops) - set(OPERATORS):
            raise ConfigError(f"ops must be some of {OPERATORS!r}, got {ops!r}")
        if not 1 <= min_target <= max_target:
            raise ConfigError(
                f"need 1 <= min_target <= max_target, got {min_target!r} and {max_target!r}"
            )
        if min_solutions < 1 or (max_solutions is not None and max_solutions < min_solutions):
            raise ConfigError(
                "need 1 <= min_solutions <= max_solutions, "
                f"got {min_solutions!r} and {max_solutions!r}"
            )
        super().__init__(**common)
        self.style, self.start_size, self.use_all = style, start_size, use_all
        self.max_target = max_target
        self.ops = "".join(sign for sign in OPERATORS if sign in ops)
        self._solutions = (min_solutions, max_solutions)
        self._targets = split_targets(min_target, max_target, held_out=split == "held_out")
        if split == "all":
            self._targets = list(range(min_target, max_target + 1))
        if not self._targets:
            raise ConfigError(
                f"no target from {min_target} to {max_target} is held out: it takes ten of them"
            )

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw target and numbers, or take those of the options."""
        if options:
            self.target, self.start = _problem(options)
        else:
            self.target, self.start = self._draw()
        self.numbers = list(self.start)
        self.done: list[Operation] = []
        self._moved()
        return self._show()

    def _draw(self) -> tuple[int, list[int]]:
        target = self._targets[int(self.np_random.integers(len(self._targets)))]
        for _ in range(_MAX_DRAWS):
            numbers = self.np_random.integers(1, max(self.max_target, 2), self.start_size).tolist()
            if self._wanted(target, numbers):
                return target, numbers
        raise ConfigError(
            f"no problem found in {_MAX_DRAWS} draws for target {target}, start_size "
            f"{self.start_size}, ops {self.ops!r} and {self._solutions} solutions; ask for less"
        )

    def _wanted(self, target: int, numbers: list[int]) -> bool:
        if not solve(target, numbers, use_all=self.use_all, operators=self.ops):
            return False  # no solution, or nothing to do
        low, high = self._solutions
        if (low, high) == (1, None):
            return True
        count = count_solutions(target, tuple(sorted(numbers)), self.use_all, self.ops)
        return low <= count and (high is None or count <= high)

    def goal(self) -> str:
        """What to do."""
        which = "all of the numbers, each once" if self.use_all else "some of the numbers"
        how = "Combine two numbers at a time." if self.style == "steps" else "Write one equation."
        signs = ", ".join(self.ops)
        return f"Make {self.target} of {which}, with the operations {signs}. {how}"

    def play(self, call: ActionCall) -> Outcome:
        """Combine two numbers, or judge the answer."""
        text = call.arguments["text"]
        if self.style == "answer":
            return self._judge(text)
        read = read_operation(text)
        if read is None:
            return Outcome(self._text, error=f"No operation on two numbers: {text[:60]!r}")
        left, sign, right, result = read
        if sign not in self.ops:
            return Outcome(self._text, error=f"{sign} may not be used, only {', '.join(self.ops)}")
        rest = list(self.numbers)
        for number in (left, right):
            if number not in rest:
                return Outcome(self._text, error=f"{number} is not among the numbers left")
            rest.remove(number)
        made = [o for o in (*combine(left, right), *combine(right, left)) if o.sign == sign]
        chosen = next((o for o in made if o.left == left), None)
        if chosen is None:
            return Outcome(self._text, error=f"{left} {sign} {right} is no natural number")
        if result not in (None, chosen.result):
            return Outcome(
                self._text, error=f"{left} {sign} {right} is {chosen.result}, not {result}"
            )
        return self._combine(chosen, [*rest, chosen.result])

    def unreadable(self, error: str) -> Outcome:
        """Text that is no call: a lost turn, or in the style "answer" a lost game."""
        return Outcome(self._text, error=error, terminated=self.style == "answer")

    def _combine(self, operation: Operation, numbers: list[int]) -> Outcome:
        before = len(self.done)
        self.numbers, self.done = numbers, [*self.done, operation]
        self._moved()
        won = self.target in numbers and (len(numbers) == 1 or not self.use_all)
        text = self._show()
        if self.mode == "original":
            lines = write_solution(self.target, self.start, self.done).splitlines(keepends=True)
            text = "".join(lines[1 + 3 * before :])
        return Outcome(text, float(won), terminated=won or len(numbers) == 1, success=won)

    def _judge(self, text: str) -> Outcome:
        tagged = _ANSWER.findall(text)
        answer = tagged[-1].strip() if tagged else text
        if self.mode == "original":
            if not tagged:
                return Outcome(self._text, error="No <answer> found.", terminated=True)
            wrong, consolation = self._judge_as_published(answer), 0.1
        else:
            wrong, consolation = (
                judge_equation(
                    answer, self.target, self.start, use_all=self.use_all, operators=self.ops
                ),
                0.0,
            )
        reward = consolation if wrong else 1.0
        return Outcome(self._text, reward, terminated=True, success=not wrong, error=wrong)

    def _judge_as_published(self, answer: str) -> str:
        used = Counter(int(number) for number in re.findall(r"\d{1,40}", answer))
        given = Counter(self.start)
        if used - given or (self.use_all and given - used):
            return "The answer must use every number once."
        if not _PUBLISHED_CHARACTERS.fullmatch(answer):
            return "The answer is no formula."
        try:
            value = evaluate(answer, python=True)[0]
        except FormulaError as error:
            return f"No formula: {error}"
        return "" if -1e-5 < value - self.target < 1e-5 else f"The value is {value}."

    def _show(self) -> str:
        if self.mode == "original":
            return f"Current State: {self.target}:{self.numbers}, Operations: []\n"
        return f"Target: {self.target}. Numbers: {', '.join(map(str, self.numbers))}."

    def _moved(self) -> None:
        """Work out once what is asked for often."""
        pairs = combinations(self.numbers, 2) if self.style == "steps" else ()
        moves = [text for a, b in pairs for text in questions(a, b, self.ops)]
        self._moves = tuple(dict.fromkeys(moves))
        self._facts: dict[str, Any] | None = None

    def save(self) -> Any:
        """Target, numbers at the start, operations done."""
        done = [[o.left, o.sign, o.right, o.result] for o in self.done]
        return {"target": self.target, "start": self.start, "numbers": self.numbers, "done": done}

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        target, start = _problem({"target": state["target"], "numbers": state["start"]})
        numbers = [int(n) for n in state["numbers"]]
        done = [Operation(int(a), str(sign), int(b), int(c)) for a, sign, b, c in state["done"]]
        self.target, self.start, self.numbers, self.done = target, start, numbers, done
        self._moved()

    def admissible(self) -> tuple[str, ...] | None:
        """Every operation on two numbers at hand; answers cannot be listed."""
        return self._moves if self.style == "steps" else None

    def guesses(self) -> list[str]:
        """For random answers: the first numbers, added and multiplied."""
        return [sign.join(map(str, self.start)) for sign in self.ops]

    def write(self, text: str) -> str:
        """Operations are one line as they are; there are too many of them to remember."""
        return text if self.action_syntax == "text" else super().write(text)

    def key(self) -> str:
        """Target and numbers, in any order; in mode "original" what has been done too."""
        key = f"{self.target}:{sorted(self.numbers)}"
        return f"{key}{self.start}{self.save()['done']}" if self.mode == "original" else key

    def facts(self) -> dict[str, Any]:
        """The problem and its solution from here."""
        if self._facts is None:
            way = solve(self.target, self.numbers, use_all=self.use_all, operators=self.ops)
            self._facts = {
                "target": self.target,
                "numbers": self.numbers,
                "solution": None if way is None else [str(operation) for operation in way],
                "solvable": way is not None,
            }
        return self._facts

    def difficulty(self) -> int:
        """How many sequences of operations solve this game from its start."""
        return count_solutions(self.target, tuple(sorted(self.start)), self.use_all, self.ops)

    def expert(self) -> str:
        """The next operation of a solution, if there is one still, or the whole equation."""
        way = solve(self.target, self.numbers, use_all=self.use_all, operators=self.ops)
        if self.style == "answer":
            equation = write_equation(self.start, way or ())
            return f"<answer>{equation}</answer>" if self.mode == "original" else equation
        return f"{way[0].left}{way[0].sign}{way[0].right}" if way else self._moves[0]


def write_equation(numbers: Sequence[int], operations: Sequence[Operation]) -> str:
    """Operations as one formula.

    Example:
        >>> write_equation([3, 1, 8], [Operation(8, "*", 3, 24), Operation(24, "*", 1, 24)])
        '(8 * 3) * 1'
    """
    made = [(number, str(number)) for number in numbers]
    for operation in operations:
        parts = []
        for number in (operation.left, operation.right):
            place = max(i for i, (value, _) in enumerate(made) if value == number)
            parts.append(made.pop(place)[1])
        made.append((operation.result, f"({parts[0]} {operation.sign} {parts[1]})"))
    formula = made[-1][1]
    return formula[1:-1] if formula.startswith("(") else formula


def _problem(options: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Target and numbers as options and snapshots write them."""
    if set(options) != {"target", "numbers"}:
        raise ConfigError(f"options are 'target' and 'numbers', both, got {sorted(options)!r}")
    try:
        target, numbers = int(options["target"]), [int(n) for n in options["numbers"]]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"need a number and a list of numbers, got {options!r}") from error
    if not 2 <= len(numbers) <= MAX_NUMBERS or not all(0 < n < 10**6 for n in [*numbers, target]):
        raise ConfigError(
            f"need 2 to 6 numbers and a target, all from 1 to 999999, got {options!r}"
        )
    return target, numbers
