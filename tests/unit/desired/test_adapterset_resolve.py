"""Which version an adapter gets, case by case."""

from typing import Any

import pytest

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.progress import ArtifactStatus
from kubetune.api.status import AdapterSetStatus, AdapterStatus, JobStatus, ResolvedBase
from kubetune.desired.adapterset_resolve import Claim, Resolution, resolve, upcoming
from kubetune.references.job import ReferencedJob
from tests.fixtures.jobs import complete, incomplete

D0, D1, D2, D3 = (f"sha256:{n * 64}" for n in "0123")
CLAIMS = {"models": Claim(shareable=True)}
BASE = ResolvedBase(uri="pvc://models/base-1", digest=D0)


def artifact(name: str, digest: str, **fields: Any) -> ArtifactStatus:
    defaults: dict[str, Any] = {"format": "lora", "base_model_digest": D0, "rank": 8}
    return ArtifactStatus(uri=f"pvc://models/{name}", digest=digest, size_bytes=1, **{**defaults, **fields})


def job(name: str, digest: str | None = None, at: str = "2026-01-01T00:00:00Z", **more: Any) -> ReferencedJob:
    """A FineTuneJob; complete if it has a digest."""
    fields = {k: more.pop(k) for k in ("format", "base_model_digest", "rank") if k in more}
    made = artifact(name, digest or "", **fields)
    status = complete(made, at) if digest else incomplete(more.pop("phase", "Running"))
    return ReferencedJob(
        "FineTuneJob", name, more.pop("labels", {}), "pvc://models", "sft", "lora", status, **more
    )


def base_job(digest: str = D0, *, status: JobStatus | None = None, **fields: Any) -> ReferencedJob:
    status = status or complete(artifact("base-1", digest, **{"format": "full", **fields}))
    return ReferencedJob("PretrainJob", "base", {}, "pvc://models", "pretrain", "full", status)


def spec(source: dict[str, Any], **more: Any) -> AdapterSetSpec:
    adapter = {"name": "a", "source": source, **more.pop("adapter", {})}
    base = {"name": "base", "jobRef": {"kind": "PretrainJob", "name": "base"}}
    return AdapterSetSpec.model_validate({"baseModel": base, "adapters": [adapter], **more})


def before(digest: str | None = D1, **fields: Any) -> AdapterSetStatus:
    known: dict[str, Any] = {
        "job": "old",
        "completion_time": "2026-01-01T00:00:00Z",
        "uri": "pvc://models/old",
    }
    adapter = AdapterStatus(
        name="a", digest=digest, ready=2, desired=2, loaded_name="a-11111111", **{**known, **fields}
    )
    return AdapterSetStatus(base=BASE, adapters=[adapter])


def found(
    spec: AdapterSetSpec, *jobs: ReferencedJob, previous: AdapterSetStatus | None = None
) -> AdapterStatus:
    previous = previous or AdapterSetStatus()
    return resolve(spec, previous, [base_job(), *jobs], CLAIMS).adapters[0]


BY_REF = spec({"jobRef": {"name": "old"}})
BY_LABEL = spec({"jobSelector": {"matchLabels": {"x": "1"}}})
X = {"x": "1"}


# A job by name.


