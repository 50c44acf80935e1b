"""The cities of Guess My City, what is known of them, and how a written question is answered."""

import json
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

CANNOT_TELL = "I cannot tell."
SECRET = "The names of the city and of its country are secret."
_OPENINGS = set("what which where how who when why whats in on at of tell describe".split())
_AUXILIARIES = set(
    "is are was were does do did can could would will has have may might should".split()
)
_FILLERS = {"ok", "okay", "so", "well", "hmm", "then", "and", "now", "question", "q"}
_GUESS_FRAME = re.compile(
    r"(?:(?:so|then|ok|okay|well) )*"
    r"(?:(?:is|could|can|might|would) (?:it|this|that|(?:the|your) city|the answer)(?: be\b)?"
    r"|(?:it|the city|the answer|my (?:final )?guess|my answer) (?:is|must be)|it s|its"
    r"|i (?:guess|think|believe|say)(?: that)?(?: it is| it s| the city is)?|guess)? ?"
    r"(?:in |called |named |perhaps |maybe |the city of |the city )*"
)
# Words of a yes/no question that say nothing beyond the fact that is named in it.
_EMPTY = set(
    "is are was were does do did can could would will has have may might should it this that the a "
    "an city there they people inhabitants of in on at by to for from with its their my your you "
    "one located situated lie lies lying country continent nation place found set part any some "
    "speak speaks spoken language languages official main mainly mostly primarily primary first "
    "currency use used uses using money pay climate weather major large big run flow flows "
    "flowing through runs known famous for as popular local dish dishes food foods eat eaten home "
    "religion majority predominantly predominant most region area world hemisphere side road drive "
    "landmark landmarks monument be within along beside host belong belongs see visit which whose "
    "s called dominant faith and also built inside speaking widely".split()
)
_SPEAKING = re.compile(r"\b(?:speak(?:s|ing)?|spoken|languages?|tongue)\b")
_TOPICS: tuple[tuple[str, str, str], ...] = (
    ("currency", r"currency|money|coins?|pay", "What currency do people use there?"),
    ("language", r"languages?|speak|spoken|tongue", "Which language do people speak there?"),
    ("religion", r"religions?|faith|worship|believe", "What is the main religion there?"),
    ("landmark", r"landmarks?|monuments?|attractions?|sights?|tourists?|buildings?|visit|see|"
     r"architecture|museums?|temples?|structures?", "Which landmarks does the city have?"),
    ("food", r"foods?|dish(?:es)?|cuisine|eat|culinary|meals?|specialt(?:y|ies)|drinks?",
     "What food is the city known for?"),
    ("climate", r"climate|weather|temperatures?|rain|rainfall|seasons?|winters?|summers?|hot|cold",
     "What is the climate like?"),
    ("river", r"rivers?", "Which river flows through the city?"),
    ("coast", r"sea|seas|ocean|oceans|coast|coastal|bod(?:y|ies) of water|waters?|harbou?r|port|"
     r"beach(?:es)?|shore|lake", "On which sea does the city lie?"),
    ("rank", r"rank|ranks|ranked|ranking", "What is its rank by population?"),
    ("population", r"population|populous|inhabitants|residents|how (?:many people|big|large)|"
     r"people live|size", "How many people live in the city?"),
    ("driving", r"driv\w*|side of the road|traffic", "On which side of the road do people drive?"),
    ("continent", r"continents?", "On which continent is the city?"),
    ("latitude", r"latitude|longitude|coordinates|how far (?:north|south)|equator",
     "What is its latitude?"),
    ("hemisphere", r"hemispheres?", "In which hemispheres is the city?"),
    ("region", r"region|part of the world|where|area|located|location",
     "In which region of the world is the city?"),
    ("capital", r"capital", "Is the city the capital of its country?"),
    ("government", r"government|political|politics|monarchy|republic|rul(?:ed|es|er)|king|"
     r"president",
     "What form of government does the country have?"),
    ("known", r"known|famous(?! people| person)|industr\w*|econom\w*|cultur\w*|special|unique|"
        r"stand out|interesting|about (?:it|the city|this)",
        "What is the city known for?"),
)  # fmt: skip
_ASKED = [(topic, re.compile(rf"\b(?:{words})\b")) for topic, words, _ in _TOPICS]
QUESTIONS = {topic: question for topic, _, question in _TOPICS}
"""A question for each topic."""
_NAME_ASKED = re.compile(
    r"\b(?:what|which|whats) (?:is |the |s )*(?:city|country|nation)\b"
    r"|\bnames?\b|\bcalled\b|\bspell|\bletters?\b"
)
_THRESHOLD = re.compile(
    r"(more|over|less|fewer|under|larger|greater|smaller|below|above)(?: than)? "
    r"([\d ]+|one|two|three|four|five|six|seven|eight|nine|ten) ?(million|thousand)?"
    r"(?: people| inhabitants| residents)?"
)
_LARGER = re.compile(r"\b(larger|bigger|more populous|smaller|less populous) than (.+)")
_LARGEST = re.compile(
    r"(?:largest|biggest|most populous|most populated) city (?:in|of) (?:its|the|this|that) country"
)
_COUNTING = set(
    "is are does do has have it this the a an city there they of in on at by with its live lives "
    "living people inhabitants residents population populated populous larger largest biggest most "
    "cities world much does more total number".split()
)
_AMONG = re.compile(r"\b(?:top|among the|one of the) (\d+|ten|five|twenty)\b")
_NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten".split()
    )
} | {"twenty": 20}  # fmt: skip
_REGION_NAMES = {
    "East Asia": "east asia|eastern asia|far east",
    "South Asia": "south asia|southern asia|indian subcontinent",
    "South-East Asia": "south east asia|southeast asia|southeastern asia",
    "Central Asia": "central asia",
    "the Middle East": "middle east|middle eastern",
    "Western Europe": "western europe|west europe",
    "Eastern Europe": "eastern europe|east europe",
    "North Africa": "north africa|northern africa",
    "Central Africa": "central africa",
    "East Africa": "east africa|eastern africa",
    "West Africa": "west africa|western africa",
    "the Caribbean": "caribbean",
}
_CONTINENT_NAMES = {
    "Asia": "asia|asian",
    "Europe": "europe|european",
    "Africa": "africa|african",
    "North America": "north america|north american",
    "South America": "south america|south american",
    "Oceania": "oceania",
}
_LATIN = {"Latin America", "South America", "the Caribbean"}
_RELIGIONS = {
    "Islam": "islam|islamic|muslim",
    "Christianity": "christianity|christian",
    "Buddhism": "buddhism|buddhist",
    "Hinduism": "hinduism|hindu",
}
_SEAS = (
    "pacific",
    "atlantic",
    "mediterranean sea",
    "arabian sea",
    "baltic",
    "java sea",
    "yellow sea",
)


