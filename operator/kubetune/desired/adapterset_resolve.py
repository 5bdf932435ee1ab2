"""Which versions an AdapterSet should serve, from what its jobs have produced. Pure.

A version that was resolved once stays until there is a better one: a deleted job, a failed new run or a
mistyped digest never take a working adapter out of service; they are reported instead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from kubetune.api.adapterset import ENGINE_LORA_RANKS, AdapterSetSpec, ServedAdapter
from kubetune.api.status import AdapterSetStatus, AdapterStatus, JobStatus, ResolvedBase
from kubetune.api.table import TableAdapter
from kubetune.desired.volumes import locate

JobKind = Literal["PretrainJob", "FineTuneJob"]


@dataclass(frozen=True)
class ObservedJob:
    """What matters of a PretrainJob or FineTuneJob."""

    kind: JobKind
    name: str
    labels: Mapping[str, str]
    storage_uri: str
    status: JobStatus
    rank: int | None = None
    """Rank of the adapter that it will make; None if it makes none."""


@dataclass(frozen=True)
class Claim:
    """What matters of a PersistentVolumeClaim."""

    shareable: bool
    """Whether several pods may read it, wherever they run."""


@dataclass(frozen=True)
class Problem:
    """Why something is not resolved."""

    reason: str
    message: str


class Unresolved(Exception):
    """There is no version to serve."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(reason, message)


@dataclass(frozen=True)
class Resolution:
    """What should be served."""

    base: ResolvedBase | None
    base_problem: Problem | None
    adapters: list[AdapterStatus] = field(default_factory=list)
    """One per adapter of the spec, in its order; digest and uri are set if there is a version, reason and
    message if there is a problem. Both may be: then an older version is served meanwhile."""

    @property
    def versions(self) -> list[AdapterStatus]:
        """Those that have a version, sorted by name."""
        return sorted((a for a in self.adapters if a.digest), key=lambda a: a.name)


def resolve(
    spec: AdapterSetSpec, previous: AdapterSetStatus, jobs: Iterable[ObservedJob], claims: Mapping[str, Claim]
) -> Resolution:
    """What an AdapterSet should serve.

    previous: its status so far; jobs: those of its namespace; claims: those of its namespace, by name.
    """
    by_name = {(job.kind, job.name): job for job in jobs}
    base, base_problem = _base(spec, previous, by_name, claims)
    before = {a.name: a for a in previous.adapters if a.digest}
    adapters = [
        _adapter(adapter, before.get(adapter.name), base, by_name, claims, spec.engine.max_lora_rank)
        for adapter in spec.adapters
    ]
    return Resolution(base, base_problem, adapters)


Jobs = Mapping[tuple[JobKind, str], ObservedJob]
Claims = Mapping[str, Claim]


def upcoming(spec: AdapterSetSpec, jobs: Iterable[ObservedJob]) -> list[ObservedJob]:
    """Jobs that are still making an adapter for this set: the engine had better be ready for it."""
    names = {a.source.job_ref.name for a in spec.adapters if a.source.job_ref}
    selectors = [a.source.job_selector.match_labels.items() for a in spec.adapters if a.source.job_selector]
    return [
        job
        for job in jobs
        if job.kind == "FineTuneJob"
        and job.status.phase not in ("Succeeded", "Failed")
        and (job.name in names or any(labels <= job.labels.items() for labels in selectors))
    ]


def _base(
    spec: AdapterSetSpec, previous: AdapterSetStatus, jobs: Jobs, claims: Claims
) -> tuple[ResolvedBase | None, Problem | None]:
    wanted = spec.base_model
    # An engine that runs must not change under its adapters: what was resolved once, stays.
    found = previous.base
    try:
        if found is None and wanted.uri:
            found = ResolvedBase(uri=wanted.uri, digest=wanted.digest)
        elif found is None and wanted.job_ref:
            artifact = _finished(jobs, wanted.job_ref.kind, wanted.job_ref.name).status.artifact
            assert artifact is not None, "a finished job has one"
            if artifact.format != "full":
                raise Unresolved(
                    "NotABaseModel",
                    f"{wanted.job_ref.name} made an adapter: name a job of full weights",
                )
            found = ResolvedBase(uri=artifact.uri, digest=artifact.digest)
        assert found is not None, "the schema demands uri or jobRef"
        _check_claim(found.uri, claims)
    except Unresolved as unresolved:
        return found, unresolved.problem
    return found, None


def _adapter(
    wanted: ServedAdapter,
    before: AdapterStatus | None,
    base: ResolvedBase | None,
    jobs: Jobs,
    claims: Claims,
    max_rank: int | None,
) -> AdapterStatus:
    kept = _version_only(before) if before else None
    try:
        if wanted.source.uri and wanted.digest:
            found = _version(wanted.name, wanted.source.uri, wanted.digest)
        else:
            candidate = _candidate(wanted, kept, jobs)
            if isinstance(candidate, AdapterStatus):
                return candidate
            found = _artifact_of(candidate, wanted.name, base, max_rank)
        assert found.uri is not None, "a version lies somewhere"
        _check_claim(found.uri, claims)
    except Unresolved as unresolved:
        message = unresolved.problem.message
        if kept:
            message += f"; {kept.loaded_name} is served meanwhile"
        return (kept or AdapterStatus(name=wanted.name)).model_copy(
            update={"reason": unresolved.problem.reason, "message": message}
        )
    return found


