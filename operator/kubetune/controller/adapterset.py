"""Reconciler of AdapterSet: applies its children, tells pods of a new table, reports what gateways say."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import AdapterSetStatus, find
from kubetune.api.table import TABLE_ANNOTATION, GatewayState, Table
from kubetune.controller.adapterset_gather import Children, read_children, read_dependencies
from kubetune.controller.attempts import why_not_made
from kubetune.controller.client import Client, Object
from kubetune.controller.differs import differs
from kubetune.controller.errors import ApiError, Conflict, NotFound, Refused
from kubetune.controller.events import record
from kubetune.controller.gateway_state import read_states
from kubetune.controller.reconciler import Result
from kubetune.controller.write_status import write_status
from kubetune.desired import adapterset as desired
from kubetune.desired.adapterset_engine import EngineLimits, roll_reason, running_limits
from kubetune.desired.adapterset_plan import Plan, plan
from kubetune.desired.common import is_owned, labels_of
from kubetune.references.uses import WAITING, Problem
from kubetune.status.adapterset import ObservedAdapterSet, adapter_set_status
from kubetune.status.adapterset_pods import lost_pods, observed_pod
from kubetune.status.conditions import parse_timestamp, timestamp
from kubetune.status.events import refusal
from kubetune.status.starting import Trouble, being_made

log = logging.getLogger(__name__)

APPLIED_ANNOTATION = "kubetune.io/applied"
"""On children: digest of what was applied, to notice what is not wanted any more."""
CATCHING_UP_SECONDS = 0.3
STARTING_SECONDS = 2.0
AT_REST_SECONDS = 30.0
QUIET = WAITING | {"Loading", "WaitingForBaseModel"}
"""Reasons that are not worth an event."""
MADE_WITHIN = timedelta(seconds=10)
"""Age of a pod by which it should have its volumes and network. Else its events tell why it has not."""
NUDGE_SECONDS = 3.0
"""A pod that has not read the table after so long is told again: the kubelet reads from a cache."""


@dataclass(frozen=True)
class AdapterSetReconciler:
    """Keeps serving pods and what they serve as an AdapterSet says."""

    settings: desired.ServingSettings
    kind: str = "AdapterSet"

    async def reconcile(self, client: Client, resource: Object, now: datetime) -> Result:
        """Look, apply what differs, tell the pods of a new table, say how things are."""
        spec = AdapterSetSpec.model_validate(resource["spec"])
        previous = AdapterSetStatus.model_validate(resource.get("status", {}), extra="ignore")
        children = await read_children(client, resource)
        needs = await read_dependencies(client, resource, spec, previous, children)
        base, problem = needs.resolution.base, needs.resolution.base_problem
        observed = ObservedAdapterSet(
            wanted_pods=spec.replicas,
            base=base,
            base_problem=_said(problem),
            adapters=needs.resolution.adapters,
        )
        table = not_told = None
        if base and not problem:
            planned = plan(resource, spec, base, needs, children.deployment, self.settings)
            table = planned.table
            observed = await apply_plan(client, resource, planned, children, observed)
        states = await read_states(children.pods)
        if table:
            not_told = await nudge(client, children.pods, states, table, now)
        held_up = await _held_up(client, children.pods, now)
        by_name = {pod["metadata"]["name"]: pod for pod in children.pods}
        pods = [observed_pod(pod, states[name], held_up.get(name)) for name, pod in by_name.items()]
        observed = replace(observed, pods=pods, lost_pods=lost_pods(children.lost_pods, now))
        status = adapter_set_status(
            previous,
            observed,
            generation=resource["metadata"]["generation"],
            now=now,
            selector=",".join(f"{k}={v}" for k, v in sorted(labels_of(resource).items())),
            endpoint=desired.endpoint(resource, spec),
        )
        # Events first: if the status were written first, a crash in between would lose them.
        await tell(client, resource, previous, status)
        await write_status(client, resource, previous, status)
        return Result(again(observed, status), wants_jobs=True, refused=not_told)


async def apply_plan(
    client: Client, resource: Object, planned: Plan, children: Children, observed: ObservedAdapterSet
) -> ObservedAdapterSet:
    """Bring the children to what they should be; returns what was noticed, added to what was before."""
    deployment = children.deployment
    refused = None
    try:
        await apply(client, resource, planned.config_map, children.config_map)
        await apply(client, resource, planned.service, children.service)
        deployment = await apply(client, resource, planned.deployment, deployment)
        await apply_budget(client, resource, planned.disruption_budget, children.disruption_budget)
    except ApiError as error:
        if not error.is_answer:
            raise
        refused = ("CreationRefused", error.message)
    return replace(
        observed,
        set_problem=_said(planned.problem),
        apply_problem=refused or (pods_refused(deployment) if deployment else None),
        rolling=rolling(deployment, planned.limits, children.pods) if deployment else None,
        table_digest=planned.table.digest(),
        outdated=planned.outdated,
    )


async def apply_budget(client: Client, resource: Object, wanted: Object | None, live: Object | None) -> None:
    """Bring the disruption budget to what it should be; the one child that may cease to be wanted."""
    if wanted:
        await apply(client, resource, wanted, live)
    elif live and is_owned(live, resource):
        log.info("deleting PodDisruptionBudget %s", live["metadata"]["name"])
        await client.delete(live)


async def apply(client: Client, resource: Object, child: Object, live: Object | None) -> Object:
    """Apply a child unless it is as it should be; returns it as it is then.

    Raises:
        Refused: the API server does not take it, or something else has its name.
    """
    if live is not None and not is_owned(live, resource):
        name = f"{child['kind']} {child['metadata']['name']}"
        raise Refused(f"{name} exists and belongs to something else: delete it, or choose another name")
    digest = hashlib.sha256(json.dumps(child, sort_keys=True).encode()).hexdigest()
    annotations = {**child["metadata"].get("annotations", {}), APPLIED_ANNOTATION: digest[:16]}
    child = {**child, "metadata": {**child["metadata"], "annotations": annotations}}
    if live is not None and not differs(child, live):
        return live
    log.info("applying %s %s", child["kind"], child["metadata"]["name"])
    return await client.apply(child)


async def nudge(
    client: Client, pods: list[Object], states: Mapping[str, GatewayState | None], table: Table, now: datetime
) -> ApiError | None:
    """Annotate the pods whose gateway has another table: the kubelet then refreshes their mounts.

    If the API server refuses, its error is returned. The kubelet then does it by itself after a minute.
    """
    digest = table.digest()
    for pod in pods:
        state = states[pod["metadata"]["name"]]
        if state is None or state.table_digest in (None, digest):
            continue
        told, _, when = pod["metadata"].get("annotations", {}).get(TABLE_ANNOTATION, "").partition("@")
        if told == digest and now - parse_timestamp(when) < timedelta(seconds=NUDGE_SECONDS):
            continue
        try:
            await client.annotate("Pod", pod, {TABLE_ANNOTATION: f"{digest}@{timestamp(now)}"})
        except (NotFound, Conflict) as error:
            log.info("pod %s went away: %s", pod["metadata"]["name"], error.message)
        except ApiError as error:
            if not error.is_answer:
                raise
            return error
    return None


async def _held_up(client: Client, pods: list[Object], now: datetime) -> dict[str, Trouble]:
    """What keeps a pod from being made. Of one pod only: others of the same template have the same cause."""
    for pod in pods:
        meta, uid = pod["metadata"], being_made(pod)
        if uid and now - parse_timestamp(meta["creationTimestamp"]) >= MADE_WITHIN:
            trouble = await why_not_made(client, meta["namespace"], uid)
            return {meta["name"]: trouble} if trouble else {}
    return {}


def rolling(deployment: Object, limits: EngineLimits, pods: list[Object]) -> tuple[str, str] | None:
    """Reason and message while pods are being made or replaced."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    if seen and status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted:
        return None
    if deployment["spec"].get("paused"):
        name = deployment["metadata"]["name"]
        return "Paused", f"somebody has paused it: `kubectl rollout resume deployment {name}`"
    return roll_reason(limits, [found for pod in pods if (found := running_limits(pod["spec"]))])


