"""What matters of a serving pod. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.table import CHECK_BASE, BaseFault, GatewayState
from kubetune.status.scheduling import unschedulable
from kubetune.status.steady import steady

# What a container may wait for without anything being wrong.
_USUAL_WAITS = frozenset({"ContainerCreating", "PodInitializing"})
PODS_FAILING = "PodsFailing"
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
    failure: tuple[str, str] | None = None
    """Reason and message: why it cannot become ready."""


def observed_pod(pod: Mapping[str, Any], state: GatewayState | None) -> ObservedPod:
    """From a core/v1 Pod and the answer of its gateway."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ObservedPod(pod["metadata"]["name"], ready, state, None if ready else _failure(pod))


def _failure(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    status, meta = pod.get("status", {}), pod["metadata"]

    def failed(reason: str, message: str) -> tuple[str, str]:
        return reason, steady(message, pod=meta["name"], uid=meta.get("uid", ""))

    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state = container.get("state", {})
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if container.get("ready"):
            continue
        # Not the message of a back-off, which only counts seconds. Said until the container is ready again.
        if ended and ended["exitCode"]:
            words = steady(ended.get("message", "").strip())[-_TAIL:] or f"exit code {ended['exitCode']}"
            said = f"{container['name']}: {ended.get('reason', 'Error')}: {words}"
            return failed(_reason(container["name"], ended["exitCode"]), said)
        if waiting and waiting.get("reason") not in _USUAL_WAITS:
            said = f"{container['name']}: {waiting.get('reason')}: {waiting.get('message', '')}"
            return failed(PODS_FAILING, said)
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason"), condition.get("message", "")
            if reason == "Unschedulable":
                where = {"resources": "engine.resources", "template": "engine.podTemplate"}
                message = unschedulable(pod, message, **where)
            return failed(PODS_FAILING, f"{reason}: {message}")
    return None


def _reason(container: str, exit_code: int) -> str:
    if container == CHECK_BASE and exit_code in list(BaseFault):
        return BaseFault(exit_code).reason
    return PODS_FAILING
