"""The harness's tasks, and which data sets they need by its own descriptions.

lm_eval is imported where it is needed: it takes seconds, and few runs ask for it.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from kubetune.api.lmeval import LmEval
from kubetune_trainer.errors import DataError, InvalidSpec

_FIELD = "evaluation.lmEval.tasks"
_REPOSITORY = re.compile(r"[a-zA-Z0-9][-._a-zA-Z0-9]*/[-._a-zA-Z0-9]+")
_SEED = 1234
"""Of the choice of solved examples: the harness's own."""


def data_sets(names: Sequence[str]) -> list[str]:
    """The repositories of the hub, `<org>/<name>`, that tasks, groups and tags read.

    Raises:
        InvalidSpec: a name is no task's, or a task's data are no repository.
    """
    found = set()
    for name in names:
        if name not in _index():
            alike = get_close_matches(name, _index(), n=3)
            meant = f"; did you mean {' or '.join(alike)}?" if alike else ""
            raise InvalidSpec(f"{_FIELD}: lm-eval has no task {name}{meant}")
        for task, repository in _leaves(name, None):
            if not _REPOSITORY.fullmatch(repository or ""):
                raise InvalidSpec(
                    f"{_FIELD}: the data of {task} are no repository of the hub: choose another task"
                )
            found.add(str(repository))
    return sorted(found)


def check(wanted: LmEval, root: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse early what would fail in the evaluation.

    Raises:
        InvalidSpec: a chat template is wanted, and there is none.
        DataError: a task cannot be made of its data.
    """
    if wanted.apply_chat_template and not tokenizer.chat_template:
        raise InvalidSpec(
            "evaluation.lmEval.applyChatTemplate: the model has no chat template: remove it, or choose a "
            "model with one"
        )
    load(wanted.tasks, root, wanted.num_fewshot)


def load(names: Sequence[str], root: str, num_fewshot: int | None) -> dict[str, Any]:
    """Tasks with their examples, as `lm_eval.evaluate` takes them. Each time as the first time.

    Args:
        names: of tasks, groups and tags.
        root: folder with each data set at `<org>/<name>`.
        num_fewshot: solved examples before a question; None: as the task says.

    Raises:
        DataError: a task cannot be made of what is there.
    """
    try:
        # A data set's name is a path from here, so it is read from there, whoever asks for it.
        with contextlib.chdir(Path(root)):
            loaded: dict[str, Any] = _manager().load([*names])
    except Exception as error:  # what the descriptions and their code raise may be anything
        raise DataError(
            f"{_FIELD}: {' '.join(names)} cannot be loaded ({type(error).__name__}: {error}): choose others"
        ) from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        wanted = (own or 0) if num_fewshot is None or own == 0 else num_fewshot
        task.set_config(key="num_fewshot", value=wanted)
        task.set_fewshot_seed(seed=_SEED)
    return loaded


@cache
def _manager() -> Any:
    """The harness's register; reading it takes some ten seconds."""
    from datasets import disable_progress_bars
    from lm_eval.tasks import TaskManager

    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager()


def _index() -> dict[str, Any]:
    index: dict[str, Any] = _manager().task_index
    return index


def _leaves(name: str, given: str | None) -> Iterator[tuple[str, str | None]]:
    """Each task below a name and where its data are, which `given` has the last word about."""
    entry = _index().get(name)
    if entry is None:
        yield name, given
    elif entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(member, given)
    elif entry.kind.name == "GROUP":
        yield from _members(entry.cfg, given)
    else:
        yield name, given or entry.cfg.get("dataset_path")


def _members(group: dict[str, Any], given: str | None) -> Iterator[tuple[str, str | None]]:
    """What a group's description lists: names, or names with changes, or groups of its own."""
    given = given or group.get("dataset_path")
    for member in group.get("task") or []:
        if isinstance(member, str):
            yield from _leaves(member, given)
        elif "group" in member and member["group"] not in _index():
            yield from _members(member, given)
        else:
            yield from _leaves(member.get("group") or member["task"], member.get("dataset_path") or given)
