"""The loss of a masked language model."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.padding import Padded


class MaskedLossModel(Padded):
    """A masked language model whose forward pass is its loss."""

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the negative log-likelihoods of the labels that are not IGNORED; all arguments [rows,
        width]."""
        logits, targets = self._chosen(tokens, mask, labels)
        return nn.functional.cross_entropy(logits, targets, reduction="sum")

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Mean negative log-likelihood per hidden token, its exponential, and the share of hidden tokens that
        rank first."""
        loss = correct = 0.0
        count = 0
        for tokens, mask, labels in batches:
            logits, targets = self._chosen(tokens, mask, labels)
            loss += float(nn.functional.cross_entropy(logits.double(), targets, reduction="sum"))
            correct += float((logits.argmax(-1) == targets).sum())
            count += len(targets)
        loss /= count
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "token-accuracy": correct / count}

    def _chosen(
        self, tokens: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 logits of the hidden tokens, [hidden, vocabulary], and their ids, [hidden]."""
        logits = self.outputs(tokens, mask)
        flat = labels.flatten()
        at = (flat != IGNORED).nonzero().flatten()
        return logits.flatten(0, 1).index_select(0, at).float(), flat[at]
