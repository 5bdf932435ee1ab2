"""The weighted mixture of documents that causal and masked language models are pretrained on.

It is read in passes: for hashes, for the tokenizer, for tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data import tokenizer_training
from kubetune_trainer.data.examples import Skipped, SourceFacts, fingerprint, read_examples
from kubetune_trainer.data.formats import Text
from kubetune_trainer.data.holdout import kept_out
from kubetune_trainer.data.rows import Row
from kubetune_trainer.data.special_tokens import begun_twice, noticed
from kubetune_trainer.data.store import Tokens, TokenStore, store_of, token_type
from kubetune_trainer.errors import DataError, InvalidSpec
from kubetune_trainer.files import replace_file
from kubetune_trainer.log import say
from kubetune_trainer.signals import Stop

BATCH = 256


@dataclass(frozen=True)
class Part:
    """Documents as tokens."""

    tokens: TokenStore
    """Each document ended by the end token."""
    inner: TokenStore | None
    """1 where a token continues the word of the token before it, else 0; as long as `tokens`."""


@dataclass(frozen=True)
class Corpus:
    """The sources with a weight above 0, in their order, as tokens."""

    tokenizer: PreTrainedTokenizerBase
    training: list[Part]
    held_out: list[Part]
    weights: list[float]
    facts: list[SourceFacts]
    skipped: int
    """Records without text."""
    fingerprint: str

    @property
    def status(self) -> DataStatus:
        """The counts for the job's status."""
        return DataStatus(
            documents=sum(f.documents for f in self.facts),
            held_out=sum(f.held_out for f in self.facts),
            tokens=sum(f.tokens for f in self.facts),
            dropped=self.skipped,
        )


def read_corpus(spec: RunSpec, work: Path, stop: Stop, *, words: bool = False) -> Corpus:
    """Read the corpus, train the tokenizer (or take the one of an earlier attempt or of the base), tokenise.

    The corpus is read in passes, document by document; only its tokens are kept.

    Args:
        spec: the run.
        work: folder that outlives an attempt.
        stop: whether to stop.
        words: whether to note which tokens belong to one word.

    Raises:
        DataError: see `read_records`; or a source has nothing left to train on.
        InvalidSpec: the base has no usable tokenizer.
    """
    sources = [s for s in spec.data.sources if s.weight > 0]
    scans = [_scan(source, stop) for source in sources]
    hashes = [scan.hashes for scan in scans]
    own = _scan(spec.evaluation_source, stop).hashes if spec.evaluation_source else None
    held = np.split(
        kept_out(np.concatenate(hashes), own, spec.data.validation_fraction),
        np.cumsum([len(h) for h in hashes])[:-1],
    )
    for source, mask in zip(sources, held, strict=True):
        if mask.all():
            raise DataError(
                f"source {source.name}: every document is held out, none is left to train on: add data or "
                + ("name other evaluation.data" if own is not None else "lower data.validation.fraction")
            )
    tokenizer = _tokenizer(spec, sources, [scan.characters for scan in scans], work, stop)
    masked = spec.stage == "mlm"
    parts = [
        _tokenise(source, mask, tokenizer, masked, words, stop)
        for source, mask in zip(sources, held, strict=True)
    ]
    measured = [test for _, test in parts]
    if spec.evaluation_source and own is not None:
        every = np.ones(len(own), dtype=bool)
        measured = [_tokenise(spec.evaluation_source, every, tokenizer, masked, words, stop)[1]]
    total = sum(s.weight for s in sources)
    facts = [
        SourceFacts(
            s.name,
            s.uri,
            s.weight,
            len(mask),
            int(mask.sum()),
            int(part.tokens.offsets[-1]),
            s.weight / total,
        )
        for s, mask, (part, _) in zip(sources, held, parts, strict=True)
    ]
    return Corpus(
        tokenizer=tokenizer,
        training=[train for train, _ in parts],
        held_out=measured,
        weights=[s.weight for s in sources],
        facts=facts,
        skipped=sum(scan.skipped for scan in scans),
        fingerprint=fingerprint(hashes if own is None else [*hashes, own]),
    )


def pieces(stores: list[TokenStore], length: int, limit: int) -> list[tuple[int, int, int, int]]:
    """Cut held-out documents into sequences of at most `length` tokens.

    Returns:
        (store, document, first token, number of tokens) of at most `limit` sequences, spread evenly over the
        stores.
    """
    cut = [
        [(d, s) for d in range(len(store)) for s in range(0, int(store.lengths[d]), length)]
        for store in stores
    ]
    shares = _fair(limit, [len(c) for c in cut])
    return [
        (i, d, start, min(length, int(store.lengths[d]) - start))
        for i, (store, places, share) in enumerate(zip(stores, cut, shares, strict=True))
        for d, start in places[:share]
    ]


