"""Training on a real cluster while things break: nothing is lost, nothing is done twice."""

import pytest

from dev.kubectl import Kubectl, wait_for
from dev.stack import Stack
from tests.e2e import jobs, observe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


STEPS, CHECKPOINT = 400, {"everySteps": 40}


@pytest.fixture(scope="module")
def undisturbed(kubectl: Kubectl) -> str:
    """Digest of the weights of a run that nothing happens to."""
    observe.apply(kubectl, jobs.pretrain("undisturbed", steps=STEPS, checkpoint=CHECKPOINT))
    observe.until_condition(kubectl, "pretrainjob/undisturbed", "Complete", timeout=240)
    return observe.weights_sha256(kubectl, "pretrainjob/undisturbed")


def test_a_killed_trainer_resumes_and_ends_with_the_weights_of_an_undisturbed_run(
    kubectl: Kubectl, undisturbed: str
) -> None:
    observe.apply(kubectl, jobs.pretrain("killed", steps=STEPS, checkpoint=CHECKPOINT))
    observe.until_step(kubectl, "pretrainjob/killed", 60)
    [pod] = observe.pods(kubectl, "PretrainJob", "killed")
    observe.kill(pod, "kubetune_trainer")
    observe.until_condition(kubectl, "pretrainjob/killed", "Complete", timeout=240)

    attempts = observe.child_jobs(kubectl, "PretrainJob", "killed")
    assert len(attempts) == 2
    status = observe.status(kubectl, "pretrainjob/killed")
    assert (status["attempts"], status["restarts"]) == (2, 1)
    log = kubectl("logs", f"job/{attempts[1]['metadata']['name']}")
    assert "resum" in log.lower(), log

    assert observe.weights_sha256(kubectl, "pretrainjob/killed") == undisturbed


@pytest.mark.long
def test_a_deleted_pod_costs_no_restart_and_nothing_of_the_weights(
    kubectl: Kubectl, undisturbed: str
) -> None:
    observe.apply(kubectl, jobs.pretrain("evicted", steps=STEPS, checkpoint=CHECKPOINT))
    reached = observe.until_step(kubectl, "pretrainjob/evicted", 60)
    [pod] = observe.pods(kubectl, "PretrainJob", "evicted")
    kubectl("delete", "pod", pod["metadata"]["name"], "--wait=true")
    observe.until_condition(kubectl, "pretrainjob/evicted", "Complete", timeout=240)
    status = observe.status(kubectl, "pretrainjob/evicted")
    assert status["restarts"] == 0
    # It was asked to end, and saved what it had.
    [resumed] = {p["metadata"]["name"] for p in observe.pods(kubectl, "PretrainJob", "evicted")}
    log = kubectl("logs", resumed)
    step = next(
        int(word.removeprefix("step=")) for word in log.split("resumed", 1)[1].split() if "step=" in word
    )
    assert step >= reached
    assert observe.weights_sha256(kubectl, "pretrainjob/evicted") == undisturbed


def test_suspended_twice_it_ends_with_the_weights_of_an_undisturbed_run(
    kubectl: Kubectl, undisturbed: str
) -> None:
    observe.apply(kubectl, jobs.pretrain("paused", steps=STEPS, checkpoint={"everySteps": STEPS}))
    for step in (30, 200):
        reached = observe.until_step(kubectl, "pretrainjob/paused", step)
        observe.patch(kubectl, "pretrainjob/paused", {"spec": {"suspend": True}})
        observe.until_condition(kubectl, "pretrainjob/paused", "Suspended", timeout=60)
        left = [pod["status"]["phase"] for pod in observe.pods(kubectl, "PretrainJob", "paused")]
        assert not set(left) & {"Pending", "Running"}
        # Nothing but the SIGTERM made it save one.
        observe.until_checkpoint(kubectl, "pretrainjob/paused", reached, timeout=3)
        # Suspended, it may also be given more.
        more = {"requests": {"cpu": "200m", "memory": "600Mi"}}
        change = {"suspend": False, "compute": {"resourcesPerNode": more}}
        observe.patch(kubectl, "pretrainjob/paused", {"spec": change})
    observe.until_condition(kubectl, "pretrainjob/paused", "Complete", timeout=240)
    status = observe.status(kubectl, "pretrainjob/paused")
    assert (status["attempts"], status["restarts"]) == (3, 0)
    assert observe.weights_sha256(kubectl, "pretrainjob/paused") == undisturbed


