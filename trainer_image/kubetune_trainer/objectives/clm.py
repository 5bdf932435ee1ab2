"""Causal language modelling: predict the next token of a weighted mixture of documents."""

import math
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.corpus import pieces, read_corpus, shuffled
from kubetune_trainer.data.rows import Row, collate, row_of
from kubetune_trainer.data.store import TokenStore
from kubetune_trainer.data.streams import MixtureStream
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.heads import CAUSAL_LM
from kubetune_trainer.loss import LossModel
from kubetune_trainer.objectives.prepared import EvaluationSet, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop) -> Prepared:
    """Read and tokenise the corpus, and cut it into rows.

    Raises:
        DataError: see `read_corpus`.
        InvalidSpec: no pretrain settings; or see `read_corpus`.
    """
    if spec.pretrain is None:
        raise InvalidSpec("stage pretrain needs pretrain settings")
    corpus = read_corpus(spec, work, stop)
    length = spec.data.sequence_length
    held = [part.tokens for part in corpus.held_out]
    rows = _evaluation_rows(held, length, spec.evaluation.max_examples)
    per_step = spec.pretrain.global_batch_size * length
    training = [part.tokens for part in corpus.training]
    return Prepared(
        tokenizer=corpus.tokenizer,
        stream=MixtureStream(training, corpus.weights, length, spec.pretrain.seed),
        total_steps=spec.pretrain.max_steps or math.ceil((spec.pretrain.max_tokens or 1) / per_step),
        evaluation=EvaluationSet(rows, [], len(rows)),
        data=corpus.status,
        sources=corpus.facts,
        fingerprint=corpus.fingerprint,
        betas=(0.9, 0.95),
        collate=partial(collate, pad=corpus.tokenizer.pad_token_id),
    )


def loss_model(model: PreTrainedModel, prepared: Prepared, precision: Precision) -> LossModel:
    """The loss of the tokens that follow."""
    return LossModel(model, precision)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """How the model goes on from each sample prompt."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=False)


def _evaluation_rows(stores: list[TokenStore], length: int, limit: int) -> list[Row]:
    """Held-out documents cut into sequences; any first part of them is a fair sample."""
    rows = [row_of([stores[i].piece(d, start, n)]) for i, d, start, n in pieces(stores, length, limit)]
    return shuffled(rows)
