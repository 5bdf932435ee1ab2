"""Training on a real cluster while things break: nothing is lost, nothing is done twice."""

import json

import pytest

from dev.kubectl import Kubectl, wait_for
from dev.stack import Stack
from tests.e2e import jobs, observe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_killed_trainer_resumes_and_ends_with_the_weights_of_an_undisturbed_run(kubectl: Kubectl) -> None:
    checkpoint = {"everySteps": 40}
    observe.apply(kubectl, jobs.pretrain("killed", steps=400, checkpoint=checkpoint))
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

    observe.apply(kubectl, jobs.pretrain("undisturbed", steps=400, checkpoint=checkpoint))
    observe.until_condition(kubectl, "pretrainjob/undisturbed", "Complete", timeout=240)
    killed, undisturbed = (
        observe.weights_sha256(kubectl, f"pretrainjob/{n}") for n in ("killed", "undisturbed")
    )
    assert killed == undisturbed


def test_an_operator_killed_mid_run_loses_nothing_and_does_nothing_twice(
    kubectl: Kubectl, stack: Stack
) -> None:
    observe.apply(kubectl, jobs.pretrain("orphan", steps=200))
    observe.until_step(kubectl, "pretrainjob/orphan", 10)
    for pod in stack.operator_pods():
        observe.kill(pod, "kubetune")
    observe.until_condition(kubectl, "pretrainjob/orphan", "Complete", timeout=240)
    [attempt] = observe.child_jobs(kubectl, "PretrainJob", "orphan")
    kubectl("wait", "--for=condition=Complete", f"job/{attempt['metadata']['name']}", "--timeout=30s")
    assert observe.status(kubectl, "pretrainjob/orphan")["attempts"] == 1


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
    assert "2" in failure["message"]
    assert len(observe.child_jobs(kubectl, "FineTuneJob", "misfed")) == 1


def test_a_finished_job_is_not_run_again_when_its_child_is_deleted(kubectl: Kubectl) -> None:
    observe.apply(kubectl, jobs.pretrain("done", steps=5))
    observe.until_condition(kubectl, "pretrainjob/done", "Complete", timeout=180)
    [child] = observe.child_jobs(kubectl, "PretrainJob", "done")
    before = json.dumps(observe.status(kubectl, "pretrainjob/done"), sort_keys=True)
    kubectl("delete", "job", child["metadata"]["name"], "--wait=true")
    kubectl("annotate", "pretrainjob/done", "look=again")
    wait_for(
        "the operator looking at the job again",
        lambda: not observe.child_jobs(kubectl, "PretrainJob", "done") or None,
        timeout=10,
    )
    assert observe.child_jobs(kubectl, "PretrainJob", "done") == []
    assert json.dumps(observe.status(kubectl, "pretrainjob/done"), sort_keys=True) == before
