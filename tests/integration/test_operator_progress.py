"""The progress receiver, posted to as trainers do: over TLS, with tokens that the API server issues."""

import time
from typing import Any

import pytest

from dev.cluster import build
from kubetune.desired.job import progress_path
from tests.fixtures.cluster import Cluster
from tests.fixtures.operator import NAMESPACE, Object, eventually
from tests.fixtures.trainer import Trainer, token
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

CHECKPOINT = {"step": 5, "time": "2026-01-01T00:00:00Z", "uri": "pvc://models/x", "digest": "sha256:0"}


def update(percent: int = 40, metrics: dict[str, Any] | None = None, **fields: Any) -> Object:
    shown = [{"name": key, "value": value} for key, value in (metrics or {"loss": "1.5"}).items()]
    return {"trainerStatus": {"progressPercentage": percent, "metrics": shown}} | fields


@pytest.fixture
def trainer(world: World) -> Trainer:
    world.pretrain("tiny")
    return Trainer(world, "tiny")


def test_a_post_of_the_own_pod_is_shown(trainer: Trainer) -> None:
    eventually("it is Running", lambda: trainer.world.status("tiny").get("phase") == "Running")
    body = update(40, {"step": "12", "loss": "1.5", "gradNorm": "NaN", "speed": "inf", "x" * 64: "1"})
    body["trainerStatus"] |= {"estimatedRemainingSeconds": 90, "aNewField": 1}
    assert trainer.post(body | {"lastCheckpoint": CHECKPOINT}) == 200
    expected = {
        "progressPercentage": 40,
        "estimatedRemainingSeconds": 90,
        "metrics": [{"name": "step", "value": "12"}, {"name": "loss", "value": "1.5"}],
    }
    shown = eventually("the post is shown", lambda: trainer.shown())
    assert shown == {"trainerStatus": expected, "lastCheckpoint": CHECKPOINT}
    table = kubectl_get(trainer.world, "pretrainjob", "tiny")
    assert (table["PHASE"], table["PROGRESS"], table["STEP"], table["LOSS"], table["ETA"]) == (
        "Running", "40", "12", "1.5", "90",
    )  # fmt: skip


def test_what_the_trainer_warns_of_is_a_condition_and_an_event(trainer: Trainer) -> None:
    world = trainer.world
    body = update(40)
    body["trainerStatus"]["warnings"] = [{"reason": "FewSteps", "message": "2 epochs are 1 step: lower it"}]
    assert trainer.post(body) == 200

    def told() -> Any:
        conditions = world.status("tiny").get("conditions", [])
        return next((c for c in conditions if c["type"] == "Warnings" and c["status"] == "True"), None)

    condition = eventually("the warning is a condition", told)
    assert (condition["reason"], condition["message"]) == (
        "FewSteps", "FewSteps: 2 epochs are 1 step: lower it",
    )  # fmt: skip
    eventually("it is an event, too", lambda: ("Warning", "FewSteps") in world.events("tiny"))


