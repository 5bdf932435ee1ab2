"""Run a command of the machine."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.report import ClusterError

# An ordinary user's PATH may lack them, root's may too.
_ADMIN_FOLDERS = ("/usr/sbin", "/sbin")


def which(program: str) -> Path | None:
    """Where a program is, looked for in the administrators' folders too."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_ADMIN_FOLDERS]))
    return Path(found) if found else None


def attempt(*command: str | Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command whose failure the caller judges."""
    program = which(str(command[0])) or command[0]
    return subprocess.run(
        [str(program), *map(str, command[1:])], input=input, capture_output=True, text=True, check=False
    )


def run(*command: str | Path, input: str | None = None) -> str:
    """Run a command that must succeed; returns what it prints.

    Raises:
        ClusterError: it failed; carries what it said.
    """
    try:
        done = attempt(*command, input=input)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ClusterError(f"`{_shorten(command)}` failed: {said[-600:]}")
    return done.stdout


def _shorten(command: Sequence[str | Path]) -> str:
    text = " ".join(map(str, command))
    return text if len(text) <= 120 else text[:117] + "..."
