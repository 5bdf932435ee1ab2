"""The operator uses every right that the chart gives it, and needs no other.

Every path that talks to the API server is gone once, and the audit log tells which rights that took. A new
right needs a new line in `used`. What is denied fails the session: see the fixture `operator_world`.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kubetune.api.table import ADMIN_PORT, GatewayState
from kubetune.controller.client import PATHS
from kubetune.controller.rivals import OPERATOR_ANNOTATION
from tests.fixtures.audit import Use, uses
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.operator import NAMESPACE, Operator, eventually
from tests.fixtures.trainer import Trainer
from tests.fixtures.world import ACCOUNT, World

pytestmark = pytest.mark.integration

OWNERS = {
    Use("kubetune.io", f"{plural}/finalizers", "update")
    for plural in ("pretrainjobs", "finetunejobs", "adaptersets")
}
"""Asked for by an admission plugin when a child names its owner, so no request of its own: without them this
API server, which has the plugin, would refuse every child."""
ITSELF = Use("authentication.k8s.io", "selfsubjectreviews", "create")
"""Whoever is authenticated may ask who he is."""
GATEWAY = "127.77.0.1"


@pytest.fixture
def granted(helm: Helm) -> set[Use]:
    """What the chart gives the operator."""
    done = helm(
        "template", "kubetune", str(CHART), f"--namespace={NAMESPACE}", values={"crds": {"install": False}}
    )
    rules = [
        rule
        for document in documents(done.stdout)
        if document["kind"] in ("ClusterRole", "Role") and document["metadata"]["name"] == "kubetune"
        for rule in document["rules"]
    ]
    return {
        Use(*use)
        for rule in rules
        for use in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


@pytest.fixture
def used(world: World, tmp_path: Path) -> set[Use]:
    """Every path, once."""
    run_a_chain(world)
    report_progress(world)
    refuse_pods(world)
    end_jobs(world)
    serve(world)
    doubt_another_release(world)
    renew_the_certificate(world, tmp_path / "second.log")
    return uses(world.audit_log, ACCOUNT)


def test_no_right_is_left_unused_and_no_other_is_used(granted: set[Use], used: set[Use]) -> None:
    assert granted - used - OWNERS == set()
    # Whoever is authenticated may ask what there is.
    assert used - granted - {ITSELF} == set()


def test_every_kind_that_the_client_knows_is_granted(granted: set[Use]) -> None:
    kinds = {use.resource.partition("/")[0] for use in granted | {ITSELF}}
    assert {path.plural for path in PATHS.values()} == kinds


def end_jobs(world: World) -> None:
    """By suspension, and by expiry with all that they wrote."""
    world.pretrain("paused", "run")
    world.pod("paused")
    world.patch(world.ours("PretrainJob", "paused"), {"spec": {"suspend": True}})
    world.until_phase("paused", "Suspended")
    brief = {
        "ttlSecondsAfterFinished": 0,
        "output": {"storageUri": "pvc://models", "reclaimPolicy": "Delete"},
    }
    world.pretrain("brief", "succeed", **brief)
    world.finetune("brief", "succeed", base={"uri": "pvc://models/base"}, **brief)
    for kind in ("PretrainJob", "FineTuneJob"):
        path = world.ours(kind, "brief")
        eventually(f"{path} is gone", lambda path=path: world.api.get(path) is None)


def run_a_chain(world: World) -> None:
    world.config_map("pairs", **{"train.jsonl": "{}"})
    pairs = {"name": "pairs", "uri": "configmap://pairs/train.jsonl", "format": "alpaca"}
    world.pretrain("base", "succeed")
    world.finetune(
        "tuned",
        "exit 1",
        "succeed",
        base={"jobRef": {"kind": "PretrainJob", "name": "base"}},
        data={"sources": [pairs]},
    )
    world.until_phase("tuned", "Succeeded", "FineTuneJob", seconds=90)


def report_progress(world: World) -> None:
    world.pretrain("running")
    trainer = Trainer(world, "running")
    assert trainer.post({"trainerStatus": {"progressPercentage": 1}}) == 200
    eventually("the post is shown", trainer.shown)


def refuse_pods(world: World) -> None:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"count/pods": "0"}},
    }  # fmt: skip
    world.create(world.path("resourcequotas"), quota)
    eventually("the quota is known", lambda: world.get(world.path("resourcequotas", "none")).get("status"))
    world.pretrain("poor")
    world.until_condition("poor", "ResourcesReady", "PodsRefused")
    world.delete(world.path("resourcequotas", "none"))


def serve(world: World) -> None:
    """A set whose pod has read another table: it is told of the right one."""
    # Nobody schedules it; the test says what a kubelet would.
    engine = {"podTemplate": {"schedulerName": "nobody"}}
    base = {"name": "base", "jobRef": {"kind": "PretrainJob", "name": "base"}}
    body = {"apiVersion": "kubetune.io/v1alpha1", "kind": "AdapterSet", "metadata": {"name": "served"}}
    spec = {"baseModel": base, "engine": engine, "podDisruptionBudget": {"minAvailable": 1}}
    world.create(world.ours("AdapterSet"), body | {"spec": spec})

    def pods() -> list[str]:
        found = world.list(world.path("pods"), "kubetune.io/kind=AdapterSet")
        return [pod["metadata"]["name"] for pod in found]

    [name] = eventually("there is a pod", pods)
    running = {"name": "gateway", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    running["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    status = {
        "phase": "Running",
        "podIP": GATEWAY,
        "podIPs": [{"ip": GATEWAY}],
        "containerStatuses": [running],
    }
    with gateway(GatewayState(table_digest="sha256:another", engine_ready=True)):
        world.patch(f"{world.path('pods', name)}/status", {"status": status})
        eventually(
            "the pod is told of its table",
            lambda: (
                "kubetune.io/table" in world.get(world.path("pods", name))["metadata"].get("annotations", {})
            ),
        )
    budget = world.path("poddisruptionbudgets", "served", root="/apis/policy/v1")
    assert world.get(budget)["spec"]["minAvailable"] == 1
    world.patch(world.ours("AdapterSet", "served"), {"spec": {"replicas": 0, "podDisruptionBudget": None}})
    eventually("it is scaled", lambda: not pods())
    eventually("there is no budget any more", lambda: world.api.get(budget) is None)


@contextmanager
def gateway(state: GatewayState) -> Iterator[None]:
    """Answers for the gateway of a pod."""
    text = json.dumps(state.wire()).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((GATEWAY, ADMIN_PORT), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def doubt_another_release(world: World) -> None:
    """A Lease that anybody may make: whether it is an operator's is asked before this one leads."""
    account = f"system:serviceaccount:{world.namespace}:default"
    forged = {
        "metadata": {"name": "kubetune", "annotations": {OPERATOR_ANNOTATION: account}},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600},
    }
    world.create(world.path("leases", root="/apis/coordination.k8s.io/v1"), forged)
    world.operator.end()
    world.operator.start()
    world.operator.until_ready()


def renew_the_certificate(world: World, log: Path) -> None:
    """An operator whose certificate has to be for another name. It keeps the authority, so nobody notices."""
    second = Operator(world.operator.kubeconfig, log)
    second.start(progress_url="https://another.kubetune-system.svc:8443")
    second.until_standing_by()
    assert second.end() == 0
    assert "certificate of the progress receiver issued for another" in log.read_text()
