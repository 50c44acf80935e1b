"""Environments in threads of their own, so that no environment ever blocks another one.

A worker that does not answer in time is abandoned with its thread: whatever hangs in it can cost
its own episode only. Threads are daemons; they never keep the program from ending.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import gymnasium as gym

T = TypeVar("T")
Env = gym.Env[Any, Any]
_CLOSE_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


class EnvWorker:
    """One environment and the only thread that touches it.

    Args:
        env_id: what `make` is called with.
        make: makes the environment, in the worker's thread.
    """

    def __init__(self, env_id: str, make: Callable[[str], Env]) -> None:
        self.env_id = env_id
        self.broken = False
        self._make = make
        self._env: Env | None = None
        self._jobs: queue.SimpleQueue[tuple[Callable[[Env], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._serve, name=f"agentgym-env-{env_id}", daemon=True
        )
        self._thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._env is None:
                    self._env = self._make(self.env_id)
                future.set_result(function(self._env))
            except BaseException as error:  # whatever it is, it belongs to the caller
                future.set_exception(error)
        if self._env is not None:
            try:
                self._env.close()
            except Exception as error:
                _log.warning("closing %s failed: %r", self.env_id, error)
            self._env = None

    async def call(self, function: Callable[[Env], T], timeout_s: float) -> T:
        """Run `function(env)` in the worker's thread.

        Raises:
            TimeoutError: no answer in time; the worker is broken from then on.
            Exception: whatever `function` raised.
        """
        future: Future[T] = Future()
        self._jobs.put((function, future))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:
            # A TimeoutError of the function's own also ends here: either way it took too long.
            self.broken = True
            raise

    def close(self) -> None:
        """Ask the thread to close its environment and end; does not wait."""
        self._jobs.put(None)

    def join(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Wait for the end; False if the thread is stuck and was left behind."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class EnvPool:
    """Idle workers by environment id, reused from episode to episode.

    Args:
        make: makes an environment by id.
        size: how many idle workers are kept.
    """

    def __init__(self, make: Callable[[str], Env], size: int) -> None:
        self._make = make
        self._size = size
        self._idle: list[EnvWorker] = []
        self._all: list[EnvWorker] = []

    def take(self, env_id: str) -> EnvWorker:
        """An idle worker of that id, or a new one."""
        for i in range(len(self._idle) - 1, -1, -1):
            if self._idle[i].env_id == env_id:
                return self._idle.pop(i)
        worker = EnvWorker(env_id, self._make)
        self._all.append(worker)
        return worker

    def give(self, worker: EnvWorker) -> None:
        """Hand a worker back; a broken one is closed, and the oldest beyond the size too."""
        if worker.broken:
            self._retire(worker)
            return
        self._idle.append(worker)
        if len(self._idle) > self._size:
            self._retire(self._idle.pop(0))

    def _retire(self, worker: EnvWorker) -> None:
        worker.close()
        self._all.remove(worker)

    def close(self) -> None:
        """Close every worker; those that are stuck are left behind and told."""
        for worker in self._all:
            worker.close()
        for worker in self._all:
            if not worker.broken and not worker.join():
                _log.warning("%s did not close in time and was left behind", worker.env_id)
        self._all.clear()
        self._idle.clear()
