"""`kubetune gateway`."""

import logging
import sys
from collections.abc import Sequence

import uvloop

from kubetune.gateway.options import parse
from kubetune.gateway.server import serve


def main(argv: Sequence[str]) -> int:
    """Run a gateway; returns the exit code."""
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
