"""What a training job says of itself: one line per situation, and what stays as it was."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Outcome, Reason
from kubetune.api.progress import CheckpointStatus, TerminationMessage, TrainerStatus
from kubetune.api.status import Failure, JobStatus
from kubetune.status.attempts import Attempt, Trouble
from kubetune.status.decision import Decision, Finish, Start, Wait
from kubetune.status.job import Need, Observed, is_finished, job_status, seen_again
from tests.unit.status.trainers import ARTIFACT

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
THEN, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z"
RESOURCE = {"metadata": {"name": "x", "generation": 3}}
CAUSE = Failure(reason=Reason.INTERNAL_ERROR, exit_code=1, pod="p", message="it broke")
OTHER = Failure(reason=Reason.STORAGE_ERROR, exit_code=16, pod="q", message="disk full")
MET = Need(True, "Found")
NOT_THERE = Need(False, "JobNotFound", "PretrainJob base does not exist")
NO_CLAIM = Need(False, "ClaimNotFound", "create it")
UNKNOWN = Need(None, "NotObserved", "forbidden")
CHECKPOINT = CheckpointStatus(step=7, time=THEN, uri="pvc://models/x", digest="sha256:00")
NUMBERS, FINAL = TrainerStatus(progress_percentage=40), TrainerStatus(progress_percentage=100)


def word(**fields: Any) -> TerminationMessage:
    return TerminationMessage.model_validate({"reason": "Succeeded", **fields})


def at(number: int, state: Any, **fields: Any) -> Attempt:
    return Attempt(
        **{"number": number, "restarts": 0, "name": f"x-{number}", "created": NOW, "state": state, **fields}
    )


def failed(number: int, failure: Failure = CAUSE, **fields: Any) -> Attempt:
    outcome = Outcome(failure.reason, retry=True, counted=True)
    return at(number, "Failed", outcome=outcome, failure=failure, **fields)


DONE = at(1, "Succeeded", last_word=word(artifact=ARTIFACT, trainerStatus=FINAL.wire()))
SITUATIONS: dict[str, tuple[Observed, Decision, str, str]] = {
    # name: (what is observed, what is done, phase, statuses of the conditions)
    "waits for its base": (Observed([], NOT_THERE, MET), Start(1, 0), "WaitingForDependency", "FTFFF"),
    "waits for both": (Observed([], NOT_THERE, NO_CLAIM), Start(1, 0), "WaitingForDependency", "FFFFF"),
    "waits for a claim": (Observed([], MET, NO_CLAIM), Start(1, 0), "Pending", "TFFFF"),
    "cannot see": (Observed([], UNKNOWN, UNKNOWN), Start(1, 0), "Pending", "UUFFF"),
    "created": (Observed([at(1, "Pending")], MET, MET), Wait(), "Pending", "TTFFF"),
    "does not start": (
        Observed([at(1, "Pending", trouble=Trouble("ErrImagePull", "no such image"))], MET, MET),
        Wait(), "Pending", "TFFFF",
    ),
    "runs": (Observed([at(1, "Running")], MET, MET), Wait(), "Running", "TTFFF"),
    "waits for its next attempt": (Observed([failed(2)], MET, MET), Wait(NOW), "Pending", "TTFFF"),
    "is done": (Observed([DONE], MET, MET), Finish("Succeeded"), "Succeeded", "TTTTF"),
    "failed": (Observed([failed(1)], MET, MET), Finish("Failed", CAUSE), "Failed", "TTFFT"),
    "is not valid": (Observed([], UNKNOWN, UNKNOWN), Finish("Failed", CAUSE), "Failed", "UUFFT"),
}  # fmt: skip


@pytest.mark.parametrize(("observed", "decision", "phase", "words"), SITUATIONS.values(), ids=SITUATIONS)
def test_a_situation(observed: Observed, decision: Decision, phase: str, words: str):
    status = judge(observed, decision)
    assert status.phase == phase
    assert [c.type for c in status.conditions] == [
        "DependenciesReady", "ResourcesReady", "ArtifactReady", "Complete", "Failed",
    ]  # fmt: skip
    assert "".join(c.status[0] for c in status.conditions) == words
    assert {c.observed_generation for c in status.conditions} == {status.observed_generation} == {3}
    assert is_finished(status) == isinstance(decision, Finish)
    assert bool(status.completion_time) == isinstance(decision, Finish)
    assert bool(status.artifact) == (phase == "Succeeded")


@pytest.mark.parametrize(("observed", "decision", "phase", "words"), SITUATIONS.values(), ids=SITUATIONS)
def test_a_second_look_changes_nothing(observed: Observed, decision: Decision, phase: str, words: str):
    status = judge(observed, decision)
    assert judge(observed, decision, status, seconds=60) == status


def test_a_pod_that_does_not_start_is_told_with_its_job():
    observed = Observed([at(1, "Pending", trouble=Trouble("ErrImagePull", "no such image"))], MET, MET)
    condition = conditions(judge(observed, Wait()))["ResourcesReady"]
    assert condition.reason == "ErrImagePull"
    assert "x-1" in condition.message
    assert "no such image" in condition.message


def test_times_are_those_of_the_first_attempt_and_of_the_end():
    waiting = judge(Observed([], NOT_THERE, MET), Start(1, 0))
    assert waiting.start_time is None
    started = judge(Observed([at(1, "Pending")], MET, MET), Wait(), waiting, seconds=60)
    assert started.start_time == LATER
    done = judge(Observed([DONE], MET, MET), Finish("Succeeded"), started, seconds=120)
    assert (done.start_time, done.completion_time) == (LATER, "2026-01-01T12:02:00Z")


def test_a_transition_is_timed_by_the_status_of_the_condition_alone():
    waiting = judge(Observed([], NOT_THERE, MET), Start(1, 0))
    other = judge(Observed([], Need(False, "JobFailed", "it failed"), MET), Start(1, 0), waiting, seconds=60)
    assert conditions(other)["DependenciesReady"].last_transition_time == THEN
    ready = judge(Observed([at(1, "Pending")], MET, MET), Wait(), other, seconds=60)
    assert conditions(ready)["DependenciesReady"].last_transition_time == LATER
    assert conditions(ready)["ArtifactReady"].last_transition_time == THEN


def test_an_attempt_is_counted_once_seen_and_never_forgotten():
    two = judge(Observed([failed(1), at(2, "Running", restarts=1)], MET, MET), Wait())
    assert (two.attempts, two.restarts) == (2, 1)
    none_left = judge(Observed([], MET, NO_CLAIM), Start(3, 1), two)
    assert (none_left.attempts, none_left.restarts) == (2, 1)


def test_why_an_attempt_failed_is_shown_while_the_next_one_runs():
    first = judge(Observed([at(1, "Running")], MET, MET), Wait())
    # The failure is noticed and answered by the same look.
    second = judge(Observed([failed(1), at(2, "Pending")], MET, MET), Wait(), first)
    assert second.failure == CAUSE
    # Its pod is deleted: what can be told of it now is less than what was told.
    third = judge(Observed([failed(1, OTHER), at(2, "Running")], MET, MET), Wait(), second)
    assert third.failure == CAUSE
    fourth = judge(Observed([failed(1, OTHER), failed(2, OTHER)], MET, MET), Wait(NOW), third)
    assert fourth.failure == OTHER
    done = judge(Observed([failed(1), failed(2), DONE], MET, MET), Finish("Succeeded"), fourth)
    assert done.failure is None


def test_a_retry_tells_why_and_when():
    message = conditions(judge(Observed([failed(2)], MET, MET), Wait(NOW)))["Complete"].message
    assert message == f"InternalError: it broke Attempt 3 starts at {THEN}."


def test_a_job_that_was_deleted_is_told_of():
    before = judge(Observed([at(1, "Running")], MET, MET), Wait())
    complete = conditions(judge(Observed([], MET, MET), Wait(NOW), before))["Complete"]
    assert complete.reason == "Retrying"
    assert complete.message == f"The Job of attempt 1 was deleted. Attempt 2 starts at {THEN}."


def test_live_numbers_are_left_to_the_receiver_until_the_end():
    reported = JobStatus(trainer_status=NUMBERS, last_checkpoint=CHECKPOINT)
    running = judge(Observed([at(1, "Running")], MET, MET), Wait(), reported)
    assert (running.trainer_status, running.last_checkpoint) == (NUMBERS, CHECKPOINT)
    done = judge(Observed([DONE], MET, MET), Finish("Succeeded"), reported)
    # Checkpoints are removed once the artifact is complete.
    assert (done.trainer_status, done.last_checkpoint) == (FINAL, None)


def test_a_failed_job_keeps_the_newest_numbers_and_its_checkpoint():
    reported = JobStatus(trainer_status=NUMBERS, last_checkpoint=CHECKPOINT)
    silent = judge(Observed([failed(1)], MET, MET), Finish("Failed", CAUSE), reported)
    assert (silent.trainer_status, silent.last_checkpoint) == (NUMBERS, CHECKPOINT)
    newer = CHECKPOINT.model_copy(update={"step": 9})
    spoken = failed(
        1, last_word=word(reason="NaNLoss", lastCheckpoint=newer.wire(), trainerStatus=FINAL.wire())
    )
    told = judge(Observed([spoken], MET, MET), Finish("Failed", CAUSE), reported)
    assert (told.trainer_status, told.last_checkpoint) == (FINAL, newer)


def test_an_artifact_is_shown_only_of_a_job_that_succeeded():
    odd = failed(1, last_word=word(artifact=ARTIFACT))
    assert judge(Observed([odd], MET, MET), Finish("Failed", CAUSE)).artifact is None


def test_an_edit_after_the_end_is_observed_and_changes_nothing_else():
    done = judge(Observed([DONE], MET, MET), Finish("Succeeded"))
    again = seen_again(done, 4)
    assert {c.observed_generation for c in again.conditions} == {again.observed_generation} == {4}
    assert seen_again(again, 3) == done


def judge(
    observed: Observed, decision: Decision, previous: JobStatus | None = None, *, seconds: float = 0
) -> JobStatus:
    return job_status(RESOURCE, previous or JobStatus(), observed, decision, NOW + timedelta(seconds=seconds))


def conditions(status: JobStatus) -> dict[str, Any]:
    return {c.type: c for c in status.conditions}