def shuffled(rows: list[Row]) -> list[Row]:
    """The rows with something to predict, shuffled with a fixed seed: any first part is a fair sample."""
    rows = [row for row in rows if row.targets]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


@dataclass(frozen=True)
class _Scan:
    """What a source holds."""

    hashes: NDArray[np.uint64]
    """Content hash of each document, [documents]."""
    characters: int
    """Total of all documents."""
    skipped: int
    """Records without text."""


def _scan(source: RunSource, stop: Stop) -> _Scan:
    hashes, characters, skipped = [], 0, Skipped()
    for _, example, number in read_examples(source, stop, skipped):
        hashes.append(number)
        characters += len(_text(example))
    return _Scan(np.array(hashes, dtype=np.uint64), characters, skipped.count)


def _tokenizer(
    spec: RunSpec, sources: list[RunSource], characters: list[int], work: Path, stop: Stop
) -> PreTrainedTokenizerBase:
    """The base's own tokenizer, or a newly trained one.

    A trained one is kept, because a resumed run must use the tokenizer that it began with, even if the data
    changed meanwhile.
    """
    if spec.tokenizer is None:
        if spec.model.path is None:
            raise InvalidSpec("the run spec has neither tokenizer settings nor a base model")
        base = Path(spec.model.path)
        return tokenizers.load_masked(base) if spec.stage == "mlm" else tokenizers.load(base)
    kept = work / "tokenizer.json"
    if kept.exists():
        return tokenizer_training.wrap(Tokenizer.from_file(str(kept)))
    say("tokenizer", text=f"training on {sum(characters):,} characters")
    texts = _in_proportion(sources, characters, stop)
    trained = tokenizer_training.train(
        texts, spec.tokenizer.vocab_size, masked=spec.stage == "mlm", config=spec.model.config
    )
    replace_file(kept, trained.backend_tokenizer.to_str().encode())
    return trained


def _in_proportion(sources: list[RunSource], characters: list[int], stop: Stop) -> Iterator[str]:
    """Documents to train the tokenizer on: each source's share of the characters is that of its weight.

    Small sources are repeated. Large ones are thinned out by content hash, hence evenly.
    """
    budget = min(sum(characters), tokenizer_training.CORPUS_CHARACTERS)
    total = sum(s.weight for s in sources)
    for source, size in zip(sources, characters, strict=True):
        times = source.weight / total * budget / max(size, 1)
        for _, example, number in read_examples(source, stop):
            for _ in range(math.floor(times + number / 2**64)):
                yield _text(example)


def _tokenise(
    source: RunSource,
    held: NDArray[np.bool_],
    tokenizer: PreTrainedTokenizerBase,
    masked: bool,
    words: bool,
    stop: Stop,
) -> tuple[Part, Part]:
    """The training part and the held-out part.

    Each document begins as the tokenizer begins a text and ends with the end token. With `masked` nothing is
    put before it, because those rows add a beginning of their own.
    """
    backend = tokenizers.of_documents(tokenizer)
    end = tokenizer.sep_token_id if masked else tokenizer.eos_token_id
    size = tokenizers.vocabulary(tokenizer)
    dtype = token_type(size)
    parts: tuple[list[Tokens], list[Tokens]] = ([], [])
    inner: tuple[list[Tokens], list[Tokens]] = ([], [])
    batch: list[str] = []
    count = 0

    def flush() -> None:
        nonlocal count
        encode = backend.encode_batch if words else backend.encode_batch_fast
        with tokenizers.encoding():
            encodings = encode(batch, add_special_tokens=not masked)
        for encoding in encodings:
            side = int(held[count])
            skip = int(begun_twice(encoding.ids, tokenizer))
            ids = encoding.ids[skip:]
            ids = ids if ids[-1:] == [end] else [*ids, end]
            parts[side].append(np.array(ids, dtype=dtype))
            if words:
                number = np.array(encoding.word_ids, dtype=np.float64)[skip:]
                same = np.append(np.diff(number, prepend=-1) == 0, False)
                inner[side].append(same[: len(ids)].astype(dtype))
            count += 1
        batch.clear()

    for _, example, _ in noticed(read_examples(source, stop), tokenizer, source):
        batch.append(_text(example))
        if len(batch) == BATCH:
            flush()
    flush()
    made = [
        Part(store_of(p, size), store_of(w, size) if words else None)
        for p, w in zip(parts, inner, strict=True)
    ]
    return made[0], made[1]


def _fair(limit: int, sizes: list[int]) -> list[int]:
    """How many to take of each: small ones whole, large ones an equal share of what is left."""
    shares = [0] * len(sizes)
    for rank, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        shares[i] = min(sizes[i], (limit - sum(shares)) // (len(sizes) - rank))
    return shares


def _text(example: object) -> str:
    assert isinstance(example, Text)
    return example.text
