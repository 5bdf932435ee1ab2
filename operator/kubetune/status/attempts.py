"""What a child Job and its pods say about an attempt. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from kubetune.api.exitcodes import Outcome, Reason
from kubetune.api.labels import RESTARTS_ANNOTATION, TRAINER_CONTAINER
from kubetune.api.progress import TerminationMessage
from kubetune.api.status import Failure
from kubetune.status.conditions import parse_timestamp
from kubetune.status.failures import judge
from kubetune.status.scheduling import unschedulable

IMAGE_TROUBLES = {
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
CONTAINER_TROUBLES = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
QUOTED = 256
"""How much of an unreadable termination message is shown."""


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start."""

    reason: str
    """As Kubernetes has it."""
    message: str
    kind: Reason
    """What it comes to."""
    pod: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run."""

    number: int
    """1 for the first."""
    restarts: int
    """Attempts before it that count against backoffLimit."""
    name: str
    """Its Job."""
    created: datetime
    """When its Job was created."""
    state: Literal["Pending", "Running", "Succeeded", "Failed"]
    """Where it stands. Succeeded only with the artifact's facts at hand."""
    has_pod: bool = True
    """Whether there is a pod to look at."""
    mounting: str | None = None
    """UID of a pod whose Secrets may be awaited: of these, only its events tell."""
    last_word: TerminationMessage | None = None
    """What the trainer said at its end."""
    trouble: Trouble | None = None
    """Why it does not start."""
    outcome: Outcome | None = None
    """Of a failed attempt: whether to try again."""
    failure: Failure | None = None
    """Of a failed attempt: why."""
    finished: datetime | None = None
    """When it failed."""
    begun: datetime | None = None
    """When a node took its pod."""
    deadline_seconds: int | None = None
    """How long after that the kubelet ends it."""


def attempt_of(number: int, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Attempt:
    """The attempt of a child Job.

    Args:
        number: which attempt it is.
        job: the child Job.
        pods: its pods; none where they have been deleted, or not been made yet.
    """
    meta = job["metadata"]
    restarts = str((meta.get("annotations") or {}).get(RESTARTS_ANNOTATION, ""))
    pod = max(pods, key=lambda p: str(p["metadata"].get("creationTimestamp", "")), default=None)
    finished = ended(job)
    terminated = _terminated(pod)
    last_word, malformed = _last_word(terminated)
    began = (pod or {}).get("status", {}).get("startTime")
    common: dict[str, Any] = {
        "number": number,
        "restarts": int(restarts) if restarts.isdecimal() else 0,
        "name": meta["name"],
        "created": parse_timestamp(meta["creationTimestamp"]),
        "has_pod": pod is not None,
        "last_word": last_word,
        "begun": parse_timestamp(began) if began else None,
        "deadline_seconds": (pod or {}).get("spec", {}).get("activeDeadlineSeconds"),
    }
    if terminated and terminated.get("exitCode") == 0 and last_word and last_word.artifact:
        # The Job controller will say the same a moment later.
        return Attempt(**common, state="Succeeded")
    if finished is None:
        # Of a pod that has ended, the Job controller tells in a moment what is to follow.
        begun = pod is not None and pod.get("status", {}).get("phase", "Pending") != "Pending"
        common |= {"trouble": trouble_of(pod), "mounting": None if begun else _mounting(pod)}
        return Attempt(**common, state="Running" if begun else "Pending")
    judged, failure = judge(pod, terminated, last_word, malformed)
    return Attempt(**common, state="Failed", outcome=judged, failure=failure, finished=finished)


def ended(job: Mapping[str, Any]) -> datetime | None:
    """When the Job controller called it over."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return parse_timestamp(condition["lastTransitionTime"])
    return None


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether no container of a pod runs any more, nor will."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _container(pod: Mapping[str, Any] | None, name: str = TRAINER_CONTAINER) -> Mapping[str, Any]:
    statuses = (pod or {}).get("status", {}).get("containerStatuses", [])
    return next((c for c in statuses if c["name"] == name), {})


def _terminated(pod: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = _container(pod).get("state", {}).get("terminated")
    return found


def _last_word(terminated: Mapping[str, Any] | None) -> tuple[TerminationMessage | None, str]:
    """The termination message; what is wrong with it if it cannot be read."""
    text = (terminated or {}).get("message", "")
    if not text:
        return None, ""
    try:
        # A trainer that is newer than this operator may say more than it understands.
        return TerminationMessage.model_validate_json(text, extra="ignore"), ""
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "JSON"
        return None, f"its termination message cannot be read ({where}: {problem['msg']}): {text[:QUOTED]}"


def trouble_of(pod: Mapping[str, Any] | None, container: str = TRAINER_CONTAINER) -> Trouble | None:
    """Why a pod is not running yet, where that is somebody's fault."""
    if pod is None:
        return None
    name = pod["metadata"]["name"]
    waiting = _container(pod, container).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason"), str(waiting.get("message", ""))
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        # The kubelet goes to and fro between the two for one fault, and that would be news each time.
        reason, message = "ImagePullBackOff", message.rpartition("ErrImagePull: ")[2]
    if reason in IMAGE_TROUBLES:
        return Trouble(reason, message, Reason.IMAGE_ERROR, name)
    if reason in CONTAINER_TROUBLES:
        return Trouble(reason, message, Reason.CONTAINER_ERROR, name)
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(pod, condition)
    return None


def _unscheduled(pod: Mapping[str, Any], condition: Mapping[str, Any]) -> Trouble:
    reason, message = condition.get("reason", "Unschedulable"), str(condition.get("message", ""))
    if reason == "Unschedulable":
        where = {"resources": "compute.resourcesPerNode", "template": "compute.podTemplate"}
        message = unschedulable(pod, message, **where)
    return Trouble(reason, message, Reason.UNSCHEDULABLE, pod["metadata"]["name"])


def _mounting(pod: Mapping[str, Any] | None) -> str | None:
    """UID of a pod with Secrets that is on a node, and none of whose containers has been made."""
    spec = (pod or {}).get("spec", {})
    waiting = _container(pod).get("state", {}).get("waiting", {}).get("reason", "ContainerCreating")
    awaits = spec.get("nodeName") and any("secret" in volume for volume in spec.get("volumes", []))
    return str(pod["metadata"]["uid"]) if pod and awaits and waiting == "ContainerCreating" else None


def unmounted(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """Why a pod's volumes are not there, where that is the newest of its events."""
    newest = _newest(events)
    if newest is None or newest.get("reason") != "FailedMount":
        return None
    message = str(newest.get("message", ""))
    # The kubelet's own words hold a directory that is another one for each pod, which would be news.
    if found := re.search(r'secrets? "(?P<name>[^"]+)" not found', message):
        return Trouble(
            "SecretNotFound", f"Secret {found['name']} does not exist: create it", Reason.CONTAINER_ERROR
        )
    return Trouble("FailedMount", message, Reason.CONTAINER_ERROR)


def refused(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """Why the Job controller cannot make a pod (Pod Security, a quota), by its FailedCreate events."""
    newest = _newest(events)
    if newest is None:
        return None
    # Each try has a name of its own, which would be news each time.
    _, _, why = str(newest.get("message", "")).partition(" is forbidden: ")
    return Trouble("PodsRefused", why or str(newest.get("message", "")), Reason.PODS_REFUSED)


def _newest(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return max(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""), default=None)
