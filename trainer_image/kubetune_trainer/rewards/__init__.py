"""Judges of answers: rules, or a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubetune_trainer.data.formats import Prompt


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said to a prompt."""

    text: str
    """All of it, without special tokens."""
    answer: str | None
    """The part after the thought; None: the thought does not end, so there is no answer."""


Judge = Callable[[Sequence[Prompt], Sequence[Said]], list[float]]
"""Prompts and an answer to each: its reward."""
