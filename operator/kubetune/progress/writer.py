"""Writes progress into statuses: at most once per job and interval, the newest wins, none after the end."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """One pending update per job; a task per job that is being written. Each replica has one of its own."""

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
        waited = False
        while target in self._pending:
            update = self._pending.pop(target)
            try:
                await self._write(*target, update, waited=waited)
            except ApiError as error:
                log.warning("progress of %s not written: %s", target[0], error.message)
            except Exception:
                log.exception("progress of %s not written", target[0])
            await asyncio.sleep(self.interval)
            waited = True
        del self._tasks[target]

    async def _write(self, key: Key, uid: str, update: ProgressUpdate, *, waited: bool) -> None:
        for _ in range(CONFLICTS):
            resource = await self.client.find(key.kind, key.namespace, key.name)
            if resource is None or resource["metadata"]["uid"] != uid:
                return
            if is_finished(JobStatus.model_validate(resource.get("status", {}), extra="ignore")):
                return
            status = update.wire()
            if waited and _is_newer(resource.get("status", {}), status):
                # Meanwhile the trainer has told another replica more.
                return
            if "lastCheckpoint" not in status and (known := resource.get("status", {}).get("lastCheckpoint")):
                # An update without a checkpoint does not take back the one before.
                status["lastCheckpoint"] = known
            try:
                # Only as it was read: a job that has ended meanwhile keeps its last word.
                await self.client.apply_status(resource, status, PROGRESS_MANAGER)
            except Conflict:
                continue
            return


def _is_newer(shown: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether what is shown was said after this, by the one trainer's clock."""
    said = [each.get("trainerStatus", {}).get("lastUpdatedTime") for each in (shown, status)]
    return bool(said[0] and said[1] and said[0] > said[1])
