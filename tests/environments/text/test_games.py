"""Settings of games and their cache: what is wrong is said, what is broken is made again."""

import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from agentgym import paths
from agentgym.environments.text import games
from agentgym.environments.text.games import KINDS, GameSpec, complete, game_file
from agentgym.errors import (
    ConfigError,
    EnvFailureError,
    MissingDependencyError,
    UnknownNameError,
)


def test_every_setting_has_a_default_that_is_allowed() -> None:
    for kind, settings in KINDS.items():
        defaults = complete(kind, {})
        assert list(defaults) == list(settings)
        for name, value in defaults.items():
            settings[name].check(name, value)


def test_given_settings_win() -> None:
    assert complete("custom", {"world_size": 2}) == {
        "world_size": 2,
        "nb_objects": 10,
        "quest_length": 5,
    }


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("custom", {"world_sise": 2}, "setting of custom 'world_sise' .* mean 'world_size'"),
        ("custom", {"level": 2}, "setting of custom 'level' is not known"),
        ("custom", {"world_size": 0}, "world_size must be a whole number from 1 to 20, got 0"),
        ("custom", {"world_size": 2.0}, "world_size must be a whole number .* got 2.0"),
        ("custom", {"world_size": True}, "world_size must be a whole number .* got True"),
        ("custom", {"world_size": "2"}, "world_size must be a whole number .* got '2'"),
        ("coin_collector", {"level": 301}, "level must be .* from 1 to 300, got 301"),
        # Levels 101-200 have twice as many rooms as steps: 151 has 2 * 51.
        ("coin_collector", {"level": 151}, "level 151 has 102 rooms"),
        ("coin_collector", {"level": 234}, "level 234 has 102 rooms"),
        ("cooking", {"go": 2}, "go must be one of 1, 6, 9, 12, got 2"),
        ("cooking", {"go": True}, "go must be one of 1, 6, 9, 12, got True"),
        ("cooking", {"cook": 1}, "cook must be true or false, got 1"),
        ("cooking", {"take": 2}, "take must be at most recipe, got 2 and 1"),
        ("cooking", {"take": 0, "recipe_seed": 1}, "recipe_seed needs take"),
        ("simple", {"rewards": "none"}, "rewards must be one of 'dense', .* got 'none'"),
    ],
)
def test_wrong_settings_are_named(kind: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        complete(kind, given)


@pytest.mark.parametrize("level", [100, 150, 200 + 33])
def test_the_largest_coin_games_are_allowed(level: int) -> None:
    assert complete("coin_collector", {"level": level}) == {"level": level}


def test_unknown_game() -> None:
    with pytest.raises(UnknownNameError, match=r"'coin_colector' .* mean 'coin_collector'"):
        complete("coin_colector", {})


def spec(seed: int = 1, **settings: Any) -> GameSpec:
    return GameSpec("custom", complete("custom", settings), seed)


def test_a_key_names_one_game() -> None:
    keys = [
        spec().key,
        spec(2).key,
        spec(world_size=2).key,
        GameSpec("simple", complete("simple", {}), 1).key,
    ]
    assert len(set(keys)) == 4
    assert spec(world_size=5).key == keys[0]  # the default, given
    assert GameSpec("custom", dict(reversed(complete("custom", {}).items())), 1).key == keys[0]


def test_textworld_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(games, "version", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install -e '\.\[text\]'"):
        game_file(spec())


class FakeMaker:
    """Writes files at once and counts."""

    def __init__(self, hold: threading.Event | None = None) -> None:
        self.made: list[int] = []
        self.hold = hold

    def make(self, kind: str, settings: Any, seed: int, folder: Path, timeout_s: float) -> None:
        self.made.append(seed)
        if self.hold is not None:
            assert self.hold.wait(60)
        (folder / "game.z8").write_bytes(b"story %d" % seed)
        (folder / "game.json").write_bytes(b"{}")

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMaker:
    monkeypatch.setenv("AGENTGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(games, "_maker", fake := FakeMaker())
    return fake


def test_a_game_is_made_once(fake: FakeMaker) -> None:
    files = [game_file(spec(seed)) for seed in (1, 2, 1)]
    assert fake.made == [1, 2]
    assert files[0] == files[2]
    assert files[0].read_bytes() == b"story 1"
    assert sorted(path.name for path in files[0].parent.iterdir()) == [
        "game.json",
        "game.z8",
        "manifest.json",
    ]


@pytest.mark.parametrize("name", ["game.z8", "game.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "lost"])
def test_a_damaged_game_is_made_again(fake: FakeMaker, name: str, damage: str) -> None:
    path = game_file(spec()).parent / name
    whole = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + b"?")
    game_file(spec())
    assert fake.made == [1, 1]
    assert path.read_bytes() == whole


def test_a_maker_that_fails_leaves_no_game(
    fake: FakeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*job: Any) -> None:
        raise EnvFailureError("broken")

    monkeypatch.setattr(fake, "make", fail)
    with pytest.raises(EnvFailureError, match="broken"):
        game_file(spec())
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENTGYM_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvFailureError, match="AGENTGYM_CACHE"):
        game_file(spec())


def test_threads_that_want_the_same_game_wait_for_one(fake: FakeMaker) -> None:
    fake.hold = threading.Event()
    files: list[Path] = []
    threads = [threading.Thread(target=lambda: files.append(game_file(spec()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    fake.hold.set()
    for thread in threads:
        thread.join()
    assert fake.made == [1]
    assert len(set(files)) == 1


def test_processes_that_want_the_same_game_wait_for_one(tmp_path: Path) -> None:
    """Made by whichever comes first, while the other waits and then finds it."""
    code = (
        "import time\n"
        "from agentgym.environments.text.games import *\n"
        "import agentgym.environments.text.games as games\n"
        "made = []\n"
        "def make(kind, settings, seed, folder, timeout_s):\n"
        "    made.append(1)\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'game.z8').write_bytes(b'story')\n"
        "    (folder / 'game.json').write_bytes(b'{}')\n"
        "games._maker.make = make\n"
        "spec = GameSpec('treasure_hunter', complete('treasure_hunter', {'level': 1}), 3)\n"
        "print(len(made), game_file(spec).stat().st_size, len(made))\n"
    )
    environment = paths.environment(AGENTGYM_CACHE=str(tmp_path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(line[2] for line in printed) == ["0", "1"]
    assert printed[0][1] == printed[1][1]


def test_a_forked_process_starts_a_maker_of_its_own() -> None:
    before = games._maker
    games._forget_maker()
    try:
        assert games._maker is not before
    finally:
        games._maker = before
        games._left.clear()
