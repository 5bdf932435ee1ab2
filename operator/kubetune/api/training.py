"""Blocks that every training job has: how to optimise, when to save, where to write, what to run on."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.meta import Block, cel, one_of, rules
from kubetune.api.pod import PodTemplate, claims_are_there
from kubetune.api.resources import ONE_GPU, ResourceRequirements
from kubetune.api.source import ObjectName, PvcUri

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Optimisation(Block):
    """Batch, schedule and numerics of a run; the length of the run is added by each kind."""

    global_batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Sequences per optimizer step, over all processes."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Sequences per forward pass of a process; divides globalBatchSize. Default: the largest divisor up to
    32."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw-8bit: AdamW whose moments are held in 8 bits, with one scale per 256 values (Dettmers et al.
    2022): 2 bytes per trained weight instead of 8. On a GPU they are paged: they move to the host's memory
    when the GPU's runs out."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Steps of linear warm-up from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay; never applied to biases and norms."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Gradients are clipped to this global norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; trained weights are kept in fp32. auto: bf16 where the hardware has
    it."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of initialisation, shuffling and dropout. On CPUs the same seed gives the same weights on the same
    hardware. On GPUs it does so only nearly, since some of their sums have no fixed order."""


_WHOLE_STEPS = cel(
    "!has(self.microBatchSize) || self.globalBatchSize % self.microBatchSize == 0",
    "must divide globalBatchSize: change one of them",
    field_path=".microBatchSize",
)


class PretrainTraining(Optimisation):
    """How to optimise a PretrainJob."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            one_of("maxSteps", "maxTokens"),
            _WHOLE_STEPS,
        )
    )

    max_steps: Positive | None = None
    """Length of the run in optimizer steps."""
    max_tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """Length of the run in tokens seen, rounded up to whole steps."""


class FineTuneTraining(Optimisation):
    """How to optimise a FineTuneJob."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            one_of("maxSteps", "epochs"),
            _WHOLE_STEPS,
        )
    )

    max_steps: Positive | None = None
    """Length of the run in optimizer steps."""
    epochs: Annotated[float, Field(gt=0, le=10000)] | None = None
    """Length of the run in passes over the training data. In stage domain one epoch is as many tokens as all
    sources hold together."""


class Checkpoint(Block):
    """When to save a state from which the run resumes exactly. One is always saved on SIGTERM."""

    every_steps: Positive | None = None
    """Save after this many optimizer steps. Default: a tenth of the run."""
    every_minutes: Positive | None = None
    """Save also when this much time has passed since the last one."""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    """How many checkpoints to keep while running. They are removed once the artifact is complete."""


class Output(Block):
    """Where checkpoints and the artifact go: `<storageUri>/<name>-<first 8 of uid>/`, never overwritten."""

    storage_uri: PvcUri
    """Folder on a claim of this namespace."""
    reclaim_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to that folder when the job is deleted. Retain: it stays. Delete: it is removed once no
    AdapterSet serves it and no unfinished job starts from it. Until then the job stays, too."""


class FineTuneOutput(Output):
    """Where checkpoints and the artifact go, and whether the adapter is merged."""

    merge: bool = False
    """With methods lora and qlora: write full weights, the base with the adapter merged into it, in the
    base's own dtype. Another job may use them as its baseModel; an AdapterSet can serve them only as a base.
    Merging takes memory for the base in fp32, whatever the method."""


class Cache(Block):
    """Where downloads are kept for later attempts and other jobs."""

    uri: PvcUri
    """Folder on a claim of this namespace; several jobs may share it."""


class Compute(Block):
    """Resources and pod settings of a run."""

    model_config = ConfigDict(json_schema_extra=rules(ONE_GPU, claims_are_there("resourcesPerNode")))

    resources_per_node: ResourceRequirements | None = None
    """Resources of the training pod, with at most one GPU. If a GPU is asked for, a trainer that finds none
    fails instead of training on the CPU."""
    service_account_name: ObjectName | None = None
    """ServiceAccount for workload identity. Its API token is never mounted."""
    cache: Cache | None = None
    """Keep what is downloaded from https://, s3:// and hf://. Each file is fetched once for all pods that
    share the cache, and an interrupted download is resumed. Default: a folder of the pod, which is lost with
    the pod."""
    reclaim_resources: ResourceRequirements | None = None
    """Resources of the pod that removes the job's files (output.reclaimPolicy: Delete)."""
    pod_template: PodTemplate | None = None
    """Overrides on the training pod."""
