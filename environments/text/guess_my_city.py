"""agentgym/guess_my_city-v0: find out a city by open questions."""

import re
from collections.abc import Callable

from agentgym.environments.text.city_table import (
    CANNOT_TELL,
    SECRET,
    city_table,
)
from agentgym.environments.text.city_table import (
    QUESTIONS as TOPIC_QUESTIONS,
)
from agentgym.environments.text.game import Outcome
from agentgym.environments.text.question_game import (
    MAX_CHARACTERS,
    MAX_WORDS,
    QUESTIONS,
    QuestionGame,
)
from agentgym.players import Player, PlayerTurn, ask

_YES_OR_NO = re.compile(r"\W*(yes|no)", re.IGNORECASE)
_SKIPPED = 1  # The published reader of the list takes its first city for part of the heading.
_MORE = (
    "Is it in Asia?",
    "Is it in Europe?",
    "Is it in South America or Africa?",
    "Is it on the coast?",
    "Does it have more than 5 million people?",
    "Is it in the southern hemisphere?",
    "Do people speak Spanish there?",
    "Is the climate tropical?",
)


class TableOracle:
    """Answers from the table of cities, without naming the city or its country.

    Args:
        yes_no: only ``Yes.`` and ``No.``, which is also its answer to all else, as published.
    """

    name = "city table"

    def __init__(self, *, yes_no: bool = False) -> None:
        self.yes_no = yes_no

    def answer(self, turn: PlayerTurn) -> str:
        """The answer to the last message about ``facts["city"]``."""
        table = city_table()
        told = table.answers(turn.messages[-1].content)[table.index(turn.facts["city"])]
        return told if not self.yes_no or told == "Yes." else "No."


