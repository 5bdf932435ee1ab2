"""Which resource is meant."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kubetune.api.labels import KIND_LABEL, NAME_LABEL


class Key(NamedTuple):
    """A resource of ours; the unit of work."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def key_of(resource: Mapping[str, Any], kind: str) -> Key:
    """Key of a resource of ours."""
    return Key(kind, resource["metadata"]["namespace"], resource["metadata"]["name"])


def owner_key(child: Mapping[str, Any]) -> Key | None:
    """Key of the resource that a child belongs to, by its labels; None if it is not one of ours."""
    labels = child.get("metadata", {}).get("labels") or {}
    if KIND_LABEL not in labels or NAME_LABEL not in labels:
        return None
    return Key(labels[KIND_LABEL], child["metadata"]["namespace"], labels[NAME_LABEL])
