"""Training jobs on a real control plane with the real operator; only the kubelet is played."""

from collections.abc import Iterator
from typing import Any

import pytest

from kubetune.api.exitcodes import EXIT_CODES, Reason, outcome
from kubetune.api.reinforcement import Ppo, RolloutSettings
from tests.fixtures.operator import eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

BASE = {"jobRef": {"kind": "PretrainJob", "name": "base"}}
KILLED, UNKNOWN = 137, 77
CODES = sorted({*EXIT_CODES, KILLED, UNKNOWN} - {0})


def test_a_job_runs_from_applied_to_complete(world: World) -> None:
    applied = world.pretrain("tiny", "run")
    pod = world.pod("tiny")
    status = world.until_phase("tiny", "Running")
    assert status["attempts"] == 1
    assert status["startTime"]
    assert "completionTime" not in status
    assert not {"artifact", "failure"} & status.keys()

    spec = world.node.run_spec(pod)
    folder = f"tiny-{applied['metadata']['uid'][:8]}"
    assert spec.job.uid == applied["metadata"]["uid"]
    assert (spec.output.uri, spec.output.path) == (f"pvc://models/{folder}", f"/mnt/pvc/models/{folder}")

    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    status = world.until_phase("tiny", "Succeeded")
    assert status["artifact"]["uri"] == f"pvc://models/{folder}/artifact"
    assert status["trainerStatus"]["progressPercentage"] == 100
    assert status["completionTime"] >= status["startTime"]
    assert conditions(status) == {
        "Ready": "True", "Reconciling": "False", "Stalled": "False",
        "DependenciesReady": "True", "ResourcesReady": "True", "ArtifactReady": "True",
        "Suspended": "False", "Complete": "True",
        "Failed": "False", "Warnings": "False",
    }  # fmt: skip
    [child] = world.children("tiny")
    assert child["spec"]["backoffLimit"] == 0
    kinds = {(kind, reason) for kind, reason in world.events("tiny")}
    assert kinds == {("Normal", "AttemptCreated"), ("Normal", "Started"), ("Normal", "Completed")}


def test_a_chain_applied_in_the_wrong_order_runs_in_the_right_one(world: World) -> None:
    world.finetune("second", "succeed", base={"jobRef": {"kind": "FineTuneJob", "name": "first"}})
    world.finetune("first", "succeed", base=BASE, method="full")
    world.until_condition("second", "DependenciesReady", "JobNotComplete", "FineTuneJob")
    missing = world.until_condition("first", "DependenciesReady", "JobNotFound", "FineTuneJob")
    assert "PretrainJob base" in missing["message"]
    assert world.status("first", "FineTuneJob")["phase"] == "WaitingForDependency"
    assert world.children("first", "FineTuneJob") == []

    world.pretrain("base", "run")
    world.until_condition("first", "DependenciesReady", "JobNotComplete", "FineTuneJob")
    world.pod("base")
    assert world.children("first", "FineTuneJob") == []
    world.node.plays[world.namespace, "base"] = ["succeed"]
    world.until_phase("second", "Succeeded", "FineTuneJob")

    pod = world.pod("first", "FineTuneJob", phase="Succeeded")
    artifact = world.status("base")["artifact"]
    model = world.node.run_spec(pod).model
    assert (model.uri, model.digest) == (artifact["uri"], artifact["digest"])
    assert model.path == artifact["uri"].replace("pvc://", "/mnt/pvc/")


def test_jobs_that_wait_for_each_other_are_told_so_and_can_be_freed(world: World) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a"), ("hanger-on", "a")):
        ref = {"jobRef": {"kind": "FineTuneJob", "name": base}}
        world.finetune(name, "succeed", base=ref, method="full")
    circle = world.until_condition("a", "DependenciesReady", "DependencyCycle", "FineTuneJob")
    assert "a -> b -> c -> a wait for each other" in circle["message"]
    # Who only waits for one of them is told why that one waits.
    until_told(world, "hanger-on", "a -> b -> c -> a")
    world.delete(world.ours("FineTuneJob", "c"))
    world.pretrain("base", "succeed")
    world.finetune("c", "succeed", base=BASE, method="full")
    for name in ("a", "b", "hanger-on"):
        world.until_phase(name, "Succeeded", "FineTuneJob", seconds=60)


