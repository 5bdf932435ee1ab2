"""Whether documents share rows: decided once in a run, and kept beside the checkpoints for later attempts."""

from pathlib import Path

from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer.kept import keep, recall
from kubetune_trainer.model.probing import check_isolation, isolates
from kubetune_trainer.runtime import Precision
from kubetune_trainer.warned import warn

FILE, NAME = "packing.json", "packed"


def decide(wanted: bool | None, model: PreTrainedModel, precision: Precision) -> bool:
    """Whether documents may share rows.

    Args:
        wanted: what the job says, if it says it.
        model: the base.
        precision: that it is trained in.

    Raises:
        InvalidSpec: they must, and the model does not keep them apart.
    """
    if wanted is not None:
        if wanted:
            check_isolation(model, precision)
        return wanted
    if isolates(model, precision):
        return True
    warn(
        WarningReason.NOT_PACKED,
        f"documents in one row would see each other in a {model.config.model_type} model, so each document "
        "gets rows of its own: set data.packing to false to say that this is meant",
    )
    return False


def load(work: Path, spec: RunSpec) -> bool | None:
    """What an earlier attempt decided under the same run spec, or None."""
    kept = recall(work / FILE, NAME, spec)
    return None if kept is None else bool(kept)


def save(work: Path, spec: RunSpec, packed: bool) -> None:
    """Keep the decision for later attempts under the same run spec.

    Raises:
        StorageError: it cannot be written.
    """
    keep(work / FILE, NAME, spec, packed)
