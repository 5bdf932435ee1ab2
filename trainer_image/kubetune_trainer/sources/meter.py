"""Progress of the downloads: to the receiver at once, to the log now and then."""

import time

from kubetune_trainer.log import duration, say
from kubetune_trainer.progress import Progress

LOG_SECONDS = 5.0
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Meter:
    """Bytes of all sources together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._total = self._done = self._fetched = 0
        self._began = self._said = time.monotonic()

    def expect(self, size: int) -> None:
        """Add so many bytes to the total (or remove them, if negative)."""
        self._total += size
        self._tell()

    def have(self, size: int) -> None:
        """Add so many bytes that are already there (or remove them, if negative)."""
        self._done += size
        self._tell()

    def fetched(self, size: int) -> None:
        """Add so many bytes that have arrived."""
        self._fetched += size
        self.have(size)
        now = time.monotonic()
        if now - self._said >= LOG_SECONDS:
            self._said = now
            rate = self._fetched / (now - self._began)
            left = max(0, self._total - self._done)
            say(
                "download", bytes=f"{human(self._done)}/{human(self._total)}", perSecond=human(round(rate)),
                eta=duration(left / rate),
            )  # fmt: skip

    def end(self) -> None:
        """Log the totals."""
        if self._total:
            say(
                "downloaded", bytes=self._total, fetched=self._fetched,
                took=duration(time.monotonic() - self._began),
            )  # fmt: skip

    def _tell(self) -> None:
        # If a server does not tell a size, the bytes so far are all that is known.
        self._progress.update(
            percentage=0, downloadedBytes=self._done, totalBytes=max(self._total, self._done)
        )


def human(size: int) -> str:
    """Bytes as people write them: 1.2GB."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{_UNITS[unit]}"
