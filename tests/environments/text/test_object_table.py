"""The table of objects: its facts, and how questions are read."""

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from agentgym.environments.text import object_table as module
from agentgym.environments.text.object_table import ObjectTable, object_table, tokens

TABLE = object_table()
# What anybody would answer; the first object is one for which it is true, the second is not.
FACTS = [
    ("animal", "Cat", "Apple"),
    ("alive", "Tree", "Rock"),
    ("natural", "Potato", "Pencil"),
    ("edible", "Banana", "Bowl"),
    ("fruit", "Tomato", "Carrot"),
    ("vegetable", "Celery", "Apple"),
    ("citrus", "Orange", "Mango"),
    ("root", "Carrot", "Corn"),
    ("pit", "Peach", "Apple"),
    ("metal", "Hammer", "Pillow"),
    ("wood", "Piano", "Trumpet"),
    ("leather", "Belt", "Socks"),
    ("sphere", "Golf ball", "Football"),
    ("wheels", "Bus", "Boat"),
    ("two_wheels", "Motorcycle", "Car"),
    ("flies", "Helicopter", "Train"),
    ("on_water", "Ship", "Car"),
    ("screen", "Television", "Microwave"),
    ("electric", "Blender", "Hammer"),
    ("brass", "Trombone", "Saxophone"),
    ("reed", "Clarinet", "Flute"),
    ("bow", "Violin", "Guitar"),
    ("feet", "Socks", "Gloves"),
    ("jewelry", "Brooch", "Belt"),
    ("clothing", "Skirt", "Helmet"),
    ("furniture", "Nightstand", "Pillow"),
    ("drawers", "Dresser", "Chair"),
    ("ink", "Pen", "Pencil"),
    ("salty", "Sea", "Lake"),
    ("space", "Meteorite", "Rock"),
    ("tool", "Wrench", "Spoon"),
    ("screws", "Screwdriver", "Hammer"),
    ("toy", "Kite", "Key"),
    ("pairs", "Earring", "Necklace"),
    ("pocket", "Key", "Chair"),
    ("carried", "Chair", "Piano"),
    ("big", "Elephant", "Cat"),
    ("heavy", "Horse", "Dog"),
    ("carnivore", "Tiger", "Cow"),
    ("cutlery", "Fork", "Plate"),
]
# A question, an object for which the answer is yes, one for which it is no.
READ = [
    ("Is it alive?", "Dog", "Car"),
    ("is it a living thing", "Tree", "Chair"),
    ("Is the object something you can eat?", "Corn", "Fork"),
    ("Is it used for eating?", "Fork", "Corn"),
    ("Do you eat with it?", "Spoon", "Apple"),
    ("Does it eat meat?", "Lion", "Apple"),
    ("Does it eat?", "Sheep", "Apple"),
    ("Is it an animal that eats meat?", "Lion", "Cow"),
    ("Is it man-made?", "Desk", "River"),
    ("Isn't it an animal?", "Desk", "Horse"),
    ("Is it not made of metal?", "Pillow", "Hammer"),
    ("Is it made of wood or plastic?", "Lego", "Hammer"),
    ("Is it a fruit or a vegetable?", "Carrot", "Cat"),
    ("Is it a red fruit?", "Strawberry", "Banana"),
    ("Is it orange?", "Carrot", "Apple"),
    ("Is it orange in color?", "Tiger", "Lion"),
    ("Could it be worn around the neck?", "Scarf", "Belt"),
    ("Would you find it in a kitchen?", "Whisk", "Bed"),
    ("Are they worn on the feet?", "Boots", "Gloves"),
    ("Is it a type of vehicle, such as a car or a truck?", "Train", "Cat"),
    ("Does it use electricity?", "Computer", "Pencil"),
    ("Is it bigger than a breadbox?", "Bed", "Spoon"),
    ("Is it larger than a microwave oven?", "Refrigerator", "Pen"),
    ("Is it smaller than a cat?", "Ring", "Horse"),
    ("Is it heavier than a person?", "Bear", "Cat"),
    ("Does it weigh more than 10 pounds?", "Dog", "Apple"),
    ("Does it weigh less than 1 kg?", "Apple", "Dog"),
    ("Is it longer than 2 meters?", "Train", "Knife"),
    ("Is it shorter than one foot?", "Key", "Rake"),
    ("Is it bigger than a cat and smaller than a horse?", "Sheep", "Elephant"),
    ("Could it fit in a shoebox?", "Watch", "Couch"),
    ("Does it start with the letter B?", "Bear", "Cat"),
    ("Does its name end in e?", "Apple", "Cat"),
    ("Does it contain the letter z?", "Puzzle", "Cat"),
    ("Does it have more than 9 letters?", "Watermelon", "Cat"),
    ("3. Is it a pet?", "Rabbit", "Tiger"),
    ("Ok, so is it a toy?", "Doll", "Desk"),
    ("Is it a bird?", "", "Cat"),
    ("Is it white or black?", "Paper", "Soccer ball"),
    ("Is it black and white?", "Soccer ball", "Paper"),
    ("Is it an apple, an orange, or a banana?", "Orange", "Mango"),
    ("Is it a piece of electronics?", "Camera", "Chair"),
    ("Can you drink it?", "", "Cup"),
    ("Can you drink from it?", "Cup", "River"),
    ("Can it be carried by one person?", "Chair", "Ship"),
    ("Does it cost more than $100?", "Piano", "Pencil"),
    ("Does it start with a vowel?", "Apple", "Cat"),
    ("Does it have more than two wheels?", "Bus", "Motorcycle"),
]
UNREAD = [
    "Is it used on Tuesdays by pirates?",
    "Does it have metal teeth that are purple inside a spaceship?",
    "Is it bigger than a glorp?",
    "Can it swim?",  # that one can swim in it is another question
    "Is it used to hold something?",
    "Can it be used as a weapon?",
    "Is it used with a ball?",  # a racket is: "ball" alone must not answer it
    "Is it?",
    "What is it?",
    "Is it a",
    "",
    "???",
]


