"""agentgym/twenty_questions-v0: find out an object by questions that are answered yes or no."""

import re
from collections.abc import Sequence

from agentgym.environments.text.game import Outcome
from agentgym.environments.text.object_table import object_table, tokens
from agentgym.environments.text.question_game import (
    MAX_CHARACTERS,
    MAX_WORDS,
    QUESTIONS,
    QuestionGame,
)
from agentgym.errors import UnknownNameError
from agentgym.players import Player, PlayerTurn, ask

CANNOT_TELL = "I cannot tell."
_ANSWER = re.compile(r"\W*(yes|no|i cannot tell|i can't tell|cannot tell|unknown)\b", re.IGNORECASE)
_PUBLISHED_OPENINGS = ("Is", "Does", "Can", "Do", "Are", "Could")
_PUBLISHED_IGNORED = {"object", "something", "type", "kind"}
_INVALID = "Is this a valid question?"
_COMMON_NOUNS = set(
    "animal fruit vegetable vehicle clothing clothes instrument furniture food tool toy jewelry "
    "item thing plant device machine appliance utensil sport ball game water metal wood plastic "
    "color colour size shape house home kitchen garden office name letter word person people "
    "hand foot head material part piece pet mammal bird fish body place".split()
)
_MASS = {"Broccoli", "Spinach", "Corn", "Peas", "Celery", "Paper", "Toothpaste", "Glue", "Lego"}
_PER_TURN = 12


class TableOracle:
    """Answers from the table of attributes, truthfully.

    Args:
        unknown: its answer to a question that the table cannot tell.
    """

    name = "attribute table"

    def __init__(self, unknown: str = CANNOT_TELL) -> None:
        self.unknown = unknown

    def answer(self, turn: PlayerTurn) -> str:
        """``Yes.``, ``No.`` or `unknown`, to the last message about ``facts["object"]``."""
        table = object_table()
        meaning = table.read(turn.messages[-1].content)
        if meaning is None:
            return self.unknown
        return "Yes." if meaning.yes >> table.names.index(turn.facts["object"]) & 1 else "No."