@dataclass(frozen=True, slots=True)
class City:
    """One city. The texts of all fields but the names give neither city nor country away."""

    name: str
    aliases: tuple[str, ...]
    country: str
    rank: int
    population: int
    """Thousands, as published."""
    latitude: float
    longitude: float
    capital: bool
    coast: str
    """The sea it lies on, or empty."""
    river: str
    climate: str
    landmark: str
    foods: tuple[str, ...]
    known: str


def plain(text: str) -> str:
    """Lower-case words of a text, accents removed, one space between them.

    Example:
        >>> plain("Is it São Paulo?")
        'is it sao paulo'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(
        re.findall(r"[a-z0-9]+", text.lower().replace(",000", "000").replace("n't", " not"))
    )


class CityTable:
    """The 100 most populous cities (of the published list), with facts of our own.

    `answers` gives the answer to a question for every city: to open questions by the topic that is
    asked for, to yes/no questions if all their words are understood. `leaks` tells whether a text
    names a city or its country.

    Source: names, countries and populations of LMRL-Gym, Abdulhai et al. 2023,
    https://arxiv.org/abs/2311.18232 (spelling corrected; Taipei and its country are kept apart
    from China); all other facts are our own.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self._countries: dict[str, list[str]] = data["countries"]
        self._languages: dict[str, str] = data["languages"]
        self.cities = tuple(
            City(
                name=row[0],
                aliases=tuple(filter(None, row[1].split("|"))),
                country=row[2],
                rank=rank,
                population=row[3],
                latitude=row[4],
                longitude=row[5],
                capital=bool(row[6]),
                coast=row[7],
                river=row[8],
                climate=row[9],
                landmark=row[10],
                foods=tuple(row[11].split("|")),
                known=row[12],
            )
            for rank, row in enumerate(data["cities"], start=1)
        )
        self.everything = (1 << len(self.cities)) - 1
        """The set of all cities, bit i for city i."""
        self._named = {
            plain(name): index
            for index, city in enumerate(self.cities)
            for name in (city.name, *city.aliases)
        }
        self._lands = {
            plain(name): country
            for country, row in self._countries.items()
            for name in (country, *row[0].split("|"))
        }
        self._indices = {city.name: index for index, city in enumerate(self.cities)}
        self._leaks = tuple(self._leak_pattern(city) for city in self.cities)
        self.leaks = lru_cache(maxsize=5_000)(self._leaking)
        self._facts = self._fact_phrases()
        self._tongues = self._tongue_phrases()
        longest = sorted({*self._facts, *self._tongues}, key=len, reverse=True)
        self._fact = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b")
        self.topics = {
            topic: tuple(self._told(topic, city) for city in self.cities) for topic in QUESTIONS
        }
        """For each topic the answer for each city."""
        self.asks = lru_cache(maxsize=20_000)(self._asks)
        self.answers = lru_cache(maxsize=5_000)(self._answers)
        self.guess = lru_cache(maxsize=20_000)(self._guess)
        self.agreeing = lru_cache(maxsize=20_000)(self._agreeing)
        self.best_question = lru_cache(maxsize=5_000)(self._best_question)

    def index(self, name: str) -> int:
        """The number of the city of this name.

        Raises:
            KeyError: there is none.
        """
        return self._indices[name]

    def _asks(self, text: str) -> bool:
        """True if a text is a question by its first word (`asks`)."""
        words = plain(text).split()
        while words and (words[0] in _FILLERS or words[0].isdigit()):
            words = words[1:]
        return bool(words) and words[0] in _OPENINGS | _AUXILIARIES

    def _leaking(self, index: int, text: str) -> bool:
        """True if a text names the city or its country, also as part of a word (`leaks`)."""
        return self._leaks[index].search(plain(text)) is not None

    def _guess(self, text: str) -> int | None:
        """The city that a text names as its guess; None if it is no guess, or of several."""
        said = plain(text)
        frame = _GUESS_FRAME.match(said)
        words = said[frame.end() if frame else 0 :].split()
        for end in range(len(words), 0, -1):
            rest = " ".join(words[end:]).removeprefix("city").removeprefix("in ").strip()
            index = self._named.get(" ".join(words[:end]))
            if index is not None and (not rest or rest in self._lands):
                return index
        return None

    def _answers(self, text: str) -> tuple[str, ...]:
        """The answer for each city."""
        said = plain(text)
        words = said.split()
        while words and (words[0] in _FILLERS or words[0].isdigit()):
            words = words[1:]
        if words and words[0] in _AUXILIARIES:
            return self._yes_no(" ".join(words))
        for topic, pattern in _ASKED:
            if pattern.search(said):
                return self.topics[topic]
        if _NAME_ASKED.search(said):
            return (SECRET,) * len(self.cities)
        return (CANNOT_TELL,) * len(self.cities)

    def _agreeing(self, text: str, answer: str) -> int:
        """The set of cities for which this is the answer; all of them if it is for none."""
        found = sum(1 << i for i, other in enumerate(self.answers(text)) if other == answer)
        return found or self.everything

    def _best_question(self, left: int) -> str:
        """The topic's question that divides a set of cities into the smallest parts."""

        def expected(topic: str) -> int:
            parts: dict[str, int] = defaultdict(int)
            for index, told in enumerate(self.topics[topic]):
                parts[told] += left >> index & 1
            return sum(count * count for count in parts.values())

        return QUESTIONS[min(QUESTIONS, key=expected)]

    # Yes/no questions.

    def _yes_no(self, said: str) -> tuple[str, ...]:
        negated = " not " in f" {said} "
        said = re.sub(r"\bnot\b ?", "", said)
        parts = [self._clause(part) for part in re.split(r"\bor\b", said)]
        both = all(part is not None for part in parts)
        if not both:
            return (CANNOT_TELL,) * len(self.cities)
        answers = []
        for index in range(len(self.cities)):
            values = [part[index] for part in parts if part is not None]
            known = True if True in values else None if None in values else False
            word = CANNOT_TELL if known is None else "Yes." if known is not negated else "No."
            answers.append(word)
        return tuple(answers)

    def _clause(self, said: str) -> list[bool | None] | None:
        """For each city whether a statement is true; None if it cannot be read."""
        counted = self._counted(said)
        if counted is not None:
            return list(counted)
        found = self._fact.findall(said)
        rest = self._fact.sub(" ", said).split()
        if not found or any(word not in _EMPTY for word in rest):
            return None
        facts = self._facts
        if _SPEAKING.search(said) or not all(phrase in facts for phrase in found):
            facts = {**self._facts, **self._tongues}  # "Spanish" is a language here
        columns = [facts[phrase] for phrase in found]
        return [
            False if False in values else None if None in values else True
            for values in zip(*columns, strict=True)
        ]

    def _counted(self, said: str) -> list[bool] | None:
        """Statements about the population and the rank."""
        larger = _LARGER.search(said)
        if larger is not None and larger[2] in self._named and _only_counts(said, larger):
            other = self.cities[self._named[larger[2]]].population
            bigger = larger[1] in ("larger", "bigger", "more populous")
            return [
                city.population > other if bigger else city.population < other
                for city in self.cities
            ]
        largest = _LARGEST.search(said)
        if largest is not None and _only_counts(said, largest):
            first: dict[str, int] = {}
            for city in self.cities:  # in the order of their ranks
                first.setdefault(city.country, city.rank)
            return [city.rank == first[city.country] for city in self.cities]
        among = _AMONG.search(said)
        if among is not None and _only_counts(said, among):
            count = int(_NUMBERS.get(among[1], among[1]))
            return [city.rank <= count for city in self.cities]
        limit = _THRESHOLD.search(said)
        if limit is None or not _only_counts(said, limit):
            return None
        number = limit[2].replace(" ", "")[:12]
        limited = float(_NUMBERS.get(number, number or "0"))
        if limited < 1000 and not limit[3]:  # five of what?
            return None
        thousands = limited * {"million": 1000, "thousand": 1}.get(limit[3], 0.001)
        more = limit[1] in ("more", "over", "larger", "greater", "above")
        return [
            city.population > thousands if more else city.population < thousands
            for city in self.cities
        ]

    def _fact_phrases(self) -> dict[str, tuple[bool | None, ...]]:
        """What a yes/no question may name, and for each city whether it is true there."""
        facts: dict[str, tuple[bool | None, ...]] = {}

        def add(phrases: str, holds: list[bool], *, only_yes: bool = False) -> None:
            column = tuple(None if only_yes and not value else value for value in holds)
            for phrase in filter(None, map(plain, phrases.split("|"))):
                facts.setdefault(phrase, column)

        rows = [(city, self._countries[city.country]) for city in self.cities]
        for phrase in self._lands:
            lands = {
                c
                for c, row in self._countries.items()
                if phrase in map(plain, [c, *row[0].split("|")])
            }
            add(phrase, [city.country in lands for city in self.cities])
        for name, phrases in _CONTINENT_NAMES.items():
            add(phrases, [name in row[1].split(" and ") for _, row in rows])
        for name, phrases in _REGION_NAMES.items():
            add(phrases, [row[2] == name for _, row in rows])
        add("latin america", [row[2] in _LATIN or city.country == "Mexico" for city, row in rows])
        add("americas|america", ["America" in row[1] for _, row in rows])
        add("capital", [city.capital for city in self.cities])
        add(
            "coast|coastal|sea|ocean|seaside|coastline",
            [bool(city.coast) for city in self.cities],
        )
        add("inland|landlocked", [not city.coast for city in self.cities])
        for sea in _SEAS:
            add(f"{sea}|{sea} ocean", [sea in city.coast.lower() for city in self.cities])
        for currency in sorted({row[4] for _, row in rows}):
            add(f"{currency}|{currency}s", [row[4] == currency for _, row in rows])
        for religion, phrases in _RELIGIONS.items():
            add(phrases, [religion in row[5] for _, row in rows])
        for climate in sorted({city.climate for city in self.cities}):
            add(climate, [city.climate == climate for city in self.cities])
        add("northern|north of the equator", [city.latitude > 0 for city in self.cities])
        add("southern|south of the equator", [city.latitude < 0 for city in self.cities])
        add("near the equator|close to the equator", [abs(c.latitude) <= 10 for c in self.cities])
        add("tropics", [abs(city.latitude) < 23.4 for city in self.cities])
        add("arab", ["arabic" in self._spoken(city) for city in self.cities])
        add("eastern", [city.longitude > 0 for city in self.cities])
        add("western", [city.longitude < 0 for city in self.cities])
        for side in ("left", "right"):
            add(side, [row[6] == side for _, row in rows])
        for form in ("monarchy", "republic"):
            add(form, [row[7] == form for _, row in rows])
        add("river|rivers", [bool(city.river) for city in self.cities], only_yes=True)
        for city in self.cities:
            if city.river and city.river[0].isupper():
                add(
                    f"{city.river} river|river {city.river}",
                    [o.river == city.river for o in self.cities],
                )
            for landmark in re.findall(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)+", city.landmark):
                add(landmark, [landmark in other.landmark for other in self.cities])
            for food in city.foods:
                add(food, [food in other.foods for other in self.cities], only_yes=True)
        return facts

    def _tongue_phrases(self) -> dict[str, tuple[bool | None, ...]]:
        spoken = [self._spoken(city) for city in self.cities]
        languages = sorted({language for found in spoken for language in found})
        return {name: tuple(name in found for found in spoken) for name in languages}

    # What is told.

    def _spoken(self, city: City) -> list[str]:
        return (self._languages.get(city.name) or self._countries[city.country][3]).split("|")

    def _told(self, topic: str, city: City) -> str:
        """The answer to an open question."""
        row = self._countries[city.country]
        match topic:
            case "currency":
                return f"The currency is the {row[4]}."
            case "language":
                index = city.rank - 1
                spoken = [
                    "a language named after the place" if self.leaks(index, word) else word.title()
                    for word in self._spoken(city)
                ]
                return f"People speak {' and '.join(spoken)}."
            case "religion":
                return (
                    f"The main religion is {row[5]}."
                    if "no " not in row[5]
                    else (f"The largest groups have {row[5]}.")
                )
            case "landmark":
                return f"It has {city.landmark}."
            case "food":
                return f"It is known for {' and '.join(city.foods)}."
            case "climate":
                return f"The climate is {city.climate}."
            case "river":
                if not city.river:
                    return "No great river flows through it."
                name = f"the {city.river} river" if city.river[0].isupper() else city.river
                return f"There is {name}."
            case "coast":
                return f"It lies on {city.coast}." if city.coast else "It does not lie on the sea."
            case "rank":
                return f"It is number {city.rank} of the 100 largest cities on my list."
            case "population":
                return f"About {city.population / 1000:.1f} million people live in the city proper."
            case "driving":
                return f"People drive on the {row[6]}."
            case "continent":
                return f"It is in {row[1]}."
            case "latitude":
                side = "north" if city.latitude > 0 else "south"
                return f"It is {abs(city.latitude):.0f} degrees {side} of the equator."
            case "hemisphere":
                north = "northern" if city.latitude > 0 else "southern"
                east = "eastern" if city.longitude > 0 else "western"
                return f"It is in the {north} and the {east} hemisphere."
            case "region":
                return f"It is in {row[2]}."
            case "capital":
                return "It is a capital." if city.capital else "It is not the capital."
            case "government":
                return f"The country is a {row[7]}."
        return f"It is known for {city.known}."

    def _lands_own(self, city: City) -> set[str]:
        """Names of the land and its people."""
        names = (city.country, *self._countries[city.country][0].split("|"))
        return {plain(name) for name in names}

    def _leak_pattern(self, city: City) -> re.Pattern[str]:
        names = {plain(name) for name in (city.name, *city.aliases)} | self._lands_own(city)
        # Longer names count as the beginning of a word too: the land's name in its people's.
        parts = [f"{name}\\b" if len(name) <= 4 else name for name in sorted(names)]
        return re.compile(rf"\b(?:{'|'.join(parts)})")


def _only_counts(said: str, match: re.Match[str]) -> bool:
    """True if the rest of the words limits the statement to nothing smaller or larger."""
    return set((said[: match.start()] + said[match.end() :]).split()) <= _COUNTING


@cache
def city_table() -> CityTable:
    """The table, read once per process."""
    path = Path(__file__).with_name("guess_my_city.json")
    return CityTable(json.loads(path.read_text(encoding="utf-8")))
