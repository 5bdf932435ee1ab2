"""Namespaces whose ResourceQuota and LimitRange ask for requests and limits: every pod that we make fits."""

import json
from dataclasses import replace
from typing import Any

import pytest

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.defaults import PodDefaults
from kubetune.api.status import ResolvedBase
from kubetune.desired import adapterset
from kubetune.desired.adapterset_engine import EngineLimits
from kubetune.desired.job import Turn, job
from kubetune.desired.reclaim import reclaim_job
from kubetune.desired.runspec import parse_spec, run_spec
from tests.fixtures.cluster import Cluster
from tests.fixtures.manifests import merge, minimal
from tests.fixtures.operator import eventually
from tests.unit.desired import test_adapterset_golden, test_jobs_golden

pytestmark = pytest.mark.integration

Object = dict[str, Any]
HARD = {
    f"{side}.{what}": "100" if what == "cpu" else "1Ti"
    for side in ("requests", "limits")
    for what in ("cpu", "memory", "ephemeral-storage")
}
LIMITS = {"limits": {"cpu": 1, "memory": "256Mi"}}
CHART = PodDefaults.model_validate(
    {part: {"resources": LIMITS} for part in ("trainer", "engine", "gateway", "reclaim")}
)
NOTHING = PodDefaults()
OURS = {"namespace": "team", "uid": "11111111-2222-3333-4444-555555555555"}


def training(spec: Object, defaults: PodDefaults) -> Object:
    resource = merge(minimal("PretrainJob"), {"metadata": OURS, "spec": spec})
    settings = replace(test_jobs_golden.SETTINGS, defaults=defaults)
    return job(resource, run_spec(resource, parse_spec(resource), None), "run", Turn(1), settings)


def reclaiming(spec: Object, defaults: PodDefaults) -> Object:
    resource = merge(minimal("PretrainJob"), {"metadata": OURS, "spec": spec})
    return reclaim_job(resource, replace(test_jobs_golden.SETTINGS, defaults=defaults))


def serving(spec: Object, defaults: PodDefaults) -> Object:
    resource = merge(minimal("AdapterSet"), {"metadata": OURS, "spec": spec})
    settings = replace(test_adapterset_golden.SETTINGS, defaults=defaults)
    base = ResolvedBase(uri="pvc://models/base", digest="sha256:" + "0" * 64)
    limits = EngineLimits(2, 16, ("models",))
    return adapterset.deployment(
        resource, AdapterSetSpec.model_validate(resource["spec"]), base, limits, 1, settings
    )


OWN = {"name": "own", "image": "own:1", "resources": LIMITS}
ENGINE = {"engine": {"resources": LIMITS}}
GATEWAY = {"gateway": {"resources": LIMITS}}
TRAINER = {"resourcesPerNode": LIMITS}
FITTING = {
    "a trainer by its job": training({"compute": TRAINER}, NOTHING),
    "a trainer by the chart": training({}, CHART),
    "a trainer with a container of the user": training(
        {"compute": TRAINER | {"podTemplate": {"initContainers": [OWN]}}}, NOTHING
    ),
    "the removal of files": reclaiming({}, NOTHING),
    "the removal of files by its job": reclaiming({"compute": {"reclaimResources": LIMITS}}, NOTHING),
    "the removal of files by the chart": reclaiming({}, CHART),
    "an engine by its set": serving(ENGINE, NOTHING),
    "an engine and a gateway by their set": serving(ENGINE | GATEWAY, NOTHING),
    "an engine by the chart": serving({}, CHART),
}
TIGHT = {
    "a trainer by its job",
    "a trainer by the chart",
    "a trainer with a container of the user",
    "the removal of files",
    "the removal of files by its job",
    "the removal of files by the chart",
    "an engine and a gateway by their set",
    "an engine by the chart",
}
"""They fit below a LimitRange of 512Mi for each container, too, which the gateway's own default does not."""


@pytest.fixture
def with_quota(api_server: Cluster, namespace: str) -> str:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"}, "spec": {"hard": HARD}
    }  # fmt: skip
    api_server.apply(quota, f"--namespace={namespace}")
    # A controller would say so, which this size of a cluster has not.
    status = json.dumps({"status": {"hard": HARD, "used": dict.fromkeys(HARD, "0")}})
    patch = ["patch", "resourcequota", "all", f"--namespace={namespace}", "--subresource=status"]
    done = api_server.kubectl(*patch, "--type=merge", f"--patch={status}")
    assert done.returncode == 0, done.stderr
    # The API server's admission learns of it a moment later.
    eventually(
        "the quota is enforced",
        lambda: "must specify" in tried(api_server, namespace, training({}, NOTHING)),
    )
    return namespace


def tried(cluster: Cluster, namespace: str, child: Object) -> str:
    """What the API server says of a child's pod; empty if it takes it."""
    spec = {**child["spec"]["template"]["spec"], "serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec}
    done = cluster.kubectl(
        "create", f"--namespace={namespace}", "--dry-run=server", "--filename=-", input=json.dumps(pod)
    )
    return done.stderr


def test_every_pod_fits_a_quota(api_server: Cluster, with_quota: str) -> None:
    said = {name: tried(api_server, with_quota, child) for name, child in FITTING.items()}
    assert said == dict.fromkeys(FITTING, "")


def test_only_what_the_user_knows_must_be_said(api_server: Cluster, with_quota: str) -> None:
    """How much a run or a model needs; the names are those of the containers that lack it."""
    said = tried(api_server, with_quota, training({}, NOTHING))
    assert "must specify limits.cpu for: trainer; limits.memory for: trainer" in said
    said = tried(api_server, with_quota, serving({}, NOTHING))
    assert "must specify limits.cpu for: engine; limits.memory for: engine" in said


def test_every_pod_can_be_made_to_fit_a_limit_range(api_server: Cluster, namespace: str) -> None:
    limit = {"type": "Container", "max": {"memory": "512Mi"}}
    limits = {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "a"}, "spec": {"limits": [limit]}
    }  # fmt: skip
    api_server.apply(limits, f"--namespace={namespace}")
    gateway = FITTING["an engine by its set"]
    eventually("it is enforced", lambda: "512Mi" in tried(api_server, namespace, gateway))
    assert {name: tried(api_server, namespace, FITTING[name]) for name in TIGHT} == dict.fromkeys(TIGHT, "")
