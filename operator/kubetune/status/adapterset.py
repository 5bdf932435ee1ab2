"""Status of an AdapterSet, from what was resolved and what was seen in its pods. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kubetune.api.status import (
    AdapterSetStatus,
    AdapterStatus,
    FailingPod,
    ResolvedBase,
    SetPhase,
)
from kubetune.api.table import ADMIN_PORT, AdapterState, GatewayState
from kubetune.references.uses import WAITING
from kubetune.status.adapterset_pods import PODS_FAILING, ObservedPod
from kubetune.status.conditions import Judgement, conditions
from kubetune.status.health import set_health

_OUTDATED = (
    "pods are as an earlier version or configuration of kubetune made them, and go on serving; "
    "`kubectl rollout restart` of the Deployment of this name makes them anew, when it suits you"
)
_MOST_FAILING = 3
_MOST_NAMED = 5


@dataclass(frozen=True)
class ObservedAdapterSet:
    """What the operator found out about an AdapterSet."""

    wanted_pods: int
    """Number of pods in the spec."""
    base: ResolvedBase | None
    """The base, once it is resolved."""
    base_problem: tuple[str, str] | None
    """Reason and message: why there is no base, or none that can be served."""
    adapters: Sequence[AdapterStatus]
    """One per adapter of the spec, as resolved: with a version, or a reason and a message, or both."""
    set_problem: tuple[str, str] | None = None
    """Reason and message: why not everything in the spec can be served, although something is."""
    apply_problem: tuple[str, str] | None = None
    """Reason and message: why the API server refused a child."""
    rolling: tuple[str, str] | None = None
    """Reason and message: why pods are being made; None when all are there and of the present template."""
    outdated: bool = False
    """Whether pods are as an earlier version of the operator made them."""
    table_digest: str | None = None
    """The table that pods should have read."""
    pods: Sequence[ObservedPod] = ()
    """Pods that are not being deleted, sorted by name."""
    lost_pods: str | None = None
    """Why pods are lost again and again."""

    def lags(self, state: GatewayState) -> bool:
        """Whether a gateway has not caught up with the table."""
        if self.table_digest is None:
            return False
        return state.table_digest != self.table_digest or any(
            a.phase in ("Pending", "Loading") for a in state.adapters
        )


def adapter_set_status(
    previous: AdapterSetStatus,
    observed: ObservedAdapterSet,
    *,
    generation: int,
    now: datetime,
    selector: str,
    endpoint: str,
) -> AdapterSetStatus:
    """The status now; previous: the one before, for transition times and to notice what was lost."""
    before = {a.name: a for a in previous.adapters}
    adapters = [_adapter(a, before.get(a.name), observed) for a in observed.adapters]
    view = _View(previous, observed, adapters)
    judgements = [
        _resolved(view), _loaded(view), _available(view), _progressing(view), _degraded(view),
    ]  # fmt: skip
    phase = _phase(view, {j.type: j.status for j in judgements})
    return AdapterSetStatus(
        observed_generation=generation,
        phase=phase,
        replicas=len(observed.pods),
        ready_replicas=view.ready_pods,
        ready=f"{view.ready_pods}/{observed.wanted_pods}",
        loaded=f"{sum(_is_served(a) for a in view.adapters)}/{len(view.adapters)}",
        selector=selector,
        base=observed.base,
        endpoint=endpoint,
        adapters=view.adapters,
        conditions=conditions(
            [*set_health(phase, judgements), *judgements], previous.conditions, generation, now
        ),
    )


@dataclass(frozen=True)
class _View:
    """Everything that the judgements look at."""

    previous: AdapterSetStatus
    observed: ObservedAdapterSet
    adapters: list[AdapterStatus] = field(default_factory=list)

    @property
    def ready_pods(self) -> int:
        return sum(p.ready for p in self.observed.pods)

    @property
    def unread(self) -> list[str]:
        """Pods that take requests, but whose gateway could not be asked."""
        return [p.name for p in self.observed.pods if p.ready and p.state is None]

    @property
    def pod_failures(self) -> list[tuple[str, str]]:
        """Reasons and messages."""
        lost = self.observed.lost_pods
        if lost and self.ready_pods < self.observed.wanted_pods:
            return [(PODS_FAILING, lost)]  # Without names, because each of them has another.
        return [(p.failure[0], f"{p.name}: {p.failure[1]}") for p in self.observed.pods if p.failure]

    @property
    def unresolved(self) -> list[tuple[str, str]]:
        """Reasons and messages, the base's first."""
        problems = [self.observed.base_problem, self.observed.set_problem]
        found = [p for p in problems if p]
        return found + [
            (a.reason or "", f"{a.name}: {a.message}") for a in self.observed.adapters if a.reason
        ]

    @property
    def lagging(self) -> bool:
        """Whether a gateway that was asked has not caught up with the table."""
        return any(p.state and self.observed.lags(p.state) for p in self.observed.pods)


