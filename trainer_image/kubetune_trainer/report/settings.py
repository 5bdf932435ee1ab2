"""The run spec as a table for people."""

import json
from collections.abc import Iterator
from typing import Any

from kubetune.api.runspec import RunSpec

POD = {"path", "root"}
"""Fields that say where something lay in the pod, which is gone. No transformers config has them."""


def settings(spec: RunSpec) -> list[tuple[str, str]]:
    """Dotted names and values of all that the job or a default says, except whose run it is."""
    return [*_flat("", {name: value for name, value in spec.wire().items() if name != "job"})]


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in POD:
                yield from _flat(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            # Sources and reward functions have names, by which people know them.
            label = item.get("name", number)
            yield from _flat(f"{name}.{label}", {k: v for k, v in item.items() if k != "name"})
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if value in ("", []):
        return "(none)"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
