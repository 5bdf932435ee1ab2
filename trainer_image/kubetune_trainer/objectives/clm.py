"""Causal language modelling: predict the next token of a weighted mixture of documents. A PretrainJob's
objective clm, and with any method a FineTuneJob's stage domain."""

import math
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune.api.training import FineTuneTraining, PretrainTraining
from kubetune_trainer.data.corpus import pieces, read_corpus, shuffled
from kubetune_trainer.data.rows import Row, collate, row_of
from kubetune_trainer.data.store import TokenStore
from kubetune_trainer.data.streams import MixtureStream, PieceStream
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.objectives.prepared import EvaluationSet, Packs, Prepared, shared_rows
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs = shared_rows) -> Prepared:
    """Read and tokenise the corpus, and cut it into rows: full ones of several documents, or one piece of a
    document in each.

    Raises:
        DataError: see `read_corpus`.
        InvalidSpec: see `read_corpus`.
    """
    corpus = read_corpus(spec, work, stop)
    length = spec.data.sequence_length
    held = [part.tokens for part in corpus.held_out]
    rows = _evaluation_rows(held, length, spec.evaluation.max_examples)
    training = [part.tokens for part in corpus.training]
    packed = packs(corpus.tokenizer)
    stream: MixtureStream | PieceStream
    if packed:
        stream = MixtureStream(training, corpus.weights, length, spec.training.seed)
        tokens = corpus.status.tokens
    else:
        stream = PieceStream(training, corpus.weights, length, spec.training.seed)
        tokens = stream.tokens
    return Prepared(
        tokenizer=corpus.tokenizer,
        stream=stream,
        total_steps=_steps(spec.training, stream.mean_row, tokens),
        evaluation=EvaluationSet(rows, [], len(rows)),
        data=corpus.status,
        sources=corpus.facts,
        fingerprint=corpus.fingerprint,
        betas=(0.9, 0.95),
        collate=partial(collate, pad=corpus.tokenizer.pad_token_id),
        packed=packed,
    )


def loss_model(model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision) -> LossModel:
    """The loss of the next tokens."""
    return LossModel(model, precision, packed=prepared.packed)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """The model's continuation of each sample prompt."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=False)


def _steps(training: PretrainTraining | FineTuneTraining, mean_row: float, tokens: int) -> int:
    """Number of steps. An epoch sees as many tokens as the training part of all sources holds."""
    if training.max_steps is not None:
        return training.max_steps
    if isinstance(training, FineTuneTraining):
        seen = (training.epochs or 1) * tokens
    else:
        seen = training.max_tokens or 1
    return math.ceil(seen / (training.global_batch_size * mean_row))


def _evaluation_rows(stores: list[TokenStore], length: int, limit: int) -> list[Row]:
    """Held-out documents cut into sequences; any first part of them is a fair sample."""
    rows = [row_of([stores[i].piece(d, start, n)]) for i, d, start, n in pieces(stores, length, limit)]
    return shuffled(rows)
