"""What matters of a serving pod. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.table import GatewayState
from kubetune.status.scheduling import unschedulable

# What a container may wait for without anything being wrong.
_USUAL_WAITS = frozenset({"ContainerCreating", "PodInitializing"})
_TAIL = 400
"""How much of the end of a container's output is quoted: there it says why it ended."""


@dataclass(frozen=True)
class ObservedPod:
    """A serving pod."""

    name: str
    ready: bool
    """Whether the Service sends requests to it."""
    state: GatewayState | None
    """What its gateway says; None if it could not be asked."""
    failure: str | None = None
    """Why it cannot become ready, for people."""


def observed_pod(pod: Mapping[str, Any], state: GatewayState | None) -> ObservedPod:
    """From a core/v1 Pod and the answer of its gateway."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ObservedPod(pod["metadata"]["name"], ready, state, None if ready else _failure(pod))


def _failure(pod: Mapping[str, Any]) -> str | None:
    status = pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state = container.get("state", {})
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if container.get("ready"):
            continue
        # Not the message of a back-off, which only counts seconds. Said until the container is ready again.
        if ended and ended["exitCode"]:
            words = ended.get("message", "").strip()[-_TAIL:] or f"exit code {ended['exitCode']}"
            return f"{container['name']}: {ended.get('reason', 'Error')}: {words}"
        if waiting and waiting.get("reason") not in _USUAL_WAITS:
            return f"{container['name']}: {waiting.get('reason')}: {waiting.get('message', '')}"
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason"), condition.get("message", "")
            if reason == "Unschedulable":
                where = {"resources": "engine.resources", "template": "engine.podTemplate"}
                message = unschedulable(pod, message, **where)
            return f"{reason}: {message}"
    return None
