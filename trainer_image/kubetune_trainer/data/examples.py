"""The examples of a source, with the hash that decides whether they are held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubetune.api.runspec import RunSource
from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.formats import Example, content_hash, to_example
from kubetune_trainer.data.read import Record, read_records
from kubetune_trainer.errors import DataError
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn


@dataclass(frozen=True)
class SourceFacts:
    """What a source turned out to hold, for reports."""

    name: str
    uri: str
    weight: float
    documents: int
    held_out: int
    tokens: int
    """Tokens in the training part."""
    share: float
    """Share of the tokens seen in training."""


@dataclass
class Skipped:
    """Records of a source that hold no text to learn from."""

    count: int = 0


def read_examples(
    source: RunSource, stop: Stop, skipped: Skipped | None = None
) -> Iterator[tuple[Record, Example, int]]:
    """The records of a source, each with its example and content hash.

    Records without text are left out. A warning at the end says how many.

    Args:
        source: the source.
        stop: whether to stop.
        skipped: counts what is left out.

    Raises:
        DataError: see `read_records` and `to_example`; or no record holds text.
        Terminated: asked to stop.
    """
    count, skipped, first = 0, skipped or Skipped(), ""
    for record in read_records(source):
        stop.check()
        example = to_example(record, source.format, source.text_field, source.fields)
        if example is None:
            skipped.count += 1
            first = first or record.where
            continue
        try:
            number = content_hash(example)
        except UnicodeEncodeError as error:
            raise record.error(
                "holds half of a surrogate pair, which is no text: mend the \\u escape"
            ) from error
        count += 1
        yield record, example, number
    if not count:
        why = f" to learn from: {first} is the first of {skipped.count:,} records without" if first else ""
        raise DataError(
            f"source {source.name}: {source.uri} holds no text{why}: add data or set its weight to 0"
        )
    if skipped.count:
        warn(
            WarningReason.RECORDS_WITHOUT_TEXT,
            f"source {source.name}: {skipped.count:,} of {count + skipped.count:,} records hold no text to "
            f"learn from and are left out, the first is {first}: mend or remove them",
        )


def require_each(
    sources: Sequence[RunSource],
    of_source: NDArray[np.int64],
    held: NDArray[np.bool_],
    room: NDArray[np.bool_] | None = None,
) -> None:
    """Refuse sources of which nothing is trained on.

    Args:
        sources: all of them.
        of_source: source of each example, [n].
        held: whether it is kept out of the training, [n].
        room: whether the sequence length leaves something of it to learn, [n]; None: it does of all.

    Raises:
        DataError: there is one.
    """
    kept = ~held if room is None else ~held & room
    for i, source in enumerate(sources):
        mine = of_source == i
        if kept[mine].any():
            continue
        if held[mine].all():
            why = (
                "all are held out or in evaluation.data, too: add data, name other data there, or lower "
                "data.validation.fraction"
            )
        else:
            why = "data.sequenceLength leaves no room for their answers: raise it or shorten the prompts"
        raise DataError(f"source {source.name}: of {mine.sum():,} examples none is left to train on: {why}")


def facts_of(
    sources: Sequence[RunSource], of_source: NDArray[np.int64], held: NDArray[np.bool_], tokens: Sequence[int]
) -> list[SourceFacts]:
    """What each source turned out to hold. One epoch sees a source as often as its weight says.

    Args:
        sources: all of them.
        of_source: source of each example, [n].
        held: whether it is held out, [n].
        tokens: number in the training part of each source.
    """
    seen = [n * s.weight for n, s in zip(tokens, sources, strict=True)]
    return [
        SourceFacts(
            s.name, s.uri, s.weight, int((of_source == i).sum()), int(held[of_source == i].sum()), tokens[i],
            seen[i] / sum(seen),
        )
        for i, s in enumerate(sources)
    ]  # fmt: skip


def fingerprint(hashes: Sequence[NDArray[np.uint64]]) -> str:
    """Hex digest of all examples in their order, to notice that data changed between attempts."""
    return hashlib.sha256(b"".join(h.tobytes() for h in hashes)).hexdigest()
