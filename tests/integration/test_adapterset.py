"""An AdapterSet from apply to served, and what can go wrong, on a real API server with the real operator."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.operator import NAMESPACE, Operator
from tests.integration.serving_world import World, adapter, condition, custom, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mount namespaces")

SPEC = {
    "baseModel": {"name": "base", "jobRef": {"kind": "PretrainJob", "name": "base"}},
    "adapters": [
        {"name": "explain", "source": {"jobRef": {"name": "explain"}}},
        {"name": "kind", "source": {"jobSelector": {"matchLabels": {"adapter": "kind"}}}},
    ],
}
KIND = {"adapter": "kind"}


@pytest.fixture(scope="module")
def operator(crds: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    crds.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    operator = Operator(crds.kubeconfig, tmp_path_factory.mktemp("operator") / "log")
    operator.start()
    operator.until_ready()
    yield operator
    operator.end()


@pytest.fixture
async def world(operator: Operator, crds: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as session:
        world = World(crds, namespace, tmp_path, session)
        yield world
        await world.stop()


@pytest.fixture
async def serving(world: World) -> AsyncIterator[World]:
    """The set of SPEC, served by one pod."""
    await world.claim()
    await world.base_job()
    await world.adapter_job("explain")
    await world.adapter_job("kind-v1", labels=KIND)
    await world.apply(custom("AdapterSet", "s", SPEC))
    await world.finish_base()
    await world.finish("explain", 1)
    await world.finish("kind-v1", 2)
    await eventually(lambda: exists(world, "deployment", "s"))
    await world.play("s")
    await world.roll_out("s")
    kubelet = asyncio.create_task(world.kubelet("s"))
    await world.until("s", lambda s: s.get("phase") == "Ready")
    yield world
    kubelet.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await kubelet


async def exists(world: World, kind: str, name: str) -> bool:
    return name in await world.names(kind)


async def edit(world: World, **spec: object) -> None:
    await world.apply(custom("AdapterSet", "s", {**SPEC, **spec}))


async def test_it_waits_for_its_base_then_serves_what_is_there_then_the_rest(world: World):
    await world.claim()
    await world.apply(custom("AdapterSet", "s", SPEC))
    status = await world.until("s", lambda s: s.get("phase") == "WaitingForDependency")
    assert condition(status, "Resolved")["reason"] == "JobNotFound"
    assert "PretrainJob base does not exist: create it" in condition(status, "Resolved")["message"]
    assert await world.names("deployment") == []

    await world.base_job()
    await world.adapter_job("explain", rank=30)
    await world.adapter_job("kind-v1", labels=KIND)
    await world.finish_base()
    await world.finish("kind-v1", 2)
    # The engine starts while a job still runs, and makes room for what it will bring.
    await eventually(lambda: exists(world, "deployment", "s"))
    deployment = await world.get("deployment", "s")
    assert "--max-lora-rank=32" in deployment["spec"]["template"]["spec"]["initContainers"][1]["args"]
    await world.play("s")
    await world.roll_out("s")
    kubelet = asyncio.create_task(world.kubelet("s"))
    status = await world.until("s", lambda s: s.get("loaded") == "1/2")
    assert (status["phase"], status["ready"]) == ("WaitingForDependency", "1/1")
    assert adapter(status, "explain")["reason"] == "JobNotComplete"
    assert adapter(status, "kind")["ready"] == 1

    await world.finish("explain", 1, rank=8)
    status = await world.until("s", lambda s: s.get("phase") == "Ready")
    assert (status["ready"], status["loaded"]) == ("1/1", "2/2")
    judged = {c["type"] for c in status["conditions"] if c["status"] == "True"}
    assert judged == {"Ready", "Resolved", "Loaded", "Available"}
    assert status["endpoint"] == f"http://s.{world.namespace}.svc:8000"
    after = await world.get("deployment", "s")
    assert after["metadata"]["generation"] == deployment["metadata"]["generation"], "adapters never roll pods"
    kubelet.cancel()


async def test_a_newer_version_goes_live_within_seconds_and_the_older_one_can_be_pinned(serving: World):
    [pod] = serving.pods.values()
    client = serving.client(pod)
    v1 = adapter(await serving.status("s"), "kind")["digest"]
    await serving.adapter_job("kind-v2", labels=KIND)
    finishing = asyncio.create_task(serving.finish("kind-v2", 3))
    async with asyncio.timeout(20):
        while v1[7:15] in (await client.complete("kind"))[1]["choices"][0]["text"]:
            await asyncio.sleep(0.01)
    answered = time.monotonic() - serving.completed
    await finishing
    status = await serving.until(
        "s", lambda s: adapter(s, "kind").get("job") == "kind-v2" and s["phase"] == "Ready"
    )
    print(f"\nfigure: job Complete to answer by the new version: {answered:.2f} s")
    print(f"figure: job Complete to AdapterSet Ready with it: {time.monotonic() - serving.completed:.2f} s")
    v2 = adapter(status, "kind")["digest"]
    assert v1 != v2

    pinned = {**SPEC["adapters"][1], "digest": v1}
    await edit(serving, adapters=[SPEC["adapters"][0], pinned])
    await serving.until("s", lambda s: adapter(s, "kind").get("digest") == v1 and s["phase"] == "Ready")
    assert v1[7:15] in (await client.complete("kind"))[1]["choices"][0]["text"]


async def test_what_is_resolved_stays_when_its_jobs_are_deleted(serving: World):
    before = await serving.status("s")
    await serving.kubectl("delete", "finetunejobs,pretrainjobs", "--all")
    await edit(serving, replicas=1, service={"port": 9000})
    status = await serving.until("s", lambda s: s["endpoint"].endswith(":9000") and s["phase"] == "Ready")
    assert [a["digest"] for a in status["adapters"]] == [a["digest"] for a in before["adapters"]]


async def test_wrong_adapters_are_reported_never_loaded_and_recover_once_mended(serving: World):
    [pod] = serving.pods.values()
    await serving.adapter_job("foreign")
    await serving.finish("foreign", 7, base_digest="sha256:" + "f" * 64)
    forged = await serving.finish_folder("forged", 8)
    config = serving.volume / "forged" / "adapter_config.json"
    good = config.read_text()
    config.write_text("{}")
    bad = [
        {"name": "foreign", "source": {"jobRef": {"name": "foreign"}}},
        {"name": "forged", "source": {"uri": "pvc://models/forged"}, "digest": forged},
        {"name": "absent", "source": {"uri": "pvc://nowhere/x"}, "digest": forged},
    ]
    await edit(serving, adapters=SPEC["adapters"] + bad)
    reasons = {"foreign": "BaseModelMismatch", "forged": "DigestMismatch", "absent": "ClaimNotFound"}
    status = await serving.until(
        "s", lambda s: all(adapter(s, n).get("reason") == r for n, r in reasons.items())
    )
    assert (status["phase"], status["loaded"]) == ("Degraded", "2/5")
    assert adapter(status, "forged")["failing"][0]["pod"] == pod.name
    assert condition(status, "Loaded")["status"] == "False"
    assert not [c for c in pod.engine.calls if "fo" in c]
    assert await serving.client(pod).models() == ["base", "explain", "kind"]

    config.write_text(good)
    await serving.until("s", lambda s: adapter(s, "forged").get("ready") == 1)


async def test_a_settled_set_is_not_written(serving: World, operator: Operator):
    # What is written again and again is a fault; a gateway that is late once, on a busy machine, is told.
    for _ in range(3):
        written = await writes_for_nothing(serving, operator)
        if not written:
            break
    assert not written


async def writes_for_nothing(serving: World, operator: Operator) -> Counter[str]:
    """What the operator writes when it is woken by something that changes nothing, and how often."""
    # What came before comes to rest first.
    for _ in range(20):
        before = writes(operator)
        await asyncio.sleep(2)
        if writes(operator) == before:
            break
    before = writes(operator)
    for n in range(3):
        await serving.kubectl("annotate", "pod", *serving.pods, f"x={time.time()}-{n}", "--overwrite")
        await asyncio.sleep(0.5)
    return writes(operator) - before


def writes(operator: Operator) -> Counter[str]:
    """By resource and verb; but for the Lease, which is renewed all the time."""
    lines = operator.get("/metrics")[1].splitlines()
    told = (line.rpartition(" ") for line in lines if line.startswith("kubetune_api_writes_total{"))
    return Counter({what: int(float(count)) for what, _, count in told if '"leases' not in what})


async def test_an_engine_that_restarts_is_seen(serving: World):
    [pod] = serving.pods.values()
    await pod.engine.kill()
    status = await serving.until("s", lambda s: s["phase"] == "Degraded")
    assert (status["ready"], condition(status, "Available")["status"]) == ("0/1", "False")
    await pod.engine.start()
    await serving.until("s", lambda s: s["phase"] == "Ready")
    assert len(pod.engine.adapters) == 2


async def test_a_higher_rank_rolls_the_pods_and_says_why(serving: World):
    before = (await serving.get("deployment", "s"))["metadata"]["generation"]
    await serving.adapter_job("kind-v2", labels=KIND, rank=64)
    await asyncio.sleep(1)
    assert (await serving.get("deployment", "s"))["metadata"]["generation"] == before, "it may still fail"
    await serving.finish("kind-v2", 3, rank=64)
    status = await serving.until("s", lambda s: condition(s, "Progressing").get("reason") == "NewMaxLoraRank")
    args = (await serving.get("deployment", "s"))["spec"]["template"]["spec"]["initContainers"][1]["args"]
    assert "--max-lora-rank=64" in args
    # The old pod goes on with the old version.
    [pod] = serving.pods.values()
    assert (await serving.client(pod).complete("kind"))[0] == 200
    assert adapter(status, "explain")["ready"] == 1


async def test_scaling_and_a_claim_that_cannot_be_shared(serving: World):
    await serving.kubectl("scale", "adapterset", "s", "--replicas=2")
    await eventually(lambda: has_replicas(serving, 2))
    status = await serving.until("s", lambda s: s["ready"] == "1/2")
    assert status["selector"]

    await serving.claim("alone", "ReadWriteOnce")
    digest = await serving.finish_folder("mine", 5)
    mine = {"name": "mine", "source": {"uri": "pvc://alone/mine"}, "digest": digest}
    await edit(serving, replicas=2, adapters=[*SPEC["adapters"], mine])
    status = await serving.until("s", lambda s: condition(s, "Resolved").get("reason") == "ClaimNotShareable")
    assert "alone" in condition(status, "Resolved")["message"]
    await eventually(lambda: has_replicas(serving, 1))


async def has_replicas(world: World, number: int) -> bool:
    return (await world.get("deployment", "s"))["spec"]["replicas"] == number


async def test_a_name_that_something_else_has(world: World):
    await world.claim()
    await world.base_job()
    await world.finish_base()
    await world.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
    )
    await world.apply(custom("AdapterSet", "s", SPEC))
    status = await world.until("s", lambda s: condition(s, "Degraded").get("reason") == "CreationRefused")
    assert "Service s exists and belongs to something else" in condition(status, "Degraded")["message"]
    await world.kubectl("delete", "service", "s")
    await eventually(lambda: exists(world, "deployment", "s"))


async def test_children_that_somebody_edits_or_deletes_are_mended(serving: World):
    await serving.kubectl("delete", "service", "s")
    await eventually(lambda: exists(serving, "service", "s"))
    await serving.kubectl("scale", "deployment", "s", "--replicas=5")
    await eventually(lambda: has_replicas(serving, 1))
