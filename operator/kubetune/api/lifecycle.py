"""What may be changed while a training job exists: whether, how long and how often it runs."""

from typing import Annotated

from pydantic import Field

from kubetune.api.meta import Block, cel

MOST_SECONDS = 2**31 - 1


class Lifecycle(Block):
    """Settings of batch/v1 Job that both training jobs have, with the meaning that they have there."""

    suspend: bool = False
    """true: save a checkpoint, end the pods and wait. When it is set back to false, the run continues from
    the checkpoint. compute may be changed meanwhile."""
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often a run that failed for a reason that may be temporary is restarted from its newest
    checkpoint."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS)] | None = None
    """Longest time that the pods of all attempts may run, taken together. A pod's time begins when a node
    takes it: waiting for a node, or being suspended, does not count. A job that needs longer fails."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MOST_SECONDS)] | None = None
    """Delete the job this many seconds after it succeeded or failed. output.reclaimPolicy decides whether its
    files are deleted, too. Default: the job is kept."""


def compute_is_fixed(kind: str) -> dict[str, str]:
    """The next attempt may run on something else; an attempt that runs cannot."""
    return cel(
        "(has(self.compute) == has(oldSelf.compute)"
        " && (!has(self.compute) || self.compute == oldSelf.compute))"
        " || self.suspend || oldSelf.suspend",
        f"can be changed only while suspended: set suspend: true, too, or create a new {kind} under another "
        "name",
        field_path=".compute",
    )
