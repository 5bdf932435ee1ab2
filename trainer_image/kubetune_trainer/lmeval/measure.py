"""A model measured on tasks, in the process that trains it."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from kubetune.api.runspec import RunLmEval
from kubetune_trainer.errors import DataError, InvalidSpec
from kubetune_trainer.lmeval.harness_model import harness_model
from kubetune_trainer.lmeval.tasks import FIELD, load, named
from kubetune_trainer.loss import Wrapped
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.signals import Stop

_SEEDS = (0, 1234, 1234)
"""Seeds of random, NumPy and torch: the harness's own. Some tasks draw from them."""


@dataclass(frozen=True)
class Results:
    """What was measured."""

    values: dict[str, float]
    """By `<task>/<metric>`, or `<task>/<metric>/<filter>` if the task filters the answers."""
    higher_is_better: dict[str, bool]
    """For the same names, if the harness says it."""


def measure(model: Wrapped, tokenizer: PreTrainedTokenizerBase, wanted: RunLmEval, stop: Stop) -> Results:
    """The results of each task that was asked for; for a group its own, if it has any, else its members'.

    Args:
        model: the loss model of a language model.
        tokenizer: its tokenizer.
        wanted: the tasks, and where their data sets are.
        stop: looked at before each token.

    Raises:
        DataError: a task cannot be loaded or measured.
        InvalidSpec: there is no chat template, or a task is refused.
        Terminated: asked to stop.
    """
    import lm_eval

    if wanted.apply_chat_template and not tokenizer.chat_template:
        raise InvalidSpec(
            "evaluation.lmEval.applyChatTemplate: the model has no chat template: remove it, or choose a "
            "model with one"
        )
    with _seeded():
        loaded = load(wanted)
        with named(wanted.tasks, "measured"), evaluating(model), model.autocast():
            found = lm_eval.evaluate(
                lm=harness_model(model.model, tokenizer, stop),
                task_dict=loaded,
                limit=wanted.limit,
                bootstrap_iters=0,
                log_samples=False,
                apply_chat_template=wanted.apply_chat_template,
                fewshot_as_multiturn=wanted.apply_chat_template,
            )
    groups = loaded.get("group_map") or {}
    inner = {member for members in groups.values() for member in members}
    results, better = Results({}, {}), found.get("higher_is_better") or {}
    for task in _shown([name for name in (*groups, *loaded["tasks"]) if name not in inner], groups, found):
        for metric, name, value in _metrics(task, found["results"][task]):
            results.values[name] = value
            if isinstance(higher := better.get(task, {}).get(metric), bool):
                results.higher_is_better[name] = higher
    if not results.values:
        raise DataError(f"{FIELD}: {' '.join(wanted.tasks)} give no result: choose others")
    return results


def _shown(names: Sequence[str], groups: dict[str, list[str]], found: dict[str, Any]) -> Iterator[str]:
    """The names whose results are reported: a group with results of its own, else its members, which may be
    dozens."""
    for name in names:
        if any(_metrics(name, found["results"].get(name, {}))):
            yield name
        else:
            yield from _shown(groups.get(name, []), groups, found)


def _metrics(task: str, values: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(metric, name, value): `acc,none` is called `<task>/acc`, and `exact_match,strict-match`
    `<task>/exact_match/strict-match`."""
    for key, value in values.items():
        metric, comma, way = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            yield metric, "/".join([task, metric, *([] if way == "none" else [way])]), float(value)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the random generators, so that draws are the same each time; then restore them for training."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(_SEEDS[0])
        np.random.seed(_SEEDS[1])
        torch.manual_seed(_SEEDS[2])
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
