"""Why a pod does not start, where that is somebody's fault: from its status. Pure.

What only events tell is in `events.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.labels import TRAINER_CONTAINER
from kubetune.status.conditions import parse_timestamp
from kubetune.status.scheduling import Fields, unscheduled
from kubetune.status.steady import steady

USUAL_WAITS = frozenset({"ContainerCreating", "PodInitializing"})
"""What a container may wait for without anything being wrong. Any other reason tells of a fault."""
_PULL_FAILED = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidationFailed"}
)
_IMAGE_TROUBLES = _PULL_FAILED | {
    "ErrImageNeverPull",
    "ImageInspectError",
    "ImageVolumeMountFailed",
    "InvalidImageName",
}
_CRASHES = "CrashLoopBackOff"
LINGERS = timedelta(minutes=5)
"""How long others' containers may keep the trainer waiting before it is told."""
_BACK_OFF = re.compile(r'Back-off pulling image "[^"]*"(?:: )?')
_PULL_PREFIX = re.compile(rf"(?:{'|'.join(sorted(_PULL_FAILED))}): ")
_TAIL = 400
"""How much of the end of a container's output is quoted: there it says why it ended."""


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start."""

    reason: str
    """Kubernetes' own."""
    message: str
    kind: Reason | None
    """The reason of the failure that it becomes; None: it may yet be as it should."""
    pod: str | None = None


TRAINING = Fields(resources="compute.resourcesPerNode", template="compute.podTemplate")
"""Fields of our resources that say what training pods ask for, and where they may run."""


def trouble_of(
    pod: Mapping[str, Any] | None, container: str = TRAINER_CONTAINER, fields: Fields = TRAINING
) -> Trouble | None:
    """Why a pod is not running yet, where that is somebody's fault.

    Args:
        pod: the pod.
        container: the one that matters most. A pod waits for all of them, also for those that others inject.
        fields: what is named where no node takes it.
    """
    if pod is None:
        return None
    name = pod["metadata"]["name"]
    for status in sorted(containers_of(pod), key=lambda c: c["name"] != container):
        if found := why_it_waits(status):
            reason, message = found
            message = steady(message, pod=name, uid=uid_of(pod))
            if status["name"] != container:
                message = f"container {status['name']}: {message}"
            kind = Reason.IMAGE_ERROR if reason in _IMAGE_TROUBLES else Reason.CONTAINER_ERROR
            return Trouble(reason, message, kind, name)
    if found := unscheduled(pod, fields):
        reason, message = found
        return Trouble(reason, steady(message, pod=name, uid=uid_of(pod)), Reason.UNSCHEDULABLE, name)
    return None


def lingers(pod: Mapping[str, Any] | None, now: datetime) -> tuple[Trouble | None, datetime | None]:
    """Tells of a container that runs for minutes while the trainer waits for it; else when to look again.

    It is an init container that does not end, or a sidecar that does not say that it has started.
    """
    if pod is None:
        return None, None
    sidecars = {
        c["name"]
        for c in pod.get("spec", {}).get("initContainers") or ()
        if c.get("restartPolicy") == "Always"
    }
    for status in pod.get("status", {}).get("initContainerStatuses", ()):
        name, since = status["name"], status.get("state", {}).get("running", {}).get("startedAt")
        if not since or (name in sidecars and status.get("started") is not False):
            continue
        due = parse_timestamp(since) + LINGERS
        if now < due:
            return None, due
        minutes = int(LINGERS.total_seconds() / 60)
        until = "has started" if name in sidecars else "has ended"
        message = (
            f"container {name} has been running for more than {minutes} minutes, and the trainer waits until "
            f"it {until}: see its log with `kubectl logs {pod['metadata']['name']} -c {name}`"
        )
        return Trouble("PodInitializing", message, None, pod["metadata"]["name"]), None
    return None, None


def why_it_waits(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and message of a container that cannot start."""
    waiting = status.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason"), str(waiting.get("message", ""))
    crashed = status.get("lastState", {}).get("terminated")
    if crashed and (reason == _CRASHES or (crashed.get("exitCode") and status.get("started") is False)):
        # A sidecar that others inject holds the pod until it has started. The back-off only counts seconds.
        return _CRASHES, f"it ends each time that it is started: {how_it_ended(crashed)}"
    if not reason or reason in USUAL_WAITS:
        return None
    if reason in _PULL_FAILED:
        # The kubelet alternates between these for one fault, and each change would look like a new one.
        reason, message = "ImagePullBackOff", _PULL_PREFIX.sub("", _BACK_OFF.sub("", message), 1) or message
    return reason, message


def how_it_ended(terminated: Mapping[str, Any]) -> str:
    """Exit code of a container, what Kubernetes calls its end, and its last words."""
    how = f"exit code {terminated.get('exitCode')}"
    if terminated.get("reason", "Error") not in ("Error", "Completed"):
        how += f", {terminated['reason']}"
    words = last_words(terminated)
    return f"{how}: {words}" if words else how


def last_words(terminated: Mapping[str, Any]) -> str:
    """The end of what a container said last."""
    # Made steady before it is cut, because parts of varying length would move the cut.
    return steady(str(terminated.get("message") or "").strip())[-_TAIL:]


def containers_of(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Statuses of a pod's containers, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def uid_of(pod: Mapping[str, Any]) -> str:
    """A pod's UID."""
    return str(pod["metadata"].get("uid", ""))


def being_made(pod: Mapping[str, Any] | None) -> str | None:
    """UID of a pod that a node has taken, while its volumes and network are being made: only events tell
    what is in the way."""
    if pod is None or not pod.get("spec", {}).get("nodeName") or _is_made(pod):
        return None
    return uid_of(pod)


def _is_made(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    if any(c["type"] == "PodReadyToStartContainers" and c["status"] == "True" for c in conditions):
        return True  # What remains are images, and of these the containers tell.
    return any(reason not in USUAL_WAITS for reason in _waits(pod))


def _waits(pod: Mapping[str, Any]) -> Iterator[str | None]:
    """For what each container waits; None of those that do not wait."""
    for status in containers_of(pod):
        yield (status.get("state", {}).get("waiting") or {}).get("reason")
