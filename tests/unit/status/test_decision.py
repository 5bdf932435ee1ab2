"""What is done next, by what is known of the attempts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Outcome, Reason
from kubetune.api.lifecycle import Lifecycle
from kubetune.api.progress import CheckpointStatus
from kubetune.api.status import Condition, Failure, JobStatus
from kubetune.status.attempts import Attempt
from kubetune.status.conditions import timestamp
from kubetune.status.decision import Decision, Finish, Hold, Seen, StartAttempt, StopAttempt, Wait, delay
from kubetune.status.decision import decide as decide_
from kubetune.status.ending import Ending

ENDED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = ENDED + timedelta(seconds=1)
CAUSE = Failure(reason=Reason.INTERNAL_ERROR, exit_code=1, pod="p", message="it broke")
COUNTED = Outcome(Reason.INTERNAL_ERROR, retry=True, counted=True)
DISRUPTED = Outcome(Reason.KILLED, retry=True, counted=False)
FATAL = Outcome(Reason.DATA_ERROR, retry=False, counted=False)


def at(number: int, state: Any, restarts: int = 0, **fields: Any) -> Attempt:
    created = ENDED - timedelta(minutes=1)
    return Attempt(
        number=number, restarts=restarts, name=f"x-{number}", created=created, state=state, **fields
    )


def failed(number: int, outcome: Outcome, restarts: int = 0, **fields: Any) -> Attempt:
    return at(number, "Failed", restarts, outcome=outcome, failure=CAUSE, finished=ENDED, **fields)


def known(attempts: int, restarts: int, started: datetime = NOW - timedelta(hours=1)) -> JobStatus:
    return JobStatus(
        attempts=attempts, restarts=restarts, start_time=timestamp(started) if attempts else None
    )


def decide(
    attempts: list[Attempt], previous: JobStatus, backoff_limit: int, now: datetime, **more: Any
) -> Decision:
    seen = Seen(
        attempts,
        alive=more.pop("alive", ()),
        active_seconds=more.pop("used", 0),
        endings=more.pop("endings", ()),
        unending_seconds=more.pop("unending", 0),
    )
    return decide_(seen, previous, Lifecycle(backoff_limit=backoff_limit, **more), now)


def in_seconds(seconds: float) -> datetime:
    return ENDED + timedelta(seconds=seconds)


TABLE: dict[str, tuple[list[Attempt], int, int, Decision]] = {
    # name: (attempts whose Jobs exist, attempts known, restarts known, decision)
    "nothing yet": ([], 0, 0, StartAttempt(1, 0)),
    "created, not in the status yet": ([at(1, "Pending")], 0, 0, Wait(starts=False)),
    "pending": ([at(1, "Pending")], 1, 0, Wait(starts=False)),
    "running": ([at(1, "Running")], 1, 0, Wait(starts=False)),
    "succeeded": ([at(1, "Succeeded")], 1, 0, Finish("Succeeded")),
    "succeeded before its Job was gone": ([at(1, "Succeeded")], 2, 0, Finish("Succeeded")),
    "fatal": ([failed(1, FATAL)], 1, 0, Finish("Failed", CAUSE)),
    "first restart is at once": ([failed(1, COUNTED)], 1, 0, StartAttempt(2, 1)),
    "second restart waits 10 s": ([failed(1, COUNTED), failed(2, COUNTED, 1)], 2, 1, Wait(in_seconds(10))),
    "third restart waits 20 s": ([failed(3, COUNTED, 2)], 3, 2, Wait(in_seconds(20))),
    "a disruption is not counted": ([failed(1, DISRUPTED)], 1, 0, StartAttempt(2, 0)),
    "but waits from the second on": ([failed(2, DISRUPTED)], 2, 0, Wait(in_seconds(10))),
    "a disruption beyond the limit": ([failed(9, DISRUPTED, 3)], 9, 3, Wait(in_seconds(300))),
    "only Job deleted by somebody": ([], 1, 0, StartAttempt(2, 0)),
    "newest Job deleted by somebody": ([failed(1, COUNTED)], 2, 1, StartAttempt(3, 1)),
    "newer than the status knows": ([failed(1, COUNTED), at(2, "Running", 1)], 1, 0, Wait(starts=False)),
    "restarts known are not forgotten": ([failed(1, COUNTED, 0)], 1, 1, StartAttempt(2, 2)),
}


@pytest.mark.parametrize(("attempts", "created", "restarts", "expected"), TABLE.values(), ids=TABLE)
def test_decision(attempts: list[Attempt], created: int, restarts: int, expected: Decision):
    assert decide(attempts, known(created, restarts), 3, NOW) == expected


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_beyond_the_limit_it_fails_and_quotes_the_last_cause(limit: int):
    last = failed(limit + 1, COUNTED, limit)
    decision = decide([last], known(limit + 1, limit), limit, NOW + timedelta(hours=1))
    assert isinstance(decision, Finish)
    assert decision.failure
    assert decision.failure.reason == Reason.BACKOFF_LIMIT_EXCEEDED
    assert "InternalError: it broke" in decision.failure.message
    assert f"backoffLimit {limit} allows" in decision.failure.message
    assert (decision.failure.exit_code, decision.failure.pod) == (1, "p")


def test_a_higher_limit_lets_it_go_on():
    last = failed(4, COUNTED, 3)
    assert isinstance(decide([last], known(4, 3), 4, NOW + timedelta(hours=1)), StartAttempt)


def test_the_next_attempt_starts_when_its_time_has_come():
    last = failed(2, COUNTED, 1)
    assert decide([last], known(2, 1), 3, in_seconds(9.9)) == Wait(in_seconds(10))
    assert decide([last], known(2, 1), 3, in_seconds(10)) == StartAttempt(3, 2)


def test_after_a_long_life_nobody_waits():
    lived = failed(8, DISRUPTED)
    lived = Attempt(**{**vars(lived), "created": ENDED - timedelta(minutes=10)})
    assert decide([lived], known(8, 0), 3, NOW) == StartAttempt(9, 0)


def test_pauses_double_up_to_five_minutes():
    pauses = [delay(attempts).total_seconds() for attempts in (0, 1, 2, 3, 4, 5, 6, 7, 8, 1000, 10**9)]
    assert pauses == [0, 0, 10, 20, 40, 80, 160, 300, 300, 300, 300]


@pytest.mark.parametrize(("deleted", "pause"), [(1, 0), (2, 10), (3, 30), (4, 70), (6, 310), (8, 910)])
def test_something_that_deletes_every_job_is_answered_later_each_time(deleted: int, pause: int):
    status = known(deleted, 0, started=NOW)
    due = NOW + timedelta(seconds=pause)
    assert decide([], status, 3, due) == StartAttempt(deleted + 1, 0)
    if pause:
        assert decide([], status, 3, due - timedelta(seconds=1)) == Wait(due)


def held(attempts: int, reason: str = "Suspended") -> JobStatus:
    condition = Condition(
        type="Suspended",
        status="True" if reason == "Suspended" else "False",
        last_transition_time=timestamp(NOW),
        reason=reason,
    )
    return known(attempts, 0, started=NOW).model_copy(update={"conditions": [condition]})


SUSPENDED: dict[str, tuple[list[Attempt], JobStatus, list[str], Decision]] = {
    # name: (attempts whose Jobs exist, status, pods alive, decision)
    "before anything ran": ([], known(0, 0), [], Hold()),
    "pending": ([at(1, "Pending")], known(1, 0), ["p"], StopAttempt("Suspended")),
    "running": ([at(1, "Running")], known(1, 0), ["p"], StopAttempt("Suspended")),
    "running, not in the status yet": ([at(1, "Running")], known(0, 0), ["p"], StopAttempt("Suspended")),
    "pod still ending": ([], known(1, 0), ["p"], Wait(starts=False)),
    "pod has ended": ([], known(1, 0), [], Hold()),
    "waits for a retry": ([failed(2, COUNTED, 1)], known(2, 1), [], Hold()),
    "failed for good": ([failed(1, FATAL)], known(1, 0), [], Finish("Failed", CAUSE)),
    "succeeded just now": ([at(1, "Succeeded")], known(1, 0), [], Finish("Succeeded")),
}


@pytest.mark.parametrize(("attempts", "status", "alive", "expected"), SUSPENDED.values(), ids=SUSPENDED)
def test_suspended(attempts: list[Attempt], status: JobStatus, alive: list[str], expected: Decision):
    assert decide(attempts, status, 3, NOW, suspend=True, alive=alive) == expected


@pytest.mark.parametrize("reason", ["Suspended", "Stopping", "Resumed"])
def test_resumed_it_starts_at_once_however_often(reason: str):
    assert decide([], held(9, reason), 3, NOW) == StartAttempt(10, 0)
    assert isinstance(decide([], held(9, "NotSuspended"), 3, NOW), Wait)


def running(minutes: float, pod_limit: int | None, ending: Ending | None = None) -> Attempt:
    begun = NOW - timedelta(minutes=minutes)
    return at(1, "Running", begun=begun, deadline_seconds=pod_limit, grace_seconds=120, ending=ending)


LOST = Ending("p", "n", until=NOW - timedelta(minutes=1))
"""Of a pod on a node that does not answer."""
LEAVING = Ending("p", "n", until=NOW + timedelta(minutes=1))
"""Of a pod that saves a checkpoint."""


def test_a_pod_that_was_told_to_end_is_looked_at_when_it_should_have():
    attempt = at(1, "Running", ending=LEAVING)
    due = LEAVING.until + timedelta(seconds=15)
    assert decide([attempt], known(1, 0), 3, NOW, alive=["p"], endings=[LEAVING]) == Wait(due, starts=False)
    assert decide([attempt], known(1, 0), 3, due, alive=["p"], endings=[LEAVING]) == Wait(starts=False)


def test_a_pod_that_was_deleted_by_force_is_given_up():
    forced = replace(LOST, forced=True)
    attempt = at(1, "Running", ending=forced)
    assert decide([attempt], known(1, 0), 3, NOW, alive=["p"], endings=[forced]) == StopAttempt("PodDeleted")


def test_the_deadline_is_kept_although_the_node_of_the_pod_is_lost():
    time_is_up = {"active_deadline_seconds": 600, "used": 600, "alive": ["p"]}
    assert decide([], known(1, 0), 3, NOW, **time_is_up, endings=[LEAVING]) == Wait(
        LEAVING.until + timedelta(seconds=15), starts=False
    )
    failed_at_last = decide([], known(1, 0), 3, NOW, **time_is_up, endings=[LOST])
    assert isinstance(failed_at_last, Finish)
    assert failed_at_last.failure
    assert failed_at_last.failure.reason == Reason.DEADLINE_EXCEEDED
    assert "p on node n should have ended and has not" in failed_at_last.failure.message
    # Time that is not known to have been used counts, too.
    time_is_up["used"] = 500
    assert decide([], known(1, 0), 3, NOW, **time_is_up, endings=[LOST], unending=100) == failed_at_last
    # Of another pod it is known that it runs.
    time_is_up |= {"used": 600, "alive": ["p", "q"]}
    assert decide([], known(1, 0), 3, NOW, **time_is_up, endings=[LOST]) == Wait(starts=False)


def test_suspended_it_waits_for_a_lost_pod_for_ever():
    assert decide([], known(1, 0), 3, NOW, suspend=True, alive=["p"], endings=[LOST]) == Wait(starts=False)


DEADLINE: dict[str, tuple[list[Attempt], int, list[str], Decision]] = {
    # activeDeadlineSeconds is 600. name: (attempts, seconds used, pods alive, decision)
    "time left, and the kubelet knows": (
        # So long it may take until that has ended the pod.
        [running(5, 600)], 300, ["p"], Wait(NOW + timedelta(seconds=300 + 120 + 15), starts=False),
    ),
    "time left, limit was lowered": (
        [running(5, 900)], 300, ["p"], Wait(NOW + timedelta(seconds=300), starts=False),
    ),
    "time left, limit is new": (
        [running(5, None)], 300, ["p"], Wait(NOW + timedelta(seconds=300), starts=False),
    ),
    "not begun": ([at(1, "Pending", deadline_seconds=600)], 0, ["p"], Wait(starts=False)),
    "time is up, the kubelet sees to it": (
        [running(10, 600)], 600, ["p"], Wait(NOW + timedelta(seconds=120 + 15), starts=False),
    ),
    "time is up, the kubelet does not answer": (
        [running(10 + 135 / 60, 600)], 735, ["p"], StopAttempt("DeadlineExceeded"),
    ),
    "time is up, and its node is lost": (
        [running(10, 600, LOST)], 600, ["p"], StopAttempt("DeadlineExceeded"),
    ),
    "time left, and its node is lost": (
        [running(5, 600, LOST)], 300, ["p"], Wait(NOW + timedelta(seconds=300), starts=False),
    ),
    "time is up, limit was lowered": ([running(10, 900)], 600, ["p"], StopAttempt("DeadlineExceeded")),
    "time is up before it began": ([at(2, "Pending")], 600, ["p"], StopAttempt("DeadlineExceeded")),
    "its Job is deleted": ([], 600, ["p"], Wait(starts=False)),
    "ended by the kubelet, but the limit was raised": ([failed(1, DISRUPTED)], 500, [], StartAttempt(2, 0)),
    "done at the last moment": ([at(1, "Succeeded")], 601, [], Finish("Succeeded")),
}  # fmt: skip


@pytest.mark.parametrize(("attempts", "used", "alive", "expected"), DEADLINE.values(), ids=DEADLINE)
def test_deadline(attempts: list[Attempt], used: int, alive: list[str], expected: Decision):
    decision = decide(attempts, known(1, 0), 3, NOW, active_deadline_seconds=600, used=used, alive=alive)
    assert decision == expected


@pytest.mark.parametrize("attempts", [[], [failed(1, DISRUPTED)]], ids=["its Job is gone", "it has ended"])
def test_beyond_the_deadline_it_fails_and_tells_how_far_it_came(attempts: list[Attempt]):
    checkpoint = CheckpointStatus(step=7, time=timestamp(NOW), uri="pvc://m/x", digest="sha256:00")
    status = known(1, 0).model_copy(update={"active_seconds": 600, "last_checkpoint": checkpoint})
    decision = decide(attempts, status, 3, NOW, active_deadline_seconds=600)
    assert isinstance(decision, Finish)
    assert decision.failure
    assert decision.failure.reason == Reason.DEADLINE_EXCEEDED
    assert "600 s, at step 7" in decision.failure.message
