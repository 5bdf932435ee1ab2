"""Status of a PretrainJob or FineTuneJob. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kubetune.api.exitcodes import Reason
from kubetune.api.progress import CheckpointStatus
from kubetune.api.status import Failure, JobPhase, JobStatus, find, is_true
from kubetune.status.attempts import Attempt
from kubetune.status.conditions import Judgement, conditions, timestamp
from kubetune.status.decision import Decision, Finish, Hold, Seen, StopAttempt, Wait, was_suspended
from kubetune.status.ending import IF_LOST, late, terminating
from kubetune.status.health import health
from kubetune.status.warnings import judgement, warnings_of, with_all_warnings

NEEDS = ("DependenciesReady", "ResourcesReady")
"""Conditions about what a run needs."""
STARTING = {Reason.IMAGE_ERROR, Reason.CONTAINER_ERROR, Reason.UNSCHEDULABLE, Reason.PODS_REFUSED}
"""Reasons for which an attempt does not start: nothing has failed yet."""
ADVICE = {
    Reason.IMAGE_ERROR: "Check compute.podTemplate.image, its imagePullSecrets and the chart's images. ",
    Reason.CONTAINER_ERROR: "Check what the pod mounts and runs. ",
    Reason.PODS_REFUSED: "Check the quotas and admission policies of the namespace. ",
}
CHANGING = "To change compute, set suspend: true first"
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
class ObservedJob:
    """What the operator found out about a job."""

    seen: Seen
    """Attempts and their pods."""
    dependencies: Need
    """Whether the jobs that it starts from have made what is needed."""
    resources: Need
    """Claims, ConfigMaps, and the creation of children."""
    suspend: bool = False
    """What the spec says."""
    run_spec: str | None = None
    """ConfigMap with the run spec of the newest attempt."""

    @property
    def last(self) -> Attempt | None:
        """The newest attempt whose Job exists."""
        return self.seen.attempts[-1] if self.seen.attempts else None


def is_finished(status: JobStatus) -> bool:
    """Whether the job is over: then nothing is created any more, whatever happens to its children."""
    return is_true(status.conditions, "Complete") or is_true(status.conditions, "Failed")


def seen_again(status: JobStatus, generation: int, now: datetime) -> JobStatus:
    """The status of a job that is over, after an edit of its spec, which changes nothing any more."""
    judged = [Judgement(c.type, c.status, c.reason, c.message) for c in status.conditions]
    if not find(status.conditions, "Ready"):  # It ended under an operator that did not judge that.
        judged = [*_health_at_end(judged), *judged]
    return status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions(judged, status.conditions, generation, now),
        }
    )


def job_status(
    resource: Mapping[str, Any], previous: JobStatus, observed: ObservedJob, decision: Decision, now: datetime
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
    last = observed.last
    word = last.last_word if last else None
    finish = decision if isinstance(decision, Finish) else None
    started = previous.start_time or (timestamp(now) if last else None)
    attempts = max(previous.attempts, last.number if last else 0)
    final = word.trainer_status if word and finish else None
    trainer = with_all_warnings(final, previous.trainer_status) or previous.trainer_status
    judged = _judge(previous, observed, decision, now)
    undisturbed = _undisturbed(observed, decision)
    until = None if undisturbed else observed.seen.active_until
    return JobStatus(
        observed_generation=generation,
        phase=_phase(previous, observed, decision, now),
        start_time=started,
        completion_time=(previous.completion_time or timestamp(now)) if finish else None,
        attempts=attempts,
        restarts=max(previous.restarts, last.restarts if last else 0),
        active_seconds=max(previous.active_seconds, 0 if undisturbed else observed.seen.active_seconds),
        active_until=timestamp(until) if until else previous.active_until,
        conditions=conditions(
            [
                *_health(decision, judged),
                *judged,
                judgement(warnings_of(resource["spec"], trainer)),
            ],
            previous.conditions,
            generation,
            now,
        ),
        run_spec=observed.run_spec or previous.run_spec,
        plan=(word.plan if word else None) or previous.plan,
        # While the job runs, the receiver writes these two.
        trainer_status=trainer,
        last_checkpoint=_checkpoint(previous, last, finish),
        data=(word.data if word else None) or previous.data,
        evaluation=(word.evaluation if word else None) or previous.evaluation,
        artifact=word.artifact if word and finish and finish.phase == "Succeeded" else None,
        failure=finish.failure if finish else _failure(previous, observed),
    )


def _undisturbed(observed: ObservedJob, decision: Decision) -> bool:
    """Whether an attempt simply runs. Its running time is then not written: that would be a new status at
    every look."""
    last = observed.last
    goes_on = last is not None and last.state in ("Pending", "Running") and not (last.ending or last.held)
    return isinstance(decision, Wait) and goes_on


def _failure(previous: JobStatus, observed: ObservedJob) -> Failure | None:
    """Why the newest attempt failed or does not start, or, while it runs, why the one before failed."""
    last = observed.last
    if last and last.trouble and last.trouble.kind:
        why = _does_not_start(last)
        return Failure(reason=last.trouble.kind, pod=last.trouble.pod, message=why)
    # Not of earlier ones: their pods may be gone, but what they showed is in the previous status.
    shown = [a.failure for a in observed.seen.attempts if a.number >= previous.attempts and a.failure]
    if shown:
        return shown[-1]
    return None if previous.failure and previous.failure.reason in STARTING else previous.failure


def _checkpoint(previous: JobStatus, last: Attempt | None, finish: Finish | None) -> CheckpointStatus | None:
    if finish and finish.phase == "Succeeded":
        # Checkpoints are removed once the artifact is complete.
        return None
    word = last.last_word if last and finish else None
    return (word.last_checkpoint if word else None) or previous.last_checkpoint


def _phase(previous: JobStatus, observed: ObservedJob, decision: Decision, now: datetime) -> JobPhase:
    last = observed.last
    if isinstance(decision, Finish):
        return decision.phase
    if isinstance(decision, Hold):
        return "Suspended"
    if last and last.state == "Running" and not (last.ending and last.ending.is_late(now)):
        return "Running"
    if _stopping(previous, observed, decision):
        return previous.phase
    if observed.dependencies.met is False:
        return "WaitingForDependency"
    return "Pending"


def _stopping(previous: JobStatus, observed: ObservedJob, decision: Decision) -> bool:
    """Whether pods are ending because the job is to be suspended."""
    if isinstance(decision, StopAttempt):
        return decision.reason == "Suspended"
    return observed.suspend and isinstance(decision, Wait) and bool(observed.seen.alive)


def _judge(previous: JobStatus, observed: ObservedJob, decision: Decision, now: datetime) -> list[Judgement]:
    last = observed.last
    if isinstance(decision, Finish):
        course = _of_end(last, decision)
    else:
        reason, message = _of_course(previous, observed, decision)
        course = [
            Judgement("ArtifactReady", "False", reason),
            _suspended(previous, observed, decision, now),
            Judgement("Complete", "False", reason, message),
            Judgement("Failed", "False", reason),
        ]
    return [
        _of_need("DependenciesReady", observed.dependencies),
        _of_need("ResourcesReady", _started(observed, last)),
        *course,
    ]


def _health(decision: Decision, judged: Sequence[Judgement]) -> list[Judgement]:
    """Ready, Reconciling and Stalled."""
    if isinstance(decision, Finish):
        return _health_at_end(judged)
    by_type = {judgement.type: judgement for judgement in judged}
    if isinstance(decision, Hold):
        return health("Held", by_type["Suspended"])
    unmet = (by_type[kind] for kind in NEEDS if by_type[kind].status == "False")
    return health("InProgress", next(unmet, by_type["Complete"]))


def _health_at_end(judged: Sequence[Judgement]) -> list[Judgement]:
    ends = {judgement.type: judgement for judgement in judged if judgement.status == "True"}
    return health("Failed", ends["Failed"]) if "Failed" in ends else health("Current", ends["Complete"])


def _started(observed: ObservedJob, last: Attempt | None) -> Need:
    """A pod that cannot start, or does not end, is a resource that is not ready."""
    if not observed.resources.met or last is None:
        return observed.resources
    if last.held:
        return Need(False, last.held.reason, last.held.message)
    if last.ending and not observed.suspend:
        return Need(False, "PodTerminating", terminating([last.ending.pod], [last.ending]))
    if last.trouble:
        return Need(False, last.trouble.reason, _does_not_start(last))
    if last.silent_node:
        return Need(False, "NodeNotReady", _silent(last.silent_node))
    return observed.resources


def _silent(node: str) -> str:
    return (
        f"Node {node} does not answer, and nobody knows whether the trainer still runs there. If the node "
        f"comes back, the run goes on; else Kubernetes tells its pod to end. {IF_LOST}"
    )


def _does_not_start(last: Attempt) -> str:
    assert last.trouble, "asked only where there is some"
    why = last.trouble.message.rstrip(". ")
    advice = ADVICE.get(last.trouble.kind, "") if last.trouble.kind else ""
    return f"The pod does not start: {why}. {advice}{CHANGING}"


def _of_need(kind: str, need: Need) -> Judgement:
    return Judgement(kind, _WORDS[need.met], need.reason, need.message)


def _of_end(last: Attempt | None, finish: Finish) -> list[Judgement]:
    """Conditions of a job that is over."""
    if finish.failure:
        return [
            Judgement("ArtifactReady", "False", "JobFailed"),
            Judgement("Suspended", "False", "JobFailed"),
            Judgement("Complete", "False", "JobFailed"),
            Judgement("Failed", "True", finish.failure.reason.value, finish.failure.message),
        ]
    artifact = last.last_word.artifact if last and last.last_word else None
    where = f"{artifact.uri} ({artifact.digest})" if artifact else ""
    return [
        Judgement("ArtifactReady", "True", "Written", where),
        Judgement("Suspended", "False", "Succeeded"),
        Judgement("Complete", "True", "Succeeded", f"The artifact is {where}"),
        Judgement("Failed", "False", "Succeeded"),
    ]


def _suspended(previous: JobStatus, observed: ObservedJob, decision: Decision, now: datetime) -> Judgement:
    """True only when nothing runs any more: then what it ran on is free."""
    if isinstance(decision, Hold):
        at = f" from step {previous.last_checkpoint.step}" if previous.last_checkpoint else ""
        return Judgement("Suspended", "True", "Suspended", f"Set suspend: false to go on{at}")
    if _stopping(previous, observed, decision):
        pods = ", ".join(observed.seen.alive)
        saves = f"{pods or 'The pod'} saves a checkpoint and ends"
        return Judgement("Suspended", "False", "Stopping", late(observed.seen.endings, now) or saves)
    # Resumed stays until the next attempt exists.
    last = observed.last
    waits = last is None or last.number < previous.attempts
    return Judgement("Suspended", "False", "Resumed" if waits and was_suspended(previous) else "NotSuspended")


def _of_course(previous: JobStatus, observed: ObservedJob, decision: Decision) -> tuple[str, str]:
    """Reason and message of a job that is not over."""
    last, known = observed.last, previous.attempts
    number = last.number if last else 0
    if isinstance(decision, Hold):
        reason, message = "Suspended", ""
    elif _stopping(previous, observed, decision):
        reason, message = "Stopping", ""
    elif number < known and was_suspended(previous):
        reason, message = "Resumed", ""
    elif number < known:
        reason, message = "Retrying", f"The Job of attempt {known} was deleted."
    elif last is None:
        reason, message = "NotStarted", ""
    elif last.failure:
        reason, message = "Retrying", f"{last.failure.reason.value}: {last.failure.message}"
    else:
        reason, message = last.state, ""
    if isinstance(decision, Wait) and decision.until and decision.starts:
        message += f" Attempt {max(known, number) + 1} starts at {timestamp(decision.until)}."
    return reason, message
