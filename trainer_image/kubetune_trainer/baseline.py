"""The evaluation before training: measured once, and kept beside the checkpoints for resumed runs."""

from dataclasses import asdict
from pathlib import Path

from kubetune.api.runspec import RunSpec
from kubetune_trainer.evaluate import Measured
from kubetune_trainer.kept import keep, recall

FILE, NAME = "baseline.json", "measured"


def load(work: Path, spec: RunSpec) -> Measured | None:
    """What an earlier attempt measured under the same run spec, or None."""
    try:
        kept = recall(work / FILE, NAME, spec)
        return None if kept is None else Measured(**kept)
    except TypeError:
        return None


def save(work: Path, spec: RunSpec, measured: Measured) -> None:
    """Keep what was measured for later attempts under the same run spec.

    Raises:
        StorageError: it cannot be written.
    """
    keep(work / FILE, NAME, spec, asdict(measured))
