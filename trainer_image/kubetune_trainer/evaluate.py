"""Measurements on the held-out examples, the same before and after training."""

import time
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from operator import eq
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.rows import RowLike
from kubetune_trainer.generate import answers
from kubetune_trainer.lmeval.measure import measure as measure_tasks
from kubetune_trainer.model.counting import virtual_tokens
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.objectives.prepared import Prepared
from kubetune_trainer.rouge import rouge_l
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn

BATCH_TOKENS = 8192
ANSWERED: dict[str, Callable[[str, str], float]] = {"exact-match": eq, "rouge-l": rouge_l}
"""Metrics of a greedy answer and its reference, both without thoughts; the mean is reported."""


@dataclass(frozen=True)
class Measured:
    """Results of one evaluation."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Named as in `evaluation.metrics`, or `<task>/<metric>`. What cannot be measured is absent."""
    answers: list[str] = field(default_factory=list)
    """One per sample prompt."""
    seconds: float = 0.0
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    """For results of lm-eval tasks, if lm-eval says it."""


def evaluate(
    model: Any, prepared: Prepared, spec: RunSpec, samples: Callable[..., list[str]], stop: Stop
) -> Measured:
    """Measure what was asked for.

    Args:
        model: the loss model.
        prepared: tokenizer, held-out rows and questions.
        spec: metrics, sample prompts, length of answers.
        samples: the objective's way to answer sample prompts.
        stop: looked at between batches.

    Raises:
        Terminated: asked to stop.
    """
    started = time.monotonic()
    data = prepared.evaluation
    found: dict[str, float] = {}
    if prepared.measure:
        found = prepared.measure(stop)
    elif data.rows and set(spec.metrics) - ANSWERED.keys():
        found = measure(model, data.rows, prepared, stop)
    if data.questions and ANSWERED.keys() & spec.metrics:
        prompts, limit = [(q.prompt, q.special) for q in data.questions], spec.evaluation.max_new_tokens
        with model.autocast():
            answered = answers(model.model, prepared.tokenizer, prompts, limit, stop)
        unended = sum(said.answer is None for said in answered)
        if 2 * unended > len(answered):
            warn(
                WarningReason.THOUGHTS_WITHOUT_END,
                f"{unended:,} of {len(answered):,} answers are a thought that does not end within "
                "evaluation.maxNewTokens, and count as wrong: raise it, or set data.enableThinking to false",
            )
        for name in ANSWERED.keys() & spec.metrics:
            pairs = zip(answered, data.questions, strict=True)
            found[name] = fmean(
                0.0 if said.answer is None else ANSWERED[name](said.answer, q.answer.strip())
                for said, q in pairs
            )
    said = samples(model, prepared, spec, stop)
    better: dict[str, bool] = {}
    metrics: dict[str, float] = {name: found[name] for name in spec.metrics if name in found}
    if spec.lm_eval:
        results = measure_tasks(model, prepared.tokenizer, spec.lm_eval, stop)
        metrics |= results.values
        better = results.higher_is_better
    return Measured(metrics, said, time.monotonic() - started, better)


def measure(model: Any, rows: Sequence[RowLike], prepared: Prepared, stop: Stop) -> dict[str, float]:
    """The metrics of the loss model on rows, among them "loss"."""
    with evaluating(model):
        found: dict[str, float] = model.measure(_batches(rows, prepared, model.model, stop))
    return found


def _batches(
    rows: Sequence[RowLike], prepared: Prepared, model: PreTrainedModel, stop: Stop
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of rows of similar length, the longest first."""
    for numbers in in_batches(rows, stop, virtual_tokens(model)):
        yield prepared.collate([rows[i] for i in numbers], model.device)


def in_batches(rows: Sequence[Sized], stop: Stop | None, ahead: int = 0) -> Iterator[list[int]]:
    """Indices of rows of similar length, the longest first. `ahead` more tokens precede each row."""
    lengths = [len(row) + ahead for row in rows]
    ordered = sorted(range(len(rows)), key=lengths.__getitem__)
    while ordered:
        if stop:
            stop.check()
        count = max(1, BATCH_TOKENS // lengths[ordered[-1]])
        yield ordered[-count:]
        ordered = ordered[:-count]
