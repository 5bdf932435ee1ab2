"""Whose weights a training job needs: those of its base, a former adapter, a reward model."""

from collections.abc import Mapping
from typing import Any


def starts(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sources that a job waits for, by field; none for those that it does not name.

    Args:
        spec: of the job, as it is stored.
    """
    sources = {
        "model.from": (spec.get("model") or {}).get("from"),
        "baseModel": spec.get("baseModel"),
        "adapter": spec.get("adapter"),
        "reward.model": (spec.get("reward") or {}).get("model"),
    }
    return {field: source for field, source in sources.items() if source}
