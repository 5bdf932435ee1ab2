"""An engine that is busy is alive: requests wait, nothing is loaded anew, the pod stays in service."""

import asyncio
import json
import socket
import struct

import pytest

from tests.unit.gateway.conftest import Bench
from tests.unit.gateway.test_hot_load import served, until


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds as tenths."""
    monkeypatch.setattr("kubetune.gateway.watch._ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("kubetune.gateway.watch._SILENT_SECONDS", 0.6)


async def restarts(bench: Bench) -> str:
    text = await bench.client.metrics()
    return next(line for line in text.splitlines() if line.startswith("kubetune_gateway_engine_restarts"))


async def test_an_engine_that_answers_no_probe_but_streams_is_alive(bench: Bench, impatient: None):
    one = bench.adapter("one")
    await served(bench, one)
    await bench.client.until_ready()
    bench.engine.hang = True
    bench.engine.chunks, bench.engine.chunk_seconds = 20, 0.1
    stream = asyncio.create_task(bench.client.stream("one"))
    while not stream.done():
        assert await bench.client.ready()
        assert (await bench.client.state()).engine_ready
        await asyncio.sleep(0.05)
    assert len(await stream) == 20
    assert (await restarts(bench)).endswith(" 0.0")
    assert bench.engine.calls == [f"load {one.loaded_name}"]


async def test_requests_wait_for_a_slow_engine(bench: Bench, impatient: None):
    await served(bench, bench.adapter("one"))
    bench.engine.chunk_seconds = 1.5
    assert (await bench.client.complete("one"))[0] == 200


async def test_an_engine_that_is_silent_for_long_is_given_up_and_taken_back_as_it_is(
    bench: Bench, impatient: None
):
    one = bench.adapter("one")
    await served(bench, one)
    bench.engine.hang = True
    await bench.client.until(lambda s: not s.engine_ready)
    assert (await bench.client.complete("one"))[0] == 503
    bench.engine.fail_generation = True  # behind its load it would not generate our token for long
    bench.engine.hang = False
    await bench.client.until_loaded(one)
    assert bench.engine.calls == [f"load {one.loaded_name}"]


async def test_connections_that_break_are_not_its_death(bench: Bench):
    await served(bench, bench.adapter("one"))
    await bench.client.until_ready()
    bench.engine.drop = ["/health", "/v1/models"] * 10
    while bench.engine.drop:
        assert await bench.client.ready()
        await asyncio.sleep(0.01)
    assert (await restarts(bench)).endswith(" 0.0")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_connection_that_broke_before_an_answer_is_tried_again(bench: Bench, path: str):
    await served(bench, bench.adapter("one"))
    body = {"model": "one", "prompt": "x", "messages": []}
    for _ in range(3):
        bench.engine.drop = [path]
        async with bench.client.session.post(bench.client.api + path, json=body) as response:
            assert response.status == 200
        assert bench.engine.drop == []


async def test_it_is_not_tried_again_for_ever(bench: Bench):
    await served(bench, bench.adapter("one"))
    bench.engine.drop = ["/v1/completions"] * 10
    assert (await bench.client.complete("one"))[0] == 503
    assert len(bench.engine.drop) == 8


async def test_idle_connections_are_dropped_before_the_engine_drops_them(bench: Bench):
    """uvicorn closes them after 5 s."""
    from kubetune.gateway.engine import _KEPT_SECONDS

    await served(bench, bench.adapter("one"))
    await bench.client.complete("one")
    assert _KEPT_SECONDS < 5
    opened = len(bench.engine.connections)
    await asyncio.sleep(_KEPT_SECONDS + 0.5)
    await bench.client.complete("one")
    assert len(bench.engine.connections) > opened


async def test_a_client_that_resets_is_no_fault_of_ours(bench: Bench):
    """It resets in the moment when a piece of its answer arrives, so that the gateway meets it in writing."""
    await served(bench, bench.adapter("one"))
    bench.engine.chunks, bench.engine.chunk_seconds = 1000, 0.01
    body = json.dumps({"model": "one", "prompt": "x", "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    for _ in range(10):
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await loop.sock_connect(client, ("127.0.0.1", bench.options.port))
        await loop.sock_sendall(client, head + body)
        await loop.sock_recv(client, 1)
        bench.engine.after_chunk = client.close
        await until(lambda client=client: client.fileno() < 0)
    await until(lambda: bench.engine.aborted == 10)
    text = await bench.client.metrics()
    assert 'code="503"' not in text
    assert 'requests_total{code="499",endpoint="/v1/completions",model="one"} 10.0' in text
    assert (await restarts(bench)).endswith(" 0.0")
