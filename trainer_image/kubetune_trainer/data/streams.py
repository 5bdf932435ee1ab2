"""Endless, repeatable streams of rows. The state of a stream is a few integers, so a run resumes exactly."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kubetune_trainer.data.mixture import Mixture
from kubetune_trainer.data.packing import best_fit
from kubetune_trainer.data.rows import Row, RowLike, row_of
from kubetune_trainer.data.store import TokenStore
from kubetune_trainer.errors import DataError

PACKED_TOGETHER = 4096
"""Examples packed at a time: enough to fill rows to the brim, few enough that neighbours stay random."""


class Stream(Protocol):
    """Where a training loop gets its rows."""

    def next(self, count: int) -> Sequence[RowLike]:
        """The next rows; fewer only at the end of a run that is counted in epochs."""
        ...

    @property
    def mean_row(self) -> float:
        """Tokens in a row, about."""
        ...

    def state(self) -> dict[str, Any]:
        """The position, as values of JSON and tensors."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        ...


class Windows:
    """One source as an endless sequence of tokens, documents reshuffled in each pass, cut into windows.

    Window k is computed from k alone.
    """

    def __init__(self, store: TokenStore, length: int, key: Sequence[int]) -> None:
        self._store, self._length, self._key = store, length, key
        self._lengths = store.lengths
        self._pass = -1
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)

    def window(self, k: int) -> Row:
        """Window k: a row of exactly `length` tokens."""
        total = int(self._store.offsets[-1])
        at, need, pieces = k * self._length, self._length, []
        while need:
            number, offset = divmod(at, total)
            self._shuffle(number)
            place = int(np.searchsorted(self._ends, offset, side="right"))
            left = int(self._ends[place]) - offset
            document = int(self._order[place])
            start = int(self._lengths[document]) - left
            count = min(left, need)
            pieces.append(self._store.piece(document, start, count))
            at, need = at + count, need - count
        return row_of(pieces)

    def _shuffle(self, number: int) -> None:
        if number != self._pass:
            self._order = np.random.default_rng([*self._key, number]).permutation(len(self._store))
            self._ends = np.cumsum(self._lengths[self._order])
            self._pass = number


