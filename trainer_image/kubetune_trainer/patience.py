"""A time limit for programs that come with a model, such as its chat template, because they may not end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TookTooLong(Exception):
    """The time is up."""


@contextmanager
def cpu_time(seconds: float) -> Iterator[None]:
    """Interrupt Python code after so many seconds of this process's CPU time.

    This only works in the main thread, where the run is. Elsewhere Python takes no signals, and nothing is
    limited.

    Raises:
        TookTooLong: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"it did not end within {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