class GuessMyCityEnv(QuestionGame):
    """Find out which large city is meant, by at most twenty questions of any kind.

    ## Description
    Guess My City of LMRL-Gym (Abdulhai et al. 2023, https://arxiv.org/abs/2311.18232): the 100
    most populous cities of its list. By default the answers come from a table of facts
    (`city_table.CityTable`, which says how questions are read); any `Player` can answer instead.

    In the mode "original" the rules are those of the released environment, with these defects that
    "fixed" repairs:

    * nobody can win: the test whether the city was named compares the question with single
      characters. Every episode has 20 turns and the return -20, so there is no expert;
    * the oracle answers only ``Yes.`` and ``No.``, though open questions are what the game is
      about, and ``No.`` to whatever is no question of yes or no;
    * the first city of the list, Seoul, never comes up: it is read as part of the heading;
    * nothing keeps an oracle from telling the name.

    ## Action Space
    One action, ``question(text)``; in the default syntax "text" the last line is the question or
    the guess: ``Is it Paris?``, ``I guess Paris, France`` or ``Paris``. Fixed: a line that is
    neither, asks for the name of the city or the country, or is longer than 40 words or 300
    characters, is told in ``error``. It counts as a question like any other, and so does an
    empty line.

    ## Observation Space
    ``goal`` explains the game; ``text`` is the answer and how many questions are left (original:
    the answer alone, each text with a newline; the first is ``Questions:``). No answer names the
    city or its country, whoever gives it.

    ## Rewards
    -1 for each question, 0 for the guess that is right.

    ## Starting State
    A random city. Options of ``reset``: ``{"city": name}``, or ``{"deterministic": True}`` for
    the city whose number is the seed modulo the number of cities, as published.

    ## Episode End
    Terminated when the city is guessed (``info["success"]`` is true) or after 20 questions. Naming
    several cities at once is no guess.

    ## Arguments
    * `mode`: "fixed" or "original";
    * `oracle`: who answers; None for the table. A language model is told the city and asked for
      each question alone; answers that are empty, too long or name the city or its country
      (original: that begin with neither yes nor no) are asked for again;
    * `action_syntax`: one of `actions.SYNTAXES`.

    ## Version History
    * v0: first.
    """

    noun = "city"

    def __init__(
        self,
        *,
        mode: str = "fixed",
        oracle: Player | None = None,
        action_syntax: str = "text",
        render_mode: str | None = None,
    ) -> None:
        self._table = city_table()
        cities = self._table.cities[_SKIPPED if mode == "original" else 0 :]
        self.secrets = tuple(city.name for city in cities)
        oracle = oracle or TableOracle(yes_no=mode == "original")
        super().__init__(oracle, mode=mode, action_syntax=action_syntax, render_mode=render_mode)

    def goal(self) -> str:
        """The rules."""
        if self.mode == "original":
            return (
                f"I am thinking of one large city. Find out which. You have {QUESTIONS} questions, "
                "each answered with yes or no. End by asking whether it is the city you think of."
            )
        return (
            f"I am thinking of one of the {len(self.secrets)} largest cities of the world. Find "
            f"out which. You have {QUESTIONS} questions of any kind, one a line, of at most "
            f"{MAX_WORDS} words; do not ask for the name of the city or of its country. You win "
            "by naming the city, such as: Is it Paris? "
            f"What I do not know is answered: {CANNOT_TELL} Every line counts."
        )

    def fixed(self, text: str) -> Outcome:
        """Judge a guess, or let the oracle answer."""
        if error := self.too_long(text):
            return self.counted("That was too long.", error=error)
        guess = self._table.guess(text)
        if guess == self.secret:
            return self.won()
        if guess is not None:
            self.left &= ~(1 << guess)
            return self.counted("No.")
        if not self._table.asks(text):
            error = f"Ask a question, or name one city of the list; got {text[:60]!r}"
            return self.counted("That was no question.", error=error)
        if self._table.answers(text)[self.secret] == SECRET:
            return self.counted(SECRET, error="Do not ask for the name of the city or country.")
        return self.counted(self._ask(text, self._heard))

    def published(self, text: str, error: str = "") -> Outcome:
        """The released rules, by which no guess is ever right."""
        text = text[:MAX_CHARACTERS]
        if not error and not self._table.asks(text):
            error = f"That is no question: {text[:60]!r}"
        answer = "No." if error else self._ask(text, self._heard_yes_no)
        self.asked += 1
        return Outcome(f"{answer}\n", -1.0, terminated=self.asked >= QUESTIONS, error=error)

    def _ask(self, text: str, heard: Callable[[str], str | None]) -> str:
        city = self._table.cities[self._table.index(self.secrets[self.secret])]
        if self.mode == "original":
            rule = "Write only Yes. or No."
        else:
            rule = (
                "Answer in one short sentence. Never name the city, its country or its people. "
                f"If you do not know, write: {CANNOT_TELL}"
            )
        instructions = (
            "You know a secret city, and someone tries to find out which by questions. The city: "
            f"{city.name}, {city.country}. Answer each question truthfully. {rule}"
        )
        answer = ask(self.oracle, self.turn(text, instructions), heard)
        if self.mode == "fixed":
            self.left &= self._table.agreeing(text, answer)
        return answer

    def _heard(self, text: str) -> str | None:
        said = text.strip()
        if not said or len(said) > MAX_CHARACTERS or self._table.leaks(self.secret, said):
            return None
        return said

    @staticmethod
    def _heard_yes_no(text: str) -> str | None:
        match = _YES_OR_NO.match(text)
        return None if match is None else f"{match[1].capitalize()}."

    def guesses(self) -> list[str]:
        """A few plausible questions, others at each turn; one of them is a guess."""
        questions = [*TOPIC_QUESTIONS.values(), *_MORE]
        first = self.asked * 5 % len(questions)
        guess = f"Is it {self.secrets[self.asked * 37 % len(self.secrets)]}?"
        return [*(questions * 2)[first : first + 11], guess]

    @property
    def has_oracle(self) -> bool:
        """False for the mode "original", which cannot be won."""
        return self.mode == "fixed"

    def expert(self) -> str:
        """The open question that tells most; the city once it is certain, or the last turn.

        Raises:
            NotImplementedError: see `has_oracle`.
        """
        if self.mode == "original":
            raise NotImplementedError("Guess My City in the mode 'original' cannot be won")
        left = self.left or self._everything  # an oracle may contradict itself
        if self.asked == QUESTIONS - 1 or left & (left - 1) == 0:
            return f"Is it {self.secrets[(left & -left).bit_length() - 1]}?"
        return self._table.best_question(left)
