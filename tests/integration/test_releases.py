"""Two releases of kubetune in one cluster: where both would act, only one does, and the other says so."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubetune.controller.rivals import OPERATOR_ANNOTATION, SCOPE_ANNOTATION
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.operator import NAMESPACE, Object, Operator, eventually
from tests.fixtures.world import ROOTS, World, account_kubeconfig

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
SHORT = "--lease-seconds=6"
Start = Callable[..., Operator]


@dataclass(frozen=True)
class Release:
    """Where it is installed, and how its operator reaches the API server."""

    namespace: str
    kubeconfig: Path


@pytest.fixture
def ours(world: World) -> Release:
    """The release that all tests have."""
    return Release(NAMESPACE, world.operator.kubeconfig)


@pytest.fixture
def other(world: World, helm: Helm, tmp_path: Path) -> Iterator[Release]:
    """A second release, with the rights that the chart gives it."""
    api, namespace = world.api, f"{world.namespace}-system"
    api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    values = {"crds": {"install": False}, "rbac": {"aggregate": False}}
    rendered = helm("template", "second", str(CHART), f"--namespace={namespace}", values=values)
    assert rendered.returncode == 0, rendered.stderr
    paths, account = [], ""
    for document in documents(rendered.stdout):
        if document["kind"] in ROOTS:
            root, plural = ROOTS[document["kind"]]
            where = document["metadata"].get("namespace")
            path = f"{root}{f'/namespaces/{where}' if where else ''}/{plural}"
            api.create(path, document)
            account = document["metadata"]["name"] if plural == "serviceaccounts" else account
            paths.append(f"{path}/{document['metadata']['name']}")
    yield Release(namespace, account_kubeconfig(api, world.operator.kubeconfig, tmp_path, namespace, account))
    for path in [*paths, f"/api/v1/namespaces/{namespace}"]:
        world.delete(path)


@pytest.fixture
def start(world: World, other: Release, tmp_path: Path) -> Iterator[Start]:
    """Starts operators of either release; the operator of other tests rests meanwhile.

    They end before the other release is removed.
    """
    world.operator.end()
    started: list[Operator] = []

    def one(release: Release, *options: str) -> Operator:
        log = tmp_path / f"{len(started)}.log"
        settings = [f"--namespace={release.namespace}", SHORT, *options]
        operator = Operator(release.kubeconfig, log, options=settings)
        operator.start()
        started.append(operator)
        return operator

    yield one
    for operator in started:
        assert operator.process
        operator.process.terminate()
        operator.process.wait(timeout=10)
    world.operator.start()
    world.operator.until_ready()


def until_refused(operator: Operator, scope: str, namespace: str) -> None:
    told = f"another release of kubetune acts in {scope}: its Lease kubetune is in namespace {namespace}."

    def says() -> bool:
        status, text = operator.get("/readyz")
        return status == 503 and text.startswith(told) and "watchNamespaces" in text

    eventually(f"it is refused: {told}", says, seconds=60)


def written_by(operator: Operator) -> set[str]:
    """Kinds of objects that it has written; a review leaves nothing behind."""
    told = operator.get("/metrics")[1]
    found = set(re.findall(r'^kubetune_api_writes_total{resource="([^"]+)"', told, re.MULTILINE))
    assert found, told
    return {resource for resource in found if not resource.endswith("reviews")}


def test_only_one_of_two_releases_acts(world: World, start: Start, ours: Release, other: Release) -> None:
    first = start(ours)
    first.until_ready()
    world.serve("set", replicas=0, baseModel={"name": "base", "uri": "pvc://models/base"})
    world.until_phase("set", "ScaledToZero", "AdapterSet")

    # As wide as the first, or within its scope.
    whole = start(other)
    until_refused(whole, "the whole cluster", NAMESPACE)
    part = start(other, f"--watch-namespace={world.namespace}")
    until_refused(part, f"namespace {world.namespace}", NAMESPACE)
    assert whole.get("/healthz") == (200, "ok\n")
    written = len(world.writes())
    version = world.get(world.ours("AdapterSet", "set"))["metadata"]["resourceVersion"]
    time.sleep(8)
    # Nothing flips, and what waits has written nothing at all, not even its own Lease.
    assert world.get(world.ours("AdapterSet", "set"))["metadata"]["resourceVersion"] == version
    assert len(world.writes()) == written
    assert world.api.get(f"{LEASES.format(other.namespace)}/kubetune") is None
    for waiting in (whole, part):
        assert waiting.metric("kubetune_leader") == 0
        assert written_by(waiting) <= {"secrets"}

    # The first goes: one of the others leads, and keeps the first from leading when it comes back.
    assert part.end() == 0
    assert first.end() == 0
    whole.until_ready()
    again = start(ours)
    until_refused(again, "the whole cluster", other.namespace)
    world.pretrain("job", "succeed")
    assert world.until_phase("job", "Succeeded", seconds=60)["attempts"] == 1
    assert whole.end() == 0
    again.until_ready()


def test_scopes_that_do_not_overlap_live_side_by_side(
    world: World, start: Start, ours: Release, other: Release
) -> None:
    first = start(ours, "--watch-namespace=default")
    first.until_ready()
    second = start(other, f"--watch-namespace={world.namespace}")
    second.until_ready()
    assert first.metric("kubetune_leader") == second.metric("kubetune_leader") == 1


def test_a_lease_that_anybody_may_make_stops_nobody(world: World, start: Start, ours: Release) -> None:
    forged: dict[str, Object] = {
        world.namespace: {OPERATOR_ANNOTATION: f"system:serviceaccount:{world.namespace}:default"},
        "default": {
            SCOPE_ANNOTATION: "*",
            OPERATOR_ANNOTATION: f"system:serviceaccount:{NAMESPACE}:kubetune",
        },
        "kube-public": {},
    }
    spec = {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}
    for namespace, annotations in forged.items():
        lease = {"metadata": {"name": "kubetune", "annotations": annotations}, "spec": spec}
        world.create(LEASES.format(namespace), lease)
    start(ours).until_ready()
    for namespace in forged:
        world.delete(f"{LEASES.format(namespace)}/kubetune")


def test_of_two_that_start_at_once_one_leads(start: Start, ours: Release, other: Release) -> None:
    both = [start(ours), start(other)]
    eventually("one leads", lambda: sum(o.metric("kubetune_leader") for o in both) == 1, seconds=60)
    for _ in range(10):
        assert sum(o.metric("kubetune_leader") for o in both) == 1
        time.sleep(0.5)
