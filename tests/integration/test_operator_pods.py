"""Pods that are refused, outlived, lost or held back by others, on a real control plane."""

import time
from collections.abc import Iterator

import pytest

from tests.fixtures import sidecar
from tests.fixtures.operator import Object, eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

JOBS = "/apis/batch/v1"


def job_path(world: World, job: Object) -> str:
    return world.path("jobs", job["metadata"]["name"], root=JOBS)


def trainings(world: World, name: str) -> list[Object]:
    return world.list(world.path("pods"), f"kubetune.io/name={name}")


@pytest.fixture(scope="module")
def long_ago(operator_world: World) -> Iterator[World]:
    """A job that fails five times while other tests run: the pauses between take more than a minute."""
    world = operator_world.new_namespace()
    world.pretrain("tiny", "exit 1", backoffLimit=4)
    yield world
    world.delete(f"/api/v1/namespaces/{world.namespace}")


@pytest.fixture(autouse=True)
def begun(long_ago: World) -> None:
    """It has begun before the first test."""


# A kubelet that refuses a pod.


def test_a_pod_that_every_node_refuses_gives_no_attempts_without_end(world: World) -> None:
    world.pretrain("refused", "refused", backoffLimit=1)
    status = world.until_phase("refused", "Failed")
    assert (status["attempts"], status["restarts"]) == (2, 1)
    assert status["failure"]["reason"] == "BackoffLimitExceeded"
    assert "PodRejected: The node refused the pod: UnexpectedAdmissionError" in status["failure"]["message"]
    assert status.get("activeSeconds", 0) == 0


def test_a_pod_that_one_node_refuses_gets_another_one(world: World) -> None:
    world.pretrain("unlucky", "refused", "succeed")
    status = world.until_phase("unlucky", "Succeeded")
    assert (status["attempts"], status["restarts"]) == (2, 1)


# What a pod needs on its node.


def test_what_keeps_a_pod_from_being_made_on_its_node_is_told(world: World) -> None:
    busy = 'Multi-Attach error for volume "v": Volume is already used by pod(s) other'
    world.pretrain("tiny", f"held-up FailedAttachVolume {busy}")
    said = world.until_condition("tiny", "ResourcesReady", "FailedAttachVolume")
    assert f"The pod does not start: {busy}" in said["message"]
    assert ("Warning", "FailedAttachVolume") in world.events("tiny")
    since = len(world.writes())
    time.sleep(6)
    assert world.writes(since) == [], "nothing new is nothing to write"
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    assert world.until_phase("tiny", "Succeeded")["attempts"] == 1


def test_what_keeps_the_removal_of_files_from_starting_is_told(world: World) -> None:
    world.node.reclaims[world.namespace, "tiny"] = "held-up FailedMount no such share"
    world.pretrain("tiny", "succeed", output={"storageUri": "pvc://models", "reclaimPolicy": "Delete"})
    world.until_phase("tiny", "Succeeded")
    path = world.ours("PretrainJob", "tiny")
    world.delete(path)
    said = world.until_condition("tiny", "Reclaimed", "FailedMount", seconds=60)
    assert "does not start: no such share" in said["message"]
    world.node.reclaims[world.namespace, "tiny"] = "exit 0 removed"
    eventually("it is gone", lambda: world.api.get(path) is None, seconds=60)


# A container that others put beside the trainer.


def inject(world: World) -> None:
    """Every pod of the namespace gets a container that never ends."""
    for plural, body in sidecar.policy(world.namespace, "x"):
        world.create(f"{sidecar.ROOT}/{plural}", body)

    def injects() -> bool:
        body = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"},
            "spec": {"containers": [{"name": "a", "image": "x"}]},
        }  # fmt: skip
        _, answer = world.api.call("POST", world.path("pods") + "?dryRun=All", body)
        # Pod Security refuses it, and names all its containers.
        return f'"{sidecar.NAME}"' in answer["message"]

    eventually("the policy works", injects)


def test_what_runs_on_beside_a_trainer_that_has_ended_is_ended(world: World) -> None:
    inject(world)
    world.pretrain("done", "succeed")
    world.pretrain("broken", "exit 11")
    world.pretrain("retried", "exit 1", "succeed")
    done = world.until_phase("done", "Succeeded")
    assert done["artifact"]
    broken = world.until_phase("broken", "Failed", seconds=60)
    assert (broken["failure"]["reason"], broken["failure"]["message"]) == ("DataError", "It ended with 11.")
    retried = world.until_phase("retried", "Succeeded", seconds=90)
    assert (retried["attempts"], retried["restarts"]) == (2, 1)
    for name, attempts in (("done", 1), ("broken", 1), ("retried", 2)):
        pods = eventually(f"all pods of {name} have ended", lambda name=name: over(world, name))
        # They stay, with their logs.
        assert len(pods) == attempts
        for pod in pods:
            assert len(pod["spec"]["containers"]) == 2
            assert "kubetune.io/trainer-ended" in pod["metadata"]["annotations"]
    # What became of the pod later is nobody's business.
    assert world.status("done")["phase"] == "Succeeded"
    assert world.status("broken")["failure"] == broken["failure"]


def over(world: World, name: str) -> list[Object] | None:
    pods = trainings(world, name)
    return pods if all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in pods) else None


# A node that does not answer.


