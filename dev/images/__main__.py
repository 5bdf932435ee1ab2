"""python -m dev.images build|load|refs [operator|trainer]: build images, put them into the local cluster."""

import argparse
import sys

from dev.cluster.report import ClusterError
from dev.images.build import build
from dev.images.inputs import IMAGES
from dev.images.load import load


def main() -> int:
    """Run one command and print `name reference` lines; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.images", description=__doc__)
    parser.add_argument("command", choices=["build", "load", "refs"])
    parser.add_argument("image", nargs="*", help=f"of {', '.join(IMAGES)} (default: all)")
    arguments = parser.parse_args()
    names = arguments.image or list(IMAGES)
    if unknown := set(names) - set(IMAGES):
        parser.error(f"no image is called {', '.join(sorted(unknown))}: there are {', '.join(IMAGES)}")
    try:
        if arguments.command == "refs":
            references = {name: IMAGES[name].reference for name in names}
        else:
            references = {"build": build, "load": load}[arguments.command](names)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    for name, reference in references.items():
        print(name, reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
