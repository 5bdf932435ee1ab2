"""What the client asks for, and what it makes of answers that a healthy API server does not give."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client as kubernetes_client

from kubetune.controller.client import PATHS, Client
from kubetune.controller.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    NotFound,
    NotLeader,
    Refused,
    Unavailable,
    error_of,
)
from kubetune.controller.fence import Fence

OBJECT = {"kind": "ConfigMap", "metadata": {"namespace": "n", "name": "x", "uid": "u"}}


class Bench:
    """A server that answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.text = 200, "{}"
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        text = await request.text()
        path = request.raw_path.partition("?")[0]
        self.asked.append((request.method, path, dict(request.query), json.loads(text) if text else None))
        return web.Response(status=self.status, text=self.text)

    def refuse(self, status: int, reason: str = "", message: str = "why") -> None:
        self.status, self.text = status, json.dumps({"reason": reason, "message": message})


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def api(bench: Bench) -> AsyncIterator[kubernetes_client.ApiClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", bench.answer)
    async with TestServer(app) as server:
        configuration = kubernetes_client.Configuration(host=str(server.make_url("")).rstrip("/"))
        api = kubernetes_client.ApiClient(configuration)
        yield api
        await api.close()


@pytest.fixture
def client(api: kubernetes_client.ApiClient) -> Client:
    return Client(api)


@pytest.mark.parametrize(
    ("code", "reason", "message", "expected"),
    [
        (404, "NotFound", "", NotFound),
        (409, "AlreadyExists", "", AlreadyExists),
        (409, "Conflict", "", Conflict),
        (400, "BadRequest", "", Refused),
        (401, "Unauthorized", "", Refused),
        (403, "Forbidden", "exceeded quota", Refused),
        (413, "", "", Refused),
        (422, "Invalid", "", Refused),
        (500, "InternalError", ".spec.x: field not declared in schema", Refused),
        (429, "TooManyRequests", "", Unavailable),
        (500, "InternalError", "failed calling webhook", Unavailable),
        (503, "", "", Unavailable),
        (504, "Timeout", "", Unavailable),
    ],
)
async def test_an_answer_is_the_error_that_it_means(
    bench: Bench, client: Client, code: int, reason: str, message: str, expected: type[ApiError]
):
    bench.refuse(code, reason, message)
    with pytest.raises(ApiError) as caught:
        await client.create(OBJECT)
    assert type(caught.value) is expected is type(error_of(code, reason, message))
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("text", ["<html>bad gateway</html>", "[]", ""])
async def test_an_answer_that_is_no_status_is_quoted(bench: Bench, client: Client, text: str):
    bench.status, bench.text = 502, text
    with pytest.raises(Unavailable) as caught:
        await client.get("Pod", "n", "x")
    assert caught.value.message == text


async def test_success_that_is_no_json_is_no_success(bench: Bench, client: Client):
    bench.text = "<html>login</html>"
    with pytest.raises(Unavailable):
        await client.get("Pod", "n", "x")


async def test_nobody_there():
    client = Client(kubernetes_client.ApiClient(kubernetes_client.Configuration(host="http://127.0.0.1:9")))
    with pytest.raises(Unavailable, match="GET /api/v1/namespaces/n/pods/x"):
        await client.get("Pod", "n", "x")
    await client.close()


async def test_absence_is_an_answer(bench: Bench, client: Client):
    bench.refuse(404)
    assert await client.find("Pod", "n", "x") is None
    await client.delete(OBJECT)


async def test_a_name_that_somebody_wrote_leads_nowhere_else(bench: Bench, client: Client):
    await client.get("Job", "n", "../../../secrets/x?y")
    assert bench.asked[0][1] == "/apis/batch/v1/namespaces/n/jobs/..%2F..%2F..%2Fsecrets%2Fx%3Fy"


async def test_selectors(bench: Bench, client: Client):
    bench.text = '{"items": []}'
    assert await client.list("Event", "n", {"a": "b", "c": "d"}, {"involvedObject.uid": "u"}) == []
    _, path, query, _ = bench.asked[0]
    assert path == "/api/v1/namespaces/n/events"
    assert query == {"labelSelector": "a=b,c=d", "fieldSelector": "involvedObject.uid=u"}
    await client.list("PretrainJob")
    assert bench.asked[1][1:3] == ("/apis/kubetune.io/v1alpha1/pretrainjobs", {})


async def test_writes_are_strict_and_signed(bench: Bench, client: Client):
    await client.create(OBJECT)
    await client.apply(OBJECT)
    assert [query["fieldManager"] for _, _, query, _ in bench.asked] == ["kubetune", "kubetune"]
    assert [query["fieldValidation"] for _, _, query, _ in bench.asked] == ["Strict", "Strict"]


async def test_a_status_is_of_exactly_this_version_of_an_object(bench: Bench, client: Client):
    meta = {"namespace": "n", "name": "x", "uid": "u", "resourceVersion": "7", "labels": {}}
    resource = {"apiVersion": "kubetune.io/v1alpha1", "kind": "PretrainJob", "metadata": meta}
    await client.apply_status(resource, {"phase": "Running"})
    await client.apply_status(resource, {}, "kubetune-progress")
    (_, path, ours, first), (_, _, theirs, second) = bench.asked
    assert path == "/apis/kubetune.io/v1alpha1/namespaces/n/pretrainjobs/x/status"
    assert (ours["fieldManager"], theirs["fieldManager"]) == ("kubetune", "kubetune-progress")
    same = {"namespace": "n", "name": "x", "uid": "u", "resourceVersion": "7"}
    assert first["metadata"] == second["metadata"] == same


async def test_a_deletion_is_of_exactly_this_object(bench: Bench, client: Client):
    await client.delete(OBJECT)
    [(method, _, _, body)] = bench.asked
    assert method == "DELETE"
    assert body["preconditions"] == {"uid": "u"}


WRITES = {
    "create": lambda client: client.create(OBJECT),
    "replace": lambda client: client.replace(OBJECT),
    "apply": lambda client: client.apply(OBJECT),
    "annotate": lambda client: client.annotate("ConfigMap", OBJECT, {"a": "b"}),
    "delete": lambda client: client.delete(OBJECT),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_only_a_leader_writes(bench: Bench, api: kubernetes_client.ApiClient, write: Any):
    times = iter([100.0])
    fence = Fence(lambda: next(times))
    client = Client(api, fence)
    with pytest.raises(NotLeader):
        await write(client)
    # Also when it ceases to lead while a connection is being made, or in the moment before the bytes go out.
    fence.open_until(110.0)
    for ages in ([100.0, 110.0], [100.0, 109.0, *[110.0] * 3]):
        times = iter(ages)
        with pytest.raises((NotLeader, Unavailable)):
            await write(client)
    assert bench.asked == []

    times = iter([100.0, 109.0, 109.9])
    await write(client)
    assert len(bench.asked) == 1


async def test_everybody_reads(bench: Bench, api: kubernetes_client.ApiClient):
    await Client(api, Fence()).get("Pod", "n", "x")
    assert len(bench.asked) == 1


async def test_a_replacement_is_of_what_was_read(bench: Bench, client: Client):
    await client.replace(OBJECT)
    [(method, path, query, body)] = bench.asked
    assert (method, path, body) == ("PUT", "/api/v1/namespaces/n/configmaps/x", OBJECT)
    assert query == {"fieldManager": "kubetune", "fieldValidation": "Strict"}


def test_every_kind_has_a_path():
    assert all(path.url("n", "x").startswith(("/api/", "/apis/")) for path in PATHS.values())
