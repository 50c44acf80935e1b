"""Who buys in Car Dealer: what a buyer wants, what it hears, and the buyer that follows rules."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from agentgym.players import PlayerTurn

# Source of the next five: LMRL-Gym, llm_rl_scripts/car_dealer/env/data.py.
BUDGETS = (10_000, 30_000, 50_000, 70_000, 90_000)
PERSONALITIES = (
    "abusive", "angry", "insulting", "polite", "respectful", "rude", "sarcastic", "talkative",
    "toxic", "uncommunicative",
)  # fmt: skip
BRANDS = (
    "a Volkswagen", "a Lexus", "a Ford", "a Mazda", "a Hyundai", "a Toyota", "a Mercedes-Benz",
    "a BMW", "an Audi", "a Subaru", "a Honda", "a Porsche", "a Tesla",
)  # fmt: skip
TYPES = ("luxury", "sedan", "convertible", "truck", "electric", "SUV")
FEATURES = (
    "backup camera", "navigation system", "heated seats", "leather seats", "third-row seating",
    "blind spot monitoring", "sunroof", "Apple CarPlay",
)  # fmt: skip
_SECRETIVE = {"abusive", "angry", "insulting", "rude", "toxic", "uncommunicative"}
# Share of the highest price at which a buyer begins, and how many price cuts it takes to get there.
_FIRMNESS = {
    "abusive": (0.84, 5), "angry": (0.86, 4), "insulting": (0.85, 5), "polite": (0.92, 3),
    "respectful": (0.92, 3), "rude": (0.86, 4), "sarcastic": (0.88, 4), "talkative": (0.90, 3),
    "toxic": (0.84, 5), "uncommunicative": (0.88, 4),
}  # fmt: skip
_MANNERS = {
    "abusive": ("Listen, you amateur.", "What a joke of a dealer."),
    "angry": ("I have had enough already!", "Don't make me repeat myself!"),
    "insulting": ("My dog sells better than you.", "Did they train you at all?"),
    "polite": ("Thank you for your help.", "That is kind of you."),
    "respectful": ("I appreciate your time, sir or madam.", "With all respect."),
    "rude": ("Get to the point.", "Whatever."),
    "sarcastic": ("Oh, how very generous.", "Wow, what a surprise."),
    "talkative": (
        "You know, my cousin bought a car last year and could not stop talking about it.",
        "It is such a nice day for looking at cars, and the coffee here is good too!",
    ),
    "toxic": ("People like you ruin everything.", "Typical. Always the same with you lot."),
    "uncommunicative": ("Hm.", "Yeah."),
}
_BASE, _BRAND, _TYPE, _FEATURES = 0.70, 0.10, 0.10, 0.10
_UNWANTED = 0.02
_CUT = 0.01
_FIRM = 4
_CHATTER = 12

_PRICE = re.compile(
    r"\$ ?(\d{1,3}(?:,\d{3})+|\d{1,7})(?:\.\d\d?)?( ?k\b| thousand\b)?"
    r"|\b(\d{1,3}(?:,\d{3})+|\d{5,6}(?!\d))(?:\.\d\d?)?"
    r"|\b(\d{1,3}) ?(?:k\b|thousand\b)",
    re.IGNORECASE,
)
_LIST_PRICE = re.compile(r"\b(?:msrp|list price|sticker price)\b[^\d$]{0,20}\$? ?$", re.IGNORECASE)
_ASKED = {
    "brand": re.compile(r"\b(?:brand|make|manufacturer|looking for|interested|want|prefer|help)"),
    "type": re.compile(r"\b(?:type|kind|style|body|looking for|interested|want|prefer|help)"),
    "features": re.compile(r"\b(?:features?|options?|extras?|equipment|need|must|important)\b"),
    "budget": re.compile(
        r"\b(?:budget|spend|price range|afford|how much (?:do|can|would|are) you)"
    ),
}


def _names(words: Sequence[str]) -> re.Pattern[str]:
    bare = [re.sub("^an? ", "", word) for word in words]
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, bare))})(?:s|es)?\b", re.IGNORECASE)


_NAMED = {"brand": _names(BRANDS), "type": _names(TYPES), "features": _names(FEATURES)}
_CANONICAL = {
    re.sub("^an? ", "", word).lower(): word for word in (*BRANDS, *TYPES, *FEATURES)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Buyer:
    """What a buyer is like and wants."""

    personality: str
    brand: str
    type: str
    features: tuple[str, ...]
    budget: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Buyer":
        """A random one, each part uniform; one to four features."""
        picked = [words[int(rng.integers(len(words)))] for words in (PERSONALITIES, BRANDS, TYPES)]
        order = rng.permutation(len(FEATURES))[: int(rng.integers(1, 5))]
        features = tuple(FEATURES[int(i)] for i in order)
        return cls(picked[0], picked[1], picked[2], features, BUDGETS[int(rng.integers(5))])

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Buyer":
        """The inverse of `state`, also after JSON."""
        return cls(**{**state, "features": tuple(state["features"])})

    def state(self) -> dict[str, Any]:
        """The fields."""
        return {name: getattr(self, name) for name in self.__slots__}

    def describe(self) -> str:
        """In the published words.

        Example:
            >>> Buyer("rude", "a Ford", "truck", ("sunroof",), 30_000).describe()
            'Personality: rude. Prefers a Ford truck with sunroof. Budget: $30,000'
        """
        return (
            f"Personality: {self.personality}. Prefers {self.brand} {self.type} with "
            f"{', '.join(self.features)}. Budget: ${self.budget:,}"
        )


def prices(text: str) -> list[int]:
    """Prices from $1,000 to $999,999 in a text, in order. Bare numbers need five digits or commas.

    Example:
        >>> prices("The 2023 model: MSRP $45,000, for you 42.5k or 41 thousand, $99 a month")
        [45000, 41000]
    """
    return [price for price, _ in _priced(text)]


@lru_cache(maxsize=5_000)
def _priced(text: str) -> tuple[tuple[int, int], ...]:
    """Prices with their positions."""
    found = []
    for match in _PRICE.finditer(text):
        dollars, thousands, bare, short = match.groups()
        digits = (dollars or bare or short).replace(",", "")
        price = int(digits) * (1000 if thousands or short else 1)
        decimals = match.start() and text[match.start() - 1] == "."
        if 1_000 <= price <= 999_999 and not decimals:
            found.append((price, match.start()))
    return tuple(found)


@lru_cache(maxsize=5_000)
def named(text: str) -> dict[str, tuple[str, ...]]:
    """Brands, types and features in a text, each once, as published.

    Example:
        >>> named("A Toyota SUV with heated seats, or a BMW?")
        {'brand': ('a Toyota', 'a BMW'), 'type': ('SUV',), 'features': ('heated seats',)}
    """
    found = {}
    for part, pattern in _NAMED.items():
        words = [match[0].lower() for match in pattern.finditer(text)]
        known = [
            _CANONICAL.get(w) or _CANONICAL.get(w[:-1]) or _CANONICAL.get(w[:-2]) for w in words
        ]
        found[part] = tuple(dict.fromkeys(word for word in known if word))
    return found


@dataclass(frozen=True, slots=True)
class _Line:
    """What a buyer understands of one line."""

    prices: tuple[int, ...]
    listed: int
    """The price that is called the list price, or 0."""
    brand: str
    """Empty unless just one is named; so for `type`."""
    type: str
    features: tuple[str, ...]
    asked: tuple[str, ...]


@lru_cache(maxsize=5_000)
def _understood(line: str) -> _Line:
    found = _priced(line)
    names = named(line)
    lower = line.lower()
    return _Line(
        prices=tuple(price for price, _ in found),
        listed=next((price for price, at in found if _LIST_PRICE.search(line[:at])), 0),
        brand=names["brand"][0] if len(names["brand"]) == 1 else "",
        type=names["type"][0] if len(names["type"]) == 1 else "",
        features=names["features"],
        asked=tuple(p for p, words in _ASKED.items() if "?" in line and words.search(lower)),
    )


@dataclass(frozen=True, slots=True)
class Talk:
    """What a buyer has heard so far."""

    msrp: int = 0
    """The list price: what the seller calls so, else its first price; 0 before."""
    offer: int = 0
    """The seller's last price."""
    priced: bool = False
    """True if the last line had a price."""
    cuts: int = 0
    """How often the price went down by one percent or more."""
    firm: int = 0
    """How often it did not."""
    chatter: int = 0
    """Lines without a price."""
    brand: str = ""
    type: str = ""
    features: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    """What the last line asks for."""
    budget_asked: int = 0
    """How often it was asked for the budget."""
    stated: tuple[int, ...] = ()
    """All prices of the seller."""
    countered: tuple[int, ...] = ()
    """All prices of the buyer."""

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Talk":
        """The inverse of `state`, also after JSON."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in state.items()
        }
        return cls(**fields)

    def state(self) -> dict[str, Any]:
        """The fields."""
        return {name: getattr(self, name) for name in self.__slots__}

    def heard(self, line: str) -> "Talk":
        """After another line of the seller."""
        heard = _understood(line)
        priced = bool(heard.prices)
        offer = heard.prices[-1] if priced else self.offer
        cut = priced and offer <= self.offer * (1 - _CUT)
        return Talk(
            msrp=heard.listed or self.msrp or (heard.prices[0] if priced else 0),
            offer=offer,
            priced=priced,
            cuts=self.cuts + cut,
            firm=self.firm + (priced and self.offer > 0 and not cut),
            chatter=self.chatter + (not priced),
            brand=heard.brand or self.brand,
            type=heard.type or self.type,
            features=heard.features or self.features,
            asked=heard.asked,
            budget_asked=self.budget_asked + ("budget" in heard.asked),
            stated=(*self.stated, *heard.prices),
            countered=self.countered,
        )

    def answered(self, line: str) -> "Talk":
        """After a line of the buyer."""
        new = prices(line)
        return replace(self, countered=(*self.countered, *new)) if new else self


def highest_price(buyer: Buyer, talk: Talk) -> int:
    """What the car is worth to the buyer, at most the budget.

    70 % of the budget for any car; 10 % more each for the brand, the type, and the share of the
    features that are wished for; 2 % less for each that is not.
    """
    wanted = len(set(buyer.features) & set(talk.features)) / len(buyer.features)
    unwanted = len(set(talk.features) - set(buyer.features))
    share = (
        _BASE
        + _BRAND * (talk.brand == buyer.brand)
        + _TYPE * (talk.type == buyer.type)
        + _FEATURES * wanted
        - _UNWANTED * unwanted
    )
    return int(buyer.budget * share + 0.5)


def willing_price(buyer: Buyer, talk: Talk) -> int:
    """What the buyer would pay now: it gives way as the seller does, and never above the list."""
    first, cuts = _FIRMNESS[buyer.personality]
    share = first + (1 - first) * min(1.0, talk.cuts / cuts)
    return min(int(highest_price(buyer, talk) * share + 0.5), talk.msrp)


def decision(bought: bool, msrp: int, price: int) -> str:
    """The published line that ends a conversation.

    Example:
        >>> decision(True, 30_000, 28_500)
        'Output: Decision=Accept MSRP=$30,000 Buy Price=$28,500'
    """
    if bought:
        return f"Output: Decision=Accept MSRP=${msrp:,} Buy Price=${price:,}"
    return f"Output: Decision=Reject MSRP=${msrp:,}"


class RuleBuyer:
    """A buyer that follows written rules; equal turns have equal answers.

    It tells its wishes when it is asked (the rough ones their budget only when asked again), offers
    less than it would pay, comes nearer each time the seller cuts the price by a percent or more,
    and buys as soon as the price is what it is ready to pay. It walks away when the seller stays
    firm for the fourth time, or talks for too long without a price.
    """

    name = "rule-based buyer"

    def answer(self, turn: PlayerTurn) -> str:
        """The buyer's next line, with its decision if it has come to one."""
        facts = turn.facts
        buyer = Buyer.read(facts["buyer"])
        talk = Talk.read(facts["talk"])
        manners = _MANNERS[buyer.personality]
        manner = manners[turn.seed % len(manners)]
        line, end = self._line(buyer, talk, bool(facts.get("final")))
        return f"{manner} {line} {end}".strip()

    def _line(self, buyer: Buyer, talk: Talk, final: bool) -> tuple[str, str]:
        """What it says, and its decision."""
        fair = 0 < talk.offer <= willing_price(buyer, talk)
        if fair and (talk.priced or final):
            return f"I take it for ${talk.offer:,}.", decision(True, talk.msrp, talk.offer)
        if final:
            return "I leave.", decision(False, talk.msrp, 0) if talk.msrp else ""
        if talk.priced:
            return self._haggle(buyer, talk)
        if talk.chatter >= _CHATTER:
            end = decision(False, talk.msrp or buyer.budget, 0)  # no price heard: reward 0
            return "We are getting nowhere. Goodbye.", end
        told = " ".join(filter(None, (self._tell(buyer, talk, part) for part in talk.asked)))
        if told:
            return told, ""
        if not talk.brand:
            return f"I am looking for {buyer.brand}. What do you have?", ""
        return "And what does it cost?", ""

    def _haggle(self, buyer: Buyer, talk: Talk) -> tuple[str, str]:
        """The answer to a price that is too high."""
        if talk.firm >= _FIRM:
            return "You do not move at all. I am leaving.", decision(False, talk.msrp, 0)
        if talk.offer > talk.msrp:
            return f"More than the list price of ${talk.msrp:,}? Certainly not.", ""
        mine = willing_price(buyer, talk) // 100 * 100
        wrong = [
            f"I wanted {buyer.brand}" if talk.brand != buyer.brand else "",
            f"I wanted this type: {buyer.type}" if talk.type != buyer.type else "",
        ]
        because = "; ".join(filter(None, wrong))
        return f"Too much.{f' {because}.' if because else ''} I offer ${mine:,}.", ""

    @staticmethod
    def _tell(buyer: Buyer, talk: Talk, part: str) -> str:
        """What it wants, if it tells."""
        if part == "budget":
            if buyer.personality in _SECRETIVE and talk.budget_asked < 2:
                return "My budget is none of your business."
            return f"I can spend up to ${buyer.budget:,}."
        if part == "features":
            return f"It should have this: {', '.join(buyer.features)}."
        return f"I want {buyer.brand}." if part == "brand" else f"The type: {buyer.type}."
