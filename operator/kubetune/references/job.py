"""A job that something else names, and what it makes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kubetune.api.finetunejob import LORA_METHODS, Lora
from kubetune.api.progress import ArtifactStatus
from kubetune.api.runspec import ArtifactFormat
from kubetune.api.status import JobStatus, is_true

JobKind = Literal["PretrainJob", "FineTuneJob"]


@dataclass(frozen=True)
class ReferencedJob:
    """The parts of a PretrainJob or FineTuneJob that matter to the resources that name it."""

    kind: JobKind
    name: str
    labels: Mapping[str, str]
    storage_uri: str
    """Where it writes."""
    stage: str
    """As in its run spec."""
    planned_format: ArtifactFormat
    """Format of the artifact that its spec asks for."""
    status: JobStatus
    rank: int | None = None
    """Rank of the LoRA adapter that its spec asks for, if the spec gives it."""
    deleted: bool = False
    """Whether it is being deleted."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def made(self) -> ArtifactStatus | None:
        """What it has made, once it is Complete."""
        return self.status.artifact if is_true(self.status.conditions, "Complete") else None

    @property
    def format(self) -> str:
        """Format of what it has made, or will make."""
        return self.made.format if self.made else self.planned_format


def referenced_job(kind: JobKind, job: Mapping[str, Any]) -> ReferencedJob:
    """The parts of a stored job.

    Args:
        kind: its kind, which the items of a list do not repeat.
        job: the job.
    """
    meta, spec = job["metadata"], job["spec"]
    planned = _format(kind, spec)
    # A job that continues an adapter keeps its rank.
    has_rank = planned == "lora" and not spec.get("adapter")
    return ReferencedJob(
        kind=kind,
        name=meta["name"],
        labels=meta.get("labels") or {},
        storage_uri=spec["output"]["storageUri"],
        stage=stage_of(kind, spec),
        planned_format=planned,
        status=JobStatus.model_validate(job.get("status", {}), extra="ignore"),
        rank=(spec.get("lora") or {}).get("rank", Lora().rank) if has_rank else None,
        deleted="deletionTimestamp" in meta,
    )


def stage_of(kind: str, spec: Mapping[str, Any]) -> str:
    """The stage of a job, as its run spec calls it."""
    if kind == "PretrainJob":
        return "mlm" if spec.get("objective") == "mlm" else "pretrain"
    return str(spec.get("stage", "sft"))


def _format(kind: JobKind, spec: Mapping[str, Any]) -> ArtifactFormat:
    method = "full" if kind == "PretrainJob" else spec.get("method", "lora")
    if method == "prompt-tuning":
        return "prompt"
    return "lora" if method in LORA_METHODS and not spec["output"].get("merge") else "full"
