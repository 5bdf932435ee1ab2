"""`helm upgrade` while jobs run and models are served: no pod of theirs is touched, and what runs goes on."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree

import pytest

from dev.cluster import instance
from dev.cluster.api import Api
from kubetune.api.meta import API_VERSION
from kubetune.desired.adapterset_keep import TEMPLATE_ANNOTATION
from tests.fixtures.cluster import start_or_skip
from tests.fixtures.helm import CHART, Helm
from tests.fixtures.node import PlayedNode
from tests.fixtures.operator import NAMESPACE, Object, Operator, eventually
from tests.fixtures.world import ACCOUNT, World, account_kubeconfig

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/kubetune"
OURS = ("KUBETUNE_NAMESPACE", "KUBETUNE_PROGRESS_URL", "KUBETUNE_PROGRESS_PORT", "KUBETUNE_HTTP_PORT")
"""Variables that the test sets itself: the operator runs beside the cluster, not in it."""
CHILDREN = {
    "jobs": "/apis/batch/v1", "deployments": "/apis/apps/v1", "replicasets": "/apis/apps/v1",
    "services": "/api/v1", "configmaps": "/api/v1", "pods": "/api/v1",
}  # fmt: skip


@dataclass
class Release:
    """The chart in a cluster, and the operator as its Deployment says."""

    helm: Helm
    admin: Path
    world: World
    folder: Path

    def upgrade(self, chart: Path, tag: str) -> None:
        """Install or upgrade to images of another tag; returns without waiting."""
        image = {"repository": "example.org/kubetune", "tag": tag}
        values: Object = {"image": image, "trainer": {"image": image}, "engine": {"image": image}}
        words = [
            "upgrade",
            "kubetune",
            str(chart),
            "--install",
            f"--namespace={NAMESPACE}",
            "--create-namespace",
        ]
        done = self.helm(*words, f"--kubeconfig={self.admin}", values=values)
        assert done.returncode == 0, done.stderr

    def start(self, tag: str) -> Operator:
        """One replica, with the settings of the Deployment's containers."""
        deployment = self.world.get(DEPLOYMENT)
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"].endswith(f":{tag}")
        # The API server stores no empty value.
        settings = {e["name"]: e["value"] for e in container["env"] if e["name"] not in OURS and "value" in e}
        flags = [
            f"--{n.removeprefix('KUBETUNE_').replace('_', '-').lower()}={v}" for n, v in settings.items()
        ]
        kubeconfig = account_kubeconfig(self.world.api, self.admin, self.folder)
        operator = Operator(kubeconfig, self.folder / f"{tag}.log", options=flags)
        operator.start()
        return operator


