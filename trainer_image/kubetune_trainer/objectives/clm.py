"""Causal language modelling: predict the next token of a weighted mixture of documents."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.examples import SourceFacts, fingerprint, read_examples, require
from kubetune_trainer.data.formats import Text
from kubetune_trainer.data.holdout import held_out
from kubetune_trainer.data.rows import Row, collate, row_of
from kubetune_trainer.data.store import Tokens, TokenStore, store_of, token_type
from kubetune_trainer.data.streams import MixtureStream
from kubetune_trainer.errors import DataError, InvalidSpec
from kubetune_trainer.files import replace_file
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.heads import CAUSAL_LM
from kubetune_trainer.log import say
from kubetune_trainer.loss import LossModel
from kubetune_trainer.objectives.prepared import EvaluationSet, Prepared
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

BATCH = 256
HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop) -> Prepared:
    """Read the corpus, train the tokenizer (or take the one of an earlier attempt), tokenise.

    The corpus is read in passes, document by document; only its tokens are kept.

    Args:
        spec: the run.
        work: folder that outlives an attempt.
        stop: whether to stop.

    Raises:
        DataError: see `read_records`; or a source has nothing left to train on.
        InvalidSpec: a PretrainJob without tokenizer settings.
    """
    if spec.tokenizer is None or spec.pretrain is None:
        raise InvalidSpec("stage pretrain needs tokenizer and pretrain settings")
    sources = [s for s in spec.data.sources if s.weight > 0]
    scans = [_scan(source, stop) for source in sources]
    hashes = [h for h, _ in scans]
    held = np.split(
        held_out(np.concatenate(hashes), spec.data.validation_fraction),
        np.cumsum([len(h) for h in hashes])[:-1],
    )
    for source, mask in zip(sources, held, strict=True):
        if mask.all():
            raise DataError(
                f"source {source.name}: every document is held out, none is left to train on: "
                "add data or lower data.validation.fraction"
            )
    tokenizer = _tokenizer(spec, sources, [c for _, c in scans], work, stop)
    length = spec.data.sequence_length
    stores = [_tokenise(source, mask, tokenizer, stop) for source, mask in zip(sources, held, strict=True)]
    training = [train for train, _ in stores]
    rows = _evaluation_rows([test for _, test in stores], length, spec.evaluation.max_examples)
    per_step = spec.pretrain.global_batch_size * length
    total = sum(s.weight for s in sources)
    facts = [
        SourceFacts(
            s.name, s.uri, s.weight, len(mask), int(mask.sum()), int(store.offsets[-1]), s.weight / total
        )
        for s, mask, store in zip(sources, held, training, strict=True)
    ]
    return Prepared(
        tokenizer=tokenizer,
        stream=MixtureStream(training, [s.weight for s in sources], length, spec.pretrain.seed),
        total_steps=spec.pretrain.max_steps or math.ceil((spec.pretrain.max_tokens or 1) / per_step),
        evaluation=EvaluationSet(rows, [], len(rows)),
        data=DataStatus(
            documents=sum(f.documents for f in facts),
            held_out=sum(f.held_out for f in facts),
            tokens=sum(f.tokens for f in facts),
        ),
        sources=facts,
        fingerprint=fingerprint(hashes),
        betas=(0.9, 0.95),
        collate=partial(collate, pad=tokenizer.pad_token_id),
    )


def loss_model(model: PreTrainedModel, prepared: Prepared, precision: Precision) -> LossModel:
    """The loss of the tokens that follow."""
    return LossModel(model, precision)


def samples(model: LossModel, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """How the model goes on from each sample prompt."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=False)


def _scan(source: RunSource, stop: Stop) -> tuple[NDArray[np.uint64], int]:
    """Content hashes of the documents, and their characters together."""
    hashes, characters = [], 0
    for _, example, number in read_examples(source, stop):
        hashes.append(number)
        characters += len(_text(example))
    require(len(hashes), source)
    return np.array(hashes, dtype=np.uint64), characters


def _tokenizer(
    spec: RunSpec, sources: list[RunSource], characters: list[int], work: Path, stop: Stop
) -> PreTrainedTokenizerBase:
    """Kept once trained: a model must meet the tokenizer that it began with, even if the data changed
    meanwhile."""
    kept = work / "tokenizer.json"
    if kept.exists():
        return tokenizers.wrap(Tokenizer.from_file(str(kept)))
    assert spec.tokenizer is not None
    say("tokenizer", text=f"training on {sum(characters):,} characters")
    trained = tokenizers.train(_in_proportion(sources, characters, stop), spec.tokenizer.vocab_size)
    replace_file(kept, trained.backend_tokenizer.to_str().encode())
    return trained


def _in_proportion(sources: list[RunSource], characters: list[int], stop: Stop) -> Iterator[str]:
    """Documents so often that each source's characters have its weight's share: repeated where it is small,
    thinned out (by content hash, so evenly) where it is large."""
    budget = min(sum(characters), tokenizers.CORPUS_CHARACTERS)
    total = sum(s.weight for s in sources)
    for source, size in zip(sources, characters, strict=True):
        times = source.weight / total * budget / max(size, 1)
        for _, example, number in read_examples(source, stop):
            for _ in range(math.floor(times + number / 2**64)):
                yield _text(example)


def _tokenise(
    source: RunSource, held: NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase, stop: Stop
) -> tuple[TokenStore, TokenStore]:
    """Tokens of the training part and of the held-out part, each document ended by the end token."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # "<|endoftext|>" inside a document is text like any other
    dtype = token_type(len(tokenizer))
    parts: tuple[list[Tokens], list[Tokens]] = ([], [])
    batch: list[str] = []
    count = 0

    def flush() -> None:
        nonlocal count
        for encoding in backend.encode_batch_fast(batch):
            parts[int(held[count])].append(np.array([*encoding.ids, tokenizer.eos_token_id], dtype=dtype))
            count += 1
        batch.clear()

    for _, example, _ in read_examples(source, stop):
        batch.append(_text(example))
        if len(batch) == BATCH:
            flush()
    flush()
    backend.encode_special_tokens = False
    return store_of(parts[0], len(tokenizer)), store_of(parts[1], len(tokenizer))


def _evaluation_rows(stores: list[TokenStore], length: int, limit: int) -> list[Row]:
    """Held-out documents cut into sequences; at most `limit`, spread over the sources evenly."""
    rows: list[Row] = []
    cut = [
        [(d, s) for d in range(len(store)) for s in range(0, int(store.lengths[d]), length)]
        for store in stores
    ]
    shares = _fair(limit, [len(c) for c in cut])
    for store, pieces, share in zip(stores, cut, shares, strict=True):
        for document, start in pieces[:share]:
            count = min(length, int(store.lengths[document]) - start)
            row = row_of([store.piece(document, start, count)])
            if row.targets:
                rows.append(row)
    return [
        rows[i] for i in np.random.default_rng(0).permutation(len(rows))
    ]  # any first part is a fair sample


def _fair(limit: int, sizes: list[int]) -> list[int]:
    """How many of each, so that small ones are taken whole and large ones share what is left."""
    shares = [0] * len(sizes)
    for rank, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        shares[i] = min(sizes[i], (limit - sum(shares)) // (len(sizes) - rank))
    return shares


def _text(example: object) -> str:
    assert isinstance(example, Text)
    return example.text
