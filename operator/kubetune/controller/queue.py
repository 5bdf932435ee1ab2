"""Work queue: one entry per key, one worker per key at a time, delays and exponential backoff.

As in client-go's workqueue, a key that is added while it is worked on is worked on once more after.
"""

import asyncio
import random
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.2
"""Seconds; doubled with every failure in a row."""
LONGEST_BACKOFF = 60.0
_MOST_DOUBLINGS = 16


class WorkQueue(Generic[K]):
    """Keys that are to be worked on. Not thread-safe: everything happens in one event loop."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        """Keys in the ready queue, and since when (monotonic seconds)."""
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Work on a key as soon as there is a worker."""
        self._cancel_timer(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Work on a key after a while; an earlier appointment stands."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: K) -> float:
        """Work on a key that failed again, later each time; returns the delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        doubled = FIRST_BACKOFF * 2 ** min(failures - 1, _MOST_DOUBLINGS)
        delay: float = min(doubled, LONGEST_BACKOFF) * random.uniform(0.75, 1.25)
        self.add_after(key, delay)
        return delay

    def forget_failures(self, key: K) -> None:
        """The key succeeded: the next failure is the first one again."""
        self._failures.pop(key, None)

    async def take(self) -> K:
        """Wait for a key; nobody else gets it until `done`."""
        key = await self._ready.get()
        del self._waiting[key]
        self._working[key] = time.monotonic()
        return key

    def done(self, key: K) -> None:
        """Give a key back."""
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    def oldest_seconds(self) -> float:
        """How long the oldest key has been waiting or worked on."""
        now = time.monotonic()
        return max((now - since for since in (*self._waiting.values(), *self._working.values())), default=0.0)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
