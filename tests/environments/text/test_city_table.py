"""The table of cities: its facts, and how questions are answered without giving names away."""

import random
from collections import Counter

import pytest

from agentgym.environments.text.city_table import (
    CANNOT_TELL,
    QUESTIONS,
    SECRET,
    city_table,
    plain,
)

TABLE = city_table()
# A question, then cities for which the answer is yes, and cities for which it is no.
YES_NO = [
    ("Is it in Asia?", ["Tokyo", "Istanbul", "Singapore"], ["Moscow", "Cairo"]),
    ("Is the city in Europe?", ["Rome", "Istanbul"], ["Tehran"]),
    ("Is it located in South America or Africa?", ["Lima", "Cairo"], ["Paris"]),
    ("Is it in Latin America?", ["Bogota", "Mexico City", "Havana"], ["Chicago", "Madrid"]),
    ("Is it in China?", ["Shanghai", "Hong Kong"], ["Taipei", "Tokyo"]),
    ("Is it a Chinese city?", ["Dalian"], ["Seoul"]),
    ("Is it in the United States?", ["Houston"], ["Toronto"]),
    ("Is it in Korea?", ["Seoul", "Pyong Yang"], ["Tokyo"]),
    ("Isn't it in Asia?", ["Lima"], ["Tokyo"]),
    ("Is it a capital city?", ["Cairo", "Brasilia"], ["Rio de Janeiro", "Sydney", "New York"]),
    ("Is it on the coast?", ["Alexandria", "Los Angeles"], ["Madrid", "Cairo"]),
    ("Does it lie on the Pacific Ocean?", ["Lima"], ["New York"]),
    ("Do people speak Spanish there?", ["Caracas", "Madrid"], ["Sao Paulo"]),
    ("Is Portuguese the official language?", ["Salvador"], ["Buenos Aires"]),
    ("Is it a Spanish city?", ["Madrid"], ["Caracas"]),
    ("Is the currency the euro?", ["Berlin", "Rome"], ["London"]),
    ("Is the main religion Islam?", ["Karachi", "Ankara"], ["Delhi"]),
    ("Is it in the southern hemisphere?", ["Sydney", "Jakarta"], ["Singapore"]),
    ("Is it in the western hemisphere?", ["Havana", "Casablanca"], ["Paris"]),
    ("Do they drive on the left?", ["London", "Tokyo"], ["Shanghai"]),
    ("Is it tropical?", ["Bangkok"], ["Moscow"]),
    ("Does it have more than 5 million people?", ["Lima"], ["Chicago"]),
    ("Does it have a population of over 8,000,000?", ["Tokyo"], ["Cairo"]),
    ("Are there fewer than two million inhabitants?", ["Houston"], ["Paris"]),
    ("Is it larger than Tokyo?", ["Seoul"], ["New York", "Tokyo"]),
    ("Is it one of the 10 largest cities?", ["Tokyo"], ["New York"]),
    ("Does it have the Eiffel Tower?", ["Paris"], ["London"]),
    ("Does the Nile river flow through it?", ["Cairo", "Giza"], ["London"]),
    ("Is it known for sushi?", ["Tokyo"], []),
    ("Is it the largest city in its country?", ["New York", "Toronto"], ["Delhi", "Beijing"]),
    ("Is it in a Spanish-speaking country?", ["Lima"], ["Rome"]),
    ("Is it in an Arab country?", ["Cairo"], ["Tehran"]),
    ("Is it close to the equator?", ["Bogota"], ["Cairo"]),
    ("Is the country a monarchy?", ["London", "Bangkok"], ["Paris"]),
]
OPEN = [
    ("What continent is it on?", "continent"),
    ("In which part of the world is it?", "region"),
    ("Where is it located?", "region"),
    ("What is the name of the country's currency?", "currency"),
    ("What is the official language of the country?", "language"),
    ("What is the climate like?", "climate"),
    ("What sea is nearest?", "coast"),
    ("Which river runs through the city?", "river"),
    ("How many people live there?", "population"),
    ("How big is it?", "population"),
    ("What is the most famous landmark?", "landmark"),
    ("Tell me about the food.", "food"),
    ("What is the city famous for?", "known"),
    ("Which religion is most common?", "religion"),
    ("On which side do people drive?", "driving"),
    ("What is its latitude?", "latitude"),
]


def names(question: str, answer: str) -> set[str]:
    found = zip(TABLE.cities, TABLE.answers(question), strict=True)
    return {city.name for city, told in found if told == answer}


def test_the_published_list() -> None:
    assert len(TABLE.cities) == 100
    assert [(c.rank, c.name, c.population) for c in TABLE.cities[:2]] == [
        (1, "Seoul", 10231), (2, "Sao Paulo", 10009),
    ]  # fmt: skip
    assert (TABLE.cities[99].name, TABLE.cities[99].population) == ("Caracas", 1823)
    populations = [city.population for city in TABLE.cities]
    assert populations == sorted(populations, reverse=True)


def test_facts_are_plausible() -> None:
    for city in TABLE.cities:
        assert -90 < city.latitude < 90, city.name
        assert -180 < city.longitude <= 180, city.name
        assert city.landmark, city.name
        assert city.known, city.name
        assert all(city.foods), city.name
    by_name = {city.name: city for city in TABLE.cities}
    assert by_name["Sydney"].latitude < 0 < by_name["Singapore"].latitude
    assert by_name["Lima"].longitude < 0 < by_name["Cairo"].longitude
    capitals = Counter(city.country for city in TABLE.cities if city.capital)
    assert max(capitals.values()) == 1  # no country has two


def test_no_told_fact_names_city_or_country() -> None:
    for topic, told in TABLE.topics.items():
        for index, text in enumerate(told):
            assert not TABLE.leaks(index, text), (topic, TABLE.cities[index].name, text)


