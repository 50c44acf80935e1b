"""A run in several processes, as `accelerate launch` and `torchrun` start them, one a GPU.

All do the same phases: each plays its part of the episodes and computes its share of every update;
the first one alone writes the run's folder, which all of them read.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

from agentgym import paths
from agentgym.errors import ConfigError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: episodes of one may take much longer."""


class Ranks:
    """This process among those of a run. Every method is called by all of them, in one order."""

    def __init__(self) -> None:
        """Meet the others, if a launcher started several.

        Raises:
            ConfigError: they cannot talk to each other on this machine's devices.
        """
        self.count = paths.launched_processes()
        """How many there are."""
        self.rank = 0
        """Which one this is."""
        self.device = ""
        """What it computes on; empty if there is only one process, which may choose."""
        if self.count > 1:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            state = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)
            if state.num_processes != self.count:
                raise ConfigError(
                    f"{self.count} processes were launched, and there is no accelerator for them; "
                    "set ACCELERATE_USE_CPU=true to compute on the CPU, or start one process"
                )
            self.rank = state.process_index
            self.device = str(state.device)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of so many things in a row are this process's; neighbours stay together.

        Example:
            >>> Ranks().share(5)
            range(0, 5)
        """
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def joined(self, mine: Iterable[T]) -> list[T]:
        """The things of all processes, in the order of their shares, for each of them."""
        if self.count == 1:
            return list(mine)
        from accelerate.utils import gather_object

        found: list[T] = gather_object(list(mine))
        return found

    def told(self, value: T) -> T:
        """The first process's value, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [value]
        broadcast_object_list(box)
        told: T = box[0]
        return told

    def wait(self) -> None:
        """Go on once all are here."""
        self.told(None)

    def leave(self) -> None:
        """The run is over; nothing else may be called after."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
