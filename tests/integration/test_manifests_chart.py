"""The chart on a real API server, by the real Helm: installed, upgraded, removed; the operator's rights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import build, instance
from tests.fixtures.cluster import Cluster, start_or_skip
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import dump, load, merge, minimal
from tests.fixtures.operator import eventually
from tests.fixtures.schemas import NODES, values_at

pytestmark = pytest.mark.integration

NAMESPACE = "kubetune-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:kubetune"


@pytest.fixture(scope="module")
def empty_api_server() -> Iterator[Cluster]:
    """An API server of its own: no CRDs that Helm has not made."""
    running = start_or_skip("api", lambda: instance.start("api", with_parent=True))
    cluster = Cluster(running.kubeconfig, build.path("kubectl"))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    )
    yield cluster
    instance.stop(running.folder)


def upgrade(helm: Helm, cluster: Cluster, chart: Path) -> None:
    """Without --wait: nothing runs pods here."""
    words = ["upgrade", "kubetune", str(chart), "--install", f"--namespace={NAMESPACE}"]
    done = helm(*words, f"--kubeconfig={cluster.kubeconfig}")
    assert done.returncode == 0, done.stderr


def columns(cluster: Cluster) -> list[str]:
    crd = cluster.get("crd", "pretrainjobs.kubetune.io")
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def test_upgrade_changes_crds_and_uninstall_keeps_them_and_their_objects(
    helm: Helm, empty_api_server: Cluster, tmp_path: Path
) -> None:
    cluster = empty_api_server
    older = tmp_path / "kubetune"
    shutil.copytree(CHART, older)
    path = older / "files" / "crds" / "pretrainjobs.kubetune.io.yaml"
    crd = load(path)
    del crd["spec"]["versions"][0]["additionalPrinterColumns"][1:]
    path.write_text(dump(crd))

    upgrade(helm, cluster, older)
    assert columns(cluster) == ["PHASE"]
    upgrade(helm, cluster, CHART)
    assert columns(cluster)[:3] == ["PHASE", "PROGRESS", "STEP"]

    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.apply(dump(minimal("PretrainJob")))
    done = helm("uninstall", "kubetune", f"--namespace={NAMESPACE}", f"--kubeconfig={cluster.kubeconfig}")
    assert done.returncode == 0, done.stderr
    assert cluster.get("deployments", f"--namespace={NAMESPACE}")["items"] == []
    assert cluster.get("pretrainjob", "minimal")["spec"]["training"]["maxSteps"] == 10

    upgrade(helm, cluster, CHART)
    assert len(cluster.get("deployments", f"--namespace={NAMESPACE}")["items"]) == 1


def test_another_release_takes_over_crds_that_were_kept_as_the_readme_says(
    helm: Helm, empty_api_server: Cluster
) -> None:
    cluster = empty_api_server
    upgrade(helm, cluster, CHART)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.apply(dump(minimal("PretrainJob")))
    where = f"--kubeconfig={cluster.kubeconfig}"
    assert helm("uninstall", "kubetune", f"--namespace={NAMESPACE}", where).returncode == 0

    text = (CHART / "README.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("helm install tuning ")]
    words = [str(CHART) if word == "charts/kubetune" else word for word in line.split()[1:]]
    without = [word for word in words if word != "--take-ownership"]
    refused = helm(*without, where)
    assert refused.returncode != 0
    assert "exists and cannot be imported into the current release" in refused.stderr
    helm("uninstall", "tuning", "--namespace=tuning", where)

    done = helm(*words, where)
    assert done.returncode == 0, done.stderr
    crd = cluster.get("crd", "pretrainjobs.kubetune.io")
    assert crd["metadata"]["annotations"]["meta.helm.sh/release-name"] == "tuning"
    assert cluster.get("pretrainjob", "minimal")["spec"]["training"]["maxSteps"] == 10
    # Beside it, one that leaves the CRDs to it.
    beside = ["install", "second", str(CHART), f"--namespace={NAMESPACE}", "--set=crds.install=false"]
    done = helm(*beside, where)
    assert done.returncode == 0, done.stderr
    for name, namespace in ("second", NAMESPACE), ("tuning", "tuning"):
        assert helm("uninstall", name, f"--namespace={namespace}", where).returncode == 0
    # The tests after this one begin with the first name.
    for plural in ("pretrainjobs", "finetunejobs", "adaptersets"):
        cluster.kubectl(
            "annotate", "--overwrite", "crd", f"{plural}.kubetune.io",
            "meta.helm.sh/release-name=kubetune", f"meta.helm.sh/release-namespace={NAMESPACE}",
        )  # fmt: skip
    cluster.kubectl("delete", "namespace", "tuning", "--wait=false")


FRACTION = 0.5
QUANTITIES = [
    (kind, path.removeprefix("spec."))
    for kind, nodes in NODES.items()
    for path, node in nodes
    # A share of pods is no quantity: there a fraction means nothing.
    if node.get("x-kubernetes-int-or-string") and "podDisruptionBudget" not in path
]


@pytest.mark.parametrize(("kind", "path"), QUANTITIES, ids=str)
def test_a_fraction_without_quotes_is_taken_as_a_pod_takes_it(
    helm: Helm, empty_api_server: Cluster, kind: str, path: str
) -> None:
    cluster = empty_api_server
    if cluster.kubectl("get", "mutatingadmissionpolicy", "quantities.kubetune.io").returncode:
        upgrade(helm, cluster, CHART)
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    change = {"metadata": {"name": "fraction"}, "spec": with_quantity(path, FRACTION)}
    manifest = dump(merge(minimal(kind), change))

    def is_taken() -> bool:
        # A policy is known a moment later.
        done = cluster.kubectl("apply", "--dry-run=server", "--output=json", "--filename=-", input=manifest)
        assert done.returncode == 0 or "must be of type integer,string" in done.stderr, done.stderr
        return done.returncode == 0 and values_at(json.loads(done.stdout), f"spec.{path}") == [str(FRACTION)]

    eventually(f"{path} of {kind} is a string", is_taken, seconds=10)


def with_quantity(path: str, quantity: float) -> Any:
    """A spec with a quantity in a place."""
    value: Any = quantity
    for step in reversed(path.replace("[]", ".[]").split(".")):
        if step != "[]":
            value = {step: value}
            if step == "emptyDir":
                value |= {"name": "scratch"}
            if step == "resources" and "initContainers" in path:
                value |= {"name": "own", "image": "own:1"}
        elif isinstance(value, dict):
            value = [value]
        else:
            value = {"cpu": value}
    return value


def test_what_the_readme_says_removes_everything(helm: Helm, empty_api_server: Cluster) -> None:
    cluster = empty_api_server
    upgrade(helm, cluster, CHART)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.apply(dump(minimal("PretrainJob")))
    # What the operator makes for itself. Nobody collects what is in a namespace here, nor the namespace.
    shared = ["secret/kubetune-progress", "lease/kubetune"]
    names = [f"--namespace={NAMESPACE}", "kubetune-progress"]
    assert cluster.kubectl("create", "secret", "generic", *names).returncode == 0
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "kubetune"}}
    cluster.apply(lease, f"--namespace={NAMESPACE}")

    _, commands, explained = (
        (CHART / "README.md").read_text().rpartition("To remove everything")[2].split("```")
    )
    for line in commands.strip().splitlines():
        program, *words = line.split()
        if "namespace" in words:
            assert all(f"`{each}`" in explained for each in shared)
            words = ["delete", *shared, f"--namespace={NAMESPACE}"]
        if program == "helm":
            done = helm(*words, f"--kubeconfig={cluster.kubeconfig}")
        else:
            assert program == "kubectl"
            done = cluster.kubectl(*words)
        assert done.returncode == 0, (line, done.stderr)

    left = cluster.kubectl("api-resources", "--verbs=list", "--output=name").stdout.split()
    listed = cluster.kubectl("get", ",".join(left), "--all-namespaces", "--output=name", "--ignore-not-found")
    assert [line for line in listed.stdout.splitlines() if "kubetune" in line] == [f"namespace/{NAMESPACE}"]


def test_pods_are_admitted_under_restricted_pod_security(helm: Helm, empty_api_server: Cluster) -> None:
    rendered = helm(
        "template", "kubetune", str(CHART), f"--namespace={NAMESPACE}", "--set=crds.install=false"
    )
    template = next(d for d in documents(rendered.stdout) if d["kind"] == "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "operator"}}
    done = empty_api_server.kubectl(
        "create", f"--namespace={NAMESPACE}", "--dry-run=server", "--filename=-", input=dump(pod)
    )
    assert done.returncode == 0, done.stderr
    assert "PodSecurity" not in done.stderr


# verb, resource, namespace, name
ALLOWED = [
    ("watch", "pretrainjobs.kubetune.io", "tenant", ""),
    ("patch", "pretrainjobs.kubetune.io", "tenant", ""),
    ("delete", "finetunejobs.kubetune.io", "tenant", ""),
    ("patch", "finetunejobs.kubetune.io/status", "tenant", ""),
    ("update", "adaptersets.kubetune.io/finalizers", "tenant", ""),
    ("create", "jobs.batch", "tenant", ""),
    ("delete", "jobs.batch", "tenant", ""),
    ("patch", "deployments.apps", "tenant", ""),
    ("delete", "poddisruptionbudgets.policy", "tenant", ""),
    ("get", "configmaps", "tenant", ""),
    ("get", "persistentvolumeclaims", "tenant", ""),
    ("patch", "pods", "tenant", ""),
    ("create", "tokenreviews.authentication.k8s.io", "", ""),
    ("get", "secrets", NAMESPACE, "kubetune-progress"),
    ("create", "secrets", NAMESPACE, ""),
    ("get", "leases.coordination.k8s.io", NAMESPACE, "kubetune"),
    ("update", "leases.coordination.k8s.io", NAMESPACE, "kubetune"),
    ("create", "leases.coordination.k8s.io", NAMESPACE, ""),
]
FORBIDDEN = [
    ("get", "secrets", "tenant", "kubetune-progress"),
    ("list", "secrets", "tenant", ""),
    ("list", "secrets", NAMESPACE, ""),
    ("get", "secrets", NAMESPACE, "other"),
    ("create", "secrets", "tenant", ""),
    ("update", "leases.coordination.k8s.io", NAMESPACE, "other"),
    ("delete", "leases.coordination.k8s.io", NAMESPACE, "kubetune"),
    ("get", "leases.coordination.k8s.io", "kube-system", "kubetune"),
    ("create", "pods", "tenant", ""),
    ("create", "pods/exec", "tenant", ""),
    ("delete", "pods", "tenant", ""),
    ("patch", "jobs.batch", "tenant", ""),
    ("create", "pretrainjobs.kubetune.io", "tenant", ""),
    ("update", "pretrainjobs.kubetune.io", "tenant", ""),
    ("patch", "adaptersets.kubetune.io", "tenant", ""),
    ("delete", "adaptersets.kubetune.io", "tenant", ""),
    ("list", "configmaps", "tenant", ""),
    ("delete", "persistentvolumeclaims", "tenant", ""),
    ("get", "nodes", "", ""),
    ("create", "serviceaccounts/token", "tenant", ""),
    ("escalate", "clusterroles.rbac.authorization.k8s.io", "", ""),
]


@pytest.mark.parametrize(
    ("answer", "verb", "resource", "namespace", "name"),
    [("yes", *case) for case in ALLOWED] + [("no", *case) for case in FORBIDDEN],
)
def test_the_operator_may_do_this_and_no_more(
    helm: Helm, empty_api_server: Cluster, answer: str, verb: str, resource: str, namespace: str, name: str
) -> None:
    upgrade_once(helm, empty_api_server)
    resource, _, subresource = resource.partition("/")
    words = [verb, f"{resource}/{name}" if name else resource, f"--as={OPERATOR}"]
    words += [f"--namespace={namespace}"] if namespace else []
    words += [f"--subresource={subresource}"] if subresource else []

    def is_so() -> bool:
        # The API server learns of new roles a moment later.
        return empty_api_server.kubectl("auth", "can-i", *words).stdout.strip() == answer

    eventually(f"can-i {verb} {resource}: {answer}", is_so, seconds=5)


def upgrade_once(helm: Helm, cluster: Cluster) -> None:
    if cluster.kubectl("get", "clusterrole", "kubetune").returncode:
        upgrade(helm, cluster, CHART)
