"""Workers: one thread an environment, reuse, and leaving behind what hangs."""

import asyncio
import threading
from typing import Any

import gymnasium as gym
import pytest

from agentgym.workers import EnvPool, EnvWorker


class Plain(gym.Env[Any, Any]):
    """Remembers the threads that touched it."""

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self.closed = threading.Event()

    def touch(self) -> int:
        self.threads.add(threading.get_ident())
        return len(self.threads)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed.set()


def test_one_thread_makes_uses_and_closes() -> None:
    env = Plain.__new__(Plain)

    def make(env_id: str) -> Plain:
        env.__init__()  # type: ignore[misc]
        return env

    worker = EnvWorker("plain", make)
    assert asyncio.run(worker.call(lambda e: e.touch(), 5)) == 1  # type: ignore[attr-defined]
    worker.close()
    assert worker.join(5)
    assert env.closed.is_set()
    assert len(env.threads) == 1
    assert threading.get_ident() not in env.threads


def test_errors_reach_the_caller_and_the_worker_lives_on() -> None:
    worker = EnvWorker("plain", lambda env_id: Plain())
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.call(lambda e: 1 / 0, 5))
    assert not worker.broken
    assert asyncio.run(worker.call(lambda e: 7, 5)) == 7
    worker.close()


def test_what_hangs_is_left_behind() -> None:
    release = threading.Event()
    worker = EnvWorker("plain", lambda env_id: Plain())
    with pytest.raises(TimeoutError):
        asyncio.run(worker.call(lambda e: release.wait(20), 0.05))
    assert worker.broken
    worker.close()
    assert not worker.join(0.05)
    release.set()
    assert worker.join(5)


def test_the_pool_reuses_by_id_and_bounds_what_is_idle() -> None:
    pool = EnvPool(lambda env_id: Plain(), size=2)
    a, b, c = pool.take("a"), pool.take("b"), pool.take("c")
    for worker in (a, b, c):
        pool.give(worker)
    assert a.join(5)  # the oldest idle one made room
    assert pool.take("c") is c
    assert pool.take("a") is not a
    c.broken = True
    pool.give(c)
    assert pool.take("c") is not c
    pool.close()
    assert b.join(5)
