"""Which weights a training job starts from: a base, an adapter, a reward model."""

from collections.abc import Mapping
from typing import Any


def starts(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sources that a job waits for, by field, without those that it does not set.

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
