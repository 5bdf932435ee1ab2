"""SIGTERM and SIGINT become a flag that is looked at where stopping is safe."""

import signal
from types import FrameType

from kubetune_trainer.errors import Terminated


class Stop:
    """Whether the run was asked to stop.

    Installed before anything heavy is imported: as process 1 of a container, Python would otherwise ignore
    SIGTERM.
    """

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> "Stop":
        """Take over SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """End the run if it was asked to stop; called where there is nothing to save.

        Raises:
            Terminated: a signal came.
        """
        if self.requested:
            raise Terminated("stopped by a signal; the next attempt continues from the newest checkpoint")
