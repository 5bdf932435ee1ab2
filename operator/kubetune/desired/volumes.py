"""URIs as volumes: where `pvc://claim/path` and `configmap://name/key` lie in a pod."""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from kubetune.api.runspec import CONFIGMAP_ROOT, PVC_ROOT, RunSecret

PVC = "pvc://"
CONFIGMAP = "configmap://"
_CLAIM = re.compile("claim-[0-9]+")


@dataclass(frozen=True)
class Location:
    """A URI, resolved to a mount."""

    volume: str
    """Name of the claim or ConfigMap."""
    is_claim: bool
    """Claim or ConfigMap."""
    path: str
    """Path below the mount, or key of the ConfigMap."""

    @property
    def root(self) -> str:
        """Mount point in the pod."""
        return f"{PVC_ROOT if self.is_claim else CONFIGMAP_ROOT}/{self.volume}"

    @property
    def mounted(self) -> str:
        """The path in the pod."""
        return f"{self.root}/{self.path}" if self.path else self.root


def locate(uri: str) -> Location:
    """Resolve a URI.

    Raises:
        ValueError: the scheme is not one that the API accepts.
    """
    for scheme, is_claim in ((PVC, True), (CONFIGMAP, False)):
        if uri.startswith(scheme):
            volume, _, path = uri.removeprefix(scheme).partition("/")
            return Location(volume, is_claim, path.strip("/"))
    raise ValueError(f"{uri} is neither pvc:// nor configmap://")


def mounts(locations: Iterable[Location], writable: Set[str] = frozenset()) -> tuple[list[Any], list[Any]]:
    """Volumes and volume mounts of some locations, each claim and ConfigMap once.

    Args:
        locations: what is to be mounted.
        writable: the claims that may be written; all else is read-only.
    """
    volumes, volume_mounts = [], []
    wanted = sorted({(not location.is_claim, location.volume): location for location in locations}.items())
    for number, ((is_configmap, name), location) in enumerate(wanted):
        volume_name = f"{'configmap' if is_configmap else 'claim'}-{number}"
        read_only = is_configmap or name not in writable
        if is_configmap:
            volumes.append({"name": volume_name, "configMap": {"name": name}})
        else:
            # Read-only at the mount, not at the claim: the same claim may be writable in this pod.
            volumes.append({"name": volume_name, "persistentVolumeClaim": {"claimName": name}})
        volume_mounts.append({"name": volume_name, "mountPath": location.root, "readOnly": read_only})
    return volumes, volume_mounts


def is_claim_of_ours(volume: Mapping[str, Any]) -> bool:
    """Whether a pod's volume is a claim by `mounts`, not one that a user has added."""
    return "persistentVolumeClaim" in volume and _CLAIM.fullmatch(volume["name"]) is not None


def secret_mounts(secrets: Iterable[RunSecret]) -> tuple[list[Any], list[Any]]:
    """Volumes and volume mounts of the sources' Secrets, as read-only folders. A pod does not start while one
    of them is missing."""
    volumes, volume_mounts = [], []
    for number, secret in enumerate(secrets):
        name = f"secret-{number}"
        # Readable by the group of the pod alone.
        source = {"secretName": secret.name, "optional": False, "defaultMode": 0o440}
        volumes.append({"name": name, "secret": source})
        volume_mounts.append({"name": name, "mountPath": secret.path, "readOnly": True})
    return volumes, volume_mounts
