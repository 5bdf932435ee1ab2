"""Whether what a run reads and writes is there: claims, ConfigMaps, the jobs that it starts from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import FineTuneJobSpec
from kubetune.api.pretrainjob import PretrainJobSpec
from kubetune.api.progress import ArtifactStatus
from kubetune.api.runspec import RunAdapter, RunModel
from kubetune.api.source import AdapterStart, BaseSource, JobRef, RewardModel, SecretRef
from kubetune.api.stages import WITH_HEAD
from kubetune.api.status import JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.desired.runspec import JobSpec, base_model, former_adapter, reward_model
from kubetune.desired.starts import starts
from kubetune.desired.volumes import Location
from kubetune.status.conditions import find, is_true
from kubetune.status.job import Need

Source = BaseSource | AdapterStart | RewardModel
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
    reward: RunAdapter | None = None
    """The model that rewards its answers."""


async def find_start(client: Client, namespace: str, name: str, spec: JobSpec) -> tuple[Start, Need]:
    """What a job of a name starts from, once all of it is there."""
    itself = JobRef(kind="PretrainJob" if isinstance(spec, PretrainJobSpec) else "FineTuneJob", name=name)
    sources = _sources(spec)
    refs = [source.job_ref for source in sources.values() if source and source.job_ref]
    try:
        looked = {f: await _look(client, namespace, spec, f, s) for f, s in sources.items() if s}
        unmet = next((need for need in looked.values() if isinstance(need, Need)), None)
        if unmet and (circle := await _circle(client, namespace, itself, refs)):
            return Start(), Need(
                False,
                "DependencyCycle",
                f"{circle} wait for each other: delete one and apply it with another model.from, baseModel, "
                "adapter or reward.model",
            )
    except ApiError as error:
        return Start(), _unknown(error)
    found = {field: folder for field, folder in looked.items() if isinstance(folder, _Found)}
    base, adapter, reward = (found.get(field) for field in sources)
    start = Start(
        base_model(*base.place) if base else None,
        former_adapter(*adapter.place) if adapter else None,
        reward_model(*reward.place) if reward else None,
    )
    if unmet:
        return start, unmet
    for field, folder in found.items():
        if base and not folder.belongs_to(base):
            return start, Need(
                False,
                "WrongBase",
                f"{folder.name} was trained on base {folder.base_digest}, not on {base.digest}: "
                f"delete this job and apply it with that base or another {field}",
            )
    return start, _complete(refs)


@dataclass(frozen=True)
class _Found:
    """A folder with weights that a job needs."""

    name: str
    """What it is called in messages."""
    uri: str
    digest: str | None
    secret_ref: SecretRef | None = None
    base_digest: str | None = None
    """Of the base that an adapter belongs to, where a job says so."""

    @property
    def place(self) -> tuple[str, str | None, SecretRef | None]:
        return self.uri, self.digest, self.secret_ref

    def belongs_to(self, base: "_Found") -> bool:
        """Whether an adapter may be one of a base; the trainer looks at the files."""
        return None in (self.base_digest, base.digest) or self.base_digest == base.digest


async def _look(client: Client, namespace: str, spec: JobSpec, field: str, source: Source) -> _Found | Need:
    """What a source means, or what it waits for. Folders are looked for by the trainer."""
    ref = source.job_ref
    if ref is None:
        return _Found(source.uri or "", source.uri or "", source.digest, source.secret_ref)
    name = f"{ref.kind} {ref.name}"
    job = await client.find(ref.kind, namespace, ref.name)
    if job is None:
        return Need(
            False, "JobNotFound", f"{name} does not exist: apply it, and this job starts once it is Complete"
        )
    if wrong := _wrong_stage(name, field, job["spec"].get("stage", "pretrain"), spec):
        return wrong
    artifact = _artifact(name, job)
    if isinstance(artifact, Need):
        return artifact
    if wrong := _wrong_format(name, field, artifact.format, spec):
        return wrong
    base_digest = artifact.base_model_digest if artifact.format == "lora" else None
    return _Found(name, artifact.uri, artifact.digest, base_digest=base_digest)


def _wrong_stage(name: str, field: str, stage: str, spec: JobSpec) -> Need | None:
    """Why a job of a stage never makes what a field of a spec asks for; that is known before it is done."""
    if field == "reward.model" and stage != "reward":
        return Need(False, "NotARewardModel", f"{name} is of stage {stage}: name a job of stage reward")
    if field == "adapter" and stage in WITH_HEAD:
        return Need(
            False,
            "NotAnAdapter",
            f"{name} is of stage {stage}, so that a head goes with its adapter: name a job that tunes a "
            "language model",
        )
    own = "pretrain" if isinstance(spec, PretrainJobSpec) else spec.stage
    if field in _BASES and stage in WITH_HEAD and own not in WITH_HEAD:
        return Need(
            False,
            "NotALanguageModel",
            f"{name} is of stage {stage}, so that its model has another head than a language model's: name a "
            "job that tunes a language model",
        )
    return None


_BASES = ("baseModel", "model.from")
_MADE = {"lora": "a lora adapter", "prompt": "virtual tokens", "full": "full weights"}


def _wrong_format(name: str, field: str, format: str, spec: JobSpec) -> Need | None:
    """Why weights of a format are not what a field of a spec asks for."""
    if field in _BASES and format != "full":
        return Need(
            False,
            "NotFullWeights",
            f"{name} produced {_MADE[format]}: name a job of full weights, or with output.merge",
        )
    if field != "adapter":
        return None
    prompts = isinstance(spec, FineTuneJobSpec) and spec.method == "prompt-tuning"
    if format == ("prompt" if prompts else "lora"):
        return None
    remedy = "method: prompt-tuning" if prompts else "method: lora and without output.merge"
    instead = "name it as baseModel, or" if format == "full" else "name"
    return Need(False, "NotAnAdapter", f"{name} produced {_MADE[format]}: {instead} a job with {remedy}")


def _artifact(name: str, job: Object) -> ArtifactStatus | Need:
    """What a job has made, or why there is nothing yet."""
    status = JobStatus.model_validate(job.get("status", {}), extra="ignore")
    if is_true(status.conditions, "Failed"):
        cause = status.failure.message if status.failure else Reason.INTERNAL_ERROR.value
        return Need(
            False,
            "JobFailed",
            f"{name} failed ({cause}): delete it and apply a corrected one under the same name",
        )
    if not is_true(status.conditions, "Complete") or status.artifact is None:
        if "deletionTimestamp" in job["metadata"]:
            return Need(
                False, "JobNotFound", f"{name} is being deleted: apply it again, and this job waits for that"
            )
        waits = find(status.conditions, "DependenciesReady")
        why = f" ({waits.message})" if waits and waits.status == "False" else ""
        return Need(
            False, "JobNotComplete", f"{name} is {status.phase}{why}; this job starts once it is Complete"
        )
    return status.artifact


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
