"""The engine dies, hangs, restarts, fails; the gateway restarts before an engine that went on."""

import asyncio
import os
import signal
import sys

from kubetune.gateway.options import GatewayOptions
from tests.fixtures.gateway import GatewayClient
from tests.unit.gateway.conftest import Bench
from tests.unit.gateway.test_hot_load import cached, served, until


async def test_after_a_restart_everything_is_loaded_before_the_pod_is_ready(bench: Bench):
    adapters = [bench.adapter(f"a{n}") for n in range(3)]
    await served(bench, *adapters)
    await bench.client.until_ready()
    await bench.engine.kill()
    await bench.client.until(lambda s: not s.engine_ready)
    assert not await bench.client.ready()
    bench.engine.load_seconds = 0.3
    await bench.engine.start()
    await bench.client.until_ready()
    assert set(bench.engine.adapters) == {a.loaded_name for a in adapters}
    assert (await bench.client.complete("a0"))[0] == 200


async def test_a_restart_between_two_looks_is_noticed(bench: Bench):
    one = bench.adapter("one")
    await served(bench, one)
    await bench.client.until_ready()
    bench.engine.adapters.clear()
    await until(lambda: one.loaded_name in bench.engine.adapters)
    await bench.client.until_ready()
    assert "kubetune_gateway_engine_restarts 1.0" in await bench.client.metrics()


async def test_during_an_outage_requests_get_a_503_and_are_told_when_to_try_again(bench: Bench):
    await served(bench, bench.adapter("one"))
    await bench.engine.kill()
    body = {"model": "one", "prompt": "x"}
    for _ in range(2):  # the first may be what discovers it
        async with bench.client.session.post(f"{bench.client.api}/v1/completions", json=body) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["error"]["type"] == "service_unavailable"
    await bench.client.until(lambda s: not s.engine_ready)
    async with bench.client.session.get(f"{bench.client.api}/v1/models") as response:
        assert response.status == 503


async def test_a_request_to_an_engine_that_forgot_the_adapter_is_a_503_not_a_404(bench: Bench):
    one = bench.adapter("one")
    await served(bench, one)
    bench.engine.adapters.clear()
    status, _ = await bench.client.complete("one")
    assert status == 503
    async with asyncio.timeout(5):
        while (await bench.client.complete("one"))[0] != 200:
            await asyncio.sleep(0.01)


async def test_an_engine_that_dies_in_the_midst_of_a_stream_ends_it_with_an_error(bench: Bench):
    await served(bench, bench.adapter("one"))
    bench.engine.chunks, bench.engine.chunk_seconds = 100, 0.05
    body = {"model": "one", "prompt": "x", "stream": True}
    async with bench.client.session.post(f"{bench.client.api}/v1/completions", json=body) as response:
        await response.content.readline()
        await bench.engine.kill()
        rest = await response.content.read()
    assert b'"error"' in rest
    assert b"[DONE]" not in rest


async def test_an_engine_that_cannot_generate_is_not_ready(bench: Bench):
    bench.engine.fail_generation = True
    bench.mount.write()
    state = await bench.client.until(lambda s: "cannot generate" in (s.message or ""))
    assert not state.engine_ready
    bench.engine.fail_generation = False
    await bench.client.until_ready()


async def test_an_engine_with_another_base_is_not_ready(bench: Bench):
    bench.engine.base = "other"
    bench.mount.write()
    await bench.client.until(lambda s: "does not serve base, but other" in (s.message or ""))
    assert not await bench.client.ready()


async def test_without_a_table_nothing_is_ready(bench: Bench):
    await asyncio.sleep(0.3)
    assert not await bench.client.ready()
    assert (await bench.client.complete("base"))[0] == 503
    bench.mount.write()
    await bench.client.until_ready()


async def test_what_answered_before_answers_again_while_the_desired_version_cannot(bench: Bench):
    good, bad = bench.adapter("a", 1), bench.adapter("a", 2, features=64)
    await served(bench, good)
    bench.mount.write(bad)
    await bench.client.until_adapter("a", lambda a: a.phase == "Failed")
    await bench.engine.restart()
    state = await bench.client.until_adapter("a", lambda a: a.serving == good.digest and a.phase == "Failed")
    assert state.reason == "BaseModelMismatch"
    await bench.client.until_ready()


async def test_copies_are_made_while_the_engine_starts(bench: Bench):
    await bench.engine.kill()
    good, bad = bench.adapter("good"), bench.adapter("bad", features=64)
    bench.mount.write(bad, good)
    await bench.client.until_adapter("bad", lambda a: a.reason == "BaseModelMismatch")
    await until(lambda: cached(bench) == {good.loaded_name})
    await bench.engine.start()
    await bench.client.until_loaded(good)


async def test_a_new_gateway_takes_over_what_the_engine_has_and_removes_the_rest(bench: Bench):
    kept, gone = bench.adapter("kept"), bench.adapter("gone")
    await served(bench, kept, gone)
    await bench.stop()
    (bench.folder / "cache" / ".copying-abc").mkdir()
    bench.mount.write(kept)
    bench.engine.calls.clear()
    await bench.restart()
    await bench.client.until_ready()
    await until(lambda: set(bench.engine.adapters) == {kept.loaded_name})
    await until(lambda: cached(bench) == {kept.loaded_name})
    assert bench.engine.calls == [f"unload {gone.loaded_name}"]


async def test_sigterm_drains_and_ends_with_zero(bench: Bench):
    """In a process of its own, as in a pod."""
    await bench.stop()
    one = bench.adapter("one")
    bench.mount.write(one)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kubetune.gateway", *flags(bench.options), stderr=asyncio.subprocess.PIPE
    )
    try:
        await bench.listening()
        await bench.client.until_ready()
        bench.engine.chunk_seconds = 0.3
        long = asyncio.create_task(bench.client.stream("one"))
        await asyncio.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not await bench.client.ready()
        assert await accepts(bench.client)
        assert len(await long) == 3
        _, log = await asyncio.wait_for(process.communicate(), 5)
        assert process.returncode == 0, log.decode()
    finally:
        if process.returncode is None:
            process.kill()


async def accepts(client: GatewayClient) -> bool:
    """Other nodes send requests for a moment longer."""
    return (await client.complete("base"))[0] == 200


def flags(options: GatewayOptions) -> list[str]:
    return [
        item
        for name, value in options.__dict__.items()
        if value is not None
        for item in (f"--{name.replace('_', '-')}", str(value))
    ]
