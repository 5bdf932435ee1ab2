"""The harness's tasks, and the data sets that they need by its own descriptions.

lm_eval is imported where it is needed: it takes seconds, and few runs ask for it.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from kubetune.api.runspec import RunLmEval
from kubetune_trainer.errors import DataError, InvalidSpec, known

FIELD = "evaluation.lmEval.tasks"
_REPOSITORY = re.compile(r"[a-zA-Z0-9][-._a-zA-Z0-9]*/[-._a-zA-Z0-9]+")
_ELSEWHERE = ("data_files", "data_dir", "revision")
"""Arguments of datasets.load_dataset with which a task reads anything but the whole data set."""
_SEED = 1234
"""Seed of the choice of few-shot examples: the harness's own."""


def data_sets(names: Sequence[str]) -> list[str]:
    """The repositories of the hub, `<org>/<name>`, that tasks, groups and tags read.

    Raises:
        InvalidSpec: a name is not a task, or a task's data is not such a repository.
    """
    found = set()
    for name in names:
        if name not in _index():
            alike = get_close_matches(name, _index(), n=3)
            meant = f"; did you mean {' or '.join(alike)}?" if alike else ""
            raise InvalidSpec(f"{FIELD}: lm-eval has no task {name}{meant}")
        for task, config in _leaves(name, {}):
            repository = str(config.get("dataset_path") or "")
            given = config.get("dataset_kwargs") or {}
            if not _REPOSITORY.fullmatch(repository) or any(key in given for key in _ELSEWHERE):
                raise InvalidSpec(
                    f"{FIELD}: the data of {task} are not a whole data set <org>/<name> of the hub: choose "
                    "another task"
                )
            found.add(repository)
    return sorted(found)


def load(wanted: RunLmEval) -> dict[str, Any]:
    """Tasks with their examples, as `lm_eval.evaluate` takes them, the same at every call.

    Raises:
        DataError: a task cannot be loaded from its data.
        InvalidSpec: a task runs code that the model writes, or is not of text alone.
    """
    # In this folder the name of a data set is a path, too, so it is read there and not from the hub.
    with named(wanted.tasks, "loaded"), contextlib.chdir(Path(wanted.root)):
        loaded: dict[str, Any] = _manager().load([*wanted.tasks])
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise InvalidSpec(
                f"{FIELD}: {name} runs code that the model writes, or is not of text alone: choose another"
            )
        own = task.get_config("num_fewshot")
        shots = (own or 0) if wanted.num_fewshot is None or own == 0 else wanted.num_fewshot
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=_SEED)
    return loaded


@contextlib.contextmanager
def named(names: Sequence[str], done: str) -> Iterator[None]:
    """Turn whatever the harness and its tasks raise into a DataError that names the tasks."""
    try:
        yield
    except Exception as error:
        if known(error):
            raise
        raise DataError(
            f"{FIELD}: {' '.join(names)} cannot be {done} ({type(error).__name__}: {error}): choose others"
        ) from error


@cache
def _manager() -> Any:
    """The harness's index of tasks; reading it takes some ten seconds."""
    # Metrics of the library `evaluate` are code from the hub, which must not be fetched.
    os.environ["HF_EVALUATE_OFFLINE"] = "1"
    from datasets import disable_progress_bars
    from lm_eval.tasks import TaskManager

    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager()


def _index() -> dict[str, Any]:
    index: dict[str, Any] = _manager().task_index
    return index


def _leaves(name: str, given: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each task below a name with its description, in which `given` overrides values."""
    entry = _index().get(name)
    if entry is None:
        yield name, given
    elif entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(member, given)
    elif entry.kind.name == "GROUP":
        yield from _members(entry.cfg, given)
    else:
        yield name, entry.cfg | given


def _members(group: dict[str, Any], given: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The members of a group's description: names, names with changes, or groups of its own."""
    given = _about_data(group) | given
    for member in group.get("task") or []:
        if isinstance(member, str):
            yield from _leaves(member, given)
        elif "group" in member and member["group"] not in _index():
            yield from _members(member, given)
        else:
            yield from _leaves(member.get("group") or member["task"], given | _about_data(member))


def _about_data(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.startswith("dataset_")}
