"""Write the CustomResourceDefinitions and docs/reference.md: `python -m dev.crds [--check]`."""

import argparse
import sys
from pathlib import Path

from dev.crds.generate import generated

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Write the files; with --check only compare. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.crds", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="root of the repository")
    options = parser.parse_args(arguments)
    files = {options.root / path: text for path, text in generated().items()}
    folders = {path.parent for path in files}
    orphans = [path for folder in folders for path in folder.glob("*.yaml") if path not in files]
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    if options.check:
        for path in sorted(stale + orphans):
            sys.stderr.write(f"{path.relative_to(options.root)} is out of date: run `make crds`\n")
        return 1 if stale or orphans else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in orphans:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
