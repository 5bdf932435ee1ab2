"""Rows: what one sequence of a batch holds, and how rows become tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from kubetune_trainer.data.store import IGNORED


class RowLike(Protocol):
    """What the training loop needs to know of a row, whatever an objective puts into it."""

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    @property
    def targets(self) -> int:
        """Number of terms of the loss; the loss of a step is divided by the number in all its rows."""
        ...

    def idle(self) -> Self:
        """The same row with nothing to learn from."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One or more pieces of documents in one sequence.

    Positions count from 0 in each piece, which keeps attention within it. All arrays are [tokens].
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    """The token to predict at each position; IGNORED where none is."""
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> int:
        """Positions that are trained on."""
        return int(np.count_nonzero(self.labels != IGNORED))

    def idle(self) -> "Row":
        """The same row without labels."""
        return Row(self.tokens, np.full_like(self.labels, IGNORED), self.positions)


class Batch(NamedTuple):
    """Rows as tensors, each [rows, longest row]."""

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


def row_of(pieces: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Row:
    """A row of (tokens, labels) pieces."""
    tokens, labels = zip(*pieces, strict=True)
    return Row(
        np.concatenate(tokens), np.concatenate(labels), np.concatenate([np.arange(len(t)) for t in tokens])
    )


def padding_mask(rows: Sequence[Row], tokens: torch.Tensor) -> torch.Tensor:
    """Which of the tokens of some rows are no padding: 1 or 0, [rows, longest row]."""
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()


def collate(rows: Sequence[Row], device: torch.device | str = "cpu", *, pad: int) -> Batch:
    """Pad rows on the right.

    The padding continues the positions of the last piece, so it needs no mask: attention is causal, and
    nothing follows the padding. So rows of one piece each stay purely causal, which is the fastest path.
    """
    width = max(map(len, rows))
    tokens = np.full((len(rows), width), pad, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    positions = np.empty((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        n = len(row)
        tokens[i, :n], labels[i, :n], positions[i, :n] = row.tokens, row.labels, row.positions
        positions[i, n:] = np.arange(width - n) + row.positions[-1] + 1
    return Batch(*(torch.from_numpy(a).to(device, non_blocking=True) for a in (tokens, positions, labels)))
