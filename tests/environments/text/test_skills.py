"""Sketches of skill games: what is read back, what is refused, and how they are won."""

import json
from typing import Any

import pytest

from agentgym.environments.text.skills import (
    DATA,
    IDEAS,
    MAX_SKETCH,
    Sketch,
    sketch_by_grammar,
    sketch_by_player,
)
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.players import PlayerTurn

TEA: dict[str, Any] = {
    "idea": "serve tea",
    "rooms": ["kitchen", "parlour"],
    "exits": [["kitchen", "north", "parlour", "oak door"]],
    "places": {"cupboard": ["container", "kitchen", "closed"], "table": ["supporter", "parlour"]},
    "items": {"cup": "cupboard", "cake": "parlour"},
    "food": ["cake"],
    "start": "parlour",
    "steps": [["cup", "on", "table"], ["cake", "eaten"]],
}


def changed(**changes: Any) -> str:
    return json.dumps({**TEA, **changes})


def test_a_sketch_is_read_written_and_walked_through() -> None:
    sketch = Sketch.read(json.dumps(TEA))
    assert Sketch.read(sketch.write()) == sketch
    assert sketch.walkthrough() == [
        "open oak door",
        "go south",
        "open cupboard",
        "take cup from cupboard",
        "go north",
        "put cup on table",
        "take cake",
        "eat cake",
    ]
    assert sketch.objective() == (
        "Your task is to serve tea. To do so, put the cup on the table, then eat the cake."
    )


def test_open_things_are_not_opened_again() -> None:
    places = {**TEA["places"], "cupboard": ["container", "kitchen", "open"]}
    sketch = Sketch.read(changed(places=places, exits=[["kitchen", "north", "parlour"]]))
    assert sketch.walkthrough()[:2] == ["go south", "take cup from cupboard"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rooms": []}, "rooms must be 1 to 8"),
        ({"rooms": ["kitchen", "parlour", "attic"]}, "no way to 'attic'"),
        ({"start": "cellar"}, "the start 'cellar' is no room"),
        ({"exits": [["kitchen", "up", "parlour"]]}, "an exit is"),
        ({"exits": [["kitchen", "north", "cellar"]]}, "no such room"),
        ({"exits": [["kitchen", "north", "kitchen"]]}, "leads back"),
        ({"exits": [["kitchen", "north", "parlour"]] * 2}, "direction is taken"),
        ({"items": {"cup": "shelf", "cake": "parlour"}}, "cup is in 'shelf', nowhere"),
        ({"items": {"Cup": "table"}}, "lower-case words, got 'Cup'"),
        ({"items": {"cup of tea to go": "table"}}, "lower-case words"),
        ({"items": {"key to drop": "table"}}, "holds a word of the commands"),
        ({"items": {"cup": "cupboard", "tea cup": "table"}}, "cannot be told apart"),
        ({"places": {"cup": ["supporter", "parlour"]}}, "a name stands twice"),
        ({"places": {"table": ["shelf", "parlour"]}}, r"table is \['shelf'"),
        ({"food": ["pie"]}, "must be items"),
        ({"steps": []}, "steps must be 1 to 8"),
        ({"steps": [["cake", "eaten"]] * 2}, "a step stands twice"),
        ({"steps": [["cup", "eaten"]]}, "no such food"),
        ({"steps": [["cup", "in", "table"]]}, "no such item or place"),
        ({"steps": [["table", "open"]]}, "no such container"),
        ({"steps": [["cup", "washed"]]}, "step cannot be"),
        ({"steps": [["cup", "in", "cupboard"]]}, "comes true before its turn"),
        ({"steps": [["cup", "on", "table"], ["cupboard", "open"]]}, "takes others along"),
        ({"steps": [["cake", "eaten"], ["cake", "on", "table"]]}, "has been eaten"),
        ({"idea": "tea\n"}, "the idea is"),
        ({"idea": 3}, "no sketch of a game"),
        ({"rooms": "kitchen"}, "no sketch of a game"),
        ({"places": []}, "no sketch of a game"),
        ({"idea": "x" * MAX_SKETCH}, "at most 8000 characters"),
    ],
    ids=str,
)
def test_what_cannot_be_built_or_won_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sketch.read(changed(**change))


@pytest.mark.parametrize("text", ["", "tea", "[]", "null", "{", "[" * 5000, '{"idea": "x"}'])
def test_no_sketch_at_all(text: str) -> None:
    with pytest.raises(ConfigError, match="no sketch of a game"):
        Sketch.read(text)


@pytest.mark.parametrize("idea", IDEAS)
def test_the_grammar_sketches_every_idea_in_many_ways(idea: str) -> None:
    sketches = [sketch_by_grammar(idea, seed) for seed in range(4)]
    assert all(sketch.idea == idea for sketch in sketches)
    assert len({sketch.write() for sketch in sketches}) == 4
    assert sketches[0] == sketch_by_grammar(idea, 0)
    for sketch in sketches:
        assert len(sketch.walkthrough()) >= len(sketch.steps)


def test_the_seed_chooses_among_all_ideas() -> None:
    assert len({sketch_by_grammar("", seed).idea for seed in range(60)}) > 15
    with pytest.raises(ConfigError, match=r"idea must be one of 'boil water'.*got 'fly'"):
        sketch_by_grammar("fly", 0)


def test_there_are_ideas_for_every_room() -> None:
    assert len(IDEAS) == len(set(IDEAS)) == 26
    assert {entry["room"] for entry in DATA["ideas"]} >= set(DATA["rooms"]) - {"pantry"}


class Writer:
    """Gives one answer after the other."""

    name = "writer"

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.turns: list[PlayerTurn] = []

    def answer(self, turn: PlayerTurn) -> str:
        self.turns.append(turn)
        return self.answers.pop(0) if self.answers else "I would rather talk."


def test_a_player_writes_a_sketch() -> None:
    writer = Writer("Sure!", f"Here it is:\n```json\n{json.dumps(TEA)}\n```\nEnjoy.")
    assert sketch_by_player("serve tea", writer, 3) == Sketch.read(json.dumps(TEA))
    first, second = writer.turns
    assert first.messages[-1].content == "The skill to train: serve tea"
    assert "boil water" in first.instructions  # the example
    assert first.seed != second.seed


def test_a_babbling_player_is_named() -> None:
    with pytest.raises(EnvFailureError, match=r"writer as designer .*I would rather talk"):
        sketch_by_player("serve tea", Writer(), 0)
