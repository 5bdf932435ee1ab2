"""Negative log-likelihood of the trained positions only, without ever holding all logits.

The head and the cross entropy are computed together, some hundred positions at a time, and so are the
gradients, already in the forward pass (as in Liger Kernel's fused linear cross entropy). The logits of a
chunk stay in the cache, and positions that are not trained on cost nothing.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.model.terms import has_further_terms
from kubetune_trainer.runtime import Precision, autocast

CHUNK_ELEMENTS = {"cpu": 1 << 20}
"""Logits held at a time, by kind of device: 4 MiB in fp32, which a CPU's cache holds."""
CHUNK_ELSEWHERE = 1 << 27
"""512 MiB on a GPU: each chunk reads the whole head, which pays off for hundreds of positions."""


def _positions(device: torch.device, vocabulary: int) -> int:
    """How many positions get their logits at a time."""
    return max(1, CHUNK_ELEMENTS.get(device.type, CHUNK_ELSEWHERE) // vocabulary)


class LinearCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of `hidden @ weight.T + bias` against targets."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """Shapes: hidden [n, width], weight [vocabulary, width], bias [vocabulary], targets [n]; scalar fp32
        out."""
        narrow = weight.to(hidden.dtype)
        need_hidden, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), step := _positions(weight.device, len(weight))):
            part = slice(start, start + step)
            h, t = hidden[part], targets[part, None]
            likelihood = _logits(h, narrow, bias).log_softmax(-1)
            total -= likelihood.gather(-1, t).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            gradient = likelihood.exp_().scatter_add_(-1, t, likelihood.new_full(t.shape, -1))
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(gradient, narrow, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += gradient.T @ h
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that the forward pass left."""
        return (*(None if g is None else g.mul_(outputs[0]) for g in ctx.gradients), None)


def log_probabilities(
    hidden: torch.Tensor, head: nn.Linear | None, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Logarithm of each target's probability, fp32, [n].

    The backward pass computes the logits anew, some hundred positions at a time, so that they are never all
    held.

    Args:
        hidden: what goes into the head, [n, width]; without a head the logits, [n, vocabulary].
        head: a plain matrix, with a bias or without.
        targets: [n].
        temperature: what the logits are divided by.
    """
    if head is None:
        return (hidden.float() / temperature).log_softmax(-1).gather(-1, targets[:, None]).flatten()
    weight = head.weight.to(hidden.dtype)
    step = _positions(weight.device, len(weight))
    parts = [
        checkpoint(
            _log_probabilities, hidden[i : i + step], weight, head.bias, targets[i : i + step], temperature,
            use_reentrant=False, preserve_rng_state=False,
        )
        for i in range(0, max(1, len(targets)), step)  # without positions, the gradient is zero, not absent
    ]  # fmt: skip
    return torch.cat(parts)


def _log_probabilities(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor,
    temperature: float,
) -> torch.Tensor:  # fmt: skip
    return (
        (_logits(hidden, weight, bias) / temperature).log_softmax(-1).gather(-1, targets[:, None]).flatten()
    )


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = (hidden @ weight.T).float()
    return logits if bias is None else logits.add_(bias)


class Wrapped(nn.Module):
    """A model and the precision of its forward pass: what every loss model is made of."""

    def __init__(self, model: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.model, self._precision = model, precision

    def autocast(self) -> AbstractContextManager[object]:
        """The context that a forward pass runs in."""
        return autocast(self.model.device, self._precision)


class LossModel(Wrapped):
    """A causal language model whose forward pass is its loss.

    Positions are given to a model only if they separate the documents of a row. Otherwise it counts them
    itself, because not every model takes positions, and not all count from 0.
    """

    def __init__(self, model: PreTrainedModel, precision: Precision, *, packed: bool = True) -> None:
        super().__init__(model, precision)
        self._packed = packed
        self._further: bool | None = None
        self._plain_head = _has_plain_head(model)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the negative log-likelihoods of the labels that are not IGNORED; all arguments [rows,
        width]."""
        if self._further is None:
            self._further = has_further_terms(self.model)
        if self._further:
            return self._own_loss(tokens, positions, labels)
        hidden, targets = self._trained(tokens, positions, labels)
        if not self._plain_head:
            return functional.cross_entropy(hidden.float(), targets, reduction="sum")
        head = self.model.get_output_embeddings()
        return LinearCrossEntropy.apply(hidden, head.weight, head.bias, targets)

    def _own_loss(self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """transformers' loss with all terms that the config asks for. It is a mean over the labels, so it
        is multiplied by their number: the loop divides by the number in the whole step."""
        with self.autocast():
            own = self.model(
                **self.inputs(tokens, positions), labels=labels, shift_labels=labels, use_cache=False
            )
        loss: torch.Tensor = own.loss * (labels != IGNORED).sum()
        return loss

    @torch.no_grad()
    def score(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As forward, but without further terms, and how many of the labels rank first; fp64 scalars."""
        hidden, targets = self._trained(tokens, positions, labels)
        loss, correct = (torch.zeros((), dtype=torch.float64, device=hidden.device) for _ in range(2))
        head = self.model.get_output_embeddings() if self._plain_head else None
        vocabulary = hidden.shape[-1] if head is None else len(head.weight)
        for start in range(0, len(targets), step := _positions(hidden.device, vocabulary)):
            h, t = hidden[start : start + step], targets[start : start + step]
            if head is not None:
                h = _logits(h, head.weight.to(h.dtype), head.bias)
            loss += functional.cross_entropy(h.float(), t, reduction="sum")
            correct += (h.argmax(-1) == t).sum()
        return loss, correct

    def measure(self, batches: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Mean negative log-likelihood per trained token, its exponential, and the share of tokens that rank
        first."""
        loss = correct = 0.0
        targets = 0
        for tokens, positions, labels in batches:
            part, hits = self.score(tokens, positions, labels)
            loss, correct = loss + float(part), correct + float(hits)
            targets += int((labels != IGNORED).sum())
        loss /= targets
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "token-accuracy": correct / targets,
        }

    def inputs(self, tokens: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """The arguments of the model, all [rows, width]."""
        return {"input_ids": tokens} | ({"position_ids": positions} if self._packed else {})

    def _trained(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states of the trained positions, [trained, width], and their labels, [trained]. If the
        head is more than a matrix, logits, [trained, vocabulary], instead of states."""
        model = self.model.base_model if self._plain_head else self.model
        with self.autocast():
            output = model(**self.inputs(tokens, positions), use_cache=False)
        states = (output.last_hidden_state if self._plain_head else output.logits).flatten(0, 1)
        if self._plain_head and self._precision == "bf16":
            states = states.bfloat16()  # as autocast hands them to a linear layer
        flat = labels.flatten()
        chosen = (flat != IGNORED).nonzero().flatten()
        return (states if len(chosen) == len(flat) else states.index_select(0, chosen)), flat[chosen]


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are nothing but the last hidden state times the head (no scaling, no soft cap)."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    tokens = torch.tensor([[3, 4, 5, 6]], device=model.device)
    with evaluating(model):
        logits = model(input_ids=tokens, use_cache=False).logits
        states = getattr(model.base_model(input_ids=tokens, use_cache=False), "last_hidden_state", None)
        # Some have layers between the last states and the head, which narrow them.
        fits = states is not None and states.shape[-1] == head.weight.shape[1]
        return fits and torch.equal(head(states), logits)
