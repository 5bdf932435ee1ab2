"""Which examples are held out: those whose content hash is small. So the choice is stable when data is added
or reordered, and identical examples never stand on both sides."""

import numpy as np
from numpy.typing import NDArray

from kubetune.api.warnings import WarningReason
from kubetune_trainer.warned import warn


def kept_out(
    hashes: NDArray[np.uint64], own: NDArray[np.uint64] | None, fraction: float
) -> NDArray[np.bool_]:
    """Mask of what is not trained on: where the evaluation has data of its own, nothing but what is in them,
    too.

    Args:
        hashes: content hashes of the examples of all sources, [n].
        own: those of the evaluation's own data, if it has any.
        fraction: share to hold out else.
    """
    if own is None:
        return held_out(hashes, fraction)
    held = np.isin(hashes, own)
    if held.any():
        warn(
            WarningReason.ALSO_IN_EVALUATION,
            f"{held.sum():,} examples are in evaluation.data, too: they are not trained on",
        )
    return held


def smallest(hashes: NDArray[np.uint64], limit: int) -> NDArray[np.intp]:
    """Numbers of the at most `limit` examples with the smallest hashes: those that are measured."""
    return np.argsort(hashes, kind="stable")[:limit]


def held_out(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Mask of the held-out examples.

    Args:
        hashes: content hashes of the examples of all sources, [n].
        fraction: share to hold out, 0 to 1. Above 0 at least one distinct example is held out, if there are
        two.
    """
    if fraction == 0 or hashes.size == 0:
        return np.zeros(hashes.shape, dtype=bool)
    distinct = np.unique(hashes)
    threshold = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if distinct[0] > threshold and distinct.size > 1:
        threshold = distinct[0]
    return hashes <= threshold
