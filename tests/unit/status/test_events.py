"""What only events tell."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.status.conditions import timestamp
from kubetune.status.events import held_up, refused, without_pod
from kubetune.status.starting import Trouble
from tests.unit.status.trainers import CREATED, ENDED, Object

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
NO_SECRET = 'MountVolume.SetUp failed for volume "secret-0" : secret "hub" not found'
BUSY = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other'
SUMMED_UP = "Unable to attach or mount volumes: unmounted volumes=[models]: timed out"


def event(second: int, reason: str, message: str = "") -> Object:
    return {
        "lastTimestamp": timestamp(BEGUN + timedelta(seconds=second)),
        "reason": reason,
        "message": message,
    }


SCHEDULED = event(0, "Scheduled")
TOLD = {
    # name: (events, reason, message)
    "a Secret": (
        [event(9, "FailedMount", NO_SECRET)], "SecretNotFound", "Secret hub does not exist: create it",
    ),
    "a claim that another node has": ([event(5, "FailedAttachVolume", BUSY)], "FailedAttachVolume", BUSY),
    "the cause and not what follows": (
        [event(5, "FailedAttachVolume", BUSY), event(9, "FailedMount", SUMMED_UP)],
        "FailedAttachVolume", BUSY,
    ),
    "two volumes": (
        [event(5, "FailedMount", SUMMED_UP), event(6, "FailedMount", "b"), event(7, "FailedMount", "a")],
        "FailedMount", "a",
    ),
    "one of two is mended": (
        [event(5, "FailedMount", "a"), event(300, "FailedMount", "b")], "FailedMount", "b",
    ),
    "attached, and not mounted": (
        [event(5, "FailedAttachVolume", BUSY), event(6, "SuccessfulAttachVolume"),
         event(9, "FailedMount", "bad superblock")],
        "FailedMount", "bad superblock",
    ),
    "no network": (
        [event(5, "FailedCreatePodSandBox", "no IP addresses available in range set")],
        "FailedCreatePodSandBox", "no IP addresses available in range set",
    ),
    "no runtime of that class": (
        [event(5, "FailedCreatePodSandBox", 'no runtime for "kata" is configured')],
        "FailedCreatePodSandBox", 'no runtime for "kata" is configured',
    ),
    "devices that were claimed": (
        [event(5, "FailedPrepareDynamicResources", "driver does not answer")],
        "FailedPrepareDynamicResources", "driver does not answer",
    ),
    "what does no harm is passed over": (
        [event(5, "FailedMount", "a"), event(9, "FailedToRetrieveImagePullSecret", "x"),
         event(9, "DNSConfigForming", "x"), event(9, "AddedInterface", "x")],
        "FailedMount", "a",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("events", "reason", "message"), TOLD.values(), ids=TOLD)
def test_what_holds_a_pod_up(events: list[Object], reason: str, message: str) -> None:
    for order in itertools.permutations([SCHEDULED, *events[:3]]):
        found = held_up([*order, *events[3:]])
        assert found == Trouble(reason, message, Reason.CONTAINER_ERROR)


def test_nothing_is_told_once_it_goes_on() -> None:
    assert held_up([]) is None
    assert held_up([SCHEDULED]) is None
    assert held_up([event(5, "FailedMount", NO_SECRET), event(6, "Pulling")]) is None
    assert held_up([event(5, "FailedToRetrieveImagePullSecret", "x")]) is None


def test_whichever_is_tried_again_the_words_are_the_same() -> None:
    def at(attach: int, mount: int) -> Trouble | None:
        return held_up([event(attach, "FailedAttachVolume", BUSY), event(mount, "FailedMount", SUMMED_UP)])

    assert at(10, 20) == at(130, 20) == at(130, 142)


def test_events_of_newer_writers_are_read() -> None:
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:00:09.123456Z"}
    newer = {"reason": "FailedMount", "message": "a", "series": series}
    only_once = {"reason": "FailedMount", "message": "b", "eventTime": "2026-01-01T00:00:05.000001Z"}
    found = held_up([newer, only_once])
    assert found
    assert found.message == "a"


def test_a_refused_pod_is_one_piece_of_news_however_often_it_is_tried() -> None:
    def refusal(when: str, name: str, why: str) -> dict[str, str]:
        return {"lastTimestamp": when, "message": f'Error creating: pods "{name}" is forbidden: {why}'}

    older = refusal(CREATED, "x-0-aaaaa", "violates PodSecurity")
    newer = [refusal(ENDED, f"x-0-{suffix}", "exceeded quota: none") for suffix in ("bbbbb", "ccccc")]
    found = {refused([event_, older]) for event_ in newer}
    assert found == {Trouble("PodsRefused", "exceeded quota: none", Reason.PODS_REFUSED)}
    assert refused([{"message": "no such service account"}]) == Trouble(
        "PodsRefused", "no such service account", Reason.PODS_REFUSED
    )
    assert refused([]) is None


@pytest.mark.parametrize(
    ("status", "age", "told"),
    [
        ({}, 300, True),
        ({}, 30, False),
        ({"startTime": "2026-01-01T00:04:50Z"}, 300, False),
        ({"active": 1}, 300, False),
        ({"terminating": 1}, 300, False),
        ({"conditions": [{"type": "FailureTarget"}]}, 300, False),
    ],
    ids=["nothing is done", "young", "resumed just now", "has one", "its pod ends", "is about to fail"],
)
def test_a_job_that_nobody_makes_a_pod_for(status: dict[str, Any], age: int, told: bool) -> None:
    job = {"metadata": {"name": "x-abc", "creationTimestamp": CREATED}, "status": status}
    found = without_pod(job, BEGUN + timedelta(seconds=age))
    assert (found is not None and "kubectl describe job x-abc" in found.message) is told
