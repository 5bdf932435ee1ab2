"""What a job may be named for: every stage and format, by every field that names a job."""

from collections.abc import Mapping
from typing import Any

import pytest

from kubetune.api.progress import ArtifactStatus
from kubetune.api.status import Failure, JobStatus
from kubetune.references.job import JobKind, ReferencedJob, referenced_job
from kubetune.references.uses import BASE, LORA_ADAPTER, WAITING, Problem, artifact_for, use_of, wrong_base
from tests.fixtures.jobs import complete, condition, incomplete

STAGES = ("pretrain", "mlm", "sft", "domain", "dpo", "reward", "ppo", "grpo", "classification")
TALK = frozenset({"pretrain", "sft", "domain", "dpo", "ppo", "grpo"})
FORMATS = ("full", "lora", "prompt")


def named(stage: str, format: str, status: JobStatus | None = None, **more: Any) -> ReferencedJob:
    """A job of a stage; complete unless its status is given."""
    kind: JobKind = "PretrainJob" if stage in ("pretrain", "mlm") else "FineTuneJob"
    made = ArtifactStatus(uri="pvc://models/j", digest="sha256:1", size_bytes=1, format=format)
    planned: Any = format
    return ReferencedJob(kind, "j", {}, "pvc://models", stage, planned, status or complete(made), **more)


# Of each use: who names the job (field, kind, spec), stages that fit, formats that fit, and the reason where
# stage or format does not.
USES: Mapping[str, tuple[tuple[str, str, dict[str, Any]], frozenset[str], set[str], str, str]] = {
    "base of pretraining": (
        ("model.from", "PretrainJob", {}), TALK, {"full"}, "NotALanguageModel", "NotFullWeights",
    ),
    "base of masked pretraining": (
        ("model.from", "PretrainJob", {"objective": "mlm"}), frozenset({"mlm"}), {"full"},
        "NotAMaskedModel", "NotFullWeights",
    ),
    **{
        f"base of {stage}": (
            ("baseModel", "FineTuneJob", {"stage": stage}), TALK, {"full"}, "NotALanguageModel",
            "NotFullWeights",
        )
        for stage in ("sft", "domain", "dpo", "ppo", "grpo")
    },
    "base of reward": (
        ("baseModel", "FineTuneJob", {"stage": "reward"}), TALK | {"reward", "classification"}, {"full"},
        "NotALanguageModel", "NotFullWeights",
    ),
    "base of classification": (
        ("baseModel", "FineTuneJob", {"stage": "classification"}), frozenset(STAGES), {"full"}, "",
        "NotFullWeights",
    ),
    "adapter": (
        ("adapter", "FineTuneJob", {"method": "full"}), TALK, {"lora"}, "NotAnAdapter", "NotAnAdapter",
    ),
    "virtual tokens": (
        ("adapter", "FineTuneJob", {"method": "prompt-tuning"}), TALK, {"prompt"}, "NotAnAdapter",
        "NotAnAdapter",
    ),
    "reward model": (
        ("reward.model", "FineTuneJob", {"stage": "ppo"}), frozenset({"reward"}), {"full", "lora"},
        "NotARewardModel", "",
    ),
}  # fmt: skip


# Virtual tokens have no head, which the API knows.
MADE = [(s, f) for s in STAGES for f in FORMATS if f != "prompt" or s not in ("reward", "classification")]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("stage", "format"), MADE)
def test_what_a_job_may_be_named_for(use: str, stage: str, format: str):
    by, stages, formats, not_such_model, not_such_format = USES[use]
    expected = not_such_model if stage not in stages else not_such_format if format not in formats else None
    # What a job will never make is said before it has ended.
    for status in (None, incomplete("Running")):
        found = artifact_for(use_of(*by), "FineTuneJob", "j", named(stage, format, status))
        if expected is None and status is None:
            assert isinstance(found, ArtifactStatus)
            continue
        assert isinstance(found, Problem)
        assert found.reason == (expected or "JobNotComplete")
        assert found.message.startswith(
            f"{'PretrainJob' if stage in ('pretrain', 'mlm') else 'FineTuneJob'} j "
        )


