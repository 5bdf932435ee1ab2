"""What is trained on and evaluated on."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.lmeval import LmEval
from kubetune.api.meta import SET_LIST, Block, Check, cel, map_list, rules
from kubetune.api.source import SECRET_GOES_WITH_REMOTE, DataUri, PartName, SecretRef

Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Format = Literal[
    "alpaca", "dolly", "flan", "messages", "sharegpt", "prompt-completion", "text", "preference",
    "classification", "prompts",
]  # fmt: skip
Metric = Literal[
    "loss", "perplexity", "token-accuracy", "exact-match", "rouge-l", "accuracy", "reward-margin", "f1",
    "reward", "kl",
]  # fmt: skip
MOST_CLASSES = 1000
"""Most classes of a classifier, whether they are named in the job or found in the data."""

_SOME_WEIGHT = Check(
    "self.exists(s, s.weight > 0.0)",
    "at least one weight must be greater than 0: raise one",
    lambda sources: any(s.weight > 0 for s in sources),
)


class MixtureSource(Block):
    """One part of a pretraining corpus: files of JSON Lines (`.jsonl`), JSON, CSV, TSV or Parquet with a
    field `text`, or plain text (`.txt`); all but Parquet also compressed (`.gz`, `.zst`)."""

    model_config = ConfigDict(json_schema_extra=rules(SECRET_GOES_WITH_REMOTE))

    name: PartName
    """Name in reports."""
    uri: DataUri
    """A file, a folder or a glob. A folder means all files below it that end in .jsonl, .json, .csv, .tsv,
    .txt (also with .gz or .zst) or .parquet. pvc://, configmap://, https:// (one file), s3:// or hf://."""
    secret_ref: SecretRef | None = None
    """Credentials for https://, s3:// and hf://."""
    weight: Weight = 1.0
    """Share of tokens seen, relative to the other weights."""
    text_field: Annotated[str, Field(min_length=1, max_length=63)] = "text"
    """Field of a JSON line, or column of a table, that holds the text."""


class Validation(Block):
    """Documents held out of training for evaluation."""

    fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of each source's documents that is held out. A document's content decides whether it is, so the
    choice is the same in every run."""


class PretrainData(Block):
    """The corpus."""

    mixture: Annotated[
        list[MixtureSource],
        Field(min_length=1, max_length=64, json_schema_extra=map_list("name")),
        _SOME_WEIGHT,
    ]
    """Parts and their weights."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Tokens per training sequence. A longer document continues in the next sequence."""
    packing: bool | None = None
    """Whether several documents share a sequence without attending to each other. Default: they do where the
    architecture keeps them apart. With true, an architecture that does not is refused. With objective mlm
    documents always follow each other, separated by [SEP]."""
    validation: Validation = Validation()
    """What is held out."""


