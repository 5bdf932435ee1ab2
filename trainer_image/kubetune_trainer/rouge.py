"""ROUGE-L: how much of a reference's words an answer has in the same order (Lin 2004, "ROUGE: A Package for
Automatic Evaluation of Summaries", section 3.1)."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")
"""Letters and digits of any script; of English text the words that the rouge-score package finds."""


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence (LCS) of words, 0 to 1: 2 P R / (P + R) = 2 LCS / (n + m).
    P is its share of the answer's n words, R of the reference's m. Case does not count. Without words in
    either, it is 0."""
    ours, theirs = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    common = longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence. A row of the usual table is the bits of one number (Hyyro
    2004, "Bit-Parallel LCS-length Computation Revisited")."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everything
    return len(a) - row.bit_count()