class MixtureStream:
    """Windows of several sources in the proportions of their weights."""

    def __init__(
        self, stores: Sequence[TokenStore], weights: Sequence[float], length: int, seed: int
    ) -> None:
        self._windows = [Windows(store, length, (seed, i)) for i, store in enumerate(stores)]
        self._weights, self._length = weights, length
        self._mixture = Mixture(weights)

    def next(self, count: int) -> list[Row]:
        """Exactly `count` rows."""
        rows = []
        for _ in range(count):
            source = self._mixture.next()
            rows.append(self._windows[source].window(self._mixture.counts[source] - 1))
        return rows

    @property
    def mean_row(self) -> float:
        """Tokens in a row."""
        return self._length

    def state(self) -> dict[str, Any]:
        """Windows taken from each source."""
        return {"windows": list(self._mixture.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._mixture = Mixture(self._weights, state["windows"])


class Pieces:
    """One source as an endless sequence of pieces of single documents, reshuffled in each pass.

    Piece k is computed from k alone.
    """

    def __init__(self, store: TokenStore, length: int, key: Sequence[int]) -> None:
        """Args:
        store: the documents, each of at least one token.
        length: of the longest piece.
        key: of the shuffling.
        """
        inputs = store.lengths - 1  # the last token is only ever a label
        counts = -(-inputs // length)
        self._store, self._key = store, key
        self._document = np.repeat(np.arange(len(store)), counts)
        ends = np.cumsum(counts)
        self._start = length * (np.arange(len(self._document)) - np.repeat(ends - counts, counts))
        self._size = np.minimum(length, inputs[self._document] - self._start)
        self._pass = -1
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Pieces in a pass."""
        return len(self._document)

    @property
    def tokens(self) -> int:
        """Tokens in a pass."""
        return int(self._size.sum())

    def piece(self, k: int) -> Row:
        """Piece k: a row of at most `length` tokens."""
        number, place = divmod(k, len(self))
        if number != self._pass:
            self._order = np.random.default_rng([*self._key, number]).permutation(len(self))
            self._pass = number
        at = int(self._order[place])
        return row_of([self._store.piece(int(self._document[at]), int(self._start[at]), int(self._size[at]))])


class PieceStream:
    """Pieces of several sources, a row each. Their tokens are in proportion to the weights."""

    def __init__(
        self, stores: Sequence[TokenStore], weights: Sequence[float], length: int, seed: int
    ) -> None:
        """As MixtureStream.

        Raises:
            DataError: no document holds a token that another follows.
        """
        self._pieces = [Pieces(store, length, (seed, i)) for i, store in enumerate(stores)]
        if not all(map(len, self._pieces)):
            raise DataError(
                "a source holds only documents of one token, so there is none to predict: add text"
            )
        means = [p.tokens / len(p) for p in self._pieces]
        self._turns = [weight / mean for weight, mean in zip(weights, means, strict=True)]
        self._mean = sum(weights) / sum(self._turns)
        self._mixture = Mixture(self._turns)

    @property
    def tokens(self) -> int:
        """Tokens of all sources."""
        return sum(p.tokens for p in self._pieces)

    def next(self, count: int) -> list[Row]:
        """Exactly `count` rows."""
        rows = []
        for _ in range(count):
            source = self._mixture.next()
            rows.append(self._pieces[source].piece(self._mixture.counts[source] - 1))
        return rows

    @property
    def mean_row(self) -> float:
        """Tokens in a row, on average."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Pieces taken from each source."""
        return {"pieces": list(self._mixture.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._mixture = Mixture(self._turns, state["pieces"])


class Epochs:
    """Which examples of several sources each epoch holds, and in which rows.

    A source of weight w gives the share w / max(w) of its examples to each epoch. From epoch to epoch all its
    examples take turns.
    """

    def __init__(
        self,
        store: TokenStore,
        source: NDArray[np.int64],
        weights: Sequence[float],
        capacity: int | None,
        seed: int,
    ) -> None:
        """Args:
        store: the examples of all sources.
        source: source of each example, [examples].
        weights: weight of each source.
        capacity: tokens per row; None: each example has a row of its own.
        seed: of the shuffling.
        """
        self._inputs = store.lengths - 1  # the last token is only ever a label
        self._members = [np.flatnonzero(source == i) for i in range(len(weights))]
        self._shares = [w / max(weights) for w in weights]
        self._capacity, self._seed = capacity, seed

    def rows(self, epoch: int) -> list[list[int]]:
        """Examples in each row of an epoch."""
        rng = np.random.default_rng([self._seed, 0, epoch])
        examples = rng.permutation(
            np.concatenate([self._chosen(i, epoch) for i in range(len(self._members))])
        )
        if self._capacity is None:
            return [[int(e)] for e in examples]
        rows = []
        for start in range(0, len(examples), PACKED_TOGETHER):
            part = examples[start : start + PACKED_TOGETHER]
            bins = best_fit(self._inputs[part].tolist(), self._capacity)
            rows += [[int(part[i]) for i in items] for items in bins]
        return [rows[i] for i in rng.permutation(len(rows))]

    def _chosen(self, source: int, epoch: int) -> NDArray[np.int64]:
        members, share = self._members[source], self._shares[source]
        start, stop = int(epoch * share * len(members)), int((epoch + 1) * share * len(members))
        orders = {
            n: np.random.default_rng([self._seed, 1 + source, n]).permutation(members)
            for n in {i // len(members) for i in range(start, stop)}
        }
        return np.array(
            [orders[i // len(members)][i % len(members)] for i in range(start, stop)], dtype=np.int64
        )


class EpochStream:
    """Rows of epoch after epoch."""

    def __init__(
        self,
        store: TokenStore,
        epochs: Epochs,
        total: int | None,
        row: Callable[[list[int]], RowLike] | None = None,
    ) -> None:
        """Args:
        store: the examples.
        epochs: the rows of each epoch.
        total: rows until the end of the run; None: there is no end.
        row: makes a row of examples; by default one whose labels are the tokens that follow.
        """
        self._store, self._epochs, self._total = store, epochs, total
        self._make = row or self._next_tokens
        self._lengths = store.lengths
        self._epoch = self._row = self._taken = 0
        self._rows = epochs.rows(0)

    def next(self, count: int) -> list[RowLike]:
        """`count` rows, or those that are left."""
        rows: list[RowLike] = []
        while len(rows) < count and self._taken != self._total:
            if self._row == len(self._rows):
                self._epoch, self._row = self._epoch + 1, 0
                self._rows = self._epochs.rows(self._epoch)
                continue
            rows.append(self._make(self._rows[self._row]))
            self._row += 1
            self._taken += 1
        return rows

    def _next_tokens(self, examples: list[int]) -> Row:
        return row_of(self._store.piece(e, 0, int(self._lengths[e]) - 1) for e in examples)

    @property
    def mean_row(self) -> float:
        """Tokens in a row of the present epoch, on average."""
        return float(np.mean([self._lengths[row].sum() - len(row) for row in self._rows]))

    def state(self) -> dict[str, Any]:
        """Epoch, rows taken from it, rows taken in all."""
        return {"epoch": self._epoch, "row": self._row, "rows": self._taken}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._epoch, self._row, self._taken = state["epoch"], state["row"], state["rows"]
        self._rows = self._epochs.rows(self._epoch)


def rows_in(epochs: Epochs, count: float) -> int:
    """Rows in a (possibly fractional) number of epochs."""
    whole, part = divmod(count, 1)
    rows = sum(len(epochs.rows(e)) for e in range(int(whole)))
    return rows + (math.ceil(part * len(epochs.rows(int(whole)))) if part else 0)
