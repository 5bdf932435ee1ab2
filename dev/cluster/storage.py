"""A default StorageClass with a pool of local volumes, each a folder on this machine.

A `local` volume rather than a hostPath one: kubelet applies fsGroup to it, so that a pod that is not root can
write. There is no provisioner: a claim of at most the volumes' size binds to any free one.
"""

import shutil
from pathlib import Path
from typing import Any

from dev.cluster.api import Api
from dev.cluster.network import NODE

CLASS = "local"
COUNT = 40
SIZE = "5Gi"
_PATH = "/api/v1/persistentvolumes"


def storage_class() -> dict[str, Any]:
    """The default class."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
        "reclaimPolicy": "Retain",
    }


def volume(number: int, folder: Path) -> dict[str, Any]:
    """One volume of the pool."""
    name = f"local-{number:02}"
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": CLASS,
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(_folder(name, folder))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }


def create(api: Api, folder: Path) -> None:
    """Create the class and the pool, with empty folders."""
    api.create("/apis/storage.k8s.io/v1/storageclasses", storage_class())
    for number in range(COUNT):
        body = volume(number, folder)
        _empty(body["metadata"]["name"], folder)
        api.create(_PATH, body)


def recycle(api: Api, folder: Path) -> int:
    """Empty the volumes whose claims are gone and offer them again; returns how many."""
    volumes = (api.get(_PATH) or {"items": []})["items"]
    released = [item["metadata"]["name"] for item in volumes if item["status"].get("phase") == "Released"]
    for name in released:
        _empty(name, folder)
        api.patch(f"{_PATH}/{name}", {"spec": {"claimRef": None}})
    return len(released)


def _empty(name: str, folder: Path) -> None:
    shutil.rmtree(_folder(name, folder), ignore_errors=True)
    _folder(name, folder).mkdir(parents=True)


def _folder(name: str, folder: Path) -> Path:
    return folder / "volumes" / name
