"""What a method provides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.runspec import ArtifactFormat, RunSpec
from kubetune_trainer.model.heads import Head
from kubetune_trainer.runtime import Precision


class Method(Protocol):
    """What a module in this package has."""

    FORMER: ArtifactFormat
    """Format of the adapters that it starts from."""

    def base_options(self, spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
        """How the base model's weights are held: arguments of transformers' `from_pretrained`."""
        ...

    def apply(
        self, model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]
    ) -> torch.nn.Module:
        """Make the model trainable in this way; what is trained is fp32.

        Args:
            model: the base with its head.
            spec: the run.
            head: what head it is.
            fresh: modules that the base came without: they must be trained and saved in any case.
        """
        ...

    def export(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
        """Write the result as safetensors. Returns facts for the manifest: rank, target_modules."""
        ...
