"""Seeds: the same everywhere, different for every name."""

import subprocess
import sys

import numpy as np

from agentgym.seeding import SEED_MAX, derive, generator


def test_seeds_are_fixed_forever() -> None:
    """Published results depend on them: blake2b of "seed\\x1ftype:name...", the low 63 bits."""
    assert derive(0) == 300471914551172981
    assert derive(0, "rollout", 3) == 8097037975233443109


def test_names_of_other_types_and_other_splits_are_other_streams() -> None:
    seeds = [
        derive(0, "1"),
        derive(0, 1),
        derive(0, "a", "b"),
        derive(0, "ab"),
        derive(0, "a"),
        derive(1, "a"),
        derive(0),
    ]
    assert len(set(seeds)) == len(seeds)


def test_seeds_are_in_range_and_do_not_collide() -> None:
    seeds = {derive(seed, "episode", i) for seed in range(50) for i in range(100)}
    assert len(seeds) == 5000
    assert all(0 <= seed <= SEED_MAX for seed in seeds)


def test_seeds_do_not_depend_on_the_hash_seed() -> None:
    code = "from agentgym.seeding import derive; print(derive(7, 'env', 2))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "12345")
    }
    assert outputs == {f"{derive(7, 'env', 2)}\n"}


def test_generators_repeat_and_differ() -> None:
    draws = [generator(0, name).integers(2**62, size=4) for name in ("a", "a", "b")]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
