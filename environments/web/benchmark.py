"""The benchmark `web`: what a step in Chromium costs, and what it costs elsewhere.

MiniWoB's pages against the protocol alone and against BrowserGym and Farama's MiniWoB++, which play
the same episodes by the same moves in interpreters of their own; open pages, one of 3,000 elements;
many environments at once; and memory.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentgym.bench import Benchmark, BenchmarkOptions, Case, Measurement, Side
from agentgym.environments.benchmark import GymPlayer, measure, measure_threads
from agentgym.environments.web.floor import RawCdp
from agentgym.environments.web.foreign import Foreign, Package, page_address
from agentgym.environments.web.miniwob import html_folder

TASKS = ("click-test", "click-checkboxes", "enter-text", "login-user")
THREADED = "login-user"
COUNTS = (1, 4, 16, 64)
"""How many environments at once."""
EPISODES = 8
"""Of each task in a repetition; a quarter of it of each environment at once."""
CLICKS = 15
"""Steps of an episode on an open page."""
_NOTE = (
    "MiniWoB: four tasks, each by the same moves on every side. Raw CDP: input by the protocol, "
    "one small pass over the page, no environment, no waiting, a page that is never loaded anew. "
    "BrowserGym and Farama's MiniWoB++ run by their own interpreters with their own defaults, "
    "'no sleeps' is pre_observation_delay=0 and slow_mo=0; their observations hold a screenshot. "
    "Open pages come from a server of this process. Environments at once: a thread each, three "
    "steps and a reset an episode; steps/s in all include the resets, and looks/s count them: each "
    "of both ends with an observation."
)
_SETTINGS: Mapping[str, tuple[Package, Mapping[str, Any]]] = {
    "BrowserGym": ("browsergym", {}),
    "BrowserGym, no sleeps": ("browsergym", {"pre_observation_delay": 0.0, "slow_mo": 0}),
    "Farama MiniWoB++": ("farama", {}),
}


def web(options: BenchmarkOptions) -> Benchmark:
    """Steps and resets of web environments.

    Raises:
        UnknownNameError: an environment is not registered.
    """
    quick = options.quick
    tasks = TASKS[:1] if quick else TASKS
    remarks: list[str] = []
    settings: dict[str, Any] = {"tasks": tasks, "clicks": CLICKS, "browser_pss_mb": {}}
    episodes = 1 if quick else EPISODES
    cases = [
        Case("MiniWoB", partial(_miniwob, tasks, episodes, images=False), "raw CDP"),
        Case("MiniWoB + image", partial(_miniwob, tasks, episodes, images=True), "raw CDP"),
    ]
    for name, (package, arguments) in _SETTINGS.items():
        program = options.browsergym if package == "browsergym" else options.farama
        if not program:
            remarks.append(f"{name} was left out: give its Python by --{package}.")
            continue
        opens = partial(_against, tasks, name, package, program, arguments)
        cases.append(Case(f"MiniWoB against {name}", opens, name))
    for name, (path, role) in _PAGES.items():
        cases.append(Case(name, partial(_open_page, path, role, 3 if quick else CLICKS)))
    counts = COUNTS[:2] if quick else COUNTS
    for images in (False, True):
        case = f"{THREADED}{' + image' if images else ''}, at once"
        memory = settings["browser_pss_mb"].setdefault(case, {})
        opens = partial(_at_once, counts, images, memory, remarks)
        cases.append(Case(case, opens, f"{counts[0]} env"))
    return Benchmark(
        title="Web environments",
        cases=cases,
        rates={
            "steps_per_s": partial(_rate, "step"),
            "resets_per_s": partial(_rate, "reset"),
            "all_steps_per_s": lambda m: m.counts["steps"] / m.seconds,
            "looks_per_s": lambda m: (m.counts["steps"] + m.counts["resets"]) / m.seconds,
        },
        columns={
            "case": "what",
            "side": "by",
            "steps_per_s": "steps/s",
            "steps_per_s_ratio": "x",
            "step_p50_ms": "p50 ms",
            "step_p95_ms": "p95 ms",
            "step_samples": "n",
            "reset_p50_ms": "reset p50 ms",
            "reset_p95_ms": "p95 ms",
            "all_steps_per_s": "steps/s in all",
            "all_steps_per_s_ratio": "x",
            "looks_per_s": "looks/s",
        },
        note=_NOTE,
        settings=settings,
        repetitions=1 if quick else 3,
        remarks=remarks,
    )


def _rate(kind: str, measurement: Measurement) -> float | None:
    seconds = measurement.latencies.get(kind)
    return len(seconds) / sum(seconds) if seconds else None


def merged(parts: Sequence[Measurement]) -> Measurement:
    """Several measurements as one."""
    return Measurement(
        seconds=sum(part.seconds for part in parts),
        counts={k: sum(part.counts[k] for part in parts) for k in parts[0].counts},
        latencies={k: [s for part in parts for s in part.latencies[k]] for k in parts[0].latencies},
        outcome=[part.outcome for part in parts],
    )


def seeds(episodes: int, repetition: int) -> list[int]:
    """Of the episodes of a repetition; the same ones on every side."""
    return [1000 * repetition + i for i in range(episodes if repetition else 1)]


def page_seed(seed: int) -> int:
    """The page's own seed for an environment's; see `miniwob`."""
    return int(np.random.RandomState(seed).randint(0, 1_000_000))


class FloorPlayer:
    """`RawCdp` as a player with the environment's seeds."""

    def __init__(self, task: str, *, images: bool) -> None:
        self._raw = RawCdp(task, images=images)
        self.choose, self.step, self.close = self._raw.choose, self._raw.step, self._raw.close

    def reset(self, seed: int) -> str:
        """Begin the episode that the environment has for this seed."""
        return self._raw.begin(page_seed(seed))


