"""What a trainer reports while it runs (HTTP) and when it ends (termination message).

The HTTP protocol is Kubeflow Trainer's, so `transformers.integrations.KubeflowCallback` speaks it, too: a
POST of `ProgressUpdate` with a bearer token. `lastCheckpoint` and `warnings` are our extensions.
"""

import math
import re
from typing import Annotated

from pydantic import Field, field_validator

from kubetune.api.exitcodes import Reason
from kubetune.api.meta import Block
from kubetune.api.warnings import MAX_WARNINGS, RunWarning

MAX_METRICS = 64
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
TERMINATION_MESSAGE_BYTES = 4096


class NamedValue(Block):
    """One number, as text: Kubernetes APIs carry no floats in status."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name, for example loss."""
    value: Annotated[str, Field(max_length=63)]
    """A finite decimal number."""

    @field_validator("value")
    @classmethod
    def _finite(cls, value: str) -> str:
        # Python reads more as a number than others do: 1_000, spaces, digits of other scripts.
        if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
            raise ValueError("not a finite number")
        return value


class Measurement(NamedValue):
    """One result of an evaluation."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """A metric, or <task>/<metric> of lm-eval."""


class TrainerStatus(Block):
    """Kubeflow Trainer's `trainerStatus`."""

    progress_percentage: Annotated[int | None, Field(ge=0, le=100)] = None
    """Done so far; 100 only when the run has finished."""
    estimated_remaining_seconds: Annotated[int | None, Field(ge=0, le=2**53)] = None
    """Time left at the present speed."""
    metrics: Annotated[list[NamedValue], Field(max_length=MAX_METRICS)] = []
    """Newest value of each metric: step, totalSteps, loss, learningRate, gradNorm, tokensPerSecond, ..."""
    warnings: Annotated[list[RunWarning], Field(max_length=MAX_WARNINGS)] | None = None
    """What the run does differently from what one may expect. kubetune's extension."""
    last_updated_time: Annotated[str | None, Field(max_length=63)] = None
    """RFC 3339, UTC."""


class CheckpointStatus(Block):
    """The newest checkpoint from which the run can resume."""

    step: Annotated[int, Field(ge=0, le=2**53)]
    """Optimizer steps done."""
    time: Annotated[str, Field(max_length=63)]
    """RFC 3339, UTC."""
    uri: Annotated[str, Field(max_length=2048)]
    """Its folder."""
    digest: Annotated[str, Field(max_length=71)]
    """Digest of its files."""


class ProgressUpdate(Block):
    """Body of a progress POST."""

    trainer_status: TrainerStatus
    """The newest numbers."""
    last_checkpoint: CheckpointStatus | None = None
    """Set once there is one."""


class ArtifactStatus(Block):
    """What a run produced."""

    uri: str
    """Its folder."""
    digest: str
    """SHA-256 over the sorted lines `sha256  size  path` of its files."""
    size_bytes: int
    """Size of its files together."""
    format: str
    """full: full weights; lora: a LoRA adapter of peft; prompt: virtual tokens, also an adapter of peft."""
    base_model_digest: str | None = None
    """Digest of the model that an adapter belongs to."""
    rank: int | None = None
    """Rank of a lora adapter."""
    target_modules: list[str] | None = None
    """Layers that a lora adapter changes."""


class DataStatus(Block):
    """Facts about the data."""

    documents: int
    """Documents or examples read that hold text."""
    held_out: int
    """Those of them that are not trained on: held out for the evaluation, or also in evaluation.data."""
    tokens: int
    """Tokens in the training part."""
    truncated: int = 0
    """Examples that were cut to sequenceLength."""
    dropped: int = 0
    """Left out: records without text, and examples whose answer does not fit into sequenceLength."""


class Sample(Block):
    """One prompt, answered before and after training."""

    prompt: str
    """The prompt."""
    before: str | None = None
    """The base model's answer."""
    after: str
    """The trained model's answer."""


class EvaluationStatus(Block):
    """Measurements on the held-out examples."""

    baseline: list[Measurement] = []
    """Before training."""
    tuned: list[Measurement] = []
    """After training."""
    samples: list[Sample] = []
    """Answers to sample prompts, at most 8, shortened to fit a termination message. report.html has them in
    full."""


class PlanStatus(Block):
    """Settings as the trainer resolved them."""

    method: str
    """As in the job."""
    parameters: int
    """Parameters of the model."""
    trainable_parameters: int
    """Parameters that are trained, with those of the adapter."""
    precision: str
    """Arithmetic of the forward pass."""
    micro_batch_size: int
    """Sequences per forward pass."""
    total_steps: int
    """Optimizer steps of the run."""
    packing: bool | None = None
    """Whether several documents share a sequence."""
    attention: str | None = None
    """Implementation of attention: sdpa (torch's fused kernels), eager (step by step), or the model's own."""


class TerminationMessage(Block):
    """What a trainer leaves at its end: at most 4096 bytes of JSON in /dev/termination-log."""

    reason: Reason
    """Why it ended; agrees with the exit code."""
    message: str = ""
    """For people: what happened and what to do."""
    trainer_status: TrainerStatus | None = None
    """Final numbers."""
    last_checkpoint: CheckpointStatus | None = None
    """Newest checkpoint, unless the run is complete."""
    plan: PlanStatus | None = None
    """Resolved settings."""
    data: DataStatus | None = None
    """Facts about the data."""
    evaluation: EvaluationStatus | None = None
    """Before and after."""
    artifact: ArtifactStatus | None = None
    """Set on success."""
