"""GPUs on the real scheduler: played nodes advertise what device plugins would.

A Node object with allocatable devices and a played kubelet is all that the scheduler asks for.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from dev.cluster.api import Api
from tests.fixtures.node import LEASES, PlayedNode
from tests.fixtures.operator import Object, eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
ORPHANED_SECONDS = 120
"""Pods of a deleted node are collected after some 40 to 60 s."""


class Nodes:
    """Nodes that a test adds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._nodes: dict[str, PlayedNode] = {}

    @property
    def _api(self) -> Api:
        return self._world.api

    def add(self, name: str, devices: Object, *taints: Object, **labels: str) -> None:
        node = PlayedNode(self._api, name)
        # One script for all nodes: a pod runs as played wherever it is put.
        node.plays, node.stubborn = self._world.node.plays, self._world.node.stubborn
        self._nodes[name] = node
        node.start(*taints, devices=devices, labels=labels)

    def cordon(self, name: str) -> None:
        self._api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})

    def remove(self, name: str) -> None:
        """It falls silent, and its Node object goes."""
        self._nodes.pop(name).stop()
        for path in (f"/api/v1/nodes/{name}", f"{LEASES}/{name}"):
            assert self._api.call("DELETE", path)[0] == 200

    def remove_all(self) -> None:
        for name in [*self._nodes]:
            self.remove(name)


@pytest.fixture
def nodes(world: World) -> Iterator[Nodes]:
    nodes = Nodes(world)
    yield nodes
    nodes.remove_all()


def compute(devices: Object, **template: Any) -> Object:
    return {"resourcesPerNode": {"limits": {"cpu": 1, "memory": "1Gi"} | devices}, "podTemplate": template}


def unschedulable(world: World, name: str) -> str:
    """Wait until nothing takes a job's pod; what is said about it."""
    condition = world.until_condition(name, "ResourcesReady", "Unschedulable")
    assert condition["status"] == "False"
    assert world.status(name)["phase"] == "Pending"
    return str(condition["message"])


@pytest.mark.parametrize(
    "device", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "amd.com/gpu", "example.com/npu"]
)
def test_a_device_is_given_to_one_job_after_the_other(world: World, nodes: Nodes, device: str) -> None:
    nodes.add("with-device", {device: "1"}, spare="no")
    world.pretrain("first", compute=compute({device: 1}))
    assert world.pod("first")["spec"]["nodeName"] == "with-device"
    world.pretrain("second", "succeed", compute=compute({device: "1"}))
    assert f"less free than it asks for ({device} 1)" in unschedulable(world, "second")
    world.node.plays[world.namespace, "first"] = ["succeed"]
    world.until_phase("first", "Succeeded")
    world.until_phase("second", "Succeeded")
    assert world.condition("second", "ResourcesReady")["status"] == "True"


def test_what_waits_for_a_gpu_says_so_once_and_since_when_until_there_is_one(
    world: World, nodes: Nodes
) -> None:
    nodes.add("guarded-1", {"nvidia.com/gpu": "1"}, TAINT)
    world.pretrain("patient", compute=compute({"nvidia.com/gpu": 1}))
    # The scheduler may not know the node yet when it looks at first.
    eventually("both nodes are judged", lambda: "taints that it does" in unschedulable(world, "patient"))
    said = unschedulable(world, "patient")
    assert "some nodes have less free than it asks for (nvidia.com/gpu 1)" in said
    assert "lower compute.resourcesPerNode" in said
    before = world.condition("patient", "ResourcesReady")
    eventually("there is an event", lambda: ("Warning", "Unschedulable") in world.events("patient"))
    [pod] = world.list(world.path("pods"), "kubetune.io/name=patient")
    path, written = world.path("pods", pod["metadata"]["name"]), world.writes()
    assert scheduled(pod)["message"].startswith("0/2 ")

    # For one that changes nothing the scheduler would not even look again.
    nodes.add("guarded-2", {"nvidia.com/gpu": "1"}, TAINT)
    eventually("the scheduler counts anew", lambda: scheduled(world.get(path))["message"].startswith("0/3 "))
    time.sleep(1)
    assert world.writes() == written
    assert world.condition("patient", "ResourcesReady") == before

    nodes.add("with-gpu", {"nvidia.com/gpu": "1"})
    world.until_phase("patient", "Running")
    assert world.pod("patient")["spec"]["nodeName"] == "with-gpu"
    assert world.condition("patient", "ResourcesReady")["status"] == "True"
    assert world.status("patient")["attempts"] == 1
    assert world.events("patient").count(("Warning", "Unschedulable")) == 1


def test_where_a_job_may_run(world: World, nodes: Nodes) -> None:
    gpu = {"nvidia.com/gpu": 1}
    memory = {"nvidia.com/gpu.memory": "81559"}
    nodes.add("guarded", {"nvidia.com/gpu": "4"}, TAINT, pool="gpu", **memory)
    tolerating = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}

    def above(bound: str) -> Object:
        wanted = [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [bound]}]
        terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}

    templates: dict[str, Object] = {
        "intolerant": {},
        "misled": tolerating | {"nodeSelector": {"pool": "gpus"}},
        "greedy": tolerating | above("90000"),
        "tolerant": tolerating | {"nodeSelector": {"pool": "gpu"}},
        "modest": tolerating | above("40000"),
    }
    for name, template in templates.items():
        world.pretrain(name, compute=compute(gpu, **template))
    assert "taints that it does not tolerate: see compute.podTemplate.tolerations" in unschedulable(
        world, "intolerant"
    )
    for name in ("misled", "greedy"):
        assert (
            "other labels than it needs: see compute.podTemplate.nodeSelector and affinity"
            in unschedulable(world, name)
        )
    for name in ("tolerant", "modest"):
        assert world.pod(name)["spec"]["nodeName"] == "guarded"


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_when_its_node_is_drained_or_lost(world: World, nodes: Nodes) -> None:
    gpu = {"nvidia.com/gpu": 1}
    for name in ("drained", "lost"):
        nodes.add(name, {"nvidia.com/gpu": "1"}, place=name)
        template = {"affinity": prefer("place", name)}
        world.pretrain(name, compute=compute(gpu, **template), backoffLimit=0)
    pods = {name: world.pod(name) for name in ("drained", "lost")}
    assert {name: pod["spec"]["nodeName"] for name, pod in pods.items()} == {
        "drained": "drained", "lost": "lost",
    }  # fmt: skip
    nodes.add("refuge", {"nvidia.com/gpu": "2"})

    nodes.remove("lost")
    nodes.cordon("drained")
    evicted = {key: pods["drained"]["metadata"][key] for key in ("name", "namespace")}
    world.create(
        f"{world.path('pods', evicted['name'])}/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": evicted},
    )
    for name, seconds in (("drained", 30), ("lost", ORPHANED_SECONDS)):
        eventually(f"{name} is tried again", lambda n=name: world.status(n)["attempts"] == 2, seconds=seconds)
        assert world.pod(name, attempt=2)["spec"]["nodeName"] == "refuge"
        # It does not count: backoffLimit is 0.
        assert world.until_phase(name, "Running")["restarts"] == 0


def prefer(key: str, value: str) -> Object:
    term = {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
    return {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]
        }
    }


def scheduled(pod: Object) -> Object:
    """What the scheduler says of a pod."""
    return next(c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled")