def test_an_operator_killed_mid_run_loses_nothing_and_does_nothing_twice(
    kubectl: Kubectl, stack: Stack
) -> None:
    observe.apply(kubectl, jobs.pretrain("orphan", steps=200))
    observe.until_step(kubectl, "pretrainjob/orphan", 10)
    before = operator_restarts(stack)
    assert before, "no operator to kill"
    for pod in stack.operator_pods():
        observe.kill(pod, "kubetune")
    observe.until_condition(kubectl, "pretrainjob/orphan", "Complete", timeout=240)
    [attempt] = observe.child_jobs(kubectl, "PretrainJob", "orphan")
    kubectl("wait", "--for=condition=Complete", f"job/{attempt['metadata']['name']}", "--timeout=30s")
    assert observe.status(kubectl, "pretrainjob/orphan")["attempts"] == 1
    assert all(count > before[name] for name, count in operator_restarts(stack).items())


def operator_restarts(stack: Stack) -> dict[str, int]:
    """How often each pod of the operator has been restarted."""
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in stack.operator_pods()
    }


@pytest.mark.long
def test_missing_claim_and_configmap_are_conditions_and_mend_by_themselves(kubectl: Kubectl) -> None:
    job = jobs.pretrain("hungry", uri="configmap://later/corpus.jsonl", output={"storageUri": "pvc://later"})
    observe.apply(kubectl, job)
    missing = observe.until_condition(kubectl, "pretrainjob/hungry", "ResourcesReady", "False", timeout=30)
    assert missing["reason"] in {"ClaimNotFound", "ConfigMapNotFound"}
    assert "later" in missing["message"]
    assert observe.child_jobs(kubectl, "PretrainJob", "hungry") == []

    data = jobs.examples() | {"metadata": {"name": "later"}}
    observe.apply(kubectl, jobs.claim("later"), data)
    observe.until_condition(kubectl, "pretrainjob/hungry", "Complete", timeout=180)


@pytest.mark.long
def test_a_job_applied_before_its_base_waits_and_then_runs(kubectl: Kubectl) -> None:
    observe.apply(kubectl, jobs.finetune("eager", "late-base"))
    waiting = observe.until_condition(kubectl, "finetunejob/eager", "DependenciesReady", "False", timeout=30)
    assert waiting["reason"] == "JobNotFound"
    assert observe.status(kubectl, "finetunejob/eager")["phase"] == "WaitingForDependency"
    observe.apply(kubectl, jobs.pretrain("late-base"))
    observe.until_condition(kubectl, "finetunejob/eager", "Complete", timeout=240)
    artifact = observe.status(kubectl, "finetunejob/eager")["artifact"]
    base = observe.status(kubectl, "pretrainjob/late-base")["artifact"]
    assert artifact["baseModelDigest"] == base["digest"]
    assert artifact["rank"] == 8


@pytest.mark.long
def test_malformed_data_names_file_and_line_and_is_not_retried(kubectl: Kubectl) -> None:
    good = jobs.lines([{"instruction": "a", "output": "b"}])
    broken = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "broken"},
        "data": {"pairs.jsonl": good + '{"instruction": "a"}\n'},
    }
    observe.apply(kubectl, broken, jobs.pretrain("plain-base"))
    observe.apply(kubectl, jobs.finetune("misfed", "plain-base", uri="configmap://broken/pairs.jsonl"))
    observe.until_condition(kubectl, "finetunejob/misfed", "Failed", timeout=240)
    failure = observe.status(kubectl, "finetunejob/misfed")["failure"]
    assert failure["reason"] == "DataError"
    assert failure["exitCode"] == 11
    assert "pairs.jsonl" in failure["message"]
    assert "line 2" in failure["message"]
    assert len(observe.child_jobs(kubectl, "FineTuneJob", "misfed")) == 1


