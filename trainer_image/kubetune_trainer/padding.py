"""Models that are given padded rows with an attention mask which marks the padding.

Padding changes the output of some architectures all the same: they mix tokens by a Fourier transform, a
convolution, or sums over parts of a row. Such a model is given rows of one length at a time, without padding.
"""

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from kubetune.api.warnings import WarningReason
from kubetune_trainer.loss import Wrapped
from kubetune_trainer.model.probing import minds_padding
from kubetune_trainer.runtime import Precision
from kubetune_trainer.warned import warn


class Padded(Wrapped):
    """A model whose answer to a row does not depend on the rows beside it."""

    def __init__(self, model: PreTrainedModel, precision: Precision) -> None:
        super().__init__(model, precision)
        self._apart = minds_padding(model, precision)
        if self._apart:
            warn(
                WarningReason.ROWS_BY_LENGTH,
                f"padding changes what a {model.config.model_type} model makes of a text, whatever the "
                "attention mask says. So texts of one length are computed at a time, without padding, which "
                "is slower. Whoever uses the model must do the same to get the same answers",
            )

    def outputs(self, tokens: torch.Tensor, mask: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        """The model's logits, [rows, classes] or [rows, width, vocabulary]; those at padding mean nothing.

        Args:
            tokens: [rows, width], padded on the right.
            mask: 1 where there is no padding, [rows, width].
            more: other inputs of the model, [rows, width].
        """
        inputs = {"input_ids": tokens, "attention_mask": mask} | more
        if not self._apart:
            return self._computed(inputs)
        lengths = mask.sum(1)
        groups = [(lengths == length).nonzero().flatten() for length in lengths.unique()]
        parts = []
        for rows in groups:
            length = int(lengths[rows[0]])
            part = self._computed({name: values[rows, :length] for name, values in inputs.items()})
            missing = tokens.shape[1] - length if part.dim() > 2 else 0
            parts.append(functional.pad(part, (0, 0, 0, missing)) if missing else part)
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _computed(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self.autocast():
            logits: torch.Tensor = self.model(**inputs).logits
        if logits.dim() > 2:
            # Perceiver answers at every position that it has, also beyond the row.
            logits = logits[:, : inputs["input_ids"].shape[1]]
        return logits
