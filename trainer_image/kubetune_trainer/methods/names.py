"""Names of a model's layers and weights, and their short forms."""

from collections.abc import Iterable


def short(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """The parts of names after the layer's number, if these choose the same names out of `every`; else the
    names."""
    names = set(names)
    ends = {tail(name) for name in names}
    chosen = {name for name in every if any(ends_with(name, end) for end in ends)}
    return sorted(ends if chosen == names else names)


def tail(name: str) -> str:
    """The part after the layer's number."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def ends_with(name: str, wanted: str) -> bool:
    """Whether `wanted` means a name, as peft sees it: by its last parts."""
    return name == wanted or name.endswith(f".{wanted}")
