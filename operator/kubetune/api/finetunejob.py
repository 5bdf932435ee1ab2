"""FineTuneJob: adapt a base model to examples."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.data import Evaluation, FineTuneData
from kubetune.api.lifecycle import Lifecycle, compute_is_fixed
from kubetune.api.meta import SET_LIST, Block, cel, immutable, rules
from kubetune.api.reinforcement import Grpo, Ppo, Reward, RolloutSettings
from kubetune.api.source import AdapterStart, BaseSource
from kubetune.api.stages import STAGE_RULES, WITH_HEAD
from kubetune.api.training import Checkpoint, Compute, FineTuneOutput, FineTuneTraining


class Lora(Block):
    """Low-rank adapters (Hu et al. 2021), as in peft's LoraConfig."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "size(self.targetModules) > 0"
                " || (has(self.targetParameters) && size(self.targetParameters) > 0)",
                "no layer would get an adapter: name layers in targetModules, or weights of experts "
                "in targetParameters",
                field_path=".targetModules",
            ),
            cel(
                "!has(self.targetParameters) || size(self.targetParameters) == 0"
                " || (self.dropout == 0.0 && self.variant != 'dora')",
                "adapters of experts allow neither dropout nor dora: set dropout to 0 and variant to lora "
                "or rslora, or remove targetParameters",
                field_path=".targetParameters",
            ),
        )
    )

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank r of the update B·A."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """The update is scaled by alpha / rank; with variant rslora by alpha / sqrt(rank)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    variant: Literal["lora", "rslora", "dora"] = "lora"
    """rslora: scaled so that high ranks learn as fast as low ones (Kalajdzievski 2023); dora: the magnitude
    of each output is trained separately from its direction (Liu et al. 2024), which is slower and cannot be
    served by vLLM."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253)]],
        Field(max_length=64, json_schema_extra=SET_LIST),
    ] = ["all-linear"]
    """Names of the layers that get an adapter. all-linear: every linear layer of the language model except
    the output head and the routers of a mixture of experts."""
    target_parameters: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=253)]],
            Field(max_length=64, json_schema_extra=SET_LIST),
        ]
        | None
    ) = None
    """Names, as in peft, of the experts' stacked weights that get an adapter (mlp.experts.gate_up_proj,
    mlp.experts.down_proj). Each expert gets an adapter of its own. Default: all of them if targetModules is
    all-linear, else none. An empty list means none."""


class Quantization(Block):
    """How method qlora holds the frozen base (Dettmers et al. 2023)."""

    type: Literal["nf4"] = "nf4"
    """nf4: 4-bit numbers whose levels fit normally distributed weights."""
    double_quant: bool = True
    """Quantise the scales, too: 0.37 bit less per weight."""


class PromptTuning(Block):
    """Virtual tokens before every example or document (Lester et al. 2021), as by peft's
    PromptTuningConfig."""

    virtual_tokens: Annotated[int, Field(ge=1, le=1024)] = 20
    """Number of virtual tokens. Together with data.sequenceLength they must fit into the model's context."""
    init_text: Annotated[str, Field(max_length=4096)] = ""
    """Text from whose token embeddings the virtual tokens start, repeated or cut to virtualTokens. A text
    that names the task or its answers works best. Default: random ones of the 5,000 most common tokens."""


LORA_METHODS = ("lora", "qlora")
"""Methods whose result is a LoRA adapter."""


