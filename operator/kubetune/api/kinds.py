"""The three kinds as resources: names, columns, rules about the whole object."""

from dataclasses import dataclass
from typing import Literal

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.finetunejob import FineTuneJobSpec
from kubetune.api.meta import Block, cel
from kubetune.api.pretrainjob import PretrainJobSpec
from kubetune.api.status import AdapterSetStatus, JobStatus

NAME_LENGTH = 52
"""Names of children are made from it, and must fit a label of 63 characters."""


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False
    """Shown by `-o wide` only."""


@dataclass(frozen=True)
class Kind:
    """A custom resource."""

    name: str
    plural: str
    short: str
    description: str
    spec: type[Block]
    status: type[Block]
    columns: tuple[Column, ...]
    rules: tuple[dict[str, str], ...]
    """CEL about the whole object."""
    scalable: bool = False
    """Whether `kubectl scale` and autoscalers may set spec.replicas."""


def _name_rule(first: str, beginning: str) -> dict[str, str]:
    return cel(
        f"self.metadata.name.matches(r'^{first}([-a-z0-9]*[a-z0-9])?$')"
        f" && size(self.metadata.name) <= {NAME_LENGTH}",
        f"must be at most {NAME_LENGTH} lower-case letters, digits and '-', beginning with {beginning} and "
        "ending with a letter or digit: choose another name",
        field_path=".metadata.name",
    )


def _metric(name: str, description: str) -> Column:
    path = f'.status.trainerStatus.metrics[?(@.name=="{name.lower()}")].value'
    return Column(name, path, description)


_PHASE = Column("PHASE", ".status.phase", "Where it stands")
_PROGRESS = Column("PROGRESS", ".status.trainerStatus.progressPercentage", "Percent done", "integer")
_LOSS = _metric("LOSS", "Training loss")
_AGE = Column("AGE", ".metadata.creationTimestamp", "Time since creation", "date")
_JOB_WIDE = (
    Column("ATTEMPTS", ".status.attempts", "Child Jobs created so far", "integer", wide=True),
    Column(
        "CHECKPOINT", ".status.lastCheckpoint.step", "Step of the newest checkpoint", "integer", wide=True
    ),
    Column("ARTIFACT", ".status.artifact.uri", "Where the result is", wide=True),
)

PRETRAIN_JOB = Kind(
    name="PretrainJob",
    plural="pretrainjobs",
    short="ptj",
    description="Trains a base model from scratch, or continues the training of one.",
    spec=PretrainJobSpec,
    status=JobStatus,
    columns=(
        _PHASE,
        _PROGRESS,
        _metric("STEP", "Optimizer steps done"),
        _LOSS,
        Column("ETA", ".status.trainerStatus.estimatedRemainingSeconds", "Seconds left", "integer"),
        _AGE,
        *_JOB_WIDE,
    ),
    rules=(
        _name_rule("[a-z0-9]", "a letter or digit"),
        cel(
            "!has(self.spec.model.from) || !has(self.spec.model.from.jobRef)"
            " || self.spec.model.from.jobRef.kind != 'PretrainJob'"
            " || self.spec.model.from.jobRef.name != self.metadata.name",
            "a job cannot start from its own result: name another job",
            field_path=".spec.model.from.jobRef",
        ),
    ),
)
FINE_TUNE_JOB = Kind(
    name="FineTuneJob",
    plural="finetunejobs",
    short="ftj",
    description="Adapts a base model to examples.",
    spec=FineTuneJobSpec,
    status=JobStatus,
    columns=(
        _PHASE,
        Column("STAGE", ".spec.stage", "Kind of training"),
        Column("METHOD", ".spec.method", "What is trained"),
        _PROGRESS,
        _LOSS,
        Column("SCORE", ".status.evaluation.tuned[0].value", "First of evaluation.metrics, after training"),
        _AGE,
        *_JOB_WIDE,
    ),
    rules=(
        _name_rule("[a-z0-9]", "a letter or digit"),
        cel(
            "!has(self.spec.baseModel.jobRef) || self.spec.baseModel.jobRef.kind != 'FineTuneJob'"
            " || self.spec.baseModel.jobRef.name != self.metadata.name",
            "a job cannot start from its own result: name another job",
            field_path=".spec.baseModel.jobRef",
        ),
    ),
)
ADAPTER_SET = Kind(
    name="AdapterSet",
    plural="adaptersets",
    short="aset",
    description="Serves one base model with many adapters, chosen by each request's `model` field.",
    spec=AdapterSetSpec,
    status=AdapterSetStatus,
    columns=(
        _PHASE,
        Column("READY", ".status.ready", "Ready pods / desired pods"),
        Column("LOADED", ".status.loaded", "Adapters served by every desired pod / adapters in the spec"),
        Column("BASE", ".spec.baseModel.name", "Name of the base model"),
        _AGE,
        Column("ENDPOINT", ".status.endpoint", "URL inside the cluster", wide=True),
    ),
    # Its Service has the same name, and that must begin with a letter.
    rules=(_name_rule("[a-z]", "a letter"),),
    scalable=True,
)
KINDS = (PRETRAIN_JOB, FINE_TUNE_JOB, ADAPTER_SET)
