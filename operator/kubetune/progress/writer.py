"""Writes progress into statuses: at most once per job and interval, the newest wins, none after the end.

A new checkpoint does not wait for the interval: a run that is suspended says its last one just before it
goes, and whoever then sees it suspended should see from where it would resume.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kubetune.api.progress import CheckpointStatus, ProgressUpdate
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client
from kubetune.controller.errors import ApiError, Conflict
from kubetune.controller.keys import Key
from kubetune.controller.write_status import PROGRESS_MANAGER
from kubetune.status.job import is_finished

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
CHECKPOINT_SECONDS = 0.5
"""The interval when there is a new checkpoint to write."""
CONFLICTS = 5
"""How often somebody else may write in between before an update waits for the next interval."""


@dataclass
class _Mailbox:
    """The newest update of a job that is not written yet."""

    update: ProgressUpdate | None = None
    written: CheckpointStatus | None = None
    urgent: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the update has a checkpoint that is not written yet."""
    task: asyncio.Task[None] | None = None

    def put(self, update: ProgressUpdate) -> None:
        self.update = update
        if update.last_checkpoint and update.last_checkpoint != self.written:
            self.urgent.set()

    def take(self) -> ProgressUpdate | None:
        update, self.update = self.update, None
        self.urgent.clear()
        if update:
            self.written = update.last_checkpoint or self.written
        return update

    def put_back(self, update: ProgressUpdate) -> None:
        """Keep what could not be written, unless something newer has come."""
        self.update = self.update or update


@dataclass
class Writer:
    """A mailbox and a task per job that is being written. Each replica has one writer of its own."""

    client: Client
    interval: float = INTERVAL_SECONDS
    checkpoint_interval: float = CHECKPOINT_SECONDS
    _mail: dict[tuple[Key, str], _Mailbox] = field(default_factory=dict)

    def put(self, key: Key, uid: str, update: ProgressUpdate) -> None:
        """Write an update now, or when the interval since the last write is over."""
        target = (key, uid)
        mailbox = self._mail.setdefault(target, _Mailbox())
        mailbox.put(update)
        mailbox.task = mailbox.task or asyncio.create_task(self._drain(target, mailbox))

    async def _drain(self, target: tuple[Key, str], mailbox: _Mailbox) -> None:
        waited = False
        while update := mailbox.take():
            try:
                if not await self._write(*target, update, waited=waited):
                    mailbox.put_back(update)
            except ApiError as error:
                log.warning("progress of %s not written: %s", target[0], error.message)
            except Exception:
                log.exception("progress of %s not written", target[0])
            await self._pause(mailbox)
            waited = True
        del self._mail[target]

    async def _pause(self, mailbox: _Mailbox) -> None:
        await asyncio.sleep(self.checkpoint_interval)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.interval - self.checkpoint_interval):
                await mailbox.urgent.wait()

    async def _write(self, key: Key, uid: str, update: ProgressUpdate, *, waited: bool) -> bool:
        """Whether the update is done with: it is not if somebody else wrote in between each time."""
        for _ in range(CONFLICTS):
            resource = await self.client.find(key.kind, key.namespace, key.name)
            if resource is None or resource["metadata"]["uid"] != uid:
                return True
            if is_finished(JobStatus.model_validate(resource.get("status", {}), extra="ignore")):
                return True
            status = update.wire()
            if waited and _is_newer(resource.get("status", {}), status):
                # Meanwhile the trainer has told another replica more.
                return True
            if "lastCheckpoint" not in status and (known := resource.get("status", {}).get("lastCheckpoint")):
                # An update without a checkpoint does not take back the one before.
                status["lastCheckpoint"] = known
            try:
                # Only as it was read: a job that has ended meanwhile keeps its last word.
                await self.client.apply_status(resource, status, PROGRESS_MANAGER)
            except Conflict:
                continue
            return True
        return False


def _is_newer(shown: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether what is shown was said after this, by the one trainer's clock."""
    said = [each.get("trainerStatus", {}).get("lastUpdatedTime") for each in (shown, status)]
    return bool(said[0] and said[1] and said[0] > said[1])