@pytest.mark.parametrize(
    ("name", "text", "leaks"),
    [
        ("Tokyo", "It is tokyo.", True),
        ("Tokyo", "The Japanese drink tea.", True),
        ("Tokyo", "People speak a language of Asia.", False),
        ("Sao Paulo", "É São Paulo!", True),
        ("Sao Paulo", "S\u00e3o people live in BRAZIL-like heat", True),
        ("Lima", "The climate is mild.", False),
        ("Los Angeles", "It is large.", False),
        ("Los Angeles", "Welcome to LA.", True),
        ("New York", "An American city", True),
        ("Bombay", "It is Mumbai", True),
    ],
)
def test_leaks(name: str, text: str, leaks: bool) -> None:
    assert TABLE.leaks(TABLE.index(name), text) is leaks


@pytest.mark.parametrize(("question", "yes", "no"), YES_NO)
def test_yes_no_questions(question: str, yes: list[str], no: list[str]) -> None:
    assert set(yes) <= names(question, "Yes.")
    assert set(no) <= names(question, "No.")


@pytest.mark.parametrize(("question", "topic"), OPEN)
def test_open_questions(question: str, topic: str) -> None:
    assert TABLE.answers(question) == TABLE.topics[topic]


@pytest.mark.parametrize("topic", [topic for topic in QUESTIONS if topic != "capital"])
def test_each_topic_has_its_question(topic: str) -> None:
    assert TABLE.answers(QUESTIONS[topic]) == TABLE.topics[topic]


@pytest.mark.parametrize(
    "question",
    [
        "What is the name of the city?",
        "Which country is it in?",
        "What city is it?",
        "How many letters does it have?",
        "What is it called?",
    ],
)
def test_names_are_secret(question: str) -> None:
    assert set(TABLE.answers(question)) == {SECRET}


@pytest.mark.parametrize(
    "question",
    [
        "Is it near China?",
        "Is it north of Japan?",
        "Is it a very old city?",
        "Is it one of the 10 largest cities in Asia?",
        "Does the country have more than 50 million people?",
        "Does it have more than 5 million tourists?",
        "Is it larger than Tokyo in area?",
        "Does it have a zoo or an opera?",
        "Who lives there on Mars?",
        "Is it",
        "",
    ],
)
def test_what_is_not_understood_is_not_guessed(question: str) -> None:
    assert set(TABLE.answers(question)) == {CANNOT_TELL}


def test_food_of_others_is_not_denied() -> None:
    assert names("Is it known for sushi?", "No.") == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Tokyo", "Tokyo"),
        ("is it tokyo?", "Tokyo"),
        ("Is the city Tokyo, Japan?", "Tokyo"),
        ("I guess it is New York City.", "New York"),
        ("My final guess is Kolkata in India!", "Calcutta"),
        ("The city is S\u00e3o Paulo.", "Sao Paulo"),
        ("Could it be Saint Petersburg?", "St Petersburg"),
        ("Is it in Beijing?", "Beijing"),
        ("Is it Mexico City?", "Mexico City"),
        ("Is it Singapore?", "Singapore"),
        ("Is it Mexico?", ""),
        ("Is it Tokyo or Paris?", ""),
        ("Tokyo Paris London", ""),
        ("Is it bigger than Tokyo?", ""),
        ("Is it not Tokyo?", ""),
        ("Tokyo is nice", ""),
        ("", ""),
    ],
)
def test_guesses(text: str, name: str) -> None:
    assert TABLE.guess(text) == (TABLE.index(name) if name else None)


def test_every_city_can_be_guessed_by_every_name() -> None:
    for index, city in enumerate(TABLE.cities):
        for name in (city.name, *city.aliases, f"{city.name}, {city.country}"):
            assert TABLE.guess(f"Is it {name}?") == index, name


def test_agreeing() -> None:
    asian = TABLE.agreeing("Is it in Asia?", "Yes.")
    assert asian | TABLE.agreeing("Is it in Asia?", "No.") == TABLE.everything
    assert asian >> TABLE.index("Tokyo") & 1
    assert TABLE.agreeing("Is it in Asia?", "Perhaps.") == TABLE.everything


def test_the_best_question_tells_most() -> None:
    assert len(set(TABLE.answers(TABLE.best_question(TABLE.everything)))) == 100
    two = 1 << TABLE.index("Rome") | 1 << TABLE.index("Paris")
    answers = TABLE.answers(TABLE.best_question(two))
    assert answers[TABLE.index("Rome")] != answers[TABLE.index("Paris")]


@pytest.mark.parametrize(
    ("text", "asks"),
    [("Is it?", True), ("What?", True), ("3. Where", True), ("ok, which sea", True),
     ("quit", False), ("f(", False), ("", False), ('{"name": "x"', False)],
)  # fmt: skip
def test_what_is_a_question(text: str, asks: bool) -> None:
    assert TABLE.asks(text) is asks


def test_whatever_is_asked_nothing_is_raised() -> None:
    chance = random.Random(0)
    questions = [row[0] for row in YES_NO] + [row[0] for row in OPEN]
    words = [word for question in questions for word in question.split()]
    words += ["", "or", "not", "than", "top", "among the", "\u0661", "\u00b2", "9" * 250, "million"]
    for _ in range(1000):
        text = " ".join(chance.choices(words, k=chance.randrange(9)))
        for question in (text, f"Is it {text}?", f"Does it have more than {text}"):
            assert len(TABLE.answers(question)) == 100
            TABLE.guess(question)
            TABLE.leaks(0, question)


def test_plain() -> None:
    assert plain("Isn't  it S\u00e3o-Paulo, of 10,009,000?") == "is not it sao paulo of 10 009000"
