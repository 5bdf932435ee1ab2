"""`kubetune reclaim`: remove the folder of a deleted job, and nothing else."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kubetune.api.version import VERSION_TEXT


def main(argv: Sequence[str]) -> int:
    """Remove a folder below a root; returns the exit status. A folder that is gone is fine."""
    parser = argparse.ArgumentParser(
        prog="kubetune reclaim", description="Remove a folder, links and all, following none of them."
    )
    parser.add_argument(
        "--root", type=Path, required=True, help="mount of the volume: nothing outside is touched"
    )
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    parser.add_argument("folder", type=Path, help="what is removed")
    options = parser.parse_args(argv)
    root, folder = options.root.resolve(), options.folder
    # The folder itself may be a link: its place counts, not what it points to.
    place = folder.parent.resolve() / folder.name
    if folder.name in ("", "..") or not place.is_relative_to(root) or place == root:
        print(f"{folder} does not lie below {root}: nothing was removed", file=sys.stderr)
        return 2
    try:
        if place.is_symlink() or place.is_file():
            place.unlink()
        else:
            shutil.rmtree(place)
    except FileNotFoundError:
        print(f"{folder} is gone already")
        return 0
    except OSError as error:
        print(f"{folder} was not removed whole: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{folder} is removed")
    return 0
