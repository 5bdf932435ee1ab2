"""Divides the examples of sources into those to train on and those to measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kubetune.api.runspec import RunSource, RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.examples import fingerprint, require_each
from kubetune_trainer.data.holdout import kept_out, smallest
from kubetune_trainer.errors import DataError
from kubetune_trainer.warned import warn

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What a source holds."""

    items: list[T]
    hashes: NDArray[np.uint64]
    """Content hash of each, [items]."""
    skipped: int = 0
    """Records without text, of which no item was made."""


@dataclass(frozen=True)
class Split(Generic[T]):
    """The items of all sources, divided."""

    training: list[T]
    source: NDArray[np.int64]
    """Source of each item that is trained on, [training]."""
    measured: list[T]
    of_source: NDArray[np.int64]
    """Source of every item, held out or not, [items]."""
    held: NDArray[np.bool_]
    """Whether it is kept out of the training, [items]."""
    dropped: int
    """Records without text, and items to train on for which there is no room."""
    fingerprint: str
    """Changes when the data changes."""


def split(
    spec: RunSpec,
    sources: Sequence[RunSource],
    load: Callable[[RunSource], Loaded[T]],
    fits: Callable[[T], bool] = lambda item: True,
) -> Split[T]:
    """Load sources and hold items out: those in the evaluation's own data if it has any, else a fraction.

    Args:
        spec: the run.
        sources: those to train on.
        load: reads a source.
        fits: whether the sequence length leaves something of an item to learn; others are left out.

    Raises:
        DataError: nothing of a source is left to train on, or nothing of the evaluation's own data to
            measure; or see `load`.
    """
    loaded = [load(source) for source in sources]
    hashes = np.concatenate([source.hashes for source in loaded])
    of_source = np.repeat(np.arange(len(sources)), [len(source.hashes) for source in loaded])
    items = [item for source in loaded for item in source.items]
    own = load(spec.evaluation_source) if spec.evaluation_source else None
    held = kept_out(hashes, own.hashes if own else None, spec.data.validation_fraction)
    room = np.array([fits(item) for item in items], dtype=bool)
    require_each(sources, of_source, held, room)
    kept, length = ~held & room, spec.data.sequence_length
    if dropped := int((~held & ~room).sum()):
        warn(
            WarningReason.EXAMPLES_DROPPED,
            f"{dropped:,} of {(~held).sum():,} examples are left out: data.sequenceLength {length} "
            "leaves no room for their answers; raise it to learn from them",
        )
    tested = own or Loaded([item for item, h in zip(items, held, strict=True) if h], hashes[held])
    measured = [i for i, item in enumerate(tested.items) if fits(item)]
    if own and not measured:
        raise DataError(
            f"evaluation.data: data.sequenceLength {length} leaves no room for any answer: raise it, or name "
            "shorter examples"
        )
    chosen = smallest(tested.hashes[measured], spec.evaluation.max_examples)
    return Split(
        training=[item for item, k in zip(items, kept, strict=True) if k],
        source=of_source[kept],
        measured=[tested.items[measured[i]] for i in chosen],
        of_source=of_source,
        held=held,
        dropped=dropped + sum(source.skipped for source in loaded),
        fingerprint=fingerprint([one.hashes for one in (*loaded, *([own] if own else []))]),
    )
