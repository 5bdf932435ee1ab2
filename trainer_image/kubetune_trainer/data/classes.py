"""Texts and their classes: the label map, tokens, batches, weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kubetune.api.data import MOST_CLASSES
from kubetune_trainer.data.formats import Labelled
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One text (or a pair of texts) and its class."""

    tokens: NDArray[np.int64]
    types: NDArray[np.int64]
    """0 in the first text, 1 in the second, where the base tells them apart."""
    label: int
    """Index of the class; IGNORED: none."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> int:
        """Number of targets: 1, or 0 without a class."""
        return int(self.label != IGNORED)

    def idle(self) -> "ClassRow":
        """The same row without its class."""
        return ClassRow(self.tokens, self.types, IGNORED)


def label_map(labels: Iterable[str]) -> list[str]:
    """The classes in a fixed order: by number if all are numbers, else by text.

    Raises:
        DataError: there are fewer than two, or more than MOST_CLASSES.
    """
    distinct = set(labels)
    if len(distinct) < 2:
        raise DataError(
            f"all examples have the label {next(iter(distinct), None)!r}: there is nothing to tell apart; "
            "add examples of another class or name the classes in data.labels"
        )
    if len(distinct) > MOST_CLASSES:
        raise DataError(
            f"there are {len(distinct):,} labels, and at most {MOST_CLASSES:,} classes are possible: see "
            "whether the field holds labels"
        )
    try:
        return sorted(distinct, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(distinct)


def tokenise(
    examples: Sequence[Labelled], tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], int]:
    """Tokens and token types of texts, special tokens included, as `tokenizer(text, text_pair)` gives them in
    serving.

    Args:
        examples: the texts.
        tokenizer: of the base.
        length: most tokens of an example. A longer text loses its end, a pair the end of its longer text.

    Returns:
        The examples, and how many of them were cut.
    """
    found, cut = [], 0
    for e in examples:
        texts = (e.text,) if e.text_pair is None else (e.text, e.text_pair)
        encoded = tokenizer(*texts)
        if len(encoded["input_ids"]) > length:
            cut += 1
            encoded = tokenizer(*texts, truncation=True, max_length=length)
            tokenizer.backend_tokenizer.no_truncation()  # or the truncation would be saved with the artifact
        tokens = np.array(encoded["input_ids"], dtype=np.int64)
        types = encoded.get("token_type_ids", np.zeros_like(tokens))
        found.append((tokens, np.asarray(types, dtype=np.int64)))
    return found, cut


def balanced(labels: NDArray[np.int64], classes: int) -> list[float]:
    """Weight of each of K classes, N / (K N_c), as scikit-learn's class_weight="balanced".

    The mean over the N examples is 1 if every class has examples. A class without examples has weight 0.

    Args:
        labels: class of each example, [N].
        classes: K.
    """
    counts = np.bincount(labels, minlength=classes)
    return [float(len(labels) / (classes * n)) if n else 0.0 for n in counts]


def collate(
    rows: Sequence[ClassRow], device: torch.device | str, *, pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch: tokens, mask (0: padding) and token types, each [rows, longest row], and classes, [rows].

    Rows are padded on the right with the token `pad`.
    """
    width = max(map(len, rows))
    tokens = np.full((len(rows), width), pad, dtype=np.int64)
    mask, types = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], types[i, : len(row)], mask[i, : len(row)] = row.tokens, row.types, 1
    labels = np.array([row.label for row in rows], dtype=np.int64)
    first, second, third, fourth = (
        torch.from_numpy(a).to(device, non_blocking=True) for a in (tokens, mask, types, labels)
    )
    return first, second, third, fourth
