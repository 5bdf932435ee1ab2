"""Why a pod does not start, by its status."""

from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.status.starting import Trouble, being_made, trouble_of
from tests.unit.status.trainers import Object, waiting

CRASHED = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no certificate\n"}}
UID = "0f0e0d0c-1111-2222-3333-444455556666"
CREATING = waiting("ContainerCreating")


def pod(trainer: Object | None, *init: Object, node: str = "n", conditions: Any = ()) -> Object:
    containers = [{"name": "trainer", "state": trainer}] if trainer else []
    status = {"phase": "Pending", "containerStatuses": containers, "initContainerStatuses": [*init]}
    return {
        "metadata": {"name": "x-0-abcde", "uid": UID},
        "spec": {"nodeName": node} if node else {},
        "status": status | {"conditions": [*conditions]},
    }


@pytest.mark.parametrize(
    ("reason", "message", "kind", "told"),
    [
        ("ErrImageNeverPull", "not here", "ImageError", ("ErrImageNeverPull", "not here")),
        ("ErrImagePull", "no such tag", "ImageError", ("ImagePullBackOff", "no such tag")),
        (
            "ImagePullBackOff",
            'Back-off pulling image "r.example.org/x:1": ErrImagePull: no such tag',
            "ImageError",
            ("ImagePullBackOff", "no such tag"),
        ),
        (
            "ImagePullBackOff",
            'Back-off pulling image "x": SignatureValidationFailed: image pull failed for x: not signed',
            "ImageError",
            ("ImagePullBackOff", "image pull failed for x: not signed"),
        ),
        (
            "SignatureValidationFailed",
            "image pull failed for x: not signed",
            "ImageError",
            ("ImagePullBackOff", "image pull failed for x: not signed"),
        ),
        (
            "ImagePullBackOff",
            'Back-off pulling image "x"',
            "ImageError",
            ("ImagePullBackOff", 'Back-off pulling image "x"'),
        ),
        ("ImageVolumeMountFailed", "no room", "ImageError", ("ImageVolumeMountFailed", "no room")),
        ("RROUnsupported", "x", "ContainerError", ("RROUnsupported", "x")),
        ("CreatePodSandboxError", "x", "ContainerError", ("CreatePodSandboxError", "x")),
        ("OfKubeletsToCome", "x", "ContainerError", ("OfKubeletsToCome", "x")),
    ],
)
def test_whatever_a_container_waits_for_is_told(
    reason: str, message: str, kind: str, told: tuple[str, str]
) -> None:
    assert trouble_of(pod(waiting(reason, message))) == Trouble(*told, Reason(kind), "x-0-abcde")


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_what_is_usual_is_no_trouble(reason: str) -> None:
    assert trouble_of(pod(waiting(reason))) is None


@pytest.mark.parametrize(
    "mesh",
    [
        {"state": waiting("CrashLoopBackOff", "back-off 40s restarting failed container=mesh pod=x")},
        {"state": {"running": {}}, "started": False},
        {"state": CRASHED, "started": False},
    ],
    ids=["between two starts", "while it runs", "when it has ended"],
)
def test_a_sidecar_that_never_starts_is_told_in_the_same_words_all_the_time(mesh: Object) -> None:
    found = pod(waiting("PodInitializing"), {"name": "mesh", "lastState": CRASHED} | mesh)
    told = "container mesh: it ends each time that it is started: exit code 3: no certificate"
    assert trouble_of(found) == Trouble("CrashLoopBackOff", told, Reason.CONTAINER_ERROR, "x-0-abcde")


@pytest.mark.parametrize("started", [{"started": True}, {}])
def test_a_sidecar_that_has_started_at_last_is_forgiven(started: Object) -> None:
    mesh = {"name": "mesh", "lastState": CRASHED, "state": {"running": {}}} | started
    assert trouble_of(pod(waiting("PodInitializing"), mesh)) is None


INITIALIZING = {"name": "fetch", "state": waiting("PodInitializing")}
READY = [{"type": "PodReadyToStartContainers", "status": "True"}]


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        (pod(CREATING), True),
        (pod(None), True),
        (pod(waiting("PodInitializing"), INITIALIZING), True),
        (pod(CREATING, node=""), False),
        (pod(CREATING, conditions=READY), False),
        (pod(waiting("PodInitializing"), {"name": "fetch", "state": {"running": {}}}), False),
        (pod(waiting("ImagePullBackOff")), False),
        (pod({"running": {}}), False),
        (None, False),
    ],
)
def test_events_are_asked_for_only_while_volumes_and_network_are_made(found: Any, asked: bool) -> None:
    assert being_made(found) == (UID if asked else None)