def test_a_job_waits_for_the_model_that_it_trains_on(world: World) -> None:
    def ref(kind: str, name: str) -> Any:
        return {"jobRef": {"kind": kind, "name": name}}

    # Jobs of one name and of both kinds, that no two circles be mixed up.
    world.pretrain("more", "succeed", model={"from": ref("FineTuneJob", "more")})
    world.finetune("more", "succeed", base=ref("PretrainJob", "third"), method="full")
    world.pretrain("third", "succeed", model={"from": ref("PretrainJob", "more")})
    circle = world.until_condition("more", "DependenciesReady", "DependencyCycle", "PretrainJob")
    assert (
        "PretrainJob more -> FineTuneJob more -> PretrainJob third -> PretrainJob more wait for each other"
        in circle["message"]
    )
    assert world.status("more")["phase"] == "WaitingForDependency"
    world.delete(world.ours("FineTuneJob", "more"))
    world.until_condition("more", "DependenciesReady", "JobNotFound", "PretrainJob")
    world.pretrain("base", "succeed")
    world.finetune("more", "succeed", base=BASE, method="full")
    world.until_phase("third", "Succeeded", seconds=60)

    artifact = world.status("more", "FineTuneJob")["artifact"]
    run = world.node.run_spec(world.pod("more", phase="Succeeded"))
    assert (run.model.uri, run.model.digest, run.model.config) == (artifact["uri"], artifact["digest"], None)
    assert run.tokenizer is None
    told = world.condition("more", "DependenciesReady")["message"]
    assert told == "FineTuneJob more is Complete"

    # An adapter is no model, unless it is merged into one; and then it is no adapter any more.
    world.finetune("adapter", "succeed", base=BASE)
    world.finetune("merged", "succeed", base=BASE, output={"storageUri": "pvc://models", "merge": True})
    world.until_phase("adapter", "Succeeded", "FineTuneJob", seconds=60)
    world.pretrain("wrong", model={"from": ref("FineTuneJob", "adapter")})
    wrong = world.until_condition("wrong", "DependenciesReady", "NotFullWeights", "PretrainJob")
    assert (
        "name a job of full weights: a PretrainJob, or one with method: full or output.merge"
        in wrong["message"]
    )
    world.pretrain("right", "succeed", model={"from": ref("FineTuneJob", "merged")})
    world.until_phase("right", "Succeeded", seconds=60)
    assert world.status("merged", "FineTuneJob")["artifact"]["format"] == "full"
    world.finetune("reversed", base=BASE, adapter=ref("FineTuneJob", "merged"))
    wrong = world.until_condition("reversed", "DependenciesReady", "NotAnAdapter", "FineTuneJob")
    assert "without output.merge" in wrong["message"]


def test_a_cause_is_passed_down_the_chain(world: World) -> None:
    world.pretrain("base", "exit 11")
    world.finetune("first", "succeed", base=BASE, method="full")
    world.finetune("second", "succeed", base={"jobRef": {"kind": "FineTuneJob", "name": "first"}})
    world.until_condition("first", "DependenciesReady", "JobFailed", "FineTuneJob")
    until_told(world, "second", "It ended with 11")


def until_told(world: World, name: str, cause: str) -> None:
    """Wait until a FineTuneJob says why it waits."""

    def poll() -> bool:
        return cause in world.condition(name, "DependenciesReady", "FineTuneJob").get("message", "")

    eventually(f"{name} tells: {cause}", poll)


