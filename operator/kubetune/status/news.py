"""What is worth an event. There are few, so that `kubectl describe` tells the story of a job. Pure."""

from dataclasses import dataclass
from typing import Literal

from kubetune.api.status import JobStatus, find
from kubetune.references.uses import WAITING
from kubetune.status.held import QUEUED
from kubetune.status.job import NEEDS, STARTING

NO_NEWS = {"NotChecked"}


@dataclass(frozen=True)
class News:
    """An event to be recorded."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def job_news(before: JobStatus, after: JobStatus) -> list[News]:
    """What has happened to a job between two statuses."""
    parts = (_needs, _warnings, _retry, _resumed, _attempt, _phase)
    return [news for part in parts for news in part(before, after)]


def _needs(before: JobStatus, after: JobStatus) -> list[News]:
    known = {(c.type, c.status, c.reason) for c in before.conditions}
    return [
        News("Normal" if c.reason in {*WAITING, QUEUED} else "Warning", c.reason, c.message)
        for c in after.conditions
        if c.type in NEEDS
        and c.status != "True"
        and c.reason not in NO_NEWS
        and (c.type, c.status, c.reason) not in known
    ]


def _warnings(before: JobStatus, after: JobStatus) -> list[News]:
    known, now = find(before.conditions, "Warnings"), find(after.conditions, "Warnings")
    if now is None or now.status != "True":
        return []
    told = set(known.message.split("\n")) if known else set()
    new = [line for line in now.message.split("\n") if line not in told]
    return [News("Warning", now.reason, "\n".join(new))] if new else []


def _retry(before: JobStatus, after: JobStatus) -> list[News]:
    """An attempt failed and there will be another, or there is one already."""
    if after.failure is None or after.failure == before.failure or after.phase == "Failed":
        return []
    if after.failure.reason in STARTING:
        return []  # It has not failed; ResourcesReady tells.
    failed = f"{after.failure.reason.value}: {after.failure.message}"
    return [News("Warning", "Retrying", f"Attempt {before.attempts} failed: {failed}")]


def _resumed(before: JobStatus, after: JobStatus) -> list[News]:
    if before.phase != "Suspended" or after.phase in ("Suspended", "Succeeded", "Failed"):
        return []
    return [News("Normal", "Resumed", "The next attempt starts as soon as it can")]


def _attempt(before: JobStatus, after: JobStatus) -> list[News]:
    if after.attempts <= before.attempts:
        return []
    again = f", restart {after.restarts}" if after.restarts else ""
    return [News("Normal", "AttemptCreated", f"Attempt {after.attempts} created{again}")]


def _phase(before: JobStatus, after: JobStatus) -> list[News]:
    if after.phase == before.phase and (after.phase != "Running" or after.attempts == before.attempts):
        return []
    if after.phase == "Running":
        return [News("Normal", "Started", f"Attempt {after.attempts} is training")]
    if after.phase == "Suspended":
        at = (
            f"; the newest checkpoint is of step {after.last_checkpoint.step}"
            if after.last_checkpoint
            else ""
        )
        return [News("Normal", "Suspended", f"Nothing runs any more{at}")]
    if after.phase == "Succeeded" and after.artifact:
        return [News("Normal", "Completed", f"The artifact is {after.artifact.uri}")]
    if after.phase == "Failed" and after.failure:
        return [News("Warning", after.failure.reason.value, after.failure.message)]
    return []
