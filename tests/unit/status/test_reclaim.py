"""What is said while the files of a deleted job are removed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.status import JobStatus
from kubetune.status.conditions import timestamp
from kubetune.status.reclaim import Left, reclaimed, terminating
from kubetune.status.starting import Trouble
from tests.unit.status.trainers import UNSCHEDULABLE, ended, job, pod, waiting

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOLDER = "pvc://models/x-1"
REFUSED = Trouble("PodsRefused", "exceeded quota", Reason.PODS_REFUSED)


def cleaner(state: Any = None, *conditions: Any) -> Any:
    body = pod("Pending", None, *conditions)
    if state:
        body["status"]["containerStatuses"] = [{"name": "reclaim", "state": state}]
    return body


TABLE: dict[str, tuple[Any, list[Any], Trouble | None, str | None, str]] = {
    # name: (Job, pods, why there is no pod, reason, in the message)
    "begun": (job(), [], None, "Removing", FOLDER),
    "done": (job("Complete"), [], None, None, ""),
    "failed": (job("Failed"), [cleaner(ended(1, "read-only"))], None, "ReclaimFailed", "read-only"),
    "no node": (job(), [cleaner(None, UNSCHEDULABLE)], None, "Unschedulable", "no GPU"),
    "no image": (job(), [cleaner(waiting("ErrImagePull", "none"))], None, "ImagePullBackOff", "none"),
    "no pod allowed": (job(), [], REFUSED, "PodsRefused", "exceeded quota"),
}


@pytest.mark.parametrize(("child", "pods", "refused", "reason", "said"), TABLE.values(), ids=TABLE)
def test_what_is_left(child: Any, pods: Any, refused: Trouble | None, reason: str | None, said: str):
    left = reclaimed(child, pods, refused, FOLDER)
    assert (left.reason if left else None) == reason
    if left:
        assert said in left.message
        # Whoever has to do something is told how to get out of it.
        assert left.warning == ("finalizer kubetune.io/reclaim" in left.message)


def test_the_status_of_a_job_on_its_way_out_keeps_what_it_said():
    before = JobStatus(attempts=2, phase="Succeeded")
    first = terminating(before, Left("Removing", "a"), 3, NOW)
    assert (first.phase, first.attempts, first.observed_generation) == ("Terminating", 2, 3)
    second = terminating(first, Left("ReclaimFailed", "b"), 3, NOW + timedelta(seconds=9))
    [condition] = second.conditions
    assert (condition.type, condition.status, condition.reason) == ("Reclaimed", "False", "ReclaimFailed")
    assert condition.last_transition_time == timestamp(NOW)
