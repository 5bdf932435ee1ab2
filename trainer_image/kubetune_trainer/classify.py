"""The loss and the measures of a sequence classifier."""

import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.padding import Padded
from kubetune_trainer.runtime import Precision


class ClassLossModel(Padded):
    """A sequence classifier whose forward pass is its loss: the sum over texts of w_c times minus the
    logarithm of p(c), where c is the text's class and p the softmax of the logits."""

    def __init__(
        self, model: PreTrainedModel, precision: Precision, weights: Sequence[float] | None = None
    ) -> None:
        """Args:
        model: a sequence classifier.
        precision: of the forward pass.
        weights: w_c of each class, used in training only; None: all 1.
        """
        super().__init__(model, precision)
        weight = None if weights is None else torch.tensor(weights, device=model.device)
        self.register_buffer("weights", weight, persistent=False)
        self._typed = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, types: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of a batch, as `data.classes.collate` makes it; rows of class IGNORED add nothing."""
        logits = self.logits(tokens, mask, types)
        return nn.functional.cross_entropy(
            logits, labels, self.weights, reduction="sum", ignore_index=IGNORED
        )

    def logits(self, tokens: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """The logits in fp32, [rows, classes]."""
        more = {"token_type_ids": types} if self._typed else {}
        return self.outputs(tokens, mask, **more).float()

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Mean negative log-likelihood per text, share of texts whose class ranks first, macro F1."""
        loss = 0.0
        said, true = [], []
        for tokens, mask, types, labels in batches:
            logits = self.logits(tokens, mask, types)
            loss += float(nn.functional.cross_entropy(logits.double(), labels, reduction="sum"))
            said.append(logits.argmax(-1).cpu())
            true.append(labels.cpu())
        guesses, classes = torch.cat(said), torch.cat(true)
        return {
            "loss": loss / len(classes),
            "accuracy": float((guesses == classes).double().mean()),
            "f1": macro_f1(guesses, classes),
        }


def macro_f1(said: torch.Tensor, true: torch.Tensor) -> float:
    """Macro F1, as scikit-learn's f1_score(average="macro"): the mean of F1 = 2 TP / (2 TP + FP + FN) over
    the classes that occur in either argument.

    Args:
        said: predicted class of each text, [texts].
        true: its class, [texts].
    """
    scores = []
    for c in torch.cat([said, true]).unique():
        hits = int(((said == c) & (true == c)).sum())
        scores.append(2 * hits / int((said == c).sum() + (true == c).sum()))
    return sum(scores) / len(scores)
