"""What all children have in common: labels and owner."""

from collections.abc import Mapping
from typing import Any

from kubetune.api.labels import KIND_LABEL, MANAGED_BY_LABEL, MANAGER, NAME_LABEL


def labels_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """Labels by which the children of a resource are found."""
    return {
        MANAGED_BY_LABEL: MANAGER,
        KIND_LABEL: resource["kind"],
        NAME_LABEL: resource["metadata"]["name"],
    }


def owner_reference(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Makes Kubernetes delete a child together with its owner."""
    return {
        "apiVersion": resource["apiVersion"],
        "kind": resource["kind"],
        "name": resource["metadata"]["name"],
        "uid": resource["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_owned(child: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    """Whether a child belongs to this very resource, not to a predecessor of the same name."""
    references = child["metadata"].get("ownerReferences", [])
    return any(r.get("controller") and r["uid"] == resource["metadata"]["uid"] for r in references)


def metadata(
    resource: Mapping[str, Any], name: str, *, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of a child."""
    return {
        "name": name,
        "namespace": resource["metadata"]["namespace"],
        "labels": {**(labels or {}), **labels_of(resource)},
        "ownerReferences": [owner_reference(resource)],
    }


def shared_memory() -> dict[str, Any]:
    """The volume for /dev/shm, through which processes hand data to one another.

    Without a size of its own, it may grow to the pod's memory limit (or the node's memory, if there is none),
    and counts against it. A size would only cause failures earlier: the runtime's default of 64 MiB is too
    small for NCCL and data loaders, and the kubelet evicts a pod that exceeds a size.
    """
    return {"name": "shm", "emptyDir": {"medium": "Memory"}}
