"""The process that makes TextWorld games, one after another; both of its ends.

Games are made apart from the environments, with a fixed hash seed and a home folder of their own:
TextWorld draws on hash order (the losing events of the cooking game), on a global random generator
(the simple game) and on the order of a folder's files, and its compiler keeps files in the home
folder that two compilers must not share. One process makes many games because TextWorld reads its
grammars for seconds before the first.
"""

import glob
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentgym import paths
from agentgym.errors import ConfigError, EnvFailureError
from agentgym.seeding import derive

FILES = ("game.z8", "game.json")
ATTEMPTS = 5
"""Some seeds have no game of the wanted size; then the next seeds derived from it are tried."""


class Maker:
    """Our end. Made games are the same whatever was made before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def make(
        self, kind: str, settings: Mapping[str, Any], seed: int, folder: Path, timeout_s: float
    ) -> None:
        """Write `FILES` into `folder`, an empty one for nothing else. One game at a time.

        Raises:
            ConfigError: there is no game with these settings.
            EnvFailureError: the process failed or took too long; the next call starts another.
        """
        title = f"the {kind} game of seed {seed} with {dict(settings)!r}"
        with self._lock:
            try:
                reason = self._ask([kind, dict(settings), seed, str(folder)], timeout_s)
            except TimeoutError:
                raise EnvFailureError(
                    f"making {title} took more than {timeout_s:g} s; choose smaller settings"
                ) from None
            except OSError as error:
                raise EnvFailureError(f"making {title} failed: {error}") from error
        if reason:
            raise ConfigError(f"cannot make {title}: {reason}; choose other settings")

    def _ask(self, job: list[Any], timeout_s: float) -> str:
        if self._process is None:
            self._process = _start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        answered = False
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(timeout_s):
                    raise TimeoutError
            line = process.stdout.readline()
            if not line:
                raise OSError("the process that makes games has died")
            answered = True
            return str(json.loads(line))
        finally:
            if not answered:  # nobody must read a late answer as that to another job
                self.close()

    def close(self) -> None:
        """End the process, and the compiler that it may have started."""
        process, self._process = self._process, None
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
            process.communicate()


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "agentgym.environments.text.maker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=paths.environment(PYTHONHASHSEED="0"),
        start_new_session=True,
        text=True,
    )


def _generate(kind: str, settings: Mapping[str, Any], options: Any, seed: int) -> Any:
    """TextWorld's game of these settings and this seed, from which those in `options` follow."""
    if kind == "skill":
        from agentgym.environments.text.skills import Sketch, build, sketch_by_grammar

        given = settings["sketch"]
        sketch = Sketch.read(given) if given else sketch_by_grammar(settings["idea"], seed)
        return build(sketch, options)
    if kind == "custom":
        from textworld.generator import make_game

        options.nb_rooms = settings["world_size"]
        options.nb_objects = settings["nb_objects"]
        options.quest_length = settings["quest_length"]
        return make_game(options)
    if kind == "coin_collector":
        from textworld.challenges.tw_coin_collector.coin_collector import make
    elif kind == "treasure_hunter":
        from textworld.challenges.tw_treasure_hunter.treasure_hunter import make
    elif kind == "cooking":
        from textworld.challenges.tw_cooking.cooking import make
    else:
        from textworld.challenges.tw_simple.simple import make
    extra = {"goal": "detailed"} if kind == "simple" else {}
    return make({**settings, **extra}, options)


def _make_once(kind: str, settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Make and compile a game, and win it once by its own walkthrough."""
    import textworld
    from textworld.generator import compile_game

    options = textworld.GameOptions()
    options.seeds = seed
    options.path = str(folder / FILES[0])
    options.force_recompile = True
    game = _generate(kind, settings, options, seed)
    compile_game(game, options)
    engine = textworld.start(options.path, textworld.EnvInfos(won=True))
    engine.reset()
    states = [engine.step(command)[0] for command in game.metadata["walkthrough"]]
    engine.close()
    if not states[-1].won or any(state.done for state in states[:-1]):
        raise RuntimeError("its own walkthrough does not win it at its end")


def make_here(kind: str, settings: Mapping[str, Any], seed: int, folder: Path) -> str:
    """Make a game in this process: "", or why no attempt gave one."""
    # The compiler keeps files in the home folder, TextWorld makes temporary ones and looks for
    # grammars in the working folder: all of it in `folder`.
    os.environ["HOME"] = tempfile.tempdir = str(folder)
    os.chdir(folder)
    reason = ""
    for attempt in range(ATTEMPTS):
        own = derive(seed, "textworld", attempt) % 2**32 if attempt else seed
        try:
            _make_once(kind, settings, own, folder)
            return ""
        except Exception as error:  # TextWorld gives up in many ways
            reason = reason or f"{type(error).__name__}: {error}"
    return reason


def _serve() -> None:
    """Answer jobs, one line each, until the other end is closed or gone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # TextWorld may print
    unsorted = glob.glob
    glob.glob = lambda *args, **kwargs: sorted(unsorted(*args, **kwargs))
    for line in sys.stdin:
        kind, settings, seed, folder = json.loads(line)
        answers.write(json.dumps(make_here(kind, settings, seed, Path(folder))) + "\n")
        answers.flush()
        os.chdir("/")


if __name__ == "__main__":
    _serve()
