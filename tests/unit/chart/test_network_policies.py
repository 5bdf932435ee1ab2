"""Network policies select the pods that we make, and let through what these pods need.

Whether a network plugin enforces them is not tried: the local cluster's does not."""

from pathlib import Path
from typing import Any

import pytest

from kubetune.api.table import ADMIN_PORT, API_PORT
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import load
from tests.fixtures.pods import pods

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[3] / "examples" / "networkpolicies"
NAMESPACE = "kubetune-system"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def chart(helm: Helm) -> dict[str, Object]:
    """The chart's objects by kind."""
    values = {"crds": {"install": False}, "networkPolicy": {"enabled": True}}
    done = helm("template", "kubetune", str(CHART), f"--namespace={NAMESPACE}", values=values)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in documents(done.stdout)}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector takes an object."""
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels.get(e["key"]) in e["values"]
        for e in selector.get("matchExpressions", [])
        if e["operator"] == "In"
    )


def lets(rules: list[Object], side: str, port: Any, labels: dict[str, str], namespace: str | None) -> bool:
    """Whether rules let something through, to or from a pod; namespace: None for the policy's own."""

    def peer_fits(peer: Object) -> bool:
        if "namespaceSelector" in peer:
            there = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace or ""})
        else:
            there = namespace is None
        return there and selects(peer.get("podSelector", {}), labels)

    return any(
        (side not in rule or any(map(peer_fits, rule[side])))
        and ("ports" not in rule or any(p["port"] == port for p in rule["ports"]))
        for rule in rules
    )


def operators(chart: dict[str, Object]) -> dict[str, str]:
    labels: dict[str, str] = chart["Deployment"]["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("name", [name for name in pods() if name.startswith("jobs/")])
def test_training_pods(chart: dict[str, Object], name: str) -> None:
    labels = pods()[name]["metadata"]["labels"]
    spec = load(EXAMPLES / "training.yaml")["spec"]
    assert selects(spec["podSelector"], labels)
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == []
    [progress] = [p for p in container(chart)["ports"] if p["name"] == "progress"]
    assert lets(spec["egress"], "to", progress["containerPort"], operators(chart), NAMESPACE)
    assert not lets(spec["egress"], "to", progress["containerPort"], operators(chart), "elsewhere")
    assert not lets(spec["egress"], "to", 443, {}, "default")
    # The other end.
    assert lets(chart["NetworkPolicy"]["spec"]["ingress"], "from", "progress", labels, "any")
    assert not selects(load(EXAMPLES / "serving.yaml")["spec"]["podSelector"], labels)


@pytest.mark.parametrize("name", [name for name in pods() if name.startswith("adapterset/")])
def test_serving_pods(chart: dict[str, Object], name: str) -> None:
    labels = pods()[name]["metadata"]["labels"]
    spec = load(EXAMPLES / "serving.yaml")["spec"]
    assert selects(spec["podSelector"], labels)
    assert spec["egress"] == []
    assert lets(spec["ingress"], "from", API_PORT, {"app": "client"}, None)
    assert not lets(spec["ingress"], "from", API_PORT, {"app": "client"}, "elsewhere")
    assert lets(spec["ingress"], "from", ADMIN_PORT, operators(chart), NAMESPACE)
    assert not lets(spec["ingress"], "from", ADMIN_PORT, {"app": "client"}, None)
    assert lets(chart["NetworkPolicy"]["spec"]["egress"], "to", ADMIN_PORT, labels, "any")
    assert not lets(chart["NetworkPolicy"]["spec"]["ingress"], "from", "progress", labels, "any")


def test_the_operators_own(chart: dict[str, Object]) -> None:
    policy = chart["NetworkPolicy"]
    assert selects(policy["spec"]["podSelector"], operators(chart))
    assert policy["metadata"]["namespace"] == NAMESPACE
    named = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert named == {port["name"] for port in container(chart)["ports"]}


def container(chart: dict[str, Object]) -> Object:
    found: Object = chart["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    return found
