"""agentgym/car_dealer-v0: sell a car to a buyer whose wishes and budget are to be found out."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agentgym.actions import ActionCall
from agentgym.environments.text.car_buyer import (
    BRANDS,
    BUDGETS,
    FEATURES,
    PERSONALITIES,
    TYPES,
    Buyer,
    RuleBuyer,
    Talk,
    named,
    prices,
)
from agentgym.environments.text.game import Outcome, TextGame
from agentgym.errors import ConfigError
from agentgym.players import Player, PlayerTurn, ask
from agentgym.seeding import SEED_MAX, derive
from agentgym.types import Message

UTTERANCES = 50
MAX_WORDS = 60
MAX_CHARACTERS = 400
GOOD_SALE = 0.8
"""Share of the buyer's budget from which a sale counts as success."""
REWARDS = ("fancy", "revenue")
_DECISION = re.compile(
    r"Output: Decision=(Accept|Reject) MSRP=\$([1-9][0-9,]*)( Buy Price=\$([0-9][0-9,]*))?"
)
_STRANGE = re.compile(r"[^\w\s.,;:!?'\"$%&()/+*#@\u2013\u2014\u2019-]|output\s*:", re.IGNORECASE)
_OPENING, _STEP = 1.04, 0.012  # the expert's first price and its cuts


