"""Pairs of answers to one prompt, of which the first is preferred."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data import rows
from kubetune_trainer.data.encode import Encoded, Rendered, encode, render
from kubetune_trainer.data.formats import Preference
from kubetune_trainer.data.read import Record
from kubetune_trainer.data.rows import Row, row_of
from kubetune_trainer.data.store import TokenStore, store_of


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One pair as the training loop sees it."""

    chosen: Row
    rejected: Row
    reference: float = 0.0
    """log p(chosen) - log p(rejected) by the reference model, where the loss has one."""

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def targets(self) -> int:
        """1, as each pair is one term of the loss; 0 without labels."""
        return int(self.chosen.targets > 0)

    def idle(self) -> "PreferencePair":
        """The same pair without labels, which adds nothing to the loss."""
        return PreferencePair(self.chosen.idle(), self.rejected.idle())


class PairBatch(NamedTuple):
    """Pairs as tensors: the chosen sides, then the rejected ones, [2 pairs, longest side]."""

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    """Tokens of the answers; IGNORED elsewhere."""
    mask: torch.Tensor
    """1: no padding."""
    reference: torch.Tensor
    """See `PreferencePair.reference`, [pairs]."""


@dataclass
class Pairs(Sequence[PreferencePair]):
    """Pairs in compact form."""

    chosen: TokenStore
    rejected: TokenStore
    whole: bool = False
    """Whether the last token of a side is an input, too; else it is only a label."""
    reference: NDArray[np.float32] = field(init=False)
    """See `PreferencePair.reference`, [pairs]; zero until it is measured."""

    def __post_init__(self) -> None:
        self.reference = np.zeros(len(self.chosen), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, number: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, number: slice) -> list[PreferencePair]: ...
    def __getitem__(self, number: int | slice) -> PreferencePair | list[PreferencePair]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if number >= len(self):
            raise IndexError(number)
        chosen, rejected = (
            row_of([store.piece(number, 0, int(store.lengths[number]) - (not self.whole))])
            for store in (self.chosen, self.rejected)
        )
        return PreferencePair(chosen, rejected, float(self.reference[number]))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of both sides together, [pairs]."""
        return self.chosen.lengths + self.rejected.lengths


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as tokens, cut to a length."""

    chosen: Encoded
    rejected: Encoded
    cut: bool
    """Whether a side was longer."""

    @property
    def fits(self) -> bool:
        """Whether something is left of both answers, and they differ."""
        sides = (self.chosen, self.rejected)
        return all(side.trained[1:].any() for side in sides) and not np.array_equal(
            self.chosen.tokens, self.rejected.tokens
        )


def encode_pairs(
    examples: Sequence[Preference],
    places: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> Iterator[EncodedPair]:
    """Tokenise pairs. As in TRL, all that follows the prompt counts: the whole of a string, and all that the
    chat template writes for messages.

    Args:
        examples: the pairs.
        places: the record that each comes from.
        tokenizer: of the model.
        length: most tokens of a side; the rest is cut off.

    Raises:
        DataError: the chat template refuses a conversation.
    """
    sides = encode(_sides(examples, places, tokenizer), tokenizer)
    for chosen, rejected in zip(sides, sides, strict=True):
        better, worse = (Encoded(s.tokens[:length], s.trained[:length]) for s in (chosen, rejected))
        yield EncodedPair(better, worse, max(len(chosen.tokens), len(rejected.tokens)) > length)


def store_pairs(pairs: Iterable[EncodedPair], vocabulary: int, *, whole: bool = False) -> Pairs:
    """Pack pairs into stores; see `Pairs`."""
    kept = list(pairs)
    chosen, rejected = (
        store_of((e.tokens for e in side), vocabulary, [e.trained for e in side])
        for side in ([p.chosen for p in kept], [p.rejected for p in kept])
    )
    return Pairs(chosen, rejected, whole)


def collate(pairs: Sequence[PreferencePair], device: torch.device | str = "cpu", *, pad: int) -> PairBatch:
    """Pad both sides of pairs on the right."""
    sides = [*(p.chosen for p in pairs), *(p.rejected for p in pairs)]
    batch = rows.collate(sides, device, pad=pad)
    reference = torch.tensor([p.reference for p in pairs], device=device)
    return PairBatch(*batch, rows.padding_mask(sides, batch.tokens), reference)


def _sides(
    examples: Sequence[Preference], places: Sequence[Record], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Rendered]:
    for example, place in zip(examples, places, strict=True):
        for side in (example.chosen, example.rejected):
            with place.named():
                yield render(side, tokenizer)
