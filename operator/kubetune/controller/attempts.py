"""Finds the attempts of a training job: its child Jobs and their pods."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kubetune.controller.client import Client, Object
from kubetune.desired.common import is_owned, labels_of
from kubetune.desired.job import job_name
from kubetune.status.activity import active_seconds
from kubetune.status.attempts import Trouble, attempt_of, ended, is_over, refused, unmounted
from kubetune.status.decision import Seen

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
POD_EXPECTED = timedelta(seconds=3)
"""A Job that has no pod, or whose pod does not start, after so long: its events tell why."""


@dataclass(frozen=True)
class Attempts:
    """What was found."""

    seen: Seen
    """The newest attempt that the status knows of and later ones, and the pods of all."""
    newest: Object | None
    """Job of the last of them."""


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
    pods = await client.list("Pod", namespace, labels_of(resource))
    # One more: of an attempt whose Job was deleted before the status knew of it, only pods tell.
    names = {job_name(resource, number) for number in range(1, max(created, *jobs, 0) + 2)}
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(JOB_NAME_LABEL) in names]
    found = [
        attempt_of(number, job, [pod for pod in pods if is_owned(pod, job)]) for number, job in jobs.items()
    ]
    last = found[-1] if found else None
    newest = jobs[last.number] if last else None
    if newest and last and last.state == "Pending" and now - last.created >= POD_EXPECTED:
        if not last.has_pod:
            found[-1] = replace(last, trouble=await why_no_pod(client, newest))
        elif last.mounting:
            found[-1] = replace(last, trouble=await _unmounted(client, namespace, last.mounting))
    alive = [pod["metadata"]["name"] for pod in own if not is_over(pod)]
    return Attempts(Seen(found, alive, active_seconds(own, now)), newest)


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


async def _unmounted(client: Client, namespace: str, uid: str) -> Trouble | None:
    """Why the volumes of a pod are not there (a Secret, a claim): only its events tell."""
    return unmounted(await client.list("Event", namespace, fields={"involvedObject.uid": uid}))
