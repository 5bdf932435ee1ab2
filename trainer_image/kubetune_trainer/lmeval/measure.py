"""A model measured on tasks, in the process that trains it."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from kubetune.api.lmeval import LmEval
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.lmeval.tasks import load
from kubetune_trainer.log import say
from kubetune_trainer.loss import Wrapped
from kubetune_trainer.model import context_of, evaluating
from kubetune_trainer.signals import Stop

ROWS = 8
"""Sequences per forward pass."""
_SAY_SECONDS = 30.0


def measure(
    model: Wrapped, tokenizer: PreTrainedTokenizerBase, wanted: LmEval, root: str, stop: Stop
) -> dict[str, float]:
    """The results of each task that was asked for, of a group as a whole, called `<task>/<metric>`; where a
    task reads the answers in several ways, `<task>/<metric>/<way>`.

    Args:
        model: the loss model of a language model.
        tokenizer: its tokenizer.
        wanted: the tasks.
        root: folder with their data sets.
        stop: looked at between batches.

    Raises:
        DataError: a task cannot be loaded.
        InvalidSpec: a task's answers do not fit into the model's context.
        Terminated: asked to stop.
    """
    import lm_eval

    loaded = load(wanted.tasks, root, wanted.num_fewshot)
    _check_answers(loaded["tasks"], context_of(model.model))
    # Neither drawing nor shuffling may change what is trained afterwards.
    with evaluating(model), torch.random.fork_rng(), model.autocast():
        found = lm_eval.evaluate(
            lm=_harness_model(model.model, tokenizer, stop),
            task_dict=loaded,
            limit=wanted.limit,
            bootstrap_iters=0,
            log_samples=False,
            apply_chat_template=wanted.apply_chat_template,
        )
    # The members of a group, of which there may be dozens, are in its own result.
    inner = {member for members in loaded.get("group_map", {}).values() for member in members}
    results = {**found["results"], **found.get("groups", {})}
    return {
        name: value
        for task, values in results.items()
        if task not in inner
        for name, value in _named(task, values)
    }


def _check_answers(tasks: dict[str, Any], context: int | None) -> None:
    for name, task in tasks.items():
        longest = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", 0)
        if context is not None and longest >= context:
            raise InvalidSpec(
                f"evaluation.lmEval.tasks: {name} has answers of up to {longest} tokens, and the model's "
                f"context is {context}: choose another task"
            )


def _named(task: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """`acc,none` -> `<task>/acc`; `exact_match,strict-match` -> `<task>/exact_match/strict-match`."""
    for key, value in values.items():
        metric, comma, way = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            yield "/".join([task, metric, *([] if way == "none" else [way])]), float(value)


def _harness_model(model: Any, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        """Looks at `stop` before each batch, and says now and then that it goes on."""

        _batches, _said = 0, time.monotonic()

        @property
        def max_gen_toks(self) -> int:
            """Where a task does not say it; questions keep half of the context."""
            return min(super().max_gen_toks, self.max_length // 2)

        def _tick(self) -> None:
            stop.check()
            self._batches += 1
            if time.monotonic() - self._said > _SAY_SECONDS:
                self._said = time.monotonic()
                say("lm-eval", batches=self._batches)

        def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self._tick()
            return super()._model_call(*args, **kwargs)

        def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self._tick()
            return super()._model_generate(*args, **kwargs)

    return Model(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=ROWS,
        max_length=context_of(model),
        softmax_dtype="float32",
    )
