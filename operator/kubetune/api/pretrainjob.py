"""PretrainJob: train a base model from scratch, or continue the training of one."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from kubetune.api.data import PretrainData
from kubetune.api.lifecycle import Lifecycle, compute_is_fixed
from kubetune.api.meta import Block, Check, cel, immutable, one_of, rules
from kubetune.api.source import BaseSource
from kubetune.api.training import Checkpoint, Compute, Output, PretrainTraining


class PretrainModel(Block):
    """What model to train."""

    model_config = ConfigDict(
        json_schema_extra=rules(one_of("config (a new model)", "from (a model whose training continues)"))
    )

    config: Annotated[
        dict[str, Any] | None,
        Field(
            json_schema_extra={
                "properties": {"model_type": {"type": "string", "minLength": 1, "maxLength": 63}},
                "x-kubernetes-preserve-unknown-fields": True,
            }
        ),
        Check(
            "has(self.model_type)",
            "must name an architecture of transformers, for example model_type: llama",
            lambda config: config is None or "model_type" in config,
        ),
    ] = None
    """From scratch: a transformers config, for example {model_type: llama, hidden_size: 256,
    num_hidden_layers: 4, ...}. vocab_size and special token ids are filled in from the tokenizer. A null
    needs `kubectl apply --server-side`: the client-side one drops it."""
    from_: Annotated[BaseSource | None, Field(alias="from")] = None
    """Continue the training of every weight of this model, with its own tokenizer. It must be a causal
    language model, or with objective mlm a masked one. A learning rate of a tenth of that from scratch is
    usual."""


class TokenizerTraining(Block):
    """A byte-level BPE tokenizer trained on the corpus, in the mixture's proportions."""

    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 8192
    """Number of tokens, special ones and all 256 bytes included."""


class Tokenizer(Block):
    """Where the tokenizer comes from."""

    train: TokenizerTraining = TokenizerTraining()
    """Train one on the corpus."""


class Mlm(Block):
    """Which tokens an encoder must predict (Devlin et al. 2019): of the chosen tokens 80% become [MASK], 10%
    some other token, 10% stay."""

    probability: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    """Share of the tokens that are chosen to be predicted."""
    whole_words: bool = False
    """Choose words, with all of their tokens, instead of single tokens."""


class PretrainJobSpec(Lifecycle):
    """What to train, on which data, and where to write the model. These fields are immutable: a new run is a
    new object. suspend, backoffLimit, activeDeadlineSeconds and ttlSecondsAfterFinished may change at any
    time, compute while the job is suspended."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *immutable(
                "objective", "mlm", "model", "tokenizer", "data", "training", "checkpoint", "output",
                kind="PretrainJob",
            ),
            compute_is_fixed("PretrainJob"),
            cel(
                "!has(self.mlm) || self.objective == 'mlm'",
                "mlm goes with objective: mlm: remove it or change objective",
                field_path=".mlm",
            ),
            cel(
                "!has(self.data.packing) || self.objective == 'clm'",
                "with objective: mlm documents always follow each other, separated by [SEP]: remove packing",
                field_path=".data.packing",
            ),
            cel(
                "!has(self.tokenizer) || !has(self.model.from)",
                "a model named in model.from keeps its own tokenizer: remove tokenizer",
                field_path=".tokenizer",
            ),
        )
    )  # fmt: skip

    objective: Literal["clm", "mlm"] = "clm"
    """clm: predict the next token (Llama and other decoders); mlm: predict hidden tokens from both sides
    (BERT and other encoders, for classification)."""
    mlm: Mlm | None = None
    """Settings of objective mlm; the defaults are used when absent."""
    model: PretrainModel
    """The model."""
    tokenizer: Tokenizer | None = None
    """The tokenizer of a new model. Default: one is trained with the default settings."""
    data: PretrainData
    """The corpus."""
    training: PretrainTraining
    """Optimisation."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints."""
    output: Output
    """Where the model goes."""
    compute: Compute = Compute()
    """What it runs on."""
