"""Writing a status: only what says something new, each part under the field manager that it belongs to."""

from kubetune.api.meta import Block
from kubetune.controller.client import FIELD_MANAGER, Client, Object

PROGRESS_MANAGER = "kubetune-progress"
"""Field manager of what trainers report."""
REPORTED = ("trainerStatus", "lastCheckpoint")
"""Fields of that manager: written by the progress receiver while a job runs, here when it has ended."""


async def write_status(client: Client, resource: Object, previous: Block, status: Block) -> bool:
    """Apply a status unless all that it says is there already, and nothing that it leaves out.

    Returns:
        Whether anything was written.
    """
    # The reported part first: once the rest says that the job is over, nobody writes it any more.
    before, after = _split(previous), _split(status)
    changed = [manager for manager in (PROGRESS_MANAGER, FIELD_MANAGER) if before[manager] != after[manager]]
    for manager in changed:
        # A late report in between is noticed, and put right by the next reconcile.
        resource = await client.apply_status(resource, after[manager], manager)
    return bool(changed)


def _split(status: Block) -> dict[str, Object]:
    fields = status.wire()
    reported = {name: fields.pop(name) for name in REPORTED if name in fields}
    return {FIELD_MANAGER: fields, PROGRESS_MANAGER: reported}
