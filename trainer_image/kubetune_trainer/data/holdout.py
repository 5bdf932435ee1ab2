"""Which examples are held out: those with a small content hash.

So the choice does not change when data is added or reordered, and identical examples are never on both sides.
"""

import numpy as np
from numpy.typing import NDArray

from kubetune.api.warnings import WarningReason
from kubetune_trainer.warned import warn


def kept_out(
    hashes: NDArray[np.uint64], own: NDArray[np.uint64] | None, fraction: float
) -> NDArray[np.bool_]:
    """Mask of the examples that are not trained on, [n].

    If the evaluation has data of its own, they are the examples that occur there, too. Else they are a
    fraction.

    Args:
        hashes: content hashes of the examples of all sources, [n].
        own: those of the evaluation's own data, if it has any.
        fraction: share to hold out if it has none.
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
    """Indices of the examples with the smallest hashes, at most `limit`: those are measured."""
    return np.argsort(hashes, kind="stable")[:limit]


def held_out(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Mask of the held-out examples, [n].

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
