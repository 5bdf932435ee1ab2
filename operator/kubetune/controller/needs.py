"""Whether what a run reads and writes is there: claims, ConfigMaps, the jobs of base model and adapter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import FineTuneJobSpec
from kubetune.api.progress import ArtifactStatus
from kubetune.api.runspec import RunAdapter, RunModel
from kubetune.api.source import AdapterStart, BaseSource, JobRef, SecretRef
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.desired.runspec import JobSpec, base_model, former_adapter
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
    if not isinstance(spec, FineTuneJobSpec):
        return Start(), NOTHING_NEEDED
    try:
        model, needs_base = await _artifact(client, namespace, spec.base_model, "full")
        adapter, needs_adapter = await _artifact(client, namespace, spec.adapter, "lora")
        need = needs_adapter if needs_base.met else needs_base
        if not need.met and (circle := await _circle(client, namespace, name, _refs(spec))):
            return Start(), Need(
                False,
                "DependencyCycle",
                f"FineTuneJobs {circle} wait for each other: delete one and apply it with another baseModel "
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
            f"{_named(spec.adapter)} was trained on base {adapter.base_digest}, not on {model.digest}: "
            "delete this job and apply it with that base or another adapter",
        )
    return start, _complete(_refs(spec))


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
    ("full", "lora"): ("NotFullWeights", "produced a lora adapter: name a job with full weights"),
    ("full", "prompt"): ("NotFullWeights", "produced virtual tokens: name a job with full weights"),
    ("lora", "full"): (
        "NotAnAdapter",
        "produced full weights: name it as baseModel, or name a job with method: lora",
    ),
    ("lora", "prompt"): ("NotAnAdapter", "produced virtual tokens: name a job with method: lora"),
}
"""(wanted, found) -> reason, what is wrong."""


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
        reason, why = _WRONG_FORMAT[form, artifact.format]
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
    return _complete(_refs_of(resource))


def _refs(spec: FineTuneJobSpec) -> list[JobRef]:
    return [s.job_ref for s in (spec.base_model, spec.adapter) if s and s.job_ref]


def _refs_of(resource: Object) -> list[JobRef]:
    """The jobs that a job starts from."""
    sources = (resource["spec"].get(field) or {} for field in ("baseModel", "adapter"))
    return [JobRef.model_validate(s["jobRef"]) for s in sources if "jobRef" in s]


def _named(source: BaseSource | AdapterStart | None) -> str:
    if source and source.job_ref:
        return f"{source.job_ref.kind} {source.job_ref.name}"
    return f"{source.uri}" if source else ""


def _complete(refs: Sequence[JobRef]) -> Need:
    if not refs:
        return NOTHING_NEEDED
    names = " and ".join(f"{ref.kind} {ref.name}" for ref in refs)
    return Need(True, "JobComplete", f"{names} {'is' if len(refs) == 1 else 'are'} Complete")


async def _circle(client: Client, namespace: str, name: str, refs: Sequence[JobRef]) -> str | None:
    """The jobs between a job and itself, if it starts from what it is the start of."""
    seen: set[str] = set()
    ahead = [([name], ref) for ref in refs]
    while ahead and len(seen) < MOST_LOOKED_AT:
        path, ref = ahead.pop(0)
        if ref.kind != "FineTuneJob":
            continue
        if ref.name == name:
            return " -> ".join([*path, name])
        if ref.name in seen:
            continue  # A circle of others: their conditions tell.
        seen.add(ref.name)
        job = await client.find(ref.kind, namespace, ref.name)
        ahead += [([*path, ref.name], further) for further in (_refs_of(job) if job else [])]
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
