"""The run spec: everything a trainer needs to know, resolved. JSON, in an immutable ConfigMap whose name
carries its digest; mounted at `RUN_SPEC_PATH`. A checkpoint is used only if it carries the same digest and
job UID."""

import hashlib
import json
from typing import Any, Literal

from kubetune.api.data import Evaluation, Format, Metric
from kubetune.api.finetunejob import LORA_METHODS, Classification, Dpo, Lora, PromptTuning, Quantization
from kubetune.api.lmeval import Tasks
from kubetune.api.meta import Block
from kubetune.api.pretrainjob import Mlm, TokenizerTraining
from kubetune.api.reinforcement import Grpo, Ppo, RewardFunction, RolloutSettings
from kubetune.api.training import Checkpoint, FineTuneTraining, PretrainTraining

RUN_SPEC_PATH = "/etc/kubetune/run.json"
CA_PATH = "/etc/kubetune/ca.crt"
TOKEN_PATH = "/var/run/secrets/kubetune/token"
TERMINATION_LOG = "/dev/termination-log"
GPU_VARIABLE = "KUBETUNE_GPU"
"""Resource name of the GPU that the pod was given, if it was. It belongs to an attempt, not to the run."""
PVC_ROOT = "/mnt/pvc"
"""A claim is mounted at /mnt/pvc/<claim>."""
CONFIGMAP_ROOT = "/mnt/configmap"
"""A ConfigMap is mounted at /mnt/configmap/<name>."""
SECRET_ROOT = "/mnt/secret"
"""A source's Secret is mounted at /mnt/secret/<name>."""
CACHE_ROOT = "/var/cache/kubetune"
"""An emptyDir. Downloads go here unless the job has a cache. The links by which the trainer finds remote
sources are always here."""

ArtifactFormat = Literal["full", "lora", "prompt"]
"""full: full weights; lora: a LoRA adapter of peft; prompt: virtual tokens, an adapter of peft, too."""

USUAL_METRICS: dict[str, list[Metric]] = {
    "pretrain": ["loss", "perplexity"],
    "mlm": ["loss", "perplexity"],
    "sft": ["loss", "perplexity"],
    "domain": ["loss", "perplexity"],
    "dpo": ["accuracy", "reward-margin", "loss"],
    "reward": ["accuracy", "reward-margin", "loss"],
    "ppo": ["reward", "kl"],
    "grpo": ["reward", "kl"],
    "classification": ["accuracy", "f1", "loss"],
}
"""The default metrics of each stage."""


class JobIdentity(Block):
    """The job that the run belongs to."""

    kind: Literal["PretrainJob", "FineTuneJob"]
    """Kind."""
    namespace: str
    """Namespace."""
    name: str
    """Name."""
    uid: str
    """UID: a job created again under the same name is another one."""


class RunSecret(Block):
    """Credentials of a source."""

    name: str
    """Name of the Secret."""
    path: str
    """Folder in the pod with a file for each of its keys."""


class RunSource(Block):
    """One part of the data."""

    name: str
    """Name in reports."""
    uri: str
    """As in the job."""
    path: str
    """File, folder or glob in the pod."""
    root: str
    """Mount that the resolved real path must stay in (no escape by symlink). For a remote source it is a
    link, which the trainer makes after the download."""
    secret: RunSecret | None = None
    """Credentials of a remote source."""
    format: Format
    """Shape of a record."""
    weight: float = 1.0
    """As in the job."""
    text_field: str = "text"
    """Field that holds the text (format text)."""
    fields: dict[str, str] | None = None
    """Renamed fields: the format's name -> the record's own name."""


class RunData(Block):
    """The data."""

    sources: list[RunSource]
    """Its parts."""
    sequence_length: int
    """Tokens per sequence."""
    packing: bool | None = None
    """Several documents per sequence, isolated; None: where the architecture keeps them apart."""
    prompt_loss: bool = False
    """Train on prompts, too."""
    enable_thinking: bool | None = None
    """What the chat template gets as enable_thinking; None: nothing."""
    labels: list[str] | None = None
    """Classes in the order of the model's outputs; None: those of the data, sorted."""
    validation_fraction: float
    """Share held out, unless the evaluation has a data set of its own."""


class RunModel(Block):
    """Either a config (train from scratch) or a folder with weights."""

    config: dict[str, Any] | None = None
    """A transformers config."""
    uri: str | None = None
    """Where the base comes from, as resolved."""
    path: str | None = None
    """Folder with the base in the pod."""
    root: str | None = None
    """Mount that it must stay in; for a remote base a link that the trainer makes."""
    secret: RunSecret | None = None
    """Credentials of a remote base."""
    digest: str | None = None
    """Digest that the base must have."""