@pytest.fixture
def release(helm: Helm, tmp_path: Path) -> Iterator[Release]:
    running = start_or_skip(
        "control-plane", lambda: instance.start("control-plane", audit=True, with_parent=True)
    )
    api = Api(running.kubeconfig)
    node = PlayedNode(api)
    node.start()
    nobody = Operator(running.kubeconfig, tmp_path / "log")
    world = World(api, nobody, node, running.folder / "log" / "audit.log")
    yield Release(helm, running.kubeconfig, world, tmp_path)
    node.stop()
    instance.stop(running.folder)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The chart of an earlier version."""
    chart = tmp_path / "older"
    copytree(CHART, chart)
    path = chart / "Chart.yaml"
    path.write_text(path.read_text().replace("0.1.0", "0.0.9"))
    return chart


def children(world: World) -> Object:
    """All that the operator has made in a namespace, and all that was made of that, without statuses."""
    found = {}
    for plural, root in CHILDREN.items():
        for item in world.list(world.path(plural, root=root)):
            meta, name = item["metadata"], f"{plural} {item['metadata']['name']}"
            found[name] = {key: meta.get(key) for key in ("uid", "generation", "annotations", "labels")}
            found[name]["content"] = {key: item.get(key) for key in ("spec", "data")}
    return found


def written(world: World, operator: Operator) -> list[str]:
    """What a replica has written in the namespace, but for statuses and events."""
    identity = operator.log.read_text().partition("started as ")[2].partition('"')[0]
    found = []
    for line in world.audit_log.read_text().splitlines():
        entry = json.loads(line)
        target = entry.get("objectRef", {})
        if (
            entry["user"]["username"] == ACCOUNT
            and identity in entry["userAgent"]
            and target.get("namespace") == world.namespace
            and entry["verb"] not in ("get", "list", "watch")
            and target.get("subresource") != "status"
            and target["resource"] != "events"
        ):
            found.append(f"{entry['verb']} {target['resource']} {target.get('name')}")
    return found


def serve(world: World, name: str) -> None:
    digest = "sha256:" + "0" * 64
    spec = {"baseModel": {"name": "base", "uri": "pvc://models/base", "digest": digest}}
    body = {"apiVersion": API_VERSION, "kind": "AdapterSet", "metadata": {"name": name}, "spec": spec}
    world.create(world.ours("AdapterSet"), body)


def serving_pods(world: World) -> list[Object]:
    """Those that run."""
    found = world.list(world.path("pods"), "kubetune.io/kind=AdapterSet")
    return [pod for pod in found if pod["status"].get("phase") == "Running"]


def until_looked(operator: Operator, resources: int) -> None:
    """Wait until a replica leads and has looked at everything."""
    operator.until_ready()
    eventually("it has looked", lambda: operator.metric("kubetune_reconciles_total") >= resources)
    eventually("nothing waits", lambda: operator.metric("kubetune_queue_depth") == 0)
    time.sleep(1)


def test_an_upgrade_restarts_nothing_and_what_runs_goes_on(release: Release, older: Path) -> None:
    release.upgrade(older, "one")
    first = release.start("one")
    first.until_ready()
    world = release.world = replace(release.world, operator=first).new_namespace()
    world.pretrain("done", "succeed")
    world.pretrain("running")
    serve(world, "s")
    world.until_phase("done", "Succeeded")
    world.until_phase("running", "Running")
    eventually("it serves", lambda: serving_pods(world))
    until_looked(first, 3)
    before = children(world)
    [served] = serving_pods(world)

    # As a rolling update does it: the new one stands by, then the old one is stopped.
    release.upgrade(CHART, "two")
    second = release.start("two")
    second.until_standing_by()
    assert first.end(signal.SIGTERM) == 0
    until_looked(second, 3)
    assert children(world) == before
    assert written(world, second) == []
    assert written(world, first), "the audit log tells who wrote"
    assert world.condition("s", "Progressing", "AdapterSet")["reason"] in ("UpdateAvailable", "PodsStarting")

    # A Deployment that an operator made which noted nothing down is not rolled either.
    path = world.path("deployments", "s", root="/apis/apps/v1")
    world.patch(path, {"metadata": {"annotations": {TEMPLATE_ANNOTATION: None}}})
    eventually("it is noted", lambda: TEMPLATE_ANNOTATION in world.get(path)["metadata"]["annotations"])
    until_looked(second, 3)
    assert {n: c["content"] for n, c in children(world).items()} == {
        n: c["content"] for n, c in before.items()
    }

    # What runs goes on, and what is new is of the new version.
    world.node.plays[world.namespace, "running"] = ["succeed"]
    assert world.until_phase("running", "Succeeded")["attempts"] == 1
    world.pretrain("new", "run")
    assert image(world.pod("new"), "trainer").endswith(":two")

    # The user's word brings serving pods up to date.
    assert image(served, "gateway").endswith(":one")
    restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    world.patch(path, {"spec": {"template": {"metadata": {"annotations": restarted}}}})
    eventually("newer pods", lambda: [p for p in serving_pods(world) if image(p, "gateway").endswith(":two")])
    assert second.end(signal.SIGTERM) == 0


def image(pod: Object, container: str) -> str:
    [found] = [c for c in pod["spec"]["containers"] if c["name"] == container]
    return str(found["image"])
