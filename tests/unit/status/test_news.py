"""Which events tell the story of a job."""

from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.progress import ArtifactStatus
from kubetune.api.status import Condition, Failure, JobStatus
from kubetune.status.news import job_news
from tests.unit.status.trainers import ARTIFACT

BROKE = Failure(reason=Reason.INTERNAL_ERROR, pod="p", message="it broke")
BAD_DATA = Failure(reason=Reason.DATA_ERROR, pod="p", message="line 3 of a.jsonl")


def status(phase: Any = "Pending", attempts: int = 0, *needs: Condition, **fields: Any) -> JobStatus:
    return JobStatus(phase=phase, attempts=attempts, conditions=list(needs), **fields)


def need(type_: str, reason: str, met: Any = "False") -> Condition:
    return Condition(type=type_, status=met, reason=reason, message=f"{reason}!", last_transition_time="t")


ABSENT, RUNS = (need("DependenciesReady", reason) for reason in ("JobNotFound", "JobNotComplete"))
NO_BASE = need("DependenciesReady", "JobFailed")
NO_CLAIM = need("ResourcesReady", "ClaimNotFound")
FOUND = need("ResourcesReady", "Found", "True")

WARNS = need("Warnings", "FewSteps", "True")
WARNS_MORE = WARNS.model_copy(update={"reason": "SeveralWarnings", "message": f"{WARNS.message}\nOther: so"})

CHANGES: dict[str, tuple[JobStatus, JobStatus, list[str]]] = {
    # name: (before, after, events)
    "nothing": (status("Running", 1), status("Running", 1), []),
    "waits for a job": (status(), status("WaitingForDependency", 0, ABSENT), ["Normal JobNotFound"]),
    "still waits": (status("WaitingForDependency", 0, ABSENT), status("WaitingForDependency", 0, ABSENT), []),
    "waits for something else": (
        status("WaitingForDependency", 0, ABSENT),
        status("WaitingForDependency", 0, RUNS),
        ["Normal JobNotComplete"],
    ),
    "its base failed": (
        status("WaitingForDependency", 0, RUNS),
        status("WaitingForDependency", 0, NO_BASE),
        ["Warning JobFailed"],
    ),
    "a claim is missing": (status(), status("Pending", 0, NO_CLAIM), ["Warning ClaimNotFound"]),
    "the claim is there": (
        status("Pending", 0, NO_CLAIM),
        status("Pending", 1, FOUND),
        ["Normal AttemptCreated"],
    ),
    "the run warns": (status("Running", 1), status("Running", 1, WARNS), ["Warning FewSteps"]),
    "it warned already": (status("Running", 1, WARNS), status("Running", 1, WARNS), []),
    "it warns of more": (
        status("Running", 1, WARNS),
        status("Running", 1, WARNS_MORE),
        ["Warning SeveralWarnings"],
    ),
    "training": (status("Pending", 1), status("Running", 1), ["Normal Started"]),
    "training again before anybody looked": (
        status("Running", 1),
        status("Running", 2, failure=BROKE, restarts=1),
        ["Warning Retrying", "Normal AttemptCreated", "Normal Started"],
    ),
    "retried at once": (
        status("Running", 1),
        status("Pending", 2, failure=BROKE, restarts=1),
        ["Warning Retrying", "Normal AttemptCreated"],
    ),
    "retried later": (status("Running", 2), status("Pending", 2, failure=BROKE), ["Warning Retrying"]),
    "now it is later": (
        status("Pending", 2, failure=BROKE),
        status("Pending", 3, failure=BROKE),
        ["Normal AttemptCreated"],
    ),
    "done": (
        status("Running", 1),
        status("Succeeded", 1, artifact=ArtifactStatus.model_validate(ARTIFACT)),
        ["Normal Completed"],
    ),
    "failed": (status("Running", 1), status("Failed", 1, failure=BAD_DATA), ["Warning DataError"]),
}


@pytest.mark.parametrize(("before", "after", "told"), CHANGES.values(), ids=CHANGES)
def test_events(before: JobStatus, after: JobStatus, told: list[str]):
    assert [f"{news.type} {news.reason}" for news in job_news(before, after)] == told


def test_a_retry_names_the_attempt_that_failed_and_its_cause():
    [retrying, _] = job_news(status("Running", 1), status("Pending", 2, failure=BROKE, restarts=1))
    assert retrying.message == "Attempt 1 failed: InternalError: it broke"


def test_a_failure_is_told_in_the_words_of_the_trainer():
    [news] = job_news(status("Running", 1), status("Failed", 1, failure=BAD_DATA))
    assert news.message == "line 3 of a.jsonl"
