"""Best-fit decreasing: short examples share a sequence (Ding et al. 2024, "Fewer Truncations Improve Language
Modeling")."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few bins as this heuristic manages, each item whole.

    Args:
        lengths: sizes of the items, each 1 to capacity.
        capacity: size of a bin.

    Returns:
        Indices of the items in each bin. Deterministic; items of equal length keep their order.

    Raises:
        ValueError: an item does not fit.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, bin), sorted
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[item]
        if not 0 < size <= capacity:
            raise ValueError(f"an item of {size} does not fit a bin of {capacity}")
        at = bisect_left(room, (size, -1))
        if at == len(room):
            space, chosen = capacity, len(bins)
            bins.append([])
        else:
            space, chosen = room.pop(at)
        bins[chosen].append(item)
        if space > size:
            insort(room, (space - size, chosen))
    return bins