def yes(question: str) -> set[str]:
    meaning = TABLE.read(question)
    assert meaning is not None, question
    return {name for i, name in enumerate(TABLE.names) if meaning.yes >> i & 1}


def test_the_published_list() -> None:
    assert len(TABLE.names) == len(set(TABLE.names)) == 158
    sizes = {name: TABLE.categories.count(name) for name in TABLE.categories}
    assert sizes == {
        "Sports": 10, "Animals": 10, "Fruits": 10, "Vehicles": 10, "Clothes": 11,
        "Electronics": 10, "Musical Instruments": 10, "Furniture": 10, "Office Supplies": 14,
        "Vegetables": 10, "Art": 7, "Kitchen Tools": 10, "Nature": 11, "Toys": 5, "Jewelry": 9,
        "Garden Supplies": 5, "Tools": 6,
    }  # fmt: skip
    assert TABLE.variants[TABLE.names.index("Airplane")] == ("Airplane", "Plane")


def test_every_object_can_be_told_from_every_other() -> None:
    rows = [
        tuple(attribute.yes >> i & 1 for attribute in TABLE.attributes.values())
        for i in range(len(TABLE.names))
    ]
    assert [pair for pair in combinations(range(158), 2) if rows[pair[0]] == rows[pair[1]]] == []


@pytest.mark.parametrize(("name", "true", "false"), FACTS)
def test_facts(name: str, true: str, false: str) -> None:
    members = TABLE.attributes[name].yes
    assert members >> TABLE.names.index(true) & 1
    assert not members >> TABLE.names.index(false) & 1


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("animal", "alive"), ("animal", "natural"), ("pet", "domestic"), ("farm", "domestic"),
        ("domestic", "animal"), ("feline", "carnivore"), ("carnivore", "animal"),
        ("citrus", "fruit"), ("melon", "fruit"), ("fruit", "edible"), ("vegetable", "edible"),
        ("edible", "plant"), ("root", "vegetable"), ("salty", "water"), ("largest_water", "salty"),
        ("sphere", "round"), ("ball", "sport"), ("two_wheels", "wheels"), ("driven", "vehicle"),
        ("on_road", "on_land"), ("rails", "on_land"), ("fuel", "motor"), ("screen", "buttons"),
        ("cutlery", "kitchen_tool"), ("dish", "kitchen_tool"), ("kitchen_tool", "kitchen"),
        ("brass", "blown"), ("woodwind", "blown"), ("blown", "instrument"), ("reed", "woodwind"),
        ("string_instrument", "strings"), ("feet", "clothing"), ("upper", "clothing"),
        ("lower", "clothing"), ("clothing", "worn"), ("jewelry", "worn"), ("neck", "worn"),
        ("sit", "furniture"), ("drawers", "furniture"), ("pocket", "one_hand"),
        ("one_hand", "carried"), ("tiny", "palm"), ("construction", "tool"), ("toy", "played"),
    ],
)  # fmt: skip
def test_no_attribute_contradicts_a_wider_one(narrow: str, wide: str) -> None:
    assert TABLE.attributes[narrow].yes & ~TABLE.attributes[wide].yes == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("natural", "machine"), ("natural", "electric"), ("natural", "plastic"),
        ("animal", "edible"), ("big", "pocket"), ("heavy", "carried"), ("soft", "sharp"),
        ("furniture", "clothing"), ("jewelry", "clothing"), ("brass", "woodwind"),
        ("on_water", "on_land"), ("animal", "instrument"), ("carnivore", "hooves"),
    ],
)  # fmt: skip
def test_attributes_that_exclude_each_other(one: str, other: str) -> None:
    assert TABLE.attributes[one].yes & TABLE.attributes[other].yes == 0


