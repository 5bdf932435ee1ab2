"""Whether what a run reads and writes is there: claims, ConfigMaps, the jobs that it starts from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.pretrainjob import PretrainJobSpec
from kubetune.api.runspec import RunAdapter, RunModel
from kubetune.api.source import AdapterStart, BaseSource, JobRef, RewardModel, SecretRef
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.desired.runspec import JobSpec, base_model, former_adapter, reward_model
from kubetune.desired.volumes import Location
from kubetune.references.job import referenced_job
from kubetune.references.starts import starts
from kubetune.references.uses import Problem, artifact_for, use_of, wrong_base
from kubetune.status.job import Need

Source = BaseSource | AdapterStart | RewardModel
NOTHING_NEEDED = Need(True, "NoDependencies")
FOUND = Need(True, "Found")
NOT_CHECKED = Need(None, "NotChecked")
MOST_LOOKED_AT = 32
"""Most jobs that are followed, from one that another starts from to the next, to find a circle."""


@dataclass(frozen=True)
class StartingPoint:
    """What a job starts from, as far as it is there."""

    base: RunModel | None = None
    adapter: RunAdapter | None = None
    reward: RunAdapter | None = None
    """The model that rewards its answers."""


async def find_start(client: Client, resource: Object, spec: JobSpec) -> tuple[StartingPoint, Need]:
    """What a job starts from, once all of it is there."""
    sources = _sources(spec)
    refs = [source.job_ref for source in sources.values() if source and source.job_ref]
    try:
        looked = {f: await _look(client, resource, f, s) for f, s in sources.items() if s}
        problem = next((found for found in looked.values() if isinstance(found, Problem)), None)
        if problem and (circle := await _circle(client, resource, refs)):
            problem = Problem(
                "DependencyCycle",
                f"{circle} wait for each other: delete one and apply it with another model.from, baseModel, "
                "adapter or reward.model",
            )
    except ApiError as error:
        return StartingPoint(), _unknown(error)
    found = {field: folder for field, folder in looked.items() if isinstance(folder, _Found)}
    base, adapter, reward = (found.get(field) for field in sources)
    start = StartingPoint(
        base_model(*base.place) if base else None,
        former_adapter(*adapter.place) if adapter else None,
        reward_model(*reward.place) if reward else None,
    )
    if base and not problem:
        wrong = (wrong_base(folder.name, folder.base_digest, base.digest) for folder in found.values())
        problem = next((found for found in wrong if found), None)
    return start, Need(False, problem.reason, problem.message) if problem else _complete(refs)


@dataclass(frozen=True)
class _Found:
    """A folder with weights that a job needs."""

    name: str
    """What it is called in messages."""
    uri: str
    digest: str | None
    secret_ref: SecretRef | None = None
    base_digest: str | None = None
    """Of the base that an adapter belongs to, if a job tells it; else the trainer checks the files."""

    @property
    def place(self) -> tuple[str, str | None, SecretRef | None]:
        return self.uri, self.digest, self.secret_ref


async def _look(client: Client, resource: Object, field: str, source: Source) -> _Found | Problem:
    """What a source means, or what it waits for. Folders are looked for by the trainer."""
    ref = source.job_ref
    if ref is None:
        return _Found(source.uri or "", source.uri or "", source.digest, source.secret_ref)
    found = await client.find(ref.kind, resource["metadata"]["namespace"], ref.name)
    job = referenced_job(ref.kind, found) if found else None
    made = artifact_for(use_of(field, resource["kind"], resource["spec"]), ref.kind, ref.name, job)
    if isinstance(made, Problem):
        return made
    base_digest = made.base_model_digest if made.format != "full" else None
    return _Found(f"{ref.kind} {ref.name}", made.uri, made.digest, base_digest=base_digest)


def run_has_start(resource: Object) -> Need:
    """What `find_start` said when a run began. It is not asked again: the jobs may be gone by now."""
    return _complete(_refs(resource["spec"]))


def _refs(spec: Mapping[str, Any]) -> list[JobRef]:
    """The jobs that a job starts from."""
    return [JobRef.model_validate(source["jobRef"]) for source in starts(spec).values() if "jobRef" in source]


def _sources(spec: JobSpec) -> dict[str, Source | None]:
    """What a job starts from, by field; the base is the first."""
    if isinstance(spec, PretrainJobSpec):
        return {"model.from": spec.model.from_, "adapter": None, "reward.model": None}
    return {
        "baseModel": spec.base_model,
        "adapter": spec.adapter,
        "reward.model": spec.reward.model if spec.reward else None,
    }


def _complete(refs: Sequence[JobRef]) -> Need:
    if not refs:
        return NOTHING_NEEDED
    *some, last = (f"{ref.kind} {ref.name}" for ref in refs)
    names = f"{', '.join(some)} and {last} are" if some else f"{last} is"
    return Need(True, "JobComplete", f"{names} Complete")


async def _circle(client: Client, resource: Object, refs: Sequence[JobRef]) -> str | None:
    """The circle of jobs from a job back to itself, in words; None: there is none."""
    namespace = resource["metadata"]["namespace"]
    itself = JobRef(kind=resource["kind"], name=resource["metadata"]["name"])
    seen: list[JobRef] = []
    ahead = [([itself], ref) for ref in refs]
    while ahead and len(seen) < MOST_LOOKED_AT:
        path, ref = ahead.pop(0)
        if ref == itself:
            return _in_words([*path, itself])
        if ref in seen:
            continue  # A circle of others: their conditions tell.
        seen.append(ref)
        job = await client.find(ref.kind, namespace, ref.name)
        ahead += [([*path, ref], further) for further in (_refs(job["spec"]) if job else [])]
    return None


def _in_words(circle: Sequence[JobRef]) -> str:
    if len({ref.kind for ref in circle}) > 1:
        return " -> ".join(f"{ref.kind} {ref.name}" for ref in circle)
    return f"{circle[0].kind}s {' -> '.join(ref.name for ref in circle)}"


async def check_volumes(client: Client, namespace: str, locations: Iterable[Location]) -> Need:
    """Whether every claim, ConfigMap and key exists; all that is missing is named at once."""
    keys: dict[tuple[str, str], set[str]] = {}
    for location in locations:
        volume = ("PersistentVolumeClaim" if location.is_claim else "ConfigMap", location.volume)
        keys.setdefault(volume, set()).update([] if location.is_claim else [location.path])
    try:
        missing = [
            need
            for (kind, name), wanted in sorted(keys.items())
            for need in await _missing(client, namespace, kind, name, wanted)
        ]
    except ApiError as error:
        return _unknown(error)
    if not missing:
        return FOUND
    return Need(False, missing[0].reason, "; ".join(need.message for need in missing))


async def _missing(client: Client, namespace: str, kind: str, name: str, keys: set[str]) -> list[Need]:
    found = await client.find(kind, namespace, name)
    if found is None:
        reason = "ClaimNotFound" if kind == "PersistentVolumeClaim" else "ConfigMapNotFound"
        return [Need(False, reason, f"{kind} {name} does not exist in namespace {namespace}: create it")]
    there = {**(found.get("data") or {}), **(found.get("binaryData") or {})}
    has = ", ".join(sorted(there)) or "none"
    return [
        Need(False, "KeyNotFound", f"ConfigMap {name} has no key {key} (it has: {has}): add it")
        for key in sorted(keys - there.keys())
    ]


def _unknown(error: ApiError) -> Need:
    return Need(None, "NotObserved", f"The API server does not tell: {error.message}")
