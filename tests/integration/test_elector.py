"""Leader election against a real API server: one leads, and another only when it is safe."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from kubetune.controller.client import Client
from kubetune.controller.elector import Elector, LeadershipLost
from kubetune.controller.errors import NotLeader, Refused
from kubetune.controller.fence import Fence
from kubetune.controller.lease import LEASE, Timing, micro_time
from kubetune.controller.reconciler import utc_now
from kubetune.progress import identity
from tests.fixtures.cluster import Cluster

pytestmark = pytest.mark.integration

TIMING = Timing(lease_seconds=2)
Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect(api_server: Cluster) -> AsyncIterator[Connect]:
    async with contextlib.AsyncExitStack() as stack:

        async def one(fence: Fence | None = None) -> Client:
            configuration = kubernetes_client.Configuration()
            await kubernetes_config.load_kube_config(
                config_file=str(api_server.kubeconfig), client_configuration=configuration
            )
            client = Client(kubernetes_client.ApiClient(configuration), fence)
            stack.push_async_callback(client.close)
            return client

        yield one


class Candidate:
    """An elector and what it opens."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self.fence = Fence()
        self.client = client
        self.elector = Elector(client, namespace, name, self.fence, TIMING)
        self.holding: asyncio.Task[None] | None = None

    async def lead(self) -> None:
        await self.elector.acquire()
        self.holding = asyncio.create_task(self.elector.hold())

    async def die(self) -> None:
        assert self.holding
        self.holding.cancel()
        await asyncio.wait({self.holding})


@pytest.fixture
async def candidates(connect: Connect, namespace: str) -> AsyncIterator[list[Candidate]]:
    made = [Candidate(await connect(), namespace, name) for name in ("a", "b")]
    yield made
    for each in made:
        if each.holding:
            each.holding.cancel()
            await asyncio.wait({each.holding})


async def lease(client: Client, namespace: str) -> dict[str, Any]:
    return (await client.get("Lease", namespace, LEASE))["spec"]


async def test_one_leads_and_goes_on_leading(candidates: list[Candidate], namespace: str):
    trying = [asyncio.create_task(each.lead()) for each in candidates]
    await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5 * TIMING.lease_seconds:
        assert sum(each.elector.leads for each in candidates) == 1
        await asyncio.sleep(0.05)
    [leader] = [each for each in candidates if each.elector.leads]
    says = await lease(leader.client, namespace)
    assert (says["holderIdentity"], says["leaseTransitions"]) == (leader.elector.identity, 0)
    assert all(each.elector.silent_seconds() < TIMING.lease_seconds for each in candidates)
    for task in trying:
        task.cancel()


async def test_one_that_dies_is_followed_once_its_lease_is_over(candidates: list[Candidate], namespace: str):
    first, second = candidates
    await first.lead()
    waiting = asyncio.create_task(second.lead())
    await asyncio.sleep(1)
    await first.die()
    died = time.monotonic()
    await asyncio.wait_for(waiting, 2 * TIMING.lease_seconds)
    took = time.monotonic() - died
    assert TIMING.lease_seconds - TIMING.retry_period < took < TIMING.lease_seconds + 2 * TIMING.retry_period
    # Long before, the first has ceased to write, whatever it believes.
    assert not first.elector.leads
    assert (await lease(second.client, namespace))["leaseTransitions"] == 1


async def test_one_that_resigns_is_followed_at_once(candidates: list[Candidate], namespace: str):
    first, second = candidates
    await first.lead()
    waiting = asyncio.create_task(second.lead())
    await asyncio.sleep(0.5)
    await first.elector.resign()
    assert "holderIdentity" not in {k: v for k, v in (await lease(first.client, namespace)).items() if v}
    await asyncio.wait_for(waiting, 2 * TIMING.retry_period)
    assert first.holding
    await asyncio.wait_for(first.holding, TIMING.lease_seconds)
    with pytest.raises(NotLeader), first.fence.passing():
        pass


async def test_the_lease_is_kept_while_a_write_is_under_way(candidates: list[Candidate], namespace: str):
    [first, _] = candidates
    await first.lead()
    with first.fence.passing():
        await first.elector.resign()
        assert (await lease(first.client, namespace))["holderIdentity"] == "a"


async def test_one_that_stands_by_has_nothing_to_give_back(candidates: list[Candidate], namespace: str):
    first, second = candidates
    await first.lead()
    waiting = asyncio.create_task(second.lead())
    await asyncio.sleep(0.5)
    await second.elector.resign()
    assert (await lease(first.client, namespace))["holderIdentity"] == "a"
    waiting.cancel()