def test_every_attribute_is_what_its_question_asks() -> None:
    for name, attribute in TABLE.attributes.items():
        meaning = TABLE.read(attribute.question)
        assert meaning is not None, name
        assert (meaning.yes, meaning.guess) == (attribute.yes, None), name


@pytest.mark.parametrize(("question", "true", "false"), READ)
def test_questions_are_read(question: str, true: str, false: str) -> None:
    answer = yes(question)
    assert not true or true in answer
    assert false not in answer


@pytest.mark.parametrize("question", UNREAD)
def test_what_is_not_understood_is_not_guessed(question: str) -> None:
    assert TABLE.read(question) is None


def test_not_turns_the_answer_around() -> None:
    assert yes("Is it not alive?") == set(TABLE.names) - yes("Is it alive?")
    assert yes("Is it heavier than a cat?").isdisjoint(yes("Is it lighter than a cat?"))


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Is it a cat?", "Cat"),
        ("is it perhaps the cat", "Cat"),
        ("Is it a kind of dog?", "Dog"),
        ("Is it an orange?", "Orange"),
        ("Are they shoes?", "Shoes"),
        ("Is it a pair of shoes?", "Shoes"),
        ("Is the object a TV set?", "Television"),
        ("Is it a cell phone?", "Smartphone"),
        ("Is it a sofa?", "Couch"),
        ("Is it corn?", "Corn"),
        ("Could it be a plane?", "Airplane"),
    ],
)
def test_direct_guesses(question: str, name: str) -> None:
    meaning = TABLE.read(question)
    assert meaning is not None
    assert meaning.guess == TABLE.names.index(name)
    assert meaning.yes == 1 << meaning.guess


def test_two_guesses_at_once_name_none() -> None:
    meaning = TABLE.read("Is it a cat or a dog?")
    assert meaning is not None
    assert meaning.guess is None
    assert yes("Is it a cat or a dog?") == {"Cat", "Dog"}


def test_tokens() -> None:
    assert tokens("Doesn\u2019t it FIT, in a child's hand?") == [
        "does", "not", "it", "fit", "in", "a", "child", "hand",
    ]  # fmt: skip


def test_whatever_is_asked_nothing_is_raised() -> None:
    chance = random.Random(0)
    words = [word for question, _, _ in READ for word in question.split()]
    words += ["", "or", "and", "not", "than", "of", ",", "'s", "\u0661", "\u00b2", "9" * 400, "$%"]
    for _ in range(3000):
        text = " ".join(chance.choices(words, k=chance.randrange(9)))
        for question in (text, f"Is it {text}?", f"Does it have more than {text}"):
            meaning = TABLE.read(question)
            assert meaning is None or 0 <= meaning.yes <= TABLE.everything


def small(**changes: Any) -> dict[str, Any]:
    data = {
        "objects": {"A": [["Cat", 1, 1]], "B": [["Car", 2, 2]]},
        "aliases": {},
        "references": {},
        "attributes": {"animal": ["Is it an animal?|beast", "@A"]},
        "measures": {},
        "synonyms": {},
        "unread": [],
    }
    return data | changes


def test_a_phrase_belongs_to_one_attribute() -> None:
    assert ObjectTable(small()).read("Is it a beast?") is not None
    twice = {"animal": ["Is it an animal?|beast", "@A"], "fast": ["Is it fast?|beasts", "Car"]}
    with pytest.raises(ValueError, match="'beasts' of 'fast'"):
        ObjectTable(small(attributes=twice))
    with pytest.raises(ValueError, match="no category 'C'"):
        ObjectTable(small(attributes={"animal": ["Is it an animal?", "@C"]}))


def test_members() -> None:
    rows = {"all": ["Is it real?", "@A,@B"], "rest": ["Is it slow?", "#all,-Car"]}
    table = ObjectTable(small(attributes=rows))
    assert [table.attributes[name].yes for name in ("all", "rest")] == [0b11, 0b01]


def test_the_best_question_halves() -> None:
    question = TABLE.best_question(TABLE.everything)
    meaning = TABLE.read(question)
    assert meaning is not None
    assert 60 <= meaning.yes.bit_count() <= 98
    cats = 0b11 << TABLE.names.index("Cat")  # a cat and a dog
    found = TABLE.read(TABLE.best_question(cats))
    assert found is not None
    assert (found.yes & cats).bit_count() == 1


def test_the_data_file_is_compact_json() -> None:
    path = Path(module.__file__).with_name("twenty_questions.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert set(data) == {
        "objects", "aliases", "references", "attributes", "measures", "synonyms", "unread",
    }  # fmt: skip
    assert set(data["aliases"]) <= set(TABLE.names)
