"""A reward model: one number for an answer, higher for the one that people prefer (Bradley and Terry 1952, as
in Ouyang et al. 2022, "Training language models to follow instructions with human feedback", eq. 1).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.heads import CLASSIFIER
from kubetune_trainer.objectives import pairs
from kubetune_trainer.objectives.prepared import Prepared
from kubetune_trainer.runtime import Precision, autocast
from kubetune_trainer.signals import Stop

HEAD = CLASSIFIER


def prepare(spec: RunSpec, work: Path, stop: Stop) -> Prepared:
    """Pairs, and a head with one output, read at the last token that is no padding, as by transformers.

    Raises:
        DataError, InvalidSpec: see `pairs.prepare`.
    """
    prepared = pairs.prepare(spec, stop, whole=True).prepared
    pad = prepared.tokenizer.pad_token_id
    return replace(prepared, settings={"num_labels": 1, "pad_token_id": pad})


def loss_model(model: PreTrainedModel, prepared: Prepared, precision: Precision) -> "RewardLossModel":
    """-log sigmoid of the difference of the rewards."""
    return RewardLossModel(model, precision)


def samples(model: nn.Module, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """A reward model answers nothing."""
    return []


class RewardLossModel(nn.Module):
    """A sequence classifier with one output whose forward pass is the loss of a PairBatch."""

    def __init__(self, model: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.model, self._precision = model, precision

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Sum over pairs; idle ones add nothing."""
        margins = self.margins(tokens, mask)
        real = (labels[: len(margins)] != IGNORED).any(1)
        return -(nn.functional.logsigmoid(margins) * real).sum()

    def margins(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Reward of the chosen side minus that of the rejected one; fp32, [pairs]."""
        with self.autocast():
            rewards = self.model(input_ids=tokens, attention_mask=mask).logits
        chosen, rejected = rewards.float().squeeze(-1).chunk(2)
        return chosen - rejected

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Mean loss per pair, share of pairs whose chosen side has the higher reward, mean margin."""
        margins = torch.cat([self.margins(b[0], b[3]).double().cpu() for b in batches])
        return {
            "loss": float(-nn.functional.logsigmoid(margins).mean()),
            "accuracy": float((margins > 0).double().mean()),
            "reward-margin": float(margins.mean()),
        }

    def autocast(self) -> AbstractContextManager[object]:
        """The context that a forward pass runs in."""
        return autocast(self.model.device, self._precision)
