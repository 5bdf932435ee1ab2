"""Measurements on the held-out examples, the same before and after training."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.data import Evaluation
from kubetune_trainer.data.rows import Row, collate
from kubetune_trainer.generate import answers, prompt_of
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model import evaluating
from kubetune_trainer.objectives.prepared import EvaluationSet
from kubetune_trainer.signals import Stop

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Measured:
    """Results of one evaluation."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Named as in `evaluation.metrics`. What cannot be measured is absent."""
    answers: list[str] = field(default_factory=list)
    """One per sample prompt."""
    seconds: float = 0.0


def evaluate(
    model: LossModel,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Evaluation,
    data: EvaluationSet,
    *,
    chat: bool,
    stop: Stop,
) -> Measured:
    """Measure what was asked for.

    Args:
        model: the model, in its loss wrapper.
        tokenizer: its tokenizer.
        wanted: metrics, sample prompts, length of answers.
        data: held-out rows and questions.
        chat: whether sample prompts are messages for the chat template.
        stop: looked at between batches.

    Raises:
        Terminated: asked to stop.
    """
    started = time.monotonic()
    found: dict[str, float] = {}
    if data.rows and set(wanted.metrics) - {"exact-match"}:
        loss, accuracy = likelihood(model, data.rows, tokenizer.pad_token_id, stop)
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700)), "token-accuracy": accuracy}
    if data.questions and "exact-match" in wanted.metrics:
        with model.autocast():
            found["exact-match"] = exact_match(model.model, tokenizer, data, wanted.max_new_tokens, stop)
    prompts = [prompt_of(p, tokenizer, chat=chat) for p in wanted.sample_prompts]
    with model.autocast():
        said = answers(model.model, tokenizer, prompts, wanted.max_new_tokens, stop) if prompts else []
    metrics: dict[str, float] = {name: found[name] for name in wanted.metrics if name in found}
    return Measured(metrics, said, time.monotonic() - started)


def likelihood(model: LossModel, rows: Sequence[Row], pad: int, stop: Stop) -> tuple[float, float]:
    """Mean negative log-likelihood per trained token, and the share of them that rank first."""
    ordered = sorted(rows, key=len)
    loss = correct = 0.0
    with evaluating(model):
        while ordered:
            stop.check()
            count = max(1, BATCH_TOKENS // len(ordered[-1]))
            ordered, batch = ordered[:-count], collate(ordered[-count:], pad, model.model.device)
            part, hits = model.score(batch.tokens, batch.positions, batch.labels)
            loss, correct = loss + float(part), correct + float(hits)
    targets = sum(row.targets for row in rows)
    return loss / targets, correct / targets


def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EvaluationSet, limit: int, stop: Stop
) -> float:
    """Share of questions whose greedy answer equals the reference, spaces at the ends aside."""
    said = answers(model, tokenizer, [(q.prompt, q.special) for q in data.questions], limit, stop)
    return sum(s == q.answer.strip() for s, q in zip(said, data.questions, strict=True)) / len(said)