def test_a_base_that_cannot_be_used_is_said_and_its_successor_is_taken(world: World) -> None:
    world.pretrain("base", "exit 11")
    world.finetune("tuned", "succeed", base=BASE)
    failed = world.until_condition("tuned", "DependenciesReady", "JobFailed", "FineTuneJob")
    assert "DataError" in failed["message"] or "It ended with 11" in failed["message"]
    world.delete(world.ours("PretrainJob", "base"))
    world.until_condition("tuned", "DependenciesReady", "JobNotFound", "FineTuneJob")
    world.pretrain("base", "succeed")
    world.until_phase("tuned", "Succeeded", "FineTuneJob")

    world.finetune("adapted", base={"jobRef": {"kind": "FineTuneJob", "name": "tuned"}})
    refused = world.until_condition("adapted", "DependenciesReady", "NotFullWeights", "FineTuneJob")
    assert "makes a LoRA adapter" in refused["message"]


def test_a_job_waits_for_the_adapter_that_it_starts_from(world: World) -> None:
    world.finetune("third", "succeed", base=BASE, adapter=ref("second"))
    world.finetune("second", "succeed", base=BASE, adapter=ref("third"))
    world.pretrain("base", "succeed")
    circle = world.until_condition("third", "DependenciesReady", "DependencyCycle", "FineTuneJob")
    assert "third -> second -> third wait for each other" in circle["message"]
    world.delete(world.ours("FineTuneJob", "second"))
    world.until_condition("third", "DependenciesReady", "JobNotFound", "FineTuneJob")
    world.finetune("second", "succeed", base=BASE)
    world.until_phase("third", "Succeeded", "FineTuneJob", seconds=60)
    told = world.condition("third", "DependenciesReady", "FineTuneJob")["message"]
    assert told == "PretrainJob base and FineTuneJob second are Complete"
    artifact = world.status("second", "FineTuneJob")["artifact"]
    run = world.node.run_spec(world.pod("third", "FineTuneJob", phase="Succeeded"))
    assert run.adapter is not None
    assert (run.adapter.uri, run.adapter.digest, run.lora) == (artifact["uri"], artifact["digest"], None)

    world.finetune("whole", "succeed", base=BASE, method="full")
    world.until_phase("whole", "Succeeded", "FineTuneJob", seconds=60)
    world.finetune("wrong", base=BASE, adapter=ref("whole"))
    refused = world.until_condition("wrong", "DependenciesReady", "NotAnAdapter", "FineTuneJob")
    assert "FineTuneJob whole makes full weights" in refused["message"]
    world.finetune("prompt", "succeed", base=BASE, method="prompt-tuning")
    world.until_phase("prompt", "Succeeded", "FineTuneJob", seconds=60)
    world.finetune("unfit", base=BASE, adapter=ref("prompt"))
    refused = world.until_condition("unfit", "DependenciesReady", "NotAnAdapter", "FineTuneJob")
    assert "FineTuneJob prompt makes virtual tokens" in refused["message"]
    world.finetune("fit", "succeed", base=BASE, method="prompt-tuning", adapter=ref("prompt"))
    world.until_phase("fit", "Succeeded", "FineTuneJob", seconds=60)
    run = world.node.run_spec(world.pod("fit", "FineTuneJob", phase="Succeeded"))
    assert (run.method, run.prompt_tuning) == ("prompt-tuning", None)
    world.finetune("merging", "succeed", base=BASE, method="full", adapter=ref("second"))
    world.until_phase("merging", "Succeeded", "FineTuneJob", seconds=60)
    world.finetune("low-rank", base=BASE, method="prompt-tuning", adapter=ref("second"))
    refused = world.until_condition("low-rank", "DependenciesReady", "NotAnAdapter", "FineTuneJob")
    assert refused["message"].endswith("name a job with method: prompt-tuning")
    world.finetune("strange", base=ref("whole"), adapter=ref("second"))
    refused = world.until_condition("strange", "DependenciesReady", "BaseModelMismatch", "FineTuneJob")
    assert "FineTuneJob second was trained on the base with digest sha256:" in refused["message"]


