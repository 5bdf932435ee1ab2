"""The learning rate as a function of the step alone."""

import math
from typing import Literal


def factor(step: int, total: int, warmup: int, shape: Literal["cosine", "linear", "constant"]) -> float:
    """Share of the peak learning rate at a step counted from 0; the peak is reached at the end of the
    warm-up."""
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * done)) if shape == "cosine" else 1 - done
