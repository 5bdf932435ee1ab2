"""What the demo shows: titles with the time that each step took, and tables of plain text."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Screen:
    """Prints, and remembers how long each step took."""

    started: float = field(default_factory=time.monotonic)
    steps: list[tuple[str, float]] = field(default_factory=list)

    def elapsed(self) -> str:
        """Time since the start, as m:ss."""
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def say(self, text: str = "") -> None:
        """Print a line with the time in front of it."""
        print(f"[{self.elapsed()}] {text}" if text else "", flush=True)

    def command(self, *words: str) -> None:
        """Show the command that is about to run, as a person would type it."""
        print(f"        $ {' '.join(words)}", flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A titled step, timed."""
        bar = "-" * max(4, 96 - len(title))
        print(f"\n== {title} {bar}", flush=True)
        begun = time.monotonic()
        yield
        self.steps.append((title, time.monotonic() - begun))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in aligned columns."""
        for line in aligned([header, *rows]):
            print(f"        {line}")
        sys.stdout.flush()

    def times(self) -> None:
        """Print what each step took."""
        rows = [[title, f"{seconds:.0f} s"] for title, seconds in self.steps]
        rows.append(["together", f"{time.monotonic() - self.started:.0f} s"])
        self.table(["STEP", "TIME"], rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with columns three spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
