"""Whether a live object already is as desired. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

QUANTITIES = {"requests", "limits", "capacity", "sizeLimit", "storage"}
"""Below these keys the API server stores canonical quantities ("0.5" becomes "500m")."""


def differs(desired: Any, live: Any, *, quantity: bool = False) -> bool:
    """Whether the live object lacks or contradicts anything desired. Fields that are not desired are
    ignored."""
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return bool(desired)
        return any(
            differs(value, live.get(key), quantity=quantity or key in QUANTITIES)
            for key, value in desired.items()
        )
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        if not isinstance(live, Sequence) or isinstance(live, str) or len(live) != len(desired):
            return bool(desired) or bool(live)
        return any(differs(d, a, quantity=quantity) for d, a in zip(desired, live, strict=True))
    if quantity and desired is not None and live is not None:
        return _number(desired) != _number(live)
    return bool(desired != live)


def _number(quantity: Any) -> Decimal | str:
    try:
        return Decimal(parse_quantity(str(quantity)))
    except ValueError:
        return str(quantity)
