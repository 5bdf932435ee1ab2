"""Writing a status: only what says something new, each part under the field manager that it belongs to."""

from collections.abc import Sequence

from kubetune.api.meta import Block
from kubetune.api.status import Condition
from kubetune.controller.client import FIELD_MANAGER, Client, Object
from kubetune.controller.errors import Conflict

PROGRESS_MANAGER = "kubetune-progress"
"""Field manager of what trainers report."""
REPORTED = ("trainerStatus", "lastCheckpoint")
"""Fields of that manager: written by the progress receiver while a job runs, here when it has ended."""

EDITS = 3
"""How often a status is written again because a user edited the object in between."""


async def write_status(client: Client, resource: Object, previous: Block, status: Block) -> bool:
    """Apply a status, unless it says the same as the previous one.

    Returns:
        Whether anything was written.
    """
    # The reported part first: once the rest says that the job is over, nobody writes it any more.
    before, after = _split(previous), _split(status)
    changed = [manager for manager in (PROGRESS_MANAGER, FIELD_MANAGER) if before[manager] != after[manager]]
    for manager in changed:
        # A late report in between is noticed, and put right by the next reconcile.
        resource = await _apply(client, resource, after[manager], manager)
    return bool(changed)


async def write_conditions(
    client: Client, resource: Object, found: Sequence[Condition], generation: int
) -> None:
    """Replace the conditions by those about a generation of the spec; all else stays as it was read."""
    told = {"conditions": [condition.wire() for condition in found], "observedGeneration": generation}
    status = {**resource.get("status", {}), **told}
    fields = {name: value for name, value in status.items() if name not in REPORTED}
    await client.apply_status(resource, fields)


async def _apply(client: Client, resource: Object, fields: Object, manager: str) -> Object:
    """Apply, whatever users have changed since, as long as the status is the one that was read.

    What has just been done must not be forgotten because somebody edits a label: a Job that the status does
    not know could be deleted, and would then be made again.
    """
    for _ in range(EDITS):
        try:
            return await client.apply_status(resource, fields, manager)
        except Conflict:
            meta = resource["metadata"]
            found = await client.find(resource["kind"], meta["namespace"], meta["name"])
            if found is None or _read(found) != _read(resource):
                raise
            resource = found
    return await client.apply_status(resource, fields, manager)


def _read(resource: Object) -> tuple[str, Object]:
    return resource["metadata"]["uid"], resource.get("status", {})


def _split(status: Block) -> dict[str, Object]:
    fields = status.wire()
    reported = {name: fields.pop(name) for name in REPORTED if name in fields}
    return {FIELD_MANAGER: fields, PROGRESS_MANAGER: reported}
