"""TextWorld games from a kind, settings and a seed: made once, compiled, kept in the cache."""

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentgym import paths
from agentgym.environments.text.maker import FILES, Maker
from agentgym.environments.text.skills import IDEAS, MAX_SKETCH, Sketch
from agentgym.errors import (
    ConfigError,
    EnvFailureError,
    MissingDependencyError,
    UnknownNameError,
)

FORMAT = 1
"""Part of every key: to be raised when `maker` makes other games than before."""
_MANIFEST = "manifest.json"

_maker = Maker()
_left: list[Maker] = []


def _forget_maker() -> None:
    """A forked process must not speak to its parent's maker."""
    global _maker
    _left.append(_maker)  # kept, so that nobody waits for a child that is not ours
    _maker = Maker()


os.register_at_fork(after_in_child=_forget_maker)
atexit.register(lambda: _maker.close())


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting of a game may be."""

    default: Any
    doc: str
    choices: tuple[Any, ...] = ()
    """All allowed values; empty for a switch, a range or a text."""
    low: int = 0
    high: int = 0
    """Of a text: most characters."""

    def check(self, name: str, value: Any) -> None:
        """Refuse what is not allowed.

        Raises:
            ConfigError: wrong type, or out of range.
        """
        if self.choices:
            fine = value in self.choices and type(value) is type(self.choices[0])
            allowed = f"one of {', '.join(repr(c) for c in self.choices)}"
        elif isinstance(self.default, bool):
            fine, allowed = isinstance(value, bool), "true or false"
        elif isinstance(self.default, str):
            fine = isinstance(value, str) and len(value) <= self.high
            allowed = f"a text of at most {self.high} characters"
        else:
            fine = type(value) is int and self.low <= value <= self.high
            allowed = f"a whole number from {self.low} to {self.high}"
        if not fine:
            raise ConfigError(f"{name} must be {allowed}, got {value!r}")


KINDS: Mapping[str, Mapping[str, Setting]] = {
    "coin_collector": {
        "level": Setting(5, "rooms on the way; +100, +200: dead ends beside it", low=1, high=300),
    },
    "treasure_hunter": {
        "level": Setting(5, "1-10 empty rooms, 11-20 doors and containers, 21-30 keys", (), 1, 30),
    },
    "cooking": {
        "recipe": Setting(1, "ingredients of the recipe", low=1, high=5),
        "take": Setting(1, "how many of them must be found", low=0, high=5),
        "go": Setting(6, "rooms", choices=(1, 6, 9, 12)),
        "open": Setting(True, "doors and containers are closed"),
        "cook": Setting(True, "ingredients must be cooked"),
        "cut": Setting(True, "ingredients must be cut"),
        "drop": Setting(False, "the inventory is limited"),
        "recipe_seed": Setting(0, "another recipe for the same world", low=0, high=2**31 - 1),
        "split": Setting("", "foods and preparations", choices=("", "train", "valid", "test")),
    },
    "simple": {
        "rewards": Setting("dense", "how often", choices=("dense", "balanced", "sparse")),
        "test": Setting(False, "food that the training games do not have"),
    },
    "custom": {
        "world_size": Setting(5, "rooms", low=1, high=20),
        "nb_objects": Setting(10, "things", low=1, high=40),
        "quest_length": Setting(5, "commands to the goal", low=1, high=20),
    },
    "skill": {
        "idea": Setting("", "what to train; empty: the seed chooses", choices=("", *IDEAS)),
        "sketch": Setting("", "the game itself, see `skills`; empty: by grammar", high=MAX_SKETCH),
    },
}
"""The kinds of games and their settings; all but those of `skill` are named as in `tw-make`."""


def complete(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a game: the given ones and the defaults.

    Raises:
        UnknownNameError: no such kind of game.
        ConfigError: no such setting, or a value that is not allowed.
    """
    if kind not in KINDS:
        raise UnknownNameError("TextWorld game", kind, KINDS)
    known = KINDS[kind]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(str(UnknownNameError(f"setting of {kind}", str(name), known)))
        known[name].check(name, value)
    settings = {name: setting.default for name, setting in known.items()} | dict(given)
    if kind == "coin_collector":
        rooms = (settings["level"] + 99) // 100 * ((settings["level"] - 1) % 100 + 1)
        if rooms > 100:
            raise ConfigError(
                f"level {settings['level']} has {rooms} rooms, more than the 100 that fit a game; "
                "choose one of 1-150 or 201-233"
            )
    if kind == "cooking":
        if settings["take"] > settings["recipe"]:
            raise ConfigError(
                f"take must be at most recipe, got {settings['take']} and {settings['recipe']}"
            )
        if settings["recipe_seed"] and not settings["take"]:
            raise ConfigError("recipe_seed needs take to be at least 1")
    if kind == "skill" and settings["sketch"]:
        Sketch.read(settings["sketch"])
    return settings


@dataclass(frozen=True, slots=True)
class GameSpec:
    """What decides a game entirely."""

    kind: str
    settings: Mapping[str, Any]
    """All of them, see `complete`."""
    seed: int
    """In [0, 2**32). As in ``tw-make --seed``, if that gives a game at all."""

    @property
    def key(self) -> str:
        """Name of the game in the cache.

        Raises:
            MissingDependencyError: TextWorld is not installed.
        """
        try:
            engine = version("textworld")
        except PackageNotFoundError:
            raise MissingDependencyError(
                "textworld is not installed; run pip install -e '.[text]'"
            ) from None
        content = json.dumps(
            [FORMAT, engine, self.kind, dict(self.settings), self.seed], sort_keys=True
        )
        return f"{self.kind}-{hashlib.blake2b(content.encode(), digest_size=12).hexdigest()}"


def game_file(spec: GameSpec, timeout_s: float = 600.0) -> Path:
    """The compiled game, made if the cache does not hold it sound; its .json lies beside it.

    Several processes and threads may ask for the same game: one makes it, the others wait.

    Args:
        spec: which game.
        timeout_s: seconds that making it may take.

    Raises:
        ConfigError: there is no game with these settings.
        EnvFailureError: making it failed or took too long, or the cache cannot be written.
        MissingDependencyError: TextWorld is not installed.
    """
    folder = (paths.cache() / "textworld" / spec.key).resolve()
    if not _sound(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not _sound(folder):
                    _make(spec, folder, timeout_s)
        except OSError as error:
            raise EnvFailureError(
                f"cannot keep a game in {folder}: {error}; free space or set AGENTGYM_CACHE"
            ) from error
    return folder / FILES[0]


def _sound(folder: Path) -> bool:
    """True if the files are there and what they were when they were made."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return bool(manifest == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in the folder, among threads too. The lock ends with its holder, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(spec: GameSpec, folder: Path, timeout_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="agentgym-textworld-") as work:
        _maker.make(spec.kind, spec.settings, spec.seed, Path(work), timeout_s)
        digests = _digests(Path(work))
        for name in FILES:
            shutil.copyfile(Path(work) / name, folder / f"{name}.new")
            os.replace(folder / f"{name}.new", folder / name)
    # Last: a folder without it, or with that of other files, does not count as sound.
    (folder / f"{_MANIFEST}.new").write_text(json.dumps(digests))
    os.replace(folder / f"{_MANIFEST}.new", folder / _MANIFEST)
