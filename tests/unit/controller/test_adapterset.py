"""The small judgements of the AdapterSet reconciler."""

from typing import Any

import pytest

from kubetune.api.status import AdapterSetStatus, AdapterStatus
from kubetune.api.table import AdapterState, GatewayState
from kubetune.controller.adapterset import (
    AT_REST_SECONDS,
    CATCHING_UP_SECONDS,
    STARTING_SECONDS,
    again,
    pods_refused,
    rolling,
)
from kubetune.desired.adapterset_engine import EngineLimits
from kubetune.references.job import referenced_job
from kubetune.status.adapterset import ObservedAdapterSet
from kubetune.status.adapterset_pods import ObservedPod
from tests.fixtures.manifests import merge, minimal

LIMITS = EngineLimits(2, 16, ("models",))


def deployment(wanted: int = 2, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "set", "generation": 2}, "spec": {"replicas": wanted}, "status": status}


def pod(rank: int) -> dict[str, Any]:
    args = ["--max-loras=2", f"--max-lora-rank={rank}"]
    volumes = [{"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}}]
    return {"spec": {"initContainers": [{"name": "engine", "args": args}], "volumes": volumes}}


@pytest.mark.parametrize(
    ("spec", "rank"),
    [
        ({"lora": {"rank": 64}}, 64),
        ({"method": "qlora"}, 16),
        ({"method": "full"}, None),
        ({"lora": {"rank": 64}, "output": {"merge": True}}, None),
    ],
    ids=["its own", "by default", "full weights", "merged"],
)
def test_the_rank_that_engines_make_room_for(spec: dict[str, Any], rank: int | None):
    job = minimal("FineTuneJob")
    assert referenced_job("FineTuneJob", merge(job, {"spec": spec})).rank == rank


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=2), None),
        (deployment(observedGeneration=1, replicas=2, updatedReplicas=2), "RollingOut"),
        (deployment(observedGeneration=2, replicas=3, updatedReplicas=2), "RollingOut"),
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=1), "RollingOut"),
        (deployment(), "RollingOut"),
        (deployment(wanted=0, observedGeneration=2), None),
    ],
    ids=["done", "not seen yet", "an old pod is left", "a new one is missing", "just made", "none wanted"],
)
def test_rolling(live: dict[str, Any], reason: str | None):
    found = rolling(live, LIMITS, [pod(16)])
    assert (found[0] if found else None) == reason


def test_a_deployment_that_somebody_has_paused():
    found = rolling(
        deployment(observedGeneration=2, replicas=2) | {"spec": {"replicas": 2, "paused": True}}, LIMITS, []
    )
    assert found
    assert found[0] == "Paused"
    assert "kubectl rollout resume deployment set" in found[1]


def test_a_rollout_for_a_higher_rank_says_so():
    found = rolling(deployment(), EngineLimits(2, 64, ("models",)), [pod(64), pod(16)])
    assert found == ("NewMaxLoraRank", "pods are being replaced, to serve adapters up to rank 64")


@pytest.mark.parametrize("suffix", ["x7k2b", "bbbbb"])
def test_pods_that_the_api_server_refuses_are_told_of_in_the_same_words_each_time(suffix: str):
    said = f'pods "set-6d4cf56db6-{suffix}" is forbidden: violates PodSecurity'
    refused = {"type": "ReplicaFailure", "status": "True", "message": said}
    assert pods_refused(deployment(conditions=[refused])) == ("PodsRefused", "violates PodSecurity")


def test_nobody_refuses_pods():
    assert pods_refused(deployment(conditions=[{"type": "Available", "status": "True"}])) is None


def observed(*, table: str = "t", phase: str = "Loaded", engine: bool = True) -> ObservedAdapterSet:
    adapter = AdapterState(name="a", digest="d", phase=phase)  # type: ignore[arg-type]
    state = GatewayState(table_digest=table, engine_ready=engine, adapters=[adapter])
    return ObservedAdapterSet(1, None, None, [], table_digest="t", pods=[ObservedPod("p", True, state)])


@pytest.mark.parametrize(
    ("now", "status", "seconds"),
    [
        (observed(), AdapterSetStatus(phase="Ready"), AT_REST_SECONDS),
        (observed(), AdapterSetStatus(phase="WaitingForDependency"), AT_REST_SECONDS),
        (observed(), AdapterSetStatus(phase="Degraded"), STARTING_SECONDS),
        (observed(table="old"), AdapterSetStatus(phase="Ready"), CATCHING_UP_SECONDS),
        (observed(phase="Loading"), AdapterSetStatus(phase="Progressing"), CATCHING_UP_SECONDS),
        (observed(phase="Pending", engine=False), AdapterSetStatus(phase="Progressing"), STARTING_SECONDS),
        (
            observed(),
            AdapterSetStatus(
                phase="WaitingForDependency", adapters=[AdapterStatus(name="a", reason="ClaimNotFound")]
            ),
            STARTING_SECONDS,
        ),
    ],
)  # fmt: skip
def test_when_to_look_again(now: ObservedAdapterSet, status: AdapterSetStatus, seconds: float):
    assert again(now, status) == seconds
