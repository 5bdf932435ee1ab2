"""Every way in which a kubelet refuses a pod or loses it, and what comes of it: one line each.

From Kubernetes 1.37: pkg/kubelet/lifecycle/predicate.go and handlers.go, pkg/kubelet/kubelet.go (rejectPod,
admissionRejectionReasons), cm/admission, cm/topologymanager, cm/cpumanager, eviction, nodeshutdown,
preemption, sysctl, volumemanager, status/status_manager.go (TerminatePod), active_deadline.go; controllers
podgc, tainteviction and devicetainteviction; the eviction API; the scheduler's preemption.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.status.attempts import attempt_of
from tests.unit.status.trainers import (
    ARTIFACT,
    CREATED,
    Object,
    deleted,
    disruption,
    ended,
    job,
    last_word,
    waiting,
)  # fmt: skip

UID = "0f0e0d0c-1111-2222-3333-444455556666"
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def refused(reason: str, message: str) -> Object:
    """As rejectPod leaves it: no container statuses, no conditions."""
    meta = {"name": "x-abc-0-1", "uid": UID, "creationTimestamp": CREATED}
    said = f"Pod was rejected: {message}"
    status = {
        "phase": "Failed",
        "reason": reason,
        "message": said,
        "startTime": CREATED,
        "qosClass": "Burstable",
    }
    return {"metadata": meta, "status": status}


def lost(state: Object | None, *conditions: Object, init: Sequence[Object] = (), **status: Any) -> Object:
    """A pod that a kubelet had taken."""
    meta = {"name": "x-abc-0-1", "uid": UID, "creationTimestamp": CREATED}
    containers = [{"name": "trainer", "state": state}] if state else []
    body = {"phase": "Failed", "containerStatuses": containers, "initContainerStatuses": [*init]}
    return {"metadata": meta, "status": body | {"conditions": [*conditions]} | status}


def by_kubelet(message: str) -> Object:
    return disruption("TerminationByKubelet", message)


CREATING, GONE = (
    waiting("ContainerCreating"),
    ended(137, "The container could not be located", "ContainerStatusUnknown"),
)
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52132Ki. "
GREEDY = LOW + "Container trainer was using 812340Ki, request is 1Mi, has larger consumption of memory. "

REFUSALS = {
    # reason: message
    "UnexpectedAdmissionError": "Allocate failed due to no healthy devices present; cannot allocate "
    "unhealthy devices nvidia.com/gpu, which is unexpected",
    "OutOfcpu": "Node didn't have enough resource: cpu, requested: 500, used: 1900, capacity: 2000",
    "OutOfmemory": "Node didn't have enough resource: memory, requested: 500, used: 1900, capacity: 2000",
    "OutOfephemeral-storage": "Node didn't have enough resource: ephemeral-storage, requested: 5, used: 1, "
    "capacity: 2",
    "OutOfpods": "Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110",
    "OutOfnvidia.com/gpu": "Node didn't have enough resource: nvidia.com/gpu, requested: 1, "
    "used: 8, capacity: 8",
    "NodeAffinity": "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    "NodeName": "Predicate NodeName failed: node(s) didn't match the requested node name",
    "NodePorts": "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    "TaintToleration": "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    "InvalidNodeInfo": "Kubelet cannot get node info.",
    "PodOSSelectorNodeLabelDoesNotMatch": "Failed to admit pod as the `kubernetes.io/os` label doesn't match "
    "node label",
    "PodOSNotSupported": "Failed to admit pod as the OS field doesn't match node OS",
    "UnsupportedPodOS": "of older kubelets",
    "InitContainerRestartPolicyForbidden": "of older kubelets",
    "SupplementalGroupsPolicyNotSupported": "SupplementalGroupsPolicy=Strict is not supported in this node",
    "UnknownReason": "GeneralPredicates failed due to unknown reason, which is unexpected.",
    "UnexpectedPredicateFailureType": "GeneralPredicates failed due to x, which is unexpected.",
    "PodLevelResourcesNotSupported": "PodLevelResources feature gate is disabled",
    "PodFeatureUnsupported": "Pod requires node features that are not available: x",
    "AppArmor": "Cannot enforce AppArmor: AppArmor is not enabled on the host",
    "SysctlForbidden": 'forbidden sysctl: "kernel.shm_rmid_forced" not allowlisted',
    "TopologyAffinityError": "Resources cannot be allocated with Topology locality",
    "SMTAlignmentError": "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
    "EmptyPodSharedPool": "pod shared pool is empty",
    "Evicted": "The node had condition: [DiskPressure]. ",
    "NodeShutdown": "Pod was rejected as the node is shutting down.",
    "VolumeAttachmentLimitExceeded": "Node has reached its volume attachment limit for csi.example.org",
    "SomethingNew": "of kubelets to come",
}

LOST = {
    # name: (pod, reason, counted, in the message)
    "evicted under pressure": (
        lost(GONE, by_kubelet(LOW), reason="Evicted", message=LOW), "Evicted", False, "low on resource",
    ),
    "evicted under pressure while its image was pulled": (
        lost(CREATING, by_kubelet(LOW), reason="Evicted", message=LOW), "Evicted", False, "goes on from",
    ),
    "evicted since it used more than it asked for": (
        lost(ended(137), by_kubelet(GREEDY), reason="Evicted", message=GREEDY),
        "Evicted", True, "requests to what it uses",
    ),
    "evicted for its ephemeral storage": (
        lost(ended(137), by_kubelet("Pod ephemeral local storage usage exceeds the total limit of 1Gi. "),
             reason="Evicted"),
        "Evicted", True, "ephemeral-storage limit",
    ),
    "evicted for an emptyDir": (
        lost(ended(137), by_kubelet('Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '),
             reason="Evicted"),
        "Evicted", True, "writes to /tmp",
    ),
    "evicted by an old kubelet": (
        lost(ended(137), reason="Evicted", message=LOW), "Evicted", False, "low on resource",
    ),
    "node is shut down": (
        lost(ended(143), by_kubelet("Pod was terminated in response to imminent node shutdown."),
             reason="Terminated"),
        "Evicted", False, "imminent node shutdown",
    ),
    "node is shut down, told by an old kubelet": (
        lost(ended(137), reason="Terminated", message="terminated in response to imminent node shutdown"),
        "Evicted", False, "imminent node shutdown",
    ),
    "a critical pod needs its place": (
        lost(ended(137), by_kubelet("Pod was preempted by Kubelet to accommodate a critical pod."),
             reason="Preempting"),
        "Preempted", False, "critical pod",
    ),
    "preempted by the scheduler": (
        deleted(lost(ended(143), disruption("PreemptionByScheduler", "default-scheduler: preempting"))),
        "Preempted", False, "preempting",
    ),
    "drained": (
        deleted(lost(ended(143), disruption("EvictionByEvictionAPI", "Eviction API: evicting"))),
        "Evicted", False, "evicting",
    ),
    "its node has a NoExecute taint": (
        deleted(lost(GONE, disruption("DeletionByTaintManager", "Taint manager: deleting"))),
        "NodeLost", False, "Taint manager",
    ),
    "its GPU has a taint": (
        deleted(lost(ended(143), disruption("DeletionByDeviceTaintManager", "Device Taint manager: x"))),
        "Evicted", False, "Device Taint manager",
    ),
    "its node is no more": (
        deleted(lost(None, disruption("DeletionByPodGC", "PodGC: node no longer exists"))),
        "NodeLost", False, "no longer exists",
    ),
    "its node is out of service": (
        deleted(lost({"running": {}}, disruption("DeletionByPodGC", "PodGC: node out of service"))),
        "NodeLost", False, "out of service",
    ),
    "it was said that it would be taken, and it was not": (
        lost(ended(137), disruption("PreemptionByScheduler", "x") | {"status": "False"}),
        "Killed", True, "exit code 137",
    ),
    "somebody deleted it": (deleted(lost(ended(143))), "PodDeleted", False, "was deleted"),
    "somebody deleted it before it began": (deleted(lost(GONE)), "PodDeleted", False, "was deleted"),
    "its time was up": (
        lost(ended(143), reason="DeadlineExceeded", message="Pod was active on the node longer than"),
        "DeadlineExceeded", False, "The deadline of the pod has passed",
    ),
    "its time was up while its image was pulled": (
        lost(CREATING, reason="DeadlineExceeded", message="Pod was active on the node longer than"),
        "DeadlineExceeded", False, "The deadline of the pod has passed",
    ),
    "its node restarted": (lost(GONE), "Killed", True, "node or its container runtime restarts"),
    "its node restarted, by containerd": (lost(ended(255, "", "Unknown")), "Killed", True, "code 255"),
    "an init container failed": (
        lost(waiting("PodInitializing"), init=[{"name": "fetch", "state": ended(3, "no route to host")}]),
        "PodFailed", True, "its container fetch ended with exit code 3: no route to host",
    ),
    "an init container was killed for its memory": (
        lost(waiting("PodInitializing"), init=[{"name": "fetch", "state": ended(137, "", "OOMKilled")}]),
        "PodFailed", True, "exit code 137, OOMKilled",
    ),
    "failed, and nothing says why": (
        lost(None, phase="Failed"), "PodFailed", True, "its status gives no reason",
    ),
    "failed, and a message says why": (
        lost(CREATING, message="it never began"), "PodFailed", True, "it never began",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "message"), REFUSALS.items(), ids=REFUSALS)
def test_a_refusal_counts_and_is_told_in_the_kubelets_words(reason: str, message: str):
    attempt = attempt_of(1, job("Failed"), [refused(reason, message)], NOW)
    assert attempt.state == "Failed"
    assert attempt.outcome
    assert attempt.failure
    assert (attempt.outcome.retry, attempt.outcome.counted) == (True, True)
    assert attempt.failure.reason is Reason.POD_REJECTED
    assert f"{reason}: {message.partition(', used')[0].rstrip('. ')}" in attempt.failure.message


@pytest.mark.parametrize(("pod", "reason", "counted", "said"), LOST.values(), ids=LOST)
def test_a_loss(pod: Object, reason: str, counted: bool, said: str):
    attempt = attempt_of(1, job("Failed"), [pod], NOW)
    assert attempt.outcome
    assert attempt.failure
    assert (attempt.failure.reason.value, attempt.outcome.retry, attempt.outcome.counted) == (
        reason,
        True,
        counted,
    )
    assert said in attempt.failure.message


@pytest.mark.parametrize(
    "pods", [[], [deleted(lost(ended(143)))], [deleted(lost({"running": {}}, phase="Running"))]]
)
def test_a_limit_that_others_give_the_job_counts(pods: list[Object]):
    """A policy, perhaps, that gives every Job an activeDeadlineSeconds: the next one is ended likewise."""
    child = job("Failed")
    child["status"]["conditions"][0] |= {
        "reason": "DeadlineExceeded",
        "message": "Job was active longer than specified deadline",
    }
    attempt = attempt_of(1, child, pods, NOW)
    assert attempt.outcome
    assert (attempt.failure.reason, attempt.outcome.retry, attempt.outcome.counted) == (
        Reason.KILLED,
        True,
        True,
    )
    assert "DeadlineExceeded: Job was active longer than specified deadline." in attempt.failure.message


def test_a_job_that_failed_since_its_pod_did_has_no_limit_of_others():
    child = job("Failed")
    child["status"]["conditions"][0] |= {"reason": "BackoffLimitExceeded", "message": "x"}
    assert attempt_of(1, child, [deleted(lost(ended(143)))], NOW).failure.reason is Reason.POD_DELETED


def test_the_trainers_own_word_goes_before_a_limit_of_the_job():
    child = job("Failed")
    child["status"]["conditions"][0] |= {"reason": "DeadlineExceeded", "message": "x"}
    assert attempt_of(1, child, [deleted(lost(ended(11)))], NOW).failure.reason is Reason.DATA_ERROR


def judged(ready: str, containers: str) -> list[Object]:
    return [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers}]


@pytest.mark.parametrize(
    ("conditions", "more", "node"),
    [
        (judged("False", "True"), {}, "n"),
        (judged("True", "True"), {}, None),
        (judged("False", "False"), {}, None),
        (judged("False", "True"), {"readinessGates": [{"conditionType": "x"}]}, None),
        ([], {}, None),
    ],
    ids=["silent", "well", "a side container is not ready", "a gate of others", "nothing is said yet"],
)
def test_a_node_that_does_not_answer(conditions: list[Object], more: Object, node: str | None):
    runs = lost({"running": {}}, *conditions, phase="Running") | {"spec": {"nodeName": "n"} | more}
    attempt = attempt_of(1, job(), [runs], NOW)
    assert (attempt.state, attempt.silent_node) == ("Running", node)


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_what_a_runtime_says_of_a_container_that_it_cannot_start_is_no_last_word(reason: str):
    said = "failed to create containerd task: nvidia-container-cli: driver not loaded"
    attempt = attempt_of(1, job("Failed"), [lost(ended(128, said, reason))], NOW)
    assert attempt.outcome
    assert (attempt.failure.reason, attempt.outcome.counted) == (Reason.POD_FAILED, True)
    assert attempt.failure.message.endswith(f"trainer ended with exit code 128, {reason}: {said}.")


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
@pytest.mark.parametrize("state", [None, CREATING, {"running": {}}, ended(0), ended(137), ended(255), GONE])
@pytest.mark.parametrize("reason", [None, "Evicted", "Anything"])
@pytest.mark.parametrize("message", [None, "", "Pod was rejected: x"])
def test_nothing_that_is_not_known_to_come_from_outside_gives_attempts_without_end(
    phase: str, state: Object | None, reason: str | None, message: str | None
):
    found = lost(state, phase=phase, **{k: v for k, v in {"reason": reason, "message": message}.items() if v})
    attempt = attempt_of(1, job("Failed"), [found], NOW)
    assert attempt.outcome
    assert attempt.outcome.counted or attempt.failure.reason is Reason.EVICTED


# Containers beside the trainer.

SIDECAR = {"name": "mesh", "state": {"running": {}}}


def beside(state: Object, *, at: str = "2026-01-01T00:59:30Z", **status: Any) -> Object:
    """A pod with a sidecar, and a trainer that ended half a minute ago."""
    if "terminated" in state:
        state = {"terminated": state["terminated"] | {"finishedAt": at}}
    found = lost(state, phase="Running", **status)
    found["status"]["containerStatuses"].append(SIDECAR)
    return found


def test_the_trainers_success_is_the_attempts_although_a_sidecar_runs_on():
    attempt = attempt_of(1, job(), [beside(ended(0, last_word(artifact=ARTIFACT)))], NOW)
    assert (attempt.state, attempt.outlived_by["name"]) == ("Succeeded", "x-abc-0-1")


def test_the_trainers_failure_is_the_attempts_although_a_sidecar_runs_on():
    attempt = attempt_of(1, job(), [beside(ended(11, last_word("DataError", "line 3")))], NOW)
    assert (attempt.state, attempt.failure.reason, attempt.failure.message) == (
        "Failed",
        "DataError",
        "line 3",
    )
    assert attempt.outlived_by
    assert attempt.finished.isoformat() == "2026-01-01T00:59:30+00:00"


def test_a_kubelet_that_ends_all_containers_is_given_time_to_say_why():
    found = beside(ended(143), at="2026-01-01T00:59:55Z")
    attempt = attempt_of(1, job(), [found], NOW)
    assert (attempt.state, attempt.again.isoformat()) == ("Running", "2026-01-01T01:00:05+00:00")
    # It waits for the sidecar's end, and then says why.
    assert attempt_of(1, job(), [deleted(found)], NOW).state == "Running"


def test_how_a_sidecar_ends_is_nobodys_business():
    crashed = {"name": "mesh", "state": ended(1)}
    runs = lost({"running": {}}, phase="Running")
    runs["status"]["containerStatuses"].append(crashed)
    assert attempt_of(1, job(), [runs], NOW).state == "Running"
    done = lost(ended(0, last_word(artifact=ARTIFACT)), phase="Failed")
    done["status"]["containerStatuses"].append(crashed)
    attempt = attempt_of(1, job("Failed"), [done], NOW)
    assert (attempt.state, attempt.outlived_by) == ("Succeeded", None)


def test_a_sidecar_that_never_starts_does_not_hide_that_the_trainer_runs():
    found = lost({"running": {}}, phase="Pending")
    found["status"]["containerStatuses"].append({"name": "mesh", "state": waiting("ImagePullBackOff", "no")})
    attempt = attempt_of(1, job(), [found], NOW)
    assert (attempt.state, attempt.trouble) == ("Running", None)


def test_what_others_inject_and_cannot_start_is_told():
    found = lost(waiting("PodInitializing"), phase="Pending", init=[
        {"name": "mesh-init", "state": waiting("ImagePullBackOff", "no such image")}
    ])  # fmt: skip
    attempt = attempt_of(1, job(), [found], NOW)
    assert attempt.state == "Pending"
    assert attempt.trouble.message == "container mesh-init: no such image"


def test_a_pod_that_was_ended_for_its_sidecar_is_not_out_of_time():
    found = lost(ended(143), reason="DeadlineExceeded", message="Pod was active on the node longer than")
    found["metadata"]["annotations"] = {"kubetune.io/trainer-ended": CREATED}
    assert attempt_of(1, job("Failed"), [found], NOW).failure.reason is Reason.TERMINATED
