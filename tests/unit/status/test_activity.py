"""How long pods have run: one line per way in which a pod can stand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.status.activity import active_seconds
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
    "two attempts": ([taken("Failed", ended(20)), taken(before="20")], 120),
}


@pytest.mark.parametrize(("pods", "expected"), TABLE.values(), ids=TABLE)
def test_active_seconds(pods: list[dict[str, Any]], expected: int):
    assert active_seconds(pods, NOW) == expected
