"""What a child Job and its pods say about an attempt. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError

from kubetune.api.exitcodes import Outcome
from kubetune.api.labels import RESTARTS_ANNOTATION, TRAINER_CONTAINER
from kubetune.api.progress import TerminationMessage
from kubetune.api.status import Failure
from kubetune.status.conditions import parse_timestamp
from kubetune.status.ending import Ending, ending_of, is_over, silent_node
from kubetune.status.failures import judge
from kubetune.status.held import Held, held
from kubetune.status.starting import Trouble, being_made, lingers, trouble_of

QUOTED = 256
"""How much of an unreadable termination message is shown."""
_POD_FAILED = {"BackoffLimitExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"}
"""Reasons of a Job whose pod failed. Then the pod tells more."""
SETTLING = timedelta(seconds=10)
"""How long, after the trainer has ended and other containers have not, the kubelet may take to say that it is
ending them all, and why."""


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
    being_made: str | None = None
    """UID of its pod, while only events tell what holds up its volumes and its network."""
    last_word: TerminationMessage | None = None
    """The trainer's termination message."""
    trouble: Trouble | None = None
    """Why it does not start."""
    outcome: Outcome | None = None
    """Of a failed attempt: whether to try again."""
    failure: Failure | None = None
    """Of a failed attempt, or one whose pod was deleted by force: why."""
    finished: datetime | None = None
    """When it failed."""
    begun: datetime | None = None
    """When a node took its pod."""
    deadline_seconds: int | None = None
    """Seconds after `begun` at which the kubelet ends it."""
    grace_seconds: int = 0
    """Seconds that its pod may take to end after that."""
    held: Held | None = None
    """Who has suspended its Job."""
    silent_node: str | None = None
    """Node of its pod, if the trainer began there and the node does not answer any more."""
    ending: Ending | None = None
    """How far its pod has come in ending, if it was told to end."""
    outlived_by: Mapping[str, Any] | None = None
    """Metadata of its pod, if the trainer has ended and other containers go on."""
    again: datetime | None = None
    """When to look again, although nothing may change until then."""


def attempt_of(
    number: int, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], now: datetime
) -> Attempt:
    """The attempt of a child Job.

    Args:
        number: which attempt it is.
        job: the child Job.
        pods: its pods; none where they have been deleted, or not been made yet.
        now: the clock.
    """
    meta = job["metadata"]
    restarts = str((meta.get("annotations") or {}).get(RESTARTS_ANNOTATION, ""))
    pod = max(pods, key=lambda p: str(p["metadata"].get("creationTimestamp", "")), default=None)
    terminated = _state(pod).get("terminated")
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
        "grace_seconds": (pod or {}).get("spec", {}).get("terminationGracePeriodSeconds", 0),
        "outlived_by": pod["metadata"] if pod and terminated and _goes_on(pod) else None,
    }
    if terminated and terminated.get("exitCode") == 0 and last_word and last_word.artifact:
        # The Job controller will say the same a moment later, unless other containers go on.
        return Attempt(**common, state="Succeeded")
    finished, again = ended(job), None
    if finished is None and terminated and common["outlived_by"]:
        when = terminated.get("finishedAt")
        since = parse_timestamp(when) if when else parse_timestamp(meta["creationTimestamp"])
        settled = since + SETTLING
        finished, again = (since, None) if now >= settled else (None, settled)
    if finished is None:
        # If the pod has ended, the Job controller will soon say how.
        begun, ending, trouble = _has_begun(pod), ending_of(pod), None
        if not begun and not (trouble := trouble_of(pod)):
            trouble, again = lingers(pod, now)
        return Attempt(
            **common,
            state="Running" if begun else "Pending",
            trouble=trouble,
            being_made=None if begun else being_made(pod),
            held=held(job),
            silent_node=silent_node(pod) if begun else None,
            ending=ending,
            failure=judge(pod, terminated, last_word, malformed)[1] if ending and ending.forced else None,
            again=again,
        )
    judged, failure = judge(pod, terminated, last_word, malformed, _why_ended(job))
    return Attempt(**common, state="Failed", outcome=judged, failure=failure, finished=finished)


def ended(job: Mapping[str, Any]) -> datetime | None:
    """When the Job controller called it over."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return parse_timestamp(condition["lastTransitionTime"])
    return None


def _why_ended(job: Mapping[str, Any]) -> str:
    """Why the Job controller ended it, if that was no failure of its pod; else empty."""
    for condition in job.get("status", {}).get("conditions", []):
        if (condition["type"], condition["status"]) == ("Failed", "True"):
            reason = condition.get("reason")
            if not reason or reason in _POD_FAILED:
                return ""
            return f"{reason}: {condition.get('message', '')}".rstrip(". :")
    return ""


def _state(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """State of the trainer's container."""
    statuses = (pod or {}).get("status", {}).get("containerStatuses", [])
    found: Mapping[str, Any] = next((c for c in statuses if c["name"] == TRAINER_CONTAINER), {})
    state: Mapping[str, Any] = found.get("state", {})
    return state


def _has_begun(pod: Mapping[str, Any] | None) -> bool:
    """Whether the trainer runs or has run. A pod is Pending as long as any of its containers waits."""
    if pod is None:
        return False
    begun = {"running", "terminated"} & _state(pod).keys()
    return bool(begun) or pod.get("status", {}).get("phase", "Pending") != "Pending"


def _goes_on(pod: Mapping[str, Any]) -> bool:
    """Whether containers beside the trainer have not ended, and nobody has told them to."""
    others = (c for c in pod.get("status", {}).get("containerStatuses", []) if c["name"] != TRAINER_CONTAINER)
    left = any("terminated" not in c.get("state", {}) for c in others)
    return left and not is_over(pod) and "deletionTimestamp" not in pod["metadata"]


def _last_word(terminated: Mapping[str, Any] | None) -> tuple[TerminationMessage | None, str]:
    """The termination message, and what is wrong with it if it cannot be read."""
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
