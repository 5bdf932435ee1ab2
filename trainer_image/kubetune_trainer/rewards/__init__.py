"""What tells how good an answer is: rules, or a model."""

from collections.abc import Callable, Sequence

from kubetune_trainer.data.formats import Prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
"""Prompts and an answer to each: its reward."""
