"""How long the pods of a training job have run. Pure.

The status has the running time up to a moment; the time that pods ran after it is added. So pods that are
gone stay counted, also when several pods of one Job ran one after the other, as after evictions by a queue.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.labels import ACTIVE_ANNOTATION, TRAINER_CONTAINER
from kubetune.status.conditions import parse_timestamp
from kubetune.status.ending import is_over


@dataclass(frozen=True)
class Activity:
    """Running time of a job's attempts."""

    seconds: int = 0
    """Seconds so far. A pod that was told to end counts until the end of its grace period."""
    until: datetime | None = None
    """Up to which moment that is counted; None if nothing has run."""
    unending: int = 0
    """Seconds since then in which pods have not ended although they should have. They count only against a
    limit, since nobody knows whether those pods run."""


def activity(
    pods: Iterable[Mapping[str, Any]], now: datetime, *, seconds: int = 0, until: datetime | None = None
) -> Activity:
    """Running time of a job's attempts.

    Args:
        pods: what is left of their pods.
        now: the clock.
        seconds: what the status says.
        until: up to which moment that is counted; None if it does not say so.
    """
    spans = [span for pod in pods if (span := _span(pod, now))]
    last = max([end for _, end, _ in spans] + ([until] if until else []), default=None)
    unending = max((_seconds(end, now) for _, end, pod in spans if not is_over(pod)), default=0)
    if until is None:
        return Activity(max(seconds, _told_by_pods(spans)), last, unending)
    return Activity(
        seconds + sum(_seconds(max(begin, until), end) for begin, end, _ in spans), last, unending
    )


_Span = tuple[datetime, datetime, Mapping[str, Any]]


def _told_by_pods(spans: Sequence[_Span]) -> int:
    """By the pods alone: each carries the time of the attempts before its own, so the newest tell it all."""
    of_attempts: defaultdict[int, int] = defaultdict(int)
    for begin, end, pod in spans:
        of_attempts[_before(pod)] += _seconds(begin, end)
    return max((before + ran for before, ran in of_attempts.items()), default=0)


def _before(pod: Mapping[str, Any]) -> int:
    written = str((pod["metadata"].get("annotations") or {}).get(ACTIVE_ANNOTATION, ""))
    return int(written) if written.isdecimal() else 0


def _span(pod: Mapping[str, Any], now: datetime) -> _Span | None:
    """From when a node took the pod to its end, in whole seconds: what activeDeadlineSeconds limits."""
    begun = pod.get("status", {}).get("startTime")
    if begun is None:
        return None
    begin = parse_timestamp(begun)
    end = min([now.replace(microsecond=0), *_ends(pod)])
    return begin, max(begin, end), pod


def _seconds(begin: datetime, end: datetime) -> int:
    return max(end - begin, timedelta()) // timedelta(seconds=1)


def _ends(pod: Mapping[str, Any]) -> list[datetime]:
    """When it ended, as far as is known: several moments, or none."""
    status = pod.get("status", {})
    found = [
        state["finishedAt"]
        for container in status.get("containerStatuses", [])
        if container["name"] == TRAINER_CONTAINER
        and (state := container.get("state", {}).get("terminated"))
        and state.get("finishedAt")
    ]
    if not found and is_over(pod):
        # A pod that a node refused only tells when that was.
        found = [c["lastTransitionTime"] for c in status.get("conditions", []) if c["type"] == "Ready"]
        found = found or [status["startTime"]]
    if pod["metadata"].get("deletionTimestamp"):
        found.append(pod["metadata"]["deletionTimestamp"])
    return [parse_timestamp(text) for text in found]
