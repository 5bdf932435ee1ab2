"""Reads what an AdapterSet depends on and what it has made."""

import asyncio
from collections.abc import Container, ItemsView, Iterable, Sequence
from dataclasses import dataclass

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import AdapterSetStatus
from kubetune.controller.client import Client, Object
from kubetune.desired.adapterset import table_name
from kubetune.desired.adapterset_engine import running_limits
from kubetune.desired.adapterset_plan import Dependencies
from kubetune.desired.adapterset_resolve import Claim, resolve, upcoming
from kubetune.desired.common import labels_of
from kubetune.desired.volumes import locate
from kubetune.references.job import ReferencedJob, referenced_job
from kubetune.status.ending import is_over


@dataclass(frozen=True)
class Children:
    """What an AdapterSet has made, as it is."""

    config_map: Object | None
    service: Object | None
    deployment: Object | None
    pods: list[Object]
    """Those that are not on their way out, sorted by name."""
    disruption_budget: Object | None = None
    lost_pods: Sequence[Object] = ()
    """Those that are over: serving pods never end by themselves."""


async def read_children(client: Client, resource: Object) -> Children:
    """The children as they are."""
    namespace, name = resource["metadata"]["namespace"], resource["metadata"]["name"]
    config_map, service, deployment, budget, pods = await asyncio.gather(
        client.find("ConfigMap", namespace, table_name(resource)),
        client.find("Service", namespace, name),
        client.find("Deployment", namespace, name),
        client.find("PodDisruptionBudget", namespace, name),
        client.list("Pod", namespace, labels_of(resource)),
    )
    staying = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
    by_name = sorted(staying, key=lambda p: str(p["metadata"]["name"]))
    alive = [p for p in by_name if not is_over(p)]
    return Children(config_map, service, deployment, alive, budget, [p for p in by_name if is_over(p)])


async def read_dependencies(
    client: Client, resource: Object, spec: AdapterSetSpec, previous: AdapterSetStatus, children: Children
) -> Dependencies:
    """What its jobs have produced, and whether the claims are there."""
    namespace = resource["metadata"]["namespace"]
    jobs = await _jobs(client, namespace, spec, previous)
    claims = await _claims(client, namespace, _claim_names(spec, previous, jobs, children))
    return Dependencies(resolve(spec, previous, jobs, claims), upcoming(spec, jobs), claims)


async def _jobs(
    client: Client, namespace: str, spec: AdapterSetSpec, previous: AdapterSetStatus
) -> list[ReferencedJob]:
    """The jobs that adapters come from, came from or may come from, and until it is resolved the base's."""
    wanted = spec.base_model.job_ref
    base = await client.find(wanted.kind, namespace, wanted.name) if wanted and not previous.base else None
    from_jobs = any(a.source.job_ref or a.source.job_selector for a in spec.adapters)
    listed = await client.list("FineTuneJob", namespace) if from_jobs else []
    names = {a.source.job_ref.name for a in spec.adapters if a.source.job_ref} | {
        a.job for a in previous.adapters
    }
    selectors = [a.source.job_selector.match_labels.items() for a in spec.adapters if a.source.job_selector]
    found = [referenced_job("FineTuneJob", item) for item in listed if _matters(item, names, selectors)]
    if wanted is None or base is None:
        return found
    # A base may be a FineTuneJob, too: it must not appear twice.
    others = [job for job in found if (job.kind, job.name) != (wanted.kind, wanted.name)]
    return [referenced_job(wanted.kind, base), *others]


def _matters(job: Object, names: Container[str | None], selectors: Iterable[ItemsView[str, str]]) -> bool:
    labels = job["metadata"].get("labels", {}).items()
    return job["metadata"]["name"] in names or any(wanted <= labels for wanted in selectors)


def _claim_names(
    spec: AdapterSetSpec, previous: AdapterSetStatus, jobs: Iterable[ReferencedJob], children: Children
) -> set[str]:
    """Claims of everything that is, was or may be served."""
    uris = [spec.base_model.uri, previous.base.uri if previous.base else None]
    uris += [a.source.uri for a in spec.adapters] + [a.uri for a in previous.adapters]
    uris += [job.storage_uri for job in jobs]
    uris += [job.status.artifact.uri for job in jobs if job.status.artifact]
    limits = running_limits(children.deployment["spec"]["template"]["spec"]) if children.deployment else None
    return {locate(uri).volume for uri in uris if uri} | set(limits.claims if limits else ())


async def _claims(client: Client, namespace: str, names: set[str]) -> dict[str, Claim]:
    found = await asyncio.gather(*(client.find("PersistentVolumeClaim", namespace, name) for name in names))
    return {claim["metadata"]["name"]: observed_claim(claim) for claim in found if claim}


def observed_claim(claim: Object) -> Claim:
    """The facts that matter about a claim."""
    modes = claim.get("status", {}).get("accessModes") or claim["spec"].get("accessModes", [])
    return Claim(shareable=bool({"ReadWriteMany", "ReadOnlyMany"} & set(modes)))