async def test_one_that_resigns_while_it_takes_the_lease_gives_it_back(
    candidates: list[Candidate], namespace: str, monkeypatch: pytest.MonkeyPatch
):
    first, second = candidates
    create, resigning = first.client.create, []

    async def slow(body: dict[str, Any]) -> dict[str, Any]:
        resigning.append(asyncio.create_task(first.elector.resign()))
        await asyncio.sleep(0.1)
        return await create(body)

    monkeypatch.setattr(first.client, "create", slow)
    waiting = asyncio.create_task(first.lead())
    await asyncio.sleep(0.5)
    await resigning[0]
    await asyncio.wait_for(second.lead(), 1)
    assert not first.elector.leads
    waiting.cancel()


async def test_one_whose_lease_is_anothers_steps_down(candidates: list[Candidate], namespace: str):
    first, _ = candidates
    await first.lead()
    found = await first.client.get("Lease", namespace, LEASE)
    found["spec"]["holderIdentity"] = "usurper"
    await first.client.replace(found)
    assert first.holding
    with pytest.raises(LeadershipLost, match="usurper leads"):
        await asyncio.wait_for(first.holding, 2 * TIMING.lease_seconds)
    assert not first.elector.leads


async def test_a_lease_that_is_edited_or_deleted_is_mended_by_its_holder(
    candidates: list[Candidate], namespace: str, api_server: Cluster
):
    first, second = candidates
    await first.lead()
    waiting = asyncio.create_task(second.lead())
    await asyncio.sleep(0.5)
    where = [f"--namespace={namespace}", "lease", LEASE]
    assert api_server.kubectl("annotate", *where, "note=x").returncode == 0
    await asyncio.sleep(2 * TIMING.retry_period)
    assert api_server.kubectl("delete", *where).returncode == 0
    await asyncio.sleep(TIMING.lease_seconds)
    assert (first.elector.leads, second.elector.leads) == (True, False)
    assert (await lease(first.client, namespace))["holderIdentity"] == "a"
    waiting.cancel()


async def test_without_an_answer_it_steps_down_before_others_may_take_over(
    candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch
):
    first, _ = candidates
    await first.lead()
    renewed = time.monotonic()

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(first.client, "_call", never)
    assert first.holding
    with pytest.raises(LeadershipLost, match="not renewed"):
        await asyncio.wait_for(first.holding, TIMING.lease_seconds)
    assert time.monotonic() - renewed < TIMING.renew_deadline + 0.3


async def test_the_times_in_it_are_taken_and_a_time_without_a_fraction_is_not(
    connect: Connect, namespace: str
):
    client = await connect()
    meta = {"name": "times", "namespace": namespace}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta}
    with pytest.raises(Refused, match="parsing time"):
        await client.create({**body, "spec": {"renewTime": "2026-01-01T00:00:00Z"}})
    whole = utc_now().replace(microsecond=0)
    made = await client.create({**body, "spec": {"renewTime": micro_time(whole)}})
    assert made["spec"]["renewTime"] == micro_time(whole)


@pytest.mark.parametrize("names", [["127.0.0.1"], ["127.0.0.1", "other"]], ids=["made", "renewed"])
async def test_replicas_that_start_at_once_agree_on_one_certificate(
    connect: Connect, namespace: str, names: list[str]
):
    clients = [await connect() for _ in range(5)]
    if names != ["127.0.0.1"]:
        await identity.ensure(clients[0], namespace, ["127.0.0.1"])
    agreed = await asyncio.gather(*(identity.ensure(client, namespace, names) for client in clients))
    assert all(each == agreed[0] for each in agreed)
    assert await identity.ensure(clients[0], namespace, names) == agreed[0]


async def test_a_secret_that_is_lost_comes_back_under_the_same_authority(
    connect: Connect, namespace: str, api_server: Cluster
):
    client = await connect()
    first = await identity.ensure(client, namespace, ["127.0.0.1"])
    where = [f"--namespace={namespace}", "secret", identity.SECRET]
    assert api_server.kubectl("delete", *where).returncode == 0
    again = await identity.ensure(client, namespace, ["127.0.0.1"], first)
    assert again.authority == first.authority
    patch = ["--type=merge", '--patch={"data": {"certificate": "AAAA"}}']
    assert api_server.kubectl("patch", *where, *patch).returncode == 0
    mended = await identity.ensure(client, namespace, ["127.0.0.1"], again)
    assert mended.authority == first.authority
