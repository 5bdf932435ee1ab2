"""Whether what a run reads and writes is there: claims, ConfigMaps, the base model's job."""

from collections.abc import Iterable

from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import FineTuneJobSpec
from kubetune.api.runspec import RunModel
from kubetune.api.source import JobRef
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.desired.runspec import JobSpec, base_model
from kubetune.desired.volumes import Location
from kubetune.status.conditions import find, is_true
from kubetune.status.job import Need

NOTHING_NEEDED = Need(True, "NoDependencies")
FOUND = Need(True, "Found")
NOT_CHECKED = Need(None, "NotChecked")
LONGEST_CHAIN = 32
"""Of jobs that start from each other, as far as a circle is looked for."""


async def find_base(client: Client, namespace: str, name: str, spec: JobSpec) -> tuple[RunModel | None, Need]:
    """The base model that a job of a name starts from, once it is there."""
    if not isinstance(spec, FineTuneJobSpec):
        return None, NOTHING_NEEDED
    source = spec.base_model
    if source.job_ref is None:
        return base_model(source.uri or "", source.digest, source.secret_ref), NOTHING_NEEDED
    try:
        base, need = await _artifact_of(client, namespace, source.job_ref)
        if not need.met and (circle := await _circle(client, namespace, name, source.job_ref)):
            return None, Need(
                False,
                "DependencyCycle",
                f"FineTuneJobs {circle} wait for each other: delete one and apply it with another baseModel",
            )
        return base, need
    except ApiError as error:
        return None, _unknown(error)


async def _artifact_of(client: Client, namespace: str, ref: JobRef) -> tuple[RunModel | None, Need]:
    name = f"{ref.kind} {ref.name}"
    job = await client.find(ref.kind, namespace, ref.name)
    if job is None:
        return None, Need(
            False, "JobNotFound", f"{name} does not exist: apply it, and this job starts once it is Complete"
        )
    status = JobStatus.model_validate(job.get("status", {}), extra="ignore")
    if is_true(status.conditions, "Failed"):
        cause = status.failure.message if status.failure else Reason.INTERNAL_ERROR.value
        return None, Need(
            False,
            "JobFailed",
            f"{name} failed ({cause}): delete it and apply a corrected one under the same name",
        )
    if not is_true(status.conditions, "Complete") or status.artifact is None:
        if "deletionTimestamp" in job["metadata"]:
            return None, Need(
                False, "JobNotFound", f"{name} is being deleted: apply it again, and this job waits for that"
            )
        waits = find(status.conditions, "DependenciesReady")
        why = f" ({waits.message})" if waits and waits.status == "False" else ""
        return None, Need(
            False, "JobNotComplete", f"{name} is {status.phase}{why}; this job starts once it is Complete"
        )
    if status.artifact.format != "full":
        return None, Need(
            False,
            "NotFullWeights",
            f"{name} produced a {status.artifact.format} adapter: name a job with full weights",
        )
    return base_model(status.artifact.uri, status.artifact.digest), _complete(name)


def run_has_base(resource: Object) -> Need:
    """What `find_base` said when a run began. It is not asked again: the base's job may be gone by now."""
    ref = resource["spec"].get("baseModel", {}).get("jobRef")
    return _complete(f"{ref['kind']} {ref['name']}") if ref else NOTHING_NEEDED


def _complete(name: str) -> Need:
    return Need(True, "JobComplete", f"{name} is Complete")


async def _circle(client: Client, namespace: str, name: str, ref: JobRef) -> str | None:
    """The jobs between a job and itself, if it starts from what it is the start of."""
    path = [name]
    while ref.kind == "FineTuneJob" and len(path) < LONGEST_CHAIN:
        if ref.name == name:
            return " -> ".join([*path, name])
        if ref.name in path:
            return None  # A circle of others: their conditions tell.
        path.append(ref.name)
        job = await client.find(ref.kind, namespace, ref.name)
        further = job["spec"]["baseModel"].get("jobRef") if job else None
        if further is None:
            return None
        ref = JobRef.model_validate(further)
    return None


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