def _adapter(
    resolved: AdapterStatus, before: AdapterStatus | None, observed: ObservedAdapterSet
) -> AdapterStatus:
    """What was resolved, and where it is served."""
    seen = [(pod, _state_of(resolved.name, pod)) for pod in observed.pods]
    ready = sum(
        pod.ready and state is not None and state.serving is not None and state.serving == resolved.digest
        for pod, state in seen
    )
    if before and before.digest == resolved.digest:
        # Pods that cannot be asked now are taken to be as before; Loaded says that this is not known.
        ready = max(ready, min(before.ready, ready + sum(p.ready and p.state is None for p in observed.pods)))
    failing = [
        FailingPod(pod=pod.name, reason=state.reason, message=state.message or "")
        for pod, state in seen
        if state is not None and state.phase == "Failed" and state.digest == resolved.digest and state.reason
    ]
    reason, message = resolved.reason, resolved.message
    if reason is None and failing:
        reason, message = failing[0].reason, failing[0].message
    elif reason is None and ready < observed.wanted_pods:
        waiting = ("Loading", f"{ready} of {observed.wanted_pods} pods serve it")
        blocked = observed.base_problem and ("WaitingForBaseModel", observed.base_problem[1])
        reason, message = blocked or waiting
    return resolved.model_copy(
        update={
            "ready": min(ready, observed.wanted_pods),
            "desired": observed.wanted_pods,
            "reason": reason,
            "message": message,
            "failing": failing[:_MOST_FAILING],
        }
    )


def _state_of(name: str, pod: ObservedPod) -> AdapterState | None:
    return next((a for a in pod.state.adapters if a.name == name), None) if pod.state else None


def _is_served(adapter: AdapterStatus) -> bool:
    return adapter.reason is None and adapter.desired > 0 and adapter.ready == adapter.desired


def _resolved(view: _View) -> Judgement:
    if view.unresolved:
        return Judgement("Resolved", "False", view.unresolved[0][0], _list([m for _, m in view.unresolved]))
    return Judgement("Resolved", "True", "Resolved", "the base and every adapter are resolved to a version")


def _loaded(view: _View) -> Judgement:
    if view.observed.wanted_pods == 0:
        return Judgement("Loaded", "False", "ScaledToZero", "no pods are wanted: raise replicas")
    missing = [a for a in view.adapters if not _is_served(a)]
    known_bad = [a for a in missing if a.reason != "Loading" or a.failing]
    if view.unread and not known_bad:
        return Judgement("Loaded", "Unknown", "StateUnreadable", _unreadable(view))
    if missing:
        worst = (known_bad or missing)[0]
        return Judgement(
            "Loaded", "False", worst.reason or "", _list([f"{a.name}: {a.message}" for a in missing])
        )
    if view.observed.base_problem or not view.ready_pods:
        return Judgement("Loaded", "False", "NoReadyPods", "no pod is ready")
    return Judgement("Loaded", "True", "Loaded", f"{len(view.adapters)} adapters are served by every pod")


