"""The engine's thread: takes jobs from any thread, steps the scheduler, changes weights between."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

import torch

from agentgym import cpu
from agentgym.errors import InferenceError
from agentgym.inference.jobs import Job
from agentgym.inference.scheduler import Scheduler

log = logging.getLogger(__name__)


class Loop:
    """One thread that owns a scheduler. It starts with the first job and ends with `stop`."""

    def __init__(
        self, scheduler: Scheduler, max_waiting: int, device: torch.device | None = None
    ) -> None:
        """Wait for jobs.

        Args:
            scheduler: touched by nobody else from now on.
            max_waiting: most jobs in the queue.
            device: where it computes.
        """
        self._scheduler = scheduler
        self._device = device
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._inbox: deque[Job] = deque()
        self._exclusive: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._unfinished = 0
        self._reason = ""  # why it has stopped
        self._woken = False
        self._thread: threading.Thread | None = None

    @property
    def unfinished(self) -> int:
        """Jobs that are waiting or running."""
        return self._unfinished

    def submit(self, job: Job, *, block: bool = False) -> None:
        """Queue a job.

        Args:
            job: its future is set sooner or later, whatever happens.
            block: wait for a place in the queue.

        Raises:
            InferenceError: the loop has stopped, or the queue is full and `block` is off.
        """
        cpu.rest()  # whoever asks waits now
        with self._changed:
            while not self._reason and self._unfinished >= self._max_waiting:
                if not block:
                    raise InferenceError(
                        f"{self._unfinished} requests are waiting already; try again later, or "
                        "raise max_waiting"
                    )
                self._changed.wait()
            self._start()
            self._unfinished += 1
            self._inbox.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(self._finished)

    def together(self) -> AbstractContextManager[Any]:
        """While held, the thread takes no job: it sees all that come meanwhile at once.

        Which jobs share a step then depends on the jobs alone, and so does every rounding.
        """
        return self._changed  # its lock may be taken again by `submit`, and waiting lets go of it

    def check(self) -> None:
        """Raise if the loop has stopped.

        Raises:
            InferenceError: why it has.
        """
        if self._reason:
            raise InferenceError(self._reason)

    def alone(self, action: Callable[[], None]) -> None:
        """Run an action in the thread while no answer is under way, and wait for it.

        Raises:
            InferenceError: the loop has stopped.
        """
        cpu.rest()
        future: Future[None] = Future()
        with self._changed:
            self._start()
            self._exclusive.append((action, future))
            self._changed.notify_all()
        future.result()

    def wake(self) -> None:
        """Look at the jobs' `aborted` again."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def stop(self, reason: str) -> None:
        """Fail what is unfinished and end the thread; may be called twice."""
        with self._changed:
            self._reason = self._reason or reason
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        self.check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def _finished(self, future: "Future[object]") -> None:
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            if self._device is not None and self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # of this thread
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:  # a fault of ours: nobody may wait for ever
            log.exception("the engine's thread failed")
            self._reason = f"the engine failed: {type(error).__name__}: {error}; make a new one"
        self._end()

    def _turn(self) -> bool:
        """Wait for work and do some; False once stopped."""
        with self._changed:
            while not (
                self._reason
                or self._inbox
                or self._exclusive
                or self._scheduler.busy
                or self._woken
            ):
                cpu.rest()
                self._changed.wait()
            self._woken = False
            if self._reason:
                return False
            while self._inbox:
                self._scheduler.add(self._inbox.popleft())
            swap = bool(self._exclusive)
        if swap and not self._scheduler.started:
            action, future = self._exclusive.popleft()
            try:
                action()
            except Exception as error:  # told to the caller
                future.set_exception(error)
            else:
                future.set_result(None)
        elif self._scheduler.busy:
            self._scheduler.step(fresh=not swap)
        return True

    def _end(self) -> None:
        self._scheduler.fail_all(self._reason)
        with self._changed:
            while self._inbox:
                self._inbox.popleft().fail(self._reason, self._scheduler.version)
            while self._exclusive:
                self._exclusive.popleft()[1].set_exception(InferenceError(self._reason))
            self._changed.notify_all()
