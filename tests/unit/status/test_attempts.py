"""What is read out of child Jobs and pods: one line per way in which an attempt can stand or end."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kubetune.api.exitcodes import EXIT_CODES, Reason
from kubetune.status.attempts import attempt_of
from kubetune.status.ending import is_over
from kubetune.status.starting import Trouble
from tests.unit.status.trainers import (
    ARTIFACT,
    CREATED,
    DISRUPTION,
    ENDED,
    UNSCHEDULABLE,
    deleted,
    disruption,
    ended,
    job,
    last_word,
    pod,
    waiting,
)

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
STANDING = {
    # name: (job, pods, state, reason of the trouble)
    "no pod yet": (job(), [], "Pending", None),
    "pod without a node": (job(), [pod("Pending", None, UNSCHEDULABLE)], "Pending", "Unschedulable"),
    "image is being pulled": (
        job(), [pod("Pending", waiting("ContainerCreating"))], "Pending", None,
    ),
    "image cannot be pulled": (
        job(), [pod("Pending", waiting("ErrImagePull", "no such image"))], "Pending", "ImagePullBackOff",
    ),
    "secret is missing": (
        job(), [pod("Pending", waiting("CreateContainerError"))], "Pending", "CreateContainerError",
    ),
    "runs": (job(), [pod("Running", {"running": {}})], "Running", None),
    "ended, and the Job controller has not seen it": (job(), [pod("Failed", ended(1))], "Running", None),
    "succeeded, and the Job controller has not seen it": (
        job(), [pod("Succeeded", ended(0, last_word(artifact=ARTIFACT)))], "Succeeded", None,
    ),
    "succeeded": (
        job("Complete"), [pod("Succeeded", ended(0, last_word(artifact=ARTIFACT)))], "Succeeded", None,
    ),
    "says more than is understood": (
        job("Complete"),
        [pod("Succeeded", ended(0, last_word(artifact={**ARTIFACT, "colour": "red"}, mood="good")))],
        "Succeeded",
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("child", "pods", "state", "trouble"), STANDING.values(), ids=STANDING)
def test_an_attempt_stands(child: Any, pods: Any, state: str, trouble: str | None):
    attempt = attempt_of(1, child, pods, NOW)
    assert attempt.state == state
    assert (attempt.trouble.reason if attempt.trouble else None) == trouble
    assert attempt.failure is None
    assert attempt.has_pod == bool(pods)


FAILED = {
    # name: (pods, reason, retry, counted, in the message)
    **{
        f"exit code {code}": (
            [pod("Failed", ended(code, last_word(o.reason.value, "this went wrong")))],
            o.reason.value, o.retry, o.counted, "this went wrong",
        )
        for code, o in EXIT_CODES.items()
        if code
    },
    "unknown exit code": ([pod("Failed", ended(77))], "Killed", True, True, "exit code 77"),
    "SIGKILL": ([pod("Failed", ended(137))], "Killed", True, True, "exit code 137 and no last word"),
    "out of memory": (
        [pod("Failed", ended(137, "", "OOMKilled"))], "OutOfMemory", False, False, "limits.memory",
    ),
    "ended well without facts": ([pod("Succeeded", ended(0))], "InternalError", True, True, "exit code 0"),
    "ended well, facts are cut off": (
        [pod("Succeeded", ended(0, last_word(artifact=ARTIFACT)[:-9]))], "InternalError", True, True, "JSON",
    ),
    "ended well, facts make no sense": (
        [pod("Succeeded", ended(0, last_word(artifact={"uri": 5})))],
        "InternalError", True, True, "artifact.uri",
    ),
    "not JSON at all": ([pod("Failed", ended(1, "Segmentation fault"))], "InternalError", True, True, "Segm"),
    "a list": ([pod("Failed", ended(1, "[]"))], "InternalError", True, True, "cannot be read"),
    "a number that is none": (
        [pod("Failed", ended(1, '{"reason": "InternalError", "plan": NaN}'))],
        "InternalError", True, True, "NaN",
    ),
    "a reason that nobody knows": (
        [pod("Failed", ended(12, last_word("BadMood")))], "NaNLoss", False, False, "reason",
    ),
    "code is believed, not the reason": (
        [pod("Failed", ended(11, last_word("Succeeded", "odd", artifact=ARTIFACT)))],
        "DataError", False, False, "odd",
    ),
    "the program cannot be started": (
        [pod("Failed", ended(128, "exec: python: not found", "StartError"))],
        "PodFailed", True, True, "trainer ended with exit code 128, StartError: exec: python: not found.",
    ),
    "SIGKILL without a word": ([pod("Failed", ended(137))], "Killed", True, True, "short of memory"),
    "pod gone": ([], "PodDeleted", True, False, "deleted"),
    "pod being deleted": ([deleted(pod("Failed", ended(143)))], "PodDeleted", True, False, "deleted"),
    "evicted before it began": (
        [pod("Failed", None, reason="Evicted", message="low on memory")],
        "Evicted", True, False, "low on memory. The run goes on",
    ),
    "evicted for what it wrote": (
        [pod("Failed", ended(137), reason="Evicted", message="usage exceeds the total limit 1Gi. ")],
        "Evicted", True, True, "ephemeral-storage",
    ),
    "evicted by the API": (
        [pod("Failed", ended(143), disruption("EvictionByEvictionAPI", "drained"))],
        "Evicted", True, False, "drained",
    ),
    "its node is shut down": (
        [pod("Failed", ended(143), disruption("TerminationByKubelet", "shutdown"))],
        "Evicted", True, False, "shutdown",
    ),
    "its node does not answer": (
        [pod("Failed", ended(137), disruption("DeletionByTaintManager", "taint"))],
        "NodeLost", True, False, "taint",
    ),
    "its node is no more": (
        [pod("Failed", None, disruption("DeletionByPodGC", "PodGC: node no longer exists"))],
        "NodeLost", True, False, "no longer exists",
    ),
    "taken for something that we do not know": (
        [pod("Failed", ended(137), disruption("Whim", "so be it"))], "Evicted", True, False, "so be it",
    ),
    "its time was up": (
        [pod("Failed", ended(143), reason="DeadlineExceeded", message="was active too long")],
        "DeadlineExceeded", True, False, "active too long",
    ),
    "preempted": ([pod("Failed", ended(137), DISRUPTION)], "Preempted", True, False, "preempted by pod y"),
    "preempted, but its data is bad": (
        [pod("Failed", ended(11, last_word("DataError", "bad line")), DISRUPTION)],
        "DataError", False, False, "bad line",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("pods", "reason", "retry", "counted", "said"), FAILED.values(), ids=FAILED)
def test_an_attempt_failed(pods: Any, reason: str, retry: bool, counted: bool, said: str):
    attempt = attempt_of(2, job("Failed", restarts="1"), pods, NOW)
    assert (attempt.state, attempt.number, attempt.restarts) == ("Failed", 2, 1)
    assert attempt.outcome
    assert attempt.failure
    assert (attempt.outcome.retry, attempt.outcome.counted) == (retry, counted)
    assert attempt.failure.reason == reason
    assert said in attempt.failure.message
    assert attempt.finished
    assert attempt.finished.isoformat() == ENDED.replace("Z", "+00:00")


def test_the_newest_pod_is_looked_at():
    older, newer = pod("Failed", ended(11)), pod("Running", {"running": {}})
    newer["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z"
    assert attempt_of(1, job(), [newer, older], NOW).state == "Running"


@pytest.mark.parametrize("written", ["", "many", "-1", "1e3"])
def test_an_annotation_that_was_tampered_with_breaks_nothing(written: str):
    assert attempt_of(1, job(restarts=written), [], NOW).restarts == 0


def test_an_unreadable_last_word_is_quoted_in_part():
    failure = attempt_of(1, job("Failed"), [pod("Failed", ended(1, "x" * 4096))], NOW).failure
    assert failure
    assert 200 < len(failure.message) < 600


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "Succeeded", "Failed"])
def test_a_pod_is_over_only_in_a_final_phase(phase: str):
    assert is_over(pod(phase)) == (phase in ("Succeeded", "Failed"))


def test_a_pod_that_nobody_has_seen_yet_is_not_over():
    assert not is_over({"metadata": {"name": "x", "creationTimestamp": CREATED}})


def test_an_image_that_cannot_be_pulled_is_one_piece_of_news():
    fault = "failed to pull and unpack image x: not found"
    for reason, message in (
        ("ErrImagePull", fault),
        ("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {fault}'),
    ):
        attempt = attempt_of(1, job(), [pod("Pending", waiting(reason, message))], NOW)
        assert attempt.trouble == Trouble("ImagePullBackOff", fault, Reason.IMAGE_ERROR, "x-abc-0-1")