def test_the_stages_of_reinforcement_learning_run_in_their_order(world: World) -> None:
    ppo(world, "ppo", judge="judge", base=BASE, adapter=ref("sft"))
    world.finetune("judge", "succeed", base=BASE, stage="reward", data=data("preference"))
    waits = world.until_condition("ppo", "DependenciesReady", "JobNotFound", "FineTuneJob")
    assert "PretrainJob base does not exist" in waits["message"]
    world.finetune("sft", "succeed", base=BASE)
    world.pretrain("base", "succeed")
    world.until_phase("ppo", "Succeeded", "FineTuneJob", seconds=60)
    told = world.condition("ppo", "DependenciesReady", "FineTuneJob")["message"]
    assert told == "PretrainJob base, FineTuneJob sft and FineTuneJob judge are Complete"
    run = world.node.run_spec(world.pod("ppo", "FineTuneJob", phase="Succeeded"))
    artifact = world.status("judge", "FineTuneJob")["artifact"]
    assert run.reward is not None
    assert run.reward.model is not None
    assert (run.reward.model.uri, run.reward.model.digest) == (artifact["uri"], artifact["digest"])
    assert (run.rollout, run.ppo, run.grpo, run.data.packing) == (RolloutSettings(), Ppo(), None, False)


def test_a_reward_model_that_cannot_be_used_is_said(world: World) -> None:
    world.pretrain("base", "succeed")
    world.finetune("sft", "run", base=BASE)
    # Its stage tells already: nobody waits for it in vain.
    ppo(world, "unjudged", judge="sft", base=BASE)
    refused = world.until_condition("unjudged", "DependenciesReady", "NotARewardModel", "FineTuneJob")
    assert (
        refused["message"] == "FineTuneJob sft makes a language model: name a job that makes a reward model"
    )
    world.finetune("judge", "succeed", base=BASE, stage="reward", data=data("preference"))
    world.finetune("headed", base=BASE, adapter=ref("judge"))
    refused = world.until_condition("headed", "DependenciesReady", "NotAnAdapter", "FineTuneJob")
    assert (
        "FineTuneJob judge makes a reward model: name a job that makes a language model" in refused["message"]
    )

    world.finetune("whole", "succeed", base=BASE, method="full")
    ppo(world, "strange", judge="judge", base=ref("whole"))
    refused = world.until_condition(
        "strange", "DependenciesReady", "BaseModelMismatch", "FineTuneJob", seconds=60
    )
    assert "FineTuneJob judge was trained on the base with digest sha256:" in refused["message"]
    assert refused["message"].endswith("or train it again on this one")
    # One with all its weights needs no base.
    world.finetune(
        "whole-judge", "succeed", base=ref("whole"), method="full", stage="reward", data=data("preference")
    )
    world.finetune("talks", base=ref("whole-judge"))
    refused = world.until_condition("talks", "DependenciesReady", "NotALanguageModel", "FineTuneJob")
    assert "FineTuneJob whole-judge makes a reward model" in refused["message"]
    ppo(world, "judged", judge="whole-judge", base=BASE)
    world.until_phase("judged", "Succeeded", "FineTuneJob", seconds=60)

    ppo(world, "hen", judge="egg", base=BASE)
    world.finetune("egg", base=ref("hen"), stage="reward", data=data("preference"))
    circle = world.until_condition("hen", "DependenciesReady", "DependencyCycle", "FineTuneJob")
    assert "hen -> egg -> hen wait for each other" in circle["message"]


def ref(name: str) -> dict[str, Any]:
    return {"jobRef": {"kind": "FineTuneJob", "name": name}}


