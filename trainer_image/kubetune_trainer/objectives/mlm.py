"""Masked language modelling: predict hidden tokens of a weighted mixture of documents from both sides."""

import math
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from kubetune.api.pretrainjob import Mlm
from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.corpus import Part, pieces, read_corpus, shuffled
from kubetune_trainer.data.masking import MaskedStream, Masker, collate_masked
from kubetune_trainer.data.rows import Row
from kubetune_trainer.data.streams import MixtureStream
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.masked import MaskedLossModel
from kubetune_trainer.model.heads import MASKED_LM
from kubetune_trainer.objectives.prepared import EvaluationSet, Packs, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = MASKED_LM
AROUND = 2
"""[CLS] and [SEP] of each row."""


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """Read and tokenise the corpus, cut it into rows of consecutive documents separated by [SEP] (RoBERTa's
    FULL-SENTENCES, Liu et al. 2019), and hide some tokens, different ones in each pass.

    Raises:
        DataError: see `read_corpus`.
        InvalidSpec: no pretrain settings; or see `read_corpus`.
    """
    if spec.pretrain is None:
        raise InvalidSpec("stage mlm needs pretrain settings")
    wanted, settings = spec.mlm or Mlm(), spec.pretrain
    corpus = read_corpus(spec, work, stop, words=wanted.whole_words)
    masker = Masker(corpus.tokenizer, wanted.probability, settings.seed)
    inside = spec.data.sequence_length - AROUND
    stream = MixtureStream([p.tokens for p in corpus.training], corpus.weights, inside, settings.seed)
    inner = [p.inner for p in corpus.training if p.inner is not None]
    rows = _evaluation_rows(corpus.held_out, inside, spec.evaluation.max_examples, masker)
    per_step = settings.global_batch_size * spec.data.sequence_length
    return Prepared(
        tokenizer=corpus.tokenizer,
        stream=MaskedStream(
            stream, MixtureStream(inner, corpus.weights, inside, settings.seed) if inner else None, masker
        ),
        total_steps=settings.max_steps or math.ceil((settings.max_tokens or 1) / per_step),
        evaluation=EvaluationSet(rows, [], len(rows)),
        data=corpus.status,
        sources=corpus.facts,
        fingerprint=corpus.fingerprint,
        betas=(0.9, 0.98),
        collate=partial(collate_masked, pad=corpus.tokenizer.pad_token_id),
    )


def loss_model(
    model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
) -> MaskedLossModel:
    """The loss of the hidden tokens."""
    return MaskedLossModel(model, precision)


def samples(model: MaskedLossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """None: an encoder generates no text, and a PretrainJob has no sample prompts."""
    return []


def _evaluation_rows(parts: list[Part], length: int, limit: int, masker: Masker) -> list[Row]:
    """Held-out documents cut into sequences, with the same tokens hidden each time; any first part of them is
    a fair sample."""
    rows = []
    for n, (i, d, start, count) in enumerate(pieces([p.tokens for p in parts], length, limit)):
        inner = parts[i].inner
        tokens = parts[i].tokens.piece(d, start, count)[0]
        rows.append(masker.row(tokens, inner.piece(d, start, count)[0] if inner is not None else None, 1, n))
    return shuffled(rows)
