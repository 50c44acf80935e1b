"""Things made before they are asked for: one is taken, and another is made behind it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from agentgym.environments.web.page import one_line

logger = logging.getLogger(__name__)

MAX_SPARES = 4
"""That wait at once, whatever they were made with."""
KEEP_S = 60.0
"""How long one waits before it is given up: it costs memory, and a new one a tenth of a second."""


class Spare(Protocol):
    """What can be made in advance."""

    async def usable(self) -> bool:
        """Whether it still answers."""
        ...

    def discard(self) -> None:
        """Nobody will take it."""
        ...


S = TypeVar("S", bound=Spare)


class Spares(Generic[S]):
    """What waits to be taken, by what it was made with. Only on the browser's loop.

    There are at most as many of a kind as are in use, and at most `MAX_SPARES` of all kinds. Each
    is given to one taker and never comes back.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Hashable, S]] = []  # the oldest first
        self._used: Counter[Hashable] = Counter()
        self._filling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self, kind: Hashable, make: Callable[[], Awaitable[S]]) -> S:
        """One of this kind, made now if none waits; `left` tells when it is no longer used."""
        self._used[kind] += 1
        try:
            while (spare := self._next(kind)) is not None:
                usable = False
                try:
                    usable = await spare.usable()
                finally:
                    if not usable:
                        spare.discard()
                if usable:
                    return spare
            return await make()
        except BaseException:
            self.left(kind)
            raise

    def left(self, kind: Hashable) -> None:
        """What was taken is no longer used."""
        self._used[kind] -= 1
        if self._used[kind] <= 0:
            del self._used[kind]

    def fill(self, kind: Hashable, make: Callable[[], Awaitable[S]]) -> None:
        """Begin to make what is wanted of a kind, one after the other, unless this goes on."""
        if self._filling is None or self._filling.done():
            self._filling = asyncio.ensure_future(self._fill(kind, make))

    async def close(self) -> None:
        """Make no more and discard all."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        for _, spare in self._waiting:
            spare.discard()
        self._waiting.clear()

    async def _fill(self, kind: Hashable, make: Callable[[], Awaitable[S]]) -> None:
        while sum(each[0] == kind for each in self._waiting) < min(self._used[kind], MAX_SPARES):
            try:
                spare = await make()
            except Exception as error:  # whoever needs one makes it, and hears of it
                logger.debug("no spare was made: %s", one_line(error))
                return
            self._waiting.append((kind, spare))
            asyncio.get_running_loop().call_later(KEEP_S, self._expire, spare)
            if len(self._waiting) > MAX_SPARES:
                self._expire(self._waiting[0][1])

    def _next(self, kind: Hashable) -> S | None:
        """The oldest of a kind, which is nobody else's from now on."""
        for each in self._waiting:
            if each[0] == kind:
                self._waiting.remove(each)
                return each[1]
        return None

    def _expire(self, spare: S) -> None:
        for each in self._waiting:
            if each[1] is spare:
                self._waiting.remove(each)
                spare.discard()
                return
