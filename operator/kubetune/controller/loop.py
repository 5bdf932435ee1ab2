"""Workers that take keys from the queue and reconcile what they name."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.labels import FINALIZER
from kubetune.controller import logs, metrics
from kubetune.controller.client import Client
from kubetune.controller.errors import ApiError, Conflict, NotFound, NotLeader
from kubetune.controller.keys import Key, key_of
from kubetune.controller.queue import WorkQueue
from kubetune.controller.reconciler import Clock, Reconciler, Result, utc_now
from kubetune.controller.sightings import Sightings
from kubetune.controller.synced import Synced
from kubetune.controller.waiters import Waiters

log = logging.getLogger(__name__)

JOB_KINDS = ("PretrainJob", "FineTuneJob")


class ReconcileLoop:
    """The queue and its workers."""

    def __init__(
        self,
        client: Client,
        reconcilers: Mapping[str, Reconciler],
        *,
        clock: Clock = utc_now,
        resync_seconds: float = 300.0,
        namespaces: Sequence[str] = (),
    ) -> None:
        """Prepare the queue.

        Args:
            client: of the API server.
            reconcilers: by kind.
            clock: the time now.
            resync_seconds: how often all resources are listed.
            namespaces: where they are listed; empty: everywhere.
        """
        self.queue: WorkQueue[Key] = WorkQueue()
        self.sightings = Sightings()
        self.resync_seconds = resync_seconds
        self._client = client
        self._reconcilers = reconcilers
        self._clock = clock
        self._namespaces = namespaces or (None,)
        self._waiters = Waiters()
        self.synced = Synced(client, clock)
        self._seen: dict[Key, _SeenJob] = {}
        self._resynced = time.monotonic()

    def seen(self, key: Key, resource: Mapping[str, Any], *, deleted: bool) -> None:
        """A resource of ours appeared, changed or went: look at it, and wake those that wait for that."""
        self.sightings.seen(key, resource, deleted=deleted)
        if key.kind not in JOB_KINDS:
            self.queue.add(key)
            return
        before, now = self._seen.pop(key, None), None if deleted else _SeenJob.of(resource)
        if now:
            self._seen[key] = now
        # A changed status is seldom news, because the operator writes it, also with a trainer's reports.
        if now is None or before is None or now.itself != before.itself:
            self.queue.add(key)
        if now is None or before is None or now.result != before.result:
            for waiter in self._waiters.changed(key.namespace) - {key}:
                self.queue.add(waiter)

    def phases(self) -> Counter[tuple[str, str]]:
        """How many jobs there are, by kind and phase."""
        return Counter((key.kind, seen.phase) for key, seen in self._seen.items())

    def resync_age_seconds(self) -> float:
        """Time since all resources were listed successfully; it tells whether the API server can be read."""
        return time.monotonic() - self._resynced

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        # Until now there was nothing to list.
        self._resynced = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync())
            for _ in range(workers):
                tasks.create_task(self._work())

    async def _resync(self) -> None:
        while True:
            pause = self.resync_seconds
            try:
                for kind in self._reconcilers:
                    found = [await self._client.list(kind, scope) for scope in self._namespaces]
                    listed = {key_of(item, kind): item for items in found for item in items}
                    self.sightings.compare(kind, listed)
                    for key in listed:
                        self.queue.add(key)
                self._resynced = time.monotonic()
            except ApiError as error:
                log.warning("resync failed: %s", error.message)
                pause = min(pause, 5.0)
            await asyncio.sleep(pause)

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            logs.resource.set(str(key))
            try:
                await self._handle(key)
            finally:
                self.queue.done(key)

    async def _handle(self, key: Key) -> None:
        begun = time.monotonic()
        try:
            result = await self._reconcile(key)
        except (Conflict, NotFound) as error:
            # Somebody wrote or deleted something in between: look at it as it is now.
            outcome = "conflict"
            log.info("changed meanwhile, looking again: %s", error.message)
            self.queue.retry(key)
            await self.synced.failed(key, error)
        except NotLeader as error:
            # The process is about to end; whoever leads next looks at everything.
            outcome = "not_leader"
            log.info(error.message)
        except ApiError as error:
            outcome = "api_error"
            delay = self.queue.retry(key)
            log.warning("%s; again in %.1f s", error.message, delay)
            await self.synced.failed(key, error)
        except Exception as error:
            # A bug must cost one resource, not the operator.
            outcome = "error"
            delay = self.queue.retry(key)
            log.exception("reconcile failed; again in %.1f s", delay)
            await self.synced.failed(key, error)
        else:
            outcome = "ok"
            self.queue.forget_failures(key)
            if result.requeue_after is not None:
                self.queue.add_after(key, result.requeue_after)
        metrics.RECONCILES.labels(key.kind, outcome).inc()
        metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - begun)

    async def _reconcile(self, key: Key) -> Result:
        before = self._waiters.before(key)
        resource = await self._client.find(key.kind, key.namespace, key.name)
        result = Result()
        if resource is not None and _is_ours_to_handle(resource["metadata"]):
            result = await self._reconcilers[key.kind].reconcile(self._client, resource, self._clock())
        if result.refused:
            await self.synced.failed(key, result.refused)
        else:
            await self.synced.succeeded(key, resource)
        if self._waiters.after(key, before, wants_jobs=result.wants_jobs):
            self.queue.add(key)
        return result


def _is_ours_to_handle(metadata: Mapping[str, Any]) -> bool:
    """Whether a resource is handled: not if it is being deleted, unless it waits for us."""
    return "deletionTimestamp" not in metadata or FINALIZER in (metadata.get("finalizers") or [])


@dataclass(frozen=True)
class _SeenJob:
    """What the watch said last about a job."""

    itself: tuple[Any, ...]
    """When this changes, the job must be looked at."""
    result: tuple[Any, ...]
    """When this changes, those must be looked at that wait for it."""
    phase: str

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> "_SeenJob":
        meta = job["metadata"]
        status = job.get("status", {})
        phase = str(status.get("phase", "Pending"))
        waits = [c.get("message") for c in status.get("conditions", []) if c["type"] == "DependenciesReady"]
        return cls(
            # Of what a trainer reports, only its warnings, which become a condition.
            itself=(
                meta["uid"],
                meta["generation"],
                meta.get("deletionTimestamp"),
                status.get("trainerStatus", {}).get("warnings"),
            ),
            # Labels, by which an AdapterSet may choose it; and what it waits for, which its waiters tell.
            result=(meta["uid"], phase, meta.get("labels"), waits),
            phase=phase,
        )