Fields = Annotated[dict[str, Annotated[str, Field(min_length=1, max_length=63)]], Field(max_length=16)]
FIELDS: dict[Format, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output"),
    "dolly": ("instruction", "context", "response"),
    "flan": ("inputs", "targets"),
    "messages": ("messages", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected", "conversations", "system", "tools"),
    "classification": ("text", "text_pair", "label"),
    "prompts": ("prompt", "answer"),
}
"""What the fields of a record are called, by its format."""


def _of_the_format() -> dict[str, str]:
    """A source renames fields of its format alone."""
    *some, (_, others) = FIELDS.items()
    cases = "".join(f"self.format == '{form}' ? {[*names]} : " for form, names in some)
    told = "; ".join(f"{form}: {', '.join(names)}" for form, names in FIELDS.items())
    return cel(
        f"!has(self.fields) || self.fields.all(name, name in ({cases}{[*others]}))",
        f"each format has its own fields ({told}): use these as keys, and the records' field names as values",
        field_path=".fields",
    )


class FineTuneSource(Block):
    """One set of examples."""

    model_config = ConfigDict(json_schema_extra=rules(SECRET_GOES_WITH_REMOTE, _of_the_format()))

    name: PartName
    """Name in reports."""
    uri: DataUri
    """A file (.json, .jsonl, .csv, .tsv, .parquet; .txt with format text; all but .parquet also with .gz or
    .zst), a folder or a glob. A row of a table is read as the JSON object of its columns. pvc://,
    configmap://, https:// (one file), s3:// or hf://."""
    secret_ref: SecretRef | None = None
    """Credentials for https://, s3:// and hf://."""
    format: Format
    """Shape of a record: alpaca {instruction, input?, output}; dolly {instruction, context?, response}; flan
    {inputs, targets}; messages {messages: [{role, content, tool_calls?, ...}], tools?}; sharegpt
    {conversations: [{from, value}], system?, tools?}; prompt-completion {prompt, completion}; text {text};
    preference {prompt, chosen, rejected}, all strings, or chosen and rejected lists of messages, the prompt a
    list, a string or what both begin with, or {conversations, chosen, rejected} as of sharegpt;
    classification {text, text_pair?, label}, the label a string or an integer; prompts {prompt, answer?}, the
    prompt a string or a list of messages, the answer a string or a number that reward functions compare with.
    Records with messages or turns, and those of alpaca, dolly and flan, go through the chat template."""
    fields: Fields | None = None
    """For records that name a field differently: a map from the field's name in the format to its name in the
    records, for example {text: sentence}."""
    weight: Weight = 1.0
    """How often a record is seen in one epoch, relative to the other sources. Records of the source with the
    largest weight are seen once. In stage domain: share of tokens seen, relative to the other weights."""


class FineTuneData(Block):
    """The examples."""

    sources: Annotated[
        list[FineTuneSource],
        Field(min_length=1, max_length=64, json_schema_extra=map_list("name")),
        _SOME_WEIGHT,
    ]
    """Sets of examples and their weights."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest example in tokens. Longer ones are cut and counted; those that are left without an answer are
    dropped. In stage domain: tokens per training sequence, and a longer document continues in the next
    one."""
    packing: bool | None = None
    """Whether several short examples share a sequence without attending to each other. Default: they do where
    the architecture keeps them apart. With true, an architecture that does not is refused. Pairs of format
    preference, texts of format classification, and prompts are never packed: true is refused
    there."""
    prompt_loss: bool = False
    """Whether the loss also covers the prompt's tokens."""
    enable_thinking: bool | None = None
    """Value of enable_thinking for the chat template, for models that can think before they answer. false
    asks for answers without a thought. It applies to training, evaluation and rollouts; requests to a serving
    engine set their own (chat_template_kwargs). Default: the template decides."""
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]] | None,
        Field(min_length=2, max_length=MOST_CLASSES, json_schema_extra=SET_LIST),
    ] = None
    """The classes of stage classification, in the order of the model's outputs. Other labels in the data are
    an error, except that an integer from 0 on may stand for the class at that position. Default: the labels
    found in the sources, sorted."""
    validation: Validation = Validation(fraction=0.1)
    """Examples held out for the evaluation. None are held out where evaluation.data is set."""


class EvaluationData(Block):
    """A data set of its own for the evaluation."""

    model_config = ConfigDict(json_schema_extra=rules(SECRET_GOES_WITH_REMOTE, _of_the_format()))

    uri: DataUri
    """A file, a folder or a glob, as in data.sources."""
    secret_ref: SecretRef | None = None
    """Credentials for https://, s3:// and hf://."""
    format: Format
    """Shape of a record."""
    fields: Fields | None = None
    """As in data.sources."""


class Evaluation(Block):
    """How the result is measured, before and after training, on the same held-out examples."""

    data: EvaluationData | None = None
    """Data to measure on. Default: the examples held out by data.validation. When this is set, nothing is
    held out, and training examples that also occur in it are not trained on."""
    metrics: Annotated[list[Metric] | None, Field(max_length=6, json_schema_extra=SET_LIST)] = None
    """What is measured. The first metric is the job's SCORE in kubectl get. Stage sft: loss (mean negative
    log-likelihood per completion token), perplexity (its exponential), token-accuracy (share of completion
    tokens ranked first), exact-match (share of examples whose greedy answer equals the reference), rouge-l
    (F-measure of the longest common subsequence of words of greedy answer and reference, averaged over the
    examples; Lin 2004). Default: loss, perplexity. Stage domain: loss, perplexity and token-accuracy, per
    token of the documents. Default: loss, perplexity. Stages dpo and reward: accuracy (share of pairs whose
    chosen answer has the higher reward), reward-margin (mean difference of the two rewards), loss (mean per
    pair). Default: all three. Stage classification: accuracy (share of texts whose class ranks first), f1
    (harmonic mean of precision and recall, averaged over the classes), loss (mean negative log-likelihood per
    text). Default: all three. Stages ppo and grpo: reward (mean reward of an answer to each held-out prompt,
    sampled as in training), kl (mean divergence of such an answer from the reference model, in nats).
    Default: both."""
    max_examples: Annotated[int, Field(ge=1, le=100_000)] = 512
    """At most this many held-out examples (in stage domain: sequences) are measured."""
    sample_prompts: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(max_length=8),
    ] = []
    """Prompts that the model answers before and after training. A prompt is a user message for the chat
    template; in stage domain it is a text to continue. In stage classification the answer is the class that
    ranks first."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest generated answer, in tokens."""
    lm_eval: LmEval | None = None
    """Public benchmarks to run in addition to the metrics, for stages that train a language model. Each
    result is called <task>/<metric>."""
