"""The gateway before the real engine is killed, the pod is stopped; tests/e2e kills the engine."""

import asyncio
import signal
import time

import pytest

from tests.engine.conftest import PROMPT, Pod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_a_gateway_that_was_killed_takes_over_what_the_engine_has(
    pod: Pod, oracle: dict[str, list[int]]
):
    one, two = pod.adapter("one", "one-v1"), pod.adapter("two", "two")
    await pod.serve(one, two)
    pod.stop(signal.SIGKILL)
    loads = pod.engine.log.read_text().count("Loaded new LoRA adapter")
    pod.mount.write(one)
    begun = time.monotonic()
    await pod.start()
    await pod.client.until_ready()
    print(f"\nfigure: start of a gateway process to ready: {time.monotonic() - begun:.2f} s")
    assert await pod.answer("one") == oracle["one-v1"]
    async with asyncio.timeout(10):
        while pod.engine.models() != ["base", one.loaded_name]:
            await asyncio.sleep(0.05)
    assert pod.engine.log.read_text().count("Loaded new LoRA adapter") == loads


async def test_sigterm_lets_requests_finish(pod: Pod):
    await pod.serve(pod.adapter("one", "one-v1"))
    streams = [
        asyncio.create_task(pod.client.stream("one", PROMPT, max_tokens=200, ignore_eos=True))
        for _ in range(4)
    ]
    await asyncio.sleep(0.2)
    assert not any(s.done() for s in streams)
    code = await asyncio.to_thread(pod.stop, signal.SIGTERM)
    assert code == 0
    for stream in streams:
        events = await stream
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    # The next test finds an engine without adapters.
    await pod.start()