@pytest.mark.parametrize("stage", STAGES)
def test_a_set_serves_what_a_job_may_start_from(stage: str):
    """A reward model, a classifier or an encoder is no base, and their adapters are no adapters."""
    for use, format in ((BASE, "full"), (LORA_ADAPTER, "lora")):
        found = artifact_for(use, "FineTuneJob", "j", named(stage, format))
        assert isinstance(found, ArtifactStatus) == (stage in TALK)


def test_what_a_problem_says():
    wrong = artifact_for(BASE, "FineTuneJob", "j", named("reward", "full"))
    assert wrong == Problem(
        "NotALanguageModel", "FineTuneJob j makes a reward model: name a job that makes a language model"
    )


NOT_MADE = {
    "JobNotFound": [None, named("sft", "full", incomplete("Terminating"), deleted=True)],
    "JobNotComplete": [
        named("sft", "full", incomplete()),
        named("sft", "full", JobStatus(phase="Succeeded")),
        named("sft", "full", JobStatus()),
    ],
    "JobFailed": [
        named("sft", "full", incomplete("Failed")),
        named("sft", "full", incomplete("Failed"), deleted=True),
    ],
}


@pytest.mark.parametrize(
    ("reason", "job"), [(reason, job) for reason, jobs in NOT_MADE.items() for job in jobs]
)
def test_a_job_that_has_made_nothing(reason: str, job: ReferencedJob | None):
    found = artifact_for(BASE, "FineTuneJob", "j", job)
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert (reason in WAITING) == (reason != "JobFailed")


def test_what_a_complete_job_made_is_there_while_the_job_goes():
    """Its files wait for those that use them (ArtifactInUse)."""
    assert isinstance(
        artifact_for(BASE, "FineTuneJob", "j", named("sft", "full", deleted=True)), ArtifactStatus
    )


def test_the_first_cause_is_passed_on():
    failed = incomplete("Failed").model_copy(
        update={"failure": Failure(reason="NaNLoss", message="loss is NaN")}
    )
    waits = JobStatus(
        phase="WaitingForDependency",
        conditions=[condition("DependenciesReady", "False", "PretrainJob base does not exist")],
    )
    for status, told in ((failed, "failed (loss is NaN)"), (waits, "(PretrainJob base does not exist)")):
        found = artifact_for(BASE, "FineTuneJob", "j", named("sft", "full", status))
        assert isinstance(found, Problem)
        assert told in found.message


@pytest.mark.parametrize(
    ("belongs_to", "base", "fits"),
    [("a", "a", True), ("a", "b", False), (None, "b", True), ("a", None, True)],
)
def test_an_adapter_and_its_base(belongs_to: str | None, base: str | None, fits: bool):
    found = wrong_base("FineTuneJob j", belongs_to, base)
    assert (found is None) == fits
    assert found is None or found.reason == "BaseModelMismatch"


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("PretrainJob", {}, ("pretrain", "full", None)),
        ("PretrainJob", {"objective": "mlm"}, ("mlm", "full", None)),
        ("FineTuneJob", {}, ("sft", "lora", 16)),
        ("FineTuneJob", {"method": "qlora", "lora": {"rank": 4}}, ("sft", "lora", 4)),
        ("FineTuneJob", {"adapter": {"uri": "pvc://a/b"}}, ("sft", "lora", None)),
        ("FineTuneJob", {"output": {"storageUri": "pvc://m", "merge": True}}, ("sft", "full", None)),
        ("FineTuneJob", {"method": "full", "stage": "reward"}, ("reward", "full", None)),
        ("FineTuneJob", {"method": "prompt-tuning"}, ("sft", "prompt", None)),
    ],
)
def test_what_a_spec_tells(kind: JobKind, spec: dict[str, Any], expected: tuple[str, str, int | None]):
    job = referenced_job(
        kind, {"metadata": {"name": "j"}, "spec": {"output": {"storageUri": "pvc://m"}, **spec}}
    )
    assert (job.stage, job.format, job.rank) == expected
