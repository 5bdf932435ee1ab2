"""Public benchmarks, by the Language Model Evaluation Harness (Gao et al. 2024, EleutherAI's lm-eval)."""

from typing import Annotated

from pydantic import Field

from kubetune.api.meta import SET_LIST, Block, matches
from kubetune.api.source import SecretRef

IS_TASK = matches(
    "[a-zA-Z0-9][-+._a-zA-Z0-9]*",
    "must be the name of a task, for example arc_easy: letters, digits, '-', '+', '.' and '_'",
)


class Tasks(Block):
    """Tasks of the Language Model Evaluation Harness, and how their questions are asked."""

    tasks: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128), IS_TASK]],
        Field(min_length=1, max_length=16, json_schema_extra=SET_LIST),
    ]
    """Names of tasks, groups or tags that come with it, for example arc_easy, gsm8k or mmlu. Their data sets
    are read from the hub, like hf:// sources. Code in them is never run."""
    limit: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    """At most this many examples of each task. Default: all."""
    num_fewshot: Annotated[int | None, Field(ge=0, le=100)] = None
    """Solved examples before each question. Default: as the task says. Tasks that say 0 keep it."""
    apply_chat_template: bool = False
    """Whether questions are asked as user messages, through the model's chat template."""


class LmEval(Tasks):
    """Tasks of the Language Model Evaluation Harness, measured before and after training."""

    secret_ref: SecretRef | None = None
    """Credentials for the hub, or for a mirror."""
