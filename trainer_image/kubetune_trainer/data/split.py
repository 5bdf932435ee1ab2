"""What of some sources is trained on, and what is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data.examples import fingerprint, require_each
from kubetune_trainer.data.holdout import kept_out, smallest

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What a source holds."""

    items: list[T]
    hashes: NDArray[np.uint64]
    """Content hash of each, [items]."""


@dataclass(frozen=True)
class Split(Generic[T]):
    """The items of all sources, parted."""

    training: list[T]
    source: NDArray[np.int64]
    """Of each item that is trained on, [training]."""
    measured: list[T]
    of_source: NDArray[np.int64]
    """Source of every item, held out or not, [items]."""
    held: NDArray[np.bool_]
    """Whether it is not trained on, [items]."""
    fingerprint: str
    """Changes when the data changes."""


def split(spec: RunSpec, sources: Sequence[RunSource], load: Callable[[RunSource], Loaded[T]]) -> Split[T]:
    """Load some sources and hold some items out: those that the evaluation's own data has, if it has any.

    Raises:
        DataError: of a source nothing is left to train on; or see `load`.
    """
    loaded = [load(source) for source in sources]
    hashes = np.concatenate([source.hashes for source in loaded])
    of_source = np.repeat(np.arange(len(sources)), [len(source.hashes) for source in loaded])
    items = [item for source in loaded for item in source.items]
    own = load(spec.evaluation_source) if spec.evaluation_source else None
    held = kept_out(hashes, own.hashes if own else None, spec.data.validation_fraction)
    require_each(sources, of_source[~held])
    tested = own or Loaded([item for item, h in zip(items, held, strict=True) if h], hashes[held])
    return Split(
        training=[item for item, h in zip(items, held, strict=True) if not h],
        source=of_source[~held],
        measured=[tested.items[i] for i in smallest(tested.hashes, spec.evaluation.max_examples)],
        of_source=of_source,
        held=held,
        fingerprint=fingerprint([one.hashes for one in (*loaded, *([own] if own else []))]),
    )
