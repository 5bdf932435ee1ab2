"""How long the pods of a training job have run. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kubetune.api.labels import ACTIVE_ANNOTATION, TRAINER_CONTAINER
from kubetune.status.conditions import parse_timestamp


def active_seconds(pods: Iterable[Mapping[str, Any]], now: datetime) -> int:
    """Running time of a job's attempts, of which these pods are left.

    Each pod carries the time of all attempts before it, so that the newest one tells the whole.
    """
    return max((_before(pod) + _of(pod, now) for pod in pods), default=0)


def _before(pod: Mapping[str, Any]) -> int:
    written = str((pod["metadata"].get("annotations") or {}).get(ACTIVE_ANNOTATION, ""))
    return int(written) if written.isdecimal() else 0


def _of(pod: Mapping[str, Any], now: datetime) -> int:
    """Whole seconds from when a node took the pod to its end: what its activeDeadlineSeconds is about."""
    begun = pod.get("status", {}).get("startTime")
    if begun is None:
        return 0
    seconds = (min(now, *_ends(pod)) if _ends(pod) else now) - parse_timestamp(begun)
    return max(int(seconds.total_seconds()), 0)


def _ends(pod: Mapping[str, Any]) -> list[datetime]:
    """When it ended, by what is known; a pod on a lost node does not end, but uses nothing up, either."""
    status = pod.get("status", {})
    found = [
        state["finishedAt"]
        for container in status.get("containerStatuses", [])
        if container["name"] == TRAINER_CONTAINER
        and (state := container.get("state", {}).get("terminated"))
        and state.get("finishedAt")
    ]
    if not found and status.get("phase") in ("Succeeded", "Failed"):
        found = [c["lastTransitionTime"] for c in status.get("conditions", []) if c["type"] == "Ready"]
    if pod["metadata"].get("deletionTimestamp"):
        found.append(pod["metadata"]["deletionTimestamp"])
    return [parse_timestamp(text) for text in found]
