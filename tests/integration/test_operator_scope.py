"""An operator that watches single namespaces, under the rights that the chart gives it for that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.api import Api
from tests.fixtures.cluster import Cluster
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import dump, merge, minimal
from tests.fixtures.operator import NAMESPACE, Operator, eventually
from tests.fixtures.world import account_kubeconfig

pytestmark = pytest.mark.integration

WATCHED = ("scope-a", "scope-b")
SPEC = {
    "spec": {
        "data": {"mixture": [{"name": "a", "uri": "pvc://models/a"}]},
        "output": {"storageUri": "pvc://models"},
    }
}


@pytest.fixture(scope="module")
def scoped(crds: Cluster, helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("scope")
    for name in (NAMESPACE, *WATCHED, "scope-other"):
        crds.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    values = {"crds": {"install": False}, "watchNamespaces": [*WATCHED], "rbac": {"aggregate": False}}
    rendered = helm("template", "kubetune", str(CHART), f"--namespace={NAMESPACE}", values=values)
    assert rendered.returncode == 0, rendered.stderr
    rights = [d for d in documents(rendered.stdout) if "Role" in d["kind"] or d["kind"] == "ServiceAccount"]
    crds.apply("---\n".join(map(dump, rights)))
    kubeconfig = account_kubeconfig(Api(crds.kubeconfig), crds.kubeconfig, folder)
    options = ["--resync-seconds=10", *(f"--watch-namespace={name}" for name in WATCHED)]
    operator = Operator(kubeconfig, folder / "operator.log", options=options)
    operator.start()
    operator.until_ready()
    yield operator
    operator.end()


def test_it_reconciles_in_its_namespaces_and_nowhere_else(scoped: Operator, crds: Cluster) -> None:
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    for name in ("scope-other", *WATCHED):
        crds.apply(claim, f"--namespace={name}")
        crds.apply(dump(merge(minimal("PretrainJob"), SPEC)), f"--namespace={name}")
    for name in WATCHED:
        eventually(
            f"there is a child in {name}",
            lambda name=name: crds.get("jobs.batch", f"--namespace={name}")["items"],
        )
    assert crds.get("jobs.batch", "--namespace=scope-other")["items"] == []
    assert crds.get("pretrainjob", "minimal", "--namespace=scope-other")["status"] == {
        "observedGeneration": -1
    }


def test_it_asks_for_nothing_that_it_may_not(scoped: Operator) -> None:
    age = scoped.metric("kubetune_resync_age_seconds")
    eventually("it has listed once more", lambda: scoped.metric("kubetune_resync_age_seconds") < age + 1)
    said = Path(scoped.log).read_text()
    assert "orbidden" not in said, said