def _ours(tasks: Sequence[str], stack: ExitStack, episodes: int, *, images: bool) -> Side:
    players = [
        stack.enter_context(closing(GymPlayer(f"agentgym/miniwob.{task}-v0", images=images)))
        for task in tasks
    ]
    return lambda repetition: merged([measure(p, seeds(episodes, repetition)) for p in players])


@contextmanager
def _miniwob(tasks: Sequence[str], episodes: int, *, images: bool) -> Iterator[Mapping[str, Side]]:
    with ExitStack() as stack:
        floor = [stack.enter_context(closing(FloorPlayer(t, images=images))) for t in tasks]
        yield {
            "agentgym": _ours(tasks, stack, episodes, images=images),
            "raw CDP": lambda repetition: merged(
                [measure(player, seeds(episodes, repetition)) for player in floor]
            ),
        }


@contextmanager
def _against(
    tasks: Sequence[str], name: str, package: Package, program: str, arguments: Mapping[str, Any]
) -> Iterator[Mapping[str, Side]]:
    """One episode of each task, since the others take seconds for it."""
    with ExitStack() as stack:
        html = page_address(html_folder())
        other = stack.enter_context(Foreign(package, program, html, arguments))

        def theirs(repetition: int) -> Measurement:
            of = seeds(1, repetition)
            return merged([other.play(task, of, list(map(page_seed, of))) for task in tasks])

        yield {
            "agentgym": _ours(tasks, stack, 1, images=False),
            "agentgym + image": _ours(tasks, stack, 1, images=True),
            name: theirs,
        }


@contextmanager
def _at_once(
    counts: Sequence[int],
    images: bool,
    memory: dict[str, float],
    remarks: list[str],
) -> Iterator[Mapping[str, Side]]:
    """The same work by so many environments."""
    env_id = f"agentgym/miniwob.{THREADED}-v0"
    with ExitStack() as stack:
        players: list[GymPlayer] = []
        for count in counts:
            while len(players) < count:
                player = stack.enter_context(closing(GymPlayer(env_id, images=images)))
                player.reset(0)
                players.append(player)
            memory[str(count)] = round(browser_pss() / 1e6, 1)
        first, last = memory[str(counts[0])], memory[str(counts[-1])]
        each = (last - first) / (counts[-1] - counts[0])
        remarks.append(
            f"{THREADED}{' + image' if images else ''}: the browser takes {first:.0f} MB with "
            f"{counts[0]} environment, {last:.0f} MB with {counts[-1]}: {each:.1f} MB for each."
        )
        total = max(counts) * EPISODES // 4

        def side(count: int, repetition: int) -> Measurement:
            return measure_threads(players[:count], seeds(total, repetition))

        yield {f"{count} env{'s' * (count > 1)}": partial(side, count) for count in counts}


# ---- open pages -------------------------------------------------------------------------------

_ROW = (
    "<p>Item {0} <a href='/next?{0}'>Item {0}</a> <button onclick='this.textContent++'>0</button>"
)
_PAGES: Mapping[str, tuple[str, str]] = {
    "open page, click a button": ("/small", "button"),
    "open page, follow a link": ("/small", "link"),
    "page of 3,000 elements, click a button": ("/large", "button"),
}
_ROWS = {"/small": 20, "/large": 1000, "/next": 20}


class _Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        rows = _ROWS.get(self.path.partition("?")[0], 0)
        body = "".join(_ROW.format(i) for i in range(rows))
        data = f"<!DOCTYPE html><title>{self.path}</title><body>{body}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def site() -> Iterator[str]:
    """A server of this process with the pages; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Visitor:
    """Clicks one thing after another on an open page.

    Args:
        url: where it begins.
        role: of what is clicked.
        clicks: steps of an episode.
    """

    def __init__(self, url: str, role: str, clicks: int) -> None:
        self.env: gym.Env[Any, Any] = gym.make(
            "agentgym/web.open-v0",
            start_url=url,
            goal="Look around",
            disable_env_checker=True,
            max_episode_steps=clicks,
        )
        self._role = role
        self._number = 0

    def reset(self, seed: int) -> str:
        """Open the page."""
        observation, _ = self.env.reset(seed=seed)
        self._number = 0
        return str(observation["goal"])

    def choose(self) -> str:
        """A click on the next such element."""
        view = self.env.get_wrapper_attr("view")
        found = [e for e in view if e.role == self._role and "offscreen" not in e.states]
        self._number += 1
        return f'click("{found[self._number % len(found)].id}")'

    def step(self, action: str) -> tuple[float, bool]:
        """Click and look."""
        _, reward, terminated, truncated, info = self.env.step(action)
        assert not info["action_error"], info["action_error"]
        return float(reward), terminated or truncated

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


@contextmanager
def _open_page(path: str, role: str, clicks: int) -> Iterator[Mapping[str, Side]]:
    with site() as address, closing(Visitor(address + path, role, clicks)) as visitor:
        yield {"agentgym": lambda repetition: measure(visitor, seeds(2, repetition))}


# ---- memory ------------------------------------------------------------------------------------


def browser_pss() -> float:
    """Bytes of memory of the browser's processes, shared pages by their share; 0 if unknown."""
    from agentgym.environments.web.browser import Browser

    pid = Browser.shared(stepped=True).pid
    return sum(map(_pss, [pid, *_below(pid)]))


def _below(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _read(task).split()):
            found += [child, *_below(child)]
    return found


def _pss(pid: int) -> float:
    lines: Callable[[], list[str]] = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines
    return sum(1024.0 * int(line.split()[1]) for line in lines() if line.startswith("Pss:"))


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:  # it has ended meanwhile, or this is no Linux
        return ""
