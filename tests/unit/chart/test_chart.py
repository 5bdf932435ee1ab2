"""What Helm makes of the chart, without a cluster."""

import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kubetune.controller.elector import LEASE
from kubetune.controller.options import Options
from kubetune.progress.identity import SECRET
from tests.fixtures.golden import Golden
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import load

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent
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
    "trainer": {"image": {"repository": "example/trainer", "digest": "sha256:" + "0" * 64}},
    "engine": {"image": {"repository": "example/engine", "tag": "4", "pullPolicy": "Never"}},
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
    assert set(json.loads((CHART / "values.schema.json").read_text())["properties"]) - {"global"} == values
    assert set(EVERYTHING) | {"rbac"} == values


def test_the_operator_knows_every_variable_and_its_secret(helm: Helm) -> None:
    objects = documents(template(helm, WITHOUT_CRDS))
    deployment = next(document for document in objects if document["kind"] == "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    options = {f"KUBETUNE_{field.name.upper()}" for field in fields(Options)}
    assert {variable["name"] for variable in environment} == options
    named = [rule.get("resourceNames") for rule in rules(helm, "Role")]
    assert [SECRET] in named
    assert [LEASE] in named


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
