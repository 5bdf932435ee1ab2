"""The model that answers and is trained, with what it began as."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.loss import LossModel, log_probabilities
from kubetune_trainer.model.terms import tell_ignored
from kubetune_trainer.optimizer import trainable
from kubetune_trainer.runtime import Precision


class Policy(LossModel):
    """A causal language model, scored token by token; its forward pass is left to the objective.

    Nothing is ever dropped out, so that ratios of probabilities compare like with like.
    """

    def __init__(
        self, model: PreTrainedModel, precision: Precision, temperature: float, *, value_head: bool = False
    ) -> None:
        super().__init__(model, precision, packed=False)
        self._temperature = temperature
        tell_ignored(model, "of rewards")
        self._start: dict[str, torch.Tensor] = {}
        self.value_head: nn.Linear | None = None
        if value_head:
            width = model.get_output_embeddings().weight.shape[1]
            self.value_head = nn.Linear(width, 1, device=model.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def train(self, mode: bool = True) -> "Policy":
        """Stay in evaluation mode; see the class."""
        super().train(False)
        return self

    def scored(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probability of each label that is not IGNORED, and what the value head, if there is one,
        expected before it; both fp32, [labels]. The arguments are [rows, width]."""
        plain = self._plain_head
        model = self.model.base_model if plain else self.model
        with self.autocast():
            output = model(**self.inputs(tokens, positions), use_cache=False, output_hidden_states=not plain)
        hidden = (output.last_hidden_state if plain else output.hidden_states[-1]).flatten(0, 1)
        flat = labels.flatten()
        chosen = (flat != IGNORED).nonzero().flatten()
        hidden = hidden.index_select(0, chosen)
        states = hidden if plain else output.logits.flatten(0, 1).index_select(0, chosen)
        if plain and self._precision == "bf16":
            states = states.bfloat16()  # as autocast hands them to a linear layer
        head = self.model.get_output_embeddings() if plain else None
        found = log_probabilities(states, head, flat[chosen], self._temperature)
        values = self.value_head(hidden.float()).squeeze(-1) if self.value_head else None
        return found, values

    def begin(self) -> None:
        """Remember the present weights as those of the reference."""
        self._start = {name: p.detach().clone() for name, p in trainable(self.model)}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model has the weights of `begin`. For an adapter this costs a copy of the adapter, not
        a second model."""
        there = {name: p.data for name, p in trainable(self.model)}
        try:
            for name, parameter in trainable(self.model):
                parameter.data = self._start[name]
            yield
        finally:
            for name, parameter in trainable(self.model):
                parameter.data = there[name]


def clipped(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """The clipped surrogate, negated, of each token (Schulman et al. 2017, eq. 7)."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
