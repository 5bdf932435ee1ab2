"""What a training job says of itself: one line per situation, and what stays as it was."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Outcome, Reason
from kubetune.api.progress import CheckpointStatus, TerminationMessage, TrainerStatus
from kubetune.api.status import Failure, JobStatus
from kubetune.status.attempts import Attempt
from kubetune.status.decision import Decision, Finish, Hold, Seen, StartAttempt, StopAttempt, Wait
from kubetune.status.ending import Ending
from kubetune.status.held import Held
from kubetune.status.job import Need, ObservedJob, is_finished, job_status, seen_again
from kubetune.status.starting import Trouble
from tests.unit.status.trainers import ARTIFACT

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
THEN, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z"
RESOURCE = {"metadata": {"name": "x", "generation": 3}, "spec": {}}
CAUSE = Failure(reason=Reason.INTERNAL_ERROR, exit_code=1, pod="p", message="it broke")
OTHER = Failure(reason=Reason.STORAGE_ERROR, exit_code=16, pod="q", message="disk full")
MET = Need(True, "Found")
NOT_THERE = Need(False, "JobNotFound", "PretrainJob base does not exist")
NO_CLAIM = Need(False, "ClaimNotFound", "create it")
UNKNOWN = Need(None, "NotObserved", "forbidden")
CHECKPOINT = CheckpointStatus(step=7, time=THEN, uri="pvc://models/x", digest="sha256:00")
NO_IMAGE = Trouble("ImagePullBackOff", "no such image", Reason.IMAGE_ERROR, "p")
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


def observed(attempts: list[Attempt], dependencies: Need, resources: Need, **more: Any) -> ObservedJob:
    of_pods = ("alive", "active_seconds", "active_until", "endings")
    seen = Seen(attempts, **{name: more.pop(name) for name in of_pods if name in more})
    return ObservedJob(seen, dependencies, resources, **more)


LEAVING = Ending("p", "n", until=NOW + timedelta(minutes=2))
LOST = Ending("p", "n", until=NOW - timedelta(minutes=2))
QUEUED = Held("Queued", "queue gpus of Kueue holds Job x-1 back")
DONE = at(1, "Succeeded", last_word=word(artifact=ARTIFACT, trainerStatus=FINAL.wire()))
SITUATIONS: dict[str, tuple[ObservedJob, Decision, str, str]] = {
    # name: (what is observed, what is done, phase, statuses of the conditions)
    "waits for its base": (
        observed([], NOT_THERE, MET), StartAttempt(1, 0), "WaitingForDependency", "FTFFFFF",
    ),
    "waits for both": (
        observed([], NOT_THERE, NO_CLAIM), StartAttempt(1, 0), "WaitingForDependency", "FFFFFFF",
    ),
    "waits for a claim": (observed([], MET, NO_CLAIM), StartAttempt(1, 0), "Pending", "TFFFFFF"),
    "cannot see": (observed([], UNKNOWN, UNKNOWN), StartAttempt(1, 0), "Pending", "UUFFFFF"),
    "created": (observed([at(1, "Pending")], MET, MET), Wait(), "Pending", "TTFFFFF"),
    "does not start": (
        observed([at(1, "Pending", trouble=NO_IMAGE)], MET, MET),
        Wait(), "Pending", "TFFFFFF",
    ),
    "runs": (observed([at(1, "Running")], MET, MET), Wait(), "Running", "TTFFFFF"),
    "is to be suspended": (
        observed([at(1, "Running")], MET, MET, suspend=True, alive=["p"]),
        StopAttempt("Suspended"), "Running", "TTFFFFF",
    ),
    "is suspended": (observed([], MET, MET, suspend=True), Hold(), "Suspended", "TTFTFFF"),
    "its pod was told to end": (
        observed([at(1, "Running", ending=LEAVING)], MET, MET, alive=["p"]), Wait(), "Running", "TFFFFFF",
    ),
    "its node is lost": (
        observed([at(1, "Running", ending=LOST)], MET, MET, alive=["p"]), Wait(), "Pending", "TFFFFFF",
    ),
    "its node does not answer": (
        observed([at(1, "Running", silent_node="n")], MET, MET), Wait(), "Running", "TFFFFFF",
    ),
    "waits in a queue": (
        observed([at(1, "Pending", has_pod=False, held=QUEUED)], MET, MET), Wait(), "Pending", "TFFFFFF",
    ),
    "ran too long": (
        observed([at(1, "Running")], MET, MET), StopAttempt("DeadlineExceeded"), "Running", "TTFFFFF",
    ),
    "waits for its next attempt": (observed([failed(2)], MET, MET), Wait(NOW), "Pending", "TTFFFFF"),
    "is done": (observed([DONE], MET, MET), Finish("Succeeded"), "Succeeded", "TTTFTFF"),
    "failed": (observed([failed(1)], MET, MET), Finish("Failed", CAUSE), "Failed", "TTFFFTF"),
    "is not valid": (observed([], UNKNOWN, UNKNOWN), Finish("Failed", CAUSE), "Failed", "UUFFFTF"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "decision", "phase", "words"), SITUATIONS.values(), ids=SITUATIONS)
def test_a_situation(found: ObservedJob, decision: Decision, phase: str, words: str):
    status = judge(found, decision)
    assert status.phase == phase
    assert [c.type for c in status.conditions] == [
        "Ready", "Reconciling", "Stalled",
        "DependenciesReady", "ResourcesReady", "ArtifactReady", "Suspended", "Complete", "Failed", "Warnings",
    ]  # fmt: skip
    assert "".join(c.status[0] for c in status.conditions[3:]) == words
    assert {c.observed_generation for c in status.conditions} == {status.observed_generation} == {3}
    assert is_finished(status) == isinstance(decision, Finish)
    assert bool(status.completion_time) == isinstance(decision, Finish)
    assert bool(status.artifact) == (phase == "Succeeded")


@pytest.mark.parametrize(("found", "decision", "phase", "words"), SITUATIONS.values(), ids=SITUATIONS)
def test_a_second_look_changes_nothing(found: ObservedJob, decision: Decision, phase: str, words: str):
    status = judge(found, decision)
    assert judge(found, decision, status, seconds=60) == status


def test_what_may_yet_start_is_told_and_is_no_failure():
    waits = Trouble("PodInitializing", "container vault has been running for long", None, "p")
    status = judge(observed([at(1, "Pending", trouble=waits)], MET, MET), Wait())
    assert status.failure is None
    ready = conditions(status)["ResourcesReady"]
    assert (ready.status, ready.reason) == ("False", "PodInitializing")
    assert "container vault has been running for long" in ready.message


def test_a_pod_that_does_not_start_is_told():
    status = judge(observed([at(1, "Pending", trouble=NO_IMAGE)], MET, MET), Wait())
    condition = conditions(status)["ResourcesReady"]
    assert condition.reason == "ImagePullBackOff"
    for told in ("no such image", "podTemplate.image"):
        assert told in condition.message
    assert status.failure
    assert (status.failure.reason, status.failure.pod) == (Reason.IMAGE_ERROR, "p")
    # That it starts at last is the end of it.
    assert judge(observed([at(1, "Running")], MET, MET), Wait(), status).failure is None


def test_a_lost_node_is_told_with_what_to_do_and_stays_the_same():
    status = judge(observed([at(1, "Running", ending=LEAVING)], MET, MET, alive=["p"]), Wait())
    condition = conditions(status)["ResourcesReady"]
    assert condition.reason == "PodTerminating"
    for told in ("Pod p on node n has not ended", "two trainers never write", "kubectl delete pod --force"):
        assert told in condition.message
    late = judge(
        observed([at(1, "Running", ending=LOST)], MET, MET, alive=["p"]), Wait(), status, seconds=200
    )
    assert (status.phase, late.phase) == ("Running", "Pending")
    assert conditions(late)["ResourcesReady"] == condition


def test_a_lost_node_holds_up_a_suspension_and_that_is_said():
    found = observed([], MET, MET, suspend=True, alive=["p"], endings=[LOST])
    told = conditions(judge(found, Wait(), known_to_run()))["Suspended"]
    assert (told.status, told.reason) == ("False", "Stopping")
    assert "p on node n should have ended and has not" in told.message


def known_to_run() -> JobStatus:
    return judge(observed([at(1, "Running")], MET, MET), Wait())


def test_a_queue_is_named():
    queued = observed([at(1, "Pending", has_pod=False, held=QUEUED)], MET, MET)
    condition = conditions(judge(queued, Wait()))["ResourcesReady"]
    assert (condition.reason, condition.message) == ("Queued", QUEUED.message)


def test_time_up_to_a_pods_end_is_told_once():
    running = judge(observed([at(1, "Running")], MET, MET, active_seconds=10, active_until=NOW), Wait())
    assert (running.active_seconds, running.active_until) == (0, None)
    found = observed(
        [at(1, "Running", ending=LOST)], MET, MET, alive=["p"], active_seconds=30, active_until=LOST.until
    )
    told = judge(found, Wait(), running)
    assert (told.active_seconds, told.active_until) == (30, "2026-01-01T11:58:00Z")
    again = judge(observed([at(2, "Running")], MET, MET, active_seconds=35, active_until=NOW), Wait(), told)
    assert (again.active_seconds, again.active_until) == (30, "2026-01-01T11:58:00Z")


def test_times_are_those_of_the_first_attempt_and_of_the_end():
    waiting = judge(observed([], NOT_THERE, MET), StartAttempt(1, 0))
    assert waiting.start_time is None
    started = judge(observed([at(1, "Pending")], MET, MET), Wait(), waiting, seconds=60)
    assert started.start_time == LATER
    done = judge(observed([DONE], MET, MET), Finish("Succeeded"), started, seconds=120)
    assert (done.start_time, done.completion_time) == (LATER, "2026-01-01T12:02:00Z")


def test_a_transition_is_timed_by_the_status_of_the_condition_alone():
    waiting = judge(observed([], NOT_THERE, MET), StartAttempt(1, 0))
    other = judge(
        observed([], Need(False, "JobFailed", "it failed"), MET), StartAttempt(1, 0), waiting, seconds=60
    )
    assert conditions(other)["DependenciesReady"].last_transition_time == THEN
    ready = judge(observed([at(1, "Pending")], MET, MET), Wait(), other, seconds=60)
    assert conditions(ready)["DependenciesReady"].last_transition_time == LATER
    assert conditions(ready)["ArtifactReady"].last_transition_time == THEN


def test_an_attempt_is_counted_once_seen_and_never_forgotten():
    two = judge(observed([failed(1), at(2, "Running", restarts=1)], MET, MET), Wait())
    assert (two.attempts, two.restarts) == (2, 1)
    none_left = judge(observed([], MET, NO_CLAIM), StartAttempt(3, 1), two)
    assert (none_left.attempts, none_left.restarts) == (2, 1)


def test_why_an_attempt_failed_is_shown_while_the_next_one_runs():
    first = judge(observed([at(1, "Running")], MET, MET), Wait())
    # The failure is noticed and answered by the same look.
    second = judge(observed([failed(1), at(2, "Pending")], MET, MET), Wait(), first)
    assert second.failure == CAUSE
    # Its pod is deleted: what can be told of it now is less than what was told.
    third = judge(observed([failed(1, OTHER), at(2, "Running")], MET, MET), Wait(), second)
    assert third.failure == CAUSE
    fourth = judge(observed([failed(1, OTHER), failed(2, OTHER)], MET, MET), Wait(NOW), third)
    assert fourth.failure == OTHER
    done = judge(observed([failed(1), failed(2), DONE], MET, MET), Finish("Succeeded"), fourth)
    assert done.failure is None


def test_a_retry_tells_why_and_when():
    message = conditions(judge(observed([failed(2)], MET, MET), Wait(NOW)))["Complete"].message
    assert message == f"InternalError: it broke Attempt 3 starts at {THEN}."


def test_a_job_that_was_deleted_is_told_of():
    before = judge(observed([at(1, "Running")], MET, MET), Wait())
    complete = conditions(judge(observed([], MET, MET), Wait(NOW), before))["Complete"]
    assert complete.reason == "Retrying"
    assert complete.message == f"The Job of attempt 1 was deleted. Attempt 2 starts at {THEN}."


def test_suspending_takes_until_the_pods_have_ended_and_resuming_until_the_next_attempt():
    running = judge(observed([at(1, "Running")], MET, MET, alive=["p"]), Wait())
    stop = judge(
        observed([at(1, "Running")], MET, MET, suspend=True, alive=["p"], active_seconds=30),
        StopAttempt("Suspended"), running,
    )  # fmt: skip
    assert (stop.phase, stop.active_seconds) == ("Running", 30)
    assert conditions(stop)["Suspended"].message == "p saves a checkpoint and ends"
    # Its Job is deleted, the pod still there.
    ending = judge(
        observed([], MET, MET, suspend=True, alive=["p"], active_seconds=35), Wait(), stop, seconds=5
    )
    assert (ending.phase, ending.active_seconds) == ("Running", 35)
    assert conditions(ending)["Suspended"].reason == "Stopping"
    reported = ending.model_copy(update={"last_checkpoint": CHECKPOINT})
    held = judge(observed([], MET, MET, suspend=True), Hold(), reported, seconds=10)
    assert (held.phase, held.active_seconds, held.attempts) == ("Suspended", 35, 1)
    assert conditions(held)["Suspended"].message == "Set suspend: false to go on from step 7"
    assert conditions(held)["Complete"].reason == "Suspended"
    waits = judge(observed([], MET, NO_CLAIM), StartAttempt(2, 0), held, seconds=20)
    for _ in range(2):
        assert (waits.phase, conditions(waits)["Suspended"].reason) == ("Pending", "Resumed")
        waits = judge(observed([], MET, NO_CLAIM), StartAttempt(2, 0), waits, seconds=30)
    again = judge(observed([at(2, "Pending")], MET, MET), Wait(), waits, seconds=40)
    assert conditions(again)["Suspended"].reason == "NotSuspended"


def test_running_time_is_told_of_attempts_that_have_ended():
    running = judge(observed([at(1, "Running")], MET, MET, active_seconds=30), Wait())
    assert running.active_seconds == 0
    failed_once = judge(observed([failed(1)], MET, MET, active_seconds=40), Wait(NOW), running)
    assert failed_once.active_seconds == 40
    # Its pod is deleted.
    assert judge(observed([failed(1)], MET, MET), Wait(NOW), failed_once).active_seconds == 40


def test_the_run_spec_is_remembered_when_its_jobs_are_gone():
    first = judge(observed([at(1, "Running")], MET, MET, run_spec="x-run-1"), Wait())
    assert judge(observed([], MET, MET, suspend=True), Hold(), first).run_spec == "x-run-1"


def test_live_numbers_are_left_to_the_receiver_until_the_end():
    reported = JobStatus(trainer_status=NUMBERS, last_checkpoint=CHECKPOINT)
    running = judge(observed([at(1, "Running")], MET, MET), Wait(), reported)
    assert (running.trainer_status, running.last_checkpoint) == (NUMBERS, CHECKPOINT)
    done = judge(observed([DONE], MET, MET), Finish("Succeeded"), reported)
    # Checkpoints are removed once the artifact is complete.
    assert (done.trainer_status, done.last_checkpoint) == (FINAL, None)


def test_a_failed_job_keeps_the_newest_numbers_and_its_checkpoint():
    reported = JobStatus(trainer_status=NUMBERS, last_checkpoint=CHECKPOINT)
    silent = judge(observed([failed(1)], MET, MET), Finish("Failed", CAUSE), reported)
    assert (silent.trainer_status, silent.last_checkpoint) == (NUMBERS, CHECKPOINT)
    newer = CHECKPOINT.model_copy(update={"step": 9})
    spoken = failed(
        1, last_word=word(reason="NaNLoss", lastCheckpoint=newer.wire(), trainerStatus=FINAL.wire())
    )
    told = judge(observed([spoken], MET, MET), Finish("Failed", CAUSE), reported)
    assert (told.trainer_status, told.last_checkpoint) == (FINAL, newer)


def test_an_artifact_is_shown_only_of_a_job_that_succeeded():
    odd = failed(1, last_word=word(artifact=ARTIFACT))
    assert judge(observed([odd], MET, MET), Finish("Failed", CAUSE)).artifact is None


def test_an_edit_after_the_end_is_observed_and_changes_nothing_else():
    done = judge(observed([DONE], MET, MET), Finish("Succeeded"))
    again = seen_again(done, 4, NOW)
    assert {c.observed_generation for c in again.conditions} == {again.observed_generation} == {4}
    assert seen_again(again, 3, NOW) == done


def judge(
    found: ObservedJob, decision: Decision, previous: JobStatus | None = None, *, seconds: float = 0
) -> JobStatus:
    return job_status(RESOURCE, previous or JobStatus(), found, decision, NOW + timedelta(seconds=seconds))


def conditions(status: JobStatus) -> dict[str, Any]:
    return {c.type: c for c in status.conditions}
