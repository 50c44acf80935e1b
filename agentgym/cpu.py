"""What makes torch fast on a CPU besides torch: OpenMP's threads and the C library's memory."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

_SOFT = 1
"""omp_pause_soft: settings such as the number of threads are kept."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from its malloc.h."""
_KEPT = 1 << 29
"""Most bytes of freed memory that are kept at the end of the heap."""
_MAPPED = 1 << 28
"""Bytes from which on a tensor has pages of its own, which go back when it is freed."""


def rest() -> None:
    """Give back the calling thread's workers; the next operation that needs some makes new ones.

    Every thread that computes has workers of its own, kept until it ends. GNU's runtime lets
    workers spin between two parallel regions, which is what makes small operations fast, but only
    while no more threads are kept than there are cores. The workers of a trainer that waits for
    answers are enough to make those of the engine sleep and be woken at every operation, and the
    other way round. Does nothing where torch does not use GNU's OpenMP.

    https://www.openmp.org/spec-html/5.0/openmpsu155.html (omp_pause_resource_all)
    """
    for runtime in _runtimes() if "torch" in sys.modules else ():
        runtime.omp_pause_resource_all(_SOFT)


@cache
def _runtimes() -> tuple[ctypes.CDLL, ...]:
    """GNU's OpenMP as torch has brought it along."""
    if sys.platform != "linux":
        return ()
    lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    files = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    found = []
    for file in sorted(files):
        try:
            runtime = ctypes.CDLL(file, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:  # deleted meanwhile, by an update
            continue
        if hasattr(runtime, "omp_pause_resource_all"):
            found.append(runtime)
    return tuple(found)


@cache
def keep_freed() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    As it is, glibc returns what is large to the system at once, and every new tensor of some
    megabytes is paid for page by page, which can take longer than what is computed in it.

    https://man7.org/linux/man-pages/man3/mallopt.3.html

    Returns:
        False where there is no glibc.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    mapped = library.mallopt(_MMAP_THRESHOLD, _MAPPED) or library.mallopt(_MMAP_THRESHOLD, 1 << 25)
    return bool(mapped and library.mallopt(_TRIM_THRESHOLD, _KEPT))
