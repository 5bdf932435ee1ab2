"""Real pods: two trainers on one folder, and a container that outlives a trainer."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dev.kubectl import Kubectl, wait_for
from dev.stack import Stack
from tests.e2e import jobs, observe
from tests.fixtures import sidecar

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, CHECKPOINT = 400, {"everySteps": 40}


def copied(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """The same pod once more, as somebody makes it by hand: nobody's child."""
    spec = {key: value for key, value in pod["spec"].items() if key not in ("nodeName", "hostname")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def log(kubectl: Kubectl, pod: str) -> str:
    """What a pod has said; nothing before it has begun."""
    phase = kubectl.get("pod", pod)["status"]["phase"]
    return kubectl("logs", pod) if phase != "Pending" else ""


@pytest.mark.long  # some 4 minutes; tests/trainer/test_one_writer.py has processes
def test_two_trainers_in_one_folder_and_the_weights_are_those_of_one(kubectl: Kubectl) -> None:
    observe.apply(kubectl, jobs.pretrain("alone", steps=STEPS, checkpoint=CHECKPOINT))
    observe.until_condition(kubectl, "pretrainjob/alone", "Complete", timeout=240)
    observe.apply(kubectl, jobs.pretrain("shared", steps=STEPS, checkpoint=CHECKPOINT, backoffLimit=1))
    observe.until_checkpoint(kubectl, "pretrainjob/shared", 80)
    [pod] = observe.pods(kubectl, "PretrainJob", "shared")
    observe.apply(kubectl, copied(pod, "second"))
    wait_for(
        "the second one waiting",
        lambda: "FolderInUse" in log(kubectl, "second") or None,
        timeout=90,
    )
    # As if the node were cut off: it does not beat any more.
    observe.kill(pod, "kubetune_trainer", signal.SIGSTOP)
    wait_for(
        "the second one training",
        lambda: "resumed step=" in log(kubectl, "second") or None,
        timeout=180,
    )
    observe.kill(pod, "kubetune_trainer", signal.SIGCONT)
    observe.until_condition(kubectl, "pretrainjob/shared", "Complete", timeout=240)

    status = observe.status(kubectl, "pretrainjob/shared")
    assert (status["attempts"], status["restarts"]) == (2, 1)
    first = kubectl("logs", pod["metadata"]["name"])
    assert "another trainer writes to" in first
    _, attempt = observe.child_jobs(kubectl, "PretrainJob", "shared")
    later = kubectl("logs", f"job/{attempt['metadata']['name']}")
    assert "an earlier attempt finished this run" in later
    assert f"tookOverFrom={pod['spec']['hostname']}" in kubectl("logs", "second")
    assert observe.weights_sha256(kubectl, "pretrainjob/shared") == observe.weights_sha256(
        kubectl, "pretrainjob/alone"
    )


@pytest.fixture
def injected(kubectl: Kubectl, stack: Stack) -> Iterator[None]:
    """Every pod of the namespace gets a container that never ends by itself."""
    [operator, *_] = stack.operator_pods()
    image = operator["spec"]["containers"][0]["image"]
    asleep = "import time, signal; signal.signal(15, lambda *_: exit(3)); time.sleep(10**6)"
    made = [body for _, body in sidecar.policy(kubectl.namespace, image, "python", "-c", asleep)]
    observe.apply(kubectl, *made)
    wait_for("the policy to work", lambda: injects(kubectl, image), timeout=60)
    yield
    for body in made:
        kubectl("delete", body["kind"], body["metadata"]["name"])


def injects(kubectl: Kubectl, image: str) -> bool | None:
    """Whether the API server, which takes up policies in its own time, knows of the new one."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    own = {"name": "own", "image": image, "securityContext": restricted}
    secure = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"securityContext": secure, "containers": [own]}
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec}
    made = kubectl("create", "--dry-run=server", "--output=json", "--filename=-", stdin=json.dumps(probe))
    return len(json.loads(made)["spec"]["containers"]) == 2 or None


@pytest.mark.usefixtures("injected")
def test_a_container_that_never_ends_does_not_outlive_its_trainer(kubectl: Kubectl) -> None:
    broken = {"requests": {"cpu": "100m", "memory": "300Mi"}}
    observe.apply(
        kubectl,
        jobs.pretrain("meshed", steps=5, compute={"resourcesPerNode": broken}),
        jobs.pretrain("misfed", steps=5, uri="configmap://examples/pairs.jsonl", backoffLimit=0),
    )
    observe.until_condition(kubectl, "pretrainjob/meshed", "Complete", timeout=180)
    observe.until_condition(kubectl, "pretrainjob/misfed", "Failed", timeout=180)
    assert observe.status(kubectl, "pretrainjob/misfed")["failure"]["reason"] == "DataError"
    for name in ("meshed", "misfed"):
        [pod] = wait_for(f"the pod of {name} to end", lambda name=name: over(kubectl, name), timeout=60)
        states = {c["name"]: c["state"]["terminated"] for c in pod["status"]["containerStatuses"]}
        assert states.keys() == {"trainer", sidecar.NAME}
        # It was asked to end, and did.
        assert states[sidecar.NAME]["exitCode"] == 3
    assert observe.status(kubectl, "pretrainjob/meshed")["phase"] == "Succeeded"


def over(kubectl: Kubectl, name: str) -> list[dict[str, Any]] | None:
    pods = observe.pods(kubectl, "PretrainJob", name)
    return pods if all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in pods) else None
