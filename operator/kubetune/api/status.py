"""Status of the three kinds."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from kubetune.api.exitcodes import Reason
from kubetune.api.meta import Block, map_list
from kubetune.api.progress import (
    ArtifactStatus,
    CheckpointStatus,
    DataStatus,
    EvaluationStatus,
    PlanStatus,
    TrainerStatus,
)

JobPhase = Literal[
    "Pending", "WaitingForDependency", "Running", "Suspended", "Succeeded", "Failed", "Terminating"
]
SetPhase = Literal["Pending", "WaitingForDependency", "Progressing", "Ready", "ScaledToZero", "Degraded"]


NEVER_OBSERVED = -1
"""The observedGeneration that the API server gives a new resource, so that kstatus does not take it for
Current before the operator has looked at it, or while there is none."""


class Condition(Block):
    """A meta/v1 Condition."""

    type: Annotated[str, Field(max_length=316)]
    """What is judged."""
    status: Literal["True", "False", "Unknown"]
    """The judgement; Unknown when it could not be observed."""
    observed_generation: int | None = None
    """Generation of the spec that was judged."""
    last_transition_time: str
    """When the status last changed; RFC 3339, UTC."""
    reason: Annotated[str, Field(max_length=1024)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """For people: what is the case, and what to do."""


def find(found: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of a type."""
    return next((c for c in found if c.type == kind), None)


def is_true(found: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is there and true."""
    condition = find(found, kind)
    return condition is not None and condition.status == "True"


Conditions = Annotated[list[Condition], Field(max_length=16, json_schema_extra=map_list("type"))]


class Failure(Block):
    """Why a job or its last attempt failed, or why the attempt cannot start."""

    reason: Reason
    """One word for programs."""
    exit_code: int | None = None
    """Exit code of the trainer, if it ran."""
    pod: str | None = None
    """The pod that failed."""
    message: str = ""
    """What happened, and what to do."""


class JobStatus(Block):
    """Status of PretrainJob and FineTuneJob."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    phase: JobPhase = "Pending"
    """Where the job stands."""
    start_time: str | None = None
    """When the first attempt was created; RFC 3339, UTC."""
    completion_time: str | None = None
    """When the job succeeded or failed."""
    attempts: int = 0
    """Child Jobs created so far."""
    restarts: int = 0
    """Of these, those that count against backoffLimit."""
    active_seconds: int = 0
    """Seconds that the pods of all attempts ran, without a pod that still runs. Counts against
    activeDeadlineSeconds."""
    active_until: str | None = None
    """Up to which moment activeSeconds is counted; RFC 3339, UTC."""
    conditions: Conditions = []
    """Ready, Reconciling, Stalled; DependenciesReady, ResourcesReady, ArtifactReady, Suspended, Complete,
    Failed, Warnings. Reclaimed while the job is being deleted and its files are to go, too; Synced while
    the API server refuses something."""
    run_spec: str | None = None
    """ConfigMap with the run spec. It was resolved for the first attempt, and every later attempt uses the
    same."""
    plan: PlanStatus | None = None
    """Settings that the spec left open, as the trainer resolved them."""
    trainer_status: TrainerStatus | None = None
    """Live numbers, written by the progress receiver."""
    last_checkpoint: CheckpointStatus | None = None
    """Newest checkpoint, written by the progress receiver."""
    data: DataStatus | None = None
    """Facts about the data."""
    evaluation: EvaluationStatus | None = None
    """Before and after."""
    artifact: ArtifactStatus | None = None
    """What was produced."""
    failure: Failure | None = None
    """Why the job failed. While it is not over: why the last attempt failed, or why the present one does not
    start."""


class FailingPod(Block):
    """A serving pod that has not loaded an adapter."""

    pod: str
    """Name of the pod."""
    reason: str
    """One word for programs."""
    message: str = ""
    """The last error."""


class AdapterStatus(Block):
    """One adapter of an AdapterSet."""

    name: str
    """The name that clients ask for."""
    job: str | None = None
    """FineTuneJob that the served version came from."""
    completion_time: str | None = None
    """When that job completed; a selector never goes back to an older one."""
    digest: str | None = None
    """The version that should be served."""
    uri: str | None = None
    """Where that version lies."""
    rank: int | None = None
    """Its rank."""
    loaded_name: str | None = None
    """The engine's name for that version: <name>-<first 8 of digest>."""
    ready: int = 0
    """Pods that serve that version."""
    desired: int = 0
    """Pods that should serve it."""
    reason: str | None = None
    """Why it is not served everywhere, in one word."""
    message: str | None = None
    """Why, for people."""
    failing: Annotated[list[FailingPod], Field(max_length=3)] = []
    """Pods that could not load it."""


class ResolvedBase(Block):
    """The base model being served."""

    uri: str
    """Where it lies."""
    digest: str | None = None
    """Its digest."""


class AdapterSetStatus(Block):
    """Status of an AdapterSet."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    phase: SetPhase = "Pending"
    """Where the set stands."""
    replicas: int = 0
    """Pods that exist (scale subresource)."""
    ready_replicas: int = 0
    """Pods that are ready."""
    ready: str = "0/0"
    """Ready pods / desired pods."""
    loaded: str = "0/0"
    """Adapters served by every desired pod / adapters in the spec."""
    selector: str = ""
    """Label selector of the pods (scale subresource)."""
    base: ResolvedBase | None = None
    """The base."""
    endpoint: str | None = None
    """URL of the API inside the cluster."""
    adapters: Annotated[list[AdapterStatus], Field(max_length=256, json_schema_extra=map_list("name"))] = []
    """The adapters."""
    conditions: Conditions = []
    """Ready, Reconciling, Stalled; Resolved, Loaded, Available, Progressing, Degraded; Synced while the API
    server refuses something."""
