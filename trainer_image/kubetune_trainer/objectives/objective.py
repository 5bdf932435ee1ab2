"""What an objective provides."""

from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer.model.heads import Head
from kubetune_trainer.objectives.prepared import Packs, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop


class Objective(Protocol):
    """What a module in this package has, so that a stage can use it."""

    HEAD: Head
    """The head of the model."""

    def prepare(self, spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
        """Read and encode the data.

        Args:
            spec: the run.
            work: folder that outlives an attempt.
            stop: looked at between records.
            packs: tells whether documents share rows.
        """
        ...

    def loss_model(
        self, model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
    ) -> nn.Module:
        """The model that takes batches of `prepared.collate` and gives the sum of their losses."""
        ...

    def samples(self, model: Any, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
        """Answers of a loss model to `evaluation.samplePrompts`."""
        ...
