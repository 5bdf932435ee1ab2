"""Pods that were told to end and have not, or whose node does not answer. Pure.

On a node that does not answer such a pod stays for ever: nobody can tell whether its trainer still writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubetune.status.conditions import parse_timestamp

LATE = timedelta(seconds=15)
"""A kubelet that answers has reported the end of a pod this long after its grace period."""

IF_LOST = (
    "If its node is lost for good, delete the Node, or delete the pod by force (kubectl delete pod --force). "
    "Either one declares that nothing of the pod runs any more"
)


@dataclass(frozen=True)
class Ending:
    """A pod that was told to end and has not."""

    pod: str
    """Its name."""
    node: str
    """Where it is; empty before a node has taken it."""
    until: datetime
    """End of its grace period."""
    forced: bool = False
    """Whether somebody has deleted it by force: who does that guarantees that it has ended."""

    def is_late(self, now: datetime) -> bool:
        """Whether it should have ended."""
        return now >= self.until + LATE


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether no container of a pod runs any more, nor will."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def silent_node(pod: Mapping[str, Any] | None) -> str | None:
    """The node of a pod, if the node controller has not heard from it for a while.

    The controller then marks the pod as not ready, but leaves what the kubelet said about its containers.
    """
    if pod is None or is_over(pod) or pod.get("spec", {}).get("readinessGates"):
        return None
    judged = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
    silent = judged.get("ContainersReady") == "True" and judged.get("Ready") == "False"
    return pod.get("spec", {}).get("nodeName") if silent else None


def ending_of(pod: Mapping[str, Any] | None) -> Ending | None:
    """How the end of a pod stands; None if it was not told to end, or has ended."""
    until = (pod or {}).get("metadata", {}).get("deletionTimestamp")
    if pod is None or until is None or is_over(pod):
        return None
    meta = pod["metadata"]
    return Ending(
        pod=meta["name"],
        node=pod.get("spec", {}).get("nodeName", ""),
        until=parse_timestamp(until),
        forced=meta.get("deletionGracePeriodSeconds") == 0 and "nodeName" in pod.get("spec", {}),
    )


def terminating(pods: Iterable[str], endings: Iterable[Ending]) -> str:
    """Why the next attempt does not start while pods have not ended, and what to do.

    Args:
        pods: all that have not ended.
        endings: those of them that were told to.
    """
    nodes = {ending.pod: ending.node for ending in endings}
    named = ", ".join(f"{pod} on node {nodes[pod]}" if nodes.get(pod) else pod for pod in pods)
    return (
        f"Pod {named} has not ended. The next attempt starts when it has, since two trainers never write to "
        f"one folder. {IF_LOST}"
    )


def late(endings: Iterable[Ending], now: datetime) -> str:
    """What to do about pods that should have ended; empty if there are none."""
    named = ", ".join(f"{e.pod} on node {e.node}" for e in endings if e.is_late(now))
    return f"Pod {named} should have ended and has not. {IF_LOST}" if named else ""
