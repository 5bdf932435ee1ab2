"""The termination message: it always fits and is always valid JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from kubetune.api.progress import TERMINATION_MESSAGE_BYTES, TerminationMessage
from kubetune.api.runspec import TERMINATION_LOG
from kubetune.api.warnings import RunWarning
from kubetune_trainer.log import say

PATH_VARIABLE = "KUBETUNE_TERMINATION_LOG"
"""Environment variable that names another file than the pod's, for running a trainer by hand."""
_LENGTHS = (1024, 512, 256, 128, 64, 32)
_COUNTS = (1000, 32, 16, 8, 4)


def write(message: TerminationMessage) -> None:
    """Write it where the kubelet reads it. A failure is only logged, because the exit code tells the reason,
    too."""
    path = Path(os.environ.get(PATH_VARIABLE, TERMINATION_LOG))
    try:
        path.write_bytes(fitted(message))
    except OSError as error:
        say("warning", text=f"the termination message was not written: {error}")


def fitted(message: TerminationMessage, limit: int = TERMINATION_MESSAGE_BYTES) -> bytes:
    """JSON of at most `limit` bytes.

    Samples and warnings are shortened first. Then samples are left out, with all but the first results and
    warnings. Then the message is shortened. The artifact stays as long as possible, because without it a run
    counts as failed.
    """
    bare = message
    for length in _LENGTHS:
        bare = _with_short_warnings(message, length)
        if len(text := _encode(_with_short_samples(bare, length))) <= limit:
            return text
    shortened = bare
    for count in _COUNTS:
        bare = _with_few_warnings(_with_few_results(shortened, count), count)
        if len(text := _encode(bare)) <= limit:
            return text
    for length in (limit, *_LENGTHS):
        if (
            len(text := _encode(bare.model_copy(update={"message": _short(message.message, length)})))
            <= limit
        ):
            return text
    return _encode(TerminationMessage(reason=message.reason, message=_short(message.message, 256)))


def _encode(message: TerminationMessage) -> bytes:
    return json.dumps(message.wire(), ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _with_few_results(message: TerminationMessage, count: int) -> TerminationMessage:
    """Drop samples and all but the first results; all are in the artifact's report."""
    if message.evaluation is None:
        return message
    few = {
        "baseline": message.evaluation.baseline[:count],
        "tuned": message.evaluation.tuned[:count],
        "samples": [],
    }
    return message.model_copy(update={"evaluation": message.evaluation.model_copy(update=few)})


def _with_short_warnings(message: TerminationMessage, length: int) -> TerminationMessage:
    return _with_warnings(
        message, lambda w: [x.model_copy(update={"message": _short(x.message, length)}) for x in w]
    )


def _with_few_warnings(message: TerminationMessage, count: int) -> TerminationMessage:
    """Drop all but the first ones; the receiver got all, and all are in the artifact's report."""
    return _with_warnings(message, lambda w: w[:count])


def _with_warnings(
    message: TerminationMessage, change: Callable[[list[RunWarning]], list[RunWarning]]
) -> TerminationMessage:
    status = message.trainer_status
    if status is None or not status.warnings:
        return message
    changed = status.model_copy(update={"warnings": change(status.warnings)})
    return message.model_copy(update={"trainer_status": changed})


def _with_short_samples(message: TerminationMessage, length: int) -> TerminationMessage:
    if message.evaluation is None:
        return message
    samples = [
        s.model_copy(
            update={
                "prompt": _short(s.prompt, length),
                "before": s.before and _short(s.before, length),
                "after": _short(s.after, length),
            }
        )
        for s in message.evaluation.samples
    ]
    return message.model_copy(
        update={"evaluation": message.evaluation.model_copy(update={"samples": samples})}
    )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
