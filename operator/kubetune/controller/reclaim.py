"""Removes what a training job wrote before the job goes, where output.reclaimPolicy says so.

The finalizer is added before the first file is written. It is removed once there is nothing to delete, or no
way to delete it: the claim is gone, or the whole namespace is being deleted.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubetune.api.labels import FINALIZER, RECLAIM_LABEL
from kubetune.api.status import JobStatus
from kubetune.controller.attempts import JOB_NAME_LABEL, why_no_pod, why_not_made
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import AlreadyExists, ApiError, NamespaceTerminating
from kubetune.controller.events import record
from kubetune.controller.reconciler import Result
from kubetune.controller.write_status import write_status
from kubetune.desired.common import is_owned, labels_of
from kubetune.desired.job import TrainingSettings
from kubetune.desired.reclaim import folder_of, reclaim_job, users
from kubetune.desired.volumes import locate
from kubetune.status.ending import is_over
from kubetune.status.reclaim import Left, reclaimed, says, terminating
from kubetune.status.starting import Trouble, being_made

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0


async def keep(client: Client, resource: Object) -> Object:
    """Add the finalizer to a job whose files are deleted with it."""
    wanted = resource["spec"]["output"].get("reclaimPolicy") == "Delete"
    if not wanted or FINALIZER in (resource["metadata"].get("finalizers") or []):
        return resource
    return await client.set_finalizers(resource, [*(resource["metadata"].get("finalizers") or []), FINALIZER])


@dataclass(frozen=True)
class Reclaim:
    """The end of a job that is being deleted and has our finalizer."""

    client: Client
    resource: Object
    settings: TrainingSettings

    async def run(self, now: datetime) -> Result:
        """Do the next thing, and say what is left to do."""
        left = await self._next()
        previous = JobStatus.model_validate(self.resource.get("status", {}), extra="ignore")
        if left is None:
            finalizers = [f for f in self.resource["metadata"]["finalizers"] if f != FINALIZER]
            await self.client.set_finalizers(self.resource, finalizers)
            return Result()
        # The event first: if the status were written first, a crash in between would lose it.
        if left.warning and not says(previous, left):
            await record(self.client, self.resource, "Warning", left.reason, left.message)
        status = terminating(previous, left, self.resource["metadata"]["generation"], now)
        await write_status(self.client, self.resource, previous, status)
        return Result(AGAIN_SECONDS, wants_jobs=True)

    async def _next(self) -> Left | None:
        """What the deletion of the job still waits for; None when nothing is left."""
        jobs = await self._attempts()
        ends = await self._end(jobs)
        if ends:
            return Left("PodsEnding", f"{', '.join(ends)} must end first")
        if not jobs and not self.resource.get("status", {}).get("attempts"):
            return None  # It never ran.
        claim = await self._find("PersistentVolumeClaim", locate(folder_of(self.resource)).volume)
        if claim is None or "deletionTimestamp" in claim["metadata"]:
            return None
        trainings = {kind: await self._list(kind) for kind in ("PretrainJob", "FineTuneJob")}
        in_use = users(self.resource, await self._list("AdapterSet"), trainings)
        if in_use:
            return Left("ArtifactInUse", f"{'; '.join(in_use)}: delete or change that first", warning=True)
        return await self._remove()

    async def _attempts(self) -> list[Object]:
        """The Jobs of attempts."""
        jobs = await self._list("Job", labels_of(self.resource))
        return [job for job in jobs if is_owned(job, self.resource) and not _removes(job)]

    async def _end(self, jobs: list[Object]) -> list[str]:
        """Delete the Jobs of attempts; returns the pods that have not ended yet."""
        for job in jobs:
            if "deletionTimestamp" not in job["metadata"]:
                await self.client.delete({"kind": "Job", **job})
        pods = await self._list("Pod", labels_of(self.resource))
        return [pod["metadata"]["name"] for pod in pods if not is_over(pod) and not _removes(pod)]

    async def _remove(self) -> Left | None:
        """Have the files removed."""
        described = reclaim_job(self.resource, self.settings)
        name = described["metadata"]["name"]
        job = await self._find("Job", name)
        if job is None:
            try:
                job = await self.client.create(described)
            except NamespaceTerminating:
                log.info("the namespace is going: its claims go with it")
                return None
            except AlreadyExists:
                job = await self._find("Job", name)
            except ApiError as error:
                if not error.is_answer:
                    raise
                return Left("CreationRefused", error.message, warning=True)
        if job is None:
            return Left("Removing", f"Job {name} is about to begin")
        if not is_owned(job, self.resource):
            return Left("CreationRefused", f"Job {name} belongs to something else: delete it", warning=True)
        pods = await self._list("Pod", {JOB_NAME_LABEL: name})
        return reclaimed(job, pods, await self._held_up(job, pods), folder_of(self.resource))

    async def _held_up(self, job: Object, pods: list[Object]) -> Trouble | None:
        """What keeps the Job's pod from being made, where only events tell."""
        if not pods:
            return await why_no_pod(self.client, job)
        uid = next((uid for pod in pods if (uid := being_made(pod))), None)
        return await why_not_made(self.client, job["metadata"]["namespace"], uid) if uid else None

    async def _find(self, kind: str, name: str) -> Object | None:
        return await self.client.find(kind, self.resource["metadata"]["namespace"], name)

    async def _list(self, kind: str, labels: dict[str, Any] | None = None) -> list[Object]:
        return await self.client.list(kind, self.resource["metadata"]["namespace"], labels)


def _removes(child: Object) -> bool:
    """Whether a Job removes files, rather than being an attempt."""
    return RECLAIM_LABEL in (child["metadata"].get("labels") or {})
