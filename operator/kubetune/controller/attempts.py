"""Finds the attempts of a training job: its child Jobs and their pods."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kubetune.controller.client import Client, Object
from kubetune.desired.common import is_owned, labels_of
from kubetune.desired.job import job_name
from kubetune.status.attempts import Attempt, Trouble, attempt_of, ended, is_over, refused

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
POD_EXPECTED = timedelta(seconds=3)
"""A Job that has no pod after so long may have been refused one."""


@dataclass(frozen=True)
class Attempts:
    """What was found."""

    all: list[Attempt]
    """The newest that the status knows of and later ones, as far as their Jobs exist; oldest first."""
    newest: Object | None
    """Job of the last of them."""
    alive: list[str]
    """Pods, of any attempt, that have not ended, be their Jobs deleted or not."""


async def find_attempts(client: Client, resource: Object, created: int, now: datetime) -> Attempts:
    """The attempts of a job.

    Args:
        client: of the API server.
        resource: the job.
        created: attempts that its status knows of.
        now: the clock.
    """
    namespace = resource["metadata"]["namespace"]
    jobs = await _jobs(client, resource, created)
    pods = await client.list("Pod", namespace, labels_of(resource)) if jobs or created else []
    names = {job_name(resource, number) for number in range(1, max(created, *jobs, 0) + 1)}
    alive = [
        pod["metadata"]["name"]
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(JOB_NAME_LABEL) in names and not is_over(pod)
    ]
    found = [
        attempt_of(number, job, [pod for pod in pods if is_owned(pod, job)]) for number, job in jobs.items()
    ]
    if not found:
        return Attempts([], None, alive)
    newest = jobs[found[-1].number]
    if found[-1].state == "Pending" and not found[-1].has_pod and now - found[-1].created >= POD_EXPECTED:
        found[-1] = replace(found[-1], trouble=await _refused(client, newest))
    return Attempts(found, newest, alive)


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


async def _refused(client: Client, job: Object) -> Trouble | None:
    """Why the Job controller cannot make the pod (Pod Security, a quota): only its events tell."""
    events = await client.list(
        "Event",
        job["metadata"]["namespace"],
        fields={"involvedObject.uid": job["metadata"]["uid"], "reason": "FailedCreate"},
    )
    return refused(events)