def data(form: str) -> dict[str, Any]:
    return {"sources": [{"name": "a", "uri": "pvc://models/a.jsonl", "format": form}]}


def ppo(world: World, name: str, *, judge: str, **spec: Any) -> None:
    world.finetune(name, "succeed", stage="ppo", reward={"model": ref(judge)}, data=data("prompts"), **spec)


@pytest.fixture(scope="module")
def ended(operator_world: World) -> Iterator[World]:
    """A job for each exit code: its first attempt ends with the code, the next one, if any, succeeds."""
    world = operator_world.new_namespace()
    for code in CODES:
        world.pretrain(f"code-{code}", f"exit {code}", "succeed")
    yield world
    world.delete(f"/api/v1/namespaces/{world.namespace}")


@pytest.mark.parametrize("code", CODES)
def test_an_exit_code_means_what_the_contract_says(ended: World, code: int) -> None:
    expected = outcome(code)
    name = f"code-{code}"
    if not expected.retry:
        status = ended.until_phase(name, "Failed")
        assert status["failure"]["reason"] == expected.reason.value
        assert status["failure"]["exitCode"] == code
        assert status["failure"]["message"] == f"It ended with {code}."
        assert status["failure"]["pod"]
        assert status["lastCheckpoint"]["step"] == 7
        failed = ended.condition(name, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", expected.reason.value)
        assert ("Warning", expected.reason.value) in ended.events(name)
        assert len(ended.children(name)) == status["attempts"] == 1
        return
    status = ended.until_phase(name, "Succeeded", seconds=45)
    assert status["attempts"] == len(ended.children(name)) == 2
    assert status["restarts"] == int(expected.counted)
    assert "failure" not in status
    assert ("Warning", "Retrying") in ended.events(name)


def test_backoff_limit_ends_a_job_that_goes_on_failing(world: World) -> None:
    world.pretrain("never", "exit 1", backoffLimit=0)
    world.pretrain("once", "exit 1", backoffLimit=1)
    never, once = world.until_phase("never", "Failed"), world.until_phase("once", "Failed")
    assert (never["attempts"], once["attempts"]) == (1, 2)
    for status in (never, once):
        assert status["failure"]["reason"] == Reason.BACKOFF_LIMIT_EXCEEDED.value
        assert "InternalError" in status["failure"]["message"]
        assert status["failure"]["exitCode"] == 1
    assert len(world.children("once")) == 2


def test_a_pod_that_is_taken_away_does_not_count_and_memory_is_not_retried(world: World) -> None:
    world.pretrain("evicted", "evicted", "succeed", backoffLimit=0)
    world.pretrain("greedy", "oom", "succeed")
    world.pretrain("mumbling", "exit 0 {not JSON", "succeed")
    evicted = world.until_phase("evicted", "Succeeded")
    assert (evicted["attempts"], evicted["restarts"]) == (2, 0)
    greedy = world.until_phase("greedy", "Failed")
    assert (greedy["failure"]["reason"], greedy["attempts"]) == ("OutOfMemory", 1)
    assert "limits.memory" in greedy["failure"]["message"]
    mumbling = world.until_phase("mumbling", "Succeeded")
    assert (mumbling["attempts"], mumbling["restarts"]) == (2, 1)


def test_a_deleted_attempt_is_followed_by_the_next_once_its_pod_has_ended(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")
    world.node.stubborn.add(pod["metadata"]["name"])
    [child] = world.children("tiny")
    world.delete(world.path("jobs", child["metadata"]["name"], root="/apis/batch/v1"))
    # It still writes its last checkpoint: two trainers must never write to one folder.
    said = world.until_condition("tiny", "ResourcesReady", "PodTerminating")
    assert pod["metadata"]["name"] in said["message"]
    assert world.children("tiny") == []

    world.node.stubborn.clear()
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    status = world.until_phase("tiny", "Succeeded")
    assert status["attempts"] == 2
    [second] = world.children("tiny")
    assert second["metadata"]["name"] != child["metadata"]["name"]


def test_a_later_attempt_runs_what_the_first_one_ran(world: World) -> None:
    world.pretrain("base", "succeed")
    world.finetune("tuned", "run", base=BASE)
    first = world.node.run_files(world.pod("tuned", "FineTuneJob"))
    # Another base under the same name: its checkpoints would not fit.
    world.delete(world.ours("PretrainJob", "base"))
    world.node.plays[world.namespace, "tuned"] = ["exit 1", "run"]
    second = world.node.run_files(world.pod("tuned", "FineTuneJob", attempt=2))
    assert first == second
    assert world.condition("tuned", "DependenciesReady", "FineTuneJob")["status"] == "True"


def test_a_finished_job_is_never_run_again(world: World) -> None:
    world.pretrain("done", "succeed")
    world.pretrain("broken", "exit 12")
    before = {"done": world.until_phase("done", "Succeeded"), "broken": world.until_phase("broken", "Failed")}
    for name in before:
        [child] = world.children(name)
        world.delete(world.path("jobs", child["metadata"]["name"], root="/apis/batch/v1"))
        world.patch(world.ours("PretrainJob", name), {"spec": {"backoffLimit": 9}})
    for name, status in before.items():
        eventually(
            f"{name} was looked at again", lambda n=name: world.status(n).get("observedGeneration") == 2
        )
        after = world.status(name)
        for found in (after, status):
            found.pop("observedGeneration")
            for condition in found["conditions"]:
                condition.pop("observedGeneration")
        assert after == status
    assert world.children("done") == world.children("broken") == []


def test_a_job_applied_again_under_its_name_is_another_one(world: World) -> None:
    first = world.pretrain("tiny", "succeed")
    old = world.until_phase("tiny", "Succeeded")
    # Its children stay, with our labels, but without an owner.
    world.delete(world.ours("PretrainJob", "tiny"), policy="Orphan")
    eventually("the first is gone", lambda: world.api.get(world.ours("PretrainJob", "tiny")) is None)
    world.pretrain("tiny", "succeed")
    new = world.until_phase("tiny", "Succeeded")
    assert new["attempts"] == 1
    assert new["artifact"]["uri"] != old["artifact"]["uri"]
    assert first["metadata"]["uid"][:8] in old["artifact"]["uri"]
    assert len(world.children("tiny")) == 2


def test_pods_that_cannot_start_say_why(world: World) -> None:
    image = {"podTemplate": {"image": "example.org/nothing:1"}}
    nowhere = {"podTemplate": {"nodeSelector": {"example.org/gpu": "yes"}}}
    world.pretrain("imageless", "pull-error", compute=image)
    world.pretrain("homeless", compute=nowhere)
    shown = world.until_condition("imageless", "ResourcesReady", "ImagePullBackOff")
    assert "example.org/nothing:1" in shown["message"]
    shown = world.until_condition("homeless", "ResourcesReady", "Unschedulable")
    assert "node" in shown["message"]
    for name in ("imageless", "homeless"):
        assert world.status(name)["phase"] == "Pending"
    world.node.plays[world.namespace, "imageless"] = ["succeed"]
    world.until_phase("imageless", "Succeeded")
    assert world.condition("imageless", "ResourcesReady")["status"] == "True"


def test_jobs_deleted_at_once_leave_nothing(world: World) -> None:
    names = [f"gone-{number}" for number in range(10)]
    for name in names:
        world.pretrain(name, "run")
        world.delete(world.ours("PretrainJob", name))
    jobs, maps = world.path("jobs", root="/apis/batch/v1"), world.path("configmaps")
    eventually("all Jobs are collected", lambda: world.list(jobs) == [])
    eventually("all run specs are collected", lambda: [*world.list(maps, "kubetune.io/kind")] == [])
    assert "reconcile failed" not in world.operator.log.read_text()


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}
