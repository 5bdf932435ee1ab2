"""Why a pod does not start, by its status."""

from datetime import timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.status.conditions import parse_timestamp
from kubetune.status.starting import Trouble, being_made, lingers, trouble_of
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


NOW = parse_timestamp("2026-01-01T00:10:00Z")


@pytest.mark.parametrize(
    ("init", "always", "told", "minutes"),
    [
        ({"state": {"running": {"startedAt": "2026-01-01T00:05:00Z"}}}, False, "has ended", None),
        ({"state": {"running": {"startedAt": "2026-01-01T00:06:00Z"}}}, False, None, 11),
        ({"state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}}, "started": True}, True, None, None),
        (
            {"state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}}, "started": False},
            True,
            "has started",
            None,
        ),
        ({"state": {"terminated": {"exitCode": 0}}}, False, None, None),
    ],
    ids=["hangs", "works", "sidecar", "sidecar that does not get ready", "over"],
)
def test_a_container_that_others_wait_for_and_does_not_end_is_told(
    init: Object, always: bool, told: str | None, minutes: int | None
) -> None:
    found = pod(waiting("PodInitializing"), {"name": "vault"} | init)
    found["spec"]["initContainers"] = [{"name": "vault"} | ({"restartPolicy": "Always"} if always else {})]
    trouble, again = lingers(found, NOW)
    assert again == (NOW.replace(minute=minutes) if minutes else None)
    if told is None:
        assert trouble is None
    else:
        assert trouble
        assert (trouble.reason, trouble.kind) == ("PodInitializing", None)
        assert "container vault has been running for more than 5 minutes" in trouble.message
        assert f"until it {told}" in trouble.message
        # It is told in the same words at each look.
        assert lingers(found, NOW + timedelta(minutes=7)) == (trouble, None)


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
