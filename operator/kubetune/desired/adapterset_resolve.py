"""Which versions an AdapterSet should serve, from what its jobs have produced. Pure.

A version that was resolved once stays until there is a better one: a deleted job, a failed new run or a
mistyped digest never take a working adapter out of service; they are reported instead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kubetune.api.adapterset import ENGINE_LORA_RANKS, AdapterSetSpec, ServedAdapter
from kubetune.api.progress import ArtifactStatus
from kubetune.api.status import AdapterSetStatus, AdapterStatus, ResolvedBase
from kubetune.api.table import TableAdapter
from kubetune.desired.volumes import locate
from kubetune.references.job import JobKind, ReferencedJob
from kubetune.references.uses import BASE, LORA_ADAPTER, Problem, Use, artifact_for, wrong_base


@dataclass(frozen=True)
class Claim:
    """The facts about a PersistentVolumeClaim that matter."""

    shareable: bool
    """Whether several pods may read it, wherever they run."""


class Unresolved(Exception):
    """There is no version to serve."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


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
    spec: AdapterSetSpec,
    previous: AdapterSetStatus,
    jobs: Iterable[ReferencedJob],
    claims: Mapping[str, Claim],
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


Jobs = Mapping[tuple[JobKind, str], ReferencedJob]
Claims = Mapping[str, Claim]


def upcoming(spec: AdapterSetSpec, jobs: Iterable[ReferencedJob]) -> list[ReferencedJob]:
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
            made = _made(BASE, jobs, wanted.job_ref.kind, wanted.job_ref.name)
            found = ResolvedBase(uri=made.uri, digest=made.digest)
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
            found = _artifact_of(candidate, wanted, jobs, base, max_rank)
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


def _candidate(wanted: ServedAdapter, kept: AdapterStatus | None, jobs: Jobs) -> str | AdapterStatus:
    """Name of the job whose artifact should be served, or what was resolved before, where that is right."""
    if wanted.digest and kept and kept.digest == wanted.digest:
        return kept
    kept_job_is_gone = kept is not None and kept.job is not None and ("FineTuneJob", kept.job) not in jobs
    if wanted.source.job_ref:
        name = wanted.source.job_ref.name
        if kept and kept_job_is_gone and kept.job == name and not wanted.digest:
            return kept
        return name
    assert wanted.source.job_selector is not None, "the schema demands one source"
    labels = wanted.source.job_selector.match_labels
    found = [
        j for (kind, _), j in jobs.items() if kind == "FineTuneJob" and labels.items() <= j.labels.items()
    ]
    complete = [j for j in found if j.made and wanted.digest in (None, j.made.digest)]
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
            Problem(
                "NoCompleteJob",
                f"none of {len(found)} FineTuneJobs with labels {asked} is Complete{which}: create one, or "
                "wait",
            )
        )
    return newest.name


def _artifact_of(
    job: str, wanted: ServedAdapter, jobs: Jobs, base: ResolvedBase | None, max_rank: int | None
) -> AdapterStatus:
    """A job's artifact as a version, if it can be served on this base."""
    artifact = _made(LORA_ADAPTER, jobs, "FineTuneJob", job)
    if wanted.digest and artifact.digest != wanted.digest:
        raise Unresolved(
            Problem(
                "DigestNotFound",
                f"FineTuneJob {job} made {artifact.digest}: correct digest, or name the job that made it",
            )
        )
    mismatch = wrong_base(f"FineTuneJob {job}", artifact.base_model_digest, base.digest if base else None)
    if mismatch:
        raise Unresolved(mismatch)
    limit = max_rank or ENGINE_LORA_RANKS[-1]
    if artifact.rank and artifact.rank > limit:
        raise Unresolved(
            Problem(
                "RankTooHigh",
                f"rank {artifact.rank} exceeds {limit}: raise engine.maxLoraRank, or train with a lower rank",
            )
        )
    return _version(
        wanted.name,
        artifact.uri,
        artifact.digest,
        job=job,
        completion_time=jobs["FineTuneJob", job].status.completion_time,
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
    """The version alone, without what was observed in pods."""
    fields = ("name", "job", "completion_time", "digest", "uri", "rank", "loaded_name")
    return AdapterStatus(**{name: getattr(before, name) for name in fields})


def _made(use: Use, jobs: Jobs, kind: JobKind, name: str) -> ArtifactStatus:
    made = artifact_for(use, kind, name, jobs.get((kind, name)))
    if isinstance(made, Problem):
        raise Unresolved(made)
    return made


def _completed(job: ReferencedJob) -> tuple[datetime, str]:
    """For sorting; the name decides between jobs of the same second."""
    return _time(job.status.completion_time), job.name


def _kept_since(kept: AdapterStatus) -> tuple[datetime, str]:
    return _time(kept.completion_time), kept.job or ""


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def _check_claim(uri: str, claims: Claims) -> None:
    claim = locate(uri).volume
    if claim not in claims:
        raise Unresolved(Problem("ClaimNotFound", f"PersistentVolumeClaim {claim} does not exist: create it"))