@pytest.mark.long
def test_a_finished_job_is_not_run_again_when_its_child_is_deleted(kubectl: Kubectl) -> None:
    observe.apply(kubectl, jobs.pretrain("done", steps=5))
    observe.until_condition(kubectl, "pretrainjob/done", "Complete", timeout=180)
    [child] = observe.child_jobs(kubectl, "PretrainJob", "done")
    before = observe.status(kubectl, "pretrainjob/done")
    kubectl("delete", "job", child["metadata"]["name"], "--wait=true")
    observe.patch(kubectl, "pretrainjob/done", {"spec": {"backoffLimit": 9}})
    wait_for(
        "the operator looking at the job again",
        lambda: observe.status(kubectl, "pretrainjob/done")["observedGeneration"] == 2 or None,
        timeout=30,
    )
    assert observe.child_jobs(kubectl, "PretrainJob", "done") == []
    after = observe.status(kubectl, "pretrainjob/done")
    assert (after["phase"], after["artifact"]) == (before["phase"], before["artifact"])


@pytest.mark.long
def test_too_little_memory_is_told_and_not_retried(kubectl: Kubectl) -> None:
    tight = {"resourcesPerNode": {"requests": {"cpu": "200m"}, "limits": {"memory": "300Mi"}}}
    observe.apply(kubectl, jobs.pretrain("greedy", steps=5, compute=tight))
    observe.until_condition(kubectl, "pretrainjob/greedy", "Failed", timeout=120)
    status = observe.status(kubectl, "pretrainjob/greedy")
    assert (status["failure"]["reason"], status["attempts"]) == ("OutOfMemory", 1)
    assert "limits.memory" in status["failure"]["message"]


@pytest.mark.long
def test_an_image_that_is_not_there_is_told_and_can_be_mended_while_suspended(kubectl: Kubectl) -> None:
    wrong = {"podTemplate": {"image": "localhost/nothing:1", "imagePullPolicy": "Never"}}
    observe.apply(kubectl, jobs.pretrain("imageless", steps=5, compute=wrong))
    observe.until_condition(kubectl, "pretrainjob/imageless", "ResourcesReady", "False", "ErrImageNeverPull")
    assert observe.status(kubectl, "pretrainjob/imageless")["failure"]["reason"] == "ImageError"
    change = {"suspend": True, "compute": None}
    observe.patch(kubectl, "pretrainjob/imageless", {"spec": change})
    observe.until_condition(kubectl, "pretrainjob/imageless", "Suspended", timeout=60)
    observe.patch(kubectl, "pretrainjob/imageless", {"spec": {"suspend": False}})
    observe.until_condition(kubectl, "pretrainjob/imageless", "Complete", timeout=120)
    assert "failure" not in observe.status(kubectl, "pretrainjob/imageless")


@pytest.mark.long
def test_what_runs_too_long_is_ended_with_a_checkpoint(kubectl: Kubectl) -> None:
    job = jobs.pretrain("slow", steps=100_000, checkpoint={"everySteps": 100_000}, activeDeadlineSeconds=15)
    observe.apply(kubectl, job)
    observe.until_condition(kubectl, "pretrainjob/slow", "Failed", timeout=120)
    status = observe.status(kubectl, "pretrainjob/slow")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert 15 <= status["activeSeconds"] <= 30
    assert f"at step {status['lastCheckpoint']['step']}" in status["failure"]["message"]
    assert observe.claim_path(kubectl, status["lastCheckpoint"]["uri"]).is_dir()


def test_files_go_with_their_job_or_stay(kubectl: Kubectl) -> None:
    for name, policy in (("swept", "Delete"), ("kept", "Retain")):
        out = {"storageUri": "pvc://models/here", "reclaimPolicy": policy}
        observe.apply(kubectl, jobs.pretrain(name, steps=5, output=out, ttlSecondsAfterFinished=0))
    for name, stays in (("swept", False), ("kept", True)):
        kubectl("wait", "--for=delete", f"pretrainjob/{name}", "--timeout=180s")
        folders = [*observe.claim_path(kubectl, "pvc://models/here").glob(f"{name}-*")]
        assert bool(folders) == stays
