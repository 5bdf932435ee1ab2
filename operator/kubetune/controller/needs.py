"""Whether what a run reads and writes is there: claims, ConfigMaps, the jobs that it starts from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.pretrainjob import PretrainJobSpec
from kubetune.api.progress import ArtifactStatus
from kubetune.api.runspec import RunAdapter, RunModel
from kubetune.api.source import AdapterStart, BaseSource, JobRef, SecretRef
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.desired.runspec import JobSpec, base_model, former_adapter
from kubetune.desired.starts import starts
from kubetune.desired.volumes import Location
from kubetune.status.conditions import find, is_true
from kubetune.status.job import Need

NOTHING_NEEDED = Need(True, "NoDependencies")
FOUND = Need(True, "Found")
NOT_CHECKED = Need(None, "NotChecked")
MOST_LOOKED_AT = 32
"""Jobs that a job starts from, directly or not, as far as a circle is looked for."""


@dataclass(frozen=True)
class Start:
    """What a job starts from, as far as it is there."""

    base: RunModel | None = None
    adapter: RunAdapter | None = None


async def find_start(client: Client, namespace: str, name: str, spec: JobSpec) -> tuple[Start, Need]:
    """What a job of a name starts from, once all of it is there."""
    base_source, adapter_source = _sources(spec)
    refs = _refs(spec.wire())
    try:
        model, needs_base = await _artifact(client, namespace, base_source, "full")
        adapter, needs_adapter = await _artifact(client, namespace, adapter_source, "lora")
        need = needs_adapter if needs_base.met else needs_base
        itself = JobRef(kind="PretrainJob" if isinstance(spec, PretrainJobSpec) else "FineTuneJob", name=name)
        if not need.met and (circle := await _circle(client, namespace, itself, refs)):
            return Start(), Need(
                False,
                "DependencyCycle",
                f"{circle} wait for each other: delete one and apply it with another model.from, baseModel "
                "or adapter",
            )
    except ApiError as error:
        return Start(), _unknown(error)
    start = Start(
        base_model(*model.place) if model else None, former_adapter(*adapter.place) if adapter else None
    )
    if not need.met:
        return start, need
    if adapter and model and not adapter.belongs_to(model):
        return start, Need(
            False,
            "WrongBase",
            f"{_named(adapter_source)} was trained on base {adapter.base_digest}, not on {model.digest}: "
            "delete this job and apply it with that base or another adapter",
        )
    return start, _complete(refs)


@dataclass(frozen=True)
class _Found:
    """A folder that a job starts from."""

    uri: str
    digest: str | None
    secret_ref: SecretRef | None = None
    base_digest: str | None = None
    """Of the base that an adapter belongs to, where a job says so."""

    @property
    def place(self) -> tuple[str, str | None, SecretRef | None]:
        return self.uri, self.digest, self.secret_ref

    def belongs_to(self, model: "_Found") -> bool:
        """Whether an adapter may be one of a base; the trainer looks at the files."""
        return None in (self.base_digest, model.digest) or self.base_digest == model.digest


_WRONG_FORMAT = {
    "full": ("NotFullWeights", "produced a lora adapter: name a job of full weights, or with output.merge"),
    "lora": (
        "NotAnAdapter",
        "produced full weights: name it as baseModel, or a job with method: lora and without output.merge",
    ),
}


async def _artifact(
    client: Client, namespace: str, source: BaseSource | AdapterStart | None, form: str
) -> tuple[_Found | None, Need]:
    """What a source means, once it is there. Folders are looked for by the trainer."""
    if source is None:
        return None, NOTHING_NEEDED
    if source.job_ref is None:
        return _Found(source.uri or "", source.digest, source.secret_ref), NOTHING_NEEDED
    artifact, need = await _artifact_of(client, namespace, source.job_ref)
    if artifact is None:
        return None, need
    if artifact.format != form:
        reason, why = _WRONG_FORMAT[form]
        return None, Need(False, reason, f"{_named(source)} {why}")
    return _Found(artifact.uri, artifact.digest, None, artifact.base_model_digest), need


async def _artifact_of(client: Client, namespace: str, ref: JobRef) -> tuple[ArtifactStatus | None, Need]:
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
    return status.artifact, Need(True, "JobComplete")


def run_has_start(resource: Object) -> Need:
    """What `find_start` said when a run began. It is not asked again: the jobs may be gone by now."""
    return _complete(_refs(resource["spec"]))


def _sources(spec: JobSpec) -> tuple[BaseSource | None, AdapterStart | None]:
    """Base and adapter that a job starts from."""
    if isinstance(spec, PretrainJobSpec):
        return spec.model.from_, None
    return spec.base_model, spec.adapter


def _refs(spec: Mapping[str, Any]) -> list[JobRef]:
    """The jobs that a job starts from."""
    return [JobRef.model_validate(source["jobRef"]) for source in starts(spec).values() if "jobRef" in source]


def _named(source: BaseSource | AdapterStart | None) -> str:
    if source and source.job_ref:
        return f"{source.job_ref.kind} {source.job_ref.name}"
    return f"{source.uri}" if source else ""


def _complete(refs: Sequence[JobRef]) -> Need:
    if not refs:
        return NOTHING_NEEDED
    names = " and ".join(f"{ref.kind} {ref.name}" for ref in refs)
    return Need(True, "JobComplete", f"{names} {'is' if len(refs) == 1 else 'are'} Complete")


async def _circle(client: Client, namespace: str, itself: JobRef, refs: Sequence[JobRef]) -> str | None:
    """The jobs between a job and itself, in words, if it starts from what it is the start of."""
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
