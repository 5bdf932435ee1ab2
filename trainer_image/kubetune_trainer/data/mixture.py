"""Which source each sequence comes from, so that the shares of tokens are exact all along a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Mixture:
    """Tijdeman's chairman assignment (1980): after any number of turns, each source has had its share of them
    to within less than one turn. There is no randomness; the counts are the whole state."""

    weights: Sequence[float]
    """Relative to each other, at least one positive."""
    counts: list[int] = field(default_factory=list)
    """Turns that each source has had."""

    def __post_init__(self) -> None:
        total = sum(self.weights)
        self._shares = [w / total for w in self.weights]
        self.counts = list(self.counts) or [0] * len(self._shares)

    def next(self) -> int:
        """The source whose turn it is."""
        if len(self._shares) == 1:
            chosen = 0
        else:
            slack = 1 / (2 * len(self._shares) - 2)
            turn = sum(self.counts) + 1
            due = [share * turn - count for share, count in zip(self._shares, self.counts, strict=True)]
            # Of the sources that have fallen behind enough, the one that would be a whole turn behind
            # soonest.
            chosen = min(
                (i for i, behind in enumerate(due) if behind >= slack - 1e-9 and self._shares[i] > 0),
                key=lambda i: (1 - slack - due[i]) / self._shares[i],
            )
        self.counts[chosen] += 1
        return chosen
