"""Supervised fine-tuning: say what the assistant says."""

import math
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.encode import Encoded, encode, question, render
from kubetune_trainer.data.examples import facts_of, fingerprint, read_examples, require, require_each
from kubetune_trainer.data.formats import Example
from kubetune_trainer.data.holdout import kept_out, smallest
from kubetune_trainer.data.rows import collate, row_of
from kubetune_trainer.data.store import store_of
from kubetune_trainer.data.streams import Epochs, EpochStream, rows_in
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.heads import CAUSAL_LM
from kubetune_trainer.loss import LossModel
from kubetune_trainer.objectives.prepared import EvaluationSet, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop) -> Prepared:
    """Read the examples, hold some out (those that the evaluation's own data has, if it has any), tokenise,
    plan the epochs.

    Raises:
        DataError: see `read_records`; or nothing is left to train on.
        InvalidSpec: the base has no usable tokenizer.
    """
    if spec.finetune is None or spec.model.path is None:
        raise InvalidSpec("stage sft needs finetune settings and a base model")
    tokenizer = tokenizers.load(Path(spec.model.path))
    sources = [s for s in spec.data.sources if s.weight > 0]
    loaded = [_load(source, tokenizer, spec.data.prompt_loss, stop) for source in sources]
    hashes = [source.hashes for source in loaded]
    of_source = np.repeat(np.arange(len(sources)), [len(h) for h in hashes])
    own = _load(spec.evaluation_source, tokenizer, False, stop) if spec.evaluation_source else None
    held = kept_out(np.concatenate(hashes), own.hashes if own else None, spec.data.validation_fraction)
    examples = [e for source in loaded for e in source.examples]
    encoded = [e for source in loaded for e in source.encoded]

    length = spec.data.sequence_length
    truncated = sum(len(e.tokens) > length for e, h in zip(encoded, held, strict=True) if not h)
    kept = np.array([not h and any(e.trained[1:length]) for e, h in zip(encoded, held, strict=True)])
    require_each(sources, of_source[kept])
    chosen = [e for e, k in zip(encoded, kept, strict=True) if k]
    store = store_of(
        (e.tokens[:length] for e in chosen), len(tokenizer), [e.trained[:length] for e in chosen]
    )
    training, seed = spec.finetune, spec.finetune.seed
    epochs = Epochs(
        store, of_source[kept], [s.weight for s in sources], length if spec.data.packing else None, seed
    )
    rows = None if training.epochs is None else max(1, rows_in(epochs, training.epochs))
    measured = own or _held_out(
        _Loaded(examples, encoded, np.concatenate(hashes)), held, tokenizer, spec.data.prompt_loss
    )
    tokens = [int(store.lengths[of_source[kept] == i].sum()) for i in range(len(sources))]
    return Prepared(
        tokenizer=tokenizer,
        stream=EpochStream(store, epochs, rows),
        total_steps=training.max_steps or math.ceil((rows or 1) / training.global_batch_size),
        evaluation=_evaluation(spec, tokenizer, measured),
        data=DataStatus(
            documents=len(held), held_out=int(held.sum()), tokens=sum(tokens), truncated=truncated
        ),
        sources=facts_of(sources, of_source, held, tokens),
        fingerprint=fingerprint([*hashes, own.hashes] if own else hashes),
        betas=(0.9, 0.999),
        collate=partial(collate, pad=tokenizer.pad_token_id),
    )


def loss_model(model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision) -> LossModel:
    """The loss of the tokens that follow."""
    return LossModel(model, precision)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """What the model answers to each sample prompt, a user message for the chat template."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=True)


class _Loaded:
    """The examples of one source."""

    def __init__(self, examples: list[Example], encoded: list[Encoded], hashes: NDArray[np.uint64]) -> None:
        self.examples, self.encoded, self.hashes = examples, encoded, hashes


def _load(source: RunSource, tokenizer: PreTrainedTokenizerBase, prompt_loss: bool, stop: Stop) -> _Loaded:
    examples, rendered, hashes = [], [], []
    for record, example, number in read_examples(source, stop):
        with record.named():
            rendered.append(render(example, tokenizer))
        examples.append(example)
        hashes.append(number)
    require(len(examples), source)
    encoded = []
    for tokens in encode(rendered, tokenizer, prompt_loss=prompt_loss):
        stop.check()
        encoded.append(tokens)
    return _Loaded(examples, encoded, np.array(hashes, dtype=np.uint64))


def _held_out(
    loaded: _Loaded, held: NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase, prompt_loss: bool
) -> _Loaded:
    """The held-out examples; measured on the answers alone, whatever is trained on."""
    indices = np.flatnonzero(held)
    examples = [loaded.examples[i] for i in indices]
    if prompt_loss:
        encoded = list(encode((render(e, tokenizer) for e in examples), tokenizer))
    else:
        encoded = [loaded.encoded[i] for i in indices]
    return _Loaded(examples, encoded, loaded.hashes[indices])


def _evaluation(spec: RunSpec, tokenizer: PreTrainedTokenizerBase, measured: _Loaded) -> EvaluationSet:
    """Of the examples to measure, those with the smallest hashes."""
    indices = smallest(measured.hashes, spec.evaluation.max_examples)
    length = spec.data.sequence_length
    chosen = [measured.encoded[i] for i in indices]
    store = store_of(
        (e.tokens[:length] for e in chosen), len(tokenizer), [e.trained[:length] for e in chosen]
    )
    rows = [
        row_of([store.piece(d, 0, int(store.lengths[d]) - 1)])
        for d in range(len(store))
        if store.lengths[d] > 1
    ]
    asked = (question(measured.examples[i], tokenizer) for i in indices)
    return EvaluationSet([r for r in rows if r.targets], [q for q in asked if q is not None], len(rows))