class RunAdapter(Block):
    """A folder with an adapter that a run starts from, or with a reward model."""

    uri: str
    """Where it comes from, as resolved."""
    path: str
    """The folder in the pod."""
    root: str
    """Mount that it must stay in; for a remote folder a link that the trainer makes."""
    secret: RunSecret | None = None
    """Credentials of a remote adapter."""
    digest: str | None = None
    """Digest that the folder must have."""


class RunReward(Block):
    """How answers are rewarded: by a model or by functions."""

    model: RunAdapter | None = None
    """Folder of a reward model: full weights, or an adapter of the base."""
    functions: list[RewardFunction] | None = None
    """Rules whose weighted sum is the reward."""


class RunLmEval(Tasks):
    """Tasks of lm-eval to measure. The trainer knows which data sets they need."""

    root: str
    """Folder in which the trainer makes a link <org>/<name> for each data set."""
    secret: RunSecret | None = None
    """Credentials for the hub."""


class RunOutput(Block):
    """Where to write."""

    uri: str
    """Folder of this run as a URI: <storageUri>/<name>-<uid8>."""
    path: str
    """The same in the pod. Checkpoints go to <path>/checkpoints, the result to <path>/artifact."""


class RunCache(Block):
    """Where downloads go."""

    uri: str | None = None
    """The cache's folder as in the job; None: it goes with the pod."""
    path: str
    """The folder in the pod."""


class RunSpec(Block):
    """One training run."""

    job: JobIdentity
    """Whose run it is."""
    stage: Literal["pretrain", "mlm", "sft", "domain", "dpo", "reward", "ppo", "grpo", "classification"]
    """What is done; pretrain is objective clm, and domain the same in a FineTuneJob."""
    model: RunModel
    """What is trained."""
    tokenizer: TokenizerTraining | None = None
    """Set when a tokenizer is to be trained; else it comes with the base model."""
    mlm: Mlm | None = None
    """Set with stage mlm."""
    method: Literal["full", "lora", "qlora", "prompt-tuning"]
    """What is trainable."""
    lora: Lora | None = None
    """Set with methods lora and qlora, unless the run starts from an adapter."""
    merge: Literal[True] | None = None
    """Set where the adapter is to be merged into the base."""
    adapter: RunAdapter | None = None
    """Set if the run starts from an adapter, whose rank and target modules then apply."""
    quantization: Quantization | None = None
    """Set with method qlora."""
    prompt_tuning: PromptTuning | None = None
    """Set with method prompt-tuning, unless the run starts from an adapter."""
    dpo: Dpo | None = None
    """Set with stage dpo."""
    reward: RunReward | None = None
    """Set with stages ppo and grpo."""
    rollout: RolloutSettings | None = None
    """Set with stages ppo and grpo."""
    ppo: Ppo | None = None
    """Set with stage ppo."""
    grpo: Grpo | None = None
    """Set with stage grpo."""
    classification: Classification | None = None
    """Set with stage classification."""
    data: RunData
    """What it is trained on."""
    evaluation: Evaluation
    """How it is measured; tasks of lm-eval are in `lm_eval`."""
    evaluation_source: RunSource | None = None
    """Set when the evaluation has a data set of its own. Then nothing is held out of the training data,
    except what also occurs in that data set."""
    lm_eval: RunLmEval | None = None
    """Set where tasks of lm-eval are measured, too."""
    pretrain: PretrainTraining | None = None
    """Optimisation of stages pretrain and mlm."""
    finetune: FineTuneTraining | None = None
    """Optimisation of the other stages."""
    checkpoint: Checkpoint
    """When to save."""
    cache: RunCache | None = None
    """Set where something is remote."""
    output: RunOutput
    """Where to write."""

    @property
    def training(self) -> PretrainTraining | FineTuneTraining:
        """The optimisation block that is set."""
        chosen = self.pretrain or self.finetune
        if chosen is None:
            raise ValueError("the run spec has neither pretrain nor finetune")
        return chosen

    @property
    def format(self) -> ArtifactFormat:
        """What it makes: full weights, or an adapter of some kind."""
        if self.method == "prompt-tuning":
            return "prompt"
        return "lora" if self.method in LORA_METHODS and not self.merge else "full"

    @property
    def metrics(self) -> list[Metric]:
        """What is measured: as asked for, or what is usual for the stage."""
        if self.evaluation.metrics is not None:
            return self.evaluation.metrics
        return USUAL_METRICS[self.stage]

    def canonical(self) -> str:
        """The JSON text that is stored: sorted keys, no spaces."""
        return json.dumps(self.wire(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """`sha256:...` of the canonical text."""
        return "sha256:" + hashlib.sha256(self.canonical().encode()).hexdigest()
