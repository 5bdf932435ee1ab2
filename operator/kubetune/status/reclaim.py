"""Status of a job that is being deleted together with its files. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubetune.api.labels import FINALIZER, RECLAIM_CONTAINER
from kubetune.api.status import JobStatus, find
from kubetune.status.conditions import Judgement, conditions
from kubetune.status.starting import Trouble, trouble_of

_TAIL = 400


@dataclass(frozen=True)
class Left:
    """Why a job that is being deleted still exists."""

    reason: str
    message: str
    warning: bool = False
    """Whether a person has to act."""


def reclaimed(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], held_up: Trouble | None, folder: str
) -> Left | None:
    """What the Job that removes the files reports; None when they are removed.

    Args:
        job: the Job.
        pods: its pods.
        held_up: why it has none, or why they are not made, by their events.
        folder: URI of what it removes.
    """
    ended = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
    name = job["metadata"]["name"]
    if "Complete" in ended:
        return None
    if "Failed" in ended:
        why = next((w for w in map(_last_word, pods) if w), ended["Failed"].get("message", ""))
        return Left(
            "ReclaimFailed",
            f"{folder} was not removed: {why.strip()}. Delete Job {name} to try again, or remove the "
            f"finalizer {FINALIZER} to keep the files",
            warning=True,
        )
    found = (trouble_of(pod, RECLAIM_CONTAINER) for pod in pods)
    trouble = next((t for t in found if t), held_up)
    if trouble:
        return Left(
            trouble.reason,
            f"The pod that removes {folder} does not start: {trouble.message}. To keep the files, remove the "
            f"finalizer {FINALIZER}",
            warning=True,
        )
    return Left("Removing", f"Job {name} removes {folder}")


def _last_word(pod: Mapping[str, Any]) -> str:
    for container in pod.get("status", {}).get("containerStatuses", []):
        message: str = (container.get("state", {}).get("terminated") or {}).get("message", "")
        if message:
            return message[-_TAIL:]
    return ""


def says(status: JobStatus, left: Left) -> bool:
    """Whether a status already says why the job still exists."""
    told = find(status.conditions, "Reclaimed")
    return told is not None and (told.reason, told.message) == (left.reason, left.message)


def terminating(previous: JobStatus, left: Left, generation: int, now: datetime) -> JobStatus:
    """The status of a job that is on its way out."""
    judged = [
        *(
            Judgement(c.type, c.status, c.reason, c.message)
            for c in previous.conditions
            if c.type != "Reclaimed"
        ),
        Judgement("Reclaimed", "False", left.reason, left.message),
    ]
    return previous.model_copy(
        update={
            "phase": "Terminating",
            "observed_generation": generation,
            "conditions": conditions(judged, previous.conditions, generation, now),
        }
    )
