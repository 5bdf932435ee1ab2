"""Child Jobs and pods as Kubernetes shows them, and what trainers say at their end."""

import json
from typing import Any

Object = dict[str, Any]
CREATED = "2026-01-01T00:00:00Z"
ENDED = "2026-01-01T00:01:00Z"
ARTIFACT = {
    "uri": "pvc://models/x-11111111/artifact", "digest": "sha256:00", "sizeBytes": 10, "format": "full",
}  # fmt: skip


def job(ended: str | None = None, *, restarts: str = "0", created: str = CREATED) -> Object:
    """A child Job; `ended` is Complete or Failed."""
    conditions = [{"type": ended, "status": "True", "lastTransitionTime": ENDED}] if ended else []
    meta = {"name": "x-abc", "uid": "j", "creationTimestamp": created}
    return {
        "metadata": meta | {"annotations": {"kubetune.io/restarts": restarts}},
        "status": {"conditions": conditions},
    }


def pod(phase: str = "Running", state: Object | None = None, *conditions: Object, **status: Any) -> Object:
    """A training pod; `state` is that of its trainer."""
    containers = [{"name": "sidecar", "state": {"terminated": {"exitCode": 99}}}]
    if state is not None:
        containers.append({"name": "trainer", "state": state})
    meta = {"name": "x-abc-0-1", "creationTimestamp": CREATED}
    body = {"phase": phase, "containerStatuses": containers, "conditions": [*conditions], **status}
    return {"metadata": meta, "status": body}


def ended(code: int, message: str = "", reason: str = "Error") -> Object:
    """State of a container that has ended."""
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def waiting(reason: str, message: str = "") -> Object:
    """State of a container that has not begun."""
    return {"waiting": {"reason": reason, "message": message}}


def last_word(reason: str = "Succeeded", message: str = "", **fields: Any) -> str:
    """A termination message."""
    return json.dumps({"reason": reason, "message": message, **fields})


def disruption(reason: str, message: str) -> Object:
    """The condition of a pod that is taken away."""
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def deleted(body: Object) -> Object:
    """A pod that somebody has deleted."""
    return body | {"metadata": body["metadata"] | {"deletionTimestamp": ENDED}}


DISRUPTION = disruption("PreemptionByScheduler", "preempted by pod y")
UNSCHEDULABLE = {
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU",
}  # fmt: skip
