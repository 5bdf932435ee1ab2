"""What a scheduler says, and what users are told."""

from typing import Any

import pytest

from kubetune.status.scheduling import Fields, unscheduled

pytestmark = pytest.mark.unit

GPU = {"resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}}}
POD: dict[str, Any] = {
    "spec": {
        "initContainers": [
            {"resources": {"requests": {"cpu": "9", "nvidia.com/gpu": "9"}}},
            {"restartPolicy": "Always"} | GPU,
        ],
        "containers": [{"resources": {"requests": {"cpu": "100m"}}}, {"resources": {}}],
    }
}
LACKING = "some nodes have less free than it asks for ({}): end other pods, add nodes, or lower c.resources"
TAINTED = "some nodes have taints{} that it does not tolerate: see c.template.tolerations"
SAID = {
    # name: (the scheduler's words, ours)
    "a resource": (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", LACKING.format("nvidia.com/gpu 1"),
    ),
    "with what follows": (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        LACKING.format("nvidia.com/gpu 1"),
    ),
    "several reasons": (
        "0/7 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu, 3 node(s) had "
        "untolerated taint(s), 4 Insufficient nvidia.com/gpu. preemption: 0/7 nodes are available: 7 "
        "Preemption is not helpful for scheduling.",
        f"{LACKING.format('cpu 500m + 100m, nvidia.com/gpu 1')}; some nodes are cordoned: uncordon them; "
        f"{TAINTED.format('')}",
    ),
    "a taint, named by older schedulers": (
        "0/2 nodes are available: 2 node(s) had untolerated taint {nvidia.com/gpu: true}.",
        TAINTED.format(" ({nvidia.com/gpu: true})"),
    ),
    "labels": (
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        "some nodes have other labels than it needs: see c.template.nodeSelector and affinity",
    ),
    "a resource that it does not ask for": (
        "0/1 nodes are available: 1 Insufficient memory.", LACKING.format("memory"),
    ),
    "no count": (
        '0/3 nodes are available: persistentvolumeclaim "models" not found.',
        'persistentvolumeclaim "models" not found',
    ),
    "something new": (
        "0/3 nodes are available: 1 Too many pods, 2 node(s) had a bad day, or two.",
        "some nodes had a bad day, or two; some nodes have as many pods as they can: add nodes",
    ),
    "another scheduler": ("waiting for the gang", "waiting for the gang"),
}  # fmt: skip


def told_of(said: str, reason: str = "Unschedulable", **spec: Any) -> tuple[str, str] | None:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": said}
    pod = {"spec": POD["spec"] | spec, "status": {"conditions": [condition]}}
    return unscheduled(pod, Fields(resources="c.resources", template="c.template"))


@pytest.mark.parametrize(("said", "told"), SAID.values(), ids=SAID)
def test_users_are_told_what_to_do(said: str, told: str):
    [_, shown] = told_of(said) or ()
    head, tail = "no node takes it: ", ". `kubectl describe nodes` shows what they have and what is in use"
    assert shown == f"{head}{told}{tail}"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no nodes available to schedule pods", "the cluster has no node that it could run on: add one"),
        ("0/0 nodes are available.", "the scheduler does not say why"),
        ("", "the scheduler does not say why"),
    ],
)
def test_there_is_no_node_to_blame(said: str, told: str):
    assert told_of(said) == ("Unschedulable", told)


def test_the_words_are_the_same_while_nodes_come_and_go():
    before = "0/5 nodes are available: 2 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint(s)."
    after = "0/16 nodes are available: 11 node(s) had untolerated taint(s), 5 Insufficient nvidia.com/gpu."
    assert before != after
    shown = {told_of(said) for said in (before, after)}
    assert len(shown) == 1


def test_a_gate_that_is_left_on_is_named():
    gates = [{"name": "quota.example.org/checked"}, {"name": "other"}]
    [reason, message] = told_of("Scheduling is blocked", "SchedulingGated", schedulingGates=gates) or ()
    assert reason == "SchedulingGated"
    assert "quota.example.org/checked, other" in message


def test_what_a_scheduler_says_of_itself_stays():
    assert told_of("binding volumes: timed out", "SchedulerError") == (
        "SchedulerError",
        "binding volumes: timed out",
    )
