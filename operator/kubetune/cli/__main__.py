"""`kubetune operator | gateway | digest | reclaim`."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kubetune.api.version import VERSION_TEXT

USAGE = """usage: kubetune COMMAND

  operator          reconcile PretrainJobs, FineTuneJobs and AdapterSets
  gateway           stand before a serving engine (in every serving pod)
  reclaim FOLDER    remove what a deleted job wrote (in a pod of its own)
  digest FOLDER     print the digest of a model or adapter folder

  --version         print the version
  COMMAND --help    describe a command and its flags
"""


def main() -> int:
    """Run one command; returns the exit status."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "operator": _operator,
        "gateway": _gateway,
        "digest": _digest,
        "reclaim": _reclaim,
    }
    words = sys.argv[1:]
    if words == ["--version"]:
        print(VERSION_TEXT)
        return 0
    if not words or words[0] not in commands:
        print(USAGE, end="", file=sys.stdout if words in (["--help"], ["-h"]) else sys.stderr)
        return 0 if words in (["--help"], ["-h"]) else 2
    return commands[words[0]](words[1:])


def _operator(words: Sequence[str]) -> int:
    # A container's first process ignores SIGTERM until told otherwise, and the imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from kubetune.cli.operator import main as run

    return run(words)


def _gateway(words: Sequence[str]) -> int:
    from kubetune.gateway.__main__ import main as run

    return run(words)


def _reclaim(words: Sequence[str]) -> int:
    from kubetune.cli.reclaim import main as run

    return run(words)


def _digest(words: Sequence[str]) -> int:
    from kubetune.artifacts.digest import UnsafePath, folder_digest

    parser = argparse.ArgumentParser(
        prog="kubetune digest", description="Print the digest of a model or adapter folder, as specs pin it."
    )
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    parser.add_argument("folder", type=Path, help="the folder")
    options = parser.parse_args(words)
    try:
        print(folder_digest(options.folder))
    except (FileNotFoundError, UnsafePath) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
