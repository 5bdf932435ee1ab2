"""Why a pod does not start, where that is somebody's fault. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.labels import TRAINER_CONTAINER
from kubetune.status.scheduling import unschedulable
from kubetune.status.steady import steady

IMAGE_TROUBLES = {
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
CONTAINER_TROUBLES = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "PostStartHookError",
    "PreCreateHookError",
    "PreStartHookError",
    "RunContainerError",
}


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start."""

    reason: str
    """As Kubernetes has it."""
    message: str
    kind: Reason
    """What it comes to."""
    pod: str | None = None


def trouble_of(pod: Mapping[str, Any] | None, container: str = TRAINER_CONTAINER) -> Trouble | None:
    """Why a pod is not running yet, where that is somebody's fault.

    Args:
        pod: the pod.
        container: the one that matters most. A pod waits for all of them, also for those that others inject.
    """
    if pod is None:
        return None
    name = pod["metadata"]["name"]
    for status in sorted(containers_of(pod), key=lambda c: c["name"] != container):
        waiting = status.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason"), str(waiting.get("message", ""))
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            # The kubelet goes to and fro between the two for one fault, and that would be news each time.
            reason, message = "ImagePullBackOff", message.rpartition("ErrImagePull: ")[2]
        message = steady(message, pod=name, uid=uid_of(pod))
        if status["name"] != container:
            message = f"container {status['name']}: {message}"
        if reason in IMAGE_TROUBLES:
            return Trouble(reason, message, Reason.IMAGE_ERROR, name)
        if reason in CONTAINER_TROUBLES:
            return Trouble(reason, message, Reason.CONTAINER_ERROR, name)
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(pod, condition)
    return None


def containers_of(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Statuses of a pod's containers, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def uid_of(pod: Mapping[str, Any]) -> str:
    """A pod's UID."""
    return str(pod["metadata"].get("uid", ""))


def _unscheduled(pod: Mapping[str, Any], condition: Mapping[str, Any]) -> Trouble:
    name = pod["metadata"]["name"]
    reason = condition.get("reason", "Unschedulable")
    message = steady(str(condition.get("message", "")), pod=name, uid=uid_of(pod))
    if reason == "Unschedulable":
        where = {"resources": "compute.resourcesPerNode", "template": "compute.podTemplate"}
        message = unschedulable(pod, message, **where)
    return Trouble(reason, message, Reason.UNSCHEDULABLE, name)


def mounting(pod: Mapping[str, Any] | None, waiting_for: str) -> str | None:
    """UID of a pod with Secrets that is on a node, and none of whose containers has been made.

    Args:
        pod: the pod.
        waiting_for: reason for which its trainer waits.
    """
    spec = (pod or {}).get("spec", {})
    awaits = spec.get("nodeName") and any("secret" in volume for volume in spec.get("volumes", []))
    return str(pod["metadata"]["uid"]) if pod and awaits and waiting_for == "ContainerCreating" else None


def unmounted(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """Why a pod's volumes are not there, where that is the newest of its events."""
    newest = _newest(events)
    if newest is None or newest.get("reason") != "FailedMount":
        return None
    message = str(newest.get("message", ""))
    if found := re.search(r'secrets? "(?P<name>[^"]+)" not found', message):
        return Trouble(
            "SecretNotFound", f"Secret {found['name']} does not exist: create it", Reason.CONTAINER_ERROR
        )
    about = newest.get("involvedObject", {})
    message = steady(message, pod=about.get("name", ""), uid=about.get("uid", ""))
    return Trouble("FailedMount", message, Reason.CONTAINER_ERROR)


def refused(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """Why the Job controller cannot make a pod (Pod Security, a quota), by its FailedCreate events."""
    newest = _newest(events)
    if newest is None:
        return None
    message = steady(str(newest.get("message", "")), job=newest.get("involvedObject", {}).get("name", ""))
    # "Error creating: " and the name of a pod that has never been say nothing.
    _, _, why = message.partition(" is forbidden: ")
    return Trouble("PodsRefused", why or message.removeprefix("Error creating: "), Reason.PODS_REFUSED)


def _newest(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return max(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""), default=None)
