"""What an objective makes of a run spec."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune_trainer.data.encode import Question
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.data.rows import RowLike
from kubetune_trainer.data.streams import Stream
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

Collate = Callable[[Sequence[Any], torch.device], tuple[torch.Tensor, ...]]
"""Rows as a batch on a device: the arguments of the loss model's forward pass."""
Packs = Callable[[PreTrainedTokenizerBase], bool]
"""Whether documents may share rows: asked once the tokenizer is known, answered by the model itself."""


def shared_rows(tokenizer: PreTrainedTokenizerBase) -> bool:
    """`Packs` for a model that keeps the documents in a row apart, as most do."""
    return True


@dataclass(frozen=True)
class EvaluationSet:
    """What is measured before and after training."""

    rows: Sequence[RowLike]
    """For metrics of the loss model."""
    questions: list[Question]
    """For metrics of answers."""
    examples: int
    """How many held-out examples (sequences of documents) the rows hold."""


@dataclass(frozen=True)
class Surroundings:
    """What a model is trained in."""

    accelerator: Accelerator
    precision: Precision
    stop: Stop
    report: Callable[..., None]
    """Reports metrics to whoever follows the run."""


@dataclass(frozen=True)
class Prepared:
    """Data and tokenizer, ready for training."""

    tokenizer: PreTrainedTokenizerBase
    stream: Stream
    total_steps: int
    evaluation: EvaluationSet
    data: DataStatus
    sources: list[SourceFacts]
    fingerprint: str
    """Changes when the data changes."""
    betas: tuple[float, float]
    """AdamW's usual decay rates for this kind of training."""
    collate: Collate
    packed: bool = False
    """Whether rows hold several documents, isolated by their positions."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's config that depend on the data."""
    begin: Callable[[Any, Surroundings], None] | None = None
    """Called with the loss model before training: measures what the loss refers to, or enables answering."""
    measure: Callable[[Stop], dict[str, float]] | None = None
    """The evaluation, if it is not done on the evaluation's rows."""
    class_weights: list[float] | None = None
    """For stage classification: weight of each class in the loss."""
