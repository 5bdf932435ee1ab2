"""Hiding tokens from a masked language model (Devlin et al. 2019, BERT)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data.rows import Row, collate, padding_mask
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.data.streams import MixtureStream

MASKED, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK], or a random token; the rest stay."""


class Masker:
    """Makes rows of pieces of documents: [CLS] piece [SEP], with some of its tokens hidden."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int) -> None:
        """Args:
        tokenizer: with [CLS], [SEP] and [MASK].
        probability: share of the tokens that are chosen.
        seed: of the choice.
        """
        self._first, self._last = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._mask, self._probability, self._seed = tokenizer.mask_token_id, probability, seed
        self._special = np.array(sorted(tokenizer.all_special_ids))
        self._ordinary = np.setdiff1d(np.arange(len(tokenizer)), self._special)

    def row(self, piece: NDArray[np.int64], inner: NDArray[np.int64] | None, *key: int) -> Row:
        """A row whose labels are the chosen tokens.

        As in BERT, how many tokens are chosen is not random: max(1, probability x tokens). Words are taken in
        random order as long as they fit.

        Args:
            piece: tokens, [n].
            inner: 1 where a token continues the word of the token before it, [n]; None: each is a word.
            key: numbers that decide the choice together with the seed; nothing else does.
        """
        random = np.random.default_rng([self._seed, *key])
        tokens = np.concatenate([[self._first], piece, [self._last]]).astype(np.int64)
        labels = np.full_like(tokens, IGNORED)
        starts = np.ones(len(piece), dtype=bool) if inner is None else inner == 0
        starts[:1] = True
        word = np.cumsum(starts) - 1
        open_ = ~np.isin(piece, self._special)
        words = random.permutation(np.unique(word[open_]))
        if len(words):
            sizes = np.bincount(word[open_], minlength=word[-1] + 1)[words]
            room = max(1, round(self._probability * int(open_.sum())))
            fits = np.cumsum(sizes) <= room
            fits[0] = True
            at = 1 + np.flatnonzero(np.isin(word, words[fits]) & open_)
            labels[at] = tokens[at]
            fate = random.random(len(at))
            others = random.choice(self._ordinary, len(at))
            tokens[at] = np.where(
                fate < MASKED, self._mask, np.where(fate < MASKED + REPLACED, others, tokens[at])
            )
        return Row(tokens, labels, np.arange(len(tokens)))


class MaskedStream:
    """Rows of a mixture. A row's number decides what is hidden in it, so a resumed run hides the same."""

    def __init__(self, tokens: MixtureStream, inner: MixtureStream | None, masker: Masker) -> None:
        """Args:
        tokens: windows of the sources.
        inner: the same windows of `Part.inner`, for whole words.
        masker: hides tokens in them.
        """
        self._tokens, self._inner, self._masker = tokens, inner, masker

    def next(self, count: int) -> list[Row]:
        """Exactly `count` rows."""
        first = sum(self._tokens.state()["windows"])
        rows = self._tokens.next(count)
        inner = [r.tokens for r in self._inner.next(count)] if self._inner else [None] * count
        return [
            self._masker.row(row.tokens, i, 0, first + n)
            for n, (row, i) in enumerate(zip(rows, inner, strict=True))
        ]

    @property
    def mean_row(self) -> float:
        """Mean number of tokens in a row."""
        return self._tokens.mean_row + 2

    def state(self) -> dict[str, Any]:
        """Windows taken from each source."""
        return self._tokens.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._tokens.restore(state)
        if self._inner:
            self._inner.restore(state)


def collate_masked(
    rows: Sequence[Row], device: torch.device | str = "cpu", *, pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask (0: padding) and labels, each [rows, longest row]."""
    batch = collate(rows, device, pad=pad)
    return batch.tokens, padding_mask(rows, batch.tokens), batch.labels
