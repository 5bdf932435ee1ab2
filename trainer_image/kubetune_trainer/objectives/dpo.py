"""Direct preference optimisation: make the chosen answer likelier than the rejected one, measured against the
model that training starts from (Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is
Secretly a Reward Model", eq. 7).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from kubetune.api.finetunejob import Dpo
from kubetune.api.runspec import RunSpec
from kubetune_trainer import reference
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.loss import LossModel, log_probabilities
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.model.terms import tell_ignored
from kubetune_trainer.objectives import pairs
from kubetune_trainer.objectives.prepared import Packs, Prepared, Surroundings
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """The pairs, and the reference's log ratios of them. These are measured once, before training: so no
    second model is held with any method.

    Raises:
        DataError, InvalidSpec: see `pairs.prepare`.
    """
    found = pairs.prepare(spec, stop)
    everything: Sequence[int] = range(len(found.measured))

    def begin(model: DpoLossModel, around: Surroundings) -> None:
        tables = {"training": (found.training, found.seen), "evaluation": (found.measured, everything)}
        key = f"{spec.digest()} {found.prepared.fingerprint}"
        reference.fill(
            work / "reference.safetensors", key, tables, model, found.prepared.collate, around.stop
        )

    return replace(found.prepared, begin=begin)


def loss_model(
    model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
) -> "DpoLossModel":
    """-log sigmoid of the reward margin."""
    return DpoLossModel(model, precision, (spec.dpo or Dpo()).beta)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """What the model answers to each sample prompt, a user message for the chat template."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=True)


class DpoLossModel(LossModel):
    """A causal language model whose forward pass is the DPO loss of a PairBatch."""

    def __init__(self, model: PreTrainedModel, precision: Precision, beta: float) -> None:
        super().__init__(model, precision, packed=False)
        self._beta = beta
        tell_ignored(model, "of DPO")

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        """The loss, summed over pairs; idle pairs add nothing."""
        return pairs.loss_of(self._margins(tokens, positions, labels, *more), labels)

    def log_ratios(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        """log p(chosen) - log p(rejected) of each pair, answers as a whole; fp32, [pairs]."""
        states, targets = self._trained(tokens, positions, labels)
        head = self.model.get_output_embeddings() if self._plain_head else None
        likelihood = states.new_zeros(labels.shape, dtype=torch.float32)
        likelihood = likelihood.masked_scatter(labels != IGNORED, log_probabilities(states, head, targets))
        chosen, rejected = likelihood.sum(1).chunk(2)
        return chosen - rejected

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """See `pairs.measures_of`."""
        return pairs.measures_of(self._margins(*batch) for batch in batches)

    def _margins(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        """beta * (log ratio of the model - log ratio of the reference): the difference of the implicit
        rewards."""
        _, reference = more
        return self._beta * (self.log_ratios(tokens, positions, labels) - reference)