def test_a_complete_job_is_resolved():
    version = found(BY_REF, job("old", D1))
    assert version == AdapterStatus(
        name="a", job="old", completion_time="2026-01-01T00:00:00Z", digest=D1, uri="pvc://models/old",
        rank=8, loaded_name="a-11111111",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        ([], "JobNotFound"),
        ([job("old")], "JobNotComplete"),
        ([job("old", phase="Failed")], "JobFailed"),
        ([job("old", D1, format="full")], "NotAnAdapter"),
        ([job("old", D1, format="prompt")], "NotAnAdapter"),
        ([job("old", D1, base_model_digest=D3)], "BaseModelMismatch"),
    ],
)
def test_what_cannot_be_served_has_a_reason_and_no_version(jobs: list[ReferencedJob], reason: str):
    version = found(BY_REF, *jobs)
    assert (version.reason, version.digest) == (reason, None)
    assert version.message


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        ([], None),
        ([job("old")], "JobNotComplete"),
        ([job("old", phase="Failed")], "JobFailed"),
        ([job("old", D2, base_model_digest=D3)], "BaseModelMismatch"),
    ],
    ids=["deleted", "running again", "failed", "of another base"],
)
def test_a_version_that_was_resolved_stays(jobs: list[ReferencedJob], reason: str | None):
    version = found(BY_REF, *jobs, previous=before())
    assert (version.digest, version.reason) == (D1, reason)
    assert version.ready == 0  # what pods said is not part of it
    if reason:
        assert "a-11111111 is served meanwhile" in (version.message or "")


def test_a_job_made_again_under_the_same_name_takes_over():
    assert found(BY_REF, job("old", D2), previous=before()).digest == D2


def test_a_reference_to_another_job_waits_for_it():
    other = spec({"jobRef": {"name": "new"}})
    version = found(other, job("new"), previous=before())
    assert (version.digest, version.reason) == (D1, "JobNotComplete")
    assert found(other, job("new", D2), previous=before()).digest == D2


def test_a_rank_beyond_the_users_limit_is_refused():
    limited = spec({"jobRef": {"name": "old"}}, engine={"maxLoraRank": 16})
    assert found(limited, job("old", D1, rank=17)).reason == "RankTooHigh"
    assert found(limited, job("old", D1, rank=16)).digest == D1
    assert found(BY_REF, job("old", D1, rank=512)).digest == D1
    assert found(BY_REF, job("old", D1, rank=513)).reason == "RankTooHigh"


def test_a_base_without_digest_is_not_compared():
    by_uri = spec({"jobRef": {"name": "old"}}, baseModel={"name": "base", "uri": "pvc://models/base"})
    assert found(by_uri, job("old", D1, base_model_digest=D3)).digest == D1


def test_a_missing_claim_is_named():
    elsewhere = resolve(BY_REF, AdapterSetStatus(base=BASE), [job("old", D1)], {"other": Claim(True)})
    assert elsewhere.adapters[0].reason == "ClaimNotFound"
    assert "PersistentVolumeClaim models" in (elsewhere.adapters[0].message or "")
    assert elsewhere.base_problem is not None
    assert elsewhere.base_problem.reason == "ClaimNotFound"


# A pinned digest: rollback.


def pinned(digest: str) -> AdapterSetSpec:
    return spec({"jobSelector": {"matchLabels": X}}, adapter={"digest": digest})


def test_a_pin_chooses_the_older_job():
    jobs = [job("v1", D1, labels=X), job("v2", D2, "2026-01-02T00:00:00Z", labels=X)]
    assert found(pinned(D1), *jobs, previous=before(D2, job="v2")).digest == D1
    assert found(BY_LABEL, *jobs).digest == D2


def test_a_pinned_version_stays_when_its_job_is_gone():
    version = found(pinned(D1), job("v2", D2, labels=X), previous=before())
    assert (version.digest, version.reason) == (D1, None)


def test_a_pin_that_nothing_has_keeps_what_is_served():
    version = found(pinned(D3), job("v2", D2, labels=X), previous=before(D2))
    assert (version.digest, version.reason) == (D2, "NoCompleteJob")
    assert D3 in (version.message or "")


def test_a_pin_on_a_job_that_made_something_else():
    version = found(spec({"jobRef": {"name": "old"}}, adapter={"digest": D3}), job("old", D1))
    assert (version.digest, version.reason) == (None, "DigestNotFound")
    assert D1 in (version.message or "")


# A selector.


