"""Status of a PretrainJob or FineTuneJob. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kubetune.api.progress import CheckpointStatus
from kubetune.api.status import Failure, JobPhase, JobStatus
from kubetune.status.attempts import Attempt
from kubetune.status.conditions import Judgement, conditions, is_true, timestamp
from kubetune.status.decision import Decision, Finish, Start, Wait

NEEDS = ("DependenciesReady", "ResourcesReady")
"""Conditions about what a run needs."""
Word = Literal["True", "False", "Unknown"]
_WORDS: dict[bool | None, Word] = {True: "True", False: "False", None: "Unknown"}


@dataclass(frozen=True)
class Need:
    """Whether something that a run needs is there."""

    met: bool | None
    """None: it could not be observed."""
    reason: str
    message: str = ""


@dataclass(frozen=True)
class Observed:
    """What was found out about a job."""

    attempts: Sequence[Attempt]
    """Oldest first."""
    dependencies: Need
    """The base model's job."""
    resources: Need
    """Claims, ConfigMaps, and the creation of children."""


def is_finished(status: JobStatus) -> bool:
    """Whether the job is over: then nothing is created any more, whatever happens to its children."""
    return is_true(status.conditions, "Complete") or is_true(status.conditions, "Failed")


def seen_again(status: JobStatus, generation: int) -> JobStatus:
    """The status of a job that is over, after an edit of its spec, which changes nothing any more."""
    judged = [c.model_copy(update={"observed_generation": generation}) for c in status.conditions]
    return status.model_copy(update={"observed_generation": generation, "conditions": judged})


def job_status(
    resource: Mapping[str, Any], previous: JobStatus, observed: Observed, decision: Decision, now: datetime
) -> JobStatus:
    """The status after a look at a job.

    Args:
        resource: the job.
        previous: its status.
        observed: what was found out.
        decision: what is being done about it.
        now: the clock.
    """
    generation = resource["metadata"]["generation"]
    last = observed.attempts[-1] if observed.attempts else None
    word = last.last_word if last else None
    finish = decision if isinstance(decision, Finish) else None
    started = previous.start_time or (timestamp(now) if last else None)
    return JobStatus(
        observed_generation=generation,
        phase=_phase(observed, last, finish),
        start_time=started,
        completion_time=(previous.completion_time or timestamp(now)) if finish else None,
        attempts=max(previous.attempts, last.number if last else 0),
        restarts=max(previous.restarts, last.restarts if last else 0),
        conditions=conditions(_judge(previous, observed, decision), previous.conditions, generation, now),
        plan=(word.plan if word else None) or previous.plan,
        # While the job runs, the receiver writes these two.
        trainer_status=(word.trainer_status if word and finish else None) or previous.trainer_status,
        last_checkpoint=_checkpoint(previous, last, finish),
        data=(word.data if word else None) or previous.data,
        evaluation=(word.evaluation if word else None) or previous.evaluation,
        artifact=word.artifact if word and finish and finish.phase == "Succeeded" else None,
        failure=finish.failure if finish else _failure(previous, observed.attempts),
    )


def _failure(previous: JobStatus, attempts: Sequence[Attempt]) -> Failure | None:
    """Why the newest attempt failed, or, while it runs, the one before."""
    # Not of earlier ones: their pods may be gone, but what they showed is in the previous status.
    shown = [a.failure for a in attempts if a.number >= previous.attempts and a.failure]
    return shown[-1] if shown else previous.failure


def _checkpoint(previous: JobStatus, last: Attempt | None, finish: Finish | None) -> CheckpointStatus | None:
    if finish and finish.phase == "Succeeded":
        # Checkpoints are removed once the artifact is complete.
        return None
    word = last.last_word if last and finish else None
    return (word.last_checkpoint if word else None) or previous.last_checkpoint


def _phase(observed: Observed, last: Attempt | None, finish: Finish | None) -> JobPhase:
    if finish:
        return finish.phase
    if last and last.state == "Running":
        return "Running"
    if observed.dependencies.met is False:
        return "WaitingForDependency"
    return "Pending"


def _judge(previous: JobStatus, observed: Observed, decision: Decision) -> list[Judgement]:
    last = observed.attempts[-1] if observed.attempts else None
    if isinstance(decision, Finish):
        course = _of_end(last, decision)
    else:
        course = _of_course(previous.attempts, last, decision)
    return [
        _of_need("DependenciesReady", observed.dependencies),
        _of_need("ResourcesReady", _started(observed.resources, last)),
        *course,
    ]


def _started(resources: Need, last: Attempt | None) -> Need:
    """A pod that cannot start is a resource that is not ready."""
    if resources.met and last and last.trouble:
        return Need(
            False, last.trouble.reason, f"The pod of {last.name} does not start: {last.trouble.message}"
        )
    return resources


def _of_need(kind: str, need: Need) -> Judgement:
    return Judgement(kind, _WORDS[need.met], need.reason, need.message)


def _of_end(last: Attempt | None, finish: Finish) -> list[Judgement]:
    """Conditions of a job that is over."""
    if finish.failure:
        return [
            Judgement("ArtifactReady", "False", "JobFailed"),
            Judgement("Complete", "False", "JobFailed"),
            Judgement("Failed", "True", finish.failure.reason.value, finish.failure.message),
        ]
    artifact = last.last_word.artifact if last and last.last_word else None
    where = f"{artifact.uri} ({artifact.digest})" if artifact else ""
    return [
        Judgement("ArtifactReady", "True", "Written", where),
        Judgement("Complete", "True", "Succeeded", f"The artifact is {where}"),
        Judgement("Failed", "False", "Succeeded"),
    ]


def _of_course(known: int, last: Attempt | None, decision: Start | Wait) -> list[Judgement]:
    """Conditions of a job that is not over, of which so many attempts are known."""
    number = last.number if last else 0
    if number < known:
        reason, message = "Retrying", f"The Job of attempt {known} was deleted."
    elif last is None:
        reason, message = "NotStarted", ""
    elif last.failure:
        reason, message = "Retrying", f"{last.failure.reason.value}: {last.failure.message}"
    else:
        reason, message = last.state, ""
    if isinstance(decision, Wait) and decision.until:
        message += f" Attempt {max(known, number) + 1} starts at {timestamp(decision.until)}."
    return [
        Judgement("ArtifactReady", "False", reason),
        Judgement("Complete", "False", reason, message),
        Judgement("Failed", "False", reason),
    ]