def _available(view: _View) -> Judgement:
    wanted = view.observed.wanted_pods
    if view.ready_pods:
        return Judgement("Available", "True", "PodsReady", f"{view.ready_pods} of {wanted} pods are ready")
    if wanted == 0:
        return Judgement("Available", "False", "ScaledToZero", "no pods are wanted: raise replicas")
    blocked = view.observed.apply_problem or view.observed.base_problem
    if blocked:
        return Judgement("Available", "False", *blocked)
    if view.pod_failures:
        said = [message for _, message in view.pod_failures]
        return Judgement("Available", "False", view.pod_failures[0][0], _list(said))
    said = [f"{p.name}: {p.state.message}" for p in view.observed.pods if p.state and p.state.message]
    return Judgement("Available", "False", "PodsStarting", _list([f"0 of {wanted} pods are ready", *said]))


def _progressing(view: _View) -> Judgement:
    observed = view.observed
    if observed.base_problem or observed.apply_problem:
        return Judgement(
            "Progressing",
            "False",
            "Blocked",
            "nothing changes until the problem that the other conditions name is solved",
        )
    if observed.rolling:
        return Judgement("Progressing", "True", *observed.rolling)
    if view.lagging:
        return Judgement("Progressing", "True", "LoadingAdapters", "pods are loading adapters")
    if view.ready_pods < observed.wanted_pods:
        return Judgement("Progressing", "True", "PodsStarting", "pods are starting")
    if any(reason in WAITING for reason, _ in view.unresolved):
        return Judgement(
            "Progressing", "False", "WaitingForDependency", "jobs that it names must finish first"
        )
    if observed.outdated:
        return Judgement("Progressing", "False", "UpdateAvailable", _OUTDATED)
    return Judgement("Progressing", "False", "Settled", "everything is as the spec says")


def _degraded(view: _View) -> Judgement:
    """True when something is wrong that does not go away by itself."""
    bad = [(reason, message) for reason, message in view.unresolved if reason not in WAITING]
    bad += [p for p in (view.observed.apply_problem,) if p]
    bad += [(a.failing[0].reason, f"{a.name}: {a.message}") for a in view.adapters if a.failing]
    bad += view.pod_failures
    if not bad and _lost_pods(view):
        bad = [("PodsNotReady", f"{view.ready_pods} of {view.observed.wanted_pods} pods are ready")]
    if bad:
        return Judgement("Degraded", "True", bad[0][0], _list([message for _, message in bad]))
    if view.unread:
        return Judgement("Degraded", "Unknown", "StateUnreadable", _unreadable(view))
    return Judgement("Degraded", "False", "AsExpected", "no problem is known")


def _unreadable(view: _View) -> str:
    """A pod that is ready answers the kubelet, so the obstacle is between the operator and the pod."""
    return (
        f"no answer from {_list(view.unread)}: let the operator reach port {ADMIN_PORT} of these pods. In "
        "the way may be a network policy (examples/networkpolicies/serving.yaml lets it in) or a mesh's mTLS"
    )


def _lost_pods(view: _View) -> bool:
    """Whether pods that were ready are no longer, for another reason than a rollout."""
    if view.observed.rolling or view.ready_pods >= view.observed.wanted_pods:
        return False
    before = next((c for c in view.previous.conditions if c.type == "Degraded"), None)
    return view.ready_pods < view.previous.ready_replicas or (
        before is not None and before.status == "True" and before.reason == "PodsNotReady"
    )


def _phase(view: _View, judged: Mapping[str, str]) -> SetPhase:
    if judged["Degraded"] == "True":
        return "Degraded"
    if view.unresolved:  # else it would be degraded: nothing but waiting is left
        return "WaitingForDependency"
    if view.observed.wanted_pods == 0:
        return "Progressing" if view.observed.pods else "ScaledToZero"
    if judged["Loaded"] == "True" and view.ready_pods >= view.observed.wanted_pods:
        return "Progressing" if view.observed.rolling else "Ready"
    return "Progressing" if view.observed.pods else "Pending"


def _list(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return "; ".join(items[:_MOST_NAMED]) + more
