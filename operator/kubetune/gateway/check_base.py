"""Run before an engine starts: is the base in its folder the one meant?"""

import argparse
import signal
import sys
from pathlib import Path

from kubetune.api.version import VERSION_TEXT
from kubetune.artifacts.digest import UnsafePath, folder_digest


def main(argv: list[str]) -> int:
    """0 if the folder has the digest; else 1, and what to do on standard error."""
    # The first process of a container ignores what it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="check_base", description=__doc__)
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    parser.add_argument("folder", type=Path, help="folder of the base model")
    parser.add_argument("digest", help="what its digest must be")
    parser.add_argument("volume", type=Path, help="links to files are followed as long as they stay in it")
    options = parser.parse_args(argv)
    try:
        found = folder_digest(options.folder, within=options.volume)
    except (OSError, UnsafePath) as error:
        return _say(f"the base model cannot be read: {error}")
    if found != options.digest:
        return _say(
            f"the base model in {options.folder} has digest {found}, not {options.digest}: restore its files"
        )
    return 0


def _say(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - becomes the container's termination message
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
