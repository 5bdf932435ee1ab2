"""CustomResourceDefinitions that come after the operator, as GitOps may order it, or go and come back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import instance
from dev.cluster.api import Api
from kubetune.api.kinds import KINDS
from kubetune.api.meta import API_VERSION, GROUP
from tests.fixtures.cluster import start_or_skip
from tests.fixtures.crds import CRDS
from tests.fixtures.manifests import load, minimal
from tests.fixtures.operator import NAMESPACE, Operator, eventually

pytestmark = pytest.mark.integration

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
JOBS = f"/apis/{API_VERSION}/namespaces/default/pretrainjobs"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[Api, Operator]]:
    """An API server that knows nothing of us, and an operator on it."""
    running = start_or_skip("api", lambda: instance.start("api", with_parent=True))
    try:
        api = Api(running.kubeconfig)
        api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        operator = Operator(running.kubeconfig, tmp_path / "operator.log")
        operator.start()
        yield api, operator
        assert operator.end() == 0
    finally:
        instance.stop(running.folder)


def install(api: Api, *names: str) -> None:
    for path in sorted(CRDS.glob("*.yaml")):
        definition: Any = load(path)
        if definition["spec"]["names"]["kind"] in names:
            api.create(DEFINITIONS, definition)


def is_reconciled(api: Api, name: str) -> bool:
    return bool((api.get(f"{JOBS}/{name}") or {}).get("status", {}).get("conditions"))


def apply(api: Api, name: str) -> None:
    def created() -> bool:
        job = minimal("PretrainJob")
        job["metadata"]["name"] = name
        return api.call("POST", JOBS, job)[0] == 201

    eventually("the kind is there", created)


def test_it_waits_for_its_kinds_says_so_and_goes_on_without_a_restart(bare: tuple[Api, Operator]) -> None:
    api, operator = bare
    eventually("it says what is missing", lambda: "is not installed" in operator.get("/readyz")[1])
    status, said = operator.get("/readyz")
    assert status == 503
    assert all(f"{kind.plural}.{GROUP}" in said for kind in KINDS)
    assert operator.get("/healthz") == (200, "ok\n")

    install(api, "PretrainJob", "FineTuneJob")
    apply(api, "early")
    missing = f"CustomResourceDefinition adaptersets.{GROUP} is not"
    eventually("one is missing", lambda: missing in operator.get("/readyz")[1])
    install(api, "AdapterSet")
    operator.until_ready()
    eventually("it is reconciled", lambda: is_reconciled(api, "early"), seconds=10)
    apply(api, "late")
    eventually("it is watched", lambda: is_reconciled(api, "late"), seconds=10)
    assert operator.log.read_text().count("started as") == 1

    # By mistake, perhaps: all objects of the kind go with it. Kubernetes starts what has ended anew.
    api.call("DELETE", f"{DEFINITIONS}/pretrainjobs.{GROUP}")
    assert operator.process
    assert operator.process.wait(timeout=60) == 1
    operator.start()
    missing = f"CustomResourceDefinition pretrainjobs.{GROUP} is not"
    # The Lease of the one that ended must be over first.
    eventually("it is missed", lambda: missing in operator.get("/readyz")[1], seconds=60)
    install(api, "PretrainJob")
    apply(api, "again")
    eventually("it is watched again", lambda: is_reconciled(api, "again"), seconds=30)
