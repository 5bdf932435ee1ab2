"""What tells how good an answer is: rules, or a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubetune_trainer.data.formats import Prompt


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said to a prompt."""

    text: str
    """All of it, without special tokens."""
    answer: str | None
    """What of it comes after the thought; None where that does not end, and there is no answer."""


Judge = Callable[[Sequence[Prompt], Sequence[Said]], list[float]]
"""Prompts and an answer to each: its reward."""
