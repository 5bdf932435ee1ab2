"""Whether this replica may write: a leader may, for a while after each renewal of its Lease.

The Lease alone does not keep two from writing: a process that was stopped or starved does not know that
another has taken over. So each write is let through only until a moment well before the earliest at which
another may take over, by a clock that nobody sets and that goes on while the machine sleeps.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kubetune.controller.errors import NotLeader

Uptime = Callable[[], float]


def uptime() -> float:
    """Seconds since some moment in the past."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Fence:
    """Stands before every write of the reconcilers. Not thread-safe: everything is in one event loop."""

    def __init__(self, clock: Uptime = uptime) -> None:
        self._clock = clock
        self._until = -math.inf
        self._closed = False
        self._passing = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open_until(self, moment: float) -> None:
        """Let writes through until a moment of the clock."""
        self._until = moment

    def close(self) -> None:
        """Let no write through any more, whatever comes."""
        self._closed = True

    def left(self) -> float:
        """Seconds for which it stays open; not positive when it is not."""
        return -math.inf if self._closed else self._until - self._clock()

    def check(self) -> None:
        """Raise `NotLeader` unless writes are let through now."""
        if self.left() <= 0:
            raise NotLeader("not written: this replica does not lead, or may no longer lead")

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count a write for as long as it is under way; `NotLeader` unless writes are let through."""
        self.check()
        self._passing += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._passing -= 1
            if not self._passing:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no write is under way."""
        await self._idle.wait()
