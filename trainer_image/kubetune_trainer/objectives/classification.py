"""Sequence classification: tell the class of a text, by a head on the base."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer.classify import ClassLossModel
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.classes import ClassRow, balanced, collate, label_map, tokenise
from kubetune_trainer.data.examples import Skipped, facts_of, fingerprint, read_examples
from kubetune_trainer.data.formats import Labelled
from kubetune_trainer.data.read import Record
from kubetune_trainer.data.split import Loaded, split
from kubetune_trainer.data.store import store_of
from kubetune_trainer.data.streams import Epochs, EpochStream, rows_in
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.files import replace_file
from kubetune_trainer.log import say
from kubetune_trainer.model.heads import CLASSIFIER
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.objectives.prepared import EvaluationSet, Packs, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn

HEAD = CLASSIFIER


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """Read the texts, settle the classes, hold some texts out (see `split`), tokenise, plan the epochs.

    Raises:
        DataError: see `read_records`; a label that is no class; or nothing is left to train on.
        InvalidSpec: the base has no usable tokenizer.
    """
    if spec.finetune is None or spec.model.path is None:
        raise InvalidSpec("stage classification needs finetune settings and a base model")
    tokenizer = tokenizers.load(Path(spec.model.path), speaks=False)
    sources = [s for s in spec.data.sources if s.weight > 0]
    labels: list[str] = []
    found = split(spec, sources, partial(_load, own=spec.evaluation_source, labels=labels, stop=stop))
    classes = _classes(spec, labels, work)
    training, truncated = _rows(found.training, classes, tokenizer, spec, stop)
    measured, _ = _rows(found.measured, classes, tokenizer, spec, stop)
    learned = np.array([row.label for row in training], dtype=np.int64)
    _tell(classes, learned)

    settings, weights = spec.finetune, [s.weight for s in sources]
    store = store_of((row.tokens for row in training), len(tokenizer))
    epochs = Epochs(store, found.source, weights, None, settings.seed)
    count = None if settings.epochs is None else max(1, rows_in(epochs, settings.epochs))
    tokens = [int(store.lengths[found.source == i].sum()) for i in range(len(sources))]
    return Prepared(
        tokenizer=tokenizer,
        stream=EpochStream(store, epochs, count, lambda examples: training[examples[0]]),
        total_steps=settings.max_steps or math.ceil((count or 1) / settings.global_batch_size),
        evaluation=EvaluationSet(measured, [], len(measured)),
        data=DataStatus(
            documents=len(found.held), held_out=int(found.held.sum()), tokens=sum(tokens),
            truncated=truncated, dropped=found.dropped,
        ),
        sources=facts_of(sources, found.of_source, found.held, tokens),
        fingerprint=found.fingerprint + fingerprint([learned.view(np.uint64)]),
        betas=(0.9, 0.999),
        collate=partial(collate, pad=tokenizer.pad_token_id),
        settings={
            "id2label": dict(enumerate(classes)),
            "label2id": {label: i for i, label in enumerate(classes)},
            "problem_type": "single_label_classification",
            "pad_token_id": tokenizer.pad_token_id,
        },
        class_weights=balanced(learned, len(classes))
        if spec.classification and spec.classification.class_weights == "balanced"
        else None,
    )  # fmt: skip


def loss_model(
    model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
) -> ClassLossModel:
    """The cross entropy of the classes."""
    return ClassLossModel(model, precision, prepared.class_weights)


def samples(model: ClassLossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """The class that ranks first for each sample prompt, and its probability."""
    texts = [Labelled(text, None, "") for text in spec.evaluation.sample_prompts]
    found = []
    with evaluating(model):
        for tokens, types in tokenise(texts, prepared.tokenizer, spec.data.sequence_length)[0]:
            stop.check()
            batch = prepared.collate([ClassRow(tokens, types, 0)], model.model.device)
            likely, index = model.logits(*batch[:3]).softmax(-1).max(-1)
            found.append(f"{prepared.settings['id2label'][int(index)]} ({float(likely):.2f})")
    return found


@dataclass(frozen=True, slots=True)
class _Read:
    place: Record
    """Where it stands, without its data."""
    example: Labelled


def _load(source: RunSource, own: RunSource | None, labels: list[str], stop: Stop) -> Loaded[_Read]:
    """The texts of a source. Notes their labels, unless the source is the evaluation's own data."""
    found, hashes, skipped = [], [], Skipped()
    for record, example, number in read_examples(source, stop, skipped):
        assert isinstance(example, Labelled), "the API refuses other formats"
        found.append(_Read(record.place(), example))
        hashes.append(number)
    if source is not own:
        labels += [r.example.label for r in found]
    return Loaded(found, np.array(hashes, dtype=np.uint64), skipped.count)


def _classes(spec: RunSpec, labels: list[str], work: Path) -> list[str]:
    """The classes in the order of the model's outputs.

    Those found in the data are kept, because a resumed run must use the classes that it began with, even if
    the data changed meanwhile.
    """
    if spec.data.labels is not None:
        return spec.data.labels
    kept = work / "labels.json"
    if kept.exists():
        found: list[str] = json.loads(kept.read_text())
        return found
    classes = label_map(labels)
    replace_file(kept, json.dumps(classes).encode())
    return classes


def _rows(
    read: list[_Read], classes: list[str], tokenizer: PreTrainedTokenizerBase, spec: RunSpec, stop: Stop
) -> tuple[list[ClassRow], int]:
    """Rows, and how many texts were cut.

    Raises:
        DataError: a label is none of the classes, or a text has no token.
    """
    index = {label: i for i, label in enumerate(classes)}
    if spec.data.labels and not any(label.isdecimal() for label in classes):
        index |= {str(i): i for i in range(len(classes))}  # many data sets number their classes
    for r in read:
        if r.example.label not in index:
            shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise r.place.error(
                f"label {r.example.label!r} is none of the classes ({shown}): mend the record, or name all "
                "classes in data.labels"
            )
    stop.check()
    tokens, cut = tokenise([r.example for r in read], tokenizer, spec.data.sequence_length)
    for r, (ids, _) in zip(read, tokens, strict=True):
        if not len(ids):
            raise r.place.error("the tokenizer finds nothing in the text: remove the record")
    rows = [
        ClassRow(ids, types, index[r.example.label]) for r, (ids, types) in zip(read, tokens, strict=True)
    ]
    return rows, cut


def _tell(classes: list[str], labels: NDArray[np.int64]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if absent := [label for label, n in zip(classes, counts, strict=True) if not n]:
        warn(WarningReason.CLASS_WITHOUT_EXAMPLES, f"no example of {', '.join(absent[:20])} is trained on")
    say("classes", count=len(classes), smallest=int(counts.min()), largest=int(counts.max()))
