"""Weights that a model changes by itself.

RWKV divides weights of its later layers in place for evaluation, so that float16 suffices, and multiplies
them again for training. If they were saved after an evaluation, whoever loads them would divide them again.
An adapter's update is not divided with its layer, and weights in 4 bits cannot be.
"""

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel


def prevent(model: PreTrainedModel) -> None:
    """Have a model leave its weights as they are: in float32 and bfloat16 it computes the same."""
    parts: Iterator[Any] = model.modules()
    for part in parts:
        if hasattr(part, "_rescale_layers"):
            part._rescale_layers = _leave


def _leave() -> None:
    """Does nothing, in place of RWKV's own."""
