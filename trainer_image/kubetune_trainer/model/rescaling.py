"""Weights that a model changes by itself.

RWKV divides weights of its later layers in place when it is evaluated, so that float16 suffices, and
multiplies them again in training. Saved after an evaluation they would be divided once more by whoever reads
them. The update of an adapter is not divided with its layer, and layers in 4 bits cannot be.
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
    """Instead of RWKV's own."""