def test_posts_of_anybody_else_are_refused(trainer: Trainer) -> None:
    world = trainer.world
    pair = {"name": "p", "uri": "pvc://models/pairs.jsonl", "format": "alpaca"}
    world.finetune("tiny", base={"uri": "pvc://models/base"}, data={"sources": [pair]})
    world.pretrain("other")
    other, same_name = Trainer(world, "other"), Trainer(world, "tiny", "FineTuneJob")
    container = {
        "name": "trainer", "image": "a",
        "securityContext": {
            "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip
    # All labels but those by which the Job controller would take it over.
    labels = {k: v for k, v in trainer.pod["metadata"]["labels"].items() if "controller-uid" not in k}
    stranger = world.create(
        world.path("pods"),
        {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "stranger", "labels": labels},
            "spec": {"containers": [container], "schedulerName": "nobody"},
        },
    )  # fmt: skip
    tokens = {
        None: 401,
        "garbage": 401,
        "a.b.c": 401,
        token(world, trainer.pod, audience="https://kubernetes.default.svc"): 401,
        token(world, None): 403,
        token(world, stranger): 403,
        other.token: 403,
        same_name.token: 403,
    }
    for credential, expected in tokens.items():
        assert trainer.post(update(), token=credential) == expected, credential
    elsewhere = progress_path("PretrainJob", NAMESPACE, "tiny")
    assert trainer.post(update(), path=elsewhere) == 403
    assert trainer.post(update(), path=trainer.path.replace("pretrainjobs", "pods")) == 404
    assert trainer.post(update(), path=trainer.path.replace("tiny", "..%2F..%2Ftiny")) in (403, 404)
    assert trainer.shown() == {}


def test_the_token_of_a_deleted_pod_is_refused(trainer: Trainer) -> None:
    world = trainer.world
    path = world.path("pods", trainer.pod["metadata"]["name"])
    world.delete(path)
    eventually("the pod is gone", lambda: world.api.get(path) is None)
    assert trainer.post(update()) in (401, 403)
    assert trainer.shown() == {}


def test_bodies_that_are_not_of_the_protocol_are_refused(trainer: Trainer) -> None:
    assert trainer.post(b"x" * 100_000) == 413
    bodies: list[bytes | Object] = [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"[" * 60_000,
        b'{"trainerStatus": 1}',
        b'{"trainerStatus": {"progressPercentage": NaN}}',
        update(101),
        update(-1),
        update(lastCheckpoint={"step": "many"}),
        {},
    ]
    for body in bodies:
        assert trainer.post(body) == 400, body
    assert trainer.shown() == {}
    assert trainer.post({"trainerStatus": {}}) == 200


def settled(world: World) -> int:
    """How many writes there are once the reconciler has nothing more to write."""
    count = -1
    while (now := len(world.writes())) != count:
        count = now
        time.sleep(1)
    return count


def test_a_job_is_written_at_most_every_five_seconds_and_the_newest_report_wins(trainer: Trainer) -> None:
    eventually("it has been told", lambda: ("Normal", "Started") in trainer.world.events("tiny"))
    before = settled(trainer.world)
    begun = time.monotonic()
    for percent in (1, 2, 3, 4):
        body = update(percent) | ({"lastCheckpoint": CHECKPOINT} if percent == 1 else {})
        assert trainer.post(body) == 200
    eventually("the first is shown", lambda: trainer.shown().get("trainerStatus"))
    assert trainer.world.writes(before) == ["patch pretrainjobs/status"]

    def newest() -> bool:
        return trainer.shown()["trainerStatus"].get("progressPercentage") == 4

    eventually("the newest is shown", newest)
    assert 4.5 < time.monotonic() - begun < 8
    assert trainer.world.writes(before) == ["patch pretrainjobs/status"] * 2
    # A report without a checkpoint does not take back the one before.
    assert trainer.shown()["lastCheckpoint"] == CHECKPOINT


def test_a_job_that_is_over_keeps_its_last_word(trainer: Trainer) -> None:
    world = trainer.world
    assert trainer.post(update(40, lastCheckpoint=CHECKPOINT)) == 200
    eventually("the post is shown", lambda: trainer.shown())
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    # It comes too late: the next write would be after the end.
    assert trainer.post(update(50)) == 200
    world.until_phase("tiny", "Succeeded")
    final = trainer.shown()
    assert final["trainerStatus"]["progressPercentage"] == 100
    # Checkpoints are removed when the artifact is complete.
    assert "lastCheckpoint" not in final
    eventually("it has been told", lambda: ("Normal", "Completed") in world.events("tiny"))
    before = len(world.writes())
    assert trainer.post(update(60)) == 200
    time.sleep(6)
    assert trainer.shown() == final
    assert world.writes(before) == []


def kubectl_get(world: World, kind: str, name: str) -> dict[str, str]:
    """A row of `kubectl get`."""
    cluster = Cluster(world.operator.kubeconfig, build.path("kubectl"))
    done = cluster.kubectl("get", kind, name, f"--namespace={world.namespace}")
    assert done.returncode == 0, done.stderr
    header, row = (line.split() for line in done.stdout.splitlines())
    return dict(zip(header, row, strict=True))