class TwentyQuestionsEnv(QuestionGame):
    """Find out which object is meant, by at most twenty yes/no questions.

    ## Description
    Twenty Questions of LMRL-Gym (Abdulhai et al. 2023, https://arxiv.org/abs/2311.18232): 158
    objects in 17 categories. By default the answers come from a table of some 250 attributes
    (`object_table.ObjectTable`), which says how questions are read; any `Player` can answer
    instead.

    In the mode "original" the texts, rewards and rules are the published ones, with these defects
    that "fixed" repairs:

    * what the oracle cannot answer is answered ``No.``, which is often untrue; fixed:
      ``I cannot tell.``;
    * a question that breaks the rules is silently replaced by ``Is this a valid question?`` and
      answered ``No.``; fixed: it is told what is wrong;
    * any question that ends with the object's name and has no other noun wins if its answer is
      yes; fixed: the question must be whether it is this object, and that answer is the game's own;
    * common other names (phone, sofa) do not count; fixed: they do.

    The published nouns come from a part-of-speech tagger, here from a list; the published oracle
    is a language model, here the table, unless `oracle` is given.

    ## Action Space
    One action, ``question(text)``; in the default syntax "text" the last line is the question.
    Fixed: a line that is no yes/no question, or is longer than 40 words or 300 characters, is told
    in ``error``. It counts as a question like any other, and so does an empty line.

    ## Observation Space
    ``goal`` explains the game; ``text`` is the answer and how many questions are left (original:
    the answer alone, each text with a newline; the first is ``Questions:``).

    ## Rewards
    -1 for each question, 0 for the one that names the object.

    ## Starting State
    A random object. Options of ``reset``: ``{"object": name}``, or ``{"deterministic": True}``
    for the object whose number is the seed modulo 158, as published.

    ## Episode End
    Terminated when the object is named (``info["success"]`` is true) or after 20 questions.

    ## Arguments
    * `mode`: "fixed" or "original";
    * `oracle`: who answers; None for the table. A language model is told the object and asked for
      each question alone; answers other than yes, no and "I cannot tell" are asked for again;
    * `objects`: names of the objects that the secret is one of, which the goal then lists; empty
      for all 158;
    * `attributes`: names of the attributes (`ObjectTable.attributes`) that the expert and random
      play ask about, beside the objects themselves; empty for all. Every question is answered;
    * `questions`: after which the game is lost;
    * `action_syntax`: one of `actions.SYNTAXES`.

    ## Version History
    * v0: first.
    """

    noun = "object"

    def __init__(
        self,
        *,
        mode: str = "fixed",
        oracle: Player | None = None,
        objects: Sequence[str] = (),
        attributes: Sequence[str] = (),
        questions: int = QUESTIONS,
        action_syntax: str = "text",
        render_mode: str | None = None,
    ) -> None:
        self._table = object_table()
        self.secrets = self._table.names
        if objects:
            self.possible = sorted({_known("object", name, self.secrets) for name in objects})
        self._few = bool(objects or attributes)
        for name in attributes:
            _known("attribute", name, list(self._table.attributes))
        self._attributes = tuple(attributes)
        self._nouns = (_COMMON_NOUNS | self._table.words) - {"of"}
        oracle = oracle or TableOracle("No." if mode == "original" else CANNOT_TELL)
        super().__init__(
            oracle,
            mode=mode,
            questions=questions,
            action_syntax=action_syntax,
            render_mode=render_mode,
        )

    def goal(self) -> str:
        """The rules."""
        return (
            "I am thinking of one object. Find out which, by questions that are answered with yes "
            f"or no. {self._choice()}You have {self.questions} questions, one a line, each a "
            f"single question of at most {MAX_WORDS} words. You win by asking for the object "
            "itself, such as: Is it a cat? "
            + (
                "A question that I do not understand is answered No."
                if self.mode == "original"
                else f"What I do not know is answered: {CANNOT_TELL} Every line counts."
            )
        )

    def _choice(self) -> str:
        if self.possible is None:
            return ""
        return f"It is one of: {', '.join(self.secrets[i].lower() for i in self.possible)}. "

    def fixed(self, text: str) -> Outcome:
        """Judge a guess, or let the oracle answer."""
        if error := self.too_long(text):
            return self.counted("That was too long.", error=error)
        if not self._table.asks(text):
            error = (
                "Ask a question that is answered with yes or no and begins with Is, Does, Can or "
                f"the like; got {text[:60]!r}"
            )
            return self.counted("That was no yes/no question.", error=error)
        meaning = self._table.read(text)
        if meaning is None or meaning.guess is None:
            return self.counted(self._ask(text))
        if meaning.guess != self.secret:
            self._learn(text, "No.")
            return self.counted("No.")
        return self.won()

    def published(self, text: str, error: str = "") -> Outcome:
        """The released rules, by which an odd line is no valid question."""
        asked = published_question(text)
        answer = "No." if asked == _INVALID else self._ask(asked[:MAX_CHARACTERS])
        if asked == _INVALID and not error:
            error = f"The rules allow no such question: {text[:60]!r}"
        self.asked += 1
        success = answer == "Yes." and self._names_it(asked)
        end = success or self.asked >= self.questions
        reward = 0.0 if success else -1.0
        return Outcome(f"{answer}\n", reward, terminated=end, success=success, error=error)

    def _names_it(self, asked: str) -> bool:
        """The published test: it ends with the object's name and has no other noun."""
        variants = [tokens(variant) for variant in self._table.variants[self.secret]]
        ignored = _PUBLISHED_IGNORED.union(*variants)
        words = tokens(asked)
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word in self._nouns and word not in ignored and following != "of":
                return False
        return any(words[-len(variant) :] == variant for variant in variants)

    def _ask(self, text: str) -> str:
        """The oracle's answer, checked."""
        variants = self._table.variants[self.secret]
        allowed = "Yes. or No." if self.mode == "original" else f"Yes., No. or {CANNOT_TELL}"
        instructions = (
            "You know a secret object, and someone tries to find out which by questions. The "
            f"object: {', '.join(variants)}. Answer each question truthfully. Write only {allowed}"
        )
        answer = ask(self.oracle, self.turn(text, instructions), self._heard)
        self._learn(text, answer)
        return answer

    def _heard(self, text: str) -> str | None:
        match = _ANSWER.match(text)
        if match is None:
            return None
        word = match[1].lower()
        if word in ("yes", "no"):
            return f"{word.capitalize()}."
        return None if self.mode == "original" else CANNOT_TELL

    def _learn(self, text: str, answer: str) -> None:
        """Keep the objects for which the answer is right, for the expert."""
        meaning = self._table.read(text)
        if meaning is not None and answer != CANNOT_TELL:
            self.left &= meaning.yes if answer == "Yes." else ~meaning.yes

    def guesses(self) -> list[str]:
        """A dozen plausible questions, others at each turn; one names an object.

        With chosen objects or attributes: these, at every turn.
        """
        if self._few:
            possible = range(len(self.secrets)) if self.possible is None else self.possible
            table = self._table.attributes
            asked = [table[name].question for name in self._attributes or table]
            return [*asked, *(guess_question(self.secrets[index]) for index in possible)]
        first = self.asked * _PER_TURN
        attributes = [*self._table.attributes.values()][first : first + _PER_TURN]
        name = self._table.names[self.asked * 37 % len(self._table.names)]
        return [*(attribute.question for attribute in attributes), guess_question(name)]

    def expert(self) -> str:
        """The question that halves what is left; the object once it is certain, or the last turn.

        Only objects that the answers so far leave are asked about.
        """
        left = self.left or self._everything  # an oracle may contradict itself
        if self.asked == self.questions - 1 or left & (left - 1) == 0:
            return guess_question(self._table.names[(left & -left).bit_length() - 1])
        question = self._table.best_question(left, self._attributes)
        meaning = self._table.read(question)
        if meaning is None or meaning.yes & left in (0, left):  # it would tell nothing
            return guess_question(self._table.names[(left & -left).bit_length() - 1])
        return question


