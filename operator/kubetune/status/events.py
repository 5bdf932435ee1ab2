"""Why a pod is not made, or does not start, where only events tell. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.status.conditions import parse_timestamp
from kubetune.status.starting import Trouble
from kubetune.status.steady import steady

_HOLDING = (
    # If several hold a pod up, the first of these is told: the others follow from it.
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedMount",
    "FailedPrepareDynamicResources",
    "NetworkNotReady",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
)
_GOES_ON = frozenset({"SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started"})
_REPEATED = timedelta(minutes=4)
"""Age up to which an event still counts: a kubelet tries again, and tells, at least every two minutes."""
_FOLLOWS = "Unable to attach or mount volumes"
"""How the kubelet sums up what it has told of a volume."""
_NO_SECRET = re.compile(r'secrets? "(?P<name>[^"]+)" not found')
_EARLIEST = "1970-01-01T00:00:00Z"


def held_up(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """What keeps a pod's volumes or its network from being made, by the pod's events."""
    known = sorted(
        (e for e in events if e.get("reason") in _GOES_ON or e.get("reason") in _HOLDING), key=_when
    )
    since = next((n for n in range(len(known), 0, -1) if known[n - 1]["reason"] in _GOES_ON), 0)
    holding = [e for e in known[since:] if _when(known[-1]) - _when(e) <= _REPEATED]
    if not holding:
        return None
    return min((_trouble(e) for e in holding), key=_rank)


def _trouble(event: Mapping[str, Any]) -> Trouble:
    message, about = str(event.get("message", "")), event.get("involvedObject", {})
    if found := _NO_SECRET.search(message):
        return Trouble(
            "SecretNotFound", f"Secret {found['name']} does not exist: create it", Reason.CONTAINER_ERROR
        )
    message = steady(message, pod=about.get("name", ""), uid=about.get("uid", ""))
    return Trouble(event["reason"], message, Reason.CONTAINER_ERROR)


def _rank(trouble: Trouble) -> tuple[bool, int, str]:
    """Order of troubles, so that each look tells the same one, whichever was tried last."""
    place = _HOLDING.index(trouble.reason) if trouble.reason in _HOLDING else -1
    return trouble.message.startswith(_FOLLOWS), place, trouble.message


def refused(events: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """Why the Job controller cannot make a pod (Pod Security, a quota), by its FailedCreate events."""
    newest = max(events, key=_when, default=None)
    if newest is None:
        return None
    said = str(newest.get("message", "")).removeprefix("Error creating: ")
    job = newest.get("involvedObject", {}).get("name", "")
    return Trouble("PodsRefused", refusal(said, job), Reason.PODS_REFUSED)


def refusal(message: str, owner: str) -> str:
    """Why the API server refuses a pod, without the name of that pod, which was never made.

    Args:
        message: its words.
        owner: name of the Job or Deployment that the pod would belong to.
    """
    _, _, why = steady(message, owner=owner).partition(" is forbidden: ")
    return why or steady(message, owner=owner)


def without_pod(job: Mapping[str, Any], now: datetime) -> Trouble | None:
    """Tells of a Job that should have a pod by now, if no event says why it has none."""
    status, name = job.get("status", {}), job["metadata"]["name"]
    begun = parse_timestamp(status.get("startTime") or job["metadata"]["creationTimestamp"])
    had_one = any(status.get(count) for count in ("active", "terminating", "failed", "succeeded"))
    if had_one or status.get("conditions") or now - begun < _REPEATED:
        return None
    return Trouble(
        "NoPod",
        f"Job {name} has no pod, and no event says why: see `kubectl describe job {name}`, and whether "
        "kube-controller-manager runs",
        Reason.PODS_REFUSED,
    )


def _when(event: Mapping[str, Any]) -> datetime:
    times: Sequence[Any] = (
        event.get("lastTimestamp"),
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("eventTime"),
    )
    return parse_timestamp(next((str(time) for time in times if time), _EARLIEST))
