"""Warnings: what a run does that is allowed, but that one may not expect.

A warning is a row here, and one call of `kubetune_trainer.warned.warn`. It is in the log, in the job's
condition `Warnings` and in the report.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kubetune.api.meta import Block

MAX_WARNINGS = 16


class WarningReason(StrEnum):
    """Why a run warns; one word for programs."""

    FOLDER_IN_USE = "FolderInUse"
    """Another trainer writes to the run's folder, and this one waits for its end."""
    NOTHING_HELD_OUT = "NothingHeldOut"
    """No example is kept for the evaluation, so nothing is measured."""
    FEW_STEPS = "FewSteps"
    """The data are so few that an epoch is less than a step."""
    WARMUP_NEVER_ENDS = "WarmupNeverEnds"
    """The learning rate never reaches training.learningRate."""
    DATA_CHANGED = "DataChanged"
    """The data are not those of the checkpoint that the run goes on from."""
    CHAT_TEMPLATE_ADDED = "ChatTemplateAdded"
    """The base has no chat template, so conversations are written in kubetune's own."""
    TOKENIZER_CLASS_DIFFERS = "TokenizerClassDiffers"
    """transformers would read the base's tokenizer differently from its tokenizer.json, which is used."""
    EXAMPLES_DROPPED = "ExamplesDropped"
    """Some examples are not trained on."""
    RECORDS_WITHOUT_TEXT = "RecordsWithoutText"
    """Records without text to learn from are left out."""
    SPECIAL_TOKENS_IN_TEXT = "SpecialTokensInText"
    """Records hold special tokens of the tokenizer, which are read as such."""
    THOUGHTS_WITHOUT_END = "ThoughtsWithoutEnd"
    """Most answers are a thought that does not end within evaluation.maxNewTokens."""
    ANSWERS_DIFFER = "AnswersDiffer"
    """What the model generates is not what it is trained to say, as transformers generates with it."""
    ANSWERS_DO_NOT_END = "AnswersDoNotEnd"
    """The chat template ends answers without a token that ends the generation."""
    ALSO_IN_EVALUATION = "AlsoInEvaluation"
    """Examples are in evaluation.data, too, and not trained on."""
    EQUAL_REWARDS = "EqualRewards"
    """Every answer was rewarded alike, so nothing is learned from them."""
    CLASS_WITHOUT_EXAMPLES = "ClassWithoutExamples"
    """A class has no example to learn from."""
    QUANTIZED_ALREADY = "QuantizedAlready"
    """The base's files are in 4 bits already, but not as the job asks for."""
    PARTS_LEFT_OUT = "PartsLeftOut"
    """The base has parts that the full weights written by the run will lack."""
    LOSS_TERMS_IGNORED = "LossTermsIgnored"
    """The model's config asks for further terms of the loss, which this stage does not have."""
    EXPERTS_NOT_BALANCED = "ExpertsNotBalanced"
    """A new mixture of experts is trained without the loss that keeps its experts evenly used."""
    SLOWER_ATTENTION = "SlowerAttention"
    """The model's config asks for something that fast implementations of attention ignore."""
    NOT_PACKED = "NotPacked"
    """The architecture does not keep documents in one row apart, so each has rows of its own."""
    ROWS_BY_LENGTH = "RowsByLength"
    """Padding changes what the architecture makes of a text, so texts of one length are computed together."""
    LAYERS_NOT_ADAPTED = "LayersNotAdapted"
    """Layers whose adapter peft cannot make, or cannot load again, get none."""
    NOT_TRAINED = "NotTrained"
    """Nothing of the data reaches some of the trained parameters, so they stay as they were."""
    EXPERTS_NOT_ADAPTED = "ExpertsNotAdapted"
    """Experts of a mixture, or layers that are named like their parts, get no adapter."""
    EXPERTS_NOT_QUANTIZED = "ExpertsNotQuantized"
    """Experts of a mixture are not held in 4 bits."""
    ADAPTER_TOKENIZER_IGNORED = "AdapterTokenizerIgnored"
    """The adapter that the run starts from has another chat template or end token than the base."""
    ADAPTER_WITHOUT_MANIFEST = "AdapterWithoutManifest"
    """The adapter has no manifest, so only its shapes show whether it fits the base."""


NOTHING_HELD_OUT = (
    "nothing is held out, so nothing is measured: add data, raise data.validation.fraction, or set "
    "evaluation.data"
)


def warmup_never_ends(warmup_steps: int, total_steps: int) -> str | None:
    """The message where a run of so many steps ends before its warm-up does."""
    if not 0 < total_steps <= warmup_steps:
        return None
    return (
        f"training.warmupSteps {warmup_steps} is the whole run of {total_steps} steps, so the learning rate "
        "never reaches training.learningRate: lower warmupSteps, or train longer"
    )


class RunWarning(Block):
    """One warning."""

    reason: Annotated[str, Field(min_length=1, max_length=63)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """For people: what is the case, and what to do."""
