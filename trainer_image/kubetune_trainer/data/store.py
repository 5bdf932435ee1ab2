"""Tokens of many documents in one compact array."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kubetune_trainer.errors import InvalidSpec

Tokens = NDArray[np.unsignedinteger]
IGNORED = -100
"""Label of a position that is not trained on: torch's own convention."""


@dataclass(frozen=True)
class TokenStore:
    """Documents back to back: 2 or 4 bytes per token, one more where only some are trained on."""

    tokens: Tokens
    """All tokens, [total]."""
    offsets: NDArray[np.int64]
    """Document i is tokens[offsets[i]:offsets[i + 1]], [documents + 1]."""
    trained: NDArray[np.bool_] | None = None
    """Whether a token is trained on, [total]. None: every one."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, [documents]."""
        return np.diff(self.offsets)

    def piece(self, document: int, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`count` tokens of a document from `start` on, and the token that follows each: inputs and labels,
        [count].

        The label is IGNORED where the document ends and where the following token is not trained on.
        """
        low = int(self.offsets[document]) + start
        end = int(self.offsets[document + 1])
        labels = np.full(count, IGNORED, dtype=np.int64)
        known = min(count, end - low - 1)
        following = slice(low + 1, low + 1 + known)
        labels[:known] = self.tokens[following]
        if self.trained is not None:
            labels[:known][~self.trained[following]] = IGNORED
        return self.tokens[low : low + count].astype(np.int64), labels


def token_type(vocabulary: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every token of a vocabulary."""
    return np.uint16 if vocabulary <= 2**16 else np.uint32


def narrow(tokens: ArrayLike, vocabulary: int) -> Tokens:
    """Tokens in the smallest type that holds the vocabulary and all of them.

    Some may lie outside the vocabulary's size, because its ids can have gaps.

    Raises:
        InvalidSpec: one is not a token id.
    """
    found = np.asarray(tokens)
    low, high = (int(found.min()), int(found.max())) if found.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise InvalidSpec(
            f"the tokenizer gives {low if low < 0 else high}, which is not a token id: mend its ids"
        )
    return found.astype(token_type(max(vocabulary, high + 1)))


def store_of(
    documents: Iterable[ArrayLike], vocabulary: int, trained: Iterable[NDArray[np.bool_]] | None = None
) -> TokenStore:
    """Pack the tokens of documents into a store.

    Raises:
        InvalidSpec: see `narrow`.
    """
    dtype = token_type(vocabulary)
    parts: list[Tokens] = [narrow(d, vocabulary) for d in documents]
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(p) for p in parts], out=offsets[1:])
    mask = None if trained is None else np.concatenate([np.zeros(0, bool), *trained])
    return TokenStore(np.concatenate([np.zeros(0, dtype), *parts]), offsets, mask)
