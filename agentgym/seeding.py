"""One seed, many independent streams: every component draws from a stream of its own."""

import hashlib

import numpy as np

SEED_MAX = 2**63 - 1


def derive(seed: int, *names: str | int) -> int:
    """A seed for a named component, independent of the seeds of all other names.

    Args:
        seed: the run's seed.
        names: path of the component, e.g. ``"rollout", 3, "episode", 17``.

    Returns:
        An integer in [0, 2**63), the same in every process and on every platform.

    Example:
        >>> derive(0, "rollout") == derive(0, "rollout"), derive(0, "a", 1) == derive(0, "a", 2)
        (True, False)
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(n).__name__}:{n}" for n in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") & SEED_MAX


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator seeded by `derive`."""
    return np.random.default_rng(derive(seed, *names))
