"""Who keeps a child Job from having a pod. kubetune itself never does. Pure.

Kueue holds a Job back by `spec.suspend`, from its creation on, or later to take its place away. A label names
its queue (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUED = "Queued"
"""Held back by a queue, which lets it go by itself."""
_OURS = "kubetune"
_JOB_CONTROLLER = "kubernetes.io/job-controller"
_PASSING_FINALIZERS = frozenset({"foregroundDeletion", "orphan"})
"""Finalizers of the garbage collector, which removes them by itself."""


@dataclass(frozen=True)
class Held:
    """A child Job that somebody else keeps from going on."""

    reason: str
    """Queued, JobSuspended (by anything but a known queue), JobManaged, or JobTerminating."""
    message: str


def held(job: Mapping[str, Any]) -> Held | None:
    """Who holds a child Job back; None if nobody does."""
    meta, spec = job["metadata"], job.get("spec", {})
    name = meta["name"]
    foreign = [f for f in meta.get("finalizers") or () if f not in _PASSING_FINALIZERS]
    if meta.get("deletionTimestamp") and foreign:
        return Held(
            "JobTerminating",
            f"Job {name} is being deleted, and {' and '.join(foreign)} keeps it: let whoever has set that "
            "finalizer take it away",
        )
    if spec.get("managedBy", _JOB_CONTROLLER) != _JOB_CONTROLLER:
        return Held(
            "JobManaged",
            f"Job {name} is left to {spec['managedBy']} (its spec.managedBy), so that no pod is made in this "
            "cluster: have that field left out for the Jobs of kubetune",
        )
    if spec.get("suspend"):
        return _suspended(meta)
    if spec.get("parallelism") == 0:
        return Held(
            "JobSuspended",
            f"Job {name} has been given a spec.parallelism of 0{_by(meta, 'parallelism')}: it runs once that "
            "is 1. To suspend the run yourself, set spec.suspend of this resource",
        )
    return None


def _suspended(meta: Mapping[str, Any]) -> Held:
    queue, who = (meta.get("labels") or {}).get(QUEUE_LABEL), _writer(meta, "suspend")
    if queue or "kueue" in who.lower():
        where = f"queue {queue} of Kueue" if queue else "Kueue"
        return Held(
            QUEUED,
            f"{where} holds Job {meta['name']} back: see `kubectl describe workloads.kueue.x-k8s.io -l "
            f"kueue.x-k8s.io/job-uid={meta['uid']}`",
        )
    by = _by(meta, "suspend") or " by an admission webhook, when it was created"
    return Held(
        "JobSuspended",
        f"Job {meta['name']} has been suspended{by}: it runs once its spec.suspend is false. To suspend the "
        "run yourself, set spec.suspend of this resource",
    )


def _by(meta: Mapping[str, Any], field: str) -> str:
    who = _writer(meta, field)
    return f" by {who}" if who and who != _OURS else ""


def _writer(meta: Mapping[str, Any], field: str) -> str:
    """The field manager that wrote a field of the spec; empty if that is not told."""
    writers = [
        entry.get("manager", "")
        for entry in meta.get("managedFields") or ()
        if f"f:{field}" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    ]
    return str(writers[-1]) if writers else ""