def pods_refused(deployment: Object) -> tuple[str, str] | None:
    """Reason and message when the API server refuses the pods themselves: Pod Security, a quota."""
    conditions = deployment.get("status", {}).get("conditions", [])
    failure = next((c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    if failure is None:
        return None
    return "PodsRefused", refusal(failure.get("message", ""), deployment["metadata"]["name"])


def _said(problem: Problem | None) -> tuple[str, str] | None:
    return (problem.reason, problem.message) if problem else None


def again(observed: ObservedAdapterSet, status: AdapterSetStatus) -> float:
    """Seconds until the next look; what is watched wakes us earlier."""
    if any(pod.state and pod.state.engine_ready and observed.lags(pod.state) for pod in observed.pods):
        return CATCHING_UP_SECONDS
    if status.phase in ("Ready", "ScaledToZero", "WaitingForDependency") and "ClaimNotFound" not in _reasons(
        status
    ):
        return AT_REST_SECONDS
    return STARTING_SECONDS


def _reasons(status: AdapterSetStatus) -> set[str]:
    return {c.reason for c in status.conditions} | {a.reason for a in status.adapters if a.reason}


async def tell(client: Client, resource: Object, before: AdapterSetStatus, after: AdapterSetStatus) -> None:
    """Events of what has changed: few, so that `kubectl describe` tells the story."""
    old = {a.name: a for a in before.adapters}
    for adapter in after.adapters:
        was = old.get(adapter.name)
        live = adapter.ready == adapter.desired > 0 and not adapter.reason
        if live and (was is None or was.reason or was.digest != adapter.digest):
            said = f"{adapter.name} answers as {adapter.loaded_name}"
            await record(client, resource, "Normal", "AdapterLive", said)
        elif adapter.reason and adapter.reason not in QUIET and (was is None or was.reason != adapter.reason):
            await record(client, resource, "Warning", adapter.reason, f"{adapter.name}: {adapter.message}")
    was_wrong, wrong = (find(status.conditions, "Degraded") for status in (before, after))
    if wrong and wrong.status == "True" and (was_wrong is None or was_wrong.reason != wrong.reason):
        # What is wrong with one adapter alone has been told in these very words.
        await record(client, resource, "Warning", wrong.reason, wrong.message)
