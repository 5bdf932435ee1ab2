"""What one attempt keeps for later ones: a JSON file beside the checkpoints, bound to the run spec."""

import json
from pathlib import Path
from typing import Any

from kubetune.api.runspec import RunSpec
from kubetune_trainer.files import replace_file

_DIGEST = "runSpecDigest"


def recall(file: Path, name: str, spec: RunSpec) -> Any:
    """The value that an earlier attempt under the same run spec kept by this name; None: there is none."""
    try:
        kept = json.loads(file.read_text())
        return kept[name] if kept[_DIGEST] == spec.digest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(file: Path, name: str, spec: RunSpec, value: Any) -> None:
    """Keep a value that JSON can hold.

    Raises:
        StorageError: it cannot be written.
    """
    replace_file(file, json.dumps({_DIGEST: spec.digest(), name: value}).encode())