def _candidate(wanted: ServedAdapter, kept: AdapterStatus | None, jobs: Jobs) -> ObservedJob | AdapterStatus:
    """The job whose artifact should be served, or what was resolved before, where that is still right."""
    if wanted.digest and kept and kept.digest == wanted.digest:
        return kept
    kept_job_is_gone = kept is not None and kept.job is not None and ("FineTuneJob", kept.job) not in jobs
    if wanted.source.job_ref:
        name = wanted.source.job_ref.name
        if kept and kept_job_is_gone and kept.job == name and not wanted.digest:
            return kept
        job = _finished(jobs, "FineTuneJob", name)
        if wanted.digest and _digest(job) != wanted.digest:
            raise Unresolved(
                "DigestNotFound",
                f"FineTuneJob {name} made {_digest(job)}: correct digest, or name the job that made it",
            )
        return job
    assert wanted.source.job_selector is not None, "the schema demands one source"
    labels = wanted.source.job_selector.match_labels
    found = [
        j for (kind, _), j in jobs.items() if kind == "FineTuneJob" and labels.items() <= j.labels.items()
    ]
    complete = [j for j in found if _is_complete(j)]
    if wanted.digest:
        complete = [j for j in complete if _digest(j) == wanted.digest]
    newest = max(complete, key=_completed, default=None)
    # A newer one whose job was deleted is not given up for an older one.
    if (
        kept
        and kept_job_is_gone
        and not wanted.digest
        and (newest is None or _completed(newest) < _kept_since(kept))
    ):
        return kept
    if newest is None:
        which = f" and made {wanted.digest}" if wanted.digest else ""
        asked = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
        raise Unresolved(
            "NoCompleteJob",
            f"none of {len(found)} FineTuneJobs with labels {asked} is Complete{which}: create one, or wait",
        )
    return newest


def _artifact_of(
    job: ObservedJob, name: str, base: ResolvedBase | None, max_rank: int | None
) -> AdapterStatus:
    """A job's artifact as a version, if it can be served on this base."""
    artifact = job.status.artifact
    assert artifact is not None, "only finished jobs are candidates"
    if artifact.format != "lora":
        made = "virtual tokens, which no engine serves" if artifact.format == "prompt" else "full weights"
        raise Unresolved(
            "NotAnAdapter",
            f"FineTuneJob {job.name} made {made}: use method lora, without output.merge",
        )
    belongs_to = artifact.base_model_digest
    if base and base.digest and belongs_to and belongs_to != base.digest:
        raise Unresolved(
            "BaseModelMismatch",
            f"FineTuneJob {job.name} adapted {belongs_to}, but the base is {base.digest}: train it on that",
        )
    limit = max_rank or ENGINE_LORA_RANKS[-1]
    if artifact.rank and artifact.rank > limit:
        raise Unresolved(
            "RankTooHigh", f"rank {artifact.rank} exceeds {limit}: raise engine.maxLoraRank or train anew"
        )
    return _version(
        name,
        artifact.uri,
        artifact.digest,
        job=job.name,
        completion_time=job.status.completion_time,
        rank=artifact.rank,
    )


def _version(
    name: str,
    uri: str,
    digest: str,
    *,
    job: str | None = None,
    completion_time: str | None = None,
    rank: int | None = None,
) -> AdapterStatus:
    loaded_name = TableAdapter(name=name, digest=digest, path="", root="").loaded_name
    return AdapterStatus(
        name=name,
        job=job,
        completion_time=completion_time,
        digest=digest,
        uri=uri,
        rank=rank,
        loaded_name=loaded_name,
    )


def _version_only(before: AdapterStatus) -> AdapterStatus:
    """Without what was observed in pods."""
    fields = ("name", "job", "completion_time", "digest", "uri", "rank", "loaded_name")
    return AdapterStatus(**{name: getattr(before, name) for name in fields})


def _finished(jobs: Jobs, kind: JobKind, name: str) -> ObservedJob:
    job = jobs.get((kind, name))
    if job is None:
        raise Unresolved("JobNotFound", f"{kind} {name} does not exist: create it")
    if job.status.phase == "Failed":
        raise Unresolved(
            "JobFailed", f"{kind} {name} failed: mend the cause, then delete it and create it again"
        )
    if not _is_complete(job):
        raise Unresolved("JobNotFinished", f"{kind} {name} is {job.status.phase}")
    return job


def _is_complete(job: ObservedJob) -> bool:
    return job.status.phase == "Succeeded" and job.status.artifact is not None


def _digest(job: ObservedJob) -> str | None:
    return job.status.artifact.digest if job.status.artifact else None


def _completed(job: ObservedJob) -> tuple[datetime, str]:
    """For sorting; the name decides between jobs of the same second."""
    return _time(job.status.completion_time), job.name


def _kept_since(kept: AdapterStatus) -> tuple[datetime, str]:
    return _time(kept.completion_time), kept.job or ""


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def _check_claim(uri: str, claims: Claims) -> None:
    claim = locate(uri).volume
    if claim not in claims:
        raise Unresolved("ClaimNotFound", f"PersistentVolumeClaim {claim} does not exist: create it")
