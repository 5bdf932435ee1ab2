"""The facts that matter about a serving pod. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.table import CHECK_BASE, BaseFault, GatewayState
from kubetune.status.conditions import parse_timestamp
from kubetune.status.failures import REJECTED
from kubetune.status.scheduling import Fields, unscheduled
from kubetune.status.starting import Trouble, containers_of, last_words, uid_of, why_it_waits
from kubetune.status.steady import steady

PODS_FAILING = "PodsFailing"
_FIELDS = Fields(resources="engine.resources", template="engine.podTemplate")
_LATELY = timedelta(minutes=5)
_MANY = 2
"""Lost pods from which on it is reported. A single one is made again, and need not be."""


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


def observed_pod(
    pod: Mapping[str, Any], state: GatewayState | None, held_up: Trouble | None = None
) -> ObservedPod:
    """The facts that matter about a pod.

    Args:
        pod: a core/v1 Pod.
        state: the answer of its gateway.
        held_up: what its events say.
    """
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    failure = _failure(pod)
    if failure is None and held_up:
        failure = PODS_FAILING, f"{held_up.reason}: {held_up.message}"
    return ObservedPod(pod["metadata"]["name"], ready, state, None if ready else failure)


def _failure(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    found = _of_containers(pod)
    if waits := None if found else unscheduled(pod, _FIELDS):
        found = PODS_FAILING, ": ".join(waits)
    if found is None:
        return None
    reason, message = found
    return reason, steady(message, pod=pod["metadata"]["name"], uid=uid_of(pod))


def _of_containers(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    for container in containers_of(pod):
        if container.get("ready"):
            continue
        name, state = container["name"], container.get("state", {})
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        # Not the message of a back-off, which only counts seconds. Shown until the container is ready again.
        if ended and ended["exitCode"]:
            words = last_words(ended) or f"exit code {ended['exitCode']}"
            return _reason(name, ended["exitCode"]), f"{name}: {ended.get('reason', 'Error')}: {words}"
        if waits := why_it_waits(container):
            return PODS_FAILING, f"{name}: {': '.join(waits)}"
    return None


def _reason(container: str, exit_code: int) -> str:
    if container == CHECK_BASE and exit_code in list(BaseFault):
        return BaseFault(exit_code).reason
    return PODS_FAILING


def lost_pods(pods: Sequence[Mapping[str, Any]], now: datetime) -> str | None:
    """Why nodes refuse pods, or give them up, where that happens again and again; None if it does not.

    Args:
        pods: those that are over.
        now: the clock.
    """
    lately = [p for p in pods if now - parse_timestamp(p["metadata"]["creationTimestamp"]) < _LATELY]
    if len(lately) < _MANY:
        return None
    newest = max(lately, key=lambda p: str(p["metadata"]["creationTimestamp"]))
    status = newest.get("status", {})
    said = steady(str(status.get("message") or ""), pod=newest["metadata"]["name"], uid=uid_of(newest))
    why = ": ".join(filter(None, (status.get("reason"), said.removeprefix(REJECTED).rstrip(". "))))
    return f"nodes refuse pods, or give them up, again and again: {why or 'nothing says why'}"
