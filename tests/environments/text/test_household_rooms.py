"""Rooms of the household: the data is sound, games are solvable as made, splits share nothing."""

from collections import Counter

import pytest

from agentgym.environments.text.household_rooms import (
    APPLIANCES,
    LAYOUTS,
    NEEDS,
    SPLITS,
    TASKS,
    UNSEEN_LAYOUTS,
    Game,
    house,
    kind,
    layouts,
    make_game,
    pairs,
)
from agentgym.errors import ConfigError


def games(split: str, count: int = 600) -> list[Game]:
    return [make_game(split, number) for number in range(min(count, SPLITS[split]))]


def test_the_data_is_sound() -> None:
    sorts = {name for counts in house().rooms.values() for name in counts}
    assert house().openable <= sorts
    for name, entry in house().kinds.items():
        assert entry.rooms <= set(house().rooms), name
        assert entry.goes <= sorts, name
        assert entry.can <= {"clean", "heat", "cool", "slice", "use"}, name
        for room in entry.rooms:  # it can be somewhere in each of its rooms
            assert entry.goes & set(house().rooms[room]), (name, room)
    for counts in house().rooms.values():
        assert all(0 <= low <= high for low, high in counts.values())


def test_published_numbers_of_games() -> None:
    assert SPLITS == {"train": 3553, "valid_seen": 140, "valid_unseen": 134}


def test_layouts_differ() -> None:
    for room in house().rooms:
        made = layouts(room)
        assert len(made) == LAYOUTS
        assert len({tuple(counts.items()) for counts in made}) == LAYOUTS


def test_games_are_made_for_their_tasks() -> None:
    for split in SPLITS:
        for game in games(split):
            kinds = [kind(name) for name in game.objects]
            sorts = [kind(name) for name in game.receptacles]
            assert game.task == TASKS[game.number % 6]
            assert len(set(game.receptacles)) == len(game.receptacles)
            assert len(set(game.objects)) == len(game.objects)
            assert Counter(sorts) == Counter(layouts(game.room)[game.layout])
            for name, place in zip(kinds, game.places, strict=True):
                entry = house().kinds[name]
                assert game.room in entry.rooms
                assert sorts[place] in entry.goes
            own = [p for name, p in zip(kinds, game.places, strict=True) if name == game.thing]
            assert len(own) >= (2 if game.task == "pick_two_obj_and_place" else 1)
            assert all(sorts[place] != game.target for place in own), "nothing is done yet"
            assert game.target in (*sorts, *kinds)
            need = NEEDS.get(game.task)
            if need is not None:
                assert need in house().kinds[game.thing].can
                assert APPLIANCES[need] in sorts


def test_all_tasks_and_rooms_occur() -> None:
    made = games("train")
    assert Counter(game.task for game in made) == dict.fromkeys(TASKS, 100)
    assert {game.room for game in made} == set(house().rooms)
    assert len({game.wording for game in made}) > 200


def test_splits_share_no_game() -> None:
    made = [game for split in SPLITS for game in games(split, 4000)]
    assert len(made) == 3553 + 140 + 134
    starts = {(game.room, game.layout, game.wording, game.objects, game.places) for game in made}
    assert len(starts) == len(made)


def test_unseen_games_have_layouts_and_pairs_of_their_own() -> None:
    known = games("train", 4000) + games("valid_seen")
    unseen = games("valid_unseen")
    assert max(game.layout for game in known) < LAYOUTS - UNSEEN_LAYOUTS
    assert min(game.layout for game in unseen) >= LAYOUTS - UNSEEN_LAYOUTS
    seen_pairs = {(game.task, game.thing, game.target) for game in known}
    assert not seen_pairs & {(game.task, game.thing, game.target) for game in unseen}
    for task in TASKS:
        assert pairs(task, True)
        assert not pairs(task, True) & pairs(task, False)


def test_a_number_is_one_game() -> None:
    assert make_game("train", 7) == make_game.__wrapped__("train", 7)
    assert make_game("train", 7) != make_game("valid_seen", 7)


@pytest.mark.parametrize(("split", "number"), [("train", 3553), ("valid_seen", -1), ("test", 0)])
def test_games_that_are_not_there(split: str, number: int) -> None:
    with pytest.raises(ConfigError, match="no game"):
        make_game(split, number)
