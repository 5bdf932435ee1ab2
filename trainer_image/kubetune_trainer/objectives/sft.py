"""Supervised fine-tuning: learn to say what the assistant says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.encode import Encoded, Rendered, encode, examples_of, question
from kubetune_trainer.data.examples import Skipped, facts_of, read_examples
from kubetune_trainer.data.formats import Example
from kubetune_trainer.data.rows import collate, row_of
from kubetune_trainer.data.special_tokens import noticed
from kubetune_trainer.data.split import Loaded, split
from kubetune_trainer.data.store import TokenStore, store_of
from kubetune_trainer.data.streams import Epochs, EpochStream, rows_in
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.log import say
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.objectives.prepared import EvaluationSet, Packs, Prepared, shared_rows
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs = shared_rows) -> Prepared:
    """Read the examples, hold some out (see `split`), tokenise, plan the epochs.

    Raises:
        DataError: see `read_records`; or nothing is left to train on.
        InvalidSpec: the base has no usable tokenizer.
    """
    if spec.finetune is None or spec.model.path is None:
        raise InvalidSpec("stage sft needs finetune settings and a base model")
    tokenizer, settings = tokenizers.load_for(spec), spec.finetune
    sources, length = [s for s in spec.data.sources if s.weight > 0], spec.data.sequence_length
    load = partial(_load, tokenizer=tokenizer, prompt_loss=spec.data.prompt_loss, stop=stop)
    found = split(spec, sources, load, lambda item: bool(item.encoded.trained[1:length].any()))
    store = _store([item.encoded for item in found.training], length, tokenizer)
    packed = packs(tokenizer)
    weights = [s.weight for s in sources]
    epochs = Epochs(store, found.source, weights, length if packed else None, settings.seed)
    rows = None if settings.epochs is None else max(1, rows_in(epochs, settings.epochs))
    tokens = [int(store.lengths[found.source == i].sum()) for i in range(len(sources))]
    return Prepared(
        tokenizer=tokenizer,
        stream=EpochStream(store, epochs, rows),
        total_steps=settings.max_steps or math.ceil((rows or 1) / settings.global_batch_size),
        evaluation=_evaluation(spec, tokenizer, found.measured),
        data=DataStatus(
            documents=len(found.held),
            held_out=int(found.held.sum()),
            tokens=sum(tokens),
            truncated=sum(len(item.encoded.tokens) > length for item in found.training),
            dropped=found.dropped,
        ),
        sources=facts_of(sources, found.of_source, found.held, tokens),
        fingerprint=found.fingerprint,
        betas=(0.9, 0.999),
        collate=partial(collate, pad=tokenizer.pad_token_id),
        packed=packed,
    )


def loss_model(model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision) -> LossModel:
    """The loss of the next tokens."""
    return LossModel(model, precision, packed=prepared.packed)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """What the model answers to each sample prompt, a user message for the chat template."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=True)


@dataclass(frozen=True, slots=True)
class _Item:
    """An example as read, as text and as tokens."""

    example: Example
    rendered: Rendered
    encoded: Encoded


def _load(
    source: RunSource, tokenizer: PreTrainedTokenizerBase, prompt_loss: bool, stop: Stop
) -> Loaded[_Item]:
    examples: list[tuple[Example, Rendered]] = []
    hashes: list[int] = []
    records, skipped = 0, Skipped()
    for record, example, number in noticed(read_examples(source, stop, skipped), tokenizer, source):
        with record.named():
            parts = examples_of(example, tokenizer)
        examples += parts
        hashes += [number] * len(parts)
        records += 1
    if records < len(examples):
        say(
            "data",
            text=f"source {source.name}: the chat template writes earlier turns otherwise once another "
            f"follows, so each answer is an example of its own: {records:,} records, {len(examples):,} "
            "examples",
        )
    items = []
    encoded = encode((rendered for _, rendered in examples), tokenizer, prompt_loss=prompt_loss)
    for (example, rendered), tokens in zip(examples, encoded, strict=True):
        stop.check()
        items.append(_Item(example, rendered, tokens))
    return Loaded(items, np.array(hashes, dtype=np.uint64), skipped.count)


def _store(examples: Sequence[Encoded], length: int, tokenizer: PreTrainedTokenizerBase) -> TokenStore:
    return store_of(
        (e.tokens[:length] for e in examples), len(tokenizer), [e.trained[:length] for e in examples]
    )


def _evaluation(spec: RunSpec, tokenizer: PreTrainedTokenizerBase, items: Sequence[_Item]) -> EvaluationSet:
    """What is evaluated: answers alone, even if prompts are trained on."""
    encoded = [item.encoded for item in items]
    if spec.data.prompt_loss:
        encoded = list(encode((item.rendered for item in items), tokenizer))
    store = _store(encoded, spec.data.sequence_length, tokenizer)
    rows = [row_of([store.piece(d, 0, int(store.lengths[d]) - 1)]) for d in range(len(store))]
    rows = [row for row in rows if row.targets]
    asked = (question(item.example, tokenizer) for item in items)
    return EvaluationSet(rows, [q for q in asked if q is not None], len(rows))
