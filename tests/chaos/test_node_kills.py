"""Parts of the cluster die while a job trains: nothing is lost, nothing done twice, the status is right."""

import json
from collections.abc import Callable
from typing import TypeVar

import pytest

from dev.kubectl import Kubectl, KubectlError, wait_for
from tests.e2e import jobs, observe
from tests.e2e.conftest import kubectl, stack  # noqa: F401 - fixtures
from tests.fixtures.daemons import kill_and_revive

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(900)]

T = TypeVar("T")
PARTS = {
    # name: seconds for which it is gone
    "kubelet": 8.0,
    "containerd": 5.0,
    "kube-apiserver": 8.0,
    "kube-controller-manager": 5.0,
    "kube-scheduler": 2.0,
    "kube-proxy": 2.0,
    "etcd": 3.0,
}
"""What may be gone for a while without the trainer noticing."""
STEPS_EACH = 700
"""Enough for a kill."""


def test_a_run_outlives_every_part_of_its_cluster(thorough: bool, request: pytest.FixtureRequest) -> None:
    if not thorough:
        pytest.skip("only with --chaos=long")
    kubectl: Kubectl = request.getfixturevalue("kubectl")  # noqa: F811
    steps = STEPS_EACH * len(PARTS)
    observe.apply(kubectl, jobs.pretrain("besieged", steps=steps))
    observe.until_step(kubectl, "pretrainjob/besieged", 20)
    for name, seconds in PARTS.items():
        before = patiently(lambda: observe.status(kubectl, "pretrainjob/besieged"))
        assert before["phase"] == "Running", f"it was over before {name} was killed: make it longer"
        kill_and_revive(name, down_seconds=seconds)
        status = patiently(lambda: observe.status(kubectl, "pretrainjob/besieged"))
        assert status["phase"] in ("Running", "Succeeded"), f"{name}: {json.dumps(status, indent=1)}"
    patiently(lambda: observe.until_condition(kubectl, "pretrainjob/besieged", "Complete", timeout=300))
    status = observe.status(kubectl, "pretrainjob/besieged")
    assert (status["attempts"], status["restarts"]) == (1, 0)
    [attempt] = observe.child_jobs(kubectl, "PretrainJob", "besieged")
    # One life, from the first step to the last.
    log = kubectl("logs", f"job/{attempt['metadata']['name']}")
    assert "resumed" not in log
    assert f"step={steps}/{steps}" in log
    # And what comes after goes as ever.
    observe.apply(kubectl, jobs.pretrain("afterwards", steps=5))
    observe.until_condition(kubectl, "pretrainjob/afterwards", "Complete", timeout=120)


def patiently(ask: Callable[[], T]) -> T:
    """Ask until the API server answers."""

    def poll() -> T | None:
        try:
            return ask()
        except KubectlError:
            return None

    return wait_for("an answer of the API server", poll, timeout=60)
