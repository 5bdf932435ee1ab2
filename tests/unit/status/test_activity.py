"""How long pods have run: one line per way in which a pod can stand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.status.activity import activity
from kubetune.status.conditions import timestamp
from tests.unit.status.trainers import pod

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(seconds=100)


def moment(seconds: float) -> str:
    return timestamp(START + timedelta(seconds=seconds))


def ended(seconds: float) -> dict[str, Any]:
    return {"terminated": {"exitCode": 1, "finishedAt": moment(seconds)}}


def taken(phase: str = "Running", state: Any = None, before: str = "0", **status: Any) -> dict[str, Any]:
    """A pod that a node took at START."""
    body = pod(phase, state or {"running": {}}, **{"startTime": timestamp(START), **status})
    body["metadata"]["annotations"] = {"kubetune.io/active-seconds": before}
    return body


def deleted(body: dict[str, Any], seconds: float) -> dict[str, Any]:
    body["metadata"]["deletionTimestamp"] = moment(seconds)
    return body


NOT_READY = {"type": "Ready", "status": "False", "lastTransitionTime": moment(30)}
TABLE: dict[str, tuple[list[dict[str, Any]], int]] = {
    "no pod": ([], 0),
    "no node yet": ([pod("Pending", None)], 0),
    "runs": ([taken()], 100),
    "runs after others": ([taken(before="50")], 150),
    "is pulling its image": ([taken("Pending", {"waiting": {}})], 100),
    "has ended": ([taken("Failed", ended(20))], 20),
    "has ended, of what is not known": ([taken("Failed", {"waiting": {}}, conditions=[NOT_READY])], 30),
    "is being deleted": ([deleted(taken(), 120)], 100),
    "is being deleted, and its node does not answer": ([deleted(taken(), 40)], 40),
    "ended while it was being deleted": ([deleted(taken("Failed", ended(20)), 40)], 20),
    "the clock of its node is ahead": ([taken(startTime=moment(130))], 0),
    "an annotation that was tampered with": ([taken(before="much")], 100),
    "refused by its node": (
        [{"metadata": {}, "status": {"phase": "Failed", "reason": "OutOfcpu", "startTime": moment(0)}}], 0,
    ),
    "two attempts": ([taken("Failed", ended(20)), taken(before="20")], 120),
}  # fmt: skip


@pytest.mark.parametrize(("pods", "expected"), TABLE.values(), ids=TABLE)
def test_active_seconds(pods: list[dict[str, Any]], expected: int):
    assert activity(pods, NOW).seconds == expected


def test_a_pod_that_should_have_ended_counts_for_a_limit_only():
    lost = deleted(taken(), 40)
    found = activity([lost], NOW)
    assert (found.seconds, found.unending) == (40, 60)
    # Whenever one looks, the status is the same.
    later = activity([lost], NOW + timedelta(seconds=50), seconds=40, until=found.until)
    assert (later.seconds, later.until, later.unending) == (40, found.until, 110)
    assert activity([deleted(taken("Failed", ended(20)), 40)], NOW).unending == 0
    assert activity([taken()], NOW).unending == 0


def test_pods_of_one_job_are_added_up():
    """A queue evicts a pod and resumes the Job: the second pod carries no more than the first one did."""
    first, second = taken("Failed", ended(20), before="50"), taken(startTime=moment(60), before="50")
    assert activity([first, second], NOW).seconds == 50 + 20 + 40


def test_a_pod_that_is_gone_stays_counted():
    first = activity([deleted(taken(before="50"), 30)], NOW)
    assert first.seconds == 80
    second = taken(startTime=moment(60), before="50")
    both = activity([second], NOW, seconds=first.seconds, until=first.until)
    assert both.seconds == 80 + 40
    # What has been counted once is not counted again.
    again = activity([second], NOW + timedelta(seconds=5), seconds=both.seconds, until=both.until)
    assert again.seconds == 80 + 45


def test_parts_of_seconds_are_neither_lost_nor_counted_twice():
    seconds, until = 0, None
    for tenths in range(1, 1000, 7):
        found = activity([taken()], START + timedelta(seconds=tenths / 10), seconds=seconds, until=until)
        seconds, until = found.seconds, found.until
    assert seconds == 99
