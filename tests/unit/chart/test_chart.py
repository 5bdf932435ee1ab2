"""What Helm makes of the chart, without a cluster."""

import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.defaults import ContainerDefaults, PodDefaults
from kubetune.api.resources import ResourceRequirements
from kubetune.controller.lease import LEASE
from kubetune.controller.options import OperatorOptions
from kubetune.progress.identity import SECRET
from tests.fixtures.golden import Golden
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import load

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent
EMPTY = ContainerDefaults(resources=ResourceRequirements())
# The CRDs have a test of their own.
WITHOUT_CRDS = {"crds": {"install": False}}
EVERYTHING = {
    **WITHOUT_CRDS,
    "replicas": 3,
    "leaseSeconds": 30,
    "podDisruptionBudget": True,
    "watchNamespaces": ["team-a", "team-b"],
    "workers": 16,
    "resyncSeconds": 60,
    "image": {"repository": "example/operator", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "runAsUser": 1000,
    "extraEnv": [{"name": "A", "value": "b"}],
    "proxy": {"https": "http://proxy.example.org:3128", "noProxy": "example.org"},
    "pods": {
        "nodeSelector": {"pool": "ml"},
        "tolerations": [{"key": "ml", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "mirror"}],
    },
    "trainer": {
        "image": {"repository": "example/trainer", "digest": "sha256:" + "0" * 64},
        "resources": {"requests": {"cpu": 0.5}, "limits": {"cpu": 2, "memory": "4Gi"}},
        "env": [{"name": "TRACKER", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}],
    },
    "engine": {
        "image": {"repository": "example/engine", "tag": "4", "pullPolicy": "Never"},
        "resources": {"limits": {"cpu": 4}},
        "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}],
    },
    "gateway": {"resources": {"limits": {"cpu": 1}}, "env": [{"name": "B"}]},
    "reclaim": {"resources": {"limits": {"memory": "64Mi"}}, "env": [{"name": "C"}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"},
    "nameOverride": "tuning",
    "fullnameOverride": "our-tuning",
    "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
    "podLabels": {"team": "ml"},
    "podAnnotations": {"example.org/note": "x"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control-plane", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"annotations": {"example.org/role": "operator"}},
    "service": {"annotations": {"prometheus.io/scrape": "true"}},
    "networkPolicy": {
        "enabled": True,
        "apiServerPorts": [6443],
        "metricsFrom": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
    },
}
WRONG: dict[str, dict[str, Any]] = {
    "unknown value": {"replicaCount": 2},
    "replicas as text": {"replicas": "2"},
    "replicas without end": {"replicas": 100},
    "a lease that short outages end": {"leaseSeconds": 1},
    "budget as number": {"podDisruptionBudget": 1},
    "workers as text": {"workers": "two"},
    "pattern of namespaces": {"watchNamespaces": ["team-*"]},
    "no workers": {"workers": 0},
    "resync without a pause": {"resyncSeconds": 0},
    "pull policy": {"image": {"pullPolicy": "Sometimes"}},
    "no repository": {"trainer": {"image": {"repository": ""}}},
    "digest": {"engine": {"image": {"digest": "0123"}}},
    "tag as number": {"image": {"tag": 1.0}},
    "switch as text": {"networkPolicy": {"enabled": "yes"}},
    "no port": {"networkPolicy": {"apiServerPorts": []}},
    "port out of range": {"networkPolicy": {"apiServerPorts": [70000]}},
    "pull secret as text": {"imagePullSecrets": ["registry"]},
    "user root": {"runAsUser": 0},
    "user by name": {"runAsUser": "nobody"},
    "proxy as a list": {"proxy": {"noProxy": ["a"]}},
    "variable without name": {"trainer": {"env": [{"value": "x"}]}},
    "unknown part of pods": {"pods": {"affinity": "x"}},
    "interval without unit": {"serviceMonitor": {"interval": "30"}},
    "name too long": {"fullnameOverride": "n" * 41},
    "quantity": {"resources": {"limits": {"memory": True}}},
    "label as number": {"podLabels": {"version": 1}},
    "unknown crds option": {"crds": {"keep": False}},
}


def template(helm: Helm, values: dict[str, Any]) -> str:
    done = helm("template", "kubetune", str(CHART), "--namespace=kubetune-system", values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rules(helm: Helm, kind: str, name: str = "kubetune") -> list[dict[str, list[str]]]:
    found = [
        document["rules"]
        for document in documents(template(helm, WITHOUT_CRDS))
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    assert len(found) == 1
    return found[0]  # type: ignore[no-any-return]


def test_lints(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "values"), [("default", WITHOUT_CRDS), ("everything", EVERYTHING)])
def test_renders_as_reviewed(helm: Helm, golden: Golden, name: str, values: dict[str, Any]) -> None:
    golden.check(HERE / f"{name}.golden.yaml", template(helm, values))


def test_rights_of_the_operator_are_as_reviewed(helm: Helm, golden: Golden) -> None:
    lines = []
    for kind in ("ClusterRole", "Role"):
        for rule in rules(helm, kind):
            for group, resource in itertools.product(rule["apiGroups"], rule["resources"]):
                what = " ".join([f"{group or 'core'}/{resource}", *rule.get("resourceNames", [])])
                lines.append(f"{kind} {what}: {', '.join(rule['verbs'])}\n")
    golden.check(HERE / "rights.golden.txt", "".join(lines))


def test_no_right_is_a_wildcard_and_no_secret_is_readable_outside_its_own_namespace(helm: Helm) -> None:
    for kind, name in [("ClusterRole", "kubetune"), ("ClusterRole", "kubetune-edit"), ("Role", "kubetune")]:
        for rule in rules(helm, kind, name):
            assert not any("*" in entry for entries in rule.values() for entry in entries)
    assert not any("secrets" in rule["resources"] for rule in rules(helm, "ClusterRole"))
    for rule in rules(helm, "Role"):
        assert rule.get("resourceNames") or rule["verbs"] == ["create"]


@pytest.mark.parametrize("values", WRONG.values(), ids=[case.replace(" ", "-") for case in WRONG])
def test_wrong_value_is_refused_and_named(helm: Helm, values: dict[str, Any]) -> None:
    done = helm("template", "kubetune", str(CHART), values=values)
    assert done.returncode != 0
    path = []
    node: Any = values
    while isinstance(node, dict):
        key, node = next(iter(node.items()))
        path.append(key)
    assert path[-1] in done.stderr, done.stderr


def test_every_value_is_documented_in_the_schema_and_tried() -> None:
    values = set(load(CHART / "values.yaml"))
    assert (
        set(json.loads((CHART / "values.schema.json").read_text())["properties"]) - {"global", "enabled"}
        == values
    )
    assert set(EVERYTHING) | {"rbac"} == values


def test_the_operator_knows_every_variable_and_its_secret(helm: Helm) -> None:
    objects = documents(template(helm, WITHOUT_CRDS))
    deployment = next(document for document in objects if document["kind"] == "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    options = {f"KUBETUNE_{field.name.upper()}" for field in fields(OperatorOptions)}
    assert {variable["name"] for variable in environment} == options
    told = next(v["value"] for v in environment if v["name"] == "KUBETUNE_POD_DEFAULTS")
    assert PodDefaults.model_validate_json(told) == PodDefaults(
        trainer=EMPTY, engine=EMPTY, gateway=EMPTY, reclaim=EMPTY
    )
    named = [rule.get("resourceNames") for rule in rules(helm, "Role")]
    assert [SECRET] in named
    assert [LEASE] in named


def operator_of(text: str) -> dict[str, Any]:
    [deployment] = [document for document in documents(text) if document["kind"] == "Deployment"]
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def told(pod: dict[str, Any]) -> PodDefaults:
    """What the operator is told of the pods that it makes."""
    [given] = [e for e in pod["containers"][0]["env"] if e["name"] == "KUBETUNE_POD_DEFAULTS"]
    return PodDefaults.model_validate_json(given["value"])


def test_the_operator_understands_all_that_it_is_told_of_pods(helm: Helm) -> None:
    found = told(operator_of(template(helm, EVERYTHING)))
    assert found.run_as_user == 1000
    assert found.node_selector == {"pool": "ml"}
    assert [t.key for t in found.tolerations] == ["ml"]
    assert [s.name for s in found.image_pull_secrets] == ["mirror"]
    assert found.trainer.resources
    assert found.trainer.resources.requests == {"cpu": "0.5"}
    names = [e.name for e in found.trainer.env]
    assert names == ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "TRACKER"]
    assert found.engine.env[0].value == "DEBUG"
    assert found.gateway.resources
    assert found.gateway.resources.limits == {"cpu": 1}
    assert found.reclaim.env[0].name == "C"


@pytest.mark.parametrize(
    ("words", "user"),
    [
        ([], 65532),
        (["--api-versions=security.openshift.io/v1"], None),
        (["--api-versions=security.openshift.io/v1", "--set=runAsUser=7"], 7),
        (["--set=runAsUser="], None),
        (["--set=runAsUser=null"], None),
    ],
)
def test_the_user_of_all_pods_is_one_or_the_platforms(helm: Helm, words: list[str], user: int | None) -> None:
    done = helm("template", "kubetune", str(CHART), *words, values=WITHOUT_CRDS)
    assert done.returncode == 0, done.stderr
    pod = operator_of(done.stdout)
    assert told(pod).run_as_user == user
    security = pod["securityContext"]
    assert (security.get("runAsUser"), security.get("runAsGroup")) == (user, user)
    assert security["runAsNonRoot"] is True


def test_what_lies_inside_the_cluster_is_asked_without_a_proxy(helm: Helm) -> None:
    pod = operator_of(template(helm, WITHOUT_CRDS | {"proxy": {"http": "http://p:1"}}))
    values = {e["name"]: e.get("value", "") for e in pod["containers"][0]["env"]}
    assert values["HTTP_PROXY"] == values["http_proxy"] == "http://p:1"
    assert ".svc" in values["NO_PROXY"].split(",")
    assert "HTTPS_PROXY" not in values


UMBRELLA = """\
apiVersion: v2
name: platform
version: 1.0.0
dependencies:
  - {name: kubetune, version: ">=0.0.0", repository: "", condition: kubetune.enabled}
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_a_dependency_that_is_switched_on_and_off(helm: Helm, tmp_path: Path, enabled: bool) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "Chart.yaml").write_text(UMBRELLA)
    (tmp_path / "charts" / "kubetune").symlink_to(CHART)
    parent = {
        "kubetune": {"enabled": enabled, "crds": {"install": False}, "runAsUser": None},
        "global": {"imagePullSecrets": ["shared", {"name": "registry"}], "storageClass": "fast"},
        "tags": {"ml": True},
    }
    done = helm("template", "site", str(tmp_path), "--namespace=ml", values=parent)
    assert done.returncode == 0, done.stderr
    found = documents(done.stdout)
    assert bool(found) == enabled
    if enabled:
        pod = operator_of(done.stdout)
        assert pod["imagePullSecrets"] == [{"name": "shared"}, {"name": "registry"}]
        assert {d["metadata"]["name"] for d in found if d["kind"] == "Deployment"} == {"site-kubetune"}


def test_fractions_are_strings_before_the_schema_is_looked_at_where_that_is_possible(helm: Helm) -> None:
    kinds = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
    can = "--api-versions=admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
    for words, expected in ([], 0), ([can], 2), ([can, "--set=crds.install=false"], 0):
        done = helm("template", "kubetune", str(CHART), *words)
        assert sum(d["kind"] in kinds for d in documents(done.stdout)) == expected


def test_crds_are_rendered_and_kept_on_uninstall(helm: Helm) -> None:
    crds = [
        document
        for document in documents(template(helm, {}))
        if document["kind"] == "CustomResourceDefinition"
    ]
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {"PretrainJob", "FineTuneJob", "AdapterSet"}
    assert all(crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for crd in crds)


def test_names_follow_the_release(helm: Helm) -> None:
    done = helm("template", "second", str(CHART), "--namespace=other", values=WITHOUT_CRDS)
    names = {document["metadata"]["name"] for document in documents(done.stdout)}
    assert names == {"second-kubetune", "second-kubetune-view", "second-kubetune-edit"}


def test_one_replica_has_neither_budget_nor_anti_affinity(helm: Helm) -> None:
    objects = documents(template(helm, {**WITHOUT_CRDS, "replicas": 1}))
    assert "PodDisruptionBudget" not in [document["kind"] for document in objects]
    [deployment] = [document for document in objects if document["kind"] == "Deployment"]
    assert "affinity" not in deployment["spec"]["template"]["spec"]
    without = documents(template(helm, {**WITHOUT_CRDS, "podDisruptionBudget": False}))
    assert "PodDisruptionBudget" not in [document["kind"] for document in without]
