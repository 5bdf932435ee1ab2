"""The Job that removes what a deleted training job wrote (output.reclaimPolicy), and who is in its way."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from kubetune.api.labels import RECLAIM_CONTAINER, RECLAIM_LABEL
from kubetune.desired.common import metadata
from kubetune.desired.job import TrainingSettings
from kubetune.desired.pod_template import (
    container_security,
    placement,
    pod_security,
    resources,
    variables,
)
from kubetune.desired.runspec import output
from kubetune.desired.volumes import locate, mounts
from kubetune.references.starts import starts

BACKOFF_LIMIT = 2
_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}


def reclaim_name(resource: Mapping[str, Any]) -> str:
    """Name of the Job."""
    meta = resource["metadata"]
    digest = hashlib.sha256(f"{meta['uid']}/reclaim".encode()).hexdigest()
    return f"{meta['name']}-{digest[:8]}"


def reclaim_job(resource: Mapping[str, Any], settings: TrainingSettings) -> dict[str, Any]:
    """The Job. Its pod runs where the training pods could, and mounts only the claim that they wrote to."""
    folder = folder_of(resource)
    location = locate(folder)
    volumes, volume_mounts = mounts([location], writable={location.volume})
    compute = resource["spec"].get("compute") or {}
    template, defaults = compute.get("podTemplate") or {}, settings.defaults
    meta = metadata(resource, reclaim_name(resource), labels={RECLAIM_LABEL: "true"})
    container: dict[str, Any] = {
        "name": RECLAIM_CONTAINER,
        "image": settings.operator_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["reclaim", "--root", location.root, location.mounted],
        "resources": resources(compute.get("reclaimResources"), defaults.reclaim, _RESOURCES),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": volume_mounts,
    }
    if env := variables({}, (), defaults.reclaim):
        container["env"] = env
    pod = {
        **placement(template, defaults),
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(template, defaults),
        "containers": [container],
        "volumes": volumes,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "template": {"metadata": {"labels": meta["labels"]}, "spec": pod},
        },
    }


def folder_of(resource: Mapping[str, Any]) -> str:
    """URI of all that a training job writes."""
    return output(resource, resource["spec"]["output"]["storageUri"]).uri


def users(
    resource: Mapping[str, Any],
    sets: Iterable[Mapping[str, Any]],
    jobs: Mapping[str, Iterable[Mapping[str, Any]]],
) -> list[str]:
    """Who serves what a training job wrote, or starts from it, in words.

    Args:
        resource: the training job.
        sets: AdapterSets of its namespace.
        jobs: training jobs of its namespace, by their kind.
    """
    return [
        *(f"AdapterSet {s['metadata']['name']} serves it" for s in sets if _serves(s, resource)),
        *(
            f"{kind} {job['metadata']['name']} starts from it"
            for kind, found in jobs.items()
            for job in found
            if _starts_from(job, resource)
        ),
    ]


def _serves(adapter_set: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    spec, status = adapter_set["spec"], adapter_set.get("status", {})
    asked = [spec["baseModel"], *(a["source"] for a in spec.get("adapters", []))]
    served = [status.get("base") or {}, *status.get("adapters", [])]
    return any(_names(source, resource, default="FineTuneJob") for source in asked) or any(
        _lies_in(found.get("uri"), resource) for found in served
    )


def _starts_from(job: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    over = job.get("status", {}).get("phase") in ("Succeeded", "Failed")
    itself = job["metadata"]["uid"] == resource["metadata"]["uid"]
    return not over and not itself and any(_names(s, resource) for s in starts(job["spec"]).values())


def _names(source: Mapping[str, Any], resource: Mapping[str, Any], *, default: str = "") -> bool:
    """Whether a source is a job's artifact. A job that has made none is not waited for."""
    if _lies_in(source.get("uri"), resource):
        return True
    reference = source.get("jobRef")
    return (
        reference is not None
        and bool(resource.get("status", {}).get("artifact"))
        and (reference.get("kind", default), reference["name"])
        == (resource["kind"], resource["metadata"]["name"])
    )


def _lies_in(uri: str | None, resource: Mapping[str, Any]) -> bool:
    return uri is not None and f"{uri.rstrip('/')}/".startswith(f"{folder_of(resource)}/")
