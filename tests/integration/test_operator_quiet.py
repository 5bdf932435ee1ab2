"""A cluster in which nothing happens: the operator writes nothing, and is small."""

import time

import pytest

from tests.fixtures.operator import eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

BASE = {"jobRef": {"kind": "PretrainJob", "name": "missing"}}
MOST_MIB = 160


def test_nothing_is_written_when_nothing_happens(world: World) -> None:
    world.pretrain("complete", "succeed")
    world.pretrain("failed", "exit 11")
    world.pretrain("running")
    world.pretrain("claimless", output={"storageUri": "pvc://nowhere"})
    world.pretrain("imageless", "pull-error")
    world.pretrain("homeless", compute={"podTemplate": {"nodeSelector": {"example.org/gpu": "yes"}}})
    world.finetune("baseless", base=BASE)
    expected = {"complete": "Succeeded", "failed": "Failed", "running": "Running"}
    for name, phase in expected.items():
        world.until_phase(name, phase)
    for name, reason in {
        "claimless": "ClaimNotFound",
        "imageless": "ImagePullBackOff",
        "homeless": "Unschedulable",
    }.items():
        world.until_condition(name, "ResourcesReady", reason)
    world.until_phase("baseless", "WaitingForDependency", "FineTuneJob")

    # Starting anew is a resync: everything is looked at.
    world.operator.end()
    before = len(world.writes())
    world.operator.start()
    world.operator.until_ready()
    reconciles = "kubetune_reconciles_total"
    eventually("all have been looked at", lambda: world.operator.metric(reconciles) >= 7)
    eventually("the queue is empty", lambda: world.operator.metric("kubetune_queue_depth") == 0)
    looked = world.operator.metric(reconciles)
    # What waits for a claim is looked at every few seconds.
    eventually("it has looked again", lambda: world.operator.metric(reconciles) > looked, seconds=40)
    time.sleep(1)
    assert world.writes(before) == []
    assert "reconcile failed" not in world.operator.log.read_text()
    assert world.operator.memory_mib() < MOST_MIB
