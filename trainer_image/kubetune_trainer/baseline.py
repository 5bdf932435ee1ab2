"""The evaluation before training: measured once, and kept beside the checkpoints for resumed runs."""

import json
from dataclasses import asdict
from pathlib import Path

from kubetune.api.runspec import RunSpec
from kubetune_trainer.evaluate import Measured
from kubetune_trainer.files import replace_file


def load(work: Path, spec: RunSpec) -> Measured | None:
    """What an earlier attempt measured under the same run spec, or None."""
    try:
        kept = json.loads((work / "baseline.json").read_text())
        return Measured(**kept["measured"]) if kept["runSpecDigest"] == spec.digest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(work: Path, spec: RunSpec, measured: Measured) -> None:
    """Keep it.

    Raises:
        StorageError: it cannot be written.
    """
    text = json.dumps({"runSpecDigest": spec.digest(), "measured": asdict(measured)})
    replace_file(work / "baseline.json", text.encode())
