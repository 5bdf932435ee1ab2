"""A reward model: one number for an answer, higher for the one that people prefer (Bradley and Terry 1952, as
in Ouyang et al. 2022, "Training language models to follow instructions with human feedback", eq. 1).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer.model.heads import CLASSIFIER
from kubetune_trainer.objectives import pairs
from kubetune_trainer.objectives.prepared import Packs, Prepared
from kubetune_trainer.padding import Padded
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CLASSIFIER


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """Pairs, and a head with one output, read at the last token that is no padding, as by transformers.

    Raises:
        DataError, InvalidSpec: see `pairs.prepare`.
    """
    prepared = pairs.prepare(spec, stop, whole=True).prepared
    pad = prepared.tokenizer.pad_token_id
    return replace(prepared, settings={"num_labels": 1, "pad_token_id": pad})


def loss_model(
    model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
) -> "RewardLossModel":
    """-log sigmoid of the difference of the rewards."""
    return RewardLossModel(model, precision)


def samples(model: nn.Module, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """A reward model answers nothing."""
    return []


class RewardLossModel(Padded):
    """A sequence classifier with one output whose forward pass is the loss of a PairBatch."""

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Sum over pairs; idle ones add nothing."""
        return pairs.loss_of(self.margins(tokens, mask), labels)

    def margins(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Reward of the chosen side minus that of the rejected one; fp32, [pairs]."""
        chosen, rejected = self.outputs(tokens, mask).float().squeeze(-1).chunk(2)
        return chosen - rejected

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """See `pairs.measures_of`."""
        return pairs.measures_of(self.margins(b[0], b[3]) for b in batches)
