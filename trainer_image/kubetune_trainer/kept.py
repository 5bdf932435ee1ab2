"""What one attempt keeps for later ones: a JSON file beside the checkpoints, bound to the run spec."""

import json
from pathlib import Path
from typing import Any

from kubetune.api.runspec import RunSpec
from kubetune_trainer.files import replace_file

_DIGEST = "runSpecDigest"


def recall(file: Path, name: str, spec: RunSpec) -> Any:
    """What an earlier attempt kept by a name under the same run spec; None where there is no such thing."""
    try:
        kept = json.loads(file.read_text())
        return kept[name] if kept[_DIGEST] == spec.digest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(file: Path, name: str, spec: RunSpec, value: Any) -> None:
    """Keep a value, of which JSON can be made.

    Raises:
        StorageError: it cannot be written.
    """
    replace_file(file, json.dumps({_DIGEST: spec.digest(), name: value}).encode())