def say(text: str) -> None:
    """Say one line to the buyer, such as: What are you looking for? What is your budget?"""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a conversation ended."""

    bought: bool
    msrp: int
    price: int | None
    """What was paid; None if the car was not bought, or the buyer did not say."""


def read_decision(text: str) -> tuple[str, Decision | None]:
    """A buyer's line without its decision, and the decision, if there is one.

    Source: `extract_output_from_str` in llm_rl_scripts/car_dealer/env/data.py of LMRL-Gym.

    Example:
        >>> read_decision("Fine. Output: Decision=Accept MSRP=$30,000 Buy Price=$29,500")
        ('Fine. ', Decision(bought=True, msrp=30000, price=29500))
    """
    match = _DECISION.search(text)
    if match is None:
        return text, None
    bought = match[1] == "Accept"
    price = int(match[4].replace(",", "")) if bought and match[4] else None
    rest = text[: match.start()] + text[match.end() :]
    return rest, Decision(bought, int(match[2].replace(",", "")), price)


def published_reward(kind: str, budget: int, decision: Decision) -> float:
    """The published reward of a conversation.

    "fancy" is price / ((budget + msrp) / 2), or -(budget - msrp) / msrp without a sale; "revenue"
    is the price in thousands, or 0.

    Source: `compute_reward` in llm_rl_scripts/car_dealer/env/data.py of LMRL-Gym.

    Example:
        >>> published_reward("fancy", 30_000, Decision(True, 30_000, 27_000))
        0.9
    """
    if decision.bought and decision.price is None:
        return 0.0
    if kind == "revenue":
        return (decision.price or 0) / 1000
    if decision.bought:
        assert decision.price is not None
        return decision.price / ((budget + decision.msrp) / 2)
    return -(budget - decision.msrp) / decision.msrp


class CarDealerEnv(TextGame):
    """Sell a car, dear, to a buyer who will not pay more than it must.

    ## Description
    Car Dealer of LMRL-Gym (Abdulhai et al. 2023, https://arxiv.org/abs/2311.18232). The agent is
    the seller and may offer any car; the buyer has a personality, wishes and a budget that the
    seller is not told. The published buyer is a language model; here it follows rules by default
    (`car_buyer.RuleBuyer` says which), and any `Player` can take its place. The buyer ends the
    conversation with the published line ``Output: Decision=Accept MSRP=$30,000 Buy Price=$28,500``
    or ``Output: Decision=Reject MSRP=$30,000``, which the seller does not see.

    In the mode "original" the texts, rewards and limits are the published ones, with these defects
    that "fixed" repairs:

    * the buyer's decision may hold prices that nobody named; fixed: the list price must be one of
      the seller's, the price paid must have been named, and not lie above the list price;
    * "fancy" pays for not selling: the higher the refused list price, the more; and a very low
      list price costs without limit; fixed: no sale has a reward in [-1, 0];
    * a seller may speak the deciding line itself and hope that the buyer repeats it; fixed: no
      line may hold ``Output:``.

    ## Action Space
    One action, ``say(text)``; in the default syntax "text" the last line is what the seller says.
    Fixed: a line has 2 to 60 words, at most 400 characters, and ordinary letters and punctuation.
    Another one, and an empty one, is told in ``error``: the buyer does not hear it, and it counts
    as an exchange.

    ## Observation Space
    ``goal`` explains the game; ``text`` is the buyer's line (original: with a newline; the first
    text is ``Start``). At the end it also says what came of it (original: it does not).

    ## Rewards
    0 before the end; then, by `reward`, "fancy" or "revenue" (see `published_reward`).

    ## Starting State
    A random buyer. Options of ``reset``: any of ``{"personality", "brand", "type", "features",
    "budget"}``, in the published words.

    ## Episode End
    Terminated when the buyer decides, or after 50 utterances (25 of each), when it is asked for its
    decision; without one the reward is 0. ``info["success"]`` is true if the car is bought for at
    least 80 % of the budget.

    ## Arguments
    * `reward`: "fancy" or "revenue";
    * `mode`: "fixed" or "original";
    * `buyer`: who buys; None for the rules. A language model is told who it is and how to decide;
      answers that are empty, too long, or decide by prices that were not named (original: that
      are empty) are asked for again;
    * `action_syntax`: one of `actions.SYNTAXES`.

    ## Version History
    * v0: first.
    """

    actions = (say,)

    def __init__(
        self,
        *,
        reward: str = "fancy",
        mode: str = "fixed",
        buyer: Player | None = None,
        action_syntax: str = "text",
        render_mode: str | None = None,
    ) -> None:
        if reward not in REWARDS:
            raise ConfigError(f"reward must be one of {REWARDS}, got {reward!r}")
        super().__init__(mode=mode, action_syntax=action_syntax, render_mode=render_mode)
        self.reward = reward
        self.player: Player = buyer or RuleBuyer()
        self.buyer = Buyer(PERSONALITIES[0], BRANDS[0], TYPES[0], FEATURES[:1], BUDGETS[0])
        self._talk = Talk()
        self._said: list[Message] = []
        self._digest = ""
        self._exchanges = 0
        self._talk_seed = 0

    def begin(self, options: Mapping[str, Any]) -> str:
        """Draw the buyer."""
        drawn = Buyer.draw(self.np_random).state() | _checked(options)
        self.buyer = Buyer.read(drawn)
        self._talk_seed = int(self.np_random.integers(SEED_MAX))
        self._talk, self._said, self._exchanges = Talk(), [], 0
        self._digest = _digest(repr(self.buyer))
        return "Start\n" if self.mode == "original" else "A customer enters. Say something."

    def goal(self) -> str:
        """The rules."""
        return (
            "You sell cars of every brand, type and equipment. Sell one to this customer at as "
            "high a price as you can. Find out what the customer wants and can pay, name a list "
            "price (MSRP) and a price, and haggle: customers come nearer when you lower your "
            f"price, and leave when you never do. You have {UTTERANCES // 2} lines, each of 2 to "
            f"{MAX_WORDS} words."
        )

    def unreadable(self, error: str) -> Outcome:
        """An empty line, or no call: nobody hears it."""
        return self._unheard(error)

    def play(self, call: ActionCall) -> Outcome:
        """Say a line; the buyer answers."""
        line = call.arguments["text"].strip()
        if self.mode == "fixed":
            if error := _why_not(line):
                return self._unheard(error)
        line = line[:MAX_CHARACTERS]
        talk = self._talk.heard(line)
        said = [*self._said, Message("user", line)]
        answer, decided = ask(self.player, self._turn(talk, said), lambda t: self._heard(t, talk))
        self._talk = talk.answered(answer)
        self._said = [*said, Message("assistant", answer or "...")]
        self._digest = _digest(self._digest, line, answer)
        self._exchanges += 1
        if decided is None and self._exchanges >= UTTERANCES // 2:
            return self._last(answer)
        return self._outcome(answer, decided)

    def _unheard(self, error: str) -> Outcome:
        if self._exchanges + 1 >= UTTERANCES // 2:
            outcome = self._last("The customer waits no longer.")
            self._exchanges += 1
            return Outcome(outcome.text, outcome.reward, True, False, outcome.success, error)
        self._exchanges += 1
        self._digest = _digest(self._digest)
        text = "\n" if self.mode == "original" else "The customer has heard nothing."
        return Outcome(text, error=error)

    def _last(self, answer: str) -> Outcome:
        """The buyer is asked for its decision."""
        now = Message("user", "(Time is up. Decide now: write only the Output line.)")
        said = [*self._said, now]
        turn = self._turn(self._talk, said, final=True)
        decided = ask(self.player, turn, lambda t: self._heard(t, self._talk, final=True))[1]
        outcome = self._outcome(answer, decided)
        return outcome if outcome.terminated else Outcome(outcome.text, 0.0, terminated=True)

    def _outcome(self, answer: str, decided: Decision | None) -> Outcome:
        text = answer.removesuffix("\n") + "\n" if self.mode == "original" else answer.strip()
        if decided is None:
            return Outcome(text)
        budget = self.buyer.budget
        reward = published_reward(self.reward, budget, decided)
        if self.mode == "fixed":
            if not decided.bought:
                reward = min(0.0, max(-1.0, reward))
            sold = f"You sold it for ${decided.price:,}." if decided.bought else "No sale."
            text = f"{text}\n{sold}".strip()
        good = decided.bought and (decided.price or 0) >= GOOD_SALE * budget
        return Outcome(text, reward, terminated=True, success=good)

    def _turn(self, talk: Talk, said: list[Message], *, final: bool = False) -> PlayerTurn:
        return PlayerTurn(
            role="buyer",
            instructions=_instructions(self.buyer),
            messages=tuple(said),
            facts={"buyer": self.buyer.state(), "talk": talk.state(), "final": final},
            seed=derive(self._talk_seed, len(said)),
        )

    def _heard(
        self, text: str, talk: Talk, *, final: bool = False
    ) -> tuple[str, Decision | None] | None:
        """The buyer's line and decision; None if it has neither or cannot have meant it."""
        line, decided = read_decision(text)
        if final and decided is None:  # published: the line is begun for the buyer
            decided = read_decision(f"Output: Decision={text.lstrip()}")[1]
        if self.mode == "original":
            return (line, decided) if text.strip() else None
        line = line.strip()
        if not (line or decided or final) or len(line) > 2 * MAX_CHARACTERS:
            return None
        if decided is not None and not _was_named(decided, talk):
            return None
        return line, decided

    def save(self) -> Any:
        """The buyer, what was said and understood, and the buyer's chance."""
        return {
            "buyer": self.buyer.state(),
            "talk": self._talk.state(),
            "said": [[message.role, message.content] for message in self._said],
            "digest": self._digest,
            "exchanges": self._exchanges,
            "seed": self._talk_seed,
        }

    def load(self, state: Any) -> None:
        """The inverse of `save`."""
        buyer = Buyer.read(state["buyer"])
        talk = Talk.read(state["talk"])
        said = [Message(role, content) for role, content in state["said"]]
        digest, exchanges, seed = state["digest"], int(state["exchanges"]), int(state["seed"])
        self.buyer, self._talk, self._said = buyer, talk, said
        self._digest, self._exchanges, self._talk_seed = digest, exchanges, seed

    def key(self) -> str:
        """A digest of the buyer and all that was said."""
        return self._digest

    def facts(self) -> dict[str, Any]:
        """How many lines are left."""
        return {"lines_left": UTTERANCES // 2 - self._exchanges}

    def guesses(self) -> tuple[str, ...]:
        """Plausible lines, others at each turn."""
        return _plausible(self._exchanges)

    def expert(self) -> str:
        """Ask for what is not known yet, then offer just that car, and cut the price step by step.

        It knows no more than what the buyer has said.
        """
        told = " ".join(message.content for message in self._said if message.role == "assistant")
        wishes = named(told)
        asked = " ".join(message.content for message in self._said if message.role == "user")
        if not wishes["brand"] or not wishes["type"]:
            return "Welcome! What brand and type of car are you looking for?"
        if "features" not in asked and not wishes["features"]:
            return "Which features should it have?"
        budget = re.search(r"up to \$([\d,]+)", told)
        if budget is None and self._talk.budget_asked < 3:
            return "What is your budget?"
        if budget is not None:
            first = int(budget[1].replace(",", "")) * _OPENING
        else:
            first = max(prices(told), default=BUDGETS[2]) * 1.2
        steps = self._talk.cuts + (self._talk.offer > 0)
        price = int(first * (1 - _STEP * steps)) // 10 * 10
        if self._talk.offer:
            return f"For you I can lower the price to ${price:,}."
        features = ", ".join(wishes["features"]) or "the usual equipment"
        return (
            f"I have {wishes['brand'][0]} {wishes['type'][0]} with {features}. "
            f"The MSRP is ${price:,}."
        )


@lru_cache(maxsize=UTTERANCES)
def _plausible(turn: int) -> tuple[str, ...]:
    """Lines for random play."""
    brand, kind = BRANDS[turn * 5 % len(BRANDS)], TYPES[turn * 7 % len(TYPES)]
    price = BUDGETS[turn * 3 % len(BUDGETS)]
    return (
        "Welcome! What brand are you looking for?",
        "What type of car do you prefer?",
        "Which features do you need?",
        "May I ask for your budget?",
        f"I have {brand} {kind} with {FEATURES[turn % len(FEATURES)]}.",
        f"The MSRP is ${price:,}.",
        f"I can let you have it for ${price * 95 // 100:,}.",
        "It is a wonderful car, believe me.",
    )


@lru_cache(maxsize=1_000)
def _instructions(buyer: Buyer) -> str:
    """Who a language model is as this buyer."""
    return (
        f"You buy a car from a dealer. You are: {buyer.describe()}. Talk in character "
        "in one or two sentences a turn, and do not tell everything at once. Pay as little "
        "as you can, never more than the budget or the list price (MSRP). When you have "
        "decided, end your turn with exactly one line: Output: Decision=Accept "
        "MSRP=$<list price> Buy Price=$<agreed price>, or Output: Decision=Reject "
        "MSRP=$<list price>. Use only prices that were named in the conversation."
    )


def _why_not(line: str) -> str:
    """What is wrong with a seller's line; empty if nothing is."""
    words = len(re.findall(r"[^\W\d_]+", line))
    if words < 2 or len(line.split()) > MAX_WORDS or len(line) > MAX_CHARACTERS:
        return f"A line has 2 to {MAX_WORDS} words and at most {MAX_CHARACTERS} characters."
    strange = _STRANGE.search(line)
    if strange is not None:
        return f"Say it in ordinary letters and punctuation, without {strange[0]!r}."
    return ""


def _was_named(decided: Decision, talk: Talk) -> bool:
    """True if a decision's prices were named, and none is paid above the list price."""
    if decided.msrp not in talk.stated:
        return not decided.bought and not talk.stated
    if not decided.bought:
        return True
    named_prices = (*talk.stated, *talk.countered)
    return (
        decided.price is not None
        and decided.price in named_prices
        and decided.price <= decided.msrp
    )


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `reset`, if they are what a buyer may be."""
    known = {
        "personality": PERSONALITIES, "brand": BRANDS, "type": TYPES, "features": FEATURES,
        "budget": BUDGETS,
    }  # fmt: skip
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"unknown option {name!r}; known: {', '.join(known)}")
        values = value if name == "features" else [value]
        allowed = known[name]
        if (
            not isinstance(values, list | tuple)
            or not values
            or any(v not in allowed for v in values)
        ):
            raise ConfigError(f"{name} must be of {allowed}, got {value!r}")
    return dict(options)


def _digest(*texts: str) -> str:
    joined = "\n".join(texts).encode("utf-8", "replace")
    return hashlib.blake2b(joined, digest_size=12).hexdigest()
