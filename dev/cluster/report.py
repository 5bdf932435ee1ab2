"""What is told to the person who waits: one line per step, with seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClusterError(Exception):
    """The cluster cannot do it; the message is one sentence that says what to do."""


class Step:
    """A step under way; `note` shows how far it is."""

    # A log file gets a line now and then, a terminal one line that is rewritten.
    HEARTBEAT_SECONDS = 30.0

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self._last_line = self.started
        self._tty = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def note(self, detail: str) -> None:
        """Say how far the step is."""
        if self._tty:
            print(
                f"\r\033[K  {self.title}: {detail}, {self.seconds:.0f} s", end="", file=sys.stderr, flush=True
            )
        elif time.monotonic() - self._last_line >= self.HEARTBEAT_SECONDS:
            self._last_line = time.monotonic()
            say(f"{self.title}: {detail}, {self.seconds:.0f} s so far")

    def finish(self, outcome: str) -> None:
        """Print the step's one line."""
        if self._tty:
            print("\r\033[K", end="", file=sys.stderr)
        say(f"{self.title}: {outcome}{self.seconds:.1f} s")


def say(line: str) -> None:
    """Print a line to standard error: standard output is for answers that other programs read."""
    print(f"  {line}", file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Time a step and print it when it is done or has failed."""
    current = Step(title)
    try:
        yield current
    except BaseException:
        current.finish("failed after ")
        raise
    current.finish("")
