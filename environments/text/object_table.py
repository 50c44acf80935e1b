"""The objects of Twenty Questions, what is true of them, and how a written question is read."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

_AUXILIARIES = set(
    "is are was were does do did can could would will has have may might should".split()
)
_FILLERS = {"ok", "okay", "so", "well", "hmm", "then", "and", "now", "alright", "question", "q"}
_SUBJECTS = sorted(
    (
        subject.split()
        for subject in (
            "it,they,this,that,these,he,she,you,we,i,one,people,humans,someone,somebody,"
            "the object,the thing,the item,the word,your object,your item,your word,this object,"
            "this thing,this item,most people,a person,a human,the answer,the secret object,"
            "the object you are thinking of,what you are thinking of"
        ).split(",")
    ),
    key=len,
    reverse=True,
)
_ARTICLES = {"a", "an", "the", "some"}
_HEDGES = set(
    "maybe perhaps possibly just actually really simply usually typically generally often commonly "
    "normally mostly mainly primarily sometimes also always ever considered called known likely "
    "probably definitely currently easily be been".split()
)
_DROPPED = (
    _ARTICLES
    | _HEDGES
    | set(
        "it its they them their this that these those be been being am is are was were does do did "
        "can could would will may might should of to for in on at by with from as into onto about "
        "any able possible object item something anything stuff kind type sort category form color "
        "you your we us our one's most usual common someone somebody most more there "
        "thing things objects items purpose primary main like when "
        "while if or and out operate function eg".split()
    )
)
_WEAK = {
    "used": "use", "uses": "use", "using": "use", "use": "use", "have": "have", "has": "have",
    "had": "have", "having": "have", "person": "person", "human": "human", "people": "people",
    "humans": "human", "find": "find", "found": "find",
}  # fmt: skip
"""Looked at where they decide between two meanings, and left out where the rest is clear."""
_STRANDED = {word: f"{word}~" for word in ("with", "on", "in", "from", "into", "for", "of", "to")}
_LEFT_OUT = {*_WEAK.values(), *_STRANDED.values()}
_ANIMATE = set("eat swim drink climb sleep sit read wear ride drive write jump".split())
_PORTIONS = {"piece", "article", "item"}
_ENDINGS = ("ing", "ed", "es", "s", "e")
_KINDS = ("kind of", "type of", "sort of", "form of")
_COMPARISON = re.compile(
    r"(?:much |any |weigh |cost )*"
    r"(bigger|larger|greater in size|smaller|heavier|lighter|taller|longer|shorter|wider|more|less)"
    r" (?:in size |in weight )?than (.+)"
)
_FIT = re.compile(r"fit (?:in|into|inside|inside of) (?:a|an|the|your) (.+)")
_QUANTITY = re.compile(r"(\d+|a|an|one|two|three|four|five|six|seven|eight|nine|ten|\w+) (\w+)")
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_METRES = {
    "inch": 0.0254, "inches": 0.0254, "foot": 0.3048, "feet": 0.3048, "yard": 0.9144,
    "cm": 0.01, "centimeter": 0.01, "centimetre": 0.01, "m": 1.0, "meter": 1.0, "metre": 1.0,
    "km": 1e3, "kilometer": 1e3, "kilometre": 1e3, "mile": 1609.0,
}  # fmt: skip
_KILOGRAMS = {
    "g": 1e-3, "gram": 1e-3, "kg": 1.0, "kilo": 1.0, "kilogram": 1.0, "ounce": 0.0283,
    "oz": 0.0283, "pound": 0.4536, "lb": 0.4536, "ton": 1e3, "tonne": 1e3,
}  # fmt: skip
_LETTER = re.compile(
    r"(?:(start|begin|end|finish)s?(?: with| in)?|(?:have|contain|include|has)s?)"
    r" (?:the letter |an? |letter )?([a-z]|vowel|consonant)(?: in it| in its name)?"
)
_LENGTH = re.compile(r"(?:have|has) (more|fewer|less) than (\w+) letters(?: in it| in its name)?")
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_NAMED = re.compile(r"^(?:the name|its name|the word|the name of the object|the object s name) ?")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that is true of some objects."""

    question: str
    """How the expert asks for it."""
    yes: int
    """Bit i is set if it is true of object i."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a question asks."""

    yes: int
    """Bit i is set if the answer is yes for object i."""
    guess: int | None = None
    """The object, if the question is whether it is this one."""


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers of a text; "isn't" is "is not".

    Example:
        >>> tokens("Isn't it a T-shirt?")
        ['is', 'not', 'it', 'a', 't', 'shirt']
    """
    text = text.lower().replace("\u2019", "'").replace("can't", "can not").replace("n't", " not")
    return re.findall(r"[a-z0-9]+", text.replace("'s ", " ").replace("cannot", "can not"))


class ObjectTable:
    """158 objects in 17 categories, and attributes that are each true or false of each object.

    A question is read as a set of objects for which its answer is yes (a `Meaning`); questions
    that cannot be read have none. Read are, in this order:

    * sizes and weights: ``Is it bigger than a car?``, ``Is it heavier than 5 kg?``;
    * letters of the name: ``Does it start with the letter B?``;
    * direct guesses: ``Is it a cat?`` (a bare word, ``Is it orange?``, is an attribute first);
    * attributes: the question's words without its frame, fillers and endings must be exactly
      those of a phrase of the attribute, so that no word of the question is passed over;
    * two attributes at once: ``Is it a red fruit?``; several, with "or" or "and";
    * all of these with "not", which turns the answer around.

    Source: objects and categories of LMRL-Gym, Abdulhai et al. 2023,
    https://arxiv.org/abs/2311.18232; attributes, sizes (m) and weights (kg) are our own.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        rows = [(c, row) for c, found in data["objects"].items() for row in found]
        self.variants = tuple(tuple(row[0].split(";")) for _, row in rows)
        """For each object its name, then other names of the published list."""
        self.names = tuple(variants[0] for variants in self.variants)
        self.categories = tuple(category for category, _ in rows)
        self.everything = (1 << len(rows)) - 1
        """The set of all objects."""
        self._sizes = [float(row[1]) for _, row in rows]
        self._weights = [float(row[2]) for _, row in rows]
        self._synonyms: dict[str, str] = data["synonyms"]
        self._references: dict[str, tuple[float, float]] = {
            name: (size, weight) for name, (size, weight) in data["references"].items()
        }
        self._guesses: dict[str, int] = {}
        for index, variants in enumerate(self.variants):
            aliases = data["aliases"].get(variants[0], "").split("|")
            for name in filter(None, (*variants, *aliases)):
                key = " ".join(tokens(name))
                for form in (key, f"{key}s", f"{key}es"):
                    self._guesses.setdefault(form, index)
                    size = (self._sizes[index], self._weights[index])
                    self._references.setdefault(form, size)
        self.attributes: dict[str, Attribute] = {}
        self._phrases: dict[frozenset[str], int] = {}
        self._unread = {self._bag(tokens(phrase)) for phrase in data["unread"]}
        self._fill(data)
        self.words = {word for names in self.variants for name in names for word in tokens(name)}
        """All words of the objects' names."""
        self.read = lru_cache(maxsize=20_000)(self._read)
        self.asks = lru_cache(maxsize=20_000)(self._asks)
        self.best_question = lru_cache(maxsize=20_000)(self._best_question)

    # Filling.

    def _fill(self, data: dict[str, Any]) -> None:
        loose: dict[frozenset[str], set[int]] = {}
        for name, written, yes in self._entries(data):
            question, *phrases = written.split("|")
            self.attributes[name] = Attribute(question, yes)
            spoken = self._unframed(tokens(question))
            assert spoken is not None, question
            for phrase in (" ".join(spoken[0]), *phrases):
                mask = self.everything & ~yes if phrase.startswith("!") else yes
                bag = self._bag(tokens(phrase))
                if not bag or self._phrases.setdefault(bag, mask) != mask:
                    raise ValueError(
                        f"{phrase!r} of {name!r} is empty or another attribute's phrase"
                    )
                loose.setdefault(bag - _LEFT_OUT, set()).add(mask)
        for bag, masks in loose.items():
            if bag and len(masks) == 1:
                self._phrases.setdefault(bag, *masks)

    def _entries(self, data: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
        """Name, phrases and members of each attribute; members may name attributes before it."""
        for name, (written, members) in data["attributes"].items():
            yield name, written, self._members(members)
        for name, (written, *limits) in data["measures"].items():
            inside = self._between(self._sizes, limits[0], limits[1])
            yield name, written, inside & self._between(self._weights, limits[2], limits[3])

    def _members(self, written: str) -> int:
        """The set that terms such as ``@Fruits,-Apple,Tomato,#round`` stand for."""
        found = 0
        for term in filter(None, written.split(",")):
            sign, rest = (term[0], term[1:]) if term[0] in "-@#" else ("", term)
            if sign == "@":
                part = self._set(i for i, c in enumerate(self.categories) if c == rest)
                if not part:
                    raise ValueError(f"there is no category {rest!r}")
            elif sign == "#":
                part = self.attributes[rest].yes
            else:
                part = 1 << self.names.index(rest)
            found = found & ~part if sign == "-" else found | part
        return found

    @staticmethod
    def _set(indices: Iterator[int]) -> int:
        return sum(1 << index for index in indices)

    def _between(self, values: list[float], low: float, high: float) -> int:
        return self._set(i for i, value in enumerate(values) if low < value < high)

    # Asking and reading.

    def _best_question(self, left: int, names: tuple[str, ...] = ()) -> str:
        """The attribute's question that divides a set of objects most evenly (`best_question`).

        Of the attributes with these names, or of all.
        """
        count = left.bit_count()
        best = min(
            [self.attributes[name] for name in names or self.attributes],
            key=lambda attribute: abs(count - 2 * (left & attribute.yes).bit_count()),
        )
        return best.question

    def _asks(self, text: str) -> bool:
        """True if a text begins as a question that is answered by yes or no (`asks`)."""
        return self._unframed(tokens(text)) is not None

    def _read(self, question: str) -> Meaning | None:
        """What a question asks; None if it cannot be told. Use `read`, which remembers."""
        if " or " in question and " such as " not in question:  # "a cat, a dog or a cow"
            question = question.replace(", or ", " or ").replace(",", " or ")
        unframed = self._unframed(tokens(question))
        if unframed is None:
            return None
        words, negated = unframed
        meaning = self._clause(words)
        if meaning is not None and negated:
            return Meaning(self.everything & ~meaning.yes)
        return meaning

    @staticmethod
    def _unframed(words: list[str]) -> tuple[list[str], bool] | None:
        """The words without "is it", "does the object" and the like, and whether "not" was there.

        None if the words do not begin as a question that is answered by yes or no.
        """
        while words and (words[0] in _FILLERS or words[0].isdigit()):
            words = words[1:]
        if not words or words[0] not in _AUXILIARIES:
            return None
        auxiliary, words = words[0], words[1:]
        negated = "not" in words
        words = [word for word in words if word != "not"]
        for subject in _SUBJECTS:
            if words[: len(subject)] == subject:
                words = words[len(subject) :]
                acts = auxiliary not in ("is", "are") and subject[0] in ("it", "they", "this")
                if acts and words and words[0] in _ANIMATE:  # it eats: not that it is eaten
                    words = [f"{words[0]}~", *words[1:]]
                break
        if auxiliary in ("has", "have") and words:
            words = ["have", *words]
        return words, negated

    def _clause(self, words: list[str]) -> Meaning | None:
        joint = next((word for word in ("or", "and") if word in words), "")
        meaning = self._joined(words, joint) if joint == "or" else None
        meaning = meaning or self._part(words, both=not joint)
        if meaning is not None:
            return meaning
        for example in ("such", "like", "eg"):
            if example in words[1:]:
                return self._part(words[: words.index(example, 1)])
        return self._joined(words, joint) if joint == "and" else None

    def _joined(self, words: list[str], joint: str) -> Meaning | None:
        """Parts with "or" or "and" between them, each a clause."""
        yes = 0 if joint == "or" else self.everything
        part: list[str] = []
        for word in (*words, joint):
            if word != joint:
                part.append(word)
                continue
            unframed = self._unframed(part)
            meaning = self._part(unframed[0] if unframed else part)
            if meaning is None:
                return None
            yes = yes | meaning.yes if joint == "or" else yes & meaning.yes
            part = []
        return Meaning(yes)

    def _part(self, words: list[str], both: bool = True) -> Meaning | None:
        """A comparison, a letter, a guess, an attribute, or two attributes of one thing."""
        text = " ".join(words)
        for read in (self._compared, self._spelled):
            yes = read(text)
            if yes is not None:
                return Meaning(yes)
        while words and words[0] in _HEDGES:
            words = words[1:]
        named = words[1:] if words[:1] and words[0] in _ARTICLES else words
        if " ".join(named[:2]) in _KINDS:
            named = named[2:]
        guess = self._guesses.get(" ".join(named))
        if guess is not None and named is not words:
            return Meaning(1 << guess, guess)
        bag = self._bag(words)
        if bag in self._unread:
            return None
        for tried in (bag, bag - _LEFT_OUT):
            if tried in self._phrases:
                return Meaning(self._phrases[tried])
        if guess is not None:
            return Meaning(1 << guess, guess)
        yes = self._two(bag - _LEFT_OUT) if both else None
        return None if yes is None else Meaning(yes)

    def _two(self, bag: frozenset[str]) -> int | None:
        """Words that are those of two attributes: both must be true."""
        if not 2 <= len(bag) <= 5:
            return None
        ordered = sorted(bag)
        for size in range(1, len(bag)):
            for part in map(frozenset, combinations(ordered, size)):
                if part in self._phrases and bag - part in self._phrases:
                    return self._phrases[part] & self._phrases[bag - part]
        return None

    def _bag(self, words: list[str]) -> frozenset[str]:
        """The words that matter, without their endings."""
        while words and words[-1] in ("it", "them", "this", "something", "things", "you"):
            words = words[:-1]
        bag = {
            self._stem(word)
            for word, following in zip(words, [*words[1:], ""], strict=False)
            if word not in _DROPPED and not (word in _PORTIONS and following == "of")
        }
        if len(words) > 1 and words[-1] in _STRANDED:
            bag.add(_STRANDED[words[-1]])
        if any(_WEAK.get(a) == "use" and b == "with" for a, b in pairwise(words)):
            bag.add("use with")  # a racket is used with a ball, but is none
        return frozenset(bag)

    def _stem(self, word: str) -> str:
        """A word without its ending; crude, but the same for questions and phrases."""
        if word in _WEAK:
            return _WEAK[word]
        word = self._synonyms.get(word, word)
        for ending in _ENDINGS:
            stem = word[: -len(ending)]
            if word.endswith(ending) and len(stem) > 2 and not word.endswith("ss"):
                doubled = ending in ("ing", "ed") and stem[-1] == stem[-2] and stem[-1] not in "ls"
                return stem[:-1] if doubled else stem
        return word

    def _compared(self, text: str) -> int | None:
        """``bigger than a car``, ``heavier than 5 kg``, ``fit in a shoebox``."""
        fit = _FIT.fullmatch(text)
        if fit is not None:
            size = self._references.get(fit[1])
            return None if size is None else self._between(self._sizes, 0, size[0])
        match = _COMPARISON.search(text)
        if match is None or match.start() > 0:
            return None
        word, other = match.groups()
        by_weight = word in ("heavier", "lighter") or "weigh" in text
        measured = self._measure(other, by_weight)
        if measured is None or (word in ("more", "less") and not by_weight):
            return None
        values = self._weights if by_weight else self._sizes
        if word in ("smaller", "lighter", "shorter", "less"):
            return self._between(values, 0, measured)
        return self._between(values, measured, float("inf"))

    def _measure(self, text: str, by_weight: bool) -> float | None:
        """Metres or kilograms of ``a car`` or ``3 feet``."""
        quantity = _QUANTITY.fullmatch(text)
        units = _KILOGRAMS if by_weight else _METRES
        if quantity is not None:
            number, unit = quantity.groups()
            factor = units.get(unit, units.get(unit.removesuffix("s")))
            count = 1.0 if number in ("a", "an") else _number(number)
            if factor is not None and count is not None:
                return count * factor
        words = text.split()
        if words and words[0] in (*_ARTICLES, "your", "my", "an", "average", "most"):
            words = words[1:]
        if words and words[0] in ("average", "typical", "normal", "human", "adult") and words[1:]:
            words = words[1:]
        reference = self._references.get(" ".join(words))
        return None if reference is None else reference[by_weight]

    def _spelled(self, text: str) -> int | None:
        """``start with b``, ``have more than 5 letters``, of the object's first name."""
        text = _NAMED.sub("", text)
        length = _LENGTH.fullmatch(text)
        if length is not None:
            count = _number(length[2])
            if count is None:
                return None
            lengths = [float(len(re.sub("[^a-z]", "", name.lower()))) for name in self.names]
            if length[1] == "more":
                return self._between(lengths, count, float("inf"))
            return self._between(lengths, 0, count)
        match = _LETTER.fullmatch(text)
        if match is None:
            return None
        where, letter = match.groups()
        tests = {"start": str.startswith, "begin": str.startswith}
        tests |= {"end": str.endswith, "finish": str.endswith}
        test = tests.get(where, str.__contains__)
        letters = {"vowel": _VOWELS, "consonant": _CONSONANTS}.get(letter, letter)
        return self._set(
            i for i, name in enumerate(self.names) if any(test(name.lower(), x) for x in letters)
        )


def _number(word: str) -> float | None:
    if word.isdigit():
        return float(word[:12])
    return float(_NUMBERS.index(word)) if word in _NUMBERS else None


@cache
def object_table() -> ObjectTable:
    """The table, read once per process."""
    path = Path(__file__).with_name("twenty_questions.json")
    return ObjectTable(json.loads(path.read_text(encoding="utf-8")))