def _known(kind: str, name: str, names: Sequence[str]) -> int:
    """The number of a name.

    Raises:
        UnknownNameError: it is not among the names.
    """
    if name not in names:
        raise UnknownNameError(kind, str(name), names)
    return list(names).index(name)


def guess_question(name: str) -> str:
    """The question whether it is this object.

    Example:
        >>> guess_question("Apple"), guess_question("Shoes"), guess_question("Corn")
        ('Is it an apple?', 'Is it a pair of shoes?', 'Is it corn?')
    """
    lower = name.lower()
    variants = object_table().variants[object_table().names.index(name)]
    if f"Pair of {lower}" in variants:
        return f"Is it a pair of {lower}?"
    if name in _MASS:
        return f"Is it {lower}?"
    return f"Is it {'an' if lower[0] in 'aeiou' else 'a'} {lower}?"


def published_question(text: str) -> str:
    """What LMRL-Gym's rules make of a line: a question, or ``Is this a valid question?``.

    Source: `asker_postproc` in llm_rl_scripts/twenty_questions/env/data.py of LMRL-Gym.

    Example:
        >>> published_question("is it red"), published_question("Tell me.")
        ('Is it red?', 'Is this a valid question?')
    """
    asked = text.strip()
    if not asked:
        return _INVALID
    asked = asked if asked.endswith("?") else f"{asked}?"
    asked = asked[0].upper() + asked[1:]
    words = asked.split(" ")
    if len(words) > MAX_WORDS or words[0] not in _PUBLISHED_OPENINGS:
        return _INVALID
    if asked[-2] == "." and words[-1] != "etc.?":
        return _INVALID
    return asked
