"""The proxy does to requests what it says: else the other tests of this folder would prove nothing."""

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.fixtures.chaos import ChaosPlane
from tests.fixtures.proxy import Call, Fault, Proxy, describe
from tests.fixtures.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

EVENTS_SECONDS = 2.0


@dataclass
class Scripted:
    """One fault for all requests of a kind."""

    kind: str = ""
    fault: Fault | None = None
    calls: list[Call] = field(default_factory=list)

    def judge(self, call: Call) -> Fault | None:
        self.calls.append(call)
        return self.fault if call.kind == self.kind else None


@dataclass
class Client:
    """Asks through the proxy, with the operator's token."""

    world: World
    proxy: Proxy
    faults: Scripted
    session: aiohttp.ClientSession
    killed: list[bool]

    def path(self, plural: str, name: str = "") -> str:
        return f"https://127.0.0.1:{self.proxy.port}{self.world.path(plural, name)}"

    async def create(self, name: str) -> int:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        async with self.session.post(self.path("configmaps"), json=body) as answer:
            return answer.status

    def exists(self, name: str) -> bool:
        return self.world.api.get(self.world.path("configmaps", name)) is not None

    async def watch(self) -> list[str]:
        """Types of the events of a watch of all Services, within a while; `end` if it ended."""
        seen: list[str] = []
        url = f"https://127.0.0.1:{self.proxy.port}/api/v1/services?watch=true"
        try:
            async with asyncio.timeout(EVENTS_SECONDS), self.session.get(url) as answer:
                if answer.status != 200:
                    return [str(answer.status)]
                async for line in answer.content:
                    seen.append(json.loads(line)["type"])
            seen.append("end")
        except TimeoutError:
            pass
        except aiohttp.ClientError:
            seen.append("broken")
        return seen


@pytest.fixture
async def client(chaos_plane: ChaosPlane) -> AsyncIterator[Client]:
    world = World(chaos_plane.plane.api, None, chaos_plane.plane.node, chaos_plane.plane.audit_log)
    world = world.new_namespace()
    for name in ("one", "two"):
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": 1}]},
        }
        world.create(world.path("services"), body)
    faults, killed = Scripted(), []
    proxy = Proxy(
        chaos_plane.upstream, world.namespace, chaos_plane.pair, faults, lambda: killed.append(True)
    )
    chaos_plane.loop.call(proxy.start())
    token = json.loads(chaos_plane.plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    trust = ssl.create_default_context(cafile=str(chaos_plane.authority))
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(ssl=trust)
    ) as session:
        yield Client(world, proxy, faults, session, killed)
    chaos_plane.loop.call(proxy.stop())


async def test_without_a_fault_it_passes_all_on(client: Client):
    assert await client.create("x") == 201
    assert client.exists("x")
    # Refusals of the API server, too.
    async with client.session.get(client.path("configmaps/nothing")) as answer:
        assert answer.status == 404
    # Only of this namespace, though all Services were asked for.
    assert await client.watch() == ["ADDED", "ADDED"]


@pytest.mark.parametrize("code", [409, 429, 500, 503, 504])
@pytest.mark.parametrize("after", [False, True])
async def test_it_refuses(client: Client, code: int, after: bool):
    client.faults.kind, client.faults.fault = "write", Fault("refuse", code=code, after=after)
    assert await client.create("x") == code
    assert client.exists("x") == after


@pytest.mark.parametrize("what", ["drop", "kill"])
@pytest.mark.parametrize("after", [False, True])
async def test_it_cuts_connections(client: Client, what: str, after: bool):
    client.faults.kind, client.faults.fault = "write", Fault(what, after=after)
    with pytest.raises(aiohttp.ClientError):
        await client.create("x")
    assert client.exists("x") == after
    assert client.killed == ([True] if what == "kill" else [])


async def test_what_comes_late_happens_although_nobody_waits_for_it(client: Client):
    client.faults.kind, client.faults.fault = "write", Fault("late", seconds=1.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.create("x")
    assert not client.exists("x")
    await asyncio.sleep(1.5)
    assert client.exists("x")


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (Fault("gone"), ["410"]),
        (Fault("refuse", code=503), ["503"]),
        (Fault("expire", lines=1), ["ADDED", "ERROR", "end"]),
        (Fault("drop", lines=1), ["ADDED", "broken"]),
        (Fault("freeze", lines=1), ["ADDED"]),
        (Fault("twice"), ["ADDED"] * 4),
    ],
    ids=lambda value: value.what if isinstance(value, Fault) else "",
)
async def test_what_becomes_of_a_watch(client: Client, fault: Fault, seen: list[str]):
    client.faults.kind, client.faults.fault = "watch", fault
    assert await client.watch() == seen


async def test_watches_are_cut_and_none_begins(client: Client, chaos_plane: ChaosPlane):
    watching = asyncio.create_task(client.watch())
    await asyncio.sleep(0.5)
    await asyncio.to_thread(chaos_plane.loop.call, client.proxy.blind(True))
    assert await watching == ["ADDED", "ADDED", "broken"]
    assert await client.watch() == ["503"]
    await asyncio.to_thread(chaos_plane.loop.call, client.proxy.blind(False))
    assert await client.watch() == ["ADDED", "ADDED"]


def test_a_request_has_the_same_name_in_every_run():
    labels = {"kubetune.io/name": "tiny"}
    job = json.dumps({"metadata": {"name": f"tiny-{uuid.uuid4()}", "labels": labels}}).encode()
    namespaced = "/apis/batch/v1/namespaces/x/jobs"
    assert describe("POST", namespaced, {}, job) == "POST jobs of tiny"
    status = "/apis/kubetune.io/v1alpha1/namespaces/x/pretrainjobs/tiny/status"
    assert describe("PATCH", status, {}, b"{}") == "PATCH pretrainjobs/status tiny"
    assert (
        describe("PATCH", status, {"fieldManager": ["other"]}, b"")
        == "PATCH pretrainjobs/status tiny by other"
    )
    event = json.dumps({"metadata": {}, "reason": "Started", "involvedObject": {"name": "tiny"}}).encode()
    assert describe("POST", "/api/v1/namespaces/x/events", {}, event) == "POST Started of tiny"
