"""Buyers: what they understand of a line, what a car is worth to them, how they give way."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from agentgym.environments.text.car_buyer import (
    BRANDS,
    BUDGETS,
    FEATURES,
    PERSONALITIES,
    TYPES,
    Buyer,
    RuleBuyer,
    Talk,
    decision,
    highest_price,
    named,
    prices,
    willing_price,
)
from agentgym.players import PlayerTurn
from agentgym.types import Message

ANNA = Buyer("polite", "a Ford", "truck", ("sunroof", "heated seats"), 50_000)
MATCHING = "I have a Ford truck with sunroof and heated seats."


def after(*lines: str) -> Talk:
    talk = Talk()
    for line in lines:
        talk = talk.heard(line)
    return talk


def answered(buyer: Buyer, talk: Talk, *, final: bool = False, seed: int = 0) -> str:
    facts = {"buyer": buyer.state(), "talk": talk.state(), "final": final}
    turn = PlayerTurn("buyer", "", (Message("user", "?"),), facts, seed)
    return RuleBuyer().answer(turn)


def test_the_published_buyers() -> None:
    sizes = [len(words) for words in (PERSONALITIES, BRANDS, TYPES, FEATURES, BUDGETS)]
    assert sizes == [10, 13, 6, 8, 5]
    rng = np.random.default_rng(0)
    drawn = [Buyer.draw(rng) for _ in range(2000)]
    assert {buyer.personality for buyer in drawn} == set(PERSONALITIES)
    assert {buyer.brand for buyer in drawn} == set(BRANDS)
    counts = Counter(len(buyer.features) for buyer in drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 400  # each of four is as likely
    assert all(len(set(buyer.features)) == len(buyer.features) for buyer in drawn)
    assert ANNA.describe() == (
        "Personality: polite. Prefers a Ford truck with sunroof, heated seats. Budget: $50,000"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It costs $45,000.", [45_000]),
        ("It costs $45000, or $44,999.99 today", [45_000, 44_999]),
        ("45k", [45_000]),
        ("$45k or 44 thousand dollars", [45_000, 44_000]),
        ("I say 45,000 dollars", [45_000]),
        ("I say 45000", [45_000]),
        ("a 2023 model with 300 horsepower for $99 a month", []),
        ("$999 down, $1,000 then", [1_000]),
        ("$1,000,000", []),
        ("$" + "9" * 500, []),
        ("no price", []),
    ],
)
def test_prices(text: str, found: list[int]) -> None:
    assert prices(text) == found


def test_names() -> None:
    assert named("a red tesla, FORDS, an Audi; Apple carplay and SUVs") == {
        "brand": ("a Tesla", "a Ford", "an Audi"),
        "type": ("SUV",),
        "features": ("Apple CarPlay",),
    }
    assert named("I can afford it") == {"brand": (), "type": (), "features": ()}


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ([MATCHING], {"brand": "a Ford", "type": "truck", "features": ("sunroof", "heated seats")}),
        ([MATCHING, "Nice weather."], {"brand": "a Ford", "chatter": 2}),
        ([MATCHING, "Or a Tesla?"], {"brand": "a Tesla", "type": "truck"}),
        ([MATCHING, "A Tesla or an Audi?"], {"brand": "a Ford"}),  # which one is not said
        (["The MSRP is $50,000, I ask $48,000."], {"msrp": 50_000, "offer": 48_000}),
        (["I ask $48,000, MSRP $50,000, so $47,000."], {"msrp": 50_000, "offer": 47_000}),
        (["$48,000", "$47,000"], {"msrp": 48_000, "offer": 47_000, "cuts": 1, "firm": 0}),
        (["$48,000", "$47,900"], {"cuts": 0, "firm": 1}),  # less than one percent
        (["$48,000", "$49,000", "$48,000"], {"cuts": 1, "firm": 1}),
        (["$48,000", "Hm."], {"offer": 48_000, "priced": False, "chatter": 1}),
        (["What is your budget?", "Your budget, please?"], {"budget_asked": 2}),
        (["Tell me your budget."], {"budget_asked": 0, "asked": ()}),  # no question
        (["Which brand and which features?"], {"asked": ("brand", "features")}),
        (["What do you want?"], {"asked": ("brand", "type")}),
    ],
)
def test_what_is_heard(lines: list[str], fields: dict[str, Any]) -> None:
    talk = after(*lines)
    assert {name: getattr(talk, name) for name in fields} == fields


def test_whatever_is_said_nothing_is_raised() -> None:
    chance = random.Random(0)
    words = [
        "$",
        "$50,000",
        "45k",
        "MSRP",
        "Ford",
        "truck",
        "budget",
        "?",
        "sunroof",
        "\u0661",
        "9" * 99,
    ]
    talk = Talk()
    for _ in range(2000):
        talk = talk.heard(" ".join(chance.choices(words, k=chance.randrange(8))))
        assert answered(ANNA, talk)
        talk = Talk() if len(talk.stated) > 20 else talk


def test_talks_survive_json() -> None:
    talk = after(MATCHING, "$50,000?", "$49,000?").answered("I offer $40,000.")
    assert talk.countered == (40_000,)
    assert Talk.read(json.loads(json.dumps(talk.state()))) == talk
    assert Buyer.read(json.loads(json.dumps(ANNA.state()))) == ANNA


@pytest.mark.parametrize(
    ("line", "worth"),
    [
        ("A car.", 35_000),  # 70 %
        ("A Ford.", 40_000),  # 80 %
        ("A Ford truck.", 45_000),  # 90 %
        ("A Ford truck with sunroof.", 47_500),  # one of two features: 95 %
        (MATCHING, 50_000),
        (f"{MATCHING} And a backup camera.", 49_000),  # 2 % less
        ("A Tesla sedan with backup camera.", 34_000),
    ],
)
def test_what_a_car_is_worth(line: str, worth: int) -> None:
    assert highest_price(ANNA, after(line)) == worth


def test_the_buyer_comes_nearer_as_the_seller_does() -> None:
    # polite: begins at 92 % of 50,000 and comes to all of it in three cuts
    lines = [MATCHING, "$60,000", "$59,000", "$58,000", "$57,000", "$56,000"]
    willing = [willing_price(ANNA, after(*lines[: count + 1])) for count in range(1, 6)]
    assert willing == [46_000, 47_333, 48_667, 50_000, 50_000]
    # firm sellers gain nothing
    assert willing_price(ANNA, after(MATCHING, *["$60,000"] * 4)) == 46_000
    # and nobody pays more than the list price
    assert willing_price(ANNA, after(MATCHING, "$30,000")) == 30_000


def test_decisions() -> None:
    assert decision(False, 30_000, 0) == "Output: Decision=Reject MSRP=$30,000"
    assert answered(ANNA, after(MATCHING, "$45,000")) == (
        "Thank you for your help. I take it for $45,000. "
        "Output: Decision=Accept MSRP=$45,000 Buy Price=$45,000"
    )
    assert "I offer $46,000." in answered(ANNA, after(MATCHING, "$47,000"))
    gone = answered(ANNA, after(MATCHING, *["$60,000"] * 5))
    assert gone.endswith("I am leaving. Output: Decision=Reject MSRP=$60,000")
    bored = answered(ANNA, after(*["Nice day."] * 12))
    assert bored.endswith("Goodbye. Output: Decision=Reject MSRP=$50,000")
    above = answered(ANNA, after("MSRP $45,000", "Make it $46,000"))
    assert "More than the list price" in above


def test_the_last_word() -> None:
    waiting = after(MATCHING, "$45,000", "So?")
    assert "Decision" not in answered(ANNA, waiting)
    assert "Decision=Accept MSRP=$45,000" in answered(ANNA, waiting, final=True)
    assert "Decision=Reject" in answered(ANNA, after("$90,000"), final=True)
    assert "Decision" not in answered(ANNA, after("Hello there."), final=True)


def test_what_it_tells() -> None:
    assert "I want a Ford." in answered(ANNA, after("Which brand?"))
    assert "The type: truck." in answered(ANNA, after("Which type?"))
    assert "sunroof, heated seats" in answered(ANNA, after("Which features?"))
    assert "up to $50,000" in answered(ANNA, after("What is your budget?"))
    rough = Buyer("rude", *list(ANNA.state().values())[1:])
    assert "none of your business" in answered(rough, after("What is your budget?"))
    assert "up to $50,000" in answered(rough, after(*["What is your budget?"] * 2))
    assert "What do you have?" in answered(ANNA, after("Hello there."))
    assert "what does it cost?" in answered(ANNA, after(MATCHING))


@pytest.mark.parametrize("personality", PERSONALITIES)
def test_every_personality_talks_in_its_own_way(personality: str) -> None:
    buyer = Buyer(personality, "a Ford", "truck", ("sunroof",), 50_000)
    said = {answered(buyer, after("Hello there."), seed=seed) for seed in range(4)}
    assert len(said) == 2
    assert answered(buyer, after("Hi all."), seed=7) == answered(buyer, after("Hi all."), seed=7)