def test_the_newest_complete_job_is_chosen_whatever_the_order():
    jobs = [
        job("late", D2, "2026-01-01T10:00:00Z", labels=X),
        job("early", D1, "2026-01-01T09:59:59Z", labels={**X, "y": "2"}),
        job("later-but-other", D3, "2026-01-02T00:00:00Z", labels={"x": "2"}),
        job("running", labels=X),
    ]
    assert found(BY_LABEL, *jobs).digest == found(BY_LABEL, *reversed(jobs)).digest == D2


def test_no_complete_job_yet():
    version = found(BY_LABEL, job("one", labels=X), job("two", phase="Failed", labels=X))
    assert version.reason == "NoCompleteJob"
    assert "none of 2 FineTuneJobs with labels x=1 is Complete" in (version.message or "")


def test_the_deletion_of_the_newest_job_does_not_bring_back_an_older_one():
    older = job("older", D2, "2025-12-31T00:00:00Z", labels=X)
    assert found(BY_LABEL, older, previous=before()).digest == D1
    assert found(BY_LABEL, previous=before()).reason is None


def test_a_newer_job_than_the_deleted_one_takes_over():
    assert found(BY_LABEL, job("newer", D2, "2026-01-03T00:00:00Z", labels=X), previous=before()).digest == D2


def test_a_job_that_lost_its_label_is_not_served_any_more():
    jobs = [job("old", D1), job("older", D2, "2025-12-31T00:00:00Z", labels=X)]
    assert found(BY_LABEL, *jobs, previous=before()).digest == D2


def test_a_newest_job_of_another_base_is_reported_and_the_old_version_stays():
    wrong = job("wrong", D2, "2026-01-03T00:00:00Z", labels=X, base_model_digest=D3)
    version = found(BY_LABEL, wrong, previous=before())
    assert (version.digest, version.reason) == (D1, "BaseModelMismatch")


# A folder.


def test_a_folder_is_what_the_spec_says():
    by_uri = spec({"uri": "pvc://models/mine/v3/"}, adapter={"digest": D3})
    version = found(by_uri, previous=before())
    assert (version.uri, version.digest, version.job, version.rank) == (
        "pvc://models/mine/v3/",
        D3,
        None,
        None,
    )


# The base.


def base_of(resolution: Resolution) -> tuple[str | None, str | None]:
    return (
        resolution.base.digest if resolution.base else None,
        resolution.base_problem.reason if resolution.base_problem else None,
    )


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (None, (None, "JobNotFound")),
        (base_job(status=incomplete("Running")), (None, "JobNotComplete")),
        (base_job(status=incomplete("Failed")), (None, "JobFailed")),
        (base_job(), (D0, None)),
        (base_job(format="lora"), (None, "NotFullWeights")),
    ],
)
def test_the_base_of_a_job(job: ReferencedJob | None, expected: tuple[str | None, str | None]):
    assert base_of(resolve(BY_REF, AdapterSetStatus(), [job] if job else [], CLAIMS)) == expected


def test_a_base_that_was_resolved_stays_though_its_job_was_made_again():
    assert base_of(resolve(BY_REF, before(), [base_job(D3)], CLAIMS)) == (D0, None)
    assert base_of(resolve(BY_REF, before(), [], CLAIMS)) == (D0, None)


def test_a_base_whose_claim_vanished_is_still_known():
    assert base_of(resolve(BY_REF, before(), [], {})) == (D0, "ClaimNotFound")


def test_jobs_that_are_making_adapters():
    both = AdapterSetSpec.model_validate(
        {
            "baseModel": {"name": "base", "uri": "pvc://models/base"},
            "adapters": [
                {"name": "a", "source": {"jobRef": {"name": "old"}}},
                {"name": "b", "source": {"jobSelector": {"matchLabels": X}}},
            ],
        }
    )
    jobs = [
        job("old"), job("labelled", labels=X), job("other"), job("done", D1, labels=X),
        job("failed", phase="Failed", labels=X), base_job(),
    ]  # fmt: skip
    assert [j.name for j in upcoming(both, jobs)] == ["old", "labelled"]
