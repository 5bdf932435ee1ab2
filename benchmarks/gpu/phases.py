"""Commands one after the other, each with a limit of its own inside that of all, their output in one log."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TAIL = 12
"""Lines of its output that are shown of a command that failed."""
LEAST = 15
"""Seconds below which a command is not begun."""


class Phases:
    """Python modules run as processes."""

    def __init__(self, folder: Path, log: Path, seconds: float, environment: Mapping[str, str]) -> None:
        """Args:
        folder: where they run.
        log: takes their output.
        seconds: for all of them.
        environment: of the processes.
        """
        self._folder, self._log, self._environment = folder, log, environment
        self._started, self._seconds = time.monotonic(), seconds
        self.told: list[tuple[str, str]] = []
        """What became of each."""
        self.troubles = 0

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._seconds - (time.monotonic() - self._started)

    def trouble(self, name: str, text: str) -> None:
        """Note what went wrong."""
        self.troubles += 1
        self._tell(name, text)

    def run(self, name: str, module: Sequence[str], limit: float) -> bool:
        """Run a module with its arguments. Whether it ended well."""
        if self.left < LEAST:
            self.trouble(name, f"left out: {max(0, self.left):.0f} s of {self._seconds:.0f} are left")
            return False
        limit, started = min(limit, self.left), time.monotonic()
        with self._log.open("ab") as log:
            log.write(f"\n===== {name}: {' '.join(module)}\n".encode())
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", *module], cwd=self._folder, env=dict(self._environment), stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self._end(process)
        took = time.monotonic() - started
        lines = self._log.read_bytes()[begin:].decode(errors="replace").splitlines() or ["it said nothing"]
        if code == 0:
            self._tell(name, f"{took:.0f} s; {lines[-1]}")
            return True
        self.trouble(
            name, f"stopped after {took:.0f} s" if code is None else f"exit code {code}, {took:.0f} s"
        )
        print("\n".join(f"    {line}" for line in lines[-TAIL:]), flush=True)
        return False

    def _tell(self, name: str, text: str) -> None:
        self.told.append((name, text))
        print(f"[{self._seconds - self.left:4.0f} s] {name}: {text}", flush=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """End it and what it started."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # all of them have ended
        process.wait()
