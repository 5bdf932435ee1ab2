"""Who keeps a child Job from having a pod."""

from typing import Any

import pytest

from kubetune.status.held import held

BOB = [{"manager": "bob", "fieldsV1": {"f:spec": {"f:parallelism": {}}}}]
GOING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def child(spec: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x-abc", "uid": "u"} | meta, "spec": {"parallelism": 1} | (spec or {})}


@pytest.mark.parametrize(
    ("job", "reason", "words"),
    [
        (child({"parallelism": 0}, managedFields=BOB), "JobSuspended", "spec.parallelism of 0 by bob:"),
        (child({"parallelism": 0}), "JobSuspended", "spec.parallelism of 0:"),
        (child({"managedBy": "kueue.x-k8s.io/multikueue"}), "JobManaged", "kueue.x-k8s.io/multikueue"),
        (child(finalizers=["a.example.org/x"], **GOING), "JobTerminating", "a.example.org/x keeps it"),
    ],
)
def test_who_holds_a_job_is_told(job: dict[str, Any], reason: str, words: str) -> None:
    found = held(job)
    assert found
    assert found.reason == reason
    assert words in found.message


@pytest.mark.parametrize(
    "job",
    [
        child(),
        child({"managedBy": "kubernetes.io/job-controller"}),
        child(finalizers=["a.example.org/x"]),
        child(finalizers=["foregroundDeletion"], **GOING),
    ],
)
def test_nobody_holds_it(job: dict[str, Any]) -> None:
    assert held(job) is None
