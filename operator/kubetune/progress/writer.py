"""Writes progress into statuses: at most once per job and interval, the newest wins, none after the end."""

import asyncio
import logging
from dataclasses import dataclass, field

from kubetune.api.progress import ProgressUpdate
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client
from kubetune.controller.errors import ApiError, Conflict
from kubetune.controller.keys import Key
from kubetune.controller.write_status import PROGRESS_MANAGER
from kubetune.status.job import is_finished

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
CONFLICTS = 5
"""How often somebody else may write in between before an update is given up; the next one follows soon."""


@dataclass
class Writer:
    """One pending update per job; a task per job that is being written."""

    client: Client
    interval: float = INTERVAL_SECONDS
    _pending: dict[tuple[Key, str], ProgressUpdate] = field(default_factory=dict)
    _tasks: dict[tuple[Key, str], asyncio.Task[None]] = field(default_factory=dict)

    def put(self, key: Key, uid: str, update: ProgressUpdate) -> None:
        """Write an update now, or when the interval since the last write is over."""
        target = (key, uid)
        self._pending[target] = update
        if target not in self._tasks:
            self._tasks[target] = asyncio.create_task(self._drain(target))

    async def _drain(self, target: tuple[Key, str]) -> None:
        while target in self._pending:
            update = self._pending.pop(target)
            try:
                await self._write(*target, update)
            except ApiError as error:
                log.warning("progress of %s not written: %s", target[0], error.message)
            except Exception:
                log.exception("progress of %s not written", target[0])
            await asyncio.sleep(self.interval)
        del self._tasks[target]

    async def _write(self, key: Key, uid: str, update: ProgressUpdate) -> None:
        for _ in range(CONFLICTS):
            resource = await self.client.find(key.kind, key.namespace, key.name)
            if resource is None or resource["metadata"]["uid"] != uid:
                return
            if is_finished(JobStatus.model_validate(resource.get("status", {}), extra="ignore")):
                return
            status = update.wire()
            if "lastCheckpoint" not in status and (known := resource.get("status", {}).get("lastCheckpoint")):
                # An update without a checkpoint does not take back the one before.
                status["lastCheckpoint"] = known
            try:
                # Only as it was read: a job that has ended meanwhile keeps its last word.
                await self.client.apply_status(resource, status, PROGRESS_MANAGER, unchanged=True)
            except Conflict:
                continue
            return
