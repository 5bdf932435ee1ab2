"""Bases and examples that lie in a store, on a hub and on a web server, read from real pods with Secrets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.cluster.network import BRIDGE_ADDRESS
from dev.kubectl import Kubectl
from tests.e2e import jobs, observe
from tests.fixtures.data_sets import DATA_SETS
from tests.fixtures.s3 import Store, Wire
from tests.fixtures.web import File, FileServer, Hub, certificate, server_tls

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = jobs.examples()["data"]["pairs.jsonl"]
REPOSITORY = "models/acme/home"


class World:
    """The three servers, at an address that pods reach, with the files of a base and the examples."""

    def __init__(self, store: Store, hub: Hub, web: FileServer, authority: str) -> None:
        self.store, self.hub, self.web = store, hub, web
        self.authority = authority
        self.bucket = store.bucket()

    def publish(self, base: Path) -> None:
        """Put a base and the examples everywhere."""
        files = {path.name: path.read_bytes() for path in base.iterdir() if path.is_file()}
        self.hub.commit(REPOSITORY, files)
        for name, content in files.items():
            self.store.put(f"{self.bucket}/home/{name}", content)
        self.store.put(f"{self.bucket}/pairs.jsonl", EXAMPLES.encode())
        self.web.files["/pairs.jsonl"] = File(EXAMPLES.encode(), authorization="Bearer open sesame")

    def secrets(self) -> list[dict[str, Any]]:
        """A Secret for each."""
        trust = {"ca.crt": self.authority}
        return [
            secret("store", self.store.keys),
            secret("hub", {"HF_ENDPOINT": self.hub.url} | trust),
            secret("web", {"token": "open sesame"} | trust),
        ]


def secret(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


@pytest.fixture(scope="module")
def world(kubectl: Kubectl, s3_server: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    identity = certificate(BRIDGE_ADDRESS)
    tls = server_tls(identity, tmp_path_factory.mktemp("tls"))
    hub, web, storage = Hub(tls), FileServer(tls), FileServer(tls)
    for server in (hub, web, storage):
        server.host = BRIDGE_ADDRESS
    hub.storage = storage
    with Wire(s3_server, BRIDGE_ADDRESS) as wire, hub, web, storage:
        yield World(Store(s3_server, wire), hub, web, identity.authority)


@pytest.fixture(scope="module")
def near(kubectl: Kubectl, world: World) -> str:
    """SHA-256 of an adapter that was trained on what lies on a claim and in a ConfigMap."""
    observe.apply(kubectl, jobs.pretrain("home"), jobs.finetune("near", "home"))
    observe.until_condition(kubectl, "finetunejob/near", "Complete", timeout=240)
    world.publish(observe.claim_path(kubectl, observe.status(kubectl, "pretrainjob/home")["artifact"]["uri"]))
    return observe.weights_sha256(kubectl, "finetunejob/near")


def remote(name: str, base: str, base_secret: str, data: str, data_secret: str) -> dict[str, Any]:
    source = {"name": "pairs", "uri": data, "format": "alpaca", "secretRef": {"name": data_secret}}
    return jobs.finetune(
        name,
        "",
        baseModel={"uri": base, "secretRef": {"name": base_secret}},
        data={"sources": [source], "sequenceLength": 64},
        compute={"resourcesPerNode": jobs.RESOURCES, "cache": {"uri": "pvc://models/cache"}},
    )


def test_a_base_from_the_hub_and_examples_from_a_store_once_their_secrets_exist(
    kubectl: Kubectl, world: World, near: str
) -> None:
    job = remote("far", "hf://acme/home", "hub", f"s3://{world.bucket}/pairs.jsonl", "store")
    observe.apply(kubectl, job)
    missing = observe.until_condition(kubectl, "finetunejob/far", "ResourcesReady", "False", "SecretNotFound")
    assert "hub" in missing["message"] or "store" in missing["message"]
    observe.apply(kubectl, *world.secrets())
    observe.until_condition(kubectl, "finetunejob/far", "Complete", timeout=300)
    assert observe.weights_sha256(kubectl, "finetunejob/far") == near
    assert observe.status(kubectl, "finetunejob/far")["attempts"] == 1


@pytest.mark.long
def test_a_base_from_the_store_is_copied_once_and_examples_come_from_the_web(
    kubectl: Kubectl, world: World, near: str
) -> None:
    observe.apply(kubectl, *world.secrets())
    url = f"{world.web.url}/pairs.jsonl"
    before = world.store.wire.answered
    observe.apply(kubectl, remote("first", f"s3://{world.bucket}/home", "store", url, "web"))
    observe.until_condition(kubectl, "finetunejob/first", "Complete", timeout=240)
    between = world.store.wire.answered
    observe.apply(kubectl, remote("second", f"s3://{world.bucket}/home", "store", url, "web"))
    observe.until_condition(kubectl, "finetunejob/second", "Complete", timeout=240)
    after = world.store.wire.answered
    assert between - before > 100_000
    assert after - between < 20_000  # a listing
    for name in ("first", "second"):
        assert observe.weights_sha256(kubectl, f"finetunejob/{name}") == near


def test_refused_credentials_are_told_and_not_retried(kubectl: Kubectl, world: World, near: str) -> None:
    observe.apply(
        kubectl, secret("wrong", {"token": "open barley", "ca.crt": world.authority}), *world.secrets()
    )
    job = remote("stranger", f"s3://{world.bucket}/home", "store", f"{world.web.url}/pairs.jsonl", "wrong")
    observe.apply(kubectl, job)
    observe.until_condition(kubectl, "finetunejob/stranger", "Failed", timeout=120)
    status = observe.status(kubectl, "finetunejob/stranger")
    assert (status["failure"]["reason"], status["attempts"]) == ("DataError", 1)
    assert "Secret wrong" in status["failure"]["message"]
    assert "barley" not in str(status)


def test_public_benchmarks_are_measured_before_and_after(kubectl: Kubectl, world: World, near: str) -> None:
    observe.apply(kubectl, *world.secrets())
    [example] = YAML(typ="safe").load_all(Path("examples/evaluation/lm-eval.yaml"))
    for repository, files in DATA_SETS.items():
        world.hub.commit(f"datasets/{repository}", files)
    wanted = {**example["spec"]["evaluation"]["lmEval"], "tasks": ["arc_easy"], "secretRef": {"name": "hub"}}
    observe.apply(kubectl, jobs.finetune("measured", "home", evaluation={"lmEval": wanted}))
    observe.until_condition(kubectl, "finetunejob/measured", "Complete", timeout=300)
    found = observe.status(kubectl, "finetunejob/measured")["evaluation"]
    for values in (found["baseline"], found["tuned"]):
        shares = {v["name"]: float(v["value"]) for v in values if v["name"].startswith("arc_easy/")}
        assert sorted(shares) == ["arc_easy/acc", "arc_easy/acc_norm"]
        assert all(0 <= share <= 1 for share in shares.values())
