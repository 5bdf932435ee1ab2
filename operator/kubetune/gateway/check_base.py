"""Run before an engine starts: is the base in its folder the one meant, and a language model?"""

import argparse
import signal
import sys
from pathlib import Path

from kubetune.api.table import ANY_DIGEST, BaseFault
from kubetune.api.version import VERSION_TEXT
from kubetune.artifacts.digest import UnsafePath, folder_digest
from kubetune.gateway.language_model import another_model

_UNREADABLE = 1


def main(argv: list[str]) -> int:
    """Exit code: 0 if an engine may start, else a BaseFault, or 1 if it cannot be told; stderr says why."""
    # The first process of a container ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="check_base", description=__doc__)
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    parser.add_argument("folder", type=Path, help="folder of the base model")
    parser.add_argument("digest", help=f"what its digest must be, or {ANY_DIGEST}")
    parser.add_argument("volume", type=Path, help="links to files are followed as long as they stay in it")
    parser.add_argument(
        "--any-model",
        action="store_true",
        help="the engine is told another config than the folder's: it judges what model this is",
    )
    options = parser.parse_args(argv)
    if (options.folder / "adapter_config.json").is_file() and not (options.folder / "config.json").is_file():
        return _say(
            f"{options.folder} holds an adapter and no base model: name the model that it was trained on as "
            "baseModel, and the adapter under adapters",
            BaseFault.NOT_FULL_WEIGHTS,
        )
    if not options.any_model and (another := another_model(options.folder)):
        return _say(
            f"the base model in {options.folder} is {another}, which generates no text: "
            "name a language model",
            BaseFault.NOT_A_LANGUAGE_MODEL,
        )
    if options.digest == ANY_DIGEST:
        return 0
    try:
        found = folder_digest(options.folder, within=options.volume)
    except (OSError, UnsafePath) as error:
        return _say(f"the base model cannot be read: {error}", _UNREADABLE)
    if found != options.digest:
        return _say(
            f"the base model in {options.folder} has digest {found}, not {options.digest}: restore its files",
            BaseFault.DIGEST_MISMATCH,
        )
    return 0


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - becomes the container's termination message
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
