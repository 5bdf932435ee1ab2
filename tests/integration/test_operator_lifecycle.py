"""Suspending, resuming, deadlines, expiry and deletion, on a real control plane with the real operator."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kubetune.api.labels import FINALIZER
from tests.fixtures.operator import Object, eventually
from tests.fixtures.trainer import Trainer
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

BASE = {"jobRef": {"kind": "PretrainJob", "name": "base"}}
JOBS = "/apis/batch/v1"


def edit(world: World, name: str, kind: str = "PretrainJob", **spec: Any) -> None:
    world.patch(world.ours(kind, name), {"spec": spec})


def gone(world: World, name: str, kind: str = "PretrainJob", *, seconds: float = 30.0) -> None:
    eventually(f"{name} is gone", lambda: world.api.get(world.ours(kind, name)) is None, seconds=seconds)


def suspended(world: World, name: str, kind: str = "PretrainJob") -> Object:
    edit(world, name, kind, suspend=True)
    path = world.ours(kind, name)

    def poll() -> Object | None:
        found = world.get(path)
        seen = found["status"]["observedGeneration"] == found["metadata"]["generation"]
        return found["status"] if seen and found["status"]["phase"] == "Suspended" else None

    return eventually(f"{name} is suspended", poll)


# Suspending


def test_suspended_it_frees_its_pods_and_resumed_it_goes_on(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")
    first = world.node.run_files(pod)
    checkpoint = {"step": 7, "time": "2026-01-01T00:00:00Z", "uri": "pvc://models/x", "digest": "sha256:0"}
    Trainer(world, "tiny").post({"trainerStatus": {"progressPercentage": 7}, "lastCheckpoint": checkpoint})
    eventually("the checkpoint is known", lambda: world.status("tiny").get("lastCheckpoint"))

    world.node.stubborn.add(pod["metadata"]["name"])
    edit(world, "tiny", suspend=True)
    stopping = world.until_condition("tiny", "Suspended", "Stopping")
    assert pod["metadata"]["name"] in stopping["message"]
    eventually("its Job is deleted", lambda: world.children("tiny") == [])
    # Not before the checkpoint is written and the GPU is free.
    assert world.status("tiny")["phase"] == "Running"
    world.node.stubborn.clear()
    status = world.until_phase("tiny", "Suspended")
    assert (status["attempts"], status["restarts"]) == (1, 0)
    assert world.condition("tiny", "Suspended")["message"] == "Set suspend: false to go on from step 7"
    assert world.list(world.path("pods"), "kubetune.io/name=tiny") == []

    edit(world, "tiny", suspend=False)
    second = world.pod("tiny", attempt=2)
    assert world.node.run_files(second) == first
    world.node.plays[world.namespace, "tiny"] = ["run", "succeed"]
    status = world.until_phase("tiny", "Succeeded")
    assert (status["attempts"], status["restarts"]) == (2, 0)
    reasons = [reason for _, reason in world.events("tiny")]
    assert reasons == [
        "AttemptCreated", "Started", "Suspended", "Resumed", "AttemptCreated", "Started", "Completed",
    ]  # fmt: skip


def test_suspended_from_the_start_it_does_nothing(world: World) -> None:
    world.pretrain("tiny", "succeed", suspend=True)
    status = world.until_phase("tiny", "Suspended")
    assert "startTime" not in status
    assert world.children("tiny") == []
    edit(world, "tiny", suspend=False)
    assert world.until_phase("tiny", "Succeeded")["attempts"] == 1


def test_while_suspended_what_it_runs_on_may_change_and_its_base_may_go(world: World) -> None:
    world.pretrain("base", "succeed")
    world.until_phase("base", "Succeeded")
    world.finetune("tuned", "run", base=BASE)
    first = world.node.run_files(world.pod("tuned", "FineTuneJob"))
    suspended(world, "tuned", "FineTuneJob")
    world.delete(world.ours("PretrainJob", "base"))
    gone(world, "base")
    memory = {"resourcesPerNode": {"limits": {"memory": "3Gi"}}}
    edit(world, "tuned", "FineTuneJob", suspend=False, compute=memory)
    second = world.pod("tuned", "FineTuneJob", attempt=2)
    assert second["spec"]["containers"][0]["resources"]["limits"] == {"memory": "3Gi"}
    assert world.node.run_files(second) == first


def test_suspended_again_and_again_it_never_waits_and_counts_nothing(world: World) -> None:
    world.pretrain("tiny", "run", backoffLimit=0)
    for attempt in range(1, 6):
        world.pod("tiny", attempt=attempt)
        suspended(world, "tiny")
        edit(world, "tiny", suspend=False)
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    status = world.until_phase("tiny", "Succeeded")
    assert (status["attempts"], status["restarts"]) == (6, 0)


def test_resumed_before_its_pod_has_ended_it_waits_for_that(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")
    world.node.stubborn.add(pod["metadata"]["name"])
    edit(world, "tiny", suspend=True)
    eventually("its Job is deleted", lambda: world.children("tiny") == [])
    edit(world, "tiny", suspend=False)
    world.until_condition("tiny", "ResourcesReady", "PodTerminating")
    assert world.children("tiny") == []
    world.node.stubborn.clear()
    world.pod("tiny", attempt=2)


# Deadlines


def test_what_runs_too_long_is_ended_by_the_kubelet_and_fails(world: World) -> None:
    world.pretrain("slow", "run", activeDeadlineSeconds=2)
    assert world.pod("slow")["spec"]["activeDeadlineSeconds"] == 2
    status = world.until_phase("slow", "Failed")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds, 2 s, at step 7" in status["failure"]["message"]
    assert status["activeSeconds"] >= 2
    assert ("Warning", "DeadlineExceeded") in world.events("slow")


def test_time_without_a_node_or_suspended_does_not_count(world: World) -> None:
    nowhere = {"podTemplate": {"nodeSelector": {"example.org/gpu": "yes"}}}
    world.pretrain("homeless", activeDeadlineSeconds=1, compute=nowhere)
    world.until_condition("homeless", "ResourcesReady", "Unschedulable")
    world.pretrain("tiny", "run", activeDeadlineSeconds=60)
    world.pod("tiny")
    eventually("a second is over", lambda: world.status("tiny").get("phase") == "Running")
    eventually("some time is used", lambda: _ran(world, "tiny") >= 2)
    used = suspended(world, "tiny")["activeSeconds"]
    assert 2 <= used <= 10
    edit(world, "tiny", suspend=False)
    assert world.pod("tiny", attempt=2)["spec"]["activeDeadlineSeconds"] == 60 - used
    assert world.status("homeless")["phase"] == "Pending"


def _ran(world: World, name: str) -> float:
    begun = world.pod(name)["status"]["startTime"]
    return (datetime.now(UTC) - datetime.fromisoformat(begun)).total_seconds()


def test_a_deadline_that_is_lowered_or_raised_holds_for_what_runs(world: World) -> None:
    world.pretrain("lowered", "run", activeDeadlineSeconds=3600)
    world.pretrain("added", "run")
    world.pretrain("raised", "run", activeDeadlineSeconds=3)
    for name in ("lowered", "added", "raised"):
        world.pod(name)
    edit(world, "lowered", activeDeadlineSeconds=1)
    edit(world, "added", activeDeadlineSeconds=1)
    edit(world, "raised", activeDeadlineSeconds=3600)
    for name in ("lowered", "added"):
        status = world.until_phase(name, "Failed")
        assert (status["failure"]["reason"], status["attempts"]) == ("DeadlineExceeded", 1)
        assert world.list(world.path("pods"), f"kubetune.io/name={name}") == []
    # The pod of the first attempt knows only the old one.
    second = world.pod("raised", attempt=2)
    assert 3590 <= second["spec"]["activeDeadlineSeconds"] <= 3597
    assert world.status("raised")["restarts"] == 0


# Expiry


def test_a_job_that_is_over_goes_when_its_time_has_come(world: World) -> None:
    world.pretrain("brief", "succeed", ttlSecondsAfterFinished=0)
    world.pretrain("broken", "exit 11", ttlSecondsAfterFinished=1)
    world.pretrain("kept", "succeed", ttlSecondsAfterFinished=3600)
    world.pretrain("forever", "succeed")
    for name in ("brief", "broken"):
        gone(world, name)
    for name in ("kept", "forever"):
        world.until_phase(name, "Succeeded")
    edit(world, "kept", ttlSecondsAfterFinished=1)
    edit(world, "forever", ttlSecondsAfterFinished=1)
    for name in ("kept", "forever"):
        gone(world, name)


# Deletion


def reclaimed(world: World, name: str, kind: str = "PretrainJob", **more: Any) -> Object:
    """A job that has succeeded and whose files are to go with it."""
    out = {"storageUri": "pvc://models", "reclaimPolicy": "Delete"}
    if kind == "PretrainJob":
        made = world.pretrain(name, "succeed", output=out, **more)
    else:
        made = world.finetune(name, "succeed", output=out, base=BASE, **more)
    world.until_phase(name, "Succeeded", kind)
    return made


def test_files_go_with_the_job_where_that_was_asked_for(world: World) -> None:
    made = reclaimed(world, "tiny")
    found = world.get(world.ours("PretrainJob", "tiny"))
    assert found["metadata"]["finalizers"] == [FINALIZER]
    world.node.reclaims[world.namespace, "tiny"] = "run"
    world.delete(world.ours("PretrainJob", "tiny"))
    removing = world.until_condition("tiny", "Reclaimed", "Removing")
    folder = f"tiny-{made['metadata']['uid'][:8]}"
    assert folder in removing["message"]
    assert world.status("tiny")["phase"] == "Terminating"
    [job] = world.list(world.path("jobs", root=JOBS), "kubetune.io/reclaim")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["reclaim", "--root", "/mnt/pvc/models", f"/mnt/pvc/models/{folder}"]
    assert pod["automountServiceAccountToken"] is False
    world.node.reclaims[world.namespace, "tiny"] = "exit 0 removed"
    gone(world, "tiny")
    eventually("nothing is left", lambda: world.list(world.path("jobs", root=JOBS)) == [])


def test_deleted_while_it_runs_its_pods_end_before_its_files_go(world: World) -> None:
    world.pretrain("tiny", "run", output={"storageUri": "pvc://models", "reclaimPolicy": "Delete"})
    pod = world.pod("tiny")
    world.node.stubborn.add(pod["metadata"]["name"])
    world.delete(world.ours("PretrainJob", "tiny"))
    world.until_condition("tiny", "Reclaimed", "PodsEnding")
    assert world.list(world.path("jobs", root=JOBS), "kubetune.io/reclaim") == []
    world.node.stubborn.clear()
    gone(world, "tiny")


def test_files_in_use_stay_until_nobody_uses_them(world: World) -> None:
    reclaimed(world, "base")
    world.finetune("tuned", "run", base=BASE)
    world.pod("tuned", "FineTuneJob")
    source = {"jobRef": {"kind": "PretrainJob", "name": "base"}}
    adapter_set = {
        "apiVersion": "kubetune.io/v1alpha1", "kind": "AdapterSet", "metadata": {"name": "serving"},
        "spec": {"baseModel": {"name": "base", **source}, "adapters": [], "replicas": 0},
    }  # fmt: skip
    world.create(world.ours("AdapterSet"), adapter_set)
    world.delete(world.ours("PretrainJob", "base"))
    used = world.until_condition("base", "Reclaimed", "ArtifactInUse")
    assert "AdapterSet serving serves it; FineTuneJob tuned starts from it" in used["message"]
    eventually("it is told", lambda: ("Warning", "ArtifactInUse") in world.events("base"))
    world.delete(world.ours("AdapterSet", "serving"))
    world.node.plays[world.namespace, "tuned"] = ["succeed"]
    gone(world, "base")


def test_what_never_ran_goes_at_once(world: World) -> None:
    out = {"storageUri": "pvc://nothing", "reclaimPolicy": "Delete"}
    world.pretrain("tiny", output=out)
    world.until_condition("tiny", "ResourcesReady", "ClaimNotFound")
    world.delete(world.ours("PretrainJob", "tiny"))
    gone(world, "tiny")


def test_files_that_cannot_be_removed_are_said_and_can_be_given_up(world: World) -> None:
    for name in ("tiny", "stuck"):
        reclaimed(world, name)
        world.node.reclaims[world.namespace, name] = "exit 1 read-only file system"
        world.delete(world.ours("PretrainJob", name))
    # The Job controller tries again first.
    failed = world.until_condition("tiny", "Reclaimed", "ReclaimFailed", seconds=120)
    assert "read-only file system" in failed["message"]
    assert FINALIZER in failed["message"]
    world.node.reclaims[world.namespace, "tiny"] = "exit 0 removed"
    [job] = world.list(world.path("jobs", root=JOBS), "kubetune.io/name=tiny,kubetune.io/reclaim")
    world.delete(world.path("jobs", job["metadata"]["name"], root=JOBS))
    gone(world, "tiny")
    world.patch(world.ours("PretrainJob", "stuck"), {"metadata": {"finalizers": []}})
    gone(world, "stuck")


def test_a_namespace_goes_with_all_that_is_in_it(world: World) -> None:
    doomed = world.new_namespace()
    reclaimed(doomed, "done")
    doomed.pretrain("runs", "run", output={"storageUri": "pvc://models", "reclaimPolicy": "Delete"})
    doomed.pod("runs")
    doomed.pretrain("waits", output={"storageUri": "pvc://none", "reclaimPolicy": "Delete"})
    doomed.delete(f"/api/v1/namespaces/{doomed.namespace}")
    eventually(
        "the namespace is gone",
        lambda: world.api.get(f"/api/v1/namespaces/{doomed.namespace}") is None,
        seconds=60,
    )


def test_a_claim_that_is_gone_holds_nothing_up(world: World) -> None:
    reclaimed(world, "tiny")
    world.delete(world.path("persistentvolumeclaims", "models"))
    world.delete(world.ours("PretrainJob", "tiny"))
    gone(world, "tiny")
