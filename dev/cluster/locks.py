"""Locks between commands, by files in the cache."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from dev.cluster import paths
from dev.cluster.report import say


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Hold a lock, after waiting for whoever has it; it goes with the process, however that ends."""
    folder = paths.cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that is busy with: {name}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
