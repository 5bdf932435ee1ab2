"""Data of the stages that learn from preferences."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.runspec import RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.examples import Skipped, facts_of, read_examples
from kubetune_trainer.data.formats import Preference
from kubetune_trainer.data.pairs import EncodedPair, Pairs, collate, encode_pairs, store_pairs
from kubetune_trainer.data.special_tokens import noticed
from kubetune_trainer.data.split import Loaded, split
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.data.streams import Epochs, EpochStream, rows_in
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.objectives.prepared import EvaluationSet, Prepared
from kubetune_trainer.signals import Stop


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs ready for training, and those to measure."""

    prepared: Prepared
    training: Pairs
    seen: list[int]
    """Indices of the training pairs that the run will see."""
    measured: Pairs


def prepare(spec: RunSpec, stop: Stop, *, whole: bool = False) -> PreparedPairs:
    """Read the pairs, hold some out (see `split`), tokenise, plan the epochs. Each pair is a row of its own.

    Args:
        spec: the run.
        stop: whether to stop.
        whole: whether a side's last token is an input, too.

    Raises:
        DataError: see `read_records` and `encode_pairs`; or nothing is left to train on.
        InvalidSpec: the base has no usable tokenizer.
    """
    if spec.finetune is None or spec.model.path is None:
        raise InvalidSpec(f"stage {spec.stage} needs finetune settings and a base model")
    tokenizer = tokenizers.load_for(spec)
    length, settings = spec.data.sequence_length, spec.finetune
    sources = [s for s in spec.data.sources if s.weight > 0]
    load = partial(_load, tokenizer=tokenizer, length=length, stop=stop)
    found = split(spec, sources, load, lambda pair: pair.fits)
    training = store_pairs(found.training, len(tokenizer), whole=whole)
    epochs = Epochs(training.chosen, found.source, [s.weight for s in sources], None, settings.seed)
    rows = None if settings.epochs is None else max(1, rows_in(epochs, settings.epochs))
    steps = settings.max_steps or math.ceil((rows or 1) / settings.global_batch_size)
    measured = store_pairs(found.measured, len(tokenizer), whole=whole)
    tokens = [int(training.tokens[found.source == i].sum()) for i in range(len(sources))]
    prepared = Prepared(
        tokenizer=tokenizer,
        stream=EpochStream(training.chosen, epochs, rows, lambda examples: training[examples[0]]),
        total_steps=steps,
        evaluation=EvaluationSet(measured, [], len(measured)),
        data=DataStatus(
            documents=len(found.held),
            held_out=int(found.held.sum()),
            tokens=sum(tokens),
            truncated=sum(p.cut for p in found.training),
            dropped=found.dropped,
        ),
        sources=facts_of(sources, found.of_source, found.held, tokens),
        fingerprint=found.fingerprint,
        betas=(0.9, 0.999),
        collate=partial(collate, pad=tokenizer.pad_token_id),
    )
    seen_pairs = _seen(epochs, steps * settings.global_batch_size, len(training))
    return PreparedPairs(prepared, training, seen_pairs, measured)


def loss_of(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over pairs of -log sigmoid of the reward margin; idle pairs add nothing.

    Args:
        margins: reward of the chosen side minus that of the rejected one, [pairs].
        labels: of a PairBatch.
    """
    real = (labels[: len(margins)] != IGNORED).any(1)
    return -(nn.functional.logsigmoid(margins) * real).sum()


def measures_of(margins: Iterable[torch.Tensor]) -> dict[str, float]:
    """Mean loss per pair, share of pairs with a positive margin, mean margin; from batches of [pairs]."""
    every = torch.cat([batch.double().cpu() for batch in margins])
    return {
        "loss": float(-nn.functional.logsigmoid(every).mean()),
        "accuracy": float((every > 0).double().mean()),
        "reward-margin": float(every.mean()),
    }


def _load(
    source: RunSource, tokenizer: PreTrainedTokenizerBase, length: int, stop: Stop
) -> Loaded[EncodedPair]:
    examples, places, hashes, skipped = [], [], [], Skipped()
    for record, example, number in noticed(read_examples(source, stop, skipped), tokenizer, source):
        if not isinstance(example, Preference):
            raise InvalidSpec(
                f"source {source.name}: this stage needs format preference, not {source.format}"
            )
        examples.append(example)
        places.append(record.place())
        hashes.append(number)
    pairs = []
    for pair in encode_pairs(examples, places, tokenizer, length):
        stop.check()
        pairs.append(pair)
    return Loaded(pairs, np.array(hashes, dtype=np.uint64), skipped.count)


def _seen(epochs: Epochs, count: int, examples: int) -> list[int]:
    """Indices of the examples in the first `count` rows of a run; `examples` is how many there are."""
    found: set[int] = set()
    epoch = 0
    while count > 0 and len(found) < examples:
        rows = epochs.rows(epoch)[:count]
        found.update(example for row in rows for example in row)
        count, epoch = count - len(rows), epoch + 1
    return sorted(found)
