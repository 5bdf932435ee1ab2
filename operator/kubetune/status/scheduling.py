"""Why no node takes a pod, in words that say what to do and stay the same while nodes come and go. Pure.

The scheduler counts nodes ("0/5 nodes are available: 2 Insufficient nvidia.com/gpu, 3 node(s) ..."), and
writes anew with every node that joins or leaves. What it counts is kept, the numbers are not.
https://github.com/kubernetes/kubernetes/blob/master/pkg/scheduler/framework/types.go (FitError)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = re.compile(r"^\d+/\d+ nodes are available[:.] ?")
# What it says about preemption, and about claimed devices, adds nothing.
_TAIL = re.compile(r",? ?(no new claims to deallocate\b|preemption: ).*$", re.DOTALL)
_COUNTED = re.compile(r"(?:^|, )\d+ (.+?)(?=, \d+ |\.?\s*$)", re.DOTALL)
_LACKING = "Insufficient "
_REMEDIES = {
    # how the scheduler's reason begins: what it means, and what to do
    "node(s) had untolerated taint": "some nodes have taints{} that it does not tolerate: see "
    "{template}.tolerations",
    "node(s) didn't match Pod's node affinity": "some nodes have other labels than it needs: see "
    "{template}.nodeSelector and affinity",
    "node(s) were unschedulable": "some nodes are cordoned: uncordon them",
    "Too many pods": "some nodes have as many pods as they can: add nodes",
    "pod has unbound immediate PersistentVolumeClaims": "a claim that it mounts has no volume: see the "
    "claim's events",
}
_UNSCHEDULABLE = "Unschedulable"
_NO_NODES = "no nodes available"
_LOOK = "`kubectl describe nodes` shows what they have and what is in use"


@dataclass(frozen=True)
class Fields:
    """Fields of our resources that say what a pod asks for, and where it may run."""

    resources: str
    template: str


def unscheduled(pod: Mapping[str, Any], fields: Fields) -> tuple[str, str] | None:
    """Reason and message of a pod that no node has yet; None if nothing keeps it from one."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason", _UNSCHEDULABLE), str(condition.get("message", ""))
            if reason == "SchedulingGated":
                return reason, _gated(pod)
            return reason, _unschedulable(pod, message, fields) if reason == _UNSCHEDULABLE else message
    return None


def _gated(pod: Mapping[str, Any]) -> str:
    gates = ", ".join(gate["name"] for gate in pod.get("spec", {}).get("schedulingGates") or ())
    return (
        f"no scheduler looks at it while it has scheduling gates ({gates}): who has set them takes them away"
    )


def _unschedulable(pod: Mapping[str, Any], message: str, fields: Fields) -> str:
    """What keeps a pod from being scheduled, by the message of its condition PodScheduled."""
    reasons = _reasons(message)
    if not reasons:
        return "the scheduler does not say why"
    if reasons[0].startswith(_NO_NODES):
        return "the cluster has no node that it could run on: add one"
    lacking = sorted({r.removeprefix(_LACKING) for r in reasons if r.startswith(_LACKING)})
    found = [_lack(pod, lacking, fields.resources)] if lacking else []
    found += sorted({_remedy(r, fields.template) for r in reasons if not r.startswith(_LACKING)})
    return f"no node takes it: {'; '.join(found)}. {_LOOK}"


def _reasons(message: str) -> list[str]:
    body = _TAIL.sub("", _HEAD.sub("", message.strip())).strip().rstrip(".")
    return _COUNTED.findall(body) or ([body] if body else [])


def _lack(pod: Mapping[str, Any], names: Sequence[str], field: str) -> str:
    wanted = ", ".join(" ".join(filter(None, (name, _asked(pod, name)))) for name in names)
    return (
        f"some nodes have less free than it asks for ({wanted}): end other pods, add nodes, or lower {field}"
    )


def _asked(pod: Mapping[str, Any], name: str) -> str:
    """Requests of the containers that run at the same time."""
    spec = pod.get("spec", {})
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    requests = [c.get("resources", {}).get("requests", {}) for c in (*sidecars, *spec.get("containers", ()))]
    return " + ".join(str(asked[name]) for asked in requests if name in asked)


def _remedy(reason: str, template: str) -> str:
    for begins, remedy in _REMEDIES.items():
        if reason.startswith(begins):
            # Older schedulers name the taint.
            _, brace, taint = reason.partition("{")
            return remedy.replace("{}", f" ({brace}{taint})" if taint else "").replace("{template}", template)
    return reason.replace("node(s)", "some nodes")
