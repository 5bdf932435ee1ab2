"""Finds the attempts of a training job: its child Jobs and their pods."""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kubetune.api.labels import TRAINER_ENDED_ANNOTATION
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import Conflict, NotFound
from kubetune.desired.common import is_owned, labels_of
from kubetune.desired.job import job_name
from kubetune.status.activity import activity
from kubetune.status.attempts import Attempt, attempt_of, ended
from kubetune.status.conditions import parse_timestamp, timestamp
from kubetune.status.decision import Seen
from kubetune.status.ending import ending_of, is_over
from kubetune.status.events import held_up, refused, without_pod
from kubetune.status.starting import Trouble

log = logging.getLogger(__name__)

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
KEPT = 3
"""So many ended attempts keep their Jobs, with pods and logs: all together would fill a quota on Jobs."""
POD_EXPECTED = timedelta(seconds=3)
"""Age of a Job by which it should have a pod, and that should start. Else their events tell why not."""


@dataclass(frozen=True)
class Attempts:
    """What was found."""

    seen: Seen
    """The newest attempt that the status knows of and later ones, and the pods of all."""
    newest: Object | None
    """Job of the last of them."""


async def find_attempts(client: Client, resource: Object, previous: JobStatus, now: datetime) -> Attempts:
    """The attempts of a job.

    Args:
        client: of the API server.
        resource: the job.
        previous: its status.
        now: the clock.
    """
    namespace, created = resource["metadata"]["namespace"], previous.attempts
    jobs = await _jobs(client, resource, created)
    pods = await client.list("Pod", namespace, labels_of(resource))
    # One more: of an attempt whose Job was deleted before the status knew of it, only pods tell.
    names = {job_name(resource, number) for number in range(1, max(created, *jobs, 0) + 2)}
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(JOB_NAME_LABEL) in names]
    found = [
        attempt_of(number, job, [pod for pod in pods if is_owned(pod, job)], now)
        for number, job in jobs.items()
    ]
    last = found[-1] if found else None
    newest = jobs[last.number] if last else None
    if newest and last and last.state == "Pending" and not last.held and now - last.created >= POD_EXPECTED:
        if not last.has_pod:
            trouble = await why_no_pod(client, newest) or without_pod(newest, now)
            found[-1] = replace(last, trouble=trouble)
        elif last.being_made and not last.trouble:
            found[-1] = replace(last, trouble=await why_not_made(client, namespace, last.being_made))
    until = parse_timestamp(previous.active_until) if previous.active_until else None
    ran = activity(own, now, seconds=previous.active_seconds, until=until)
    alive = [pod for pod in own if not is_over(pod)]
    seen = Seen(
        found,
        alive=[pod["metadata"]["name"] for pod in alive],
        active_seconds=ran.seconds,
        active_until=ran.until,
        unending_seconds=ran.unending,
        endings=[ending for pod in alive if (ending := ending_of(pod))],
    )
    return Attempts(seen, newest)


async def _jobs(client: Client, resource: Object, created: int) -> dict[int, Object]:
    """The Jobs of the newest attempt that is known, and of any that were created after it, by number.

    By name, which nobody can edit, and which costs the API server less than a list. A Job is created before
    the status tells of it, and never before the one before has ended.
    """
    found: dict[int, Object] = {}
    number = max(created, 1)
    while True:
        job = await client.find("Job", resource["metadata"]["namespace"], job_name(resource, number))
        if job and is_owned(job, resource):
            found[number] = job
            if ended(job) is None:
                return found
        elif number > created:
            return found
        number += 1


async def why_no_pod(client: Client, job: Object) -> Trouble | None:
    """Why the Job controller cannot make the pod (Pod Security, a quota): only its events tell."""
    events = await client.list(
        "Event",
        job["metadata"]["namespace"],
        fields={"involvedObject.uid": job["metadata"]["uid"], "reason": "FailedCreate"},
    )
    return refused(events)


async def why_not_made(client: Client, namespace: str, uid: str) -> Trouble | None:
    """Why a pod's volumes or network are not there (a Secret, a disk, an address): only its events tell."""
    return held_up(await client.list("Event", namespace, fields={"involvedObject.uid": uid}))


async def end_what_goes_on(client: Client, attempt: Attempt, now: datetime) -> None:
    """End the containers that go on beside a trainer that has ended: they hold its GPU.

    The pod's deadline does this, which the kubelet keeps: the pod stays, with its logs and the trainer's last
    word.
    """
    if attempt.outlived_by is None or attempt.state not in ("Succeeded", "Failed"):
        return
    meta = attempt.outlived_by
    if TRAINER_ENDED_ANNOTATION in (meta.get("annotations") or {}):
        return
    log.info("the trainer of pod %s has ended: ending its other containers", meta["name"])
    change: Object = {
        "metadata": {"annotations": {TRAINER_ENDED_ANNOTATION: timestamp(now)}},
        "spec": {"activeDeadlineSeconds": 1},
    }
    try:
        await client.change({"kind": "Pod", "metadata": meta}, change)
    except (NotFound, Conflict):
        return  # It is gone already.


async def forget_old_attempts(client: Client, resource: Object, next_attempt: int) -> None:
    """Delete the Jobs of all but the newest attempts that have ended: the status has their story.

    All of them, not only the one that has become too much: an operator may have died before it deleted one.
    """
    if next_attempt <= KEPT + 1:
        return
    oldest_kept = next_attempt - KEPT
    jobs = await client.list("Job", resource["metadata"]["namespace"], labels_of(resource))
    names = {job_name(resource, number) for number in range(1, oldest_kept)}
    for job in jobs:
        if job["metadata"]["name"] in names and is_owned(job, resource) and ended(job):
            log.info("Job %s of an old attempt is deleted", job["metadata"]["name"])
            await client.delete({"kind": "Job", **job})