class Dpo(Block):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the model is held to the reference: the reward of an answer is beta times the logarithm of
    how much likelier it has become."""


class Classification(Block):
    """A head that predicts the class of a text."""

    class_weights: Literal["none", "balanced"] = "none"
    """balanced: an example of class c has weight N / (K N_c) in the loss, where N examples of K classes are
    trained on and N_c of them are of class c. So every class counts alike, however rare it is."""


class FineTuneJobSpec(Lifecycle):
    """What to adapt, to which data, and where to write the result. These fields are immutable: a new run is a
    new object. suspend, backoffLimit, activeDeadlineSeconds and ttlSecondsAfterFinished may change at any
    time, compute while the job is suspended."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *immutable(
                "baseModel", "adapter", "stage", "method", "lora", "quantization", "promptTuning", "dpo",
                "reward", "rollout", "ppo", "grpo", "classification", "data", "evaluation", "training",
                "checkpoint", "output",
                kind="FineTuneJob",
            ),
            compute_is_fixed("FineTuneJob"),
            cel(
                "!has(self.lora) || self.method in ['lora', 'qlora']",
                "lora goes with method: lora or qlora: remove it or change method",
                field_path=".lora",
            ),
            cel(
                "!has(self.quantization) || self.method == 'qlora'",
                "quantization goes with method: qlora: remove it or change method",
                field_path=".quantization",
            ),
            cel(
                "!has(self.promptTuning) || self.method == 'prompt-tuning'",
                "promptTuning goes with method: prompt-tuning: remove it or change method",
                field_path=".promptTuning",
            ),
            cel(
                f"self.method != 'prompt-tuning' || !(self.stage in {[*WITH_HEAD]})",
                f"virtual tokens have no head, which stages {' and '.join(WITH_HEAD)} train: choose another "
                "method",
                field_path=".method",
            ),
            cel(
                "!has(self.adapter) || !has(self.lora)",
                "the adapter has its own rank, alpha, dropout and targetModules: remove lora or adapter",
                field_path=".lora",
            ),
            cel(
                "!has(self.adapter) || !has(self.promptTuning)",
                "the adapter has its own virtual tokens: remove promptTuning or adapter",
                field_path=".promptTuning",
            ),
            cel(
                "!has(self.output.merge) || !self.output.merge || self.method in ['lora', 'qlora']",
                "there is no adapter to merge: remove merge or change method to lora or qlora",
                field_path=".output.merge",
            ),
            *STAGE_RULES,
        )
    )  # fmt: skip

    base_model: BaseSource
    """The model to start from: full weights."""
    adapter: AdapterStart | None = None
    """An adapter of this base to continue from. It is not changed itself. lora and qlora: a LoRA adapter; its
    rank, alpha, dropout and target modules apply, and the result is a new adapter of the same base.
    prompt-tuning: virtual tokens, likewise. full: a LoRA adapter, merged into the base before every weight is
    trained."""
    stage: Literal["sft", "domain", "dpo", "reward", "ppo", "grpo", "classification"] = "sft"
    """sft: supervised fine-tuning on examples; domain: continue pretraining on the texts of a field; dpo:
    direct preference optimisation on pairs of answers; reward: train a head on the base that scores an answer
    by one number, from pairs of answers; ppo and grpo: the model answers prompts and learns from the rewards
    of its answers, by proximal policy optimisation or by comparing several answers to one prompt;
    classification: train a head on the base (an encoder or a causal language model) that predicts the class
    of a text."""
    method: Literal["lora", "qlora", "full", "prompt-tuning"] = "lora"
    """lora: train a small adapter; qlora: the same on a base held in 4 bits; full: train every weight;
    prompt-tuning: train virtual tokens that stand before every example or document. An AdapterSet does not
    serve virtual tokens."""
    lora: Lora | None = None
    """Settings of methods lora and qlora. When absent, those of `adapter` if one is named, else the
    defaults."""
    quantization: Quantization | None = None
    """Settings of method qlora; the defaults are used when absent."""
    prompt_tuning: PromptTuning | None = None
    """Settings of method prompt-tuning. When absent, those of `adapter` if one is named, else the
    defaults."""
    dpo: Dpo | None = None
    """Settings of stage dpo; the defaults are used when absent."""
    reward: Reward | None = None
    """How answers are rewarded in stages ppo and grpo."""
    rollout: RolloutSettings | None = None
    """How prompts are answered in stages ppo and grpo; the defaults are used when absent."""
    ppo: Ppo | None = None
    """Settings of stage ppo; the defaults are used when absent."""
    grpo: Grpo | None = None
    """Settings of stage grpo; the defaults are used when absent."""
    classification: Classification | None = None
    """Settings of stage classification; the defaults are used when absent."""
    data: FineTuneData
    """The examples."""
    evaluation: Evaluation = Evaluation()
    """How the result is measured."""
    training: FineTuneTraining
    """Optimisation."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints."""
    output: FineTuneOutput
    """Where the result goes."""
    compute: Compute = Compute()
    """What it runs on."""
