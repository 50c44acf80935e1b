"""Worker threads are given back and made anew; freed memory is kept."""

import os
import resource
import sys
import threading
import time

import pytest
import torch

from agentgym import cpu


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads that Linux tells")
def test_workers_are_given_back_and_made_anew() -> None:
    if not cpu._runtimes():
        pytest.skip("this torch does not use GNU's OpenMP")
    counts: list[int] = []
    sums: list[float] = []

    def compute() -> None:
        torch.set_num_threads(3)
        for _ in range(2):
            before = _threads()
            sums.append(float(torch.ones(1 << 20).sum()))
            counts.append(_threads() - before)
            cpu.rest()
            deadline = time.monotonic() + 10
            while _threads() > before and time.monotonic() < deadline:
                time.sleep(0.001)
            counts.append(_threads() - before)
        assert torch.get_num_threads() == 3

    had = torch.get_num_threads()
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    torch.set_num_threads(had)
    assert counts == [2, 0, 2, 0]
    assert sums == [1 << 20, 1 << 20]


def test_a_thread_without_workers_may_rest() -> None:
    cpu.rest()
    cpu.rest()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for page faults")
def test_freed_memory_is_used_again() -> None:
    if not cpu.keep_freed():
        pytest.skip("this C library is not glibc")
    size, times = 40 << 20, 50
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(size, dtype=torch.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # What lies between them may make it take a few before all find room.
    assert faults < times * size // resource.getpagesize() / 3
