"""What kubectl and kstatus make of our kinds, on a real API server."""

import subprocess

import pytest

from dev.cluster import build
from tests.fixtures.kstatus import kstatus
from tests.fixtures.operator import eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration


def wait(world: World, kind: str, name: str, condition: str, seconds: int = 30) -> int:
    """`kubectl wait`; returns its exit status."""
    command = [
        build.path("kubectl"), f"--kubeconfig={world.operator.kubeconfig}", f"--namespace={world.namespace}",
        "wait", f"--for=condition={condition}", f"--timeout={seconds}s", f"{kind}/{name}",
    ]  # fmt: skip
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_kubectl_wait_ends(world: World) -> None:
    world.pretrain("good", "succeed")
    world.pretrain("bad", "exit 11")
    assert wait(world, "pretrainjob", "good", "Ready") == 0
    assert wait(world, "pretrainjob", "bad", "Stalled") == 0
    assert wait(world, "pretrainjob", "bad", "Ready", seconds=1) == 1


def verdict(world: World, kind: str, name: str) -> str:
    return kstatus(world.get(world.ours(kind, name)))[0]


def test_a_job_is_in_progress_until_it_ends(world: World) -> None:
    world.pretrain("good", "succeed", suspend=True)
    world.until_phase("good", "Suspended")
    assert verdict(world, "PretrainJob", "good") == "InProgress"
    world.patch(world.ours("PretrainJob", "good"), {"spec": {"suspend": False}})
    # A status of the generation before is no answer.
    assert verdict(world, "PretrainJob", "good") == "InProgress"
    seen = set()

    def ended() -> bool:
        seen.add(verdict(world, "PretrainJob", "good"))
        return "Current" in seen

    eventually("it is done", ended)
    assert seen == {"InProgress", "Current"}
    assert world.status("good")["phase"] == "Succeeded"


def test_a_set_scaled_to_zero_is_as_wanted(world: World) -> None:
    world.serve("none", replicas=0, baseModel={"name": "base", "uri": "pvc://models/base"})
    world.until_phase("none", "ScaledToZero", "AdapterSet")
    assert verdict(world, "AdapterSet", "none") == "Current"
    world.serve("some", baseModel={"name": "base", "uri": "pvc://models/base"})
    world.until_condition("some", "Reconciling", "RollingOut", "AdapterSet")
    assert verdict(world, "AdapterSet", "some") == "InProgress"
