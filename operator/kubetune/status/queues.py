"""Who has suspended a child Job, since kubetune never does. Pure.

Kueue holds a Job back by `spec.suspend`, from its creation on or to take its place away, and names its queue
by a label (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUED = "Queued"
"""Held back by a queue, which lets it go by itself."""
_OURS = "kubetune"


@dataclass(frozen=True)
class Held:
    """A child Job that somebody else has suspended."""

    reason: str
    """Queued, or JobSuspended where it is no queue that is known."""
    message: str


def held(job: Mapping[str, Any]) -> Held | None:
    """Who holds a child Job back; None if nobody does."""
    if not job.get("spec", {}).get("suspend"):
        return None
    meta = job["metadata"]
    queue, who = (meta.get("labels") or {}).get(QUEUE_LABEL), _suspender(meta)
    if queue or "kueue" in who.lower():
        where = f"queue {queue} of Kueue" if queue else "Kueue"
        return Held(
            QUEUED,
            f"{where} holds Job {meta['name']} back: see `kubectl describe workloads.kueue.x-k8s.io -l "
            f"kueue.x-k8s.io/job-uid={meta['uid']}`",
        )
    by = f"by {who}" if who and who != _OURS else "by an admission webhook, when it was created"
    return Held(
        "JobSuspended",
        f"Job {meta['name']} has been suspended {by}: it runs once its spec.suspend is false. To suspend the "
        "run yourself, set spec.suspend of this resource",
    )


def _suspender(meta: Mapping[str, Any]) -> str:
    """The field manager that wrote spec.suspend; empty if that is not told."""
    writers = [
        entry.get("manager", "")
        for entry in meta.get("managedFields") or ()
        if "f:suspend" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    ]
    return str(writers[-1]) if writers else ""
