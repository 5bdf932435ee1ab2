"""What an objective makes of a run spec."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune_trainer.data.encode import Question
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.data.rows import Row
from kubetune_trainer.data.streams import Stream


@dataclass(frozen=True)
class EvaluationSet:
    """What is measured before and after training."""

    rows: list[Row]
    """For loss, perplexity and token accuracy."""
    questions: list[Question]
    """For exact match."""
    examples: int
    """How many held-out examples (sequences in pretraining) the rows hold."""


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