def test_a_pod_that_does_not_end_is_told_and_given_up_when_it_is_deleted_by_force(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")
    name = pod["metadata"]["name"]
    world.until_phase("tiny", "Running")
    world.node.stubborn.add(name)
    options = {"gracePeriodSeconds": 2}
    assert world.api.call("DELETE", world.path("pods", name), options)[0] == 200
    said = world.until_condition("tiny", "ResourcesReady", "PodTerminating")
    assert f"Pod {name} on node {world.node.name} has not ended" in said["message"]
    assert "kubectl delete pod --force" in said["message"]
    # It may save a checkpoint for so long, and then it should have ended.
    assert world.until_phase("tiny", "Pending", seconds=45)["attempts"] == 1
    since = len(world.writes())
    time.sleep(5)
    assert world.writes(since) == [], "nothing new is nothing to write"

    world.node.plays[world.namespace, "tiny"] = ["run", "succeed"]
    assert world.api.call("DELETE", world.path("pods", name), {"gracePeriodSeconds": 0})[0] == 200
    status = world.until_phase("tiny", "Succeeded", seconds=60)
    assert (status["attempts"], status["restarts"]) == (2, 0)


def test_the_deadline_is_kept_although_a_pod_does_not_end(world: World) -> None:
    world.pretrain("lost", "run", activeDeadlineSeconds=12)
    pod = world.pod("lost")["metadata"]["name"]
    world.node.stubborn.add(pod)
    assert world.api.call("DELETE", world.path("pods", pod), {"gracePeriodSeconds": 1})[0] == 200
    status = world.until_phase("lost", "Failed", seconds=90)
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert (
        f"Pod {pod} on node {world.node.name} should have ended and has not" in status["failure"]["message"]
    )
    world.node.stubborn.clear()


# A queue that suspends the child Job.


def test_who_holds_a_child_back_is_told_and_no_pod_starts_beside_one_that_saves(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")["metadata"]["name"]
    [child] = world.children("tiny")
    assert child["spec"]["podReplacementPolicy"] == "Failed"
    world.node.stubborn.add(pod)
    time.sleep(4)
    queue = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}}
    world.patch(job_path(world, child), queue | {"spec": {"suspend": True}})
    said = world.until_condition("tiny", "ResourcesReady", "Queued")
    assert "queue gpus of Kueue holds Job" in said["message"]
    assert child["metadata"]["uid"] in said["message"]
    # It is resumed while the pod still saves its checkpoint.
    world.patch(job_path(world, child), {"spec": {"suspend": False}})
    time.sleep(5)
    assert [p["metadata"]["name"] for p in trainings(world, "tiny")] == [pod]
    world.node.stubborn.clear()
    second = eventually(
        "another pod runs",
        lambda: next((p for p in trainings(world, "tiny") if p["metadata"]["name"] != pod), None),
    )
    assert second["metadata"]["labels"]["kubetune.io/attempt"] == "1"
    world.until_condition("tiny", "ResourcesReady", "Found")
    before = world.status("tiny")
    # What the first pod ran is not forgotten.
    assert before["activeSeconds"] >= 3
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    status = world.until_phase("tiny", "Succeeded")
    assert status["activeSeconds"] >= before["activeSeconds"]
    assert (status["attempts"], status["restarts"]) == (1, 0)
    assert ("Normal", "Queued") in world.events("tiny")


def test_a_child_that_somebody_suspends_is_told_with_their_name(world: World) -> None:
    world.pretrain("tiny", "run")
    world.pod("tiny")
    [child] = world.children("tiny")
    world.patch(f"{job_path(world, child)}?fieldManager=bob", {"spec": {"suspend": True}})
    said = world.until_condition("tiny", "ResourcesReady", "JobSuspended")
    assert "has been suspended by bob" in said["message"]
    world.patch(job_path(world, child), {"spec": {"suspend": False}})
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    world.until_phase("tiny", "Succeeded")


def test_a_child_whose_parallelism_somebody_takes_away_is_told(world: World) -> None:
    world.pretrain("tiny", "run")
    world.pod("tiny")
    [child] = world.children("tiny")
    world.patch(f"{job_path(world, child)}?fieldManager=bob", {"spec": {"parallelism": 0}})
    said = world.until_condition("tiny", "ResourcesReady", "JobSuspended")
    assert "spec.parallelism of 0 by bob" in said["message"]
    world.patch(job_path(world, child), {"spec": {"parallelism": 1}})
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    world.until_phase("tiny", "Succeeded")


# A policy that gives every Job a deadline.


def test_a_deadline_that_others_give_a_child_counts(world: World) -> None:
    world.pretrain("limited", "run", backoffLimit=0)
    world.pod("limited")
    [child] = world.children("limited")
    world.patch(job_path(world, child), {"spec": {"activeDeadlineSeconds": 1}})
    failure = world.until_phase("limited", "Failed", seconds=60)["failure"]
    assert failure["reason"] == "BackoffLimitExceeded"
    assert "Killed: The Job of the attempt has ended its pod: DeadlineExceeded" in failure["message"]


# Attempts of long ago.


def test_the_newest_ended_attempts_keep_their_jobs(long_ago: World) -> None:
    status = long_ago.until_phase("tiny", "Failed", seconds=200)
    assert (status["attempts"], status["restarts"]) == (5, 4)
    left = [int(child["metadata"]["labels"]["kubetune.io/attempt"]) for child in long_ago.children("tiny")]
    assert left == [2, 3, 4, 5]
    assert status["failure"]["reason"] == "BackoffLimitExceeded"
    assert [reason for _, reason in long_ago.events("tiny")].count("Retrying") == 4
