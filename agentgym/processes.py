"""Commands in processes of their own, side by side: one that dies costs the others nothing."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentgym import paths
from agentgym.errors import ConfigError

_LOOK_S = 0.1
_STOP_S = 20.0
_TAIL = 400


@dataclass(frozen=True)
class Command:
    """One process to be."""

    name: str
    argv: tuple[str, ...]
    log: Path
    """File for what it prints; written anew."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    name: str
    code: int
    """0 is success; -9 is killed by signal 9."""
    seconds: float
    told: str
    """The end of what it printed, if it failed."""


def side_by_side(
    commands: Sequence[Command],
    jobs: int,
    *,
    on_end: Callable[[Ended], None] | None = None,
    cores: int | None = None,
) -> list[Ended]:
    """Run commands, a few at a time, each with its share of the machine's cores.

    Args:
        commands: what to run, in this order.
        jobs: how many at once.
        on_end: told of each as it ends.
        cores: to share out; None for those that this process may use.

    Returns:
        How each ended, in the order of the commands; failures are told and never raised.

    Raises:
        ConfigError: fewer than one at once.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs!r}")
    # Each process would else start as many threads as there are cores, and all would crawl.
    share = max(1, (cores or usable_cores()) // max(1, min(jobs, len(commands))))
    ended: dict[int, Ended] = {}
    running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    waiting = list(enumerate(commands))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, command = waiting.pop(0)
                running[index] = _start(command, share), time.monotonic()
            time.sleep(_LOOK_S)
            for index, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[index]
                seconds = time.monotonic() - began
                ended[index] = _end(commands[index], process.returncode, seconds)
                if on_end is not None:
                    on_end(ended[index])
    finally:
        _stop([process for process, _ in running.values()])
    return [ended[index] for index in range(len(commands))]


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(command: Command, threads: int) -> subprocess.Popen[bytes]:
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("wb") as log:
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=paths.environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)),
        )


def _end(command: Command, code: int, seconds: float) -> Ended:
    told = ""
    if code:
        told = command.log.read_text("utf-8", "replace").strip()[-_TAIL:]
    return Ended(command.name, code, seconds, told)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, when this process is interrupted."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
