"""Many environments for many minutes while Chromium is killed: nothing but episodes may be lost.

The whole: ``pytest -m soak -k "browsers and full"``; a short form: ``-k "browsers and short"``.
"""

import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import agentgym  # noqa: F401  (registers the ids)
from agentgym.environments.web.browser import Browser
from agentgym.environments.web.spares import MAX_SPARES
from agentgym.errors import BrowserError

Serve = Callable[[Mapping[str, Any]], str]
TASKS = (
    "agentgym/miniwob.click-button-v0",
    "agentgym/miniwob.login-user-v0",
    "agentgym/miniwob.email-inbox-v0",
    "agentgym/miniwob.drag-items-v0",
    "agentgym/browsergym.miniwob.click-checkboxes-v0",
    "agentgym/web.open-v0",
    "agentgym/miniwob.use-slider-v0",
    "agentgym/miniwob.book-flight-v0",
)
logger = logging.getLogger(__name__)
SAMPLES = 40
MEGABYTE = 1 << 20


@dataclass
class Plan:
    environments: int
    seconds: float
    kills: int


@dataclass
class Player:
    """A random agent in one environment."""

    env_id: str
    arguments: dict[str, Any]
    seed: int
    episodes: int = 0
    steps: int = 0
    lost: int = 0
    """Episodes that Chromium took with it."""
    wrong: list[str] = field(default_factory=list)

    def play(self, stop: threading.Event) -> None:
        env = gym.make(self.env_id, disable_env_checker=True, **self.arguments)
        env.action_space.seed(self.seed)
        try:
            while not stop.is_set():
                try:
                    self._episode(env, stop)
                    self.episodes += 1
                except BrowserError:
                    self.lost += 1
        except Exception as error:
            self.wrong.append(f"{self.env_id}: {error!r}")
            raise
        finally:
            env.close()

    def _episode(self, env: gym.Env[Any, Any], stop: threading.Event) -> None:
        self.seed += 1
        env.reset(seed=self.seed)
        over = False
        while not over and not stop.is_set():
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            self.steps += 1
            over = terminated or truncated


def processes(root: int) -> dict[int, tuple[str, str, int]]:
    """Name, state and resident bytes of all below a process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                rest = (folder / "stat").read_text().rpartition(")")[2]
                name = Path((folder / "cmdline").read_text().partition("\0")[0]).name
            except OSError:
                continue  # it has ended meanwhile
            fields = rest.split()
            pages = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            found[int(folder.name)] = (int(fields[1]), name, fields[0], pages)
    below, grown = {root}, True
    while grown:
        more = {pid for pid, (parent, *_) in found.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return {pid: found[pid][1:] for pid in below - {root} if pid in found}


def usage() -> dict[str, float]:
    """What this process holds, and its driver of browsers."""
    mine = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    drivers = [rss for name, _, rss in processes(os.getpid()).values() if name == "node"]
    return {
        "memory": mine / MEGABYTE,
        "driver": sum(drivers) / MEGABYTE,
        "handles": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


@pytest.fixture
def quiet_start() -> Iterator[None]:
    for stepped in (False, True):
        Browser.shared(stepped=stepped).close()
    yield
    for stepped in (False, True):
        Browser.shared(stepped=stepped).close()


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("plan", [Plan(16, 75, 3), Plan(64, 600, 20)], ids=["short", "full"])
def test_browsers_come_and_go_and_nothing_is_left(
    plan: Plan, serve: Serve, quiet_start: None, record_property: Callable[[str, object], None]
) -> None:
    page = "<a href=/b>B</a><button onclick='open(\"/b\")'>Open</button><input><a href=/>Home</a>"
    home = serve({"/": page, "/b": page + "<iframe src=/></iframe>"})
    before = usage()
    stop = threading.Event()
    players = []
    for number in range(plan.environments):
        env_id = TASKS[number % len(TASKS)]
        own = {"start_url": home, "goal": "Look around."} if "web.open" in env_id else {}
        players.append(Player(env_id, own, 1000 * number))
    threads = [threading.Thread(target=p.play, args=(stop,), daemon=True) for p in players]
    for thread in threads:
        thread.start()
    seen = watched(plan)
    stop.set()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert [each for player in players for each in player.wrong] == []
    lost = sum(player.lost for player in players)
    told = {
        "episodes": sum(player.episodes for player in players),
        "steps": sum(player.steps for player in players),
        "lost": lost,
        "samples": seen,
    }
    record_property("soak", told)
    logger.info("soak: %s", told)
    assert all(player.episodes > 0 for player in players)
    # Each kill costs at most the one episode that each environment was in.
    assert all(player.lost <= plan.kills for player in players)
    assert lost > 0
    nothing_is_left(before, seen)


def watched(plan: Plan) -> list[dict[str, float]]:
    """Kill Chromium from time to time and note what is held in between."""
    start, seen, killed = time.monotonic(), [], 0
    while (passed := time.monotonic() - start) < plan.seconds:
        if passed > plan.seconds * (killed + 1) / (plan.kills + 1):
            killed += 1
            for stepped in (False, True):
                Browser.shared(stepped=stepped).kill()
        seen.append(usage())
        time.sleep(plan.seconds / SAMPLES)
    assert killed == plan.kills
    return seen


def nothing_is_left(before: dict[str, float], seen: list[dict[str, float]]) -> None:
    """Compare the second quarter of the time with the last one, and the end with the beginning."""
    browsers = [Browser.shared(stepped=stepped) for stepped in (False, True)]
    for browser in browsers:
        chromium = browser._chromium
        assert chromium is not None
        deadline = time.monotonic() + 30
        while len(chromium.contexts) > len(browser.spares) and time.monotonic() < deadline:
            time.sleep(0.1)
        # What nobody took yet is all that is left.
        assert len(chromium.contexts) == len(browser.spares) <= MAX_SPARES
    quarter = len(seen) // 4
    for name, most in (("memory", 60), ("driver", 120), ("handles", 12), ("threads", 4)):
        early = statistics.median(each[name] for each in seen[quarter : 2 * quarter])
        late = statistics.median(each[name] for each in seen[-quarter:])
        assert late - early <= most, (name, early, late)
    for browser in browsers:
        browser.close()
    deadline = time.monotonic() + 30
    while left := processes(os.getpid()):
        if all("python" in name for name, _, _ in left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert [each for each in left.values() if "python" not in each[0]] == []
    after = usage()
    assert after["handles"] <= before["handles"] + 5
    assert after["threads"] <= before["threads"] + 1
