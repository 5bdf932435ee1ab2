"""From what an AdapterSet depends on to everything that should exist for it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import ResolvedBase
from kubetune.api.table import Table
from kubetune.desired import adapterset
from kubetune.desired.adapterset_engine import EngineLimits, engine_limits, running_limits
from kubetune.desired.adapterset_keep import kept, reason_of
from kubetune.desired.adapterset_resolve import Claim, Resolution
from kubetune.desired.volumes import locate
from kubetune.references.job import ReferencedJob
from kubetune.references.uses import Problem


@dataclass(frozen=True)
class Dependencies:
    """What an AdapterSet depends on."""

    resolution: Resolution
    """What should be served."""
    upcoming: Sequence[ReferencedJob]
    """Jobs that are making adapters for it."""
    claims: Mapping[str, Claim]
    """Claims that exist, among those that matter."""


@dataclass(frozen=True)
class Plan:
    """What should exist."""

    table: Table
    """What pods should serve."""
    limits: EngineLimits
    """What engines are started with."""
    config_map: dict[str, Any]
    service: dict[str, Any]
    deployment: dict[str, Any]
    disruption_budget: dict[str, Any] | None = None
    """None: there should be none."""
    problem: Problem | None = None
    """Why not everything in the spec can be served."""
    outdated: bool = False
    """Whether pods are as an earlier operator made them."""


def plan(
    resource: Mapping[str, Any],
    spec: AdapterSetSpec,
    base: ResolvedBase,
    needs: Dependencies,
    deployment: Mapping[str, Any] | None,
    settings: adapterset.ServingSettings,
) -> Plan:
    """Everything that should exist; deployment: the one that does."""
    limits = _limits(spec, base, needs, deployment)
    table = adapterset.table(spec, base, needs.resolution.versions, limits.max_lora_rank)
    exclusive = [name for name in limits.claims if name in needs.claims and not needs.claims[name].shareable]
    problem = _not_shareable(exclusive) if exclusive and spec.replicas > 1 else None
    replicas = 1 if problem else spec.replicas
    rendered = adapterset.deployment(resource, spec, base, limits, replicas, settings)
    child, outdated = kept(rendered, deployment, reason_of(spec, base, limits, deployment))
    return Plan(
        table,
        limits,
        adapterset.config_map(resource, table),
        adapterset.service(resource, spec),
        child,
        adapterset.disruption_budget(resource, spec),
        problem,
        outdated,
    )


def _limits(
    spec: AdapterSetSpec, base: ResolvedBase, needs: Dependencies, deployment: Mapping[str, Any] | None
) -> EngineLimits:
    running = running_limits(deployment["spec"]["template"]["spec"]) if deployment else None
    # Before the first pods are made, jobs that still run count too, so that their adapters need no rollout.
    early = needs.upcoming if running is None else ()
    versions = needs.resolution.versions
    uris = [base.uri, *(v.uri for v in versions), *(job.storage_uri for job in early)]
    return engine_limits(
        spec.engine,
        adapters=len(spec.adapters),
        ranks=[rank for rank in (*(v.rank for v in versions), *(job.rank for job in early)) if rank],
        needed=[locate(uri).volume for uri in uris if uri],
        existing=needs.claims,
        running=running,
    )


def _not_shareable(claims: Sequence[str]) -> Problem:
    return Problem(
        "ClaimNotShareable",
        f"one pod is served: PersistentVolumeClaim {', '.join(claims)} cannot be mounted by several; "
        "use a claim with access mode ReadWriteMany or ReadOnlyMany, or set replicas to 1",
    )
